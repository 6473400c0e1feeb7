/* Points of one vault that come to another one under their own ids: what differs between two of them, and what the other one makes of it. The two vaults
 * have keys of their own (VAULT_SEALED), so that not even the names of their chunks are the same. */
#include "base/clock.h"
#include "tap.h"
#include "vault/vault.h"

#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define CHUNKS 5000 /* three levels of nodes */
#define TAIL 1000   /* bytes of the last one */
#define SIZE ((CHUNKS - 1) * (uint64_t)CHUNK + TAIL)
#define MOST 8192
#define SECOND (US_PER_S)

static const struct vault_key keys[2] = {{{9}}, {{7}}};
static const char *reader; /* tools/vault_read.py: the format by another's eyes */
static char dirs[2][64];
static bool sealed;
static int64_t now_us = INT64_C(1790000000) * US_PER_S;

static struct vault_options options_of(int which)
{
    return (struct vault_options){.segment_bytes = 4 << 20, .guard_bytes = 1 << 20, .keys = &keys[which], .key_count = sealed};
}

static struct vault *open_vault(int which)
{
    struct vault_options options = options_of(which);
    struct vault *v = NULL;
    struct err e = {0};

    if (vault_open(dirs[which], &options, &v, &e) < 0)
        printf("# %s\n", e.message);
    MUST(v);
    return v;
}

static void fresh_dirs(void)
{
    for (int i = 0; i < 2; i++) {
        snprintf(dirs[i], sizeof dirs[i], "/tmp/vault-copies.XXXXXX");
        MUST(mkdtemp(dirs[i]));
    }
}

static void remove_dirs(void)
{
    for (int i = 0; i < 2; i++) {
        CLEANUP(free_ptr) char *command = xasprintf("rm -rf %s", dirs[i]);

        MUST(system(command) == 0);
    }
}

static void fill(uint8_t bytes[static CHUNK], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i < CHUNK; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

static void put(struct vault *v, const struct vault_disk *d, uint64_t chunk, uint64_t seed)
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash;
    struct err e = {0};

    fill(bytes, seed);
    if (chunk == CHUNKS - 1)
        memset(bytes + TAIL, 0, CHUNK - TAIL);
    MUST(vault_store(v, bytes, NULL, &hash, NULL, &e) == 0 && vault_map(v, d, chunk, &hash, &e) == 1);
}

/* Some chunks anew, spread over the disk: *count of chunks[]. */
static void change(struct vault *v, const struct vault_disk *d, uint64_t round, uint32_t *chunks, size_t count)
{
    struct err e = {0};

    for (size_t i = 0; i < count; i++)
        if (round % 3 == 2 && i == 1)
            MUST(vault_map_zero(v, d, chunks[i], 1, &e) == 0);
        else
            put(v, d, chunks[i], 100 * round + i + 1);
}

static void commit(struct vault *v, struct vault_point *out)
{
    const struct vault_unreadable marks = {.bytes = 1024, .range_count = 1, .ranges = {{"vda", 7, 2}}};
    struct err e = {0};

    now_us += SECOND;
    MUST(vault_point_commit_marked(v, "web01", now_us, "frozen", 5, &marks, out, &e) == 0);
}

/* The first vault's disk, all zeros but some, and a point of it. */
static void begin(struct vault *v, struct vault_disk *d, struct vault_point *out)
{
    uint32_t chunks[] = {0, 63, 64, 4095, 4096, CHUNKS - 1};
    struct err e = {0};

    MUST(vault_disk_open(v, "web01", "vda", SIZE, d, &e) == 0 && vault_map_zero(v, d, 0, CHUNKS, &e) == 0);
    change(v, d, 1, chunks, ARRAY_COUNT(chunks));
    commit(v, out);
}

