#include "agent/config.h"

#include "agent/memory.h"
#include "base/json.h"

#include <stdio.h>
#include <string.h>

const char agent_config_help[] =
    "{ \"server\": \"web01\",                   this machine's name in the factory\n"
    "  \"replicator_address\": \"192.0.2.10\",   numeric IPv4 or IPv6\n"
    "  \"replicator_port\": 7443,\n"
    "  \"proxy\": \"\",                          an HTTP proxy on the way there: \"http://[USER:PASSWORD@]192.0.2.3:3128\"\n"
    "  \"disks\": \"auto\",                      or [\"sda\", \"sdb\"]; auto: all whole disks that aren't removable\n"
    "  \"disk_ids\": {},                       {\"serial:x\": \"wwid:y\"}: the disk x is reported as y; each must be there\n"
    "  \"freeze_budget_ms\": 200,              how long filesystems may stand still for a point\n"
    "  \"hold_limit_s\": 1800,                 how long a held point stays frozen without a thaw\n"
    "  \"bytes_per_s\": 0,                     on the network; 0: no limit\n"
    "  \"read_bytes_per_s\": 0,                from the disks\n"
    "  \"cpu_percent\": 0,                     of one processor (200: two)\n"
    "  \"memory_mib\": 64,                     buffers for chunks on their way\n"
    "  \"memory_bound_mib\": 128,              all that it takes; fewer buffers where the disks need the rest\n"
    "  \"tracker\": \"auto\",                    or \"rescan\": compare checksums instead of following writes\n"
    "  \"rescan_interval_s\": 300,\n"
    "  \"unreadable_retry_s\": 300,            how often sectors that could not be read are tried again\n"
    "  \"before_freeze\": \"\",                  programs around a freeze\n"
    "  \"after_thaw\": \"\" }\n"
    "All but server, replicator_address and replicator_port may be left out.\n";

struct number {
    const char *name;
    size_t offset;
    int64_t least, most, otherwise, factor;
};
#define NUMBER(json, member, lo, hi, other, by) {json, offsetof(struct agent_config, member), lo, hi, other, by}
static const struct number numbers[] = {
    NUMBER("replicator_port", replicator_port, 1, 65535, -1, 1),
    NUMBER("other_replicator_port", other_replicator_port, 0, 65535, 0, 1), /* it and the address: the agent's own, in the midst of a move */
    NUMBER("freeze_budget_ms", freeze_budget_ms, 10, 60000, 200, 1),
    NUMBER("hold_limit_s", hold_limit_ms, 1, 86400, 1800, 1000),
    NUMBER("bytes_per_s", bytes_per_s, 0, INT64_C(1) << 50, 0, 1),
    NUMBER("read_bytes_per_s", read_bytes_per_s, 0, INT64_C(1) << 50, 0, 1),
    NUMBER("cpu_percent", cpu_percent, 0, 6400, 0, 1),
    NUMBER("memory_mib", memory_mib, 8, 4096, MEMORY_MIB, 1),
    NUMBER("memory_bound_mib", memory_bound_mib, 48, INT64_C(1) << 20, MEMORY_BOUND_MIB, 1),
    NUMBER("rescan_interval_s", rescan_interval_s, 1, 604800, 300, 1),
    NUMBER("unreadable_retry_s", unreadable_retry_s, 1, 604800, 300, 1),
};
struct text {
    const char *name;
    size_t offset, size;
    bool needed;
};
#define WORD(member, need) {#member, offsetof(struct agent_config, member), sizeof ((struct agent_config *)0)->member, need}
static const struct text texts[] = {WORD(server, true), WORD(replicator_address, true), WORD(other_replicator_address, false), WORD(runtime_dir, false), WORD(tracker_dir, false),
                                    WORD(before_freeze, false), WORD(after_thaw, false)};

/* Every fault is added to this one message. */
__attribute__((format(printf, 2, 3))) static void fault(struct buf *faults, const char *format, ...)
{
    CLEANUP(free_ptr) char *text = NULL;
    va_list args;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    buf_printf(faults, "%s%s", faults->size_bytes ? "; " : "", text ? text : "?");
}

static void read_numbers(const json_t *object, struct agent_config *c, struct buf *faults)
{
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
        const struct number *n = &numbers[i];
        const json_t *value = json_object_get(object, n->name);
        int64_t found = value ? json_integer_value(value) : n->otherwise;

        if ((value && !json_is_integer(value)) || found < n->least || found > n->most)
            fault(faults, "%s must be an integer from %lld to %lld", n->name, (long long)n->least, (long long)n->most);
        else
            *(int64_t *)((char *)c + n->offset) = found * n->factor;
    }
}

static void read_texts(const json_t *object, struct agent_config *c, struct buf *faults)
{
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        const json_t *value = json_object_get(object, texts[i].name);
        const char *found = json_string_value(value);

        if (value && !found)
            fault(faults, "%s must be a text", texts[i].name);
        else if (texts[i].needed && (!found || !*found))
            fault(faults, "%s is missing", texts[i].name);
        else if (found && strlen(found) >= texts[i].size)
            fault(faults, "%s is longer than %zu bytes", texts[i].name, texts[i].size - 1);
        else if (found)
            snprintf((char *)c + texts[i].offset, texts[i].size, "%s", found);
    }
}

