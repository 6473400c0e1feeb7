#include "steps/facts.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/limits.h"
#include "steps/step_run.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELDS_MOST 8
#define ID_BYTES 120
#define TWIN_MARK_BYTES 8 /* of the hash of its place, behind an id that two disks have */

struct field {
    const char *text;
    size_t size;
};

struct reading {
    json_t *facts, *seen;
    struct field fields[FIELDS_MOST]; /* of the line; [0] is its key */
    int count;
    bool ended;
};

/* ---- Helpers on the line ---- */

static json_t *field_text(const struct reading *r, int index)
{
    return index < r->count ? step_text(r->fields[index].text, r->fields[index].size) : json_string("");
}

static const char *field_copy(const struct reading *r, int index, char *out, size_t size)
{
    size_t length = index < r->count ? r->fields[index].size : 0;

    if (length >= size)
        length = size - 1;
    if (length)
        memcpy(out, r->fields[index].text, length);
    out[length] = '\0';
    return out;
}

/* A whole number of at most 18 digits; -1 where it is none. */
static int64_t field_number(const struct reading *r, int index)
{
    char text[32];
    size_t size;

    field_copy(r, index, text, sizeof text);
    size = strlen(text);
    return size > 0 && size <= 18 && strspn(text, "0123456789") == size ? strtoll(text, NULL, 10) : -1;
}

/* The same in bytes, of a count of units; -1 where that is more than can be counted, too. */
static int64_t field_bytes(const struct reading *r, int index, int64_t unit_bytes)
{
    int64_t count = field_number(r, index);

    return count < 0 || count > INT64_MAX / unit_bytes ? -1 : count * unit_bytes;
}

static bool field_is(const struct reading *r, int index, const char *text)
{
    return index < r->count && r->fields[index].size == strlen(text) && memcmp(r->fields[index].text, text, r->fields[index].size) == 0;
}

static json_t *list_of(json_t *object, const char *name)
{
    json_t *list = json_object_get(object, name);

    if (!list) {
        list = json_array();
        json_object_set_new(object, name, list);
    }
    return list;
}

static void append(json_t *list, json_t *value)
{
    if (json_array_size(list) < FACTS_LIST_MOST)
        json_array_append(list, value);
    json_decref(value);
}

/* ---- Lines ---- */

/* "1795556012.822017185" */
static void read_now(struct reading *r)
{
    char text[64], *dot;
    int64_t whole, us = 0;

    field_copy(r, 1, text, sizeof text);
    dot = strchr(text, '.');
    if (dot)
        *dot++ = '\0';
    whole = strlen(text) <= 12 && strspn(text, "0123456789") == strlen(text) ? strtoll(text, NULL, 10) : 0;
    for (int i = 0; i < 6; i++)
        us = us * 10 + (dot && isdigit((unsigned char)*dot) ? *dot++ - '0' : 0);
    json_object_set_new(r->seen, "now_us", json_integer(whole * US_PER_S + us));
}

static void read_boot(struct reading *r) { json_object_set_new(r->facts, "boot", json_string(field_is(r, 1, "uefi") ? "uefi" : "bios")); }
static void read_cpu_count(struct reading *r) { json_object_set_new(r->facts, "cpu_count", json_integer(field_number(r, 1))); }
static void read_memory(struct reading *r) { json_object_set_new(r->facts, "memory_bytes", json_integer(field_bytes(r, 1, 1024))); }

static void read_available(struct reading *r)
{
    json_object_set_new(r->seen, "memory_available_bytes", json_integer(field_bytes(r, 1, 1024)));
}

static void read_disk(struct reading *r)
{
    json_t *disk = json_pack("{s:o, s:s, s:I, s:b, s:b}", "name", field_text(r, 1), "id", "", "size_bytes",
                             (json_int_t)field_bytes(r, 2, 512), "in_use", field_is(r, 3, "yes"), "rotational", field_is(r, 4, "1"));
    const char *place;
    json_t *text = field_text(r, 5);

    MUST(disk);
    place = json_string_value(text);
    /* Where it is in the machine, as the agent says it: without what is numbered by order of appearance. */
    if (strncmp(place, "/sys/devices/", 13) == 0) {
        const char *at = place + 13, *block = strncmp(at, "virtual", 7) != 0 ? strstr(at, "/block/") : NULL;

        json_object_set_new(disk, "place", step_text(at, block ? (size_t)(block - at) : strlen(at)));
    } else {
        json_object_set(disk, "place", text);
    }
    json_decref(text);
    append(list_of(r->facts, "disks"), disk);
}

