#include "steps/launch.h"
#include "base/file.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void launch_release(struct launch *l)
{
    if (l->target)
        l->api->close(l->target);
    arena_free(&l->arena);
    *l = (struct launch){0};
}

int launch_open(struct step *s, struct launch *l, struct err *e)
{
    const char *name;
    const json_t *settings = step_json(s, "settings.target.settings");
    CLEANUP(json_free) json_t *own = NULL;

    l->arena = arena_new();
    if (step_need_string(s, "settings.target.name", &name, e) < 0)
        return err_wrap(e, "no target is set: `slipway settings set target`");
    l->api = target_find(name);
    if (!l->api)
        return err_set(e, ERR_UNSUPPORTED, "there is no target \"%s\"", name);
    l->folder = arena_printf(l->arena, "%s/target", step_state_dir(s));
    own = settings ? json_deep_copy(settings) : json_object();
    if (strcmp(name, "local-qemu") == 0 && !json_object_get(own, "folder"))
        json_object_set_new(own, "folder", json_sprintf("%s/instances", l->folder));
    if (file_make_dirs(l->folder, 0700, e) < 0 || l->api->open(own, &l->target, e) < 0)
        return err_wrap(e, "the target %s can't be opened", name);
    return 0;
}

void launch_name(const char *server, enum launch_kind kind, char out[static 48])
{
    static const char *const ends[] = {[LAUNCH_CHECK] = "check", [LAUNCH_TEST] = "test", [LAUNCH_CUTOVER] = "cutover"};
    uint64_t hash = UINT64_C(14695981039346656037);
    bool same = strlen(server) <= 24;
    char plain[25];
    size_t used = 0;

    for (const char *at = server; *at; at++) {
        char c = (char)tolower((unsigned char)*at);

        hash = (hash ^ (unsigned char)*at) * UINT64_C(1099511628211);
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c == '-' && used > 0)))
            c = 'x';
        same = same && c == *at;
        if (used < sizeof plain - 1)
            plain[used++] = c;
    }
    plain[used] = '\0';
    if (same)
        snprintf(out, 48, "%s-%s", plain, ends[kind]);
    else /* what was changed or cut is told apart by its hash */
        snprintf(out, 48, "%s-%06llx-%s", plain, (unsigned long long)(hash >> 40), ends[kind]);
}

int launch_open_instance(struct step *s, enum launch_kind kind, struct launch *l, struct err *e)
{
    const char *server;

    if (step_need_string(s, "server.name", &server, e) < 0 || launch_open(s, l, e) < 0)
        return -1;
    launch_name(server, kind, l->instance);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const char *left = json_get_string(*(const json_t *const *)a, "name", ""), *right = json_get_string(*(const json_t *const *)b, "name", "");
    size_t left_size = strlen(left), right_size = strlen(right);

    return left_size != right_size ? (left_size < right_size ? -1 : 1) : strcmp(left, right); /* sdz before sdaa */
}

/* The source's disks that were replicated, in the kernel's order; the list is in the arena. */
static int sorted_disks(const struct step *s, struct launch *l, const json_t ***out, size_t *count, struct err *e)
{
    const json_t *disks = step_json(s, "facts.disks");
    size_t size = json_array_size(disks);

    if (size == 0 || size > ARRAY_COUNT(l->spec.disks))
        return err_set(e, ERR_INVALID, "the facts know %zu disks of the source: run `prerequisites` again", size);
    *out = arena_alloc(l->arena, size * sizeof **out);
    for (size_t i = 0; i < size; i++)
        (*out)[i] = json_array_get(disks, i);
    qsort(*out, size, sizeof **out, by_name);
    *count = size;
    return 0;
}

/* Whether a partition of the disk carries the file system that is mounted at target. */
static bool carries(const struct step *s, const char *disk, const char *target)
{
    char device[80];
    json_t *mount;
    size_t i;

    snprintf(device, sizeof device, "/dev/%.60s", disk);
    json_array_foreach(step_json(s, "facts.mounts"), i, mount)
        if (strcmp(json_get_string(mount, "target", ""), target) == 0 &&
            strncmp(json_get_string(mount, "source", ""), device, strlen(device)) == 0)
            return true;
    return false;
}

/* Which disk the source boots from: that with its boot files where they are on a plain partition, else the first. */
static int boot_disk(const struct step *s, const json_t *const *disks, size_t count)
{
    static const char *const places[] = {"/boot/efi", "/boot", "/"};

    for (size_t p = 0; p < ARRAY_COUNT(places); p++)
        for (size_t i = 0; i < count; i++)
            if (carries(s, json_get_string(disks[i], "name", "?"), places[p]))
                return (int)i;
    return 0;
}

