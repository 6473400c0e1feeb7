/* Settings, identity, disks and mounts. */
#include "agent/agent.h"
#include "agent/disks.h"
#include "base/clock.h"
#include "base/file.h"
#include "mounts.h"
#include "tap.h"
#include "testca.h"

#include <openssl/x509.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/slipway-setup.XXXXXX";
static char config_path[300];

static int read_text(const char *text, struct agent_config *c, struct err *e)
{
    MUST(file_write(config_path, text, strlen(text), 0600, NULL) == 0);
    return agent_config_read(config_path, c, e);
}

static void test_config(void)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"[]", "no object"},
        {"{\"server\":\"a\",\"replicator_address\":\"192.0.2.1\"}", "replicator_port"},
        {"{\"server\":\"\",\"replicator_address\":\"192.0.2.1\",\"replicator_port\":1}", "server is missing"},
        {"{\"server\":\"a\",\"replicator_address\":\"192.0.2.1\",\"replicator_port\":70000}", "replicator_port"},
        {"{\"server\":\"a\",\"replicator_address\":\"192.0.2.1\",\"replicator_port\":1,\"freeze_budget\":1}", "freeze_budget"},
        {"{\"server\":\"a\",\"replicator_address\":\"192.0.2.1\",\"replicator_port\":1,\"disks\":[]}", "disks"},
        {"{\"server\":\"a\",\"replicator_address\":\"192.0.2.1\",\"replicator_port\":1,\"disks\":[\"../etc\"]}", "disks[0]"},
        {"{\"server\":\"a\",\"replicator_address\":\"192.0.2.1\",\"replicator_port\":1,\"tracker\":\"magic\"}", "tracker"},
        {"{\"server\":\"a\",\"replicator_address\":\"192.0.2.1\",\"replicator_port\":1,\"disk_ids\":[]}", "disk_ids"},
        {"{\"server\":\"a\",\"replicator_address\":\"192.0.2.1\",\"replicator_port\":1,\"disk_ids\":{\"serial:a\":7}}", "serial:a"},
        {"{\"server\":\"a\",\"replicator_address\":\"192.0.2.1\",\"replicator_port\":1,\"disk_ids\":{\"serial:a\":\"x\",\"serial:b\":\"x\"}}", "two disks"},
        {"{", "not JSON"},
    };
    struct agent_config c = {.replicator_port = 7};
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        is_int(read_text(bad[i].text, &c, &e), -1, "refused: %s", e.message);
        ok(strstr(e.message, bad[i].says) != NULL, "it names \"%s\"", bad[i].says);
    }
    is_int(c.replicator_port, 7, "the output is untouched");
    read_text("{\"server\":\"\",\"replicator_address\":1,\"replicator_port\":0,\"x\":1}", &c, &e);
    ok(strstr(e.message, "server") && strstr(e.message, "replicator_address") && strstr(e.message, "replicator_port") && strstr(e.message, "\"x\""),
       "all faults at once: %s", e.message);
    is_int(read_text("{\"server\":\"web01\",\"replicator_address\":\"192.0.2.1\",\"replicator_port\":7443,\"hold_limit_s\":60,"
                     "\"disks\":[\"/dev/sda\",\"vdb\"]}", &c, &e), 0, "a good one: %s", e.message);
    ok(c.replicator_port == 7443 && c.hold_limit_ms == 60000 && c.freeze_budget_ms == 200 && !c.disks_auto && c.disk_count == 2,
       "with its values and defaults");
    is_str(c.disks[0], "sda", "a disk's name without its folder");
    is_str(c.folder, folder, "the folder is the file's");
    is_str(c.tracker_dir, AGENT_TRACKER_DIR, "its tracker is kept at the machine's place");
    MUST(read_text("{\"server\":\"web01\",\"replicator_address\":\"192.0.2.1\",\"replicator_port\":1,\"runtime_dir\":\"/run/another\"}", &c, &e) == 0);
    is_str(c.tracker_dir, "", "one with a runtime folder of its own leaves that alone");
}

