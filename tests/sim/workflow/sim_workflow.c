/* sim_workflow: a wave's life under seeded bad luck: runners that die, reports and answers that get lost, finishes that come twice or late,
 * wall clocks that jump, a factory that sleeps and starts again, operators who do what comes to mind, windows that come and go.
 * After every step what must hold is looked at; at the end everybody behaves, and the wave must come to its end.
 *
 * Usage: sim_workflow [SEEDS [FIRST]]; a failing seed prints itself: `sim_workflow 1 SEED` replays it, SIM_TRACE=1 shows its steps. */
#include "../../unit/workflow/world.h"

#include <malloc.h>
#include <unistd.h>

#define RUNNERS 3
#define HELD_MOST 4
#define STEPS 260
#define CALM_STEPS 4000
#define TASKS_MOST 256

struct held {
    json_t *document;
    int64_t lease_until_us; /* as the runner counts it, by its own monotonic clock */
    int work_left;          /* steps until it is done */
    const char *outcome;    /* NULL: still at work; else to be told until it was heard */
    const char *kind;
    bool told_to_stop;
};

struct sim {
    struct world x;
    uint64_t seed, state;
    struct held held[RUNNERS][HELD_MOST];
    int64_t fences[TASKS_MOST * 8]; /* the highest that was given, by task number */
    int64_t opens_us, closes_us;
    int server_count, factory_down;
    bool calm;
    const char *failed;
    char path[64];
};

static bool trace;

static uint64_t draw(struct sim *s)
{
    s->state ^= s->state << 13;
    s->state ^= s->state >> 7;
    s->state ^= s->state << 17;
    return s->state;
}
static int below(struct sim *s, int bound) { return (int)(draw(s) % (uint64_t)bound); }
static bool chance(struct sim *s, int percent) { return below(s, 100) < percent; }

#define MUST_HOLD(s, condition, ...) \
    do { \
        if (!(condition) && !(s)->failed) { \
            (s)->failed = #condition; \
            printf("# seed %llu: %s: ", (unsigned long long)(s)->seed, #condition); \
            printf(__VA_ARGS__); \
            printf("\n"); \
        } \
    } while (0)
#define TRACE(...) (trace ? (void)(printf("# "), printf(__VA_ARGS__), printf("\n")) : (void)0)

static const char *member(const json_t *document, const char *object, const char *name)
{
    return json_get_string(json_object_get(document, object), name, "");
}

static const char *server_name(int index)
{
    static const char *const names[] = {"s0", "s1", "s2"};

    return names[index];
}

/* ---- The world ---- */

static void open_store(struct sim *s)
{
    CLEANUP(free_ptr) char *url = xasprintf("sqlite:%s", s->path);
    struct err e = {0};

    world_need(store_open(url, &s->x.store, &e), &e);
    world_need(store_migrate(s->x.store, &e), &e);
    world_open_workflow(&s->x);
}

static void set_window(struct sim *s, int64_t opens_us, int64_t closes_us)
{
    s->opens_us = opens_us;
    s->closes_us = closes_us;
    world_window(&s->x, "w1", opens_us, closes_us);
}

static void begin(struct sim *s, uint64_t seed)
{
    static const char *const attributes[] = {"{}", "{\"door\":\"ask\"}", "{\"after\":\"s0\"}", "{\"network\":\"dc1\"}"};
    struct err e = {0};

    *s = (struct sim){.seed = seed, .state = seed * 0x9e3779b97f4a7c15u + 1};
    s->x = (struct world){.wall_us = START_US, .mono_us = 1000 * US_PER_S, .random = seed};
    s->x.wall = (struct clock){world_read, &s->x.wall_us};
    s->x.mono = (struct clock){world_read, &s->x.mono_us};
    snprintf(s->path, sizeof s->path, "%s/slipway-sim-%d.db", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", getpid());
    open_store(s);
    world_wave(&s->x, "w1", "{\"hold_s\":30,\"right_size_after_s\":5}");
    s->server_count = 1 + below(s, 3);
    for (int i = 0; i < s->server_count; i++) {
        int which = below(s, (int)ARRAY_COUNT(attributes));

        world_server(&s->x, "w1", server_name(i), attributes[i == 0 && which == 2 ? 0 : which]);
    }
    if (chance(s, 70))
        set_window(s, s->x.wall_us + below(s, 600) * US_PER_S, s->x.wall_us + (600 + below(s, 1800)) * US_PER_S);
    world_need(workflow_start_wave(s->x.w, "w1", "user:anna", s->x.run, &e), &e);
}

static void drop_held(struct held *h)
{
    json_decref(h->document);
    *h = (struct held){0};
}

static void end(struct sim *s)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};

    for (int r = 0; r < RUNNERS; r++)
        for (int i = 0; i < HELD_MOST; i++)
            if (s->held[r][i].document)
                drop_held(&s->held[r][i]);
    world_close(&s->x);
    for (size_t i = 0; i < ARRAY_COUNT(suffixes); i++) {
        CLEANUP(free_ptr) char *path = xasprintf("%s%s", s->path, suffixes[i]);

        unlink(path);
    }
}

