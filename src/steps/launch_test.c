/* launch_test: a test instance from a recovery point of now, in a network of its own, while the source goes on serving. */
#include "steps/control.h"
#include "steps/launch.h"
#include "steps/standstill.h"

#include <inttypes.h>
#include <stdio.h>

#define POINT_TIMEOUT_MS (10 * 60 * 1000)

/* A point of this moment. Mostly it costs the source nothing. */
static int take_point(struct step *s, const char *server, json_t **answer, struct err *e)
{
    struct standstill still;

    if (standstill_look(s, &still, e) < 0)
        return -1;
    if (still.needed)
        return standstill_point(s, &still, answer, e);
    step_progress(s, 0, 0, "", "a recovery point is taken");
    return control_ask_agent(s, json_pack("{s:s, s:s, s:s, s:b, s:i}", "verb", "point", "server", server, "consistency", "any", "hold", 0, "timeout_ms", POINT_TIMEOUT_MS),
                             POINT_TIMEOUT_MS + 30000, "a recovery point is taken", answer, e);
}

/* A point of this moment; an attempt after a killed one goes on with the point that that one had taken. */
static int choose_point(struct step *s, char *out, size_t size, struct err *e)
{
    CLEANUP(launch_release) struct launch l = {0};
    CLEANUP(json_free) json_t *answer = NULL;
    const char *server, *id, *chosen;
    json_t *point;

    if (launch_open_instance(s, LAUNCH_TEST, &l, e) < 0 || step_need_string(s, "server.name", &server, e) < 0)
        return -1;
    chosen = launch_chosen_point(s, &l);
    if (chosen) {
        step_evidence(s, "recovery point", true, "%s, which an earlier attempt took", chosen);
        snprintf(out, size, "%s", chosen);
        return 0;
    }
    if (take_point(s, server, &answer, e) < 0 || json_need_object(answer, "point", &point, e) < 0 || json_need_string(point, "id", &id, e) < 0)
        return err_wrap(e, "no recovery point of %s was taken", server);
    step_evidence(s, "recovery point", true, "%s of %s, %s-consistent, the source was frozen for %" PRId64 " ms", id, json_get_string(point, "at", "?"),
                  json_get_string(point, "consistency", "?"), json_get_int(point, "freeze_ms", 0));
    snprintf(out, size, "%s", id);
    return 0;
}

static int run(struct step *s, struct err *e)
{
    char point[256];

    return choose_point(s, point, sizeof point, e) < 0 ? -1 : launch_point(s, LAUNCH_TEST, point, e);
}

static int undo(struct step *s, struct err *e) { return launch_remove(s, LAUNCH_TEST, false, e); }

const struct step_api step_launch_test = {
    .name = "launch_test", .title = "Launch the test instance", .place = STEP_AT_TARGET, .timeout_ms = STANDSTILL_WAIT_MOST_MS + 30 * 60 * 1000, .attempts = 3, .run = run, .undo = undo};