static void test_identity(void)
{
    CLEANUP(buf_release) struct buf csr = {0}, again = {0}, key = {0};
    struct test_ca ca;
    char path[300], *other[2], *together;
    struct err e = {0};
    struct stat st;
    BIO *bio;
    X509_REQ *request;
    X509 *certificate;
    char name[100];

    is_int(agent_csr(folder, "", &csr, &e), -1, "no server's name is refused");
    is_int(agent_csr(folder, "web01", &csr, &e), 0, "a certificate request: %s", e.message);
    bio = BIO_new_mem_buf(csr.data, -1);
    request = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);
    BIO_free(bio);
    if (!ok(request != NULL, "which OpenSSL reads"))
        return;
    X509_NAME_get_text_by_NID(X509_REQ_get_subject_name(request), NID_commonName, name, sizeof name);
    is_str(name, "agent:web01", "for agent:web01");
    snprintf(path, sizeof path, "%s/key.pem", folder);
    ok(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600, "the key is the owner's alone");
    is_int(agent_csr(folder, "web01", &again, &e), 0, "asked again");
    file_read(path, 10000, &key, NULL);

    test_ca_make(&ca);
    test_ca_sign(&ca, "agent:other", other);
    certificate = testca_certificate("agent:web01", X509_REQ_get0_pubkey(request), ca.certificate, ca.key);
    bio = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(bio, certificate);
    {
        char *pem = testca_bio_text(bio);

        together = xasprintf("%s%s", other[0], ca.pem);
        is_int(agent_install_certificate(folder, together, &e), -1, "a certificate for another key is refused: %s", e.message);
        free(together);
        is_int(agent_install_certificate(folder, pem, &e), -1, "a certificate without its CA is refused: %s", e.message);
        snprintf(path, sizeof path, "%s/cert.pem", folder);
        ok(!file_exists(path), "nothing was written");
        together = xasprintf("%s%s", pem, ca.pem);
        is_int(agent_install_certificate(folder, together, &e), 0, "the right one is taken: %s", e.message);
        ok(file_exists(path), "and written");
        free(together);
        free(pem);
    }
    X509_free(certificate);
    X509_REQ_free(request);
    free(other[0]);
    free(other[1]);
    test_ca_release(&ca);
}

static void test_disks(void)
{
    struct agent_config c = {.disks_auto = true};
    struct disk disks[LIMIT_DISKS_PER_SERVER], again[LIMIT_DISKS_PER_SERVER];
    struct mount *mounts = xcalloc(MOUNTS_MAX, sizeof *mounts);
    struct err e = {0};
    int count = 0, again_count = 0, mount_count = 0;

    if (disks_find(&c, disks, LIMIT_DISKS_PER_SERVER, &count, &e) == 0) { /* a container may have none */
        for (int i = 0; i < count; i++)
            ok(disks[i].size_bytes > 0 && disks[i].id[0] && strncmp(disks[i].name, "loop", 4) != 0, "disk %s is %s", disks[i].name, disks[i].id);
        ok(disks_find(&c, again, LIMIT_DISKS_PER_SERVER, &again_count, &e) == 0 && again_count == count &&
           memcmp(disks, again, (size_t)count * sizeof *disks) == 0, "asked again they are the same");
        is_int(disks_mounts(disks, count, mounts, &mount_count, &e), 0, "their filesystems: %d", mount_count);
        for (int i = 1; i < mount_count; i++)
            ok(strcmp(mounts[i - 1].path, "/") != 0, "the root is the last to freeze");
        for (int i = 0; i < count; i++) {
            memcpy(c.disk_ids[0].found, disks[i].id, sizeof c.disk_ids[0].found);
            snprintf(c.disk_ids[0].reported, sizeof c.disk_ids[0].reported, "wwid:its source's");
            c.disk_id_count = 1;
            ok(disks_find(&c, again, LIMIT_DISKS_PER_SERVER, &again_count, &e) == 0 && strcmp(again[i].id, "wwid:its source's") == 0 && again_count == count,
               "disk %s is reported under another identity", disks[i].name);
        }
        for (int i = 1; i < count; i++) {
            snprintf(c.disk_ids[0].found, sizeof c.disk_ids[0].found, "%s", disks[0].id);
            snprintf(c.disk_ids[0].reported, sizeof c.disk_ids[0].reported, "%.150s", disks[i].id);
            is_int(disks_find(&c, again, LIMIT_DISKS_PER_SERVER, &again_count, &e), -1, "two disks under one identity are refused: %s", e.message);
        }
        snprintf(c.disk_ids[0].found, sizeof c.disk_ids[0].found, "serial:no-such");
        c.disk_id_count = 1;
        is_int(disks_find(&c, again, LIMIT_DISKS_PER_SERVER, &again_count, &e), -1, "and one that is not here: %s", e.message);
    }
    c = (struct agent_config){.disk_count = 1, .disks = {"no-such-disk"}};
    is_int(disks_find(&c, disks, LIMIT_DISKS_PER_SERVER, &count, &e), -1, "a disk that isn't there: %s", e.message);
    free(mounts);
}