static int64_t one(struct sim *s, const char *sql, const char *a, const char *b)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t value = 0;
    struct err e = {0};

    world_need(store_begin(s->x.store, STORE_READ, &tx, &e), &e);
    world_need(b ? store_one_int(tx, &value, &e, sql, "ss", a, b) : a ? store_one_int(tx, &value, &e, sql, "s", a) : store_one_int(tx, &value, &e, sql, ""),
               &e);
    return value;
}

/* ---- What must hold ---- */

/* Each count must be 0. */
static const struct {
    const char *what, *sql;
} never[] = {
    {"a running task without its running attempt",
     "SELECT COUNT(*) FROM task t WHERE t.state = 'RUNNING' AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.id = t.attempt AND a.state = 'RUNNING'"
     " AND a.fence = t.fence)"},
    {"a running attempt that is not its running task's",
     "SELECT COUNT(*) FROM attempt a WHERE a.state = 'RUNNING' AND NOT EXISTS (SELECT 1 FROM task t WHERE t.attempt = a.id AND t.state = 'RUNNING')"},
    {"a step that succeeded without a finish",
     "SELECT COUNT(*) FROM task t WHERE t.state = 'SUCCEEDED' AND t.name NOT IN ('sign_off', 'window', 'go_no_go', 'cut_over_again', 'door',"
     " 'acceptance', 'hold', 'accept_home') AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.id = t.attempt AND a.state = 'SUCCEEDED' AND a.round = t.round)"},
    {"a task that succeeded twice in a round",
     "SELECT COUNT(*) FROM (SELECT task FROM attempt a JOIN task t ON t.id = a.task WHERE a.state = 'SUCCEEDED' AND t.state = 'SUCCEEDED' GROUP BY"
     " a.task, a.round HAVING COUNT(*) > 1)"},
    {"a finished run with open tasks",
     "SELECT COUNT(*) FROM task t JOIN run r ON r.id = t.run WHERE r.state <> 'RUNNING' AND t.state NOT IN ('SUCCEEDED', 'SKIPPED', 'CANCELLED')"},
    {"a run that is over and does not say so",
     "SELECT COUNT(*) FROM run r WHERE r.state = 'RUNNING' AND NOT EXISTS (SELECT 1 FROM task t WHERE t.run = r.id AND t.state NOT IN ('SUCCEEDED',"
     " 'SKIPPED', 'CANCELLED'))"},
    {"two ways back of a server at once",
     "SELECT COUNT(*) FROM (SELECT server FROM run WHERE template IN ('way_back', 'way_home') AND state = 'RUNNING' GROUP BY server HAVING COUNT(*) > 1)"},
    {"cutover and way back of a server at once",
     "SELECT COUNT(*) FROM task b JOIN run r ON r.id = b.run JOIN task t ON t.run = r.parent AND t.server = b.server WHERE r.parent IS NOT NULL AND"
     " b.state = 'RUNNING' AND t.state = 'RUNNING' AND t.phase IN ('cutover')"},
    {"a way home and its end at once",
     "SELECT COUNT(*) FROM task h JOIN run r ON r.id = h.run JOIN run k ON k.parent = r.parent AND k.server = r.server JOIN task s ON s.run = k.id WHERE r.template = 'way_home'"
     " AND k.template = 'stay' AND h.state = 'RUNNING' AND s.state = 'RUNNING'"},
    {"a launched machine that was stopped and stays",
     "SELECT COUNT(*) FROM task h JOIN run r ON r.id = h.run JOIN run k ON k.parent = r.parent AND k.server = r.server AND k.number > r.number WHERE r.template = 'way_home' AND"
     " r.state <> 'SUCCEEDED' AND k.template = 'stay' AND k.state = 'RUNNING' AND h.name = 'stop_instance' AND h.started_us > 0"},
    {"a way back that began after finalize",
     "SELECT COUNT(*) FROM run r JOIN task f ON f.run = r.parent AND f.server = r.server AND f.name = 'finalize' WHERE r.parent IS NOT NULL AND"
     " f.state = 'SUCCEEDED' AND r.started_us > f.finished_us AND r.state = 'RUNNING'"},
    {"a task that waits for nothing", "SELECT COUNT(*) FROM task WHERE (state = 'WAITING') <> (wait_kind IS NOT NULL)"},
    {"a ready task that no runner could claim", "SELECT COUNT(*) FROM task WHERE state = 'READY' AND label IS NULL"},
    {"what comes after a gate went before it",
     "SELECT COUNT(*) FROM task t WHERE t.state IN ('READY', 'RUNNING', 'SUCCEEDED') AND t.name IN ('terminate_test', 'final_sync', 'launch_cutover',"
     " 'open_door', 'finalize', 'decommission', 'drop_staged') AND EXISTS (SELECT 1 FROM task b WHERE b.run = t.run AND b.server = t.server AND"
     " b.state NOT IN ('SUCCEEDED', 'SKIPPED') AND ((t.name = 'terminate_test' AND b.name = 'sign_off') OR (t.name = 'final_sync' AND b.name ="
     " 'quiesce') OR (t.name = 'launch_cutover' AND b.name = 'final_sync') OR (t.name = 'open_door' AND b.name IN ('verify_cutover', 'door')) OR"
     " (t.name = 'finalize' AND b.name IN ('acceptance', 'compare')) OR (t.name = 'decommission' AND b.name IN ('hold', 'finalize')) OR (t.name ="
     " 'drop_staged' AND b.name IN ('decommission', 'right_size'))))"},
};

