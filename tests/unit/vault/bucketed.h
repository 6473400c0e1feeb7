/* bucketed: a vault whose full segments lie in an S3-compatible store, which is a server of the test's own (s3_server.py) where the test starts it. */
#pragma once

#include "base/clock.h"
#include "base/file.h"
#include "tap.h"
#include "vault/internal.h"

#include <dirent.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define CHUNKS 64u /* 4 MiB of noise: four segments */
#define CACHE_BYTES ((uint64_t)2 << 20)
#define WAIT_MS 4000   /* long enough for a store of a busy machine; all faults that a read waits for take as long */
#define LEASE_MS 1500
#define LATE_MS 1000
#define SLOW_MS 20000  /* how late a slow store answers, in s3_server.py */

static const struct vault_key key = {{7, 7}};
static const char *server_path;
static const char *access_key = "access", *secret = "se/cr+et", *bucket_name = "vaults", *ca_file;
static char dir[64], vault_dir[80], port[16] = "0", url[256], prefix[80] = "fleet";
static const struct clock *wall; /* NULL: the real one */
static pid_t server;
static struct vault *v;
static struct vault_point one, two, three;

/* ---- the store ---- */

static void fault(const char *word)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/fault", dir);

    MUST(file_write(path, word, strlen(word), 0600, NULL) == 0);
}

static void start_server(void)
{
    CLEANUP(close_file) FILE *out = NULL;
    int ends[2];

    MUST(pipe(ends) == 0);
    server = fork();
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ends[1], STDOUT_FILENO);
        close(ends[1]);
        close(ends[0]);
        execlp("python3", "python3", server_path, dir, port, bucket_name, access_key, secret, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    out = fdopen(ends[0], "r");
    MUST(out && fscanf(out, "%15s", port) == 1); /* the same port when it comes back */
    snprintf(url, sizeof url, "http://127.0.0.1:%s", port);
}

static void stop_server(void)
{
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
}

/* Files in a folder whose names end so. */
static int count_files(const char *folder, const char *end)
{
    DIR *d = opendir(folder);
    struct dirent *entry;
    int count = 0;

    while (d && (entry = readdir(d)))
        count += strlen(entry->d_name) > strlen(end) && strcmp(entry->d_name + strlen(entry->d_name) - strlen(end), end) == 0;
    if (d)
        closedir(d);
    return count;
}

static int objects(void)
{
    CLEANUP(free_ptr) char *folder = xasprintf("%s/objects", dir);

    return count_files(folder, ".seg");
}

static int files(const char *end)
{
    CLEANUP(free_ptr) char *folder = xasprintf("%s/segments", vault_dir);

    return count_files(folder, end);
}

/* ---- the vault ---- */

static int late_ms = LATE_MS; /* of the vault that is opened next */

static int open_as(const char *under, const char *said, bool with, struct vault **out, struct err *e)
{
    CLEANUP(free_ptr) char *credentials = xasprintf("%s/credentials", dir), *text = xasprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", access_key, said);
    struct vault_bucket bucket = {.url = url, .bucket = bucket_name, .prefix = under, .ca_file = ca_file, .credentials_file = credentials, .cache_bytes = CACHE_BYTES, .wait_ms = WAIT_MS, .retry_ms = 50, .lease_ms = LEASE_MS, .late_ms = late_ms};
    struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1, .cache_bytes = CHUNK, .clock = wall, .keys = &key, .key_count = 1, .bucket = with ? &bucket : NULL};

    MUST(file_write(credentials, text, strlen(text), 0600, NULL) == 0);
    return vault_open(vault_dir, &options, out, e);
}

static bool opens(void)
{
    struct err e = {0};
    bool open = open_as(prefix, secret, true, &v, &e) == 0;

    if (!open)
        tap_note("%s", e.message);
    return open;
}

static void fill(uint8_t *bytes, uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i < CHUNK; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

/* The disk's chunks are those of this seed from now on; a point, where p is given. */
static bool live(uint64_t seed, struct vault_point *p)
{
    struct vault_disk d;
    struct err e = {0};
    uint8_t bytes[CHUNK];
    bool fine = vault_disk_open(v, "web01", "d", CHUNKS * (uint64_t)CHUNK, &d, &e) == 0;

    for (uint64_t i = 0; i < CHUNKS && fine; i++) {
        struct vault_hash hash;

        fill(bytes, seed + i);
        fine = vault_store(v, bytes, NULL, &hash, NULL, &e) == 0 && vault_map(v, &d, i, &hash, &e) == 1;
    }
    fine = fine && vault_point_commit(v, "web01", 0, "crash", 0, p, &e) == 0;
    if (!fine)
        tap_note("%s", e.message);
    return fine;
}

static int read_chunk(const char *point, uint64_t index, uint8_t *bytes, struct err *e)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;

    err_clear(e);
    return vault_image_open(v, point, "d", &image, e) < 0 ? -1 : vault_image_read(image, bytes, CHUNK, index * CHUNK, e);
}

static bool holds(const char *point, uint64_t seed)
{
    uint8_t bytes[CHUNK], wanted[CHUNK];
    struct err e = {0};
    bool same = true;

    for (uint64_t i = 0; i < CHUNKS && same; i++) {
        fill(wanted, seed + i);
        same = read_chunk(point, i, bytes, &e) == 0 && memcmp(bytes, wanted, CHUNK) == 0;
    }
    if (!same)
        tap_note("%s", e.message);
    return same;
}

static struct vault_stat stat_now(void)
{
    struct vault_stat s = {0};

    MUST(vault_stat(v, &s, NULL) == 0);
    return s;
}

static bool all_sent(void) { struct vault_stat s = stat_now(); return s.bucket_waiting_count == 0 && s.bucket_doomed_count == 0 && !s.bucket_error_kind; }

/* For words that are told of what a condition found: it comes first. */
#define first(condition, ...) do { bool holds_ = (condition); ok(holds_, __VA_ARGS__); } while (0)

static bool comes(bool (*condition)(void))
{
    for (int i = 0; i < 3000; i++) {
        if (condition())
            return true;
        clock_sleep_us(20 * US_PER_MS);
    }
    tap_note("waiting %llu, kept %llu, doomed %llu, refused %llu, error %s, %d files, %d objects", (unsigned long long)stat_now().bucket_waiting_count, (unsigned long long)stat_now().bucket_kept_count,
             (unsigned long long)stat_now().bucket_doomed_count, (unsigned long long)stat_now().bucket_refused_count, stat_now().bucket_error, files(".seg"), objects());
    return false;
}

/* ---- the whole ---- */

static void begin(void)
{
    signal(SIGPIPE, SIG_IGN);
    snprintf(dir, sizeof dir, "/tmp/slipway-bucket.XXXXXX");
    MUST(mkdtemp(dir));
    snprintf(vault_dir, sizeof vault_dir, "%s/vault", dir);
}

static int end(void)
{
    CLEANUP(free_ptr) char *command = xasprintf("rm -rf %s", dir);

    ok(system(command) == 0, "nothing is left");
    return tap_done();
}