static void test_difference(void)
{
    const struct disk was[] = {{"sda", "wwid:1", INT64_C(8) << 30, 0, ""}, {"sdb", "wwid:2", INT64_C(1) << 30, 0, ""}, {"sdc", "wwid:3", INT64_C(2) << 30, 0, ""}};
    static const struct {
        const char *words;
        struct disk now[4];
    } rows[] = {
        {"", {{"sda", "wwid:1", INT64_C(8) << 30, 0, ""}, {"sdb", "wwid:2", INT64_C(1) << 30, 0, ""}, {"sdc", "wwid:3", INT64_C(2) << 30, 0, ""}}},
        {"disk sda (8.0 GiB) has grown to 12.0 GiB", {{"sda", "wwid:1", INT64_C(12) << 30, 0, ""}, {"sdb", "wwid:2", INT64_C(1) << 30, 0, ""}, {"sdc", "wwid:3", INT64_C(2) << 30, 0, ""}}},
        {"disk sdd (4.0 GiB) has come", {{"sda", "wwid:1", INT64_C(8) << 30, 0, ""}, {"sdb", "wwid:2", INT64_C(1) << 30, 0, ""}, {"sdc", "wwid:3", INT64_C(2) << 30, 0, ""},
                                         {"sdd", "wwid:4", INT64_C(4) << 30, 0, ""}}},
        {"disk sdb (1.0 GiB) is gone", {{"sda", "wwid:1", INT64_C(8) << 30, 0, ""}, {"sdc", "wwid:3", INT64_C(2) << 30, 0, ""}}},
        {"disk sdb (4.0 GiB) is another one than before", {{"sda", "wwid:1", INT64_C(8) << 30, 0, ""}, {"sdb", "wwid:4", INT64_C(4) << 30, 0, ""}, {"sdc", "wwid:3", INT64_C(2) << 30, 0, ""}}},
        {"disk sdb (2.0 GiB) was sdc; disk sdb (1.0 GiB) is gone", {{"sda", "wwid:1", INT64_C(8) << 30, 0, ""}, {"sdb", "wwid:3", INT64_C(2) << 30, 0, ""}}},
        {"disk sdb (1.0 GiB) was away", {{"sda", "wwid:1", INT64_C(8) << 30, 0, ""}, {"sdb", "wwid:2", INT64_C(1) << 30, 7, ""}, {"sdc", "wwid:3", INT64_C(2) << 30, 0, ""}}},
    };

    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        CLEANUP(buf_release) struct buf words = {0};
        int count = 0;
        bool differ;

        while (count < 4 && rows[i].now[count].name[0])
            count++;
        differ = disks_difference(was, 3, rows[i].now, count, &words);
        is_str(words.size_bytes ? words.data : "", rows[i].words, "disks: %s", rows[i].words);
        is_int(differ, i > 0, "which is a difference: %d", i > 0);
    }
}

