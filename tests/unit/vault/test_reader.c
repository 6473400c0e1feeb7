/* test_reader VAULT_READ: a damaged vault by another's eyes. What tools/vault_read.py lists and reads of the segments alone must be what the vault has once its index was made
 * anew of them, disk by disk; and it must name the damage. SLIPWAY_SEEDS=N: so many rounds of damage by chance. */
#include "base/bytes.h"
#include "base/hash.h"
#include "small.h"

#include <sys/wait.h>
#include <xxhash.h>

#define CHUNKS 100 /* a root and two leaves */
#define STEP 10    /* 10 of them are no zeros */
#define SEED 1000
#define SMALL 10   /* chunks of each other disk, all of them noise */
#define POINTS 6
#define ROUNDS 40  /* of damage by chance */
#define TEXT_BYTES 65536

enum { FIRST, SECOND, OTHERS, DROPPED, GROUPS, GROUPS_OTHER };

static const struct vault_key key = {{3, 1}};
static const char *reader;
static char points[POINTS][VAULT_POINT_ID_SIZE];
static char other[80]; /* the copy that is damaged */

/* ---- the vault ---- */

static void use_disk(const char *server, const char *id, uint64_t chunk_count)
{
    MUST(vault_disk_open(v, server, id, chunk_count * CHUNK, &disk, NULL) == 0);
}

static void commit(int which, const char *server)
{
    struct vault_point p;

    MUST(vault_point_commit(v, server, 0, "crash", 0, &p, NULL) == 0);
    memcpy(points[which], p.id, sizeof p.id);
}

/* One page of a chunk of the map is another one. */
static void put_page(uint64_t index, uint64_t seed)
{
    uint8_t bytes[CHUNK], page[VAULT_PAGE_BYTES];
    struct vault_hash base, hash;

    fill(bytes, seed);
    vault_hash_of(bytes, CHUNK, &base);
    memset(page, 0x5a, sizeof page);
    MUST(vault_store_delta(v, &base, 1u << 3, page, &hash, NULL, NULL) == 1 && vault_map(v, &disk, index, &hash, NULL) == 1);
}

static void commit_group(void)
{
    static const char *const members[] = {SERVER, "db01"};
    struct vault_group g;

    vault_group_begin(v, "shop", 0, &g);
    for (int i = 0; i < 2; i++) {
        struct vault_point p;

        MUST(vault_point_stage(v, &g, members[i], "crash", 0, NULL, &p, NULL) == 0);
        memcpy(g.points[g.count++].id, p.id, sizeof p.id);
        memcpy(points[GROUPS + i], p.id, sizeof p.id);
    }
    MUST(vault_group_commit(v, &g, NULL) == 0);
}

/* Chunks in the order of their records: 10 of web01's d, 10 of its e, one more of d, a page of d, 10 of db01. */
static void make_vault(void)
{
    begin(CHUNKS, STEP, SEED);
    use_disk(SERVER, "e", SMALL);
    for (uint64_t i = 0; i < SMALL; i++)
        MUST(put(i, 2 * SEED + i) == 1);
    commit(FIRST, SERVER);
    seal_current();
    use_disk(SERVER, "d", CHUNKS);
    MUST(put(0, 3 * SEED) == 1);
    put_page(STEP, SEED + STEP);
    commit(SECOND, SERVER);
    seal_current();
    use_disk("db01", "d", SMALL);
    for (uint64_t i = 0; i < SMALL; i++)
        MUST(put(i, 4 * SEED + i) == 1);
    commit(OTHERS, "db01");
    commit(DROPPED, SERVER);
    MUST(vault_point_drop(v, points[DROPPED], NULL) == 0);
    seal_current();
    commit_group();
    vault_close(&v);
}

/* ---- both readers ---- */

static char *in_file(const char *end) { return xasprintf("%s.%s", other, end); }

