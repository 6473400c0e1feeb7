/* verify_source: after the way back: the source's services run and its ports listen, as they did when its facts were taken. */
#include "base/clock.h"
#include "steps/facts.h"
#include "steps/scripts.h"
#include "steps/source.h"

#include <string.h>

#define LOOK_MS 180000
#define WAIT_MS 120000 /* services take their time to open their ports; task.params.wait_ms is another time */

static bool listens(const json_t *facts, const char *address, int64_t port)
{
    const json_t *item;
    size_t i;

    json_array_foreach(json_object_get(facts, "listening"), i, item)
        if (json_get_int(item, "port", 0) == port && strcmp(json_get_string(item, "address", ""), address) == 0)
            return true;
    return false;
}

/* Appends what is missing, by the facts of before. The count. */
static int missing_ports(const json_t *before, const json_t *now, struct buf *words)
{
    const json_t *item;
    int count = 0;
    size_t i;

    json_array_foreach(json_object_get(before, "listening"), i, item) {
        const char *address = json_get_string(item, "address", "");
        int64_t port = json_get_int(item, "port", 0);

        if (!listens(now, address, port))
            buf_printf(words, "%s%s port %lld", count++ ? ", " : "", address, (long long)port);
    }
    return count;
}

static int stopped_services(const json_t *seen, struct buf *words)
{
    const char *unit;
    json_t *state;
    int count = 0;

    json_object_foreach(json_object_get(seen, "services"), unit, state)
        if (strcmp(json_get_string(state, "active", ""), "active") != 0)
            buf_printf(words, "%s%s is %s", count++ ? ", " : "", unit, json_get_string(state, "active", "?"));
    return count;
}

static int look(struct step *s, struct remote *r, const char *services, json_t **facts, json_t **seen, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0};
    const char *const arguments[] = {"", "0", "", services, NULL};

    (void)s;
    if (source_script(r, script_facts, arguments, &out, LOOK_MS, e) < 0)
        return err_wrap(e, "looking at the source");
    return facts_parse(out.data, out.size_bytes, facts, seen, e);
}

/* One look: 1 all holds, 0 not yet (words say what), -1. */
static int check(struct step *s, struct remote *r, const char *services, bool last, struct err *e)
{
    CLEANUP(json_free) json_t *facts = NULL, *seen = NULL;
    CLEANUP(buf_release) struct buf ports = {.limit_bytes = 2000}, units = {.limit_bytes = 2000};
    const json_t *before = step_json(s, "facts");
    const char *address = step_string(s, "server.address", ""), *cidr = NULL;
    int missing, stopped;
    bool home;

    if (look(s, r, services, &facts, &seen, e) < 0)
        return -1;
    missing = missing_ports(before, facts, &ports);
    stopped = stopped_services(seen, &units);
    home = facts_nic_of(facts, address, &cidr) != NULL;
    if ((missing || stopped || !home) && !last)
        return 0;
    step_evidence(s, "address", home, "%s%s", home ? cidr : address, home ? "" : " is not on the source");
    step_evidence(s, "services", !stopped, "%s", stopped ? units.data : *services ? services : "none are named");
    step_evidence(s, "listening ports", !missing, missing ? "missing: %s" : "%s as before",
                  missing ? ports.data : "all");
    return !missing && !stopped && home;
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = NULL;
    CLEANUP(free_ptr) char *services = NULL;
    int64_t until_us = clock_monotonic_us() + step_int(s, "task.params.wait_ms", WAIT_MS) * US_PER_MS;

    if (json_array_size(json_object_get(step_json(s, "facts"), "listening")) == 0)
        return err_set(e, ERR_INVALID, "the task has no facts of the source to hold it against");
    if (source_services(s, &services, e) < 0 || source_open(s, SOURCE_SERVING, false, &r, e) < 0)
        return -1;
    for (;;) {
        bool last = clock_monotonic_us() > until_us;
        int holds = check(s, r, services, last, e);

        if (holds != 0)
            return holds < 0 ? -1 : 0;
        if (last)
            return err_set(e, ERR_TIMEOUT, "the source does not serve as before; its evidence says what is missing");
        if (step_sleep_ms(s, 2000, e) < 0)
            return -1;
    }
}

const struct step_api step_verify_source = {.name = "verify_source", .title = "Verify the source", .place = STEP_AT_SOURCE, .timeout_ms = 900000,
                                            .attempts = 5, .run = run};
