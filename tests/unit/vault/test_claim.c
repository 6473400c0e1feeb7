/* test_claim S3_SERVER: who may write to a vault's bucket. Another that lives there keeps everybody out, one that is dead is taken over, and whoever was taken over writes and
 * removes no more. An older copy writes over nothing. */
#include "base/hash.h"
#include "bucketed.h"
#include "shell.h"
#include "vault/bucket_private.h"

/* How long the machine was suspended; its monotonic clock stood still. */
static atomic_llong suspended_us;
int64_t __real_clock_boot_us(void);
int64_t __wrap_clock_boot_us(void);
int64_t __wrap_clock_boot_us(void) { return __real_clock_boot_us() + atomic_load(&suspended_us); }

static void write_claim(const char *holder, const char *host, const char *folder, int count)
{
    CLEANUP(json_free) json_t *j = json_pack("{s:s, s:i, s:s, s:i, s:s, s:s}", "format", "slipway-claim", "version", 1, "holder", holder, "count", count, "host", host, "folder", folder);
    CLEANUP(free_ptr) char *path = xasprintf("%s/objects/claimed%%2Fclaim.json", dir), *text = json_text(j), *whole = NULL;
    uint8_t digest[HASH_SHA256_SIZE];
    char hex[HASH_SHA256_HEX_SIZE];

    hash_sha256(text, strlen(text), digest);
    json_object_set_new(j, "sha256", json_string(hash_hex(digest, sizeof digest, hex)));
    whole = json_text(j);
    MUST(file_write(path, whole, strlen(whole), 0600, NULL) == 0);
}

/* Somebody who lives, and writes there. */
static pid_t another_lives(const char *host, const char *folder)
{
    pid_t child = fork();

    for (int count = 0; child == 0; count++) {
        if (count == 0)
            prctl(PR_SET_PDEATHSIG, SIGKILL);
        write_claim("another", host, folder, count);
        clock_sleep_us(100 * US_PER_MS);
    }
    return child;
}

static void dies(pid_t child)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static bool refuses(void) { return stat_now().bucket_error_kind == ERR_CONFLICT; }

static bool is_told(const char *name)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s", dir, name);

    return file_exists(path);
}

static bool held(void) { return is_told("held"); }

/* What is being removed there when another takes over is broken off: the store may be slow, and do it later. Waits for less than a slow exchange takes to end by itself. */
static void removing_broken_off(const char *host)
{
    struct err e = {0};
    bool left = false;
    int before;

    ok(opens() && live(5000, &one) && live(6000, &two) && comes(all_sent), "two points are sent");
    before = objects();
    fault("hold");
    ok(vault_point_drop(v, one.id, &e) == 0 && vault_gc(v, NULL, &e) == 0 && comes(held), "a segment is being removed, and the store is slow");
    write_claim("another", host, vault_dir, 1);
    for (int64_t until_us = clock_monotonic_us() + SLOW_MS / 2 * US_PER_MS; !left && clock_monotonic_us() < until_us; left = is_told("left"))
        clock_sleep_us(20 * US_PER_MS);
    ok(left, "another that takes over has it broken off");
    fault("");
    vault_close(&v);
    ok(opens() && comes(all_sent) && objects() < before && holds(two.id, 6000), "whoever is the vault then removes it");
    vault_close(&v);
}

/* Another may have taken it over, written there and gone, all while this one could not look: its own claim is gone then, and nobody's is there. */
static void gone_meanwhile(void)
{
    CLEANUP(free_ptr) char *claim = xasprintf("%s/objects/claimed%%2Fclaim.json", dir);
    struct err e = {0};
    int before;

    ok(opens() && live(7000, &one) && comes(all_sent), "a holder has sent all");
    stop_server();
    clock_sleep_us(2 * LEASE_MS * US_PER_MS);
    MUST(unlink(claim) == 0);
    before = objects();
    start_server();
    first(comes(refuses) && strstr(stat_now().bucket_error, "is gone"), "one that could not look for longer than the lease, and finds none, writes no more (%s)", stat_now().bucket_error);
    ok(!live(9000, &two) && !file_exists(claim), "takes nothing more, and no claim");
    is_int(objects(), before, "and has written nothing");
    ok(holds(one.id, 7000), "what it has can be read");
    vault_close(&v);
    ok(opens() && live(9000, &two) && comes(all_sent) && holds(two.id, 9000), "started again it goes on");
    ok(vault_point_drop(v, two.id, &e) == 0, "the point goes");
    vault_close(&v);
}