static char *option(void)
{
    CLEANUP(free_ptr) char *path = in_file("key");
    char hex[2 * VAULT_KEY_SIZE + 1];

    hash_hex(key.bytes, VAULT_KEY_SIZE, hex);
    MUST(file_write(path, hex, strlen(hex), 0600, NULL) == 0);
    return options.key_count ? xasprintf("--key-file %s", path) : xstrdup("");
}

/* Its exit status; what it prints, and what it complains of, are in files beside the copy. */
static int read_by_other(const char *words)
{
    CLEANUP(free_ptr) char *key_option = option(), *command = xasprintf("python3 '%s' %s %s %s > %s.read 2> %s.told", reader, key_option, other, words, other, other);
    int status = system(command);

    MUST(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static bool is_in(const char *end, const char *words)
{
    CLEANUP(free_ptr) char *path = in_file(end);
    CLEANUP(buf_release) struct buf text = {0};

    buf_init(&text, TEXT_BYTES);
    MUST(file_read(path, TEXT_BYTES, &text, NULL) == 0);
    return text.data && strstr(text.data, words);
}

static void sum_disk(FILE *out, const char *point, const struct vault_point_disk *d)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    CLEANUP(free_ptr) uint8_t *bytes = xmalloc(d->size_bytes);
    uint8_t digest[HASH_SHA256_SIZE];
    char hex[HASH_SHA256_HEX_SIZE];
    struct err e = {0};

    if (vault_image_open(v, point, d->id, &image, &e) < 0 || vault_image_read(image, bytes, d->size_bytes, 0, &e) < 0) {
        fprintf(out, "%s %s %s\n", point, d->id, e.message); /* which the other one never prints */
        return;
    }
    hash_sha256(bytes, d->size_bytes, digest);
    fprintf(out, "%s %s %s\n", point, d->id, hash_hex(digest, sizeof digest, hex));
}

/* What the vault has with an index that is made anew. */
static int read_by_vault(void)
{
    CLEANUP(free_ptr) char *path = in_file("anew");
    CLEANUP(close_file) FILE *out = fopen(path, "we");
    static const char *const servers[] = {SERVER, "db01"};

    MUST(out);
    if (vault_rebuild(other, &options, NULL) < 0)
        return -1;
    MUST(vault_open(other, &options, &v, NULL) == 0);
    for (size_t s = 0; s < ARRAY_COUNT(servers); s++) {
        CLEANUP(free_ptr) struct vault_point *list = NULL;
        int count = vault_point_list(v, servers[s], 0, &list, NULL);

        for (int i = 0; i < count; i++)
            for (size_t d = 0; d < list[i].disk_count; d++)
                sum_disk(out, list[i].id, &list[i].disks[d]);
    }
    vault_close(&v);
    return 0;
}

static bool alike(void)
{
    CLEANUP(free_ptr) char *command = xasprintf("sort -o %s.read %s.read && sort -o %s.anew %s.anew && diff %s.read %s.anew > %s.diff || ! sed 's/^/# /' %s.diff",
                                                other, other, other, other, other, other, other, other);

    return system(command) == 0;
}

static void copy_vault(void)
{
    CLEANUP(free_ptr) char *command = xasprintf("rm -rf %s %s.* && cp -a %s %s", other, other, dir, other);

    MUST(system(command) == 0);
}

/* ---- damage ---- */

struct place {
    uint32_t segment;
    uint64_t offset, span; /* offset 0: it was not found */
    struct vault_hash name;
};

struct looking {
    struct place found;
    enum record_kind kind;
    int left;
};

static int look_at(const struct record *r, uint64_t offset, const uint8_t *payload, void *user, struct err *e)
{
    struct looking *l = user;

    (void)payload, (void)e;
    if (r->kind == l->kind && l->left-- == 0)
        l->found = (struct place){l->found.segment, offset, record_span(r->stored_size), r->hash};
    return 0;
}

static int open_segment(uint32_t id)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/segments/%010u.seg", other, id);

    return open(path, O_RDWR | O_CLOEXEC);
}