static int differing(struct vault *v, const struct vault_point *p, const struct vault_point *base, uint32_t *out)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL, *of_base = NULL;
    struct err e = {0};
    size_t found = 0;
    int count = 1;

    MUST(vault_image_open(v, p->id, "vda", &image, &e) == 0 && (!base || vault_image_open(v, base->id, "vda", &of_base, &e) == 0));
    while (count > 0) {
        count = vault_image_differing(image, of_base, found ? (uint64_t)out[found - 1] + 1 : 0, out + found, found % 7 + 1, &e);
        MUST(count >= 0 && found + (size_t)count <= MOST);
        found += (size_t)count;
    }
    return (int)found;
}

/* As a replicator does it: names are looked for, what lacks is read and stored, checked against the name. Returns how many chunks were. */
static int bring(struct vault *from, struct vault *to, const struct vault_point *p, const struct vault_point *base)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    static uint32_t chunks[MOST];
    struct vault_disk d;
    struct err e = {0};
    int count = differing(from, p, base, chunks), stored = 0;

    MUST(vault_image_open(from, p->id, "vda", &image, &e) == 0 && vault_disk_open(to, "web01", "vda", SIZE, &d, &e) == 0);
    for (int i = 0; i < count; i++) {
        uint8_t bytes[CHUNK] = {0};
        struct vault_hash name;
        size_t there = chunks[i] == CHUNKS - 1 ? TAIL : CHUNK;

        MUST(vault_image_hash(image, chunks[i], &name, &e) == 0);
        if (vault_hash_is_zero(&name)) {
            MUST(vault_map_zero(to, &d, chunks[i], 1, &e) == 0);
            continue;
        }
        if (vault_has(to, &name, &e) == 0) {
            MUST(vault_image_read(image, bytes, there, (uint64_t)chunks[i] * CHUNK, &e) == 0 && vault_store(to, bytes, &name, NULL, NULL, &e) == 0);
            stored++;
        }
        MUST(vault_map(to, &d, chunks[i], &name, &e) == 1);
    }
    return stored;
}

static struct vault_copied copied_of(const struct vault_point *p)
{
    struct vault_copied c = {.at_us = p->at_us, .freeze_ms = p->freeze_ms, .unreadable = p->unreadable};

    memcpy(c.id, p->id, sizeof c.id);
    memcpy(c.server, p->server, sizeof c.server);
    memcpy(c.consistency, p->consistency, sizeof c.consistency);
    return c;
}

static bool same_content(struct vault *a, struct vault *b, const char *point)
{
    CLEANUP(vault_image_free) struct vault_image *of_a = NULL, *of_b = NULL;
    struct err e = {0};
    bool same = vault_image_open(a, point, "vda", &of_a, &e) == 0 && vault_image_open(b, point, "vda", &of_b, &e) == 0;

    for (uint64_t i = 0; same && i < CHUNKS; i++) {
        size_t size = i == CHUNKS - 1 ? TAIL : CHUNK;
        uint8_t x[CHUNK], y[CHUNK];

        same = vault_image_read(of_a, x, size, i * CHUNK, &e) == 0 && vault_image_read(of_b, y, size, i * CHUNK, &e) == 0 && memcmp(x, y, size) == 0;
    }
    return same;
}

static int points_read(int which)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/key", dirs[which]), *command = NULL;
    FILE *file = fopen(path, "we"), *out;
    int count = 0;

    for (size_t i = 0; file && i < sizeof keys[which]; i++)
        fprintf(file, "%02x", keys[which].bytes[i]);
    MUST(file && fclose(file) == 0);
    command = sealed ? xasprintf("%s --key-file %s %s points", reader, path, dirs[which]) : xasprintf("%s %s points", reader, dirs[which]);
    out = popen(command, "re");
    for (int c; out && (c = fgetc(out)) != EOF;)
        count += c == '\n';
    return out && pclose(out) == 0 ? count : -1;
}