static void look(struct sim *s)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct err e = {0};

    world_need(store_begin(s->x.store, STORE_READ, &tx, &e), &e);
    for (size_t i = 0; i < ARRAY_COUNT(never) && !s->failed; i++) {
        int64_t count = 0;

        world_need(store_one_int(tx, &count, &e, never[i].sql, ""), &e);
        MUST_HOLD(s, count == 0, "%s", never[i].what);
    }
}

/* Nobody else alive may believe that he holds this task; a way back begins when nobody works on the server's cutover. */
static void look_at_claim(struct sim *s, const json_t *document)
{
    const char *task = member(document, "task", "id"), *server = member(document, "server", "name"), *step = member(document, "task", "step");
    int64_t fence = json_get_int(document, "fence", -1), number = atoll(task + 1);
    bool back = strcmp(member(document, "task", "phase"), "back") == 0;

    MUST_HOLD(s, number < (int64_t)ARRAY_COUNT(s->fences) && fence > s->fences[number], "%s was given under the fence %lld again", task, (long long)fence);
    s->fences[number] = fence;
    for (int r = 0; r < RUNNERS; r++)
        for (int i = 0; i < HELD_MOST; i++) {
            const struct held *h = &s->held[r][i];

            if (!h->document || h->outcome || h->lease_until_us <= s->x.mono_us)
                continue;
            MUST_HOLD(s, strcmp(member(h->document, "task", "id"), task) != 0, "%s is given to two at once", step);
            MUST_HOLD(s, !back || strcmp(member(h->document, "server", "name"), server) != 0
                          || strcmp(member(h->document, "task", "phase"), "cutover") != 0,
                      "%s of %s is given while %s is at work", step, server, member(h->document, "task", "step"));
        }
    if (strcmp(step, "quiesce") == 0
        && one(s, "SELECT COUNT(*) FROM attempt a JOIN task t ON t.id = a.task WHERE t.id = $1 AND a.round = t.round", task, NULL) == 1)
        MUST_HOLD(s, s->opens_us && s->x.wall_us >= s->opens_us && s->x.wall_us < s->closes_us, "%s is quiesced outside the window", server);
}

/* Nothing happens that the feed does not tell. */
static void look_at_feed(struct sim *s)
{
    MUST_HOLD(s,
              one(s, "SELECT COUNT(*) FROM task t WHERE t.state <> 'PENDING' AND t.state <> (SELECT json_extract(e.data, '$.state') FROM event e WHERE"
                     " e.entity = 'task' AND e.entity_id = t.id ORDER BY e.id DESC LIMIT 1)", NULL, NULL) == 0,
              "a task's last event does not tell its state");
}

