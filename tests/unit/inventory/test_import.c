#include "fleet.h"
#include "inventory/csv.h"

#include <time.h>

static json_t *import_with(const char *csv, size_t size, struct inventory_import_options options)
{
    struct store_tx *tx = fleet_begin(STORE_WRITE);
    json_t *out = NULL;
    struct err e = {0};

    if (inventory_import(tx, csv, size, &options, &fleet_by, &out, &e) < 0) {
        printf("# %s\n", e.message);
        store_rollback(&tx);
        return NULL;
    }
    MUST(store_commit(&tx, NULL) == 0);
    return out;
}

static json_t *import(const char *csv, bool dry_run, bool create_waves)
{
    return import_with(csv, strlen(csv), (struct inventory_import_options){dry_run, create_waves});
}

/* "2 server …" of the n-th fault. */
static void fault_is(const char *csv, const char *wanted, const char *what)
{
    CLEANUP(json_free) json_t *out = import(csv, false, false);
    CLEANUP(free_ptr) char *got = NULL;
    const json_t *fault = json_array_get(json_object_get(out, "faults"), 0);
    int64_t before = event_count();

    got = xasprintf("%lld %s: %s", (long long)json_get_int(fault, "line", 0), json_get_string(fault, "column", "-"),
                    json_get_string(fault, "reason", "no fault"));
    ok(strncmp(got, wanted, strlen(wanted)) == 0, "%s", what);
    printf("# %.200s\n", got);
    ok(json_is_false(json_object_get(out, "applied")) && event_count() == before, "and nothing is changed");
}

#define HEAD "wave,application,server,owner,address,cpu,after\n"

static void faults_are_told_where_they_are(void)
{
    fault_is("", "1 -: the file is empty", "an empty file");
    fault_is("wave;server;address\n", "1 -: the columns are separated by semicolons", "semicolons");
    fault_is("wave,server\nw1,a\n", "1 address: this column is missing", "a missing column");
    fault_is("wave,server,address,colour\n", "1 colour: there is no such column; there are: wave, application, server", "an unknown column");
    fault_is("wave,server,address,address\n", "1 address: is there twice", "a column twice");
    fault_is(HEAD "w1,,a,,192.0.2.1,,\nw1,,b,,192.0.2.2,,\nw1,,a,,192.0.2.3,,\n", "4 server: a is in line 2 already", "a duplicate server");
    fault_is(HEAD "w9,,a,,192.0.2.1,,\n", "2 wave: there is no wave w9: make it first", "an unknown wave");
    fault_is(HEAD "w1,,a,,192.0.2.1,,c\nw1,,b,,192.0.2.2,,a\nw1,,c,,192.0.2.3,,b\n", "3 after: goes in a circle", "a circle");
    fault_is(HEAD "w1,,a,,192.0.2.1,,a\n", "2 after: goes in a circle", "a circle of one");
    fault_is(HEAD "w1,,a,,192.0.2.1,,nobody\n", "2 after: names nobody, which is no server", "after nobody");
    fault_is(HEAD "w1,,a,,192.0.2.1,,b\nw2,,b,,192.0.2.2,,\n", "2 after: names b, which is in the wave w2", "after another wave's");
    fault_is(HEAD "w1,=cmd|' /c calc'!A0,a,,192.0.2.1,,\n", "2 application: begins like a formula", "a formula");
    fault_is(HEAD "w1,-2+3+cmd,a,,192.0.2.1,,\n", "2 application: begins like a formula", "one with a minus");
    fault_is(HEAD "w1,@SUM(1),a,,192.0.2.1,,\n", "2 application: begins like a formula", "one with @");
    fault_is(HEAD "w1,Caf\xe9,a,,192.0.2.1,,\n", "2 application: byte 0xe9 is not UTF-8", "Latin-1");
    fault_is(HEAD "w1,a,,192.0.2.1\n", "2 -: the row has 4 fields, the header 7", "a short row");
    fault_is(HEAD "w1,,a,,192.0.2.256,,\n", "2 address: is no IPv4", "a bad address");
    fault_is(HEAD "w1,,a,,192.0.2.1,many,\n", "2 cpu: must be a whole number", "a bad number");
    fault_is(HEAD "w1,,a,,,,\n", "2 address: is missing", "no address");
    fault_is(HEAD "\"w1,,a,,192.0.2.1,,\n", "3 wave: the file ends inside quotes", "an open quote");
    fault_is(HEAD "w1,\"a\"b,a,,192.0.2.1,,\n", "2 application: text after a closing quote", "text after a quote");
    fault_is(HEAD "w1,\"a\x01\",a,,192.0.2.1,,\n", "2 application: has a control character", "a control character");
}

