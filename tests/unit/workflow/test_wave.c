/* A wave from start to end, and each gate on its way. */
#include "world.h"

static void make_wave(struct world *x, const char *settings)
{
    world_open(x);
    world_wave(x, "w1", settings);
    world_server(x, "w1", "db01", "{}");
    world_server(x, "w1", "web01", "{\"after\":\"db01\"}");
}

static void start(struct world *x)
{
    struct err e = {0};

    world_need(workflow_start_wave(x->w, "w1", "user:anna", x->run, &e), &e);
}

static void is_lifecycle(struct world *x, const char *server, const char *wanted)
{
    CLEANUP(free_ptr) char *got = world_server_member(x, server, "lifecycle"), *quoted = xasprintf("\"%s\"", wanted);

    is_str(got, quoted, "%s is %s", server, wanted);
}

/* Until both servers are ready for cutover. */
static void up_to_window(struct world *x)
{
    start(x);
    world_work(x, NULL);
    is_int(world_decide(x, x->run, "db01", "sign_off", true, "user:bob"), ERR_NONE, "the owner of db01 signs off");
    is_int(world_decide(x, x->run, "web01", "sign_off", true, "user:bob"), ERR_NONE, "the owner of web01 signs off");
    world_work(x, NULL);
}

static void test_whole_wave(void)
{
    struct world x;
    struct err e = {0};
    json_t *document;

    make_wave(&x, "{\"hold_s\":60,\"right_size_after_s\":30}");
    up_to_window(&x);
    is_lifecycle(&x, "db01", "READY_FOR_CUTOVER");
    world_is_state(&x, x.run, NULL, "window", "WAITING");
    is_int(workflow_cutover_wave(x.w, "w1", "user:anna", &e), -1, "no window: no cutover");
    is_int(e.kind, ERR_WRONG_STATE, "refused for its state");
    world_window(&x, "w1", x.wall_us + 60 * US_PER_S, x.wall_us + 3600 * US_PER_S);
    world_pass(&x, 1);
    is_int(workflow_cutover_wave(x.w, "w1", "user:anna", &e), -1, "before the window: no cutover");
    ok(strstr(e.message, "opens at 2026-"), "the refusal says when it opens: %s", e.message);
    is_int(world_events(&x, "refused"), 2, "both refusals are remembered");
    world_pass(&x, 60);
    world_is_state(&x, x.run, NULL, "go_no_go", "WAITING");
    ok(!world_claim(&x, "dc1"), "nothing is quiesced before the go");
    is_int(workflow_cutover_wave(x.w, "w1", "user:anna", &e), 0, "inside the window it goes");
    is_int(workflow_cutover_wave(x.w, "w1", "user:carl", &e), -1, "not twice");
    is_int(e.kind, ERR_CONFLICT, "somebody was quicker: %s", e.message);
    document = world_work(&x, "compare");
    is_str(json_get_string(json_object_get(document, "server"), "name", ""), "db01", "db01 goes first: web01 is after it");
    is_lifecycle(&x, "db01", "CUTOVER");
    json_decref(document);
    is_int(world_decide(&x, x.run, "db01", "acceptance", true, "user:bob"), ERR_WRONG_STATE, "no acceptance before the comparison");
    world_close(&x);
}

static void finish_cutover(struct world *x)
{
    struct err e = {0};

    world_work(x, NULL);
    is_int(workflow_server_finalize(x->w, "db01", "user:anna", &e), -1, "not finalized before acceptance: %s", e.message);
    is_int(workflow_server_decommission(x->w, "db01", "user:anna", &e), -1, "not decommissioned before finalize: %s", e.message);
    is_int(world_decide(x, x->run, "db01", "acceptance", true, "user:bob"), ERR_NONE, "db01 is accepted");
    is_int(world_decide(x, x->run, "web01", "acceptance", true, "user:bob"), ERR_NONE, "web01 is accepted");
    world_is_state(x, x->run, "db01", "finalize", "WAITING");
    is_int(workflow_server_finalize(x->w, "db01", "user:anna", &e), 0, "db01 is finalized");
    is_int(workflow_server_finalize(x->w, "web01", "user:anna", &e), 0, "web01 is finalized");
}

