/* The headers and trailers of segments: damage is named by check and scrub, mended from the index, and does not cost a record where the index is made anew. */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "tap.h"
#include "vault/internal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define CHUNK VAULT_CHUNK_BYTES
#define CHUNKS 40

static const struct vault_key key = {{5}};
static char dir[64];
static struct vault *v;
static struct vault_disk d;
static struct vault_point p;
static struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1 << 20, .keys = &key}; /* sealed: with the key */

static void open_vault(void)
{
    struct err e = {0};

    if (vault_open(dir, &options, &v, &e) < 0)
        printf("# %s\n", e.message);
    MUST(v);
}

/* Does not compress; no two seeds are alike. */
static void fill(uint8_t bytes[static CHUNK], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i < CHUNK; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

/* A point of chunks that fill two segments and are in a third. */
static void begin(bool full)
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash;
    struct err e = {0};

    snprintf(dir, sizeof dir, "/tmp/vault-edges.XXXXXX");
    MUST(mkdtemp(dir));
    open_vault();
    MUST(vault_disk_open(v, "web01", "sda", CHUNKS * (uint64_t)CHUNK, &d, &e) == 0);
    for (uint64_t i = 0; i < CHUNKS; i++) {
        fill(bytes, i + 1);
        MUST(vault_store(v, bytes, NULL, &hash, NULL, &e) == 0 && vault_map(v, &d, i, &hash, &e) == 1);
    }
    MUST(vault_point_commit(v, "web01", 0, "crash", 0, &p, &e) == 0 && (!full || (current_seal(v, &e) == 0 && vault_sync(v, &e) == 0)));
}

static void end(void)
{
    char command[128];

    vault_close(&v);
    snprintf(command, sizeof command, "rm -r %s", dir);
    MUST(system(command) == 0);
}

static void lose_index(void)
{
    char command[128];

    vault_close(&v);
    snprintf(command, sizeof command, "rm -r %s/index", dir);
    MUST(system(command) == 0);
}

static char *path_of(uint32_t id) { return xasprintf("%s/segments/%010u.seg", dir, id); }

static int64_t size_of(uint32_t id)
{
    CLEANUP(free_ptr) char *path = path_of(id);
    struct stat st;

    return stat(path, &st) == 0 ? st.st_size : -1;
}

/* at < 0: from the end. */
static void flip(uint32_t id, int64_t at, int64_t size)
{
    CLEANUP(free_ptr) char *path = path_of(id);
    CLEANUP(close_fd) int fd = open(path, O_RDWR | O_CLOEXEC);

    at = at < 0 ? size_of(id) + at : at;
    MUST(fd >= 0);
    for (int64_t i = 0; i < size; i++) {
        uint8_t byte;

        MUST(pread(fd, &byte, 1, at + i) == 1);
        byte ^= 0x10;
        MUST(pwrite(fd, &byte, 1, at + i) == 1);
    }
}

static void cut(uint32_t id, int64_t size)
{
    CLEANUP(free_ptr) char *path = path_of(id);

    MUST(truncate(path, size) == 0);
}

static bool holds(void)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    uint8_t bytes[CHUNK], wanted[CHUNK];
    bool same = vault_image_open(v, p.id, "sda", &image, NULL) == 0;

    for (uint64_t i = 0; i < CHUNKS && same; i++) {
        fill(wanted, i + 1);
        same = vault_image_read(image, bytes, CHUNK, i * CHUNK, NULL) == 0 && memcmp(bytes, wanted, CHUNK) == 0;
    }
    return same;
}

/* How many findings check and scrub have, the same ones. words: what the first must say. */
static int findings(const char *words)
{
    CLEANUP(vault_report_release) struct vault_report checked = {0}, scrubbed = {0};
    struct err e = {0};

    MUST(vault_check(v, &checked, &e) == 0 && vault_scrub(v, NULL, NULL, &scrubbed, &e) == 0);
    if (checked.finding_count != scrubbed.finding_count)
        return -1;
    if (words && checked.finding_count && (!strstr(checked.findings[0].text, words) || !strstr(scrubbed.findings[0].text, words))) {
        printf("# %s\n", checked.findings[0].text);
        return -2;
    }
    return (int)checked.finding_count;
}

static bool is_told(const char *words)
{
    const struct vault_report *damage = &vault_anew(v)->damage;

    for (size_t i = 0; i < damage->told_count; i++)
        if (strstr(damage->findings[i].text, words))
            return true;
    for (size_t i = 0; i < damage->told_count; i++)
        printf("# %s\n", damage->findings[i].text);
    return false;
}

