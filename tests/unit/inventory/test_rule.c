#include "base/file.h"
#include "inventory/rule.h"
#include "tap.h"

static const struct {
    const struct rule *table;
    const char *name, *text;
    bool fits;
} cases[] = {
    {server_columns, "name", "web01", true},
    {server_columns, "name", "web01.example.com", true},
    {server_columns, "name", "", false},
    {server_columns, "name", "-web", false},
    {server_columns, "name", "web 01", false},
    {server_columns, "name", "web/01", false},
    {server_columns, "name", "a2345678901234567890123456789012345678901234567890123", true},
    {server_columns, "name", "a23456789012345678901234567890123456789012345678901234", false},
    {server_columns, "address", "192.0.2.7", true},
    {server_columns, "address", "2001:db8::7", true},
    {server_columns, "address", "db01.example.com", true},
    {server_columns, "address", "192.0.2.256", false},
    {server_columns, "address", "192.0.2", false},
    {server_columns, "address", "192.0.2.7/24", false},
    {server_columns, "address", "db..example", false},
    {server_columns, "address", "db01;reboot", false},
    {server_columns, "port", "22", true},
    {server_columns, "port", "0", false},
    {server_columns, "port", "65536", false},
    {server_columns, "port", "22x", false},
    {server_columns, "port", "99999999999999999999", false},
    {server_columns, "owner", "Anna M\xc3\xbcller", true},
    {server_columns, "owner", "Anna\nM", false},
    {server_attributes, "parking_address", "192.0.2.7/24", true},
    {server_attributes, "parking_address", "2001:db8::7/64", true},
    {server_attributes, "parking_address", "192.0.2.7", false},
    {server_attributes, "parking_address", "192.0.2.7/33", false},
    {server_attributes, "parking_address", "192.0.2.7/x", false},
    {server_attributes, "parking_address", "192.0.2.7/-1", false},
    {server_attributes, "before_freeze", "/opt/shop/freeze", true},
    {server_attributes, "before_freeze", "freeze", false},
    {server_attributes, "after_thaw", "/opt/", false},
    {server_attributes, "door", "auto", true},
    {server_attributes, "door", "open", false},
    {server_attributes, "services", "nginx.service, postgresql@15-main", true},
    {server_attributes, "services", "nginx; rm -rf", false},
    {server_attributes, "services", "a,,b", false},
    {server_attributes, "checks", "http://192.0.2.7:80/ contains Hello", true},
    {server_attributes, "checks", "http://192.0.2.7:80/ contains Hello; command systemctl is-active nginx", true},
    {server_attributes, "checks", "http://192.0.2.7:80/", false},
    {server_attributes, "checks", "ping 192.0.2.7", false},
    {server_attributes, "checks", "command ", false},
    {server_attributes, "jump", "hop@192.0.2.1:2222", true},
    {server_attributes, "jump", "hop@gate.example.com", true},
    {server_attributes, "jump", "192.0.2.1", false},
    {server_attributes, "jump", "-oProxyCommand=x@host", false},
    {server_attributes, "jump", "hop@host:0", false},
    {server_attributes, "after", "db01, web-02", true},
    {server_attributes, "after", "db01,", false},
    {server_attributes, "after", "db01 web02", false},
    {server_attributes, "cpu", "4", true},
    {server_attributes, "cpu", "-4", false},
    {server_attributes, "cpu", "4.5", false},
    {server_attributes, "jump_host_key", "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", true},
    {server_attributes, "jump_host_key", "SHA256:short", false},
    {server_attributes, "bandwidth", "100Mbit/s; mon-fri 08:00-18:00 20Mbit/s; sun pause", true},
    {server_attributes, "bandwidth", "100Mbit/s; 08:00 20Mbit/s", false},
    {server_attributes, "retention", "10m all, 1h 1m, 1d 1h, 3d 1d", true},
    {server_attributes, "retention", "1h 1m, 10m all", false},
    {server_attributes, "read_rate", "200MB/s", true},
    {server_attributes, "read_rate", "200", false},
    {server_attributes, "cpu_percent", "150", true},
    {server_attributes, "cpu_percent", "0", false},
    {server_attributes, "point_interval_s", "5", true},
    {server_attributes, "point_interval_s", "0", false},
    {server_attributes, "copy_to", "any", true},
    {server_attributes, "copy_to", "staging 2", false},
    {wave_settings, "copy_to", "staging2", true},
    {server_attributes, "rescan_freeze_s", "900", true},
    {wave_settings, "rescan_freeze_s", "14401", false},
    {replication_settings, "rescan_points_s", "86400", true},
    {server_attributes, "copy_rate", "50MB/s", true},
    {server_attributes, "copy_rate", "fast", false},
    {server_attributes, "group_points", "application", true},
    {server_attributes, "group_points", "Shop", false},
    {server_attributes, "time_zone", "Europe/Berlin", true},
    {server_attributes, "time_zone", "Europe/Atlantis", false},
    {wave_settings, "shared_bandwidth", "1Gbit/s; daily 2MB/s", false},
    {wave_settings, "shared_bandwidth", "1Gbit/s", true},
    {wave_settings, "host_keys", "accept-first", true},
    {wave_settings, "host_keys", "yes", false},
    {wave_settings, "hold_s", "0", true},
};

