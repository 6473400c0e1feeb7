#include "target/spec.h"
#include "base/hash.h"
#include "base/limits.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#define CPU_LIMIT 64
#define MEMORY_LEAST_BYTES (INT64_C(64) << 20)
#define MEMORY_MOST_BYTES (INT64_C(4) << 40)
#define PCI_DEVICE_LIMIT 26 /* of q35's 32 slots, beside our own devices */

bool spec_name_is_good(const char *name)
{
    size_t length = name ? strlen(name) : 0;

    return length >= 1 && length <= SPEC_NAME_LIMIT && name[0] != '-' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

int spec_address_parse(const char *text, uint32_t *out, struct err *e)
{
    struct in_addr parsed;

    if (!text || inet_pton(AF_INET, text, &parsed) != 1)
        return err_set(e, ERR_INVALID, "\"%s\" is not an IPv4 address like 192.0.2.11", text ? text : "");
    *out = ntohl(parsed.s_addr);
    return 0;
}

int spec_cidr_parse(const char *text, struct spec_cidr *out, struct err *e)
{
    char address[INET_ADDRSTRLEN] = "";
    const char *slash = text ? strchr(text, '/') : NULL;
    struct spec_cidr parsed;
    int used = 0;

    if (!slash || (size_t)(slash - text) >= sizeof address || sscanf(slash, "/%2d%n", &parsed.prefix, &used) != 1 ||
        slash[used] || slash[1] < '0' || slash[1] > '9' || parsed.prefix < 1 || parsed.prefix > 32)
        return err_set(e, ERR_INVALID, "\"%s\" is not an IPv4 address with its prefix like 192.0.2.11/24", text ? text : "");
    memcpy(address, text, (size_t)(slash - text));
    if (spec_address_parse(address, &parsed.address, e) < 0)
        return -1;
    *out = parsed;
    return 0;
}

bool spec_cidr_holds(const struct spec_cidr *cidr, uint32_t address)
{
    return ((cidr->address ^ address) & ~(uint32_t)((UINT64_C(1) << (32 - cidr->prefix)) - 1)) == 0;
}

/* Undoes percent-encoding of size bytes into out; -1 where it is wrong or does not fit. */
static int decode(const char *text, size_t size, char *out, size_t out_size)
{
    size_t used = 0;

    for (size_t i = 0; i < size; i++) {
        char c = text[i];

        if (c == '%') {
            if (size - i < 3 || hash_digit(text[i + 1]) < 0 || hash_digit(text[i + 2]) < 0)
                return -1;
            c = (char)(hash_digit(text[i + 1]) * 16 + hash_digit(text[i + 2]));
            i += 2;
        }
        if (!c || used + 1 >= out_size)
            return -1;
        out[used++] = c;
    }
    out[used] = '\0';
    return 0;
}

static int parse_unix(const char *after, struct spec_nbd *out)
{
    const char *query = strchr(after, '?');

    if (after[0] != '/' || !query || strncmp(query, "?socket=", 8) != 0 || strchr(query, '&'))
        return -1;
    if (decode(after + 1, (size_t)(query - after - 1), out->export_name, sizeof out->export_name) < 0)
        return -1;
    if (decode(query + 8, strlen(query + 8), out->socket_path, sizeof out->socket_path) < 0)
        return -1;
    return out->socket_path[0] == '/' ? 0 : -1;
}

static int parse_tcp(const char *after, struct spec_nbd *out)
{
    size_t host = strcspn(after, ":/?");
    int used = 0;

    if (host == 0 || decode(after, host, out->host, sizeof out->host) < 0)
        return -1;
    out->port = 10809;
    after += host;
    if (*after == ':') {
        if (sscanf(after, ":%5d%n", &out->port, &used) != 1 || out->port < 1 || out->port > 65535)
            return -1;
        after += used;
    }
    if (*after == '/')
        after++;
    else if (*after)
        return -1;
    return strchr(after, '?') ? -1 : decode(after, strlen(after), out->export_name, sizeof out->export_name);
}

int spec_nbd_parse(const char *uri, struct spec_nbd *out, struct err *e)
{
    struct spec_nbd parsed = {0};
    int result = -1;

    if (uri && strncmp(uri, "nbd+unix://", 11) == 0)
        result = parse_unix(uri + 11, &parsed);
    else if (uri && strncmp(uri, "nbd://", 6) == 0)
        result = parse_tcp(uri + 6, &parsed);
    if (result < 0)
        return err_set(e, ERR_INVALID, "\"%s\" is not an NBD address like nbd+unix:///NAME?socket=/path (path up to %zu bytes)",
                       uri ? uri : "", sizeof parsed.socket_path - 1);
    *out = parsed;
    return 0;
}

static bool mac_is_good(const char *mac)
{
    unsigned bytes[6];
    int used = 0;

    return strlen(mac) == 17 && strspn(mac, "0123456789abcdefABCDEF:") == 17 &&
           sscanf(mac, "%2x:%2x:%2x:%2x:%2x:%2x%n", &bytes[0], &bytes[1], &bytes[2], &bytes[3], &bytes[4], &bytes[5], &used) == 6 &&
           used == 17 && !(bytes[0] & 1);
}

static void disk_faults(const struct target_spec *spec, json_t *lines)
{
    int boots = 0;

    for (int i = 0; i < spec->disk_count; i++) {
        const struct target_disk *disk = &spec->disks[i];
        struct spec_nbd place;
        struct err why = {0};

        boots += disk->boot_order == 1;
        if (!disk->id || !disk->id[0] || strlen(disk->id) > LIMIT_NAME_BYTES)
            target_line(lines, "disks", false, "give each disk its id", "disk %d has no id, or a too long one", i);
        if (disk->size_bytes <= 0 || disk->size_bytes % 512)
            target_line(lines, "disks", false, "sizes are whole sectors of 512 bytes", "disk %d has %lld bytes", i,
                        (long long)disk->size_bytes);
        if (spec_nbd_parse(disk->nbd_uri, &place, &why) < 0)
            target_line(lines, "disks", false, "export the recovery point first", "disk %d: %s", i, why.message);
    }
    if (boots != 1)
        target_line(lines, "disks", false, "one disk has boot order 1", "%d disks would boot", boots);
}

static void nic_faults(const struct target_spec *spec, json_t *lines)
{
    for (int i = 0; i < spec->nic_count; i++) {
        const struct target_nic *nic = &spec->nics[i];
        struct spec_cidr cidr;
        struct err why = {0};
        uint32_t gateway;

        for (int other = 0; other < i; other++)
            if (nic->name && spec->nics[other].name && strcmp(nic->name, spec->nics[other].name) == 0)
                target_line(lines, "network", false, "names of interfaces are unique", "two interfaces are called \"%s\"", nic->name);
        if (nic->mac && !mac_is_good(nic->mac))
            target_line(lines, "network", false, "a unicast address like 52:54:00:00:00:01", "interface %d has the MAC \"%s\"", i,
                        nic->mac);
        if (!nic->address)
            continue;
        if (spec_cidr_parse(nic->address, &cidr, &why) < 0)
            target_line(lines, "network", false, "only IPv4 is supported as a copy's address", "interface %d: %s", i, why.message);
        else if (nic->gateway && spec_address_parse(nic->gateway, &gateway, &why) < 0)
            target_line(lines, "network", false, "give the gateway's IPv4 address", "interface %d: %s", i, why.message);
        else if (nic->gateway && !spec_cidr_holds(&cidr, gateway))
            target_line(lines, "network", false, "the gateway lies in the address's network",
                        "interface %d: gateway %s is outside %s", i, nic->gateway, nic->address);
    }
}

int spec_faults(const struct target_spec *spec, json_t *lines)
{
    size_t before = json_array_size(lines);
    bool scsi = spec->disk_bus && strcmp(spec->disk_bus, "scsi") == 0;

    if (!spec_name_is_good(spec->instance))
        target_line(lines, "name", false, "1 to 40 of a-z, 0-9 and -, not starting with -", "\"%s\" can't name an instance",
                    spec->instance ? spec->instance : "");
    if (spec->cpu_count < 1 || spec->cpu_count > CPU_LIMIT)
        target_line(lines, "cpu", false, "set the server's attribute cpu", "%d CPUs; 1 to %d are possible", spec->cpu_count, CPU_LIMIT);
    if (spec->memory_bytes < MEMORY_LEAST_BYTES || spec->memory_bytes > MEMORY_MOST_BYTES)
        target_line(lines, "memory", false, "set the server's attribute memory_mib", "%lld MiB of memory; 64 MiB to 4 TiB are possible",
                    (long long)(spec->memory_bytes >> 20));
    if (!spec->disk_bus || (!scsi && strcmp(spec->disk_bus, "virtio") != 0))
        target_line(lines, "disk_bus", false, "it is virtio or scsi", "the disk bus is \"%s\"", spec->disk_bus ? spec->disk_bus : "");
    if (spec->disk_count < 1 || spec->disk_count > LIMIT_DISKS_PER_SERVER || spec->nic_count < 0 ||
        spec->nic_count > (int)ARRAY_COUNT(spec->nics)) {
        target_line(lines, "disks", false, "1 to 64 disks, at most 8 interfaces", "%d disks and %d interfaces", spec->disk_count,
                    spec->nic_count);
        return (int)(json_array_size(lines) - before);
    }
    if (!scsi && spec->disk_count + spec->nic_count > PCI_DEVICE_LIMIT)
        target_line(lines, "disks", false, "use the disk bus scsi", "%d disks and %d interfaces do not fit on the virtio bus",
                    spec->disk_count, spec->nic_count);
    if (spec->net != TARGET_NET_ISOLATED && (!spec->network || !spec->network[0]))
        target_line(lines, "network", false, "set the server's attribute target_network", "no network is named");
    disk_faults(spec, lines);
    nic_faults(spec, lines);
    return (int)(json_array_size(lines) - before);
}

int spec_check(const struct target_spec *spec, struct err *e)
{
    CLEANUP(json_free) json_t *lines = json_array();
    CLEANUP(buf_release) struct buf all = {0};
    json_t *line;
    size_t i;

    if (spec_faults(spec, lines) == 0)
        return 0;
    json_array_foreach(lines, i, line)
        buf_printf(&all, "%s%s (%s)", i ? "; " : "", json_get_string(line, "evidence", ""), json_get_string(line, "advice", ""));
    return err_set(e, ERR_INVALID, "the launch settings are wrong: %s", all.data);
}

static json_t *text_or_null(const char *text) { return text ? json_string(text) : json_null(); }

static const char *const net_names[] = {[TARGET_NET_ISOLATED] = "isolated", [TARGET_NET_CLOSED] = "closed", [TARGET_NET_OPEN] = "open"};

json_t *spec_to_json(const struct target_spec *spec)
{
    json_t *disks = json_array(), *nics = json_array(), *j = json_object();

    for (int i = 0; i < spec->disk_count; i++) {
        json_t *disk = json_object();

        json_object_set_new(disk, "id", text_or_null(spec->disks[i].id));
        json_object_set_new(disk, "nbd_uri", text_or_null(spec->disks[i].nbd_uri));
        json_object_set_new(disk, "size_bytes", json_integer(spec->disks[i].size_bytes));
        json_object_set_new(disk, "boot_order", json_integer(spec->disks[i].boot_order));
        json_array_append_new(disks, disk);
    }
    for (int i = 0; i < spec->nic_count; i++) {
        json_t *nic = json_object();

        json_object_set_new(nic, "mac", text_or_null(spec->nics[i].mac));
        json_object_set_new(nic, "address", text_or_null(spec->nics[i].address));
        json_object_set_new(nic, "gateway", text_or_null(spec->nics[i].gateway));
        json_object_set_new(nic, "name", text_or_null(spec->nics[i].name));
        json_array_append_new(nics, nic);
    }
    json_object_set_new(j, "instance", json_string(spec->instance));
    json_object_set_new(j, "server", text_or_null(spec->server));
    json_object_set_new(j, "cpu_count", json_integer(spec->cpu_count));
    json_object_set_new(j, "memory_bytes", json_integer(spec->memory_bytes));
    json_object_set_new(j, "uefi", json_boolean(spec->uefi));
    json_object_set_new(j, "disk_bus", json_string(spec->disk_bus));
    json_object_set_new(j, "disks", disks);
    json_object_set_new(j, "nics", nics);
    json_object_set_new(j, "net", json_string(net_names[spec->net]));
    json_object_set_new(j, "network", text_or_null(spec->network));
    return j;
}

static const char *keep(const json_t *object, const char *name, struct arena *a)
{
    return arena_strdup(a, json_get_string(object, name, NULL));
}

static int read_net(const json_t *j, enum target_net *out, struct err *e)
{
    const char *name = json_get_string(j, "net", "");

    for (size_t i = 0; i < ARRAY_COUNT(net_names); i++)
        if (strcmp(net_names[i], name) == 0) {
            *out = (enum target_net)i;
            return 0;
        }
    return err_set(e, ERR_CORRUPT, "\"net\" is \"%s\"", name);
}

int spec_from_json(const json_t *j, struct arena *a, struct target_spec *out, struct err *e)
{
    const json_t *disks = json_object_get(j, "disks"), *nics = json_object_get(j, "nics");
    struct target_spec spec = {
        .instance = keep(j, "instance", a), .server = keep(j, "server", a), .disk_bus = keep(j, "disk_bus", a),
        .network = keep(j, "network", a), .uefi = json_get_bool(j, "uefi", false),
        .cpu_count = (int)json_get_int(j, "cpu_count", 0), .memory_bytes = json_get_int(j, "memory_bytes", 0),
    };

    if (json_array_size(disks) > ARRAY_COUNT(spec.disks) || json_array_size(nics) > ARRAY_COUNT(spec.nics))
        return err_set(e, ERR_CORRUPT, "too many disks or interfaces");
    spec.disk_count = (int)json_array_size(disks);
    spec.nic_count = (int)json_array_size(nics);
    for (int i = 0; i < spec.disk_count; i++) {
        const json_t *disk = json_array_get(disks, (size_t)i);

        spec.disks[i] = (struct target_disk){keep(disk, "id", a), keep(disk, "nbd_uri", a), json_get_int(disk, "size_bytes", 0),
                                             (int)json_get_int(disk, "boot_order", 0), NULL};
    }
    for (int i = 0; i < spec.nic_count; i++) {
        const json_t *nic = json_array_get(nics, (size_t)i);

        spec.nics[i] = (struct target_nic){keep(nic, "mac", a), keep(nic, "address", a), keep(nic, "gateway", a),
                                           keep(nic, "name", a)};
    }
    if (read_net(j, &spec.net, e) < 0 || spec_check(&spec, e) < 0) {
        if (e)
            e->kind = ERR_CORRUPT;
        return -1;
    }
    *out = spec;
    return 0;
}