static void read_disks(const json_t *value, struct agent_config *c, struct buf *faults)
{
    size_t i;
    json_t *item;

    c->disks_auto = !value || (json_is_string(value) && strcmp(json_string_value(value), "auto") == 0);
    if (c->disks_auto)
        return;
    if (!json_is_array(value) || !json_array_size(value) || json_array_size(value) > LIMIT_DISKS_PER_SERVER) {
        fault(faults, "disks must be \"auto\" or a list of 1 to %d names", LIMIT_DISKS_PER_SERVER);
        return;
    }
    json_array_foreach(value, i, item) {
        const char *name = json_string_value(item);

        if (name && strncmp(name, "/dev/", 5) == 0)
            name += 5;
        if (!name || !*name || strlen(name) >= sizeof c->disks[0] || strchr(name, '/'))
            fault(faults, "disks[%zu] is no disk's name", i);
        else
            snprintf(c->disks[c->disk_count++], sizeof c->disks[0], "%s", name);
    }
}

static void read_disk_ids(json_t *value, struct agent_config *c, struct buf *faults)
{
    const char *found;
    json_t *reported;

    if (value && (!json_is_object(value) || json_object_size(value) > LIMIT_DISKS_PER_SERVER)) {
        fault(faults, "disk_ids must be an object of at most %d identities", LIMIT_DISKS_PER_SERVER);
        return;
    }
    json_object_foreach(value, found, reported) {
        const char *text = json_string_value(reported);

        if (!*found || strlen(found) >= sizeof c->disk_ids[0].found || !text || !*text || strlen(text) >= sizeof c->disk_ids[0].reported) {
            fault(faults, "disk_ids: \"%.160s\" must be an identity, and name one", found);
            continue;
        }
        for (int i = 0; i < c->disk_id_count; i++)
            if (strcmp(c->disk_ids[i].reported, text) == 0)
                fault(faults, "disk_ids: two disks are to be %s", text);
        memcpy(c->disk_ids[c->disk_id_count].found, found, strlen(found) + 1);
        memcpy(c->disk_ids[c->disk_id_count++].reported, text, strlen(text) + 1);
    }
}

static void read_proxy(const json_t *value, struct agent_config *c, struct buf *faults)
{
    const char *text = json_string_value(value);
    struct err e = {0};

    if (value && !text)
        fault(faults, "proxy must be a text");
    else if (text && *text && proxy_parse(text, &c->proxy, &e) < 0)
        fault(faults, "%s", e.message);
}

static bool is_known(const char *name)
{
    static const char *const others[] = {"disks", "disk_ids", "tracker", "proxy"};

    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++)
        if (strcmp(name, numbers[i].name) == 0)
            return true;
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        if (strcmp(name, texts[i].name) == 0)
            return true;
    for (size_t i = 0; i < ARRAY_COUNT(others); i++)
        if (strcmp(name, others[i]) == 0)
            return true;
    return false;
}

static void read_all(json_t *object, struct agent_config *c, struct buf *faults)
{
    const char *name, *tracker = json_get_string(object, "tracker", "auto");
    json_t *value;

    if (!json_is_object(object)) {
        fault(faults, "the document is no object");
        return;
    }
    json_object_foreach(object, name, value)
        if (!is_known(name))
            fault(faults, "there is no setting \"%s\"", name);
    read_numbers(object, c, faults);
    /* An agent with a place of its own (a test's) must not take over the machine's. */
    if (!json_object_get(object, "runtime_dir"))
        snprintf(c->tracker_dir, sizeof c->tracker_dir, AGENT_TRACKER_DIR);
    read_texts(object, c, faults);
    read_disks(json_object_get(object, "disks"), c, faults);
    read_disk_ids(json_object_get(object, "disk_ids"), c, faults);
    read_proxy(json_object_get(object, "proxy"), c, faults);
    c->rescan_only = strcmp(tracker, "rescan") == 0;
    if (!c->rescan_only && strcmp(tracker, "auto") != 0)
        fault(faults, "tracker must be \"auto\" or \"rescan\"");
}

int agent_config_read(const char *path, struct agent_config *out, struct err *e)
{
    struct agent_config c = {.runtime_dir = "/run/slipway-agent"};
    CLEANUP(json_free) json_t *object = NULL;
    CLEANUP(buf_release) struct buf faults = {.limit_bytes = 900};
    const char *slash = strrchr(path, '/');

    if (json_read_file(path, &object, e) < 0)
        return -1;
    read_all(object, &c, &faults);
    if ((slash ? (size_t)(slash - path) : 1) >= sizeof c.folder || strlen(path) >= sizeof c.path)
        fault(&faults, "its path is too long");
    if (faults.size_bytes)
        return err_set(e, ERR_INVALID, "%s: %s", path, faults.data);
    snprintf(c.path, sizeof c.path, "%s", path);
    snprintf(c.folder, sizeof c.folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    *out = c;
    return 0;
}
