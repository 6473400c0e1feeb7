/* prerequisites: looks at a source machine, changes nothing there, and says line by line whether it can be migrated. Its result are
 * the facts that the later steps and the boot-up test hold the copy against, and the host key that was pinned. */
#include "agent/memory.h"
#include "base/clock.h"
#include "base/limits.h"
#include "steps/agent_file.h"
#include "steps/facts.h"
#include "steps/scripts.h"
#include "steps/source.h"
#include "wire/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_TIMEOUT_MS 180000
#define SKEW_LIMIT_MS 10000                        /* certificates, and the order of what was logged where */
#define MEMORY_BESIDE_BYTES (INT64_C(32) << 20)    /* beside what the agent takes for itself */
#define FREE_NEEDED_BYTES (INT64_C(32) << 20)      /* the agent's program and its few files */
#define PROGRAM_FOLDER "/usr/local/sbin"

/* What the checks look at. */
struct look {
    const struct step *step;
    const json_t *facts, *seen;
    int64_t skew_ms;
};

/* Each returns whether it holds and puts what was seen into words. */
typedef bool check_function(const struct look *l, struct buf *words);

static const char *seen_text(const struct look *l, const char *name) { return json_get_string(l->seen, name, ""); }

static bool check_system(const struct look *l, struct buf *words)
{
    const char *os = json_get_string(l->facts, "os", ""), *kernel = json_get_string(l->facts, "kernel", "");
    int major = atoi(kernel);

    buf_printf(words, "%s, kernel %s", *os ? os : "unknown system", kernel);
    if (major < 4)
        buf_puts(words, ": kernels before 4 are not supported");
    return major >= 4;
}

static bool check_arch(const struct look *l, struct buf *words)
{
    const char *arch = json_get_string(l->facts, "arch", "");
    CLEANUP(free_ptr) char *path = NULL;
    struct err e = {0};

    buf_printf(words, "%s", arch);
    if (agent_file_find(l->step, arch, &path, &e) == 0)
        return true;
    buf_printf(words, ": %s", e.message);
    return false;
}

static bool check_service_manager(const struct look *l, struct buf *words)
{
    bool holds = strcmp(seen_text(l, "systemd"), "yes") == 0;

    buf_puts(words, holds ? "systemd runs" : "systemd does not run; the agent is started by it");
    return holds;
}

static bool check_tools(const struct look *l, struct buf *words)
{
    const json_t *missing = json_object_get(l->seen, "missing"), *tool;
    size_t i;

    json_array_foreach(missing, i, tool)
        buf_printf(words, "%s%s", i ? ", " : "missing: ", json_string_value(tool));
    if (json_array_size(missing) == 0)
        buf_puts(words, "ip, systemctl, sha256sum, mktemp, timeout, swapoff are there");
    return json_array_size(missing) == 0;
}

/* All that the agent may take. */
static int64_t memory_bound_mib(const struct look *l) { return step_int(l->step, "server.attributes.memory_bound_mib", MEMORY_BOUND_MIB); }

static bool check_memory(const struct look *l, struct buf *words)
{
    int64_t available = json_get_int(l->seen, "memory_available_bytes", 0), total = json_get_int(l->facts, "memory_bytes", 0);
    int64_t needed = (memory_bound_mib(l) << 20) + MEMORY_BESIDE_BYTES;

    buf_printf(words, "%lld MiB of %lld MiB available", (long long)(available >> 20), (long long)(total >> 20));
    if (available < needed)
        buf_printf(words, "; the agent needs %lld MiB", (long long)(needed >> 20));
    return available >= needed;
}

static bool check_free_disk(const struct look *l, struct buf *words)
{
    static const char *const paths[] = {"/etc", PROGRAM_FOLDER, "/run"};
    const json_t *held = json_object_get(l->seen, "free");
    bool holds = true;

    for (size_t i = 0; i < ARRAY_COUNT(paths); i++) {
        int64_t free_bytes = json_get_int(held, paths[i], -1), needed = strcmp(paths[i], PROGRAM_FOLDER) == 0 ? FREE_NEEDED_BYTES : 1 << 20;

        if (free_bytes < 0)
            buf_printf(words, "%s%s is missing", i ? ", " : "", paths[i]);
        else
            buf_printf(words, "%s%lld MiB in %s", i ? ", " : "", (long long)(free_bytes >> 20), paths[i]);
        if (free_bytes < needed)
            buf_printf(words, " (needed: %lld MiB)", (long long)(needed >> 20));
        holds = holds && free_bytes >= needed;
    }
    return holds;
}

