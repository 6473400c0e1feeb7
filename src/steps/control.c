#include "steps/control.h"
#include "base/clock.h"
#include "replicator/call.h"

#include <string.h>

#define AGENT_WAIT_US (300 * US_PER_S)
#define AGENT_AGAIN_MS 500

struct asking {
    struct step *step;
    const char *note;
};

static bool is_cancelled(void *user) { return step_cancelled(((struct asking *)user)->step); }

static void pass_on(int64_t done, int64_t total, const char *unit, void *user)
{
    struct asking *a = user;

    if (a->note)
        step_progress(a->step, done, total, unit, "%s", a->note);
}

int control_ask(struct step *s, json_t *request, int timeout_ms, const char *note, json_t **answer, struct err *e)
{
    CLEANUP(json_free) json_t *asked = request, *answered = NULL;
    struct asking a = {s, note};
    struct replicator_call call = {.timeout_ms = timeout_ms, .cancelled = is_cancelled, .progress = pass_on, .user = &a};

    if (step_need_string(s, "settings.replicator.control_socket", &call.socket_path, e) < 0 || replicator_call(&call, asked, &answered, e) < 0)
        return -1;
    if (answer) {
        *answer = answered;
        answered = NULL;
    }
    return 0;
}

int control_ask_agent(struct step *s, json_t *request, int timeout_ms, const char *note, json_t **answer, struct err *e)
{
    CLEANUP(json_free) json_t *asked = request;
    int64_t until_us = clock_monotonic_us() + AGENT_WAIT_US;
    struct err why = {0};

    while (control_ask(s, json_incref(asked), timeout_ms, note, answer, &why) < 0) {
        if (why.kind != ERR_UNREACHABLE || clock_monotonic_us() > until_us) {
            *e = why;
            return -1;
        }
        step_progress(s, 0, 0, "", "waiting: %s", why.message);
        if (step_sleep_ms(s, AGENT_AGAIN_MS, e) < 0)
            return -1;
        err_clear(&why);
    }
    return 0;
}

int control_server(struct step *s, json_t **answer, json_t **server, struct err *e)
{
    CLEANUP(json_free) json_t *status = NULL;
    const char *name;
    json_t *servers, *held;
    size_t i;

    if (step_need_string(s, "server.name", &name, e) < 0 ||
        control_ask(s, json_pack("{s:s, s:s}", "verb", "status", "server", name), 30000, NULL, &status, e) < 0 ||
        json_need_array(status, "servers", &servers, e) < 0)
        return -1;
    json_array_foreach(servers, i, held) {
        const char *its = json_get_string(held, "server", json_get_string(held, "name", ""));

        if (strcmp(its, name) == 0 && json_is_object(held)) {
            *answer = status;
            status = NULL;
            *server = held;
            return 0;
        }
    }
    return err_set(e, ERR_NOT_FOUND, "the replicator does not know the server %s; was its agent pushed, and does it reach the replicator?", name);
}
