#include "steps/standstill.h"

#include "base/clock.h"
#include "base/words.h"
#include "steps/control.h"

#define GUESSED_BYTES_PER_S (INT64_C(100) << 20)
#define ESTIMATE_MOST_MS (INT64_C(6) * 3600 * 1000)
#define LOOK_US (300 * US_PER_S)
#define LOOK_AGAIN_MS 500
#define BESIDE_MS (11 * 60 * 1000) /* beside readings: what is to be sent before the source stands still */

struct standstill standstill_of(const json_t *server)
{
    const json_t *rescan = json_object_get(server, "rescan");

    if (!json_is_object(rescan))
        return (struct standstill){0};
    return (struct standstill){.needed = true, .disk_bytes = json_get_int(server, "bytes_total", 0), .reading_ms = json_get_int(rescan, "reading_ms", 0),
                               .interval_ms = json_get_int(rescan, "interval_ms", 0), .allowed_ms = json_get_int(json_object_get(server, "settings"), "rescan_freeze_ms", 0)};
}

/* It has told how it follows changes; where the replicator was just started that takes a moment. */
static bool has_told(const json_t *server)
{
    return !json_is_false(json_object_get(server, "connected")) && !json_is_null(json_object_get(server, "tracker"));
}

int standstill_look(struct step *s, struct standstill *out, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + LOOK_US;

    for (;;) {
        CLEANUP(json_free) json_t *answer = NULL;
        bool last = clock_monotonic_us() > until_us;
        struct err why = {0};
        json_t *server;

        if (control_server(s, &answer, &server, &why) == 0 && (has_told(server) || last)) {
            *out = standstill_of(server);
            return 0;
        }
        if (why.kind && (why.kind != ERR_UNREACHABLE || last)) {
            *e = why;
            return -1;
        }
        if (step_sleep_ms(s, LOOK_AGAIN_MS, e) < 0)
            return -1;
    }
}

int64_t standstill_estimate_ms(const struct standstill *t)
{
    int64_t ms = t->reading_ms ? t->reading_ms : t->disk_bytes * 1000 / GUESSED_BYTES_PER_S + 1;

    return ms < ESTIMATE_MOST_MS ? ms : ESTIMATE_MOST_MS;
}

char *standstill_words(const struct standstill *t)
{
    CLEANUP(buf_release) struct buf words = {0};

    words_bytes(&words, (double)t->disk_bytes);
    buf_puts(&words, " are read while it stands still, about ");
    words_duration(&words, (double)standstill_estimate_ms(t));
    if (!t->reading_ms)
        buf_puts(&words, " by a guess");
    return xstrdup(words.data);
}

int standstill_point(struct step *s, const struct standstill *t, json_t **answer, struct err *e)
{
    CLEANUP(free_ptr) char *cost = standstill_words(t);
    CLEANUP(buf_release) struct buf allowed = {0};
    int64_t timeout_ms = BESIDE_MS + t->allowed_ms + 2 * standstill_estimate_ms(t);
    struct err why = {0};
    const char *server;

    if (step_need_string(s, "server.name", &server, e) < 0)
        return -1;
    words_duration(&allowed, (double)t->allowed_ms);
    step_evidence(s, "the source stands still", t->allowed_ms > 0, "its changes can't be followed, so for a recovery point %s; %s%s", cost, t->allowed_ms ? "allowed are " : "nobody has allowed it",
                  t->allowed_ms ? allowed.data : "");
    if (!t->allowed_ms)
        return err_set(e, ERR_WRONG_STATE, "a recovery point of %s holds it still, and nobody has allowed that: %s. Ask its owner, and set rescan_freeze_s (of the server, its wave, or the "
                       "factory) to how many seconds it may be", server, cost);
    if (timeout_ms > STANDSTILL_WAIT_MOST_MS)
        timeout_ms = STANDSTILL_WAIT_MOST_MS;
    step_progress(s, 0, 0, "", "a recovery point is taken: %s", cost);
    if (control_ask_agent(s, json_pack("{s:s, s:s, s:s, s:b, s:I}", "verb", "point", "server", server, "consistency", "frozen", "hold", 0, "timeout_ms", (json_int_t)timeout_ms),
                          (int)timeout_ms + 30000, "the source stands still for a recovery point", answer, &why) == 0)
        return 0;
    return err_set(e, why.kind == ERR_TIMEOUT ? ERR_WRONG_STATE : why.kind, "%s", why.message);
}