/* ---- Runners ---- */

static void runner_claim(struct sim *s, int r)
{
    char name[16];
    struct held *h = NULL;

    for (int i = 0; i < HELD_MOST && !h; i++)
        if (!s->held[r][i].document)
            h = &s->held[r][i];
    if (!h)
        return;
    snprintf(name, sizeof name, "dc%d", r);
    h->document = world_claim(&s->x, name);
    if (!h->document)
        return;
    TRACE("%s claims %s of %s under %lld", name, member(h->document, "task", "name"), member(h->document, "server", "name"),
          (long long)json_get_int(h->document, "fence", 0));
    look_at_claim(s, h->document);
    if (!s->calm && chance(s, 4)) { /* the answer got lost: nobody works on it */
        drop_held(h);
        return;
    }
    h->lease_until_us = s->x.mono_us + WORKFLOW_LEASE_MS * US_PER_MS;
    h->work_left = below(s, 6);
}

static void runner_report(struct sim *s, int r, struct held *h)
{
    char name[16];
    struct err e = {0};
    int64_t asked_us = s->x.mono_us;
    int rc;

    if (!s->calm && chance(s, 10)) /* the request got lost */
        return;
    snprintf(name, sizeof name, "dc%d", r);
    rc = world_report(&s->x, h->document, name, json_pack("{s:[{s:s, s:b, s:s}]}", "evidence", "name", "a look", "passed", 1, "evidence", "good"), &e);
    if (!s->calm && chance(s, 10)) /* the answer did */
        return;
    if (rc < 0) {
        MUST_HOLD(s, e.kind == ERR_CONFLICT, "a report is refused: %s", e.message);
        drop_held(h);
        return;
    }
    if (rc == 1)
        h->told_to_stop = true;
    else
        h->lease_until_us = asked_us + WORKFLOW_LEASE_MS * US_PER_MS;
}

static void runner_decide(struct sim *s, struct held *h)
{
    static const char *const kinds[] = {"timeout", "unreachable", "protocol", "denied"};

    h->outcome = "succeeded";
    if (h->told_to_stop && chance(s, 80)) {
        h->outcome = "failed";
        h->kind = "cancelled";
    } else if (!s->calm && chance(s, 12)) {
        h->outcome = "failed";
        h->kind = kinds[below(s, (int)ARRAY_COUNT(kinds))];
    }
}

static void runner_finish(struct sim *s, int r, struct held *h)
{
    char name[16];
    enum err_kind kind;

    if (!s->calm && chance(s, 15))
        return;
    snprintf(name, sizeof name, "dc%d", r);
    kind = world_finish(&s->x, h->document, name, h->outcome, h->kind, world_result_of(member(h->document, "task", "step")));
    TRACE("%s finishes %s of %s: %s (%d)", name, member(h->document, "task", "name"), member(h->document, "server", "name"), h->outcome, kind);
    MUST_HOLD(s, kind == ERR_NONE || kind == ERR_CONFLICT, "a finish is refused with %d", kind);
    if (!s->calm && chance(s, 15)) /* the answer got lost: it is told again */
        return;
    drop_held(h);
}

static void runner_step(struct sim *s, int r)
{
    if (!s->calm && chance(s, 2)) {
        TRACE("dc%d dies", r);
        for (int i = 0; i < HELD_MOST; i++)
            if (s->held[r][i].document)
                drop_held(&s->held[r][i]);
        return;
    }
    for (int i = 0; i < HELD_MOST; i++) {
        struct held *h = &s->held[r][i];

        if (!h->document)
            continue;
        if (h->outcome) {
            runner_finish(s, r, h);
        } else if (h->lease_until_us <= s->x.mono_us) {
            drop_held(h); /* it could not renew: it stops by itself */
        } else if (h->told_to_stop || h->work_left-- <= 0) {
            runner_decide(s, h);
        } else {
            runner_report(s, r, h);
        }
    }
    if (s->calm || chance(s, 50))
        runner_claim(s, r);
}

/* ---- Operators ---- */

