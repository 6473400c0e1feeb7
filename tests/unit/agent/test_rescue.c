#include "agent/cpio.h"
#include "agent/rescue_parts.h"
#include "tap.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_cpio(void)
{
    static const char wanted[] = "070701" "00000000" "000081a4" "00000000" "00000000" "00000001" "00000000" "00000005" "00000000" "00000000" "00000000" "00000000"
                                 "00000004" "00000000";
    CLEANUP(buf_release) struct buf image = {.limit_bytes = 4096}, small = {.limit_bytes = 64};

    cpio_add(&image, "a/b", S_IFREG | 0644, "hello", 5);
    ok(image.size_bytes == 124 && memcmp(image.data, wanted, 110) == 0 && memcmp(image.data + 110, "a/b", 4) == 0, "a file's header, then its name, ended");
    ok(memcmp(image.data + 116, "hello\0\0\0", 8) == 0, "then its bytes, where a multiple of four begins, filled up to the next");
    cpio_device(&image, "c", S_IFCHR | 0600, 5, 1);
    ok(memcmp(image.data + 124 + 14, "00002180", 8) == 0 && memcmp(image.data + 124 + 78, "0000000500000001", 16) == 0, "a device has its numbers");
    cpio_end(&image);
    ok(image.size_bytes == 124 + 112 + 124 && memcmp(image.data + 124 + 112 + 110, "TRAILER!!!", 11) == 0 && !image.over, "the trailer ends it");
    cpio_add(&small, "a", S_IFREG | 0644, "hello", 5);
    ok(small.over, "what does not fit is known");
}

static void test_network(void)
{
    static const char *const wrong[] = {"", "52:54:00:12:34:56", "52:54:00:12:34:56,192.0.2.5", "52:54:00:12:34:56,192.0.2.5/0", "52:54:00:12:34:56,192.0.2.5/33",
                                        "52:54:00:12:34:5g,192.0.2.5/24", "52:54:00:12:34,192.0.2.5/24", "52:54:00:12:34:56,192.0.2.500/24",
                                        "52:54:00:12:34:56,192.0.2.5/24,", "52:54:00:12:34:56,192.0.2.5/24,192.0.2", "52:54:00:12:34:56,192.0.2.5/24,192.0.2.1 "};
    struct rescue_net n, back, kept = {.mtu = 7};
    CLEANUP(json_free) json_t *j = NULL, *cut = NULL;
    struct err e = {0};

    is_int(rescue_net_parse("52:54:00:12:34:56,192.0.2.5/24,192.0.2.1", &n, &e), 0, "card, address, gateway: %s", e.message);
    ok(strcmp(n.hardware, n.mac) == 0 && strcmp(n.address, "192.0.2.5") == 0 && n.prefix == 24 && strcmp(n.gateway, "192.0.2.1") == 0 && n.mtu == 1500, "as they were said");
    is_int(rescue_net_parse("52:54:00:12:34:56,192.0.2.5/24", &back, &e), 0, "no gateway");
    is_str(back.gateway, "", "is none");
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++)
        ok(rescue_net_parse(wrong[i], &kept, &e) < 0 && e.kind == ERR_INVALID && kept.mtu == 7, "\"%s\" is refused", wrong[i]);
    snprintf(n.mac, sizeof n.mac, "06:54:00:12:34:56");
    j = rescue_net_json(&n);
    ok(rescue_net_read(j, &back, &e) == 0 && strcmp(back.mac, n.mac) == 0 && strcmp(back.hardware, n.hardware) == 0 && back.prefix == n.prefix &&
       back.mtu == n.mtu && strcmp(back.gateway, n.gateway) == 0, "it goes through the image's document and back");
    cut = json_pack("{s:s}", "address", "192.0.2.5");
    ok(rescue_net_read(cut, &kept, &e) < 0 && kept.mtu == 7, "a document without a card is refused: %s", e.message);
}

static void test_looking(void)
{
    struct rescue_net n;
    struct err e = {0};

    ok(rescue_net_look("127.0.0.1", &n, &e) < 0 && e.kind == ERR_UNSUPPORTED, "the loopback is no card: %s", e.message);
    err_clear(&e);
    ok(rescue_net_look("2001:db8::1", &n, &e) < 0 && e.kind == ERR_UNSUPPORTED, "IPv6: %s", e.message);
    err_clear(&e);
    ok(rescue_net_look("replicator", &n, &e) < 0 && e.kind == ERR_INVALID, "a name: %s", e.message);
}

/* A kernel's release that has its drivers here; false: none. */
static bool find_release(char out[static 128])
{
    DIR *all = opendir("/lib/modules");
    bool found = false;

    for (struct dirent *entry; all && !found && (entry = readdir(all));) {
        CLEANUP(free_ptr) char *path = xasprintf("/lib/modules/%s/modules.dep", entry->d_name);

        found = entry->d_name[0] != '.' && access(path, R_OK) == 0;
        if (found)
            snprintf(out, 128, "%.127s", entry->d_name);
    }
    if (all)
        closedir(all);
    return found;
}

static int index_of(const struct rescue_modules *m, const char *name)
{
    for (int i = 0; i < m->count; i++)
        if (strstr(m->paths[i], name))
            return i;
    return -1;
}

static void test_modules(void)
{
    static struct rescue_modules m, none;
    CLEANUP(buf_release) struct buf bytes = {0};
    struct err e = {0};
    int before;

    if (!find_release(m.release)) {
        ok(true, "no kernel's drivers are in /lib/modules # SKIP");
        return;
    }
    ok(rescue_modules_add(&m, "virtio-net", &e) == 0 && index_of(&m, "/virtio_net.ko") == m.count - 1 && m.count > 1,
       "a driver comes last, after what it needs (%d in all): %s", m.count, e.message);
    before = m.count;
    ok(rescue_modules_add(&m, "virtio_net", &e) == 0 && m.count == before, "once only, however it is spelt");
    ok(rescue_modules_add(&m, "ext4", &e) == 0 && m.count >= before, "a driver that is built in, or needs its own: %s", e.message);
    ok(rescue_modules_add(&m, "nosuch", &e) < 0 && e.kind == ERR_NOT_FOUND, "one that is nowhere: %s", e.message);
    ok(rescue_modules_read(&m, 0, &bytes, &e) == 0 && bytes.size_bytes > 1024 && memcmp(bytes.data, "\177ELF", 4) == 0, "its file is read, unpacked: %s", e.message);
    snprintf(none.release, sizeof none.release, "1.0-none");
    ok(rescue_modules_add(&none, "virtio_net", &e) < 0, "a kernel that is not here: %s", e.message);
}

int main(void)
{
    test_cpio();
    test_network();
    test_looking();
    test_modules();
    return tap_done();
}