/* An id in the agent's spelling (agent/disks.c): blanks at the ends gone, runs of them one, what is no plain text '_', cut at its length. */
static void set_id(json_t *disk, const char *kind, const char *value)
{
    char id[ID_BYTES + 32], *out = id + snprintf(id, sizeof id, "%.15s:", kind);

    for (; *value && out < id + ID_BYTES; value++) {
        if (*value == ' ' && (value[1] == ' ' || !value[1]))
            continue;
        *out++ = *value > ' ' && *value < 127 ? *value : '_';
    }
    *out = '\0';
    json_object_set_new(disk, "id", step_text(id, strlen(id)));
}

static void read_id(struct reading *r) /* the last disk's */
{
    json_t *disks = list_of(r->facts, "disks"), *disk = json_array_get(disks, json_array_size(disks) - 1);
    char kind[16], value[256];
    const char *at = value;

    if (!disk || *json_get_string(disk, "id", ""))
        return;
    field_copy(r, 1, kind, sizeof kind);
    field_copy(r, 2, value, sizeof value);
    for (char *end = value + strlen(value); end > value && isspace((unsigned char)end[-1]);)
        *--end = '\0';
    at += strspn(at, " \t");
    set_id(disk, kind, at);
}

static void read_mount(struct reading *r)
{
    json_t *options = json_object_get(r->seen, "mount_options");
    char target[1024];

    append(list_of(r->facts, "mounts"),
           json_pack("{s:o, s:o, s:o}", "source", field_text(r, 1), "target", field_text(r, 2), "fstype", field_text(r, 3)));
    field_copy(r, 2, target, sizeof target);
    json_t *name = step_text(target, strlen(target));
    if (json_object_size(options) < FACTS_LIST_MOST)
        json_object_set_new(options, json_string_value(name), field_text(r, 5));
    json_decref(name);
}

static void read_swap(struct reading *r)
{
    append(list_of(r->facts, "swaps"),
           json_pack("{s:o, s:o, s:I}", "source", field_text(r, 1), "kind", field_text(r, 2), "size_bytes", (json_int_t)field_bytes(r, 3, 1024)));
}

static void read_free(struct reading *r)
{
    char path[256];

    field_copy(r, 1, path, sizeof path);
    json_t *name = step_text(path, strlen(path));
    json_object_set_new(json_object_get(r->seen, "free"), json_string_value(name), json_integer(field_bytes(r, 2, 1024)));
    json_decref(name);
}

/* "0100007F:0016": the kernel prints each 32-bit word in the machine's order, here little-endian. */
static bool read_socket(const char *text, bool six, char address[static INET6_ADDRSTRLEN], int *port)
{
    unsigned words[4] = {0}, number = 0;
    int used = 0, count = six ? 4 : 1;

    for (int i = 0; i < count; i++)
        if (sscanf(text + i * 8, "%8x%n", &words[i], &used) != 1 || used != 8)
            return false;
    if (sscanf(text + count * 8, ":%4x%n", &number, &used) != 1 || used != 5 || text[count * 8 + 5])
        return false;
    *port = (int)number;
    return inet_ntop(six ? AF_INET6 : AF_INET, words, address, INET6_ADDRSTRLEN) != NULL;
}

static void read_listening(struct reading *r)
{
    json_t *list = list_of(r->facts, "listening"), *held;
    char text[64], address[INET6_ADDRSTRLEN];
    size_t i;
    int port;

    if (!read_socket(field_copy(r, 1, text, sizeof text), field_is(r, 0, "tcp6"), address, &port))
        return;
    json_array_foreach(list, i, held)
        if (json_get_int(held, "port", 0) == port && strcmp(json_get_string(held, "address", ""), address) == 0)
            return;
    append(list, json_pack("{s:s, s:i}", "address", address, "port", port));
}

static json_t *nic_named(struct reading *r, int index)
{
    json_t *nics = list_of(r->facts, "nics"), *nic;
    size_t i;

    json_array_foreach(nics, i, nic)
        if (field_is(r, index, json_get_string(nic, "name", "")))
            return nic;
    return NULL;
}

static void read_nic(struct reading *r)
{
    append(list_of(r->facts, "nics"), json_pack("{s:o, s:o, s:[], s:n, s:o}", "name", field_text(r, 1), "mac", field_text(r, 2), "addresses",
                                                "gateway", "state", field_text(r, 3)));
}

