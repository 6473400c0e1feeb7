/* verify_replication: all disks that the server had are there, replication is continuous, its lag is below the limit, the newest recovery point is fresh, and every
 * chunk of that point reads back whole. All of it must hold at one moment. Where changes can't be followed, the copy is as old as the last whole reading of the
 * disks: there must be one, no older than it may be, and where no fresh point is there one is taken, if the source may stand still for it. */
#include "base/clock.h"
#include "steps/control.h"
#include "steps/standstill.h"

#include <inttypes.h>
#include <string.h>

#define PATIENCE_US (120 * US_PER_S)
#define LAG_LIMIT_MS 60000        /* where the wave's setting lag_limit_ms says nothing else */
#define POINT_AGE_LIMIT_MS 120000 /* likewise point_age_limit_ms */
#define ASK_TIMEOUT_MS 30000
#define VERIFY_TIMEOUT_MS (6 * 3600 * 1000)

struct seen {
    const char *state, *point;
    int64_t lag_ms, age_ms;
    struct standstill still;
};

static int read_seen(const json_t *server, struct seen *out, struct err *e)
{
    if (json_need_string(server, "state", &out->state, e) < 0)
        return -1;
    out->point = json_get_string(server, "newest_point", NULL);
    out->lag_ms = json_get_int(server, "lag_ms", -1);
    out->age_ms = json_get_int(server, "newest_point_age_ms", -1);
    out->still = standstill_of(server);
    return 0;
}

/* Between two readings, and while one goes on, the copy is no younger. */
static int64_t lag_limit_of(const struct step *s, const struct seen *seen)
{
    return step_int(s, "wave.settings.lag_limit_ms", LAG_LIMIT_MS) + seen->still.interval_ms + 2 * seen->still.reading_ms;
}

static bool is_fresh(const struct step *s, const struct seen *seen)
{
    return seen->point && seen->age_ms >= 0 && seen->age_ms <= step_int(s, "wave.settings.point_age_limit_ms", POINT_AGE_LIMIT_MS);
}

static bool holds(const struct step *s, const struct seen *seen)
{
    return strcmp(seen->state, "CONTINUOUS") == 0 && seen->lag_ms >= 0 && seen->lag_ms <= lag_limit_of(s, seen) &&
           (seen->still.needed ? seen->still.reading_ms > 0 : is_fresh(s, seen));
}

/* It takes what it takes: nothing is wrong with it yet. */
static bool is_reading(const struct seen *seen)
{
    return seen->still.needed && (strcmp(seen->state, "CREATING_SNAPSHOT") == 0 || (strcmp(seen->state, "CONTINUOUS") == 0 && !seen->still.reading_ms));
}

static void tell(struct step *s, const struct seen *seen)
{
    int64_t lag_limit_ms = lag_limit_of(s, seen), age_limit_ms = step_int(s, "wave.settings.point_age_limit_ms", POINT_AGE_LIMIT_MS);

    step_evidence(s, "replication state", strcmp(seen->state, "CONTINUOUS") == 0, "%s", seen->state);
    step_evidence(s, "lag", seen->lag_ms >= 0 && seen->lag_ms <= lag_limit_ms, seen->lag_ms < 0 ? "not known" : "%" PRId64 " ms; at most %" PRId64 " ms are allowed",
                  seen->lag_ms, lag_limit_ms);
    if (seen->still.needed)
        step_evidence(s, "reading of all disks", seen->still.reading_ms > 0, "its changes can't be followed: they are read and compared every %" PRId64 " s, which took %" PRId64
                      " ms the last time", seen->still.interval_ms / 1000, seen->still.reading_ms);
    if (!seen->still.needed || is_fresh(s, seen))
        step_evidence(s, "newest recovery point", seen->point && seen->age_ms >= 0 && seen->age_ms <= age_limit_ms,
                  seen->point ? "%s, %" PRId64 " ms old; at most %" PRId64 " ms are allowed" : "there is none", seen->point ? seen->point : "", seen->age_ms, age_limit_ms);
}

/* Nothing is missing of the source in it. */
static int check_whole(struct step *s, const char *point, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    json_t *points;

    if (control_ask_agent(s, json_pack("{s:s, s:s}", "verb", "points", "point", point), ASK_TIMEOUT_MS, NULL, &answer, e) < 0 ||
        json_need_array(answer, "points", &points, e) < 0)
        return -1;
    return control_point_whole(s, json_array_get(points, 0), e);
}

static int verify_point(struct step *s, const char *point, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;

    if (check_whole(s, point, e) < 0)
        return -1;
    if (control_ask_agent(s, json_pack("{s:s, s:s}", "verb", "verify", "point", point), VERIFY_TIMEOUT_MS, "reading every chunk of the newest point", &answer, e) < 0)
        return err_wrap(e, "the recovery point %s does not read back", point);
    step_evidence(s, "every chunk of the point", true, "%s: each chunk was read and fits its hash", point);
    step_result(s, "point", json_string(point));
    return 0;
}

/* Where points don't come by themselves one is taken. */
static int verify_newest(struct step *s, const struct seen *seen, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    const char *id;
    json_t *point;

    if (!seen->still.needed || is_fresh(s, seen))
        return verify_point(s, seen->point, e);
    if (standstill_point(s, &seen->still, &answer, e) < 0 || json_need_object(answer, "point", &point, e) < 0 || json_need_string(point, "id", &id, e) < 0)
        return err_wrap(e, "a recovery point to verify");
    step_evidence(s, "newest recovery point", true, "%s, taken now; the source stood still for %" PRId64 " ms", id, json_get_int(point, "freeze_ms", 0));
    return verify_point(s, id, e);
}

static int run(struct step *s, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + PATIENCE_US;

    for (;;) {
        CLEANUP(json_free) json_t *answer = NULL;
        json_t *server;
        struct seen seen;
        bool all_hold;

        if (control_server(s, &answer, &server, e) < 0 || control_disks_there(s, server, e) < 0 || read_seen(server, &seen, e) < 0)
            return -1;
        all_hold = holds(s, &seen);
        if (all_hold || (clock_monotonic_us() > until_us && !is_reading(&seen))) {
            tell(s, &seen);
            return all_hold ? verify_newest(s, &seen, e)
                            : err_set(e, ERR_WRONG_STATE, "replication is not in order: state %s, lag %" PRId64 " ms, newest point %s", seen.state, seen.lag_ms,
                                      seen.still.needed ? "taken where the source may stand still" : seen.point ? "too old" : "missing");
        }
        if (step_sleep_ms(s, 1000, e) < 0)
            return -1;
    }
}

const struct step_api step_verify_replication = {
    .name = "verify_replication", .title = "Verify replication status", .place = STEP_AT_REPLICATOR, .timeout_ms = VERIFY_TIMEOUT_MS + STANDSTILL_WAIT_MOST_MS, .attempts = 5, .span = STEP_WATCHES, .run = run};
