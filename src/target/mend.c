#include "target/mend.h"
#include "target/target.h"
#include "base/proc.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAP_TIMEOUT_MS 60000

__attribute__((format(printf, 2, 3))) static void reason(json_t *reasons, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    json_array_append_new(reasons, json_string(text));
}

static void disk_reasons(const json_t *disks, const char *disk_bus, json_t *reasons)
{
    bool scsi = strcmp(disk_bus, "scsi") == 0;
    const char *driver_wanted = scsi ? "virtio_scsi" : "virtio_blk";
    json_t *disk;
    size_t i;

    json_array_foreach(disks, i, disk) {
        const char *name = json_get_string(disk, "name", "?"), *driver = json_get_string(disk, "driver", "an unknown driver");
        char expected[4] = {scsi ? 's' : 'v', 'd', (char)('a' + i), '\0'};

        if (i >= 26 || strcmp(name, expected) != 0)
            reason(reasons, "the disk %s of the source is called %s on the copy", name, i < 26 ? expected : "otherwise");
        if (strcmp(driver, driver_wanted) != 0)
            reason(reasons, "the disk %s had %s at the source and needs %s on the copy", name, driver, driver_wanted);
    }
}

/* Names that the target keeps: enp0sN by the slot it gives the interface, ethN where there is but one. */
static bool name_is_kept(const char *name, size_t count)
{
    int slot = 0, used = 0;

    if (sscanf(name, "enp0s%2d%n", &slot, &used) == 1 && !name[used] && slot >= 1 && slot <= 30)
        return true;
    return count == 1 && strcmp(name, "eth0") == 0;
}

int mend_reasons(const json_t *facts, const char *disk_bus, json_t *reasons)
{
    const json_t *disks = json_object_get(facts, "disks"), *nics = json_object_get(facts, "nics");
    size_t before = json_array_size(reasons), i;
    json_t *nic;

    if (json_array_size(disks) == 0)
        reason(reasons, "the source's disks are not known");
    disk_reasons(disks, disk_bus, reasons);
    json_array_foreach(nics, i, nic) {
        const char *name = json_get_string(nic, "name", "?");

        if (!name_is_kept(name, json_array_size(nics)))
            reason(reasons, "the interface %s may have another name on the copy", name);
    }
    if (strcmp(json_get_string(facts, "boot", ""), "bios") != 0)
        reason(reasons, "the copy boots by UEFI without the source's boot entries");
    return (int)(json_array_size(reasons) - before);
}

bool mend_has_module(const char *listing, const char *module)
{
    size_t length = strlen(module);

    for (const char *at = listing; (at = strstr(at, ".ko")); at += 3) {
        const char *name = at;
        size_t i = 0;

        while (name > listing && name[-1] != '/' && name[-1] != '\n')
            name--;
        /* Files write virtio_blk as virtio-blk, too. */
        while (i < length && name + i < at && (name[i] == '-' ? '_' : name[i]) == module[i])
            i++;
        if (i == length && name + length == at)
            return true;
    }
    return false;
}

/* The length of the device name that starts here: "/dev/" and what follows. */
static size_t device_length(const char *at)
{
    size_t length = 5;

    while (isalnum((unsigned char)at[length]) || strchr("_-./", at[length])) {
        if (!at[length])
            break;
        length++;
    }
    return length;
}

static bool of_a_disk(const char *device, size_t length, const char *const *disk_names)
{
    for (; *disk_names; disk_names++) {
        size_t name = strlen(*disk_names);

        if (length < 5 + name || memcmp(device + 5, *disk_names, name) != 0)
            continue;
        if (length == 5 + name || isdigit((unsigned char)device[5 + name]) ||
            (device[5 + name] == 'p' && isdigit((unsigned char)device[6 + name])))
            return true;
    }
    return false;
}

/* Whether a device name may be replaced at this place of the line. */
static bool in_place(const char *line, const char *at, int field)
{
    int fields = 0;

    if (field == 0)
        return (at - line >= 5 && memcmp(at - 5, "root=", 5) == 0) || (at - line >= 7 && memcmp(at - 7, "resume=", 7) == 0);
    for (const char *c = line; c < at; c++)
        fields += !isspace((unsigned char)*c) && (c == line || isspace((unsigned char)c[-1]));
    return fields == field - 1 && (at == line || isspace((unsigned char)at[-1]));
}

int mend_rename(const char *text, int field, const struct mend_name *names, int name_count, const char *const *disk_names,
                struct buf *out, char unknown[static 40])
{
    const char *line = text;
    int replaced = 0;

    for (const char *at = text; *at;) {
        size_t length, first = strspn(line, " \t");
        int i = 0;

        if (line[first] == '#' || strncmp(at, "/dev/", 5) != 0 || !in_place(line, at, field)) {
            buf_add(out, at, 1);
            if (*at++ == '\n')
                line = at;
            continue;
        }
        length = device_length(at);
        while (i < name_count && (strlen(names[i].device) != length || memcmp(names[i].device, at, length) != 0))
            i++;
        if (i < name_count) {
            buf_puts(out, names[i].identity);
            replaced++;
        } else {
            if (of_a_disk(at, length, disk_names) && !unknown[0])
                snprintf(unknown, 40, "%.*s", (int)length, at);
            buf_add(out, at, length);
        }
        at += length;
    }
    return replaced;
}

int mend_ranges(const struct mend_disk *disk, json_t *ranges, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0};
    CLEANUP(json_free) json_t *map = NULL;
    struct proc_options options = {.argv = (const char *const[]){"qemu-img", "map", "--output=json", disk->overlay_path, NULL},
                                   .timeout_ms = MAP_TIMEOUT_MS};
    json_t *part;
    size_t i;

    if (proc_must(&options, &out, e) < 0 || json_read(out.data, out.size_bytes, &map, e) < 0)
        return err_wrap(e, "looking at what was mended on %s", disk->id);
    json_array_foreach(map, i, part)
        if (json_get_int(part, "depth", -1) == 0) /* in the overlay itself */
            json_array_append_new(ranges, json_pack("{s:s,s:I,s:I}", "disk", disk->id, "offset_bytes",
                                                    (json_int_t)json_get_int(part, "start", 0), "size_bytes",
                                                    (json_int_t)json_get_int(part, "length", 0)));
    return 0;
}
