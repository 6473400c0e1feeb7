/* Pins outlive the index: what people want kept is there after it was made anew, and nothing else; and where that can't be known, nothing is opened. */
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "tap.h"
#include "vault/internal.h"

#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define CHUNKS 20
#define POINTS 4

static char dir[64];
static struct vault *v;
static char ids[POINTS][VAULT_POINT_ID_SIZE];
static int64_t now_us = INT64_C(1790000000) * US_PER_S;

static int64_t wall(void *user) { (void)user; return now_us += 1000; }

static int opens(struct err *e)
{
    static const struct clock clock = {wall, NULL};
    static const struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1 << 20, .clock = &clock};

    err_clear(e);
    return vault_open(dir, &options, &v, e);
}

static void must_open(void)
{
    struct err e = {0};

    if (opens(&e) < 0)
        printf("# %s\n", e.message);
    MUST(v);
}

static void shell(const char *command) { MUST(system(command) == 0); } /* $D: the vault */

static void lose_index(void)
{
    vault_close(&v);
    shell("rm -r $D/index");
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

/* A vault of some points, each in segments of its own. */
static void begin(void)
{
    uint8_t bytes[CHUNK];
    struct err e = {0};

    snprintf(dir, sizeof dir, "/tmp/vault-pins.XXXXXX");
    MUST(mkdtemp(dir) && setenv("D", dir, 1) == 0);
    must_open();
    for (uint64_t p = 0; p < POINTS; p++) {
        struct vault_hash hash;
        struct vault_disk d;
        struct vault_point made;

        MUST(vault_disk_open(v, "web01", "sda", CHUNKS * (uint64_t)CHUNK, &d, &e) == 0);
        for (uint64_t i = 0; i < CHUNKS; i++) {
            fill(bytes, 1000 * p + i);
            MUST(vault_store(v, bytes, NULL, &hash, NULL, &e) == 0 && vault_map(v, &d, i, &hash, &e) == 1);
        }
        MUST(vault_point_commit(v, "web01", 0, "crash", 0, &made, &e) == 0 && current_seal(v, &e) == 0);
        snprintf(ids[p], sizeof ids[p], "%s", made.id);
    }
}

static void end(void)
{
    vault_close(&v);
    shell("rm -r $D");
}

static void pin(int point, const char *reason)
{
    struct err e = {0};

    is_int(vault_point_pin(v, ids[point], reason, &e), 0, "point %d is pinned: %s %s", point, reason, e.message);
}

static void unpin(int point, const char *reason)
{
    struct err e = {0};

    is_int(vault_point_unpin(v, ids[point], reason, &e), 0, "and unpinned: %s %s", reason, e.message);
}

/* The reasons of all points, as "0:a 0:b 2:a ". */
static const char *pins(void)
{
    static char text[1024];

    text[0] = '\0';
    for (int p = 0; p < POINTS; p++) {
        char(*reasons)[VAULT_PIN_REASON_SIZE] = NULL;
        int count = vault_point_pins(v, ids[p], &reasons, NULL);

        for (int i = 0; i < count; i++)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%d:%s ", p, reasons[i]);
        free(reasons);
    }
    return text;
}

static void test_rebuilt(void)
{
    static const struct vault_rung rungs[] = {{US_PER_S, 0}};
    static const struct vault_ladder last = {.keep_last = 1, .rung_count = 1, .rungs = rungs};
    static const char all[] = "0:kept: another 0:kept: audit 1:kept: a name with a \"quote\", and ü ";
    struct err e = {0};

    begin();
    pin(0, "kept: audit");
    pin(2, "export");
    pin(1, "kept: a name with a \"quote\", and ü");
    pin(0, "kept: another");
    pin(3, "lent");
    unpin(3, "lent");
    unpin(2, "export");
    is_int(vault_point_pin(v, "nothing", "kept: x", &e), -1, "no point, no pin: %s", e.message);
    is_int(vault_point_pin(v, ids[0], "kept: \xff\xfe", &e), -1, "what is no text is none, either");
    is_str(pins(), all, "what is pinned");
    ok(!vault_anew(v)->index && vault_anew(v)->pin_count == 0, "nothing was made anew");
    lose_index();
    must_open();
    ok(vault_anew(v)->index && vault_anew(v)->segment_count >= POINTS && vault_anew(v)->point_count == POINTS && vault_anew(v)->pin_count == 3 && vault_anew(v)->waiting_pin_count == 0,
       "the index is made anew: %llu segments, %llu points, %llu pins", (unsigned long long)vault_anew(v)->segment_count, (unsigned long long)vault_anew(v)->point_count,
       (unsigned long long)vault_anew(v)->pin_count);
    is_str(pins(), all, "all pins are there, and none that ended");
    now_us += 3600 * US_PER_S;
    is_int(vault_expire(v, "web01", &last, &e), 1, "retention drops the one that nobody wants");
    is_str(pins(), all, "and none of the others");
    vault_close(&v);
    is_int(vault_rebuild(dir, NULL, &e), 0, "once more: %s", e.message);
    must_open();
    is_str(pins(), all, "they are there");
    end();
}

/* A vault of before there was such a file; one whose file was put back from before. */
static void test_file(void)
{
    begin();
    pin(0, "kept: audit");
    vault_close(&v);
    shell("cp $D/pins.json $D.before");
    must_open();
    pin(1, "kept: audit");
    unpin(0, "kept: audit");
    vault_close(&v);
    shell("rm $D/pins.json");
    must_open();
    lose_index();
    must_open();
    is_str(pins(), "1:kept: audit ", "a vault without the file gets it as it is opened");
    vault_close(&v);
    shell("mv $D.before $D/pins.json");
    must_open();
    is_str(pins(), "1:kept: audit ", "what the index has counts");
    lose_index();
    must_open();
    is_str(pins(), "1:kept: audit ", "and is what the file has, from then on");
    end();
}

/* What can't be read is no file without pins. */
static void is_refused(const char *what, const char *command, enum err_kind kind, bool always)
{
    struct err e = {0};

    begin();
    pin(2, "kept: audit");
    vault_close(&v);
    shell(command);
    if (always) {
        ok(opens(&e) < 0 && e.kind == kind && !strstr(e.message, "moved away"), "%s, with its index: %s", what, e.message);
    } else {
        must_open();
        lose_index();
        must_open();
        is_str(pins(), "2:kept: audit ", "%s, with its index", what);
        vault_close(&v);
        shell(command);
    }
    shell("rm -r $D/index");
    ok(opens(&e) < 0 && e.kind == kind && strstr(e.message, "pins.json") && strstr(e.message, "moved away"), "%s, without its index: %s", what, e.message);
    ok(opens(&e) < 0 && e.kind == kind, "and again");
    shell("rm $D/pins.json");
    must_open();
    is_str(pins(), "", "moved away, none is pinned");
    end();
}

static void test_refused(void)
{
    is_refused("an empty file", ": > $D/pins.json", ERR_CORRUPT, false);
    is_refused("one that ends early", "truncate -s -20 $D/pins.json", ERR_CORRUPT, false);
    is_refused("a digit of an id is another", "sed -i 's/\"point\":\"2/\"point\":\"3/' $D/pins.json", ERR_CORRUPT, false);
    is_refused("no pins", "echo '{}' > $D/pins.json", ERR_CORRUPT, false);
    is_refused("another vault's", "cp pins-of-another.json $D/pins.json", ERR_CORRUPT, false);
    is_refused("a later version's", "sed -i 's/\"version\":1/\"version\":2/' $D/pins.json", ERR_UNSUPPORTED, true);
}

/* A point's segment is away, and comes back. */
static void test_waiting(void)
{
    struct err e = {0};

    begin();
    pin(0, "kept: audit");
    pin(3, "kept: audit");
    vault_close(&v);
    shell("mkdir $D.away && mv $D/segments/0000000001.seg $D.away");
    shell("rm -r $D/index");
    must_open();
    is_int(vault_point_pinned(v, ids[0], NULL, &e), 0, "a point is gone with its segment");
    is_int(vault_anew(v)->waiting_pin_count, 1, "its pin waits");
    pin(2, "export");
    vault_close(&v);
    must_open();
    unpin(3, "kept: audit");
    vault_close(&v);
    shell("mv $D.away/*.seg $D/segments/ && rmdir $D.away");
    shell("rm -r $D/index");
    must_open();
    is_str(pins(), "0:kept: audit 2:export ", "with its segment it comes back");
    is_int(vault_anew(v)->waiting_pin_count, 0, "and waits no more");
    end();
}

/* Rows of that many pins of a point, of about 370 bytes each in the file, as if each had been pinned. */
static void pin_many(int point, int from, int to)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    char reason[VAULT_PIN_REASON_SIZE], key[VAULT_POINT_ID_SIZE + VAULT_PIN_REASON_SIZE];
    MDB_val row;

    MUST(index_begin(&v->index, true, &txn, NULL) == 0);
    memset(reason, 1, sizeof reason);
    for (int i = from; i < to; i++) {
        snprintf(reason + 50, sizeof reason - 50, "%d", i);
        MUST(pin_key(ids[point], reason, key, &row, NULL) == 0 && index_put(&v->index, txn, INDEX_PIN, row, index_val("", 0), NULL) == 0);
    }
    MUST(index_commit(&txn, NULL) == 0);
}