/* Each byte of both: found, named, mended. */
static void test_found(void)
{
    int named = 0, mended = 0;

    begin(true);
    is_int(findings(NULL), 0, "a vault that is whole");
    for (int64_t at = 0; at < (int64_t)SEGMENT_HEADER_SIZE; at++) {
        flip(1, at, 1);
        flip(2, at - (int64_t)SEGMENT_TRAILER_SIZE, 1);
        named += findings("the header of segment 1") == 2 && findings(NULL) == 2;
        mended += vault_forget_damaged(v, NULL, NULL) == 0 && findings(NULL) == 0;
    }
    is_int(named, SEGMENT_HEADER_SIZE, "a byte of a header, and one of a trailer: both are named");
    is_int(mended, SEGMENT_HEADER_SIZE, "and written anew");
    flip(1, -(int64_t)SEGMENT_TRAILER_SIZE, SEGMENT_TRAILER_SIZE);
    is_int(findings("the trailer of segment 1"), 1, "a whole trailer");
    cut(1, size_of(1) - (int64_t)SEGMENT_TRAILER_SIZE);
    is_int(findings("the trailer of segment 1"), 1, "one that is cut off");
    ok(holds(), "what lies there is read all the same");
    is_int(vault_forget_damaged(v, NULL, NULL), 0, "no disk is asked for anything");
    is_int(findings(NULL), 0, "it is back");
    lose_index();
    open_vault();
    ok(vault_anew(v)->damage.finding_count == 0 && holds() && findings(NULL) == 0, "a vault that was mended is taken in without a word");
    end();
}

/* A header that is whole, and another segment's or vault's, is named, and nothing is written over it. */
static void test_others(void)
{
    CLEANUP(free_ptr) char *path = NULL;
    CLEANUP(close_fd) int fd = -1;
    struct segment_header h = {.id = 2};
    uint8_t bytes[SEGMENT_HEADER_SIZE], after[SEGMENT_HEADER_SIZE];

    begin(true);
    path = path_of(1);
    fd = open(path, O_RDWR | O_CLOEXEC);
    memcpy(h.vault_id, v->id, sizeof h.vault_id);
    segment_header_encode(&h, bytes);
    MUST(pwrite(fd, bytes, sizeof bytes, 0) == sizeof bytes);
    is_int(findings("it says segment 2"), 1, "another segment's header");
    is_int(vault_forget_damaged(v, NULL, NULL), 0, "which is not damage that can be mended");
    ok(pread(fd, after, sizeof after, 0) == sizeof after && memcmp(bytes, after, sizeof after) == 0 && findings("it says segment 2") == 1, "it stays as it is");
    put_le32(bytes + 8, 2);
    put_le64(bytes + 56, XXH3_64bits(bytes, 56));
    MUST(pwrite(fd, bytes, sizeof bytes, 0) == sizeof bytes);
    is_int(findings("version 2"), 1, "a later version's");
    is_int(vault_forget_damaged(v, NULL, NULL), 0, "is none, either");
    ok(pread(fd, after, sizeof after, 0) == sizeof after && memcmp(bytes, after, sizeof after) == 0, "and stays, too");
    segment_trailer_encode(99, (uint64_t)size_of(2) - SEGMENT_TRAILER_SIZE, bytes);
    free(path);
    path = path_of(2);
    close_fd(&fd);
    fd = open(path, O_RDWR | O_CLOEXEC);
    MUST(pwrite(fd, bytes, sizeof bytes, size_of(2) - (int64_t)sizeof bytes) == sizeof bytes);
    is_int(findings("version 2"), 2, "and a trailer that says another number of records");
    end();
}

/* The index is lost: the records behind a damaged header are found, and the damage is told. */
static void test_anew(void)
{
    struct vault_stat stat;
    struct err e = {0};

    for (int full = 0; full < 2; full++) {
        begin(full);
        flip(1, 20, 1);
        flip(3, 0, SEGMENT_HEADER_SIZE);
        lose_index();
        open_vault();
        ok(vault_anew(v)->index && vault_anew(v)->point_count == 1 && holds(), "%s: all is there", full ? "three full segments" : "the last one is not full");
        ok(is_told("the header of segment 1 was damaged") && is_told("the header of segment 3 was damaged"), "and the damage is told");
        is_int(vault_anew(v)->damage.finding_count, 2, "which is all that there was");
        is_int(findings(NULL), 0, "the headers are whole again");
        MUST(vault_stat(v, &stat, &e) == 0);
        ok((stat.plain_bytes == 0) == (options.key_count > 0), "and say what the records are sealed under");
        vault_close(&v);
        open_vault();
        ok(vault_anew(v)->damage.finding_count == 0 && holds(), "once more, there is nothing to tell");
        end();
    }
}