static void all_faults_are_listed(void)
{
    CLEANUP(json_free) json_t *out = import(HEAD "w9,=x,-,,1.2.3,0,\nw1,,ok,,192.0.2.1,,\nw8,,a b,,192.0.2.1,-,\n", false, false);

    is_int(json_get_int(out, "faults_total", 0), 6, "six faults in three rows");
    is_int((int)json_array_size(json_object_get(out, "faults")), 6, "each in the list");
}

static void a_preview_changes_nothing_and_says_all(void)
{
    static const char csv[] = "\xef\xbb\xbfwave,application,server,owner,address,cpu,after,checks\r\n"
                              "w1,Shop,web01,\"M\xc3\xbcller, Anna\",192.0.2.12,2,db01,\"http://192.0.2.12/ contains \"\"Hello\"\"\"\r\n"
                              "w1,Shop,db01,Anna,192.0.2.11,4,,\r\n"
                              "\r\n";
    CLEANUP(json_free) json_t *preview = NULL;
    CLEANUP(json_free) json_t *applied = NULL;
    CLEANUP(json_free) json_t *again = NULL;
    CLEANUP(json_free) json_t *update = NULL;
    CLEANUP(json_free) json_t *server = NULL;
    CLEANUP(free_ptr) char *event = NULL;
    int64_t before = event_count();

    preview = import(csv, true, false);
    ok(json_is_false(json_object_get(preview, "applied")), "not applied");
    is_str(text_at(preview, "counts.create"), "2", "two would be made");
    is_str(text_at(json_array_get(json_object_get(preview, "changes"), 0), "fields.owner.after"), "M\xc3\xbcller, Anna", "with these fields");
    is_int(event_count(), before, "nothing is changed");
    applied = import(csv, false, false);
    ok(json_is_true(json_object_get(applied, "applied")), "then it is");
    ok(json_equal(json_object_get(preview, "changes"), json_object_get(applied, "changes")), "exactly as the preview said");
    server = get_server("web01");
    is_str(text_at(server, "attributes.checks"), "http://192.0.2.12/ contains \"Hello\"", "quotes");
    is_str(text_at(server, "attributes.cpu"), "2", "numbers");
    again = import(csv, false, false);
    is_str(text_at(again, "counts.same"), "2", "again: the same");
    update = import("wave,server,address,cpu\nw1,db01,192.0.2.11,\n", false, false);
    is_str(text_at(update, "counts.update"), "1", "a column that is empty unsets, one that is missing stays");
    event = last_event();
    is_str(event, "user:anna server.updated w1 db01 {\"fields\":{\"cpu\":{\"before\":4,\"after\":null}},\"version\":2}", "with its event");
}

static void waves_are_made_only_when_asked(void)
{
    CLEANUP(json_free) json_t *out = import("wave,server,address\nw7,seven,192.0.2.77\nw7,eight,192.0.2.78\n", false, true);

    is_str(text_at(out, "counts.waves"), "1", "one wave");
    is_str(text_at(out, "counts.create"), "2", "two servers");
    ok(json_is_true(json_object_get(out, "applied")), "made");
}

static void the_database_counts_too(void)
{
    fault_is("wave,server,address,after\nw1,db01,192.0.2.11,web01\n", "2 after: goes in a circle", "a circle over what is there");
    fault_is("wave,server,address,after\nw7,third,192.0.2.79,db01\n", "2 after: names db01, which is in the wave w1", "after another wave's there");
    IN_TX(inventory_wave_set_stage(tx, "w7", "build", "ok", "r7", &fleet_by, NULL));
    fault_is("wave,server,address\nw7,nine,192.0.2.79\n", "2 wave: the wave w7 has started", "a wave that has started");
    fault_is("wave,server,address\nw1,seven,192.0.2.77\n", "2 wave: the wave w7 has started", "leaving it");
}

