#include "target/mend_guest.h"
#include "target/target.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_LIMIT_BYTES (1 << 20)
#define NAMES_LIMIT 512

void guest_free_list(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

void guest_free_text(char **text)
{
    free(*text);
    *text = NULL;
}

void guest_release(struct guest *g)
{
    free(g->root);
    free(g->names);
}

static void mended(json_t *mends, const char *what, const char *path, const char *before, const char *after)
{
    json_array_append_new(mends, json_pack("{s:s,s:s,s:s,s:s}", "what", what, "path", path, "before", before, "after", after));
}

/* The first lines in which the texts differ, for people. */
static void first_difference(const char *before, const char *after, char was[static 256], char is[static 256])
{
    const char *a = before, *b = after;

    while (*a && strcspn(a, "\n") == strcspn(b, "\n") && memcmp(a, b, strcspn(a, "\n")) == 0) {
        a += strcspn(a, "\n") + (a[strcspn(a, "\n")] == '\n');
        b += strcspn(b, "\n") + (b[strcspn(b, "\n")] == '\n');
    }
    snprintf(was, 256, "%.*s", (int)strcspn(a, "\n"), a);
    snprintf(is, 256, "%.*s", (int)strcspn(b, "\n"), b);
}

/* The n-th disk of the request, and so of libguestfs: /dev/sda, …, /dev/sdaa. */
static void appliance_name(int index, char out[static 16])
{
    if (index < 26)
        snprintf(out, 16, "/dev/sd%c", 'a' + index);
    else
        snprintf(out, 16, "/dev/sd%c%c", 'a' + index / 26 - 1, 'a' + index % 26);
}

static void add_name(struct guest *g, const char *source_device, const char *device)
{
    CLEANUP(guest_free_text) char *uuid = guestfs_vfs_uuid(g->handle, device);

    if (!uuid || !uuid[0] || g->name_count >= NAMES_LIMIT)
        return; /* no file system and no swap: nothing that is mounted by name */
    g->names = xrealloc(g->names, (size_t)(g->name_count + 1) * sizeof *g->names);
    snprintf(g->names[g->name_count].device, sizeof g->names->device, "%s", source_device);
    snprintf(g->names[g->name_count].identity, sizeof g->names->identity, "UUID=%s", uuid);
    g->name_count++;
}

int guest_names(struct guest *g, struct err *e)
{
    char **partitions = guestfs_list_partitions(g->handle);

    if (!partitions)
        return guest_failed(g, e, "reading the copy's partitions");
    for (int i = 0; i < g->request->disk_count; i++) {
        const char *name = g->request->disks[i].source_name;
        bool digit = name[0] && isdigit((unsigned char)name[strlen(name) - 1]); /* nvme0n1: its partitions are nvme0n1p1 … */
        char device[16], source[40];

        appliance_name(i, device);
        snprintf(source, sizeof source, "/dev/%.30s", name);
        add_name(g, source, device);
        for (size_t p = 0; partitions[p]; p++) {
            const char *number = partitions[p] + strlen(device);

            if (strncmp(partitions[p], device, strlen(device)) != 0 || !isdigit((unsigned char)*number))
                continue;
            snprintf(source, sizeof source, "/dev/%.24s%s%.8s", name, digit ? "p" : "", number);
            add_name(g, source, partitions[p]);
        }
    }
    guest_free_list(partitions);
    return 0;
}

/* The file's text, NULL where there is none; the caller frees. */
static char *read_text(struct guest *g, const char *path)
{
    size_t size = 0;
    char *raw, *text;

    if (guestfs_is_file_opts(g->handle, path, GUESTFS_IS_FILE_OPTS_FOLLOWSYMLINKS, 1, -1) != 1 ||
        guestfs_filesize(g->handle, path) > FILE_LIMIT_BYTES || !(raw = guestfs_read_file(g->handle, path, &size)))
        return NULL;
    text = xmalloc(size + 1);
    memcpy(text, raw, size);
    text[size] = '\0';
    free(raw);
    return text;
}

static int mend_file(struct guest *g, const char *path, int field, const char *const *disk_names, json_t *lines, json_t *mends, struct err *e)
{
    CLEANUP(free_ptr) char *text = read_text(g, path);
    CLEANUP(buf_release) struct buf out = {.limit_bytes = 4 * FILE_LIMIT_BYTES};
    char unknown[40] = "", was[256], is[256];
    int replaced;

    if (!text)
        return 0;
    replaced = mend_rename(text, field, g->names, g->name_count, disk_names, &out, unknown);
    if (unknown[0])
        return err_set(e, ERR_UNSUPPORTED, "%s names %s, which has another name on the copy and no UUID: name it by identity at the source",
                       path, unknown);
    if (replaced > 0) {
        first_difference(text, out.data, was, is);
        if (guestfs_write(g->handle, path, out.data, out.size_bytes) < 0)
            return guest_failed(g, e, path);
        mended(mends, "devices named by identity", path, was, is);
    }
    target_line(lines, "names", true, NULL, "%s: %d devices were named by their place%s", path, replaced, replaced ? ", mended" : "");
    return 0;
}

int guest_mend_names(struct guest *g, json_t *lines, json_t *mends, struct err *e)
{
    static const struct {
        const char *path;
        int field;
    } files[] = {{"/etc/fstab", 1}, {"/etc/crypttab", 2}, {"/etc/default/grub", 0}, {"/boot/grub/grub.cfg", 0},
                 {"/boot/grub2/grub.cfg", 0}, {"/boot/grub/menu.lst", 0}, {"/etc/initramfs-tools/conf.d/resume", 0}};
    CLEANUP(free_ptr) const char **disk_names = xcalloc((size_t)g->request->disk_count + 1, sizeof *disk_names);

    for (int i = 0; i < g->request->disk_count; i++)
        disk_names[i] = g->request->disks[i].source_name;
    for (size_t i = 0; i < ARRAY_COUNT(files); i++)
        if (mend_file(g, files[i].path, files[i].field, disk_names, lines, mends, e) < 0)
            return -1;
    return 0;
}

/* Whether the text has the word: not as a part of another. */
static bool has_word(const char *text, const char *word)
{
    size_t length = strlen(word);

    for (const char *at = text; (at = strstr(at, word)); at += length)
        if ((at == text || !(isalnum((unsigned char)at[-1]) || at[-1] == '_')) && !isalnum((unsigned char)at[length]) && at[length] != '_')
            return true;
    return false;
}

/* Where the configuration calls an interface by name: the path is copied out. */
static bool find_reference(struct guest *g, const char *name, char path[static 256])
{
    static const char *const patterns[] = {"/etc/network/interfaces", "/etc/network/interfaces.d/*", "/etc/netplan/*", "/etc/systemd/network/*",
                                           "/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*",
                                           "/etc/NetworkManager/system-connections/*"};
    bool found = false;

    for (size_t i = 0; i < ARRAY_COUNT(patterns) && !found; i++) {
        char **files = guestfs_glob_expand(g->handle, patterns[i]);

        for (size_t f = 0; files && files[f] && !found; f++) {
            CLEANUP(free_ptr) char *text = read_text(g, files[f]);

            found = (text && has_word(text, name)) || has_word(strrchr(files[f], '/'), name);
            if (found)
                snprintf(path, 256, "%s", files[f]);
        }
        guest_free_list(files);
    }
    return found;
}

static int pin_interface(struct guest *g, const char *name, const char *mac, json_t *mends, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("/etc/systemd/network/10-slipway-%s.link", name);
    CLEANUP(free_ptr) char *text = xasprintf("[Match]\nMACAddress=%s\n\n[Link]\nName=%s\n", mac, name);

    if (guestfs_is_dir(g->handle, "/etc/systemd") != 1)
        return err_set(e, ERR_UNSUPPORTED, "the interface %s is configured by name, and the copy has no systemd to name it: "
                                           "configure it by its MAC at the source", name);
    if (guestfs_mkdir_p(g->handle, "/etc/systemd/network") < 0 || guestfs_write(g->handle, path, text, strlen(text)) < 0)
        return guest_failed(g, e, path);
    mended(mends, "interface named by its MAC", path, "(absent)", text);
    return 0;
}

int guest_mend_interfaces(struct guest *g, json_t *lines, json_t *mends, struct err *e)
{
    json_t *nic;
    size_t i;

    json_array_foreach(json_object_get(g->request->facts, "nics"), i, nic) {
        const char *name = json_get_string(nic, "name", ""), *mac = json_get_string(nic, "mac", "");
        char path[256];
        bool plain = name[0] && strlen(name) < 16 && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == strlen(name);

        if (!plain || !mac[0] || !find_reference(g, name, path)) {
            target_line(lines, "interface", true, NULL, "no configuration calls %s by its name", name);
            continue;
        }
        if (pin_interface(g, name, mac, mends, e) < 0)
            return -1;
        target_line(lines, "interface", true, NULL, "%s names %s: mended, it keeps its name by its MAC %s", path, name, mac);
    }
    return 0;
}

/* The newest kernel that has its modules; the caller frees. */
static char *newest_kernel(struct guest *g)
{
    char **versions = guestfs_ls(g->handle, "/lib/modules"), *newest = NULL;

    for (size_t i = 0; versions && versions[i]; i++) {
        CLEANUP(free_ptr) char *kernel = xasprintf("/boot/vmlinuz-%s", versions[i]);

        if (guestfs_is_file(g->handle, kernel) == 1 && (!newest || strverscmp(versions[i], newest) > 0)) {
            free(newest);
            newest = xstrdup(versions[i]);
        }
    }
    guest_free_list(versions);
    return newest;
}

/* How systems name, list and build their initramfs. */
static const struct initramfs {
    const char *image_before, *image_after; /* around the kernel's version */
    const char *lister;                     /* prints the files in an image */
    const char *settings;                   /* the file that names further modules, */
    const char *line_before, *line_after;   /* each in such a line */
    const char *build[5];                   /* "%i" is the image, "%v" the version */
} initramfs_table[] = {
    {"/boot/initrd.img-", "", "lsinitramfs", "/etc/initramfs-tools/modules", "", "\n", {"update-initramfs", "-u", "-k", "%v"}},
    {"/boot/initramfs-", ".img", "lsinitrd", "/etc/dracut.conf.d/slipway.conf", "add_drivers+=\" ", " \"\n", {"dracut", "--force", "%i", "%v"}},
    {"/boot/initrd-", "", "lsinitrd", "/etc/dracut.conf.d/slipway.conf", "add_drivers+=\" ", " \"\n", {"dracut", "--force", "%i", "%v"}},
};

static int build_initramfs(struct guest *g, const struct initramfs *kind, const char *image, const char *version, const char *missing,
                           json_t *mends, struct err *e)
{
    CLEANUP(buf_release) struct buf lines = {0};
    CLEANUP(free_ptr) char *words = xstrdup(missing);
    CLEANUP(guest_free_text) char *said = NULL;
    char *argv[ARRAY_COUNT(kind->build) + 1] = {0}, *rest = words, *word;

    while ((word = strsep(&rest, " ")))
        buf_printf(&lines, "%s%s%s", kind->line_before, word, kind->line_after);
    if (guestfs_write_append(g->handle, kind->settings, lines.data, lines.size_bytes) < 0)
        return guest_failed(g, e, kind->settings);
    mended(mends, "drivers for the copy's hardware", kind->settings, "(without)", lines.data);
    for (size_t i = 0; i < ARRAY_COUNT(kind->build) && kind->build[i]; i++)
        argv[i] = (char *)(strcmp(kind->build[i], "%v") == 0 ? version : strcmp(kind->build[i], "%i") == 0 ? image : kind->build[i]);
    said = guestfs_command(g->handle, argv);
    if (!said)
        return guest_failed(g, e, "building the copy's initramfs");
    mended(mends, "initramfs built anew", image, "without the drivers", missing);
    return 0;
}

/* The image of that kernel (the caller frees) and its kind; NULL: it has none. */
static char *find_initramfs(struct guest *g, const char *version, const struct initramfs **kind)
{
    for (size_t i = 0; i < ARRAY_COUNT(initramfs_table); i++) {
        char *path = xasprintf("%s%s%s", initramfs_table[i].image_before, version, initramfs_table[i].image_after);

        *kind = &initramfs_table[i];
        if (guestfs_is_file(g->handle, path) == 1)
            return path;
        free(path);
    }
    return NULL;
}

/* Which drivers the kernel has, but not at hand when it looks for its root: names with spaces between. -1 where it has one not at all. */
static int missing_drivers(struct guest *g, const char *version, const char *listing, struct buf *missing, struct err *e)
{
    const char *drivers[] = {"virtio_pci", strcmp(g->request->disk_bus, "scsi") == 0 ? "virtio_scsi" : "virtio_blk"};
    CLEANUP(free_ptr) char *dep_path = xasprintf("/lib/modules/%s/modules.dep", version), *dep = read_text(g, dep_path);
    CLEANUP(free_ptr) char *builtin_path = xasprintf("/lib/modules/%s/modules.builtin", version), *builtin = read_text(g, builtin_path);

    for (size_t i = 0; i < ARRAY_COUNT(drivers); i++) {
        if (mend_has_module(builtin ? builtin : "", drivers[i]) || mend_has_module(listing ? listing : "", drivers[i]))
            continue;
        if (!mend_has_module(dep ? dep : "", drivers[i]))
            return err_set(e, ERR_UNSUPPORTED, "the copy's kernel %s has no driver %s: install a kernel that has it at the source", version,
                           drivers[i]);
        buf_printf(missing, "%s%s", missing->size_bytes ? " " : "", drivers[i]);
    }
    return 0;
}

int guest_mend_drivers(struct guest *g, json_t *lines, json_t *mends, struct err *e)
{
    CLEANUP(free_ptr) char *version = newest_kernel(g), *image = NULL;
    CLEANUP(guest_free_text) char *listing = NULL;
    CLEANUP(buf_release) struct buf missing = {0};
    const struct initramfs *kind = NULL;

    if (!version)
        return err_set(e, ERR_UNSUPPORTED, "the copy has no kernel in /boot with its modules in /lib/modules");
    image = find_initramfs(g, version, &kind);
    /* Where its files can't be listed, it counts as one without drivers. */
    listing = image ? guestfs_command(g->handle, (char *[]){(char *)kind->lister, image, NULL}) : NULL;
    if (missing_drivers(g, version, listing, &missing, e) < 0)
        return -1;
    if (missing.size_bytes && !image)
        return err_set(e, ERR_UNSUPPORTED, "the copy's kernel %s needs an initramfs with %s, and has none that is known", version, missing.data);
    if (missing.size_bytes && build_initramfs(g, kind, image, version, missing.data, mends, e) < 0)
        return -1;
    target_line(lines, "drivers", true, NULL, missing.size_bytes ? "kernel %s lacked %s at boot: mended" : "kernel %s has its drivers at boot%s",
                version, missing.size_bytes ? missing.data : "");
    return 0;
}

/* Copies what lies beside a loader into UEFI's fallback folder (a loader looks for its parts there), and the loader under the fallback's name. */
static int copy_loader(struct guest *g, const char *loader, const char *fallback, struct err *e)
{
    CLEANUP(free_ptr) char *pattern = xasprintf("%.*s/*", (int)(strrchr(loader, '/') - loader), loader);
    char **parts = guestfs_glob_expand(g->handle, pattern);
    int result = parts ? guestfs_mkdir_p(g->handle, "/boot/efi/EFI/BOOT") : -1;

    for (size_t i = 0; result == 0 && parts[i]; i++)
        if (guestfs_is_file(g->handle, parts[i]) == 1)
            result = guestfs_cp(g->handle, parts[i], "/boot/efi/EFI/BOOT/");
    if (result == 0)
        result = guestfs_cp(g->handle, loader, fallback);
    guest_free_list(parts);
    return result < 0 ? guest_failed(g, e, "putting a loader where UEFI finds it") : 0;
}

int guest_mend_loader(struct guest *g, json_t *lines, json_t *mends, struct err *e)
{
    static const char *const candidates[] = {"/boot/efi/EFI/*/shimx64.efi", "/boot/efi/EFI/*/grubx64.efi"};
    static const char fallback[] = "/boot/efi/EFI/BOOT/BOOTX64.EFI";

    if (strcmp(json_get_string(g->request->facts, "boot", "bios"), "uefi") != 0)
        return 0;
    if (guestfs_is_file(g->handle, fallback) == 1) { /* the file system knows no case */
        target_line(lines, "loader", true, NULL, "UEFI finds %s by itself", fallback);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_COUNT(candidates); i++) {
        char **found = guestfs_glob_expand(g->handle, candidates[i]);
        bool there = found && found[0];
        int result = there ? copy_loader(g, found[0], fallback, e) : 0;

        if (there && result == 0) {
            mended(mends, "a loader where UEFI looks without boot entries", fallback, "(absent)", found[0]);
            target_line(lines, "loader", true, NULL, "UEFI finds a copy of %s: mended", found[0]);
        }
        guest_free_list(found);
        if (there)
            return result;
    }
    return err_set(e, ERR_UNSUPPORTED, "the copy boots by UEFI, and no loader was found under /boot/efi/EFI");
}