static void test_to_the_end(void)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *run = NULL;
    struct world x;
    struct err e = {0};

    make_wave(&x, "{\"hold_s\":60,\"right_size_after_s\":30}");
    world_window(&x, "w1", x.wall_us, x.wall_us + 3600 * US_PER_S);
    up_to_window(&x);
    is_int(workflow_cutover_wave(x.w, "w1", "user:anna", &e), 0, "go");
    finish_cutover(&x);
    world_work(&x, NULL);
    is_lifecycle(&x, "db01", "DISCONNECTED");
    is_int(workflow_server_decommission(x.w, "db01", "user:anna", &e), -1, "not before the hold ended: %s", e.message);
    ok(strstr(e.message, "ends at 2026-"), "it says when");
    world_pass(&x, 50);
    world_work(&x, NULL);
    world_is_state(&x, x.run, "db01", "decommission", "PENDING");
    world_pass(&x, 20);
    is_int(workflow_server_decommission(x.w, "db01", "user:anna", &e), 0, "after it, it goes by itself");
    world_work(&x, NULL);
    is_lifecycle(&x, "db01", "ARCHIVED");
    is_lifecycle(&x, "web01", "ARCHIVED");
    world_need(store_begin(x.store, STORE_READ, &tx, &e), &e);
    world_need(workflow_run_json(tx, x.run, false, &run, &e), &e);
    is_str(json_get_string(run, "state", ""), "SUCCEEDED", "the run is over");
    is_str(json_get_string(run, "stage", ""), "done", "and done");
    store_rollback(&tx);
    is_int(workflow_start_wave(x.w, "w1", "user:anna", x.run, &e), -1, "a wave that was cut over is not started again: %s", e.message);
    world_close(&x);
}

/* What the inventory would not let in. */
static void break_rules(struct world *x, const char *sql)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct err e = {0};

    world_need(store_begin(x->store, STORE_WRITE, &tx, &e), &e);
    world_need((int)store_run(tx, &e, sql, ""), &e);
    world_need(store_commit(&tx, &e), &e);
}

/* Up to a hold period of ten minutes, ten seconds ago. */
static void up_to_hold(struct world *x)
{
    struct err e = {0};

    make_wave(x, "{\"hold_s\":600,\"right_size_after_s\":1}");
    world_window(x, "w1", x->wall_us, x->wall_us + 3600 * US_PER_S);
    up_to_window(x);
    is_int(workflow_cutover_wave(x->w, "w1", "user:anna", &e), 0, "go");
    finish_cutover(x);
    world_work(x, NULL);
    world_pass(x, 10);
    world_work(x, NULL);
    world_is_state(x, x->run, "db01", "hold", "WAITING");
}

static void test_shorter_hold(void)
{
    struct world x;

    up_to_hold(&x);
    break_rules(&x, "UPDATE wave SET settings = '{\"hold_s\":5,\"right_size_after_s\":1}'");
    world_pass(&x, 6);
    world_is_state(&x, x.run, "db01", "hold", "SUCCEEDED");
    world_close(&x);
}

/* As many runs as a long time leaves, each older than the wave's, and each with something that waits: by now, or for days. */
static void add_older_runs(struct world *x)
{
    CLEANUP(free_ptr) char *runs = NULL, *tasks = NULL;
    static const char numbers[] = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100)";

    runs = xasprintf("INSERT INTO run (id, number, template, wave, server, parent, state, stage, health, actor, started_us, finished_us) %s SELECT 'old' || i, -i, template, wave, server, parent,"
                     " state, stage, health, actor, started_us, finished_us FROM run, n WHERE id = '%s'", numbers, x->run);
    tasks = xasprintf("INSERT INTO task (id, number, run, position, name, phase, server, state, round, due_us, not_before_us, released, wait_kind, wait_what, wait_until_us, fence, failures, lost,"
                      " started_us, finished_us, progress_event_us) %s SELECT 'old' || i, -i, 'old' || i, position, name, phase, server, state, round, due_us + 86400000000, not_before_us, released,"
                      " wait_kind, wait_what, 0, fence, failures, lost, started_us, finished_us, progress_event_us FROM task, n WHERE run = '%s' AND name = 'hold' AND server = 'db01'", numbers, x->run);
    break_rules(x, runs);
    break_rules(x, tasks);
}

static void test_many_runs(void)
{
    struct world x;

    up_to_hold(&x);
    add_older_runs(&x);
    x.wall_us += 600 * US_PER_S;
    world_pass(&x, 1);
    world_is_state(&x, x.run, "db01", "hold", "SUCCEEDED");
    world_is_state(&x, "old1100", "db01", "hold", "WAITING");
    world_close(&x);
}