static bool check_clock(const struct look *l, struct buf *words)
{
    int64_t limit_ms = step_int(l->step, "wave.settings.clock_skew_limit_ms", SKEW_LIMIT_MS);
    bool holds = llabs(l->skew_ms) <= limit_ms;

    buf_printf(words, "%lld ms %s ours", llabs(l->skew_ms), l->skew_ms < 0 ? "behind" : "ahead of");
    if (!holds)
        buf_printf(words, "; more than %lld ms: set the source's clock (chrony, systemd-timesyncd)", (long long)limit_ms);
    return holds;
}

static bool check_replicator(const struct look *l, struct buf *words)
{
    const char *answer = seen_text(l, "replicator"), *address = step_string(l->step, "settings.replicator.address", NULL),
               *proxy = step_string(l->step, "server.attributes.proxy", NULL);
    long long port = (long long)step_int(l->step, "settings.replicator.port", 0);
    bool holds = strcmp(answer, "yes") == 0;

    if (!address || port < 1) {
        buf_puts(words, "the factory's setting `replicator` has no address and port");
        return false;
    }
    buf_printf(words, "%s port %lld %s", address, port,
               holds ? "answers the source" : strcmp(answer, "unknown") == 0 ? "can't be tried: the source has no bash, nc, python3, perl or curl"
                                                                              : "can't be reached from the source: check routes and firewalls");
    if (proxy)
        buf_printf(words, holds ? " through the proxy %s" : "; the attribute proxy says %s, which must allow CONNECT there", proxy);
    return holds;
}

static bool check_boot(const struct look *l, struct buf *words)
{
    const char *secure = seen_text(l, "secure_boot");

    buf_printf(words, "%s%s", json_get_string(l->facts, "boot", "?"), strcmp(secure, "1") == 0 ? ", secure boot is on (the copy boots without)" : "");
    return true;
}

static bool check_disks(const struct look *l, struct buf *words)
{
    const json_t *disks = json_object_get(l->facts, "disks"), *disk;
    bool used = false;
    size_t i;

    json_array_foreach(disks, i, disk) {
        buf_printf(words, "%s%s (%s) %lld MiB%s", i ? ", " : "", json_get_string(disk, "name", "?"), json_get_string(disk, "id", "?"),
                   (long long)(json_get_int(disk, "size_bytes", 0) >> 20), json_get_bool(disk, "in_use", false) ? "" : " unused");
        used = used || json_get_bool(disk, "in_use", false);
    }
    if (!used)
        buf_printf(words, "%s", json_array_size(disks) ? "; none is in use: on what does the machine run?" : "no disk was found");
    if (json_array_size(disks) > LIMIT_DISKS_PER_SERVER)
        buf_printf(words, "; more than %d", LIMIT_DISKS_PER_SERVER);
    return used && json_array_size(disks) <= LIMIT_DISKS_PER_SERVER;
}

/* What lies on several disks or outside of them, and would not come along whole. */
static bool check_layout(const struct look *l, struct buf *words)
{
    static const struct {
        const char *kind, *why;
    } stops[] = {{"zfs_member", "ZFS is not supported yet"}, {"bcache", "bcache is not supported"}};
    const json_t *layout = json_object_get(l->seen, "layout"), *mounts = json_object_get(l->facts, "mounts"), *item;
    bool holds = true, root = false;
    size_t i;

    json_array_foreach(mounts, i, item) {
        root = root || strcmp(json_get_string(item, "target", ""), "/") == 0;
        if (strcmp(json_get_string(item, "target", ""), "/") == 0)
            buf_printf(words, "/ is %s on %s", json_get_string(item, "fstype", "?"), json_get_string(item, "source", "?"));
    }
    buf_printf(words, "%s%zu filesystems; of", root ? "; " : "the root is on no block device; ", json_array_size(mounts));
    json_array_foreach(layout, i, item)
        buf_printf(words, " %s", json_string_value(item));
    for (size_t k = 0; k < ARRAY_COUNT(stops); k++)
        json_array_foreach(layout, i, item)
            if (strcmp(json_string_value(item), stops[k].kind) == 0) {
                buf_printf(words, "; %s", stops[k].why);
                holds = false;
            }
    return holds && root;
}