static char *some_task(struct sim *s, const char *where)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(free_ptr) char *sql = xasprintf("SELECT id FROM task WHERE %s ORDER BY number", where);
    char *found = NULL;
    struct err e = {0};
    int seen = 0, rc;

    world_need(store_begin(s->x.store, STORE_READ, &tx, &e), &e);
    world_need(store_query(tx, &rows, &e, sql, ""), &e);
    while ((rc = store_next(rows, &e)) > 0)
        if (below(s, ++seen) == 0) {
            free(found);
            found = xstrdup(store_text(rows, 0));
        }
    world_need(rc, &e);
    return found;
}

static void operator_decides(struct sim *s)
{
    CLEANUP(free_ptr) char *task = some_task(s, "state = 'WAITING' AND wait_kind = 'person'");
    struct err e = {0};

    if (task && workflow_decide(s->x.w, task, s->calm || chance(s, 85), NULL, "user:bob", &e) < 0)
        MUST_HOLD(s, e.kind == ERR_WRONG_STATE || e.kind == ERR_CONFLICT, "a decision is refused: %s", e.message);
}

static void operator_retries(struct sim *s)
{
    CLEANUP(free_ptr) char *task = some_task(s, "state = 'FAILED'");
    struct err e = {0};

    if (task && workflow_retry(s->x.w, task, "user:bob", &e) < 0)
        MUST_HOLD(s, e.kind == ERR_WRONG_STATE, "a retry is refused: %s", e.message);
}

static void operator_meddles(struct sim *s)
{
    CLEANUP(free_ptr) char *task = some_task(s, "state NOT IN ('SUCCEEDED', 'SKIPPED')");
    struct err e = {0};
    int rc = 0;

    if (!task)
        return;
    if (chance(s, 30))
        rc = workflow_skip(s->x.w, task, "because", "user:carl", &e);
    else
        rc = workflow_cancel_task(s->x.w, task, "user:carl", &e);
    if (rc < 0)
        MUST_HOLD(s, e.kind == ERR_WRONG_STATE || e.kind == ERR_CONFLICT, "meddling is refused: %s", e.message);
}

static void operator_takes_back(struct sim *s)
{
    const char *server = server_name(below(s, s->server_count));
    char run[WORKFLOW_ID_SIZE], words[WORKFLOW_WORDS_SIZE], again[WORKFLOW_WORDS_SIZE];
    struct err e = {0};
    int rc = workflow_server_back(s->x.w, server, NULL, "user:anna", run, words, &e);

    TRACE("taking %s back: %s", server, rc == 0 ? "goes" : e.message);
    if (rc < 0)
        MUST_HOLD(s, e.kind == ERR_WRONG_STATE || e.kind == ERR_CONFLICT, "a way back is refused: %s", e.message);
    if (rc < 0 && words[0] && chance(s, 50)) {
        rc = workflow_server_back(s->x.w, server, words, "user:anna", run, again, &e);
        MUST_HOLD(s, rc == 0, "the words that were asked for do not do: %s", e.message);
    }
}

static void operator_brings_home(struct sim *s)
{
    const char *server = server_name(below(s, s->server_count));
    char run[WORKFLOW_ID_SIZE];
    struct err e = {0};
    int rc = chance(s, 60) ? workflow_server_home(s->x.w, server, "user:anna", run, &e) : workflow_server_stay(s->x.w, server, "user:bob", run, &e);

    TRACE("bringing %s home, or not: %s", server, rc == 0 ? "goes" : e.message);
    if (rc < 0)
        MUST_HOLD(s, e.kind == ERR_WRONG_STATE || e.kind == ERR_CONFLICT, "a way home is refused: %s", e.message);
}

static void operator_acts(struct sim *s)
{
    const char *server = server_name(below(s, s->server_count));
    struct err e = {0};
    int rc = 0;

    switch (below(s, 6)) {
    case 0: rc = workflow_cutover_wave(s->x.w, "w1", "user:anna", &e); break;
    case 1: rc = workflow_server_cutover(s->x.w, server, "user:anna", &e); break;
    case 2: rc = workflow_server_open(s->x.w, server, "user:anna", &e); break;
    case 3: rc = workflow_server_finalize(s->x.w, server, "user:anna", &e); break;
    case 4: rc = workflow_server_decommission(s->x.w, server, "user:anna", &e); break;
    default: set_window(s, s->x.wall_us + (below(s, 300) - 100) * US_PER_S, s->x.wall_us + (300 + below(s, 900)) * US_PER_S); break;
    }
    if (rc < 0)
        MUST_HOLD(s, e.kind == ERR_WRONG_STATE || e.kind == ERR_CONFLICT, "an action is refused: %s", e.message);
}