static int spec_disks(const struct step *s, const json_t *exports, struct launch *l, struct err *e)
{
    const json_t **disks = NULL;
    size_t count = 0, used = 0;
    int boots;

    if (sorted_disks(s, l, &disks, &count, e) < 0)
        return -1;
    boots = boot_disk(s, disks, count);
    l->spec.disk_bus = strncmp(json_get_string(disks[boots], "name", ""), "sd", 2) == 0 ? "scsi" : "virtio";
    for (size_t i = 0; i < count; i++) {
        const char *id = json_get_string(disks[i], "id", ""), *uri = "nbd+unix:///check?socket=/check";
        const json_t *export = exports ? json_find(exports, "id", id) : disks[i];

        if (!export)
            return err_set(e, ERR_PROTOCOL, "the disk %s (%s) of the source is not in the recovery point", json_get_string(disks[i], "name", "?"), id);
        if (exports && json_need_string(export, "nbd_uri", &uri, e) < 0)
            return -1;
        l->spec.disks[i] = (struct target_disk){.id = id, .nbd_uri = uri, .size_bytes = json_get_int(export, "size_bytes", 0),
                                                .boot_order = (int)i == boots};
        used++;
    }
    l->spec.disk_count = (int)used;
    if (exports && json_array_size(exports) != used)
        return err_set(e, ERR_PROTOCOL, "the recovery point has %zu disks, the source's facts %zu: run `prerequisites` again",
                       json_array_size(exports), used);
    return 0;
}

/* The first IPv4 address of an interface, but for the parking one. */
static const char *first_address(const struct step *s, const json_t *nic)
{
    const char *parking = step_string(s, "server.attributes.parking_address", "");
    json_t *address;
    size_t i;

    json_array_foreach(json_object_get(nic, "addresses"), i, address) {
        const char *text = json_string_value(address);

        if (text && !strchr(text, ':') && strncmp(text, parking, strcspn(text, "/") + 1) != 0)
            return text;
    }
    return NULL;
}

static int spec_nics(const struct step *s, struct launch *l, struct err *e)
{
    const json_t *nics = step_json(s, "facts.nics");
    json_t *nic;
    size_t i;

    json_array_foreach(nics, i, nic) {
        if (l->spec.nic_count == (int)ARRAY_COUNT(l->spec.nics))
            return err_set(e, ERR_LIMIT, "the source has more than %zu interfaces", ARRAY_COUNT(l->spec.nics));
        /* The copy keeps the source's MAC: what is configured by it, and what neighbours remember, stays true. Parking takes it off the
         * source (scripts/park.sh), so that the two don't meet on one network. */
        l->spec.nics[l->spec.nic_count++] = (struct target_nic){
            .name = json_get_string(nic, "name", NULL), .mac = json_get_string(nic, "mac", NULL), .address = first_address(s, nic),
            .gateway = json_get_string(nic, "gateway", NULL)};
    }
    return 0;
}

/* MiB of a machine whose kernel says that it has this much: the kernel keeps some to itself, and machines have round sizes. */
static int64_t machine_mib(int64_t total_bytes)
{
    int64_t mib = (total_bytes + (1 << 20) - 1) >> 20, unit = 1;

    while (unit * 16 <= mib)
        unit *= 2;
    return (mib + unit - 1) / unit * unit;
}

int launch_spec(const struct step *s, enum launch_kind kind, const json_t *exports, struct launch *l, struct err *e)
{
    int64_t memory_mib = step_int(s, "server.attributes.memory_mib", machine_mib(step_int(s, "facts.memory_bytes", 0)));

    l->spec = (struct target_spec){
        .instance = l->instance, .server = step_string(s, "server.name", ""),
        .cpu_count = (int)step_int(s, "server.attributes.cpu", step_int(s, "facts.cpu_count", 0)), .memory_bytes = memory_mib << 20,
        .uefi = strcmp(step_string(s, "facts.boot", ""), "uefi") == 0, .net = kind == LAUNCH_TEST ? TARGET_NET_ISOLATED : TARGET_NET_CLOSED,
        .network = kind == LAUNCH_TEST ? NULL : step_string(s, "server.attributes.target_network", NULL)};
    /* Facts of old have no other: sources of x86_64 only could get an agent. */
    if (strcmp(step_string(s, "facts.arch", "x86_64"), "x86_64") != 0)
        return err_set(e, ERR_UNSUPPORTED, "the target launches machines of x86_64, and the source is one of %s", step_string(s, "facts.arch", ""));
    if (!step_string(s, "facts.boot", NULL))
        return err_set(e, ERR_INVALID, "the facts do not say how the source boots: run `prerequisites` again");
    if (spec_disks(s, exports, l, e) < 0)
        return -1;
    return spec_nics(s, l, e);
}

int launch_address(const struct step *s, const char **out, struct err *e)
{
    const char *wanted = step_string(s, "server.address", ""), *found = NULL;
    static _Thread_local char held[64];
    json_t *nic, *address;
    size_t i, k;

    json_array_foreach(step_json(s, "facts.nics"), i, nic) {
        json_array_foreach(json_object_get(nic, "addresses"), k, address) {
            const char *text = json_string_value(address);

            if (text && strncmp(text, wanted, strlen(wanted)) == 0 && text[strlen(wanted)] == '/')
                found = text;
        }
        if (!found)
            found = first_address(s, nic);
    }
    if (!found)
        return err_set(e, ERR_INVALID, "the facts know no IPv4 address of the source: run `prerequisites` again");
    snprintf(held, sizeof held, "%.*s", (int)strcspn(found, "/"), found);
    *out = held;
    return 0;
}

int launch_evidence(struct step *s, const json_t *lines)
{
    int failed = 0;
    json_t *line;
    size_t i;

    json_array_foreach(lines, i, line) {
        bool passed = json_get_bool(line, "passed", false);
        const char *advice = json_get_string(line, "advice", NULL);

        step_evidence(s, json_get_string(line, "name", "?"), passed, "%s%s%s", json_get_string(line, "evidence", ""), advice ? ": " : "", advice ? advice : "");
        failed += !passed;
    }
    return failed;
}
