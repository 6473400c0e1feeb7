#include "target/mend.h"
#include "tap.h"

static json_t *read_json(const char *text)
{
    json_t *j = NULL;

    MUST(json_read(text, strlen(text), &j, NULL) == 0);
    return j;
}

static void reasons(void)
{
    static const struct {
        const char *facts, *bus;
        int wanted;
        const char *what;
    } table[] = {
        {"{\"boot\":\"bios\",\"disks\":[{\"name\":\"vda\",\"driver\":\"virtio_blk\"},{\"name\":\"vdb\",\"driver\":\"virtio_blk\"}],\"nics\":[{\"name\":\"enp0s3\"}]}", "virtio", 0, "the same hardware"},
        {"{\"boot\":\"bios\",\"disks\":[{\"name\":\"sda\",\"driver\":\"virtio_scsi\"}],\"nics\":[{\"name\":\"eth0\"}]}", "scsi", 0, "virtio SCSI"},
        {"{\"boot\":\"bios\",\"disks\":[{\"name\":\"sda\"}],\"nics\":[]}", "scsi", 1, "a SCSI disk whose driver is not known"},
        {"{\"boot\":\"bios\",\"disks\":[{\"name\":\"sda\",\"driver\":\"other\"}],\"nics\":[]}", "virtio", 2, "another name and another driver"},
        {"{\"boot\":\"bios\",\"disks\":[{\"name\":\"vdb\",\"driver\":\"virtio_blk\"}],\"nics\":[]}", "virtio", 1, "a disk that moves up"},
        {"{\"boot\":\"bios\",\"disks\":[{\"name\":\"vda\",\"driver\":\"virtio_blk\"}],\"nics\":[{\"name\":\"ens192\"}]}", "virtio", 1, "an interface whose name is its slot"},
        {"{\"boot\":\"bios\",\"disks\":[{\"name\":\"vda\",\"driver\":\"virtio_blk\"}],\"nics\":[{\"name\":\"eth0\"},{\"name\":\"eth1\"}]}", "virtio", 2, "interfaces named by their order"},
        {"{\"boot\":\"uefi\",\"disks\":[{\"name\":\"vda\",\"driver\":\"virtio_blk\"}],\"nics\":[]}", "virtio", 1, "UEFI"},
        {"{}", "virtio", 2, "nothing known"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(table); i++) {
        CLEANUP(json_free) json_t *facts = read_json(table[i].facts), *found = json_array();
        size_t at;
        json_t *text;

        is_int(mend_reasons(facts, table[i].bus, found), table[i].wanted, "%s: reasons to look into the copy", table[i].what);
        json_array_foreach(found, at, text)
            tap_note("%s", json_string_value(text));
    }
    {
        CLEANUP(json_free) json_t *found = json_array();

        ok(mend_reasons(NULL, "virtio", found) > 0, "no facts are a reason");
    }
}

static void modules(void)
{
    static const char listing[] = "kernel/drivers/block/virtio_blk.ko\nusr/lib/modules/6.1/kernel/drivers/virtio/virtio-pci.ko.xz\n"
                                  "kernel/x/myvirtio_scsi.ko: kernel/scsi_mod.ko\n";

    ok(mend_has_module(listing, "virtio_blk"), "a module is found");
    ok(mend_has_module(listing, "virtio_pci"), "one that is written with a dash and compressed, too");
    ok(mend_has_module(listing, "scsi_mod"), "and one at the end of a line");
    ok(!mend_has_module(listing, "virtio_scsi"), "not by the end of another's name");
    ok(!mend_has_module(listing, "virtio"), "nor by its beginning");
    ok(!mend_has_module("", "virtio") && !mend_has_module("virtio_blk", "virtio_blk"), "nor where it is no module");
}

static const struct mend_name names[] = {{"/dev/sda1", "UUID=1-1"}, {"/dev/sda2", "UUID=2-2"}, {"/dev/nvme0n1p3", "UUID=3-3"}};
static const char *const disks[] = {"sda", "sdb", "nvme0n1", NULL};

static void renames(const char *text, int field, const char *wanted, int count, const char *unknown, const char *what)
{
    CLEANUP(buf_release) struct buf out = {0};
    char not_known[40] = "";

    is_int(mend_rename(text, field, names, ARRAY_COUNT(names), disks, &out, not_known), count, "%s: how many", what);
    is_str(out.data, wanted, "%s: what becomes of it", what);
    is_str(not_known, unknown, "%s: what is not known", what);
}

int main(void)
{
    reasons();
    modules();
    renames("# /dev/sda1 /\n/dev/sda1 / ext4 defaults 0 1\n  /dev/sda2\tnone swap sw 0 0\n/dev/nvme0n1p3 /n xfs x 0 0\n", 1,
            "# /dev/sda1 /\nUUID=1-1 / ext4 defaults 0 1\n  UUID=2-2\tnone swap sw 0 0\nUUID=3-3 /n xfs x 0 0\n", 3, "", "fstab");
    renames("UUID=7 / ext4\nLABEL=x /x ext4\n/dev/mapper/vg-x /y xfs\n/dev/disk/by-id/z /z xfs\n/dev/sdaa1 /q xfs\n", 1,
            "UUID=7 / ext4\nLABEL=x /x ext4\n/dev/mapper/vg-x /y xfs\n/dev/disk/by-id/z /z xfs\n/dev/sdaa1 /q xfs\n", 0, "", "fstab by identity");
    renames("/dev/sdb1 /b ext4\n/srv /dev/sda1 none bind\n", 1, "/dev/sdb1 /b ext4\n/srv /dev/sda1 none bind\n", 0, "/dev/sdb1", "an unknown one");
    renames("/dev/sda12 /b ext4", 1, "/dev/sda12 /b ext4", 0, "/dev/sda12", "a longer number");
    renames("swap /dev/sda2 /dev/urandom swap\n", 2, "swap UUID=2-2 /dev/urandom swap\n", 1, "", "crypttab");
    renames("linux /vmlinuz root=/dev/sda1 ro resume=/dev/sda2\nset root=(hd0)\nx=/dev/sda1\n", 0,
            "linux /vmlinuz root=UUID=1-1 ro resume=UUID=2-2\nset root=(hd0)\nx=/dev/sda1\n", 2, "", "boot parameters");
    renames("", 1, NULL, 0, "", "nothing");
    renames("/dev/", 1, "/dev/", 0, "", "half a name");
    return tap_done();
}
