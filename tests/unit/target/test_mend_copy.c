/* A small Debian-like disk is looked into and mended over its export: what the mends list is what changed, the export stays as it was,
 * and a disk that needs nothing keeps no overlay. */
#include "conformance/target/fixture.h"
#include "target/mend.h"

#define DISK_BYTES (INT64_C(96) << 20)

static const char make_disk[] =
    "set -eu; cd %s; t=tree-%s; mkdir -p $t/etc/network $t/etc/systemd $t/boot $t/bin $t/usr/bin $t/lib/modules/6.1.0-test $t/sbin $t/var $t/dev\n"
    "printf '%s' >$t/etc/fstab; echo 12.5 >$t/etc/debian_version; echo test >$t/etc/hostname\n"
    "printf 'NAME=Debian\\nID=debian\\nVERSION_ID=12\\nPRETTY_NAME=\"Debian for tests\"\\n' >$t/etc/os-release\n"
    "printf 'auto %s\\niface %s inet dhcp\\n' >$t/etc/network/interfaces; : >$t/boot/vmlinuz-6.1.0-test\n"
    "printf 'kernel/drivers/virtio/virtio_pci.ko\\n%s' >$t/lib/modules/6.1.0-test/modules.builtin\n"
    ": >$t/lib/modules/6.1.0-test/modules.dep\n"
    "truncate -s 96M %s.raw\nmkfs.ext4 -q -F -U 11111111-2222-3333-4444-555555555555 -E offset=1048576 -d $t %s.raw 64M\n"
    "truncate -s 8M swap; mkswap -q -U 66666666-7777-8888-9999-000000000000 swap 2>/dev/null\n"
    "dd if=swap of=%s.raw bs=512 seek=133120 conv=notrunc status=none\n"
    "sgdisk -n 1:2048:+64M -n 2:133120:+8M -t 2:8200 %s.raw >/dev/null\n";

static int disk_make(struct fixture *f, const char *name, const char *fstab, const char *interface, const char *builtin)
{
    if (shell(make_disk, f->folder, name, fstab, interface, interface, builtin, name, name, name, name) < 0)
        return -1;
    nbd_stop(f);
    snprintf(f->disk, sizeof f->disk, "%s/%s.raw", f->folder, name);
    return nbd_start(f);
}

static int run(struct fixture *f, const char *overlay, json_t *lines, json_t *mends, struct err *e)
{
    struct mend_disk disk = {.id = "sda", .source_name = "sda", .nbd_uri = f->uri, .overlay_path = overlay, .size_bytes = DISK_BYTES};
    CLEANUP(json_free) json_t *facts = json_pack("{s:s,s:[{s:s,s:s}]}", "boot", "bios", "nics", "name", "ens192", "mac", "52:54:00:00:02:11");
    struct mend_request request = {.disks = &disk, .disk_count = 1, .disk_bus = "virtio", .facts = facts, .timeout_ms = 600000};
    json_t *line;
    size_t i;
    int result = mend_run(&request, lines, mends, e);

    json_array_foreach(lines, i, line)
        tap_note("%s: %s", json_get_string(line, "name", ""), json_get_string(line, "evidence", ""));
    json_array_foreach(mends, i, line)
        tap_note("mended %s: %s -> %s", json_get_string(line, "path", ""), json_get_string(line, "before", ""), json_get_string(line, "after", ""));
    return result;
}

static const json_t *mend_of(const json_t *mends, const char *path)
{
    const json_t *mend;
    size_t i;

    json_array_foreach(mends, i, mend)
        if (strcmp(json_get_string(mend, "path", ""), path) == 0)
            return mend;
    return NULL;
}