static void exports_come_back(void)
{
    CLEANUP(buf_release) struct buf csv;
    CLEANUP(json_free) json_t *out = NULL;
    struct store_tx *tx;
    struct err e = {0};

    buf_init(&csv, 0);
    is_int(change_server("db01", 0, "{'owner':'=HYPERLINK(1)','application':'-x'}", NULL, &e), 0, "an owner like a formula: %s", e.message);
    tx = fleet_begin(STORE_READ);
    is_int(inventory_export(tx, "w1", &csv, &e), 0, "an export");
    store_rollback(&tx);
    ok(strstr(csv.data, "w1,'-x,db01,'=HYPERLINK(1),") != NULL, "is safe to open");
    out = import(csv.data, false, false);
    is_str(text_at(out, "counts.same"), "2", "and reads as what is there");
    is_int(json_get_int(out, "faults_total", -1), 0, "without faults");
}

static void a_hundred_thousand_rows(void)
{
    CLEANUP(buf_release) struct buf csv;
    CLEANUP(json_free) json_t *out = NULL;
    CLEANUP(json_free) json_t *again = NULL;
    clock_t started;

    buf_init(&csv, 0);
    buf_puts(&csv, "wave,application,server,owner,address,cpu,after\n");
    for (int i = 0; i < 100000; i++) {
        buf_printf(&csv, "w%d,App %d,server%06d,Owner %d,10.%d.%d.%d,4,", i / 1000 + 100, i / 10, i, i % 100, i >> 16, i >> 8 & 255, i & 255);
        if (i % 1000 && i % 1000 < 500)
            buf_printf(&csv, "server%06d", i - 1);
        buf_puts(&csv, "\n");
    }
    started = clock();
    out = import_with(csv.data, csv.size_bytes, (struct inventory_import_options){.create_waves = true});
    is_str(text_at(out, "counts.create"), "100000", "100,000 servers");
    is_str(text_at(out, "counts.waves"), "100", "in 100 waves");
    is_int(json_get_int(out, "faults_total", -1), 0, "without a fault");
    is_int((int)json_array_size(json_object_get(out, "changes")), 1000, "the list is bounded");
    printf("# %.1f s of a processor\n", (double)(clock() - started) / CLOCKS_PER_SEC);
    ok(clock() - started < 60 * CLOCKS_PER_SEC, "in seconds, also under sanitizers");
    again = import_with(csv.data, csv.size_bytes, (struct inventory_import_options){.create_waves = true});
    is_str(text_at(again, "counts.same"), "100000", "again: the same");
}

static int count_record(void *user, int64_t line, const char *const *fields, int count)
{
    (void)line, (void)fields, (void)count;
    ++*(int *)user;
    return 0;
}

static void limits_hold(void)
{
    int records = 0;
    CLEANUP(csv_free) struct csv *c = csv_new(count_record, &records);
    CLEANUP(csv_free) struct csv *wide = csv_new(count_record, &records);
    CLEANUP(csv_free) struct csv *many = csv_new(count_record, &records);
    struct err e = {0};
    int rc = 0;

    for (int i = 0; rc == 0 && i < 300000; i++)
        rc = csv_feed(c, "x\n", 2, &e);
    is_int(rc, -1, "too many rows");
    is_int(e.kind, ERR_LIMIT, "%s", e.message);
    is_int(records, 200001, "all before it were read");
    for (rc = 0; rc == 0;)
        rc = csv_feed(wide, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 32, &e);
    is_int(e.kind, ERR_LIMIT, "%s", e.message);
    for (rc = 0; rc == 0;)
        rc = csv_feed(many, ",", 1, &e);
    is_int(e.kind, ERR_LIMIT, "%s", e.message);
}

int main(void)
{
    fleet_open();
    make_wave("{'name':'w1'}", NULL, NULL);
    make_wave("{'name':'w2'}", NULL, NULL);
    faults_are_told_where_they_are();
    all_faults_are_listed();
    a_preview_changes_nothing_and_says_all();
    waves_are_made_only_when_asked();
    the_database_counts_too();
    exports_come_back();
    limits_hold();
    a_hundred_thousand_rows();
    store_close(&fleet_store);
    return tap_done();
}