static void what_differs(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    uint32_t second[] = {63, 64, 128, 4000, 4095, CHUNKS - 1}, third[] = {65, 4096};
    static uint32_t chunks[MOST];
    struct vault_point points[3];
    struct vault_disk d;

    fresh_dirs();
    v = open_vault(0);
    begin(v, &d, &points[0]);
    is_int(differing(v, &points[0], NULL, chunks), CHUNKS, "without a base all chunks are named");
    ok(chunks[0] == 0 && chunks[CHUNKS - 1] == CHUNKS - 1, "in their order");
    is_int(differing(v, &points[0], &points[0], chunks), 0, "from a point to itself none");
    change(v, &d, 2, second, ARRAY_COUNT(second));
    commit(v, &points[1]);
    is_int(differing(v, &points[1], &points[0], chunks), (int)ARRAY_COUNT(second), "what was changed");
    ok(memcmp(chunks, second, sizeof second) == 0, "one by one; one became zeros");
    is_int(differing(v, &points[0], &points[1], chunks), (int)ARRAY_COUNT(second), "and back");
    change(v, &d, 3, third, ARRAY_COUNT(third));
    commit(v, &points[2]);
    is_int(differing(v, &points[2], &points[0], chunks), (int)(ARRAY_COUNT(second) + ARRAY_COUNT(third)), "over two points");
    remove_dirs();
}

static void copies(void)
{
    CLEANUP(vault_close) struct vault *v = NULL, *w = NULL;
    uint32_t second[] = {1, 64, 3000};
    struct vault_point points[2], got = {0}, own;
    struct vault_copied c;
    struct vault_options options;
    struct vault_disk d, of_w;
    uint64_t freed;
    struct err e = {0};

    fresh_dirs();
    v = open_vault(0);
    w = open_vault(1);
    begin(v, &d, &points[0]);
    is_int(bring(v, w, &points[0], NULL), 6, "six chunks are brought");
    is_int(vault_map_is(w, "web01", points[0].id, &e), 0, "a point that is not there is not what the map is");
    c = copied_of(&points[0]);
    is_int(vault_point_commit_copied(w, &c, &got, &e), 0, "the copy is committed: %s", e.message);
    ok(strcmp(got.id, points[0].id) == 0 && got.at_us == points[0].at_us && got.copied && strcmp(got.consistency, "frozen") == 0 && got.freeze_ms == 5,
       "under its id, of its moment");
    ok(got.unreadable.bytes == 1024 && got.unreadable.range_count == 1 && got.unreadable.ranges[0].first_sector == 7, "with its marks");
    ok(same_content(v, w, points[0].id), "it is the same, byte by byte");
    is_int(vault_map_is(w, "web01", points[0].id, &e), 1, "and what the map is");
    is_int(vault_point_commit_copied(w, &c, &got, &e), -1, "it comes once");
    is_int(e.kind, ERR_CONFLICT, "in words: %s", e.message);
    err_clear(&e);
    change(v, &d, 2, second, ARRAY_COUNT(second));
    commit(v, &points[1]);
    is_int(bring(v, w, &points[1], &points[0]), 2, "of the next one what lacks is brought (one chunk became zeros)");
    is_int(vault_map_is(w, "web01", points[0].id, &e), 0, "the map is not the first any more");
    c = copied_of(&points[1]);
    c.at_us = points[0].at_us - 1;
    is_int(vault_point_commit_copied(w, &c, NULL, &e), -1, "an older moment than the newest is refused");
    is_int(e.kind, ERR_CONFLICT, "in words: %s", e.message);
    err_clear(&e);
    c = copied_of(&points[1]);
    is_int(vault_point_commit_copied(w, &c, NULL, &e), 0, "the second: %s", e.message);
    ok(same_content(v, w, points[1].id) && same_content(v, w, points[0].id), "both are the same");
    is_int(vault_map_is(w, "web01", points[1].id, &e), 1, "the map is the second");
    is_int(vault_gc(w, &freed, &e), 0, "space is given back");
    ok(same_content(v, w, points[1].id) && same_content(v, w, points[0].id), "and nothing of them");
    is_int(points_read(1), 2, "another reader sees two");
    vault_close(&w);
    options = options_of(1);
    is_int(vault_rebuild(dirs[1], &options, &e), 0, "a rebuild");
    w = open_vault(1);
    ok(vault_point_get(w, points[1].id, &got, &e) == 1 && got.copied && same_content(v, w, points[1].id) && same_content(v, w, points[0].id), "brings them back");
    is_int(vault_map_is(w, "web01", points[1].id, &e), 0, "the map went with the index");
    is_int(bring(v, w, &points[1], NULL), 0, "all is offered, and nothing lacks");
    /* The server's own agent feeds it from now on. */
    MUST(vault_disk_open(w, "web01", "vda", SIZE, &of_w, &e) == 0);
    put(w, &of_w, 5, 777);
    now_us += SECOND;
    is_int(vault_point_commit(w, "web01", now_us, "crash", 0, &own, &e), 0, "a point of its own follows: %s", e.message);
    ok(!own.copied && vault_map_is(w, "web01", points[1].id, &e) == 0, "which is no copy");
    is_int(vault_point_drop(w, points[0].id, &e), 0, "a copy is dropped like any other");
    is_int(vault_server_drop(w, "web01", &e), 0, "and so is all of it");
    remove_dirs();
}