static void test_start_refusals(void)
{
    struct world x;
    struct err e = {0};

    world_open(&x);
    world_wave(&x, "w1", "{}");
    is_int(workflow_start_wave(x.w, "w1", "user:anna", x.run, &e), -1, "an empty wave");
    is_int(e.kind, ERR_WRONG_STATE, "can't start: %s", e.message);
    is_int(workflow_start_wave(x.w, "nix", "user:anna", x.run, &e), -1, "an unknown wave");
    is_int(e.kind, ERR_NOT_FOUND, "is not found: %s", e.message);
    world_server(&x, "w1", "a", "{}");
    world_server(&x, "w1", "b", "{\"after\":\"a\"}");
    break_rules(&x, "UPDATE server SET attributes = '{\"after\":\"b\"}' WHERE name = 'a'");
    is_int(workflow_start_wave(x.w, "w1", "user:anna", x.run, &e), -1, "a circle");
    is_int(e.kind, ERR_INVALID, "is refused: %s", e.message);
    break_rules(&x, "UPDATE server SET attributes = '{\"after\":\"nobody\"}' WHERE name = 'a'");
    is_int(workflow_start_wave(x.w, "w1", "user:anna", x.run, &e), -1, "an unknown server in after");
    ok(e.kind == ERR_INVALID && strstr(e.message, "nobody"), "is named: %s", e.message);
    world_wave(&x, "w3", "{}");
    world_server(&x, "w3", "f", "{}");
    is_int(workflow_start_wave(x.w, "w3", "user:anna", x.run, &e), 0, "a good one starts");
    is_int(workflow_start_wave(x.w, "w3", "user:anna", x.run, &e), -1, "but once: %s", e.message);
    world_close(&x);
}

static void test_window_closes(void)
{
    CLEANUP(json_free) json_t *quiesce = NULL;
    struct world x;
    struct err e = {0};

    make_wave(&x, "{}");
    world_window(&x, "w1", x.wall_us, x.wall_us + 600 * US_PER_S);
    up_to_window(&x);
    is_int(workflow_cutover_wave(x.w, "w1", "user:anna", &e), 0, "go");
    quiesce = world_claim(&x, "dc1");
    is_str(json_get_string(json_object_get(quiesce, "task"), "name", ""), "quiesce", "db01 is being quiesced");
    for (int i = 0; i < 650; i += 10) { /* its runner is alive all the time */
        CLEANUP(json_free) json_t *body = json_pack("{s:O}", "fence", json_object_get(quiesce, "fence")), *answer = NULL;

        world_pass(&x, 10);
        if (workflow_report(x.w, "dc1", json_get_string(quiesce, "attempt", ""), body, &answer, &e) < 0)
            break;
    }
    world_is_state(&x, x.run, "web01", "quiesce", "PENDING");
    world_is_state(&x, x.run, NULL, "window", "WAITING");
    world_is_state(&x, x.run, NULL, "go_no_go", "PENDING");
    is_int(workflow_cutover_wave(x.w, "w1", "user:anna", &e), -1, "the window is closed: %s", e.message);
    world_window(&x, "w1", x.wall_us + 100 * US_PER_S, x.wall_us + 900 * US_PER_S);
    world_pass(&x, 101);
    world_is_state(&x, x.run, NULL, "go_no_go", "WAITING");
    is_int(workflow_cutover_wave(x.w, "w1", "user:anna", &e), 0, "a new window, a new go");
    world_close(&x);
}

/* Nothing is stopped for a copy that lacks a disk. */
static void test_missing_disk(void)
{
    CLEANUP(json_free) json_t *quiesce = NULL;
    struct world x;
    struct err e = {0};

    make_wave(&x, "{}");
    world_window(&x, "w1", x.wall_us, x.wall_us + 600 * US_PER_S);
    up_to_window(&x);
    world_replication(&x, "db01", "{\"state\":\"CONTINUOUS\",\"disks_missing\":[{\"id\":\"gpt:0123\",\"size_bytes\":4096,\"since\":\"2026-11-24T21:00:00Z\"}]}");
    is_int(workflow_cutover_wave(x.w, "w1", "user:anna", &e), 0, "go");
    ok(!world_claim(&x, "dc1"), "a server one of whose disks is missing is not quiesced");
    world_is_state(&x, x.run, "db01", "quiesce", "WAITING");
    world_replication(&x, "db01", "{\"state\":\"UNKNOWN\"}");
    world_pass(&x, 1);
    ok(!world_claim(&x, "dc1"), "nor one of which nobody can read whether one is");
    world_replication(&x, "db01", "{\"state\":\"CONTINUOUS\",\"disks_missing\":[]}");
    world_pass(&x, 1);
    quiesce = world_claim(&x, "dc1");
    is_str(json_get_string(json_object_get(quiesce, "task"), "name", ""), "quiesce", "once it is back, or accepted, it is");
    world_replication(&x, "db01", "{\"state\":\"CONTINUOUS\",\"disks_missing\":[{\"id\":\"gpt:0123\"}]}");
    world_pass(&x, 1);
    world_is_state(&x, x.run, "db01", "quiesce", "RUNNING");
    world_close(&x);
}

int main(int count, char **arguments)
{
    world_url = count > 1 ? arguments[1] : NULL;
    test_whole_wave();
    test_to_the_end();
    test_start_refusals();
    test_window_closes();
    test_missing_disk();
    test_shorter_hold();
    test_many_runs();
    return tap_done();
}
