#include "target/local.h"
#include "base/file.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SERIAL_NUMBER_BYTES 20 /* of a virtio disk */
#define SERIAL_HASH_AT 11      /* "-1234abcd" */

/* A growing command line; everything lives in the arena. */
struct args {
    struct arena *arena;
    const char **words;
    size_t count, held;
};

static void add(struct args *a, const char *word)
{
    if (a->count + 2 > a->held) {
        size_t held = a->held ? a->held * 2 : 64;
        const char **words = arena_alloc(a->arena, held * sizeof *words);

        if (a->count)
            memcpy(words, a->words, a->count * sizeof *words);
        a->words = words;
        a->held = held;
    }
    a->words[a->count++] = word;
    a->words[a->count] = NULL;
}

__attribute__((format(printf, 3, 4))) static void option(struct args *a, const char *name, const char *format, ...)
{
    char value[1024];
    va_list args;

    va_start(args, format);
    MUST(vsnprintf(value, sizeof value, format, args) < (int)sizeof value);
    va_end(args);
    add(a, name);
    add(a, arena_strdup(a->arena, value));
}

static void option_json(struct args *a, const char *name, json_t *value)
{
    CLEANUP(free_ptr) char *text = json_text(value);

    json_decref(value);
    add(a, name);
    add(a, arena_strdup(a->arena, text));
}