/* A group's points are copied one by one; others of its servers may never come. */
static void of_a_group(void)
{
    CLEANUP(vault_close) struct vault *v = NULL, *w = NULL;
    struct vault_options options;
    struct vault_group g = {0}, got;
    struct vault_point p, first, staged;
    struct vault_copied c;
    struct vault_disk d, other;
    struct err e = {0};

    fresh_dirs();
    v = open_vault(0);
    w = open_vault(1);
    begin(v, &d, &first);
    MUST(vault_disk_open(v, "db01", "vda", SIZE, &other, &e) == 0 && vault_map_zero(v, &other, 0, CHUNKS, &e) == 0);
    now_us += SECOND;
    vault_group_begin(v, "shop", now_us, &g);
    for (int i = 0; i < 2; i++) {
        MUST(vault_point_stage(v, &g, i ? "db01" : "web01", "crash", 0, NULL, &staged, &e) == 0);
        memcpy(g.points[g.count++].id, staged.id, sizeof staged.id);
    }
    g.window_us = 77;
    MUST(vault_group_commit(v, &g, &e) == 0 && vault_point_get(v, g.points[0].id, &p, &e) == 1);
    bring(v, w, &p, NULL);
    c = copied_of(&p);
    c.group = g;
    is_int(vault_point_commit_copied(w, &c, NULL, &e), 0, "one of a group is copied: %s", e.message);
    ok(vault_group_get(w, g.id, &got, &e) == 1 && got.count == 2 && got.window_us == 77 && strcmp(got.name, "shop") == 0 && strcmp(got.points[1].server, "db01") == 0,
       "the group is told, with the one that is not here");
    is_int(points_read(1), 1, "another reader sees it");
    vault_close(&w);
    options = options_of(1);
    is_int(vault_rebuild(dirs[1], &options, &e), 0, "a rebuild");
    w = open_vault(1);
    ok(vault_point_get(w, p.id, &staged, &e) == 1 && strcmp(staged.group, g.id) == 0 && vault_group_get(w, g.id, &got, &e) == 1, "brings point and group back");
    is_int(vault_point_drop(w, p.id, &e), 0, "it is dropped");
    is_int(vault_group_get(w, g.id, &got, &e), 0, "and with the last of them the group");
    remove_dirs();
}

int main(int argc, char **argv)
{
    MUST(argc == 2);
    reader = argv[1];
    sealed = getenv("VAULT_SEALED") != NULL;
    what_differs();
    copies();
    of_a_group();
    return tap_done();
}