/* A machine that was suspended wakes up, and has not looked yet. */
static void suspended(void)
{
    CLEANUP(free_ptr) char *claim = xasprintf("%s/objects/claimed%%2Fclaim.json", dir);

    ok(opens() && live(7000, &one) && comes(all_sent), "a holder has sent all");
    stop_server();
    ok(claim_holds(v->bucket, NULL) == 1, "and may go on for a while without a look");
    atomic_fetch_add(&suspended_us, 2 * LEASE_MS * US_PER_MS);
    ok(claim_holds(v->bucket, NULL) <= 0, "but not behind a suspend that was longer");
    MUST(unlink(claim) == 0);
    start_server();
    first(comes(refuses) && strstr(stat_now().bucket_error, "is gone"), "nor is what came meanwhile taken for nothing (%s)", stat_now().bucket_error);
    vault_close(&v);
}

static bool no_claim(void) { return stat_now().bucket_error_kind == ERR_CORRUPT; }

/* What lies there, or comes back, is no claim: a holder who may still write mends it; else nobody knows who is there. */
static void damaged(void)
{
    CLEANUP(free_ptr) char *claim = xasprintf("%s/objects/claimed%%2Fclaim.json", dir);
    CLEANUP(buf_release) struct buf own = {0}, there = {0};
    static const char words[] = "<html>please sign in</html>";
    struct vault_point four;

    buf_init(&own, 8192);
    buf_init(&there, 8192);
    ok(opens() && live(13000, &two) && comes(all_sent), "a holder has sent all");
    MUST(file_write(claim, words, strlen(words), 0600, NULL) == 0);
    clock_sleep_us(2 * LEASE_MS * US_PER_MS);
    ok(claim_holds(v->bucket, NULL) == 1 && live(14000, &three) && comes(all_sent), "one whose claim is damaged goes on");
    ok(file_read(claim, 8192, &own, NULL) == 0 && strstr(own.data, "\"holder\""), "and has written it anew");
    stop_server();
    clock_sleep_us(2 * LEASE_MS * US_PER_MS);
    MUST(file_write(claim, words, strlen(words), 0600, NULL) == 0);
    start_server();
    first(comes(no_claim) && strstr(stat_now().bucket_error, "remove it"), "one that could not look for longer than the lease, and gets what is no claim, waits (%s)", stat_now().bucket_error);
    ok(live(15000, &four) && stat_now().bucket_waiting_count > 0, "it takes what comes, and sends nothing");
    MUST(file_write(claim, own.data, own.size_bytes, 0600, NULL) == 0);
    ok(comes(all_sent) && holds(four.id, 15000), "until the claim is there again");
    MUST(vault_point_drop(v, three.id, NULL) == 0 && vault_point_drop(v, four.id, NULL) == 0);
    vault_close(&v);
    MUST(file_write(claim, words, strlen(words), 0600, NULL) == 0);
    ok(opens() && live(16000, &three) && comes(no_claim), "nor is it taken by one that has none");
    clock_sleep_us(2 * LEASE_MS * US_PER_MS);
    ok(file_read(claim, 8192, &there, NULL) == 0 && there.size_bytes == strlen(words) && no_claim() && stat_now().bucket_waiting_count > 0, "as long as it is there");
    MUST(unlink(claim) == 0);
    ok(comes(all_sent) && holds(two.id, 13000) && holds(three.id, 16000) && vault_point_drop(v, two.id, NULL) == 0 && vault_point_drop(v, three.id, NULL) == 0, "without it all goes on");
    vault_close(&v);
}

static bool no_pins_wait(void) { return !stat_now().bucket_pins_wait; }

