/* initial_sync: waits, with progress, until the agent has sent its server's disks whole and goes on continuously. */
#include "base/clock.h"
#include "steps/control.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LOOK_EVERY_MS 1000
#define PATIENCE_US (180 * US_PER_S) /* how long the agent may be unknown, away, or stalled before that is a failure */

/* What a state of process.md means here. */
static const struct {
    const char *state;
    enum { GOES_ON, DONE, MUST_PASS } meaning; /* MUST_PASS: fine for a while (STOPPED: as while the source is rebooted) */
} states[] = {
    {"INITIATING", MUST_PASS}, {"INITIAL_SYNC", GOES_ON}, {"RESCAN", GOES_ON}, {"BACKLOG", GOES_ON}, {"CREATING_SNAPSHOT", GOES_ON},
    {"CONTINUOUS", DONE}, {"PAUSED", GOES_ON}, {"STALLED", MUST_PASS}, {"DISCONNECTED", MUST_PASS}, {"STOPPED", MUST_PASS},
};

static const char *cause(const json_t *server)
{
    return json_get_string(json_object_get(server, "cause"), "text", "no cause is given");
}

static void show(struct step *s, const json_t *server)
{
    int64_t rate = json_get_int(server, "rate_bytes_per_s", 0), eta_ms = json_get_int(server, "eta_ms", -1);
    char left[48] = "time left unknown";

    if (strcmp(json_get_string(server, "eta", ""), "never") == 0)
        snprintf(left, sizeof left, "more is written than gets across");
    else if (eta_ms >= 0)
        snprintf(left, sizeof left, "%" PRId64 " s left", (eta_ms + 999) / 1000);
    step_progress(s, json_get_int(server, "bytes_read", 0), json_get_int(server, "bytes_total", 0), "bytes", "%s, %" PRId64 " MiB/s, %s",
                  json_get_string(server, "state", "unknown state"), rate >> 20, left);
}

/* 1: whole and continuous, 0: not yet, -1. since_us: since when nothing good was seen (0: something was). */
static int judge(const json_t *server, int64_t *since_us, struct err *e)
{
    const char *state = json_get_string(server, "state", "");

    for (size_t i = 0; i < ARRAY_COUNT(states); i++) {
        if (strcmp(states[i].state, state) != 0)
            continue;
        if (states[i].meaning == DONE)
            return 1;
        if (states[i].meaning == GOES_ON) {
            *since_us = 0;
            return 0;
        }
        if (!*since_us)
            *since_us = clock_monotonic_us();
        if (clock_monotonic_us() - *since_us > PATIENCE_US)
            return err_set(e, ERR_UNREACHABLE, "replication has been %s for %d s: %s", state, (int)(PATIENCE_US / US_PER_S), cause(server));
        return 0;
    }
    return err_set(e, ERR_PROTOCOL, "replication is in the state \"%s\", which nobody knows", state);
}

static int look(struct step *s, const char *name, int64_t *since_us, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    json_t *server;
    struct err why = {0};

    if (control_server_named(s, name, &answer, &server, &why) < 0) {
        /* A replicator that starts again, or an agent that has not dialled yet, is waited for. */
        if (why.kind != ERR_NOT_FOUND && why.kind != ERR_UNREACHABLE)
            return err_set(e, why.kind, "%s", why.message);
        if (!*since_us)
            *since_us = clock_monotonic_us();
        if (clock_monotonic_us() - *since_us > PATIENCE_US)
            return err_set(e, why.kind, "%s", why.message);
        return 0;
    }
    show(s, server);
    return judge(server, since_us, e);
}

int control_wait_continuous(struct step *s, const char *name, json_t **answer, json_t **server, struct err *e)
{
    int64_t since_us = 0;
    int whole;

    while ((whole = look(s, name, &since_us, e)) == 0)
        if (step_sleep_ms(s, LOOK_EVERY_MS, e) < 0)
            return -1;
    return whole < 0 ? -1 : control_server_named(s, name, answer, server, e);
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    int64_t begun_us = clock_monotonic_us();
    const char *name;
    json_t *server;

    if (step_need_string(s, "server.name", &name, e) < 0 || control_wait_continuous(s, name, &answer, &server, e) < 0)
        return -1;
    step_evidence(s, "initial sync", true, "%" PRId64 " bytes of disks read, %" PRId64 " sent, %" PRId64 " stored, in %" PRId64 " s; replication is continuous",
                  json_get_int(server, "bytes_total", 0), json_get_int(server, "bytes_sent", 0), json_get_int(server, "bytes_stored", 0),
                  (clock_monotonic_us() - begun_us) / US_PER_S);
    step_result(s, "replication", json_incref(server));
    return 0;
}

const struct step_api step_initial_sync = {
    .name = "initial_sync", .title = "Initial sync", .place = STEP_AT_REPLICATOR, .timeout_ms = INT32_MAX, .attempts = 10, .span = STEP_WATCHES, .run = run};
