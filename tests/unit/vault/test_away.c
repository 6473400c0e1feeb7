/* A vault whose segments lie in a bucket, opened without it: what is there is not touched, and does not count as damaged; whoever needs it is told. */
#include "small.h"

#define CHUNKS 64
#define SEED 1000
#define KEPT (SEGMENT_SENT | SEGMENT_KEPT)

static struct vault_point stays;

/* Two points, of which the first one goes: its chunks are in sparse segments. */
static void begin_sparse(void)
{
    struct vault_point goes;

    begin(CHUNKS, 1, SEED);
    goes = point();
    for (uint64_t i = 1; i < CHUNKS; i += 2)
        MUST(put(i, 2 * SEED + i) == 1);
    stays = point();
    MUST(vault_point_drop(v, goes.id, NULL) == 0);
    seal_current();
}

/* As the bucket's thread leaves a segment: kept there, with its maps alone here. They hold the chunks too, so that they can come back. */
static void move_away(uint32_t id, bool away)
{
    CLEANUP(free_ptr) char *path = segment_path(v->segment_dir, id), *maps = xasprintf("%s/%010u.maps", v->segment_dir, id);

    MUST(row_flag(v, id, KEPT, NULL) == 1 && rename(away ? path : maps, away ? maps : path) == 0);
}

static uint32_t segment_count(void) { return v->next_segment - 1; }

static uint64_t bad_count(void)
{
    struct vault_stat s = {0};

    MUST(vault_stat(v, &s, NULL) == 0);
    return s.bad_count;
}

static bool is_usable(void)
{
    struct err e = {0};
    bool usable = vault_point_usable(v, stays.id, &e) == 0;

    if (!usable)
        tap_note("%s", e.message);
    return usable;
}

static void not_touched(void)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct err e = {0};
    uint64_t freed = 0;
    uint32_t count;

    begin_sparse();
    count = segment_count();
    for (uint32_t id = 1; id < count; id++) /* the last one stays here */
        move_away(id, true);
    vault_close(&v);
    open_it(CHUNKS);
    is_int(vault_compact(v, 100, false, &freed, &e), -1, "what lies in a bucket that is not open is not given back");
    ok(e.kind == ERR_UNREACHABLE && strstr(e.message, "open the vault with its bucket"), "which is said: %s", e.message);
    err_clear(&e);
    is_int(vault_gc(v, &freed, &e), -1, "nor is it by a collection");
    is_int(bad_count(), 0, "nothing of it counts as damaged");
    ok(is_usable(), "and points that use it are whole");
    for (uint32_t id = 1; id < count; id++)
        move_away(id, false);
    err_clear(&e);
    ok(vault_compact(v, 100, false, &freed, &e) == 0 && freed > 0, "with its files it is given back %s", e.message);
    ok(vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 0 && is_usable(), "and all that lives is there");
    end();
}

/* The file here is damaged, and the bucket has it whole. */
static void damaged_here(void)
{
    struct err e = {0};

    begin_sparse();
    for (uint32_t id = 1; id <= segment_count(); id++)
        MUST(row_flag(v, id, KEPT, NULL) == 1);
    vault_close(&v);
    damage(RECORD_CHUNK, 0, SEGMENTS_MOST);
    open_it(CHUNKS);
    (void)vault_compact(v, 100, false, NULL, &e);
    is_int(bad_count(), 0, "what is damaged here alone does not count as damaged");
    end();
}

static void damaged_for_good(void)
{
    begin_sparse();
    vault_close(&v);
    damage(RECORD_CHUNK, 0, SEGMENTS_MOST);
    open_it(CHUNKS);
    is_int(vault_compact(v, 100, false, NULL, NULL), 0, "what is nowhere else");
    ok(bad_count() > 0, "does");
    end();
}

static void needed(void)
{
    struct err e = {0};

    begin_sparse();
    options.bucket_needed = true;
    vault_close(&v);
    ok(vault_open(dir, &options, &v, &e) == 0, "a vault that never was in a bucket opens without one %s", e.message);
    MUST(row_flag(v, 1, SEGMENT_SENT, NULL) == 1);
    vault_close(&v);
    ok(vault_open(dir, &options, &v, &e) < 0 && e.kind == ERR_INVALID && strstr(e.message, "open the vault with its bucket"), "one that was does not, for who needs it: %s", e.message);
    options.bucket_needed = false;
    open_it(CHUNKS);
    end();
}

int main(void)
{
    not_touched();
    damaged_here();
    damaged_for_good();
    needed();
    return tap_done();
}