/* A folder as it was before the vault went on: its next numbers are those of objects that are there, and nobody lives whose claim would tell. */
static void older_copy(void)
{
    struct err e = {0};

    MUST(shell("cp -r %s %s.older", vault_dir, vault_dir));
    ok(opens() && live(11000, &two) && comes(all_sent), "a vault goes on after it was copied");
    MUST(vault_point_pin(v, two.id, "kept: audit", NULL) == 0 && comes(no_pins_wait));
    vault_close(&v);
    MUST(shell("cd %s/objects && sha256sum *.seg *pins *vault.json > ../before", dir));
    MUST(shell("mv %s %s.newer && mv %s.older %s", vault_dir, vault_dir, vault_dir, vault_dir));
    ok(opens(), "the copy opens when nobody else has a claim");
    first(vault_point_pin(v, one.id, "kept: x", &e) == 0 && vault_point_unpin(v, one.id, "kept: x", &e) == 0 && vault_point_drop(v, one.id, &e) == 0 && vault_gc(v, NULL, &e) == 0 && live(12000, &three),
          "and has something to write, to overwrite and to remove there (%s)", e.message);
    first(comes(refuses) && strstr(stat_now().bucket_error, "was not sent from here"), "and sends nothing under a number that is taken (%s)", stat_now().bucket_error);
    ok(stat_now().bucket_doomed_count > 0 && stat_now().bucket_pins_wait, "nor does it the rest");
    clock_sleep_us(LEASE_MS * US_PER_MS);
    vault_close(&v);
    ok(shell("cd %s/objects && sha256sum --quiet -c ../before", dir), "all objects are what they were");
    MUST(shell("rm -r %s && mv %s.newer %s", vault_dir, vault_dir, vault_dir));
    ok(opens() && comes(all_sent) && holds(one.id, 7000) && holds(two.id, 11000), "and the vault is whole");
    ok(vault_point_unpin(v, two.id, "kept: audit", NULL) == 0 && vault_point_drop(v, two.id, NULL) == 0, "the point goes");
    vault_close(&v);
}

static void claims(void)
{
    char host[65] = "";
    struct err e = {0};
    pid_t other;
    int before;

    start_server();
    MUST(gethostname(host, sizeof host - 1) == 0);
    other = another_lives("elsewhere", "/vault");
    before = objects();
    first(open_as(prefix, secret, true, &v, &e) < 0 && e.kind == ERR_CONFLICT && strstr(e.message, "host elsewhere, folder /vault"), "a prefix that another replicator writes to is refused (%s)", e.message);
    err_clear(&e);
    first(open_as(prefix, secret, true, &v, &e) < 0 && e.kind == ERR_CONFLICT, "as often as one tries (%s)", e.message);
    err_clear(&e);
    is_int(objects(), before, "and nothing was written");
    dies(other);
    ok(opens() && live(1000, &one) && comes(all_sent) && objects() > before, "of one that is dead it is taken over");
    write_claim("another", host, vault_dir, 1);
    first(comes(refuses), "whose claim was taken over writes no more (%s)", stat_now().bucket_error);
    before = objects();
    ok(!live(2000, &two), "and takes nothing more");
    first(read_chunk(one.id, 0, (uint8_t[CHUNK]){0}, &e) == 0, "what it has can be read (%s)", e.message);
    vault_close(&v);
    other = another_lives(host, vault_dir);
    ok(opens(), "a copy of the whole machine can't be told from its own past at once");
    ok(comes(refuses) && !live(2000, &two), "but soon");
    is_int(objects(), before, "and writes nothing there");
    vault_close(&v);
    dies(other);
    ok(opens() && live(2000, &two) && comes(all_sent) && holds(one.id, 1000) && holds(two.id, 2000), "it goes on when it is alone");
    vault_close(&v);
    removing_broken_off(host);
    gone_meanwhile();
    suspended();
    damaged();
    older_copy();
    ok(opens() && live(1000, &one) && comes(all_sent), "it goes on");
    vault_close(&v);
    stop_server();
}

/* What lies there is read, and nothing is written. */
static void only_read(void)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    CLEANUP(free_ptr) char *credentials = xasprintf("%s/credentials", dir), *claim = xasprintf("%s/objects/claimed%%2Fclaim.json", dir);
    struct vault_bucket bucket = {.url = url, .bucket = bucket_name, .prefix = prefix, .credentials_file = credentials, .wait_ms = WAIT_MS, .retry_ms = 50, .read_only = true};
    struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1, .cache_bytes = CHUNK, .keys = &key, .key_count = 1, .bucket = &bucket};
    struct err e = {0};
    int before;

    start_server();
    before = objects();
    ok(!file_exists(claim), "who closes leaves no claim");
    ok(vault_open(vault_dir, &options, &v, &e) == 0 && holds(one.id, 1000) && vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 0, "a vault at rest is read");
    ok(live(5000, &three), "and written to");
    vault_close(&v);
    ok(objects() == before && !file_exists(claim), "without a word to its bucket");
    ok(opens() && comes(all_sent) && objects() > before && holds(three.id, 5000), "what was written is sent by whoever keeps it");
    vault_close(&v);
    stop_server();
}

int main(int argc, char **argv)
{
    MUST(argc == 2);
    server_path = argv[1];
    snprintf(prefix, sizeof prefix, "claimed");
    begin();
    claims();
    only_read();
    return end();
}