/* The page for people names every column and attribute. */
static void page_knows_all(const char *path)
{
    CLEANUP(buf_release) struct buf page;

    buf_init(&page, 0);
    ok(path && file_read(path, 1 << 20, &page, NULL) == 0, "the page %s", path ? path : "");
    for (int table = 0; page.data && table < 2; table++)
        for (const struct rule *r = table ? server_attributes : server_columns; r->name; r++) {
            CLEANUP(free_ptr) char *row = xasprintf("| `%s` |", !table && strcmp(r->name, "name") == 0 ? "server" : r->name);

            ok(strstr(page.data, row) != NULL, "has %s", r->name);
        }
}

int main(int argc, char **argv)
{
    char reason[RULE_REASON_SIZE] = "";
    json_t *out = NULL, *number = json_integer(8), *text = json_string("8"), *wrong = json_true(), *nought = json_integer(0);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct rule *r = rule_find(cases[i].table, cases[i].name);
        bool fits = r && rule_check(r, cases[i].text, reason);

        ok(fits == cases[i].fits, "%s \"%.*s\" %s", cases[i].name, (int)strcspn(cases[i].text, "\n"), cases[i].text, cases[i].fits ? "fits" : reason);
    }
    is_int(rule_take(rule_find(server_attributes, "cpu"), number, &out, reason), 0, "a number from JSON");
    ok(json_is_integer(out), "stays a number");
    json_decref(out);
    is_int(rule_take(rule_find(server_attributes, "cpu"), text, &out, reason), 0, "and from a text");
    ok(json_is_integer(out) && json_integer_value(out) == 8, "becomes one");
    json_decref(out);
    is_int(rule_take(rule_find(server_attributes, "bandwidth"), number, &out, reason), -1, "8 is no rate: %s", reason);
    is_int(rule_take(rule_find(server_attributes, "bandwidth"), nought, &out, reason), 0, "but 0 is");
    ok(json_is_string(out), "and becomes a text");
    json_decref(out);
    for (const struct rule *r = replication_settings; r->name; r++)
        ok((!r->otherwise || rule_check(r, r->otherwise, reason)) && rule_find(wave_settings, r->name) &&
               !rule_find(server_attributes, r->name) == !strcmp(r->name, "shared_bandwidth"),
           "%s is a setting of the factory, of waves, and, but for what is shared, of servers", r->name);
    is_int(rule_take(rule_find(server_attributes, "cpu"), wrong, &out, reason), -1, "true %s", reason);
    is_int(rule_take(rule_find(server_attributes, "services"), number, &out, reason), -1, "a number for a text %s", reason);
    ok(!rule_find(server_attributes, "color"), "what isn't in the table isn't known");
    page_knows_all(argc > 1 ? argv[1] : NULL);
    json_decref(number);
    json_decref(text);
    json_decref(wrong);
    json_decref(nought);
    return tap_done();
}