/* A /sys/block of the test's own, in a mount namespace of its own. */
static void fake_disk(const char *name, const char *attribute, const char *text)
{
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/%s", name, attribute);
    CLEANUP(free_ptr) char *line = xasprintf("%s\n", text);

    *strrchr(path, '/') = '\0';
    MUST(file_make_dirs(path, 0755, NULL) == 0);
    path[strlen(path)] = '/';
    MUST(file_write(path, line, strlen(line), 0644, NULL) == 0);
}

static void look(const char *what, const struct disk *was, int count, const char *words)
{
    CLEANUP(buf_release) struct buf said = {0};
    const struct agent_config c = {.disks_auto = true};
    struct err e = {0};
    int result = disks_look(&c, was, count, &said, &e);

    is_int(result, *words ? 1 : 0, "%s: %s", what, e.message);
    is_str(said.size_bytes ? said.data : "", words, "%s: %s", what, words);
}

/* What stands in a disk's first sectors: a GPT of that GUID, or nothing. */
static void fake_label(const char *node, char guid)
{
    char sectors[8192] = "";

    if (guid) {
        memcpy(sectors + 512, "EFI PART", 8);
        memset(sectors + 512 + 56, guid, 16);
    }
    MUST(file_write(node, sectors, sizeof sectors, 0600, NULL) == 0);
}

static int find_again(const struct agent_config *c, const struct disk *known, int known_count, struct disk *disks)
{
    struct err e = {0};
    int count = -1;

    ok(disks_find_again(c, known, known_count, disks, 4, &count, &e) == 0, "looked again: %s", e.message);
    return count;
}

/* One that is known stays who it is, whatever its label says; one that came in its place is another. */
static void test_known(void)
{
    CLEANUP(free_ptr) char *name = xasprintf("slipway%d.e", getpid()), *twin = xasprintf("slipway%d.f", getpid()), *node = xasprintf("/dev/%s", name), *twin_node = xasprintf("/dev/%s", twin);
    struct agent_config c = {.disk_count = 1};
    static const char gpt[] = "gpt:61616161616161616161616161616161";
    struct disk known[4], now[4];
    char command[300];

    snprintf(c.disks[0], sizeof c.disks[0], "%s", name);
    snprintf(c.disks[1], sizeof c.disks[1], "%s", twin);
    fake_label(node, 'a');
    fake_disk(name, "size", "4096");
    fake_disk(name, "diskseq", "7");
    MUST(find_again(&c, NULL, 0, known) == 1);
    is_str(known[0].id, gpt, "a disk is who its label says");
    fake_label(node, 'b');
    MUST(find_again(&c, known, 1, now) == 1);
    is_str(now[0].id, gpt, "with another label it is still the one that is known");
    unlink(node);
    MUST(find_again(&c, known, 1, now) == 1);
    is_str(now[0].id, gpt, "and where it can't be read");
    MUST(find_again(&c, NULL, 0, now) == 1);
    ok(strncmp(now[0].id, "path:", 5) == 0, "which makes one of its place of it to somebody who does not know it: %s", now[0].id);
    fake_label(node, 'a');
    fake_label(twin_node, 'a');
    fake_disk(twin, "size", "4096");
    fake_disk(twin, "diskseq", "8");
    c.disk_count = 2;
    MUST(find_again(&c, known, 1, now) == 2);
    is_str(now[0].id, gpt, "a clone of it comes: it is who it was");
    ok(strncmp(now[1].id, gpt, strlen(gpt)) == 0 && now[1].id[strlen(gpt)] == '@', "and the clone is told from it: %s", now[1].id);
    memcpy(known, now, sizeof known);
    snprintf(c.disk_ids[0].found, sizeof c.disk_ids[0].found, "%s", gpt);
    snprintf(c.disk_ids[0].reported, sizeof c.disk_ids[0].reported, "wwid:its source's");
    c.disk_id_count = 1;
    MUST(find_again(&c, known, 2, now) == 2);
    is_str(now[0].id, "wwid:its source's", "it may be reported as another");
    memcpy(known, now, sizeof known);
    fake_label(node, 0);
    MUST(find_again(&c, known, 2, now) == 2);
    is_str(now[0].id, "wwid:its source's", "also once it is known");
    c.disk_id_count = 0;
    fake_label(node, 'b');
    fake_disk(name, "diskseq", "9");
    MUST(find_again(&c, known, 2, now) == 2);
    is_str(now[0].id, "gpt:62626262626262626262626262626262", "another disk in its place is another");
    fake_disk(twin, "size", "8192");
    fake_label(twin_node, 'c');
    MUST(find_again(&c, known, 2, now) == 2);
    is_str(now[1].id, "gpt:63636363636363636363636363636363", "so is one of another size");
    unlink(node);
    unlink(twin_node);
    snprintf(command, sizeof command, "rm -r /sys/block/%s /sys/block/%s", name, twin);
    ok(system(command) == 0, "cleared");
}