/* Why changes can't be followed; NULL: as far as can be seen from here, they can. */
static const char *why_rescanned(const struct look *l)
{
    int major = 0, minor = 0;

    if (strcmp(seen_text(l, "lockdown"), "confidentiality") == 0)
        return "kernel lockdown (confidentiality) forbids BPF";
    if (strcmp(seen_text(l, "bpf"), "no") == 0)
        return "the kernel is built without BPF";
    if (sscanf(json_get_string(l->facts, "kernel", ""), "%d.%d", &major, &minor) == 2 && (major < 4 || (major == 4 && minor < 18)))
        return "a kernel before 4.18 does not tell what is written";
    return NULL;
}

/* Without a tracker checksums are kept of all disks: whether the agent may take the memory for that. */
static bool may_rescan(const struct look *l, struct buf *words)
{
    const struct agent_config c = {.memory_mib = MEMORY_MIB, .memory_bound_mib = memory_bound_mib(l)};
    struct memory_wants w = {.cores = (int)json_get_int(l->facts, "cpu_count", 2)};
    struct memory_plan plan;
    struct err e = {0};
    const json_t *disk;
    size_t i;

    json_array_foreach(json_object_get(l->facts, "disks"), i, disk) {
        int64_t size_bytes = json_get_int(disk, "size_bytes", 0);

        w.disk_bytes += size_bytes;
        w.chunk_count += (size_bytes + WIRE_CHUNK_SIZE - 1) / WIRE_CHUNK_SIZE;
        w.disk_count++;
    }
    if (memory_plan(&c, &w, &plan, &e) == 0)
        return true;
    buf_printf(words, "; the agent would not start: %s (the server's attribute memory_bound_mib)", e.message);
    return false;
}

/* Without BPF the agent compares checksums. That stops a migration only where it may not take the memory for them. */
static bool check_tracking(const struct look *l, struct buf *words)
{
    const char *lockdown = seen_text(l, "lockdown"), *why = why_rescanned(l);

    if (why) {
        buf_printf(words, "%s: changes are found by reading all disks again and again and comparing checksums, and each recovery point holds the source still for as long as "
                   "that takes (setting rescan_freeze_s)", why);
        return may_rescan(l, words);
    }
    buf_printf(words, "changes are followed by BPF%s%s%s", strcmp(seen_text(l, "btf"), "yes") == 0 ? "" : ", by what a tracepoint records, in whole chunks (no BTF)", *lockdown ? "; lockdown is " : "", lockdown);
    return true;
}

/* What would keep the agent's program from being run. */
static bool check_may_run(const struct look *l, struct buf *words)
{
    const json_t *options = json_object_get(l->seen, "mount_options");
    bool noexec = false, read_only = false;
    const char *longest = "";
    const char *path;
    json_t *value;

    /* The mount that holds the agent's folder: the longest that is a prefix of it. */
    json_object_foreach((json_t *)options, path, value) {
        size_t size = strlen(path);

        if (strncmp(PROGRAM_FOLDER "/", path, size) == 0 && (path[size - 1] == '/' || PROGRAM_FOLDER "/"[size] == '/') && size >= strlen(longest)) {
            CLEANUP(free_ptr) char *list = xasprintf(",%s,", json_string_value(value));

            longest = path;
            noexec = strstr(list, ",noexec,") != NULL;
            read_only = strstr(list, ",ro,") != NULL;
        }
    }
    buf_printf(words, "%s is on %s%s%s", PROGRAM_FOLDER, *longest ? longest : "an unknown filesystem", noexec ? ", mounted noexec" : "",
               read_only ? ", mounted read-only" : "");
    if (strcmp(seen_text(l, "selinux"), "1") == 0)
        buf_puts(words, "; SELinux enforces: the agent runs as an unconfined service from there");
    return !noexec && !read_only;
}

