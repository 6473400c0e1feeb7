/* decommission: the source's end: the agent removed and proven gone, services off, power off, proven unreachable. Only ever at the
 * parking address: the server's own belongs to the copy. */
#include "base/clock.h"
#include "base/file.h"
#include "base/http.h"
#include "steps/facts.h"
#include "steps/scripts.h"
#include "steps/source.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SCRIPT_MS 300000
#define OFF_WAIT_MS 240000   /* task.params.wait_ms is another time */
#define SILENT_TRIES 3        /* in a row, this many times without an answer */
#define SILENT_EVERY_MS 3000
#define SILENT_CONNECT_MS 5000

/* Written before the power goes, so that an attempt after this one knows why nothing answers. */
static char *mark_path(const struct step *s)
{
    CLEANUP(free_ptr) char *name = http_escape(step_string(s, "server.name", "?")), *run = http_escape(step_string(s, "run.id", "?"));

    return xasprintf("%s/decommissioned-%s-%s", step_state_dir(s), run, name);
}

static int remove_agent(struct step *s, struct remote *r, const char *parking, struct err *e)
{
    CLEANUP(free_ptr) char *services = NULL;
    CLEANUP(buf_release) struct buf out = {0};
    const char *arguments[] = {parking, NULL, NULL};
    int result, failed;

    if (source_services(s, &services, e) < 0)
        return -1;
    arguments[1] = services;
    result = source_script(r, script_decommission, arguments, &out, SCRIPT_MS, e);
    failed = source_evidence(s, out.data);
    if (result < 0)
        return failed ? err_set(e, ERR_WRONG_STATE, "the source is not switched off: %d of its lines of evidence say why", failed) : -1;
    return failed || !out.data ? err_set(e, ERR_PROTOCOL, "the source said nothing, or that something failed, and claims success") : 0;
}

static int power_off(struct step *s, struct remote *r, const char *mark, struct err *e)
{
    char now[CLOCK_TEXT_SIZE];

    clock_format(clock_now_us(), now);
    if (file_write(mark, now, strlen(now), 0600, e) < 0)
        return -1;
    if (remote_must_root(r, "setsid sh -c 'sleep 1; systemctl poweroff || poweroff' >/dev/null 2>&1 </dev/null &", NULL, 0, NULL, 30000, e) < 0) {
        unlink(mark);
        return err_wrap(e, "powering off");
    }
    step_evidence(s, "power off", true, "ordered at %s", now);
    return 0;
}

/* Who answers where the source is, and is not the source: the gateway that it had, and the copy, which has its address. The runner's own network, or the
 * way there, may be what is silent. (A jump host may be that gateway, and answer itself: behind one only the copy counts.) NULL: nobody does. */
static const char *witness(const struct step *s)
{
    const char *address = step_string(s, "server.address", ""), *cidr = NULL;
    const json_t *nic = *address ? facts_nic_of(step_json(s, "facts"), address, &cidr) : NULL;
    const char *const known[] = {*step_string(s, "server.attributes.jump", "") ? "" : json_get_string(nic, "gateway", ""), address};

    for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
        struct err why = {0};

        if (*known[i] && source_answers(s, known[i], SILENT_CONNECT_MS, &why) == 1)
            return known[i];
    }
    return NULL;
}

/* Off is what is silent several times in a row, while somebody else there answers. */
static int prove_silent(struct step *s, const char *parking, struct err *e)
{
    int64_t wait_ms = step_int(s, "task.params.wait_ms", OFF_WAIT_MS), until_us = clock_monotonic_us() + wait_ms * US_PER_MS;
    const char *other = NULL;
    int silent = 0, answered = 1;
    struct err why = {0};

    while (silent < SILENT_TRIES) {
        err_clear(&why);
        answered = source_answers(s, NULL, SILENT_CONNECT_MS, &why);
        other = answered == 0 ? witness(s) : NULL;
        silent = other ? silent + 1 : 0;
        if (clock_monotonic_us() > until_us && silent == 0)
            break;
        if (silent < SILENT_TRIES && step_sleep_ms(s, SILENT_EVERY_MS, e) < 0)
            return -1;
    }
    if (silent == 0 && answered == 0)
        return err_set(e, ERR_UNREACHABLE, "nothing answers at %s, but neither does the source's gateway or its copy: the network may be down, and the power "
                       "is not proven to be off. This runner must reach port %d of one of them; a refusal is enough", parking, (int)step_int(s, "server.port", 22));
    if (silent == 0 && answered > 0)
        return err_set(e, ERR_TIMEOUT, "the source still answers at %s, %lld s after it was told to power off", parking, (long long)(wait_ms / 1000));
    if (silent == 0)
        return err_set(e, ERR_UNREACHABLE, "whether the source still answers at %s can't be seen from here: %s", parking, why.message);
    step_evidence(s, "unreachable", true, "%d tries in a row without an answer at %s, while %s answered: %s", SILENT_TRIES, parking, other, why.message);
    return 0;
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = NULL;
    CLEANUP(free_ptr) char *mark = mark_path(s);
    const char *parking;
    char address[64];

    if (source_parking(s, address, sizeof address, &parking, e) < 0)
        return -1;
    if (source_open(s, SOURCE_PARKED, false, &r, e) < 0) {
        if (!file_exists(mark) || (e->kind != ERR_TIMEOUT && e->kind != ERR_UNREACHABLE))
            return err_wrap(e, "the parked source can't be reached, so that nothing of it is proven gone");
        step_evidence(s, "agent", true, "proven gone by an earlier attempt, before it ordered the power off");
        return prove_silent(s, parking, e);
    }
    if (remove_agent(s, r, parking, e) < 0 || power_off(s, r, mark, e) < 0)
        return -1;
    remote_close(&r);
    if (prove_silent(s, parking, e) < 0)
        return -1;
    step_result(s, "powered_off", json_true());
    return 0;
}

const struct step_api step_decommission = {.name = "decommission", .title = "Decommission the source", .place = STEP_AT_SOURCE,
                                           .timeout_ms = 1800000, .attempts = 5, .run = run};