static void test_look(void)
{
    const struct agent_config c = {.disks_auto = true}, named = {.disks = {"sda", "sdb"}, .disk_count = 2};
    CLEANUP(buf_release) struct buf words = {0};
    struct disk was[4];
    struct err e = {0};
    int64_t begun_us;
    int count = 0;

    if (geteuid() != 0 || mounts_of_our_own(folder) < 0 || mount("none", "/sys/block", "tmpfs", 0, NULL) < 0) {
        ok(true, "a /sys/block of one's own needs root # SKIP");
        return;
    }
    fake_disk("sda", "size", "16384");
    fake_disk("sda", "wwid", "naa.1");
    fake_disk("sda", "diskseq", "1");
    MUST(disks_find(&c, was, 4, &count, &e) == 0 && count == 1 && was[0].instance == 1);
    look("nothing has changed", was, count, "");
    fake_disk("sdb", "removable", "1");
    fake_disk("sdb", "size", "2048");
    look("one that is not to be replicated has come", was, count, "");
    fake_disk("sdb", "removable", "0");
    look("one that is", was, count, "disk sdb (1.0 MiB) has come");
    fake_disk("sdb", "wwid", "naa.2");
    fake_disk("sdb", "diskseq", "2");
    MUST(disks_find(&c, was, 4, &count, &e) == 0 && count == 2);
    look("it is known", was, count, "");
    fake_disk("sdb", "size", "4096");
    look("it grows", was, count, "disk sdb (1.0 MiB) has grown to 2.0 MiB");
    fake_disk("sdb", "size", "2048");
    fake_disk("sdb", "diskseq", "3");
    look("it was pulled, and put back", was, count, "disk sdb (1.0 MiB) was away");
    MUST(rename("/sys/block/sdb", "/sys/block/sdc") == 0);
    look("it has another name", was, count, "disk sdc (1.0 MiB) has come; disk sdb (1.0 MiB) is gone");
    is_int(disks_look(&named, was, count, &words, &e), -1, "a named one that is not there: %s", e.message);
    test_known();
    begun_us = clock_monotonic_us();
    MUST(disks_look(&c, was, count, &words, &e) == 1);
    printf("# looked in %lld us\n", (long long)(clock_monotonic_us() - begun_us));
    MUST(umount("/sys/block") == 0);
}

int main(void)
{
    char command[300];

    MUST(mkdtemp(folder) != NULL);
    snprintf(config_path, sizeof config_path, "%s/config.json", folder);
    test_config();
    test_identity();
    test_disks();
    test_difference();
    test_look();
    snprintf(command, sizeof command, "rm -rf %s", folder);
    ok(system(command) == 0, "cleared");
    return tap_done();
}