static bool check_services(const struct look *l, struct buf *words)
{
    const json_t *services = json_object_get(l->seen, "services");
    const char *unit;
    json_t *state;
    bool holds = true;

    json_object_foreach((json_t *)services, unit, state) {
        const char *load = json_get_string(state, "load", "?"), *active = json_get_string(state, "active", "?");
        bool one = strcmp(load, "loaded") == 0 && strcmp(active, "active") == 0;

        buf_printf(words, "%s%s: %s, %s", words->size_bytes ? "; " : "", unit, load, active);
        holds = holds && one;
    }
    if (json_object_size(services) == 0)
        buf_puts(words, "none to stop at the cutover (attribute services)");
    return holds;
}

static bool check_address(const struct look *l, struct buf *words)
{
    const char *address = step_string(l->step, "server.address", ""), *cidr = NULL;
    const json_t *nic = facts_nic_of(l->facts, address, &cidr);
    bool needed = step_string(l->step, "server.attributes.parking_address", NULL) != NULL;

    if (nic) {
        buf_printf(words, "%s on %s (%s), gateway %s", cidr, json_get_string(nic, "name", "?"), json_get_string(nic, "mac", "?"),
                   json_get_string(nic, "gateway", "none"));
        return true;
    }
    buf_printf(words, "%s is on no interface of the source (translated on the way?)%s", address,
               needed ? "; it could not be parked at the cutover" : "");
    return !needed;
}

static bool check_parking(const struct look *l, struct buf *words)
{
    const char *state = seen_text(l, "parking"), *cidr = NULL;
    struct err e = {0};
    char address[64];

    if (!step_string(l->step, "server.attributes.parking_address", NULL)) {
        buf_puts(words, "the server has no attribute parking_address; the cutover needs one");
        return false;
    }
    if (source_parking(l->step, address, sizeof address, &cidr, &e) < 0) {
        buf_puts(words, e.message);
        return false;
    }
    buf_printf(words, "%s is %s", cidr, strcmp(state, "taken") == 0 ? "taken: another machine answers there"
               : strcmp(state, "unknown") == 0 ? "not known to be free: the source has neither ping nor bash to try it with" : *state ? state : "not tried");
    return strcmp(state, "free") == 0 || strcmp(state, "own") == 0;
}

static bool check_agent_before(const struct look *l, struct buf *words)
{
    const char *version = seen_text(l, "agent"), *active = seen_text(l, "agent_active");

    buf_printf(words, "%s%s%s", *version ? version : "not there yet", *version ? ", " : "", *version ? active : "");
    return true;
}

static bool check_root(const struct look *l, struct buf *words)
{
    bool holds = strcmp(seen_text(l, "uid"), "0") == 0;

    buf_printf(words, holds ? "commands run as root (sudo: %s)" : "commands do not run as root (sudo: %s)",
               step_string(l->step, "credential.sudo", "none"));
    return holds;
}

static const struct {
    const char *name;
    check_function *run;
} checks[] = {
    {"root rights", check_root},
    {"operating system and kernel", check_system},
    {"architecture", check_arch},
    {"service manager", check_service_manager},
    {"tools", check_tools},
    {"memory", check_memory},
    {"free disk", check_free_disk},
    {"clock", check_clock},
    {"way to the replicator", check_replicator},
    {"boot mode", check_boot},
    {"disks", check_disks},
    {"disk layout", check_layout},
    {"change tracking", check_tracking},
    {"the agent may run", check_may_run},
    {"services", check_services},
    {"address", check_address},
    {"parking address", check_parking},
    {"agent", check_agent_before},
};

/* ---- The whole ---- */

static int pin_host_key(struct step *s, const struct remote *r)
{
    const char *pinned = step_string(s, "credential.host_key", step_string(s, "context.prerequisites.host_key", NULL));

    step_evidence(s, "host key", true, "%s, %s", remote_host_key(r), pinned ? "as pinned" : "pinned now (the wave accepts keys at first sight)");
    step_result(s, "host_key", json_string(remote_host_key(r)));
    return 0;
}