int args_firmware(const char **code, const char **variables, struct err *e)
{
    static const char *const pairs[][2] = {
        {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
        {"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(pairs); i++)
        if (file_exists(pairs[i][0]) && file_exists(pairs[i][1])) {
            *code = pairs[i][0];
            *variables = pairs[i][1];
            return 0;
        }
    return err_set(e, ERR_NOT_FOUND, "a UEFI machine needs firmware, and there is none: install the package ovmf");
}

/* The export as a node named baseN: raw over NBD, that outlives a restart of the replicator. */
static int add_base(struct args *a, const struct target *t, const struct target_disk *disk, int number, struct err *e)
{
    struct spec_nbd place;
    json_t *server = json_object(), *nbd = json_object(), *base = json_object();

    json_object_set_new(nbd, "driver", json_string("nbd"));
    json_object_set_new(nbd, "server", server);
    json_object_set_new(base, "driver", json_string("raw"));
    json_object_set_new(base, "node-name", json_sprintf("base%d", number));
    json_object_set_new(base, "read-only", json_true());
    json_object_set_new(base, "file", nbd);
    if (spec_nbd_parse(disk->nbd_uri, &place, e) < 0) {
        json_decref(base);
        return -1;
    }
    if (place.socket_path[0]) {
        json_object_set_new(server, "type", json_string("unix"));
        json_object_set_new(server, "path", json_string(place.socket_path));
    } else {
        json_object_set_new(server, "type", json_string("inet"));
        json_object_set_new(server, "host", json_string(place.host));
        json_object_set_new(server, "port", json_sprintf("%d", place.port));
    }
    json_object_set_new(nbd, "export", json_string(place.export_name));
    json_object_set_new(nbd, "read-only", json_true());
    json_object_set_new(nbd, "reconnect-delay", json_integer(t->reconnect_s));
    json_object_set_new(nbd, "open-timeout", json_integer(10));
    option_json(a, "-blockdev", base);
    return 0;
}

/* The disk's id as its serial number, so that names by id stay what they were; only harmless characters. One that does not fit ends with its hash: two
 * disks must not be one. */
void local_disk_serial(const char *id, char out[static TARGET_SERIAL_SIZE])
{
    uint64_t hash = UINT64_C(14695981039346656037);
    bool same = true;
    size_t used = 0;

    if (strncmp(id, "serial:", 7) == 0) /* how the agent says where it has an id from */
        id += 7;
    for (; *id; id++) {
        bool plain = strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.", *id);

        hash = (hash ^ (unsigned char)*id) * UINT64_C(1099511628211);
        if (plain && used < SERIAL_NUMBER_BYTES)
            out[used++] = *id;
        else
            same = false;
    }
    out[used] = '\0';
    if (!same)
        snprintf(out + (used < SERIAL_HASH_AT ? used : SERIAL_HASH_AT), SERIAL_NUMBER_BYTES + 1 - SERIAL_HASH_AT, "-%08x", (unsigned)(hash >> 32));
}

json_t *args_overlay(const struct instance *i, int disk)
{
    json_t *overlay = json_object();

    json_object_set_new(overlay, "driver", json_string("qcow2"));
    json_object_set_new(overlay, "node-name", json_sprintf("disk%d", disk));
    json_object_set_new(overlay, "discard", json_string("unmap"));
    json_object_set_new(overlay, "file", json_pack("{s:s,s:s}", "driver", "file", "filename", instance_path(i, "disk-%d.qcow2", disk)));
    return overlay;
}

static int add_disk(struct args *a, const struct target *t, const struct instance *i, const struct target_spec *spec, int number,
                    bool has_backing, struct err *e)
{
    const struct target_disk *disk = &spec->disks[number];
    bool scsi = strcmp(spec->disk_bus, "scsi") == 0;
    json_t *overlay = args_overlay(i, number);
    char serial[TARGET_SERIAL_SIZE], boot[32] = "";

    json_object_set_new(overlay, "backing", has_backing ? json_sprintf("base%d", number) : json_null());
    if (has_backing && add_base(a, t, disk, number, e) < 0) {
        json_decref(overlay);
        return err_wrap(e, "disk %s", disk->id);
    }
    option_json(a, "-blockdev", overlay);
    local_disk_serial(disk->id, serial);
    if (disk->boot_order > 0)
        snprintf(boot, sizeof boot, ",bootindex=%d", disk->boot_order);
    /* A disk that can't be read or written pauses the machine: an error inside it would harm its file systems. */
    if (scsi)
        option(a, "-device", "scsi-hd,bus=scsi0.0,channel=0,scsi-id=%d,lun=0,drive=disk%d,id=device%d,serial=%s,rerror=stop,werror=stop%s",
               number, number, number, serial, boot);
    else
        option(a, "-device", "virtio-blk-pci,drive=disk%d,id=device%d,serial=%s,rerror=stop,werror=stop%s", number, number, serial, boot);
    return 0;
}

/* An interface that was called enp0sN gets PCI slot N again, so that its name stays. */
static int slot_of(const struct target_nic *nic)
{
    int slot = 0, used = 0;

    if (!nic->name || sscanf(nic->name, "enp0s%2d%n", &slot, &used) != 1 || nic->name[used] || slot < 1 || slot > 30)
        return 0;
    return slot;
}

static void add_nics(struct args *a, const struct target_spec *spec)
{
    for (int pass = 0; pass < 2; pass++) /* the others take what is left */
        for (int nic = 0; nic < spec->nic_count; nic++) {
            int slot = slot_of(&spec->nics[nic]);
            char mac[18], address[16] = "";

            if ((slot == 0) != (pass == 1))
                continue;
            if (slot)
                snprintf(address, sizeof address, ",addr=0x%x", (unsigned)slot);
            network_mac(spec, nic, mac);
            option(a, "-netdev", "tap,id=net%d,ifname=tap%d,script=no,downscript=no", nic, nic);
            option(a, "-device", "virtio-net-pci,netdev=net%d,mac=%s,romfile=%s", nic, mac, address);
        }
}

static int add_firmware(struct args *a, const struct instance *i, struct err *e)
{
    const char *code = NULL, *variables = NULL;

    if (args_firmware(&code, &variables, e) < 0)
        return -1;
    option_json(a, "-blockdev", json_pack("{s:s,s:s,s:b,s:s}", "driver", "file", "filename", code, "read-only", 1, "node-name", "code"));
    option_json(a, "-blockdev", json_pack("{s:s,s:s,s:s}", "driver", "file", "filename", instance_path(i, "vars.fd"), "node-name", "vars"));
    option(a, "-machine", "q35,pflash0=code,pflash1=vars");
    return 0;
}

int args_make(const struct target *t, const struct instance *i, const struct target_spec *spec, const bool *has_backing,
              const char ***argv, struct err *e)
{
    struct args a = {.arena = i->arena};

    MUST(t->accel_known);
    add(&a, "qemu-system-x86_64");
    option(&a, "-name", "guest=%s", spec->instance);
    add(&a, "-nodefaults");
    add(&a, "-no-user-config");
    /* The guest is somebody else's machine: QEMU may not start programs nor become more than it is. */
    option(&a, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    if (!spec->uefi)
        option(&a, "-machine", "q35");
    else if (add_firmware(&a, i, e) < 0)
        return -1;
    option(&a, "-accel", "%s", accel_option(&t->accel));
    option(&a, "-cpu", "%s", accel_cpu(&t->accel));
    option(&a, "-smp", "%d", spec->cpu_count);
    option(&a, "-m", "%lldM", (long long)(spec->memory_bytes >> 20));
    option(&a, "-rtc", "base=utc");
    option(&a, "-boot", "strict=on");
    option(&a, "-display", "none");
    add_nics(&a, spec); /* first: those that need a certain slot find it free */
    option(&a, "-device", "VGA");
    if (strcmp(spec->disk_bus, "scsi") == 0)
        option(&a, "-device", "virtio-scsi-pci,id=scsi0");
    for (int disk = 0; disk < spec->disk_count; disk++)
        if (add_disk(&a, t, i, spec, disk, has_backing[disk], e) < 0)
            return -1;
    option(&a, "-device", "virtio-balloon-pci,id=balloon");
    option(&a, "-device", "virtio-rng-pci");
    option(&a, "-chardev", "file,id=serial,path=serial.log,append=on");
    option(&a, "-device", "isa-serial,chardev=serial");
    option(&a, "-chardev", "socket,id=qmp,path=qmp.sock,server=on,wait=off"); /* relative: its folder is where QEMU starts */
    option(&a, "-mon", "chardev=qmp,mode=control");
    option(&a, "-pidfile", "%s", instance_path(i, "qemu.pid"));
    *argv = a.words;
    return 0;
}