static uint64_t size_of(uint32_t id)
{
    CLEANUP(close_fd) int fd = open_segment(id);
    struct stat st = {0};

    return fd >= 0 && fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* The which-th of its kind, in the order in which they lie. */
static struct place place_of(enum record_kind kind, int which)
{
    struct looking l = {.kind = kind, .left = which};

    for (uint32_t id = 1; id < SEGMENTS_MOST && !l.found.offset; id++) {
        CLEANUP(close_fd) int fd = open_segment(id);
        struct segment_state state;

        l.found.segment = id;
        if (fd >= 0)
            MUST(segment_scan(fd, 0, look_at, &l, &state, NULL) == 0);
    }
    MUST(l.found.offset);
    return l.found;
}

static void flip(uint32_t segment, uint64_t at, uint64_t size)
{
    CLEANUP(close_fd) int fd = open_segment(segment);
    uint8_t byte;

    for (uint64_t i = at; fd >= 0 && i < at + size; i++) {
        if (pread(fd, &byte, 1, (off_t)i) != 1)
            return; /* it was cut off before */
        byte ^= 0x10;
        MUST(pwrite(fd, &byte, 1, (off_t)i) == 1);
    }
}

static void cut(uint32_t segment, uint64_t size)
{
    CLEANUP(close_fd) int fd = open_segment(segment);

    MUST(fd < 0 || size_of(segment) <= size || ftruncate(fd, (off_t)size) == 0);
}

/* ---- one by one ---- */

static bool listed(const char *end, int which) { return is_in(end, points[which]); }

/* Those points are left out, by both; and the other reader says these words. */
static void both_leave_out(unsigned lost, const char *told, const char *what)
{
    unsigned left_out = 0;

    is_int(read_by_other("sums"), 0, "%s: what is left is read", what);
    ok(is_in("told", told), "and it is told: %s", told);
    MUST(read_by_vault() == 0);
    ok(alike(), "as the vault has it with a new index");
    for (int i = 0; i < POINTS; i++)
        left_out |= listed("read", i) ? 0 : 1u << i;
    is_int(left_out, lost, "without the points that it costs, and with all others");
}

static void one_record(enum record_kind kind, int which, uint64_t at, unsigned lost, const char *wrong)
{
    static const char *const kinds[] = {"", "chunk", "node", "point", "grave", "group"};
    CLEANUP(free_ptr) char *what = xasprintf("%s %d, byte %llu of its record", kinds[kind], which, (unsigned long long)at), *told = NULL;
    struct place p;

    copy_vault();
    p = place_of(kind, which);
    flip(p.segment, p.offset + at, 1);
    told = xasprintf("segment %u is damaged from byte %llu to %llu: %s", p.segment, (unsigned long long)p.offset, (unsigned long long)(p.offset + p.span), wrong);
    both_leave_out(lost, told, what);
}

#define LOST(which) (1u << (which))
#define NONE LOST(DROPPED) /* which is not there in any case */
#define WEB01 (NONE | LOST(FIRST) | LOST(SECOND) | LOST(GROUPS))

static void records(void)
{
    one_record(RECORD_CHUNK, 0, RECORD_HEADER_SIZE + 9, NONE | LOST(FIRST), "the stored bytes of chunk ");
    one_record(RECORD_CHUNK, 0, 20, NONE | LOST(FIRST), "the header of a record is damaged");
    one_record(RECORD_CHUNK, 0, 1, NONE | LOST(FIRST), "no record begins there");
    one_record(RECORD_CHUNK, 1, RECORD_HEADER_SIZE, WEB01, "the stored bytes of chunk "); /* the other pages of the one with a new page */
    one_record(RECORD_CHUNK, SMALL, RECORD_HEADER_SIZE, WEB01, "the stored bytes of chunk ");
    one_record(RECORD_CHUNK, 2 * SMALL, RECORD_HEADER_SIZE, NONE | LOST(SECOND) | LOST(GROUPS), "the stored bytes of chunk ");
    one_record(RECORD_CHUNK, 3 * SMALL, 50, NONE | LOST(OTHERS) | LOST(GROUPS_OTHER), "the header of a record is damaged");
    one_record(RECORD_NODE, 0, RECORD_HEADER_SIZE, NONE | LOST(FIRST), "the stored bytes of node ");
    one_record(RECORD_POINT, 0, RECORD_HEADER_SIZE + 30, NONE | LOST(FIRST), "the stored bytes of point ");
    one_record(RECORD_POINT, 2, 63, NONE | LOST(OTHERS), "the header of a record is damaged");
    one_record(RECORD_GRAVE, 0, RECORD_HEADER_SIZE, 0, "the stored bytes of grave "); /* nobody knows any more that it was dropped */
    one_record(RECORD_GROUP, 0, RECORD_HEADER_SIZE + 7, NONE | LOST(GROUPS) | LOST(GROUPS_OTHER), "the stored bytes of group ");
}

static void edges(void)
{
    CLEANUP(free_ptr) char *told = NULL;
    uint64_t size;

    copy_vault();
    flip(1, 25, 1);
    both_leave_out(NONE, "the header of segment 1 is damaged", "a header, its middle");
    copy_vault();
    flip(2, 0, SEGMENT_HEADER_SIZE);
    both_leave_out(NONE, "the header of segment 2 is damaged", "a header, all of it");
    copy_vault();
    size = size_of(2);
    flip(2, size - 10, 1);
    told = xasprintf("segment 2 is damaged from byte %llu to %llu: ", (unsigned long long)(size - SEGMENT_TRAILER_SIZE), (unsigned long long)size);
    both_leave_out(NONE, told, "a trailer");
    copy_vault();
    flip(1, place_of(RECORD_CHUNK, 3).offset, 1);
    both_leave_out(WEB01, "segment 1: its trailer says ", "a record less than the trailer says");
}

static void cuts(void)
{
    struct place p;

    copy_vault();
    p = place_of(RECORD_CHUNK, 2 * SMALL + 1);
    cut(p.segment, p.offset + p.span / 2);
    both_leave_out(NONE | LOST(SECOND) | LOST(GROUPS), "reaches beyond the file", "a segment that is cut within a chunk");
    copy_vault();
    cut(1, 30);
    both_leave_out(WEB01, "segment 1 has 30 bytes, fewer than its header", "one that is cut within its header");
}

/* A point of which one disk is whole: the other reader brings that one, and says what the other lacks. */
static void half_a_point(void)
{
    CLEANUP(free_ptr) char *words = xasprintf("read %s d", points[SECOND]), *whole = xasprintf("read %s e", points[SECOND]), *told = NULL, *path = NULL;
    CLEANUP(free_ptr) uint8_t *read = xmalloc(SMALL * CHUNK + 1);
    CLEANUP(close_fd) int fd = -1;
    char name[VAULT_HASH_TEXT_SIZE];
    struct place p;
    bool same;

    copy_vault();
    path = in_file("read");
    p = place_of(RECORD_CHUNK, 2 * SMALL);
    flip(p.segment, p.offset + RECORD_HEADER_SIZE, 1);
    ok(read_by_other(words) == 1 && (fd = open(path, O_RDONLY | O_CLOEXEC)) >= 0 && pread(fd, read, 1, 0) == 0,
       "a disk that needs a damaged chunk is refused, and nothing of it is written");
    close_fd(&fd);
    told = xasprintf("%s is missing (damaged: segment %u, byte %llu)", vault_hash_text(&p.name, name), p.segment, (unsigned long long)p.offset);
    ok(is_in("told", told), "with its name: %s", told);
    is_int(read_by_other(whole), 0, "the point's other disk is read");
    same = (fd = open(path, O_RDONLY | O_CLOEXEC)) >= 0 && pread(fd, read, SMALL * CHUNK + 1, 0) == (ssize_t)(SMALL * CHUNK);
    for (uint64_t i = 0; same && i < SMALL; i++) {
        uint8_t wanted[CHUNK];

        fill(wanted, 2 * SEED + i);
        same = memcmp(read + i * CHUNK, wanted, CHUNK) == 0;
    }
    ok(same, "byte by byte");
}

/* A record of a later version is no damage, also where damage comes before it: nothing is read, and nothing is cut off. */
static void later(void)
{
    struct place before, p;
    uint8_t header[RECORD_HEADER_SIZE];
    uint64_t size;
    int fd;

    for (int hurt = 0; hurt < 2; hurt++) {
        copy_vault();
        p = place_of(RECORD_GROUP, 0);
        before = place_of(RECORD_POINT, POINTS - 1);
        MUST(before.segment == p.segment && before.offset < p.offset);
        fd = open_segment(p.segment);
        MUST(fd_pread_all(fd, header, sizeof header, (int64_t)p.offset, NULL) == 0);
        header[4]++;
        put_le64(header + 56, XXH3_64bits(header, 56));
        MUST(fd_pwrite_all(fd, header, sizeof header, (int64_t)p.offset, NULL) == 0);
        close_fd(&fd);
        if (hurt)
            flip(before.segment, before.offset + 9, 1);
        size = size_of(p.segment);
        ok(read_by_other("points") == 1 && is_in("told", "a record of a later version at byte "), "a record of a later version%s: all is refused", hurt ? " behind damage" : "");
        ok(read_by_vault() < 0 && size_of(p.segment) == size, "by the vault, too, and nothing is cut off");
    }
}

/* ---- by chance ---- */

static uint64_t state = 1;

static uint64_t below(uint64_t bound)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (state >> 12) % bound;
}