/* With the way there and back taken off in halves. */
static int64_t skew_of(const json_t *seen, int64_t before_us, int64_t after_us)
{
    int64_t there = json_get_int(seen, "now_us", 0), middle = before_us + (after_us - before_us) / 2, way = (after_us - before_us) / 2;
    int64_t skew = there - middle;

    if (llabs(skew) <= way) /* no more is known */
        return 0;
    return (skew > 0 ? skew - way : skew + way) / US_PER_MS;
}

static int look_at(struct step *s, struct remote *r, json_t **facts, json_t **seen, int64_t *skew_ms, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0}, now = {0};
    CLEANUP(free_ptr) char *services = NULL, *port = xasprintf("%lld", (long long)step_int(s, "settings.replicator.port", 0));
    CLEANUP(json_free) json_t *clock = json_object();
    const char *arguments[] = {step_string(s, "settings.replicator.address", ""), port, step_string(s, "server.attributes.parking_address", ""),
                               NULL, step_string(s, "server.attributes.proxy", ""), NULL};
    int64_t before_us, after_us;
    long long seconds = 0, us = 0;

    if (source_services(s, &services, e) < 0)
        return -1;
    arguments[3] = services;
    if (source_script(r, script_facts, arguments, &out, LOOK_TIMEOUT_MS, e) < 0 || facts_parse(out.data, out.size_bytes, facts, seen, e) < 0)
        return err_wrap(e, "looking at the source");
    /* The clock by itself, where the way is short. */
    before_us = clock_now_us();
    if (remote_must(r, "date +%s.%6N", &now, 10000, e) < 0)
        return err_wrap(e, "reading the source's clock");
    after_us = clock_now_us();
    sscanf(now.data, "%lld.%6lld", &seconds, &us);
    json_object_set_new(clock, "now_us", json_integer(seconds * US_PER_S + us));
    *skew_ms = skew_of(clock, before_us, after_us);
    json_object_set_new(*facts, "clock_skew_ms", json_integer(*skew_ms));
    return 0;
}

static int judge(struct step *s, const struct look *l, struct err *e)
{
    CLEANUP(buf_release) struct buf failed = {.limit_bytes = 700};
    int count = 0;

    for (size_t i = 0; i < ARRAY_COUNT(checks); i++) {
        CLEANUP(buf_release) struct buf words = {.limit_bytes = 4000};
        bool holds = checks[i].run(l, &words);

        step_evidence(s, checks[i].name, holds, "%s", words.data ? words.data : "");
        if (!holds)
            buf_printf(&failed, "%s%s (%.200s)", count++ ? "; " : "", checks[i].name, words.data ? words.data : "");
    }
    if (count == 0)
        return 0;
    return err_set(e, ERR_WRONG_STATE, "%d of %zu checks do not hold: %s", count, ARRAY_COUNT(checks), failed.data);
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = NULL;
    CLEANUP(json_free) json_t *facts = NULL, *seen = NULL;
    bool accept = strcmp(step_string(s, "wave.settings.host_keys", ""), "accept-first") == 0;
    struct look look = {.step = s};

    if (source_open(s, SOURCE_SERVING, accept, &r, e) < 0) {
        step_evidence(s, "login", false, "%s", e->message);
        return -1;
    }
    step_evidence(s, "login", true, "%s at %s", step_string(s, "credential.user", "?"), step_string(s, "server.address", "?"));
    pin_host_key(s, r);
    if (look_at(s, r, &facts, &seen, &look.skew_ms, e) < 0) {
        if (e->kind == ERR_DENIED)
            step_evidence(s, "root rights", false, "%s", e->message);
        return -1;
    }
    look.facts = facts;
    look.seen = seen;
    step_result(s, "facts", json_incref(facts));
    step_result(s, "machine_uuid", json_string(json_get_string(seen, "machine_uuid", "")));
    return judge(s, &look, e);
}

const struct step_api step_prerequisites = {.name = "prerequisites", .title = "Verify prerequisites", .place = STEP_AT_SOURCE, .timeout_ms = 300000,
                                            .attempts = 3, .run = run};