static uint64_t pin_count(void)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    uint64_t count = 0;

    MUST(index_begin(&v->index, false, &txn, NULL) == 0 && index_count(&v->index, txn, INDEX_PIN, &count, NULL) == 0);
    return count;
}

/* As many as there can be are read again; one more is refused. */
static void test_many(void)
{
    struct err e = {0};
    int count = 30000; /* more than 8 MiB */

    begin();
    pin_many(0, 0, count);
    pin(1, "kept: audit");
    lose_index();
    must_open();
    ok(pin_count() == 30001, "an index that is made anew has all of many pins");
    pin_many(0, count, 100000);
    ok(vault_point_pin(v, ids[1], "kept: one more", &e) < 0 && e.kind == ERR_LIMIT && strstr(e.message, "as many pins"), "one more than can be read again is refused: %s", e.message);
    is_int(vault_point_pinned(v, ids[1], "kept: one more", &e), 0, "and is none");
    unpin(1, "kept: audit");
    vault_close(&v);
    must_open();
    ok(pin_count() == 100000, "those that are there stay");
    end();
}

/* Another vault's file, for all who want it. */
static void make_another(void)
{
    begin();
    pin(0, "kept: audit");
    shell("cp $D/pins.json pins-of-another.json");
    end();
}

int main(void)
{
    char work[] = "/tmp/vault-pins-work.XXXXXX";

    MUST(mkdtemp(work) && chdir(work) == 0);
    make_another();
    test_rebuilt();
    test_file();
    test_refused();
    test_waiting();
    test_many();
    MUST(unlink("pins-of-another.json") == 0 && chdir("/") == 0 && rmdir(work) == 0);
    return tap_done();
}