static void read_address(struct reading *r)
{
    json_t *nic = nic_named(r, 1);

    if (nic)
        append(json_object_get(nic, "addresses"), field_text(r, 3));
}

static void read_route(struct reading *r)
{
    json_t *nic = nic_named(r, 1);

    if (nic && r->count > 2 && r->fields[2].size > 0)
        json_object_set_new(nic, "gateway", field_text(r, 2));
}

static void read_service(struct reading *r)
{
    char name[256];
    json_t *services = json_object_get(r->seen, "services");

    field_copy(r, 1, name, sizeof name);
    json_t *key = step_text(name, strlen(name));
    if (json_object_size(services) < FACTS_LIST_MOST)
        json_object_set_new(services, json_string_value(key), json_pack("{s:o, s:o}", "load", field_text(r, 2), "active", field_text(r, 3)));
    json_decref(key);
}

static void read_agent(struct reading *r)
{
    json_object_set_new(r->seen, "agent", field_text(r, 1));
    json_object_set_new(r->seen, "agent_active", field_text(r, 2));
}

static void read_end(struct reading *r) { r->ended = true; }

/* What a key means: a function; or a text kept under that name in facts or seen; or a list there. */
static const struct key {
    const char *name;
    void (*read)(struct reading *r);
    const char *fact, *seen, *fact_list, *seen_list;
} keys[] = {
    {"now", read_now, NULL, NULL, NULL, NULL},
    {"uid", NULL, NULL, "uid", NULL, NULL},
    {"hostname", NULL, "hostname", NULL, NULL, NULL},
    {"kernel", NULL, "kernel", NULL, NULL, NULL},
    {"arch", NULL, "arch", NULL, NULL, NULL},
    {"os", NULL, "os", NULL, NULL, NULL},
    {"os_id", NULL, "os_id", NULL, NULL, NULL},
    {"boot", read_boot, NULL, NULL, NULL, NULL},
    {"cpu_count", read_cpu_count, NULL, NULL, NULL, NULL},
    {"MemTotal:", read_memory, NULL, NULL, NULL, NULL},
    {"MemAvailable:", read_available, NULL, NULL, NULL, NULL},
    {"SwapTotal:", NULL, NULL, "swap_total_kib", NULL, NULL},
    {"virtual", NULL, "virtual", NULL, NULL, NULL},
    {"machine_uuid", NULL, NULL, "machine_uuid", NULL, NULL},
    {"systemd", NULL, NULL, "systemd", NULL, NULL},
    {"missing", NULL, NULL, NULL, NULL, "missing"},
    {"disk", read_disk, NULL, NULL, NULL, NULL},
    {"id", read_id, NULL, NULL, NULL, NULL},
    {"mount", read_mount, NULL, NULL, NULL, NULL},
    {"swap", read_swap, NULL, NULL, NULL, NULL},
    {"free", read_free, NULL, NULL, NULL, NULL},
    {"layout", NULL, NULL, NULL, NULL, "layout"},
    {"tcp", read_listening, NULL, NULL, NULL, NULL},
    {"tcp6", read_listening, NULL, NULL, NULL, NULL},
    {"nic", read_nic, NULL, NULL, NULL, NULL},
    {"address", read_address, NULL, NULL, NULL, NULL},
    {"route", read_route, NULL, NULL, NULL, NULL},
    {"network_manager", NULL, NULL, NULL, NULL, "network_managers"},
    {"failed_unit", NULL, NULL, NULL, "failed_units", NULL},
    {"service", read_service, NULL, NULL, NULL, NULL},
    {"lockdown", NULL, NULL, "lockdown", NULL, NULL},
    {"btf", NULL, NULL, "btf", NULL, NULL},
    {"bpf", NULL, NULL, "bpf", NULL, NULL},
    {"selinux", NULL, NULL, "selinux", NULL, NULL},
    {"secure_boot", NULL, NULL, "secure_boot", NULL, NULL},
    {"agent", read_agent, NULL, NULL, NULL, NULL},
    {"replicator", NULL, NULL, "replicator", NULL, NULL},
    {"parking", NULL, NULL, "parking", NULL, NULL},
    {"end", read_end, NULL, NULL, NULL, NULL},
};