static void needs_mending(struct fixture *f, const char *overlay)
{
    CLEANUP(json_free) json_t *lines = json_array(), *mends = json_array(), *ranges = json_array();
    struct mend_disk disk = {.id = "sda", .overlay_path = overlay};
    char sum[128];
    struct err why = {0};

    MUST(disk_make(f, "sick", "/dev/sda1 / ext4 defaults 0 1\\n/dev/sda2 none swap sw 0 0\\n", "ens192", "kernel/virtio_blk.ko\\n") == 0);
    snprintf(sum, sizeof sum, "%s/sum", f->folder);
    MUST(shell("sha256sum %s >%s", f->disk, sum) == 0);
    if (!ok(run(f, overlay, lines, mends, &why) == 0, "the copy is mended (%s)", why.message))
        return;
    is_str(json_get_string(mend_of(mends, "/etc/fstab"), "before", NULL), "/dev/sda1 / ext4 defaults 0 1", "fstab, before");
    is_str(json_get_string(mend_of(mends, "/etc/fstab"), "after", NULL), "UUID=11111111-2222-3333-4444-555555555555 / ext4 defaults 0 1",
           "fstab, after");
    ok(mend_of(mends, "/etc/systemd/network/10-slipway-ens192.link") != NULL, "the interface keeps its name");
    is_int(json_array_size(mends), 2, "that was all");
    ok(target_lines_passed(lines), "each look is a line");
    ok(shell("sha256sum -c --quiet %s", sum) == 0, "the export was not touched");
    does(mend_ranges(&disk, ranges, e), "the ranges can be read");
    ok(json_array_size(ranges) > 0, "%zu ranges were touched", json_array_size(ranges));
    /* What the overlay says, read by another program at the root file system's place. */
    ok(shell("qemu-img convert -O raw %s %s/out.raw && dd if=%s/out.raw of=%s/root.ext4 bs=1M skip=1 count=64 status=none && "
             "debugfs -R 'cat /etc/fstab' %s/root.ext4 2>/dev/null | grep -q '^UUID=66666666-7777-8888-9999-000000000000 none swap'",
             overlay, f->folder, f->folder, f->folder, f->folder) == 0, "the copy's fstab names both by identity");
    ok(shell("debugfs -R 'cat /etc/systemd/network/10-slipway-ens192.link' %s/root.ext4 2>/dev/null | grep -q 'MACAddress=52:54:00:00:02:11'",
             f->folder) == 0, "and the interface's file is there");
}

static void needs_nothing(struct fixture *f, const char *overlay)
{
    CLEANUP(json_free) json_t *lines = json_array(), *mends = json_array();
    struct err why = {0};

    MUST(disk_make(f, "sound", "UUID=11111111-2222-3333-4444-555555555555 / ext4 defaults 0 1\\n", "enp0s9", "kernel/virtio_blk.ko\\n") == 0);
    ok(run(f, overlay, lines, mends, &why) == 0, "a sound copy is looked at (%s)", why.message);
    is_int(json_array_size(mends), 0, "and needs nothing");
    ok(!file_exists(overlay), "so it keeps no overlay");
}

static void cannot_be_mended(struct fixture *f, const char *overlay)
{
    CLEANUP(json_free) json_t *lines = json_array(), *mends = json_array();
    struct err why = {0};

    MUST(disk_make(f, "lost", "UUID=11111111-2222-3333-4444-555555555555 / ext4 defaults 0 1\\n", "eth0", "") == 0);
    ok(run(f, overlay, lines, mends, &why) < 0 && why.kind == ERR_UNSUPPORTED && strstr(why.message, "virtio_blk"),
       "a kernel without the driver is refused: %s", why.message);
    ok(!file_exists(overlay), "and leaves nothing");
}

static bool at_once(void *user)
{
    (void)user;
    return true;
}

static void can_be_broken_off(struct fixture *f, const char *overlay)
{
    struct mend_disk disk = {.id = "sda", .source_name = "sda", .nbd_uri = f->uri, .overlay_path = overlay, .size_bytes = PROBE_DISK_BYTES};
    struct mend_request request = {.disks = &disk, .disk_count = 1, .disk_bus = "virtio", .timeout_ms = 600000, .cancelled = at_once};
    CLEANUP(json_free) json_t *lines = json_array(), *mends = json_array();
    int64_t began_us = clock_monotonic_us();

    refuses(mend_run(&request, lines, mends, e), ERR_CANCELLED, "a mend is broken off");
    ok(clock_monotonic_us() - began_us < 30 * US_PER_S, "soon");
    request.cancelled = NULL;
    request.timeout_ms = 1;
    refuses(mend_run(&request, lines, mends, e), ERR_TIMEOUT, "or by its time limit");
}

int main(void)
{
    struct fixture f;
    char overlay[128];

    if (geteuid() != 0) {
        printf("1..0 # SKIP needs root: network namespaces\n");
        return 0;
    }
    MUST(fixture_begin(&f) == 0);
    snprintf(overlay, sizeof overlay, "%s/mended.qcow2", f.folder);
    can_be_broken_off(&f, overlay);
    needs_mending(&f, overlay);
    unlink(overlay);
    needs_nothing(&f, overlay);
    cannot_be_mended(&f, overlay);
    fixture_end(&f);
    return tap_done();
}