/* Records are damaged, too: those before and behind are found, and what needs the others is named. */
static void test_records(void)
{
    int64_t size;
    struct err e = {0};

    begin(true);
    size = size_of(1);
    flip(1, 8, 1);
    flip(1, 64 + 1000, 1);
    flip(1, -200, 1);
    lose_index();
    open_vault();
    is_int(vault_point_get(v, p.id, &(struct vault_point){0}, &e), 0, "a point that lacks chunks is not there");
    ok(is_told("the header of segment 1") && is_told("segment 1 is damaged from byte 64 ") && is_told(p.id), "and that is told: header, record, point");
    is_int(size_of(1), size, "nothing is cut off");
    {
        uint8_t bytes[CHUNK];
        struct vault_hash hash;
        int there = 0;

        for (uint64_t i = 0; i < CHUNKS; i++) {
            fill(bytes, i + 1);
            vault_hash_of(bytes, CHUNK, &hash);
            seal_name(v->seal, &hash);
            pthread_mutex_lock(&v->append_lock);
            there += place_find(v, &hash, &(struct chunk_place){0}, NULL) == 1;
            pthread_mutex_unlock(&v->append_lock);
        }
        is_int(there, CHUNKS - 2, "all other chunks are");
    }
    is_int(findings(NULL), 0, "what is known is whole");
    end();
}

/* Not one record is whole: the file is kept for people. */
static void test_nothing(void)
{
    CLEANUP(free_ptr) char *aside = NULL;

    begin(true);
    aside = xasprintf("%s/segments/0000000002.seg.damaged", dir);
    flip(2, 0, size_of(2));
    lose_index();
    open_vault();
    ok(is_told("no record in it is whole") && file_exists(aside) && size_of(2) < 0, "a file without a whole record is moved aside, and told");
    vault_close(&v);
    open_vault();
    ok(file_exists(aside), "where it stays");
    end();
}

/* With its index, a segment that has no row holds nothing that was acknowledged. */
static void test_lost_with_power(void)
{
    CLEANUP(free_ptr) char *from = NULL, *to = NULL, *command = NULL;
    uint32_t next;

    begin(true);
    next = v->next_segment;
    vault_close(&v);
    from = path_of(1), to = path_of(next);
    /* All of its pages are zero, but not its size. */
    command = xasprintf("truncate -s 300000 %s", to);
    MUST(system(command) == 0);
    open_vault();
    ok(size_of(next) < 0 && vault_anew(v)->damage.finding_count == 0, "one without a record is removed, and nothing is told");
    vault_close(&v);
    free(command);
    command = xasprintf("head -c 200000 /dev/urandom > %s", to);
    MUST(system(command) == 0);
    open_vault();
    ok(size_of(next) < 0 && vault_anew(v)->damage.finding_count == 0, "whatever its pages hold");
    ok(holds() && findings(NULL) == 0, "the others are as they were");
    vault_close(&v);
    if (!options.key_count) { /* a sealed record opens in its own segment only */
        free(command);
        command = xasprintf("cp %s %s", from, to);
        MUST(system(command) == 0);
        flip(next, 0, SEGMENT_HEADER_SIZE);
        open_vault();
        ok(size_of(next) > 0 && vault_anew(v)->damage.finding_count == 0, "one with records is taken in");
        ok(holds() && findings(NULL) == 0, "and has its header again");
        vault_close(&v);
        lose_index();
        open_vault();
        ok(vault_anew(v)->damage.finding_count == 0 && holds(), "so that making the index anew finds no damage");
    }
    end();
}

/* The segment that is being filled: its row says how far it was acknowledged. */
static void test_current(void)
{
    struct err e = {0};
    uint8_t bytes[CHUNK];
    struct vault_hash hash;

    begin(false);
    flip(3, 3, 1);
    is_int(findings("the header of segment 3"), 1, "it is looked at while it is filled");
    vault_close(&v);
    open_vault();
    ok(is_told("the header of segment 3 was damaged"), "it is mended as the vault is opened, and told");
    fill(bytes, 500);
    ok(vault_store(v, bytes, NULL, &hash, NULL, &e) == 0 && vault_sync(v, &e) == 0 && holds() && findings(NULL) == 0, "and gone on with");
    lose_index();
    open_vault();
    ok(vault_anew(v)->damage.finding_count == 0 && holds(), "what lies there is found again");
    end();
}

int main(void)
{
    options.key_count = getenv("VAULT_SEALED") != NULL;
    test_found();
    test_others();
    test_anew();
    test_records();
    test_nothing();
    test_lost_with_power();
    test_current();
    return tap_done();
}
