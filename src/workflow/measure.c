/* measure: what was seen outside the workflow and goes into the report. */
#include "workflow/engine.h"

#include "base/limits.h"

#include <math.h>
#include <string.h>

#define MEASUREMENT_BYTES_MOST (1u << 20)

int workflow_measure(struct workflow *w, const char *wave, const char *name, const json_t *value, const char *actor, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    CLEANUP(free_ptr) char *text = json_text(value), *data = NULL;
    CLEANUP(json_free) json_t *what = NULL;
    const struct fleet_wave *found;

    if (!*name || strlen(name) > LIMIT_NAME_BYTES || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != strlen(name))
        return err_set(e, ERR_INVALID, "a measurement's name has 1 to %d of a-z 0-9 . _ -", LIMIT_NAME_BYTES);
    if (strlen(text) > MEASUREMENT_BYTES_MOST)
        return err_set(e, ERR_LIMIT, "the measurement has more than %u bytes", MEASUREMENT_BYTES_MOST);
    what = json_pack("{s:s}", "name", name);
    data = json_text(what);
    if (change_begin(w, actor, &c, e) < 0 || change_wave(&c, wave, &found, e) < 0
        || store_run(c.tx, e,
                     "INSERT INTO measurement (wave, name, at_us, actor, value) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (wave, name)"
                     " DO UPDATE SET at_us = excluded.at_us, actor = excluded.actor, value = excluded.value",
                     "ssiss", wave, name, c.now_us, actor, text) < 0
        || event_add(c.tx,
                     &(struct event){.actor = actor, .kind = "wave.measured", .wave = wave, .entity = "wave", .entity_id = wave,
                                     .data = data},
                     c.now_us, e) < 0)
        return -1;
    return change_commit(&c, e);
}

/* Eight buckets for each doubling: a percentile is right within 9 %. */
static int64_t bucket_of(int64_t age_ms)
{
    return age_ms < 1 ? 0 : (int64_t)floor(log2((double)age_ms) * 8);
}

int workflow_replication_seen(struct store_tx *tx, const char *server, const json_t *replication, int64_t now_us, struct err *e)
{
    CLEANUP(free_ptr) char *text = json_text(replication);
    int64_t age_ms = json_get_int(replication, "newest_point_age_ms", -1), rate = json_get_int(replication, "rate_bytes_per_s", 0);

    if (strlen(text) > LIMIT_EVIDENCE_TEXT_BYTES)
        return err_set(e, ERR_LIMIT, "the replication object of %.100s has more than %d bytes", server, LIMIT_EVIDENCE_TEXT_BYTES);
    if (store_run(tx, e,
                  "INSERT INTO replication_seen (server, first_us, last_us, age_max_ms, rate_max, newest) VALUES ($1, $2, $2, $3, $4, $5)"
                  " ON CONFLICT (server) DO UPDATE SET last_us = excluded.last_us, newest = excluded.newest, age_max_ms = CASE WHEN"
                  " excluded.age_max_ms > replication_seen.age_max_ms THEN excluded.age_max_ms ELSE replication_seen.age_max_ms END,"
                  " rate_max = CASE WHEN excluded.rate_max > replication_seen.rate_max THEN excluded.rate_max ELSE"
                  " replication_seen.rate_max END",
                  "siiis", server, now_us, age_ms, rate, text) < 0)
        return -1;
    if (age_ms < 0) /* no point yet */
        return 0;
    return store_run(tx, e,
                     "INSERT INTO replication_age (server, bucket, count) VALUES ($1, $2, 1) ON CONFLICT (server, bucket) DO UPDATE SET"
                     " count = replication_age.count + 1",
                     "si", server, bucket_of(age_ms)) < 0
        ? -1
        : 0;
}