static void read_line(struct reading *r, const char *line, size_t size)
{
    r->count = 0;
    while (r->count < FIELDS_MOST) {
        const char *tab = memchr(line, '\t', size);
        size_t length = tab ? (size_t)(tab - line) : size;

        r->fields[r->count++] = (struct field){line, length};
        if (!tab)
            break;
        line += length + 1;
        size -= length + 1;
    }
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        if (!field_is(r, 0, keys[i].name))
            continue;
        if (keys[i].read)
            keys[i].read(r);
        else if (keys[i].fact)
            json_object_set_new(r->facts, keys[i].fact, field_text(r, 1));
        else if (keys[i].seen)
            json_object_set_new(r->seen, keys[i].seen, field_text(r, 1));
        else
            append(keys[i].fact_list ? list_of(r->facts, keys[i].fact_list) : list_of(r->seen, keys[i].seen_list), field_text(r, 1));
        return;
    }
}

/* ---- The whole ---- */

/* Whose driver a disk needs, by where it is ("pci0000:00/0000:00:05.0/virtio2/host0/target0:0:0/0:0:0:0"): "other" is all that isn't virtio. */
static const char *driver_at(const char *place)
{
    const char *virtio = strstr(place, "/virtio");

    if (!virtio)
        return "other";
    return strstr(virtio, "/host") ? "virtio_scsi" : "virtio_blk";
}

/* Disks without an id are named by their place; clones, of one id, get the place's hash added, as the agent does. */
static void finish_disks(json_t *disks)
{
    json_t *disk, *other;
    size_t i, k;

    json_array_foreach(disks, i, disk)
        if (!*json_get_string(disk, "id", ""))
            set_id(disk, "path", json_get_string(disk, "place", ""));
    json_array_foreach(disks, i, disk) {
        const char *place = json_get_string(disk, "place", "");
        uint8_t hash[HASH_SHA256_SIZE];
        char mark[2 * TWIN_MARK_BYTES + 1];
        bool twin = false;

        json_array_foreach(disks, k, other)
            twin |= k != i && strcmp(json_get_string(disk, "id", ""), json_get_string(other, "id", "")) == 0;
        hash_sha256(place, strlen(place), hash);
        if (twin)
            json_object_set_new(disk, "twin", json_sprintf("%s@%s", json_get_string(disk, "id", ""), hash_hex(hash, TWIN_MARK_BYTES, mark)));
    }
    json_array_foreach(disks, i, disk) {
        if (json_object_get(disk, "twin"))
            json_object_set(disk, "id", json_object_get(disk, "twin"));
        json_object_del(disk, "twin");
        json_object_set_new(disk, "driver", json_string(driver_at(json_get_string(disk, "place", ""))));
        json_object_del(disk, "place");
    }
}

/* Interfaces without an address carry none of the machine's traffic: bridges of containers, spare ports. */
static void finish_nics(json_t *nics)
{
    for (size_t i = json_array_size(nics); i-- > 0;) {
        json_t *nic = json_array_get(nics, i);

        json_object_del(nic, "state");
        if (json_array_size(json_object_get(nic, "addresses")) == 0)
            json_array_remove(nics, i);
    }
}

int facts_parse(const char *text, size_t size, json_t **facts, json_t **seen, struct err *e)
{
    static const char *const lists[] = {"disks", "mounts", "swaps", "listening", "nics", "failed_units"};
    CLEANUP(json_free) json_t *f = json_object(), *s = json_pack("{s:{}, s:{}, s:{}}", "free", "services", "mount_options");
    struct reading r = {.facts = f, .seen = s};

    for (size_t i = 0; i < ARRAY_COUNT(lists); i++)
        list_of(f, lists[i]);
    for (int lines = 0; size > 0 && lines < FACTS_LINES_MOST; lines++) {
        const char *end = memchr(text, '\n', size);
        size_t length = end ? (size_t)(end - text) : size;

        read_line(&r, text, length);
        text += length + (end != NULL);
        size -= length + (end != NULL);
    }
    if (!r.ended)
        return err_set(e, ERR_PROTOCOL, "the source's answer to the inspection is cut off or not understood");
    finish_disks(list_of(f, "disks"));
    finish_nics(list_of(f, "nics"));
    *facts = json_incref(f);
    *seen = json_incref(s);
    return 0;
}

const json_t *facts_nic_of(const json_t *facts, const char *address, const char **cidr)
{
    const json_t *nic, *held;
    size_t i, k, size = strlen(address);

    json_array_foreach(json_object_get(facts, "nics"), i, nic)
        json_array_foreach(json_object_get(nic, "addresses"), k, held) {
            const char *text = json_string_value(held);

            if (strncmp(text, address, size) == 0 && (text[size] == '/' || !text[size])) {
                *cidr = text;
                return nic;
            }
        }
    return NULL;
}