static void damage_by_chance(uint32_t last)
{
    for (uint64_t n = 1 + below(4); n > 0; n--) {
        uint32_t segment = 1 + (uint32_t)below(last);
        uint64_t size = size_of(segment), at = size ? below(size) : 0;

        switch (below(7)) {
        case 0: cut(segment, at); break;
        case 1: flip(segment, at / 512 * 512, 512); break;
        case 2: flip(segment, below(SEGMENT_HEADER_SIZE), 1); break;
        case 3: flip(segment, size > SEGMENT_TRAILER_SIZE ? size - 1 - below(SEGMENT_TRAILER_SIZE) : 0, 1); break;
        default: flip(segment, at, 1);
        }
    }
}

static void by_chance(void)
{
    const char *many = getenv("SLIPWAY_SEEDS");
    int same = 0, lost_points = 0, kept_points = 0, rounds = many ? atoi(many) : ROUNDS;
    uint32_t last = 0;

    copy_vault();
    while (size_of(last + 1))
        last++;
    for (int round = 0; round < rounds; round++) {
        copy_vault();
        damage_by_chance(last);
        MUST(read_by_other("sums") == 0 && read_by_vault() == 0);
        if (alike())
            same++;
        else
            tap_note("round %d", round);
        for (int i = 0; i < POINTS; i++)
            *(listed("read", i) ? &kept_points : &lost_points) += i != DROPPED;
    }
    is_int(same, rounds, "after each of %d rounds of damage both have the same", rounds);
    ok(lost_points > rounds / 2 && kept_points > rounds / 2, "which is some of it: %d points are kept, %d are lost", kept_points, lost_points);
}

int main(int argc, char **argv)
{
    CLEANUP(free_ptr) char *command = NULL;

    MUST(argc == 2);
    reader = argv[1];
    options.keys = &key;
    options.key_count = getenv("VAULT_SEALED") != NULL;
    make_vault();
    snprintf(other, sizeof other, "%s-other", dir);
    copy_vault();
    MUST(read_by_other("sums") == 0 && read_by_vault() == 0);
    ok(alike() && !listed("read", DROPPED) && listed("read", FIRST) && !is_in("told", "vault_read"), "a whole vault: both have the same, and nothing is told");
    records();
    edges();
    cuts();
    half_a_point();
    later();
    by_chance();
    command = xasprintf("rm -rf %s %s.*", other, other);
    MUST(system(command) == 0);
    end();
    return tap_done();
}