static void operators(struct sim *s)
{
    if (chance(s, 40))
        operator_decides(s);
    if (chance(s, 15))
        operator_retries(s);
    if (chance(s, 3))
        operator_meddles(s);
    if (chance(s, 6))
        operator_takes_back(s);
    if (chance(s, 6))
        operator_brings_home(s);
    if (chance(s, 20))
        operator_acts(s);
}

/* ---- The factory and time ---- */

static void factory(struct sim *s)
{
    struct err e = {0};

    if (s->factory_down > 0 && --s->factory_down > 0)
        return;
    if (!s->calm && chance(s, 2))
        s->factory_down = 1 + below(s, 20);
    if (!s->calm && chance(s, 2)) {
        TRACE("the factory starts again");
        world_close(&s->x);
        open_store(s);
    }
    MUST_HOLD(s, workflow_tick(s->x.w, &e) >= 0, "%s", e.message);
}

static void time_passes(struct sim *s)
{
    int64_t by_us = (1 + below(s, s->calm ? 3 : 12)) * US_PER_S;

    s->x.mono_us += by_us;
    s->x.wall_us += by_us;
    if (!s->calm && chance(s, 2)) {
        s->x.wall_us += (below(s, 7200) - 3600) * US_PER_S;
        TRACE("the wall clock jumps");
    }
}

static void step(struct sim *s)
{
    time_passes(s);
    factory(s);
    if (s->factory_down <= 0)
        for (int r = 0; r < RUNNERS; r++)
            runner_step(s, r);
    if (s->factory_down <= 0 && !s->calm)
        operators(s);
    look(s);
}

/* Everybody does what is expected: the wave must come to its end. */
static void come_to_an_end(struct sim *s)
{
    struct err e = {0};
    int steps = 0;

    s->calm = true;
    s->factory_down = 0;
    set_window(s, s->x.wall_us - 1, s->x.wall_us + 30 * 86400 * US_PER_S);
    while (!s->failed && one(s, "SELECT COUNT(*) FROM run WHERE state = 'RUNNING'", NULL, NULL) > 0 && steps++ < CALM_STEPS) {
        step(s);
        operator_decides(s);
        operator_retries(s);
        if (steps % 10 == 0)
            workflow_cutover_wave(s->x.w, "w1", "user:anna", &e);
    }
    MUST_HOLD(s, one(s, "SELECT COUNT(*) FROM run WHERE state = 'RUNNING'", NULL, NULL) == 0, "the wave does not come to its end");
    MUST_HOLD(s, one(s, "SELECT COUNT(*) FROM task t JOIN run r ON r.id = t.run WHERE r.template = 'wave_migration' AND t.state NOT IN ('SUCCEEDED', 'SKIPPED')",
                     NULL, NULL) == 0, "something was left out");
    for (int i = 0; i < s->server_count && !s->failed; i++) {
        CLEANUP(free_ptr) char *life = world_server_member(&s->x, server_name(i), "lifecycle");

        MUST_HOLD(s, strcmp(life, "\"ARCHIVED\"") == 0, "%s ends as %s", server_name(i), life);
    }
    look_at_feed(s);
}

int main(int count, char **arguments)
{
    int seeds = count > 1 ? atoi(arguments[1]) : 60, passed = 0;
    uint64_t first = count > 2 ? strtoull(arguments[2], NULL, 10) : 1;

    trace = getenv("SIM_TRACE") != NULL;
    mallopt(M_TRIM_THRESHOLD, 256 << 20); /* a fifth of the time went into giving memory back */
    mallopt(M_TOP_PAD, 16 << 20);
    for (int i = 0; i < seeds; i++) {
        struct sim s;

        begin(&s, first + (uint64_t)i);
        for (int n = 0; n < STEPS && !s.failed; n++)
            step(&s);
        if (!s.failed)
            come_to_an_end(&s);
        if (s.failed)
            ok(false, "seed %llu (replay it: sim_workflow 1 %llu)", (unsigned long long)s.seed, (unsigned long long)s.seed);
        passed += !s.failed;
        end(&s);
    }
    is_int(passed, seeds, "all seeds hold");
    return tap_done();
}
