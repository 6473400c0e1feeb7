/* What people decide: approve, reject, retry, skip, cancel; two at once; what waits and why. */
#include "world.h"

static void up_to_sign_off(struct world *x)
{
    struct err e = {0};

    world_open(x);
    world_wave(x, "w1", "{}");
    world_server(x, "w1", "db01", "{}");
    world_need(workflow_start_wave(x->w, "w1", "user:anna", x->run, &e), &e);
    world_work(x, NULL);
}

static void test_reject(void)
{
    CLEANUP(json_free) json_t *task = NULL;
    struct world x;
    struct err e = {0};

    up_to_sign_off(&x);
    task = world_task(&x, x.run, "db01", "sign_off");
    is_str(json_get_string(json_object_get(task, "waits_for"), "kind", ""), "person", "it waits for a person");
    is_int(workflow_decide(x.w, json_get_string(task, "id", ""), false, "the shop is empty", "user:bob", &e), 0, "who says no");
    is_int(workflow_decide(x.w, json_get_string(task, "id", ""), true, NULL, "user:carl", &e), -1, "another comes too late");
    is_int(e.kind, ERR_CONFLICT, "and hears of it: %s", e.message);
    json_free(&task);
    task = world_task(&x, x.run, "db01", "sign_off");
    is_str(json_get_string(task, "state", ""), "FAILED", "it failed");
    ok(strstr(json_get_string(json_object_get(task, "error"), "message", ""), "the shop is empty"), "for the reason given");
    ok(!world_claim(&x, "dc1"), "nothing goes on");
    is_int(workflow_retry(x.w, json_get_string(task, "id", ""), "user:anna", &e), 0, "it is asked again");
    is_int(world_decide(&x, x.run, "db01", "sign_off", true, "user:bob"), ERR_NONE, "who says yes");
    json_free(&task);
    task = world_task(&x, x.run, "db01", "sign_off");
    is_int(json_array_size(json_object_get(task, "decisions")), 2, "both answers are kept");
    world_close(&x);
}

static void test_decide_wrong(void)
{
    struct world x;
    struct err e = {0};

    up_to_sign_off(&x);
    is_int(workflow_decide(x.w, "t99999", true, NULL, "user:bob", &e), -1, "no such task");
    is_int(e.kind, ERR_NOT_FOUND, "%s", e.message);
    is_int(world_decide(&x, x.run, "db01", "boot_test", true, "user:bob"), ERR_WRONG_STATE, "a step is not decided");
    is_int(world_decide(&x, x.run, NULL, "go_no_go", true, "user:bob"), ERR_WRONG_STATE, "nor what is not asked yet");
    is_int(world_decide(&x, x.run, NULL, "window", true, "user:bob"), ERR_WRONG_STATE, "nor a window");
    world_close(&x);
}

static void test_skip(void)
{
    CLEANUP(json_free) json_t *boot = NULL, *task = NULL;
    struct world x;
    struct err e = {0};
    const char *id;

    world_open(&x);
    world_wave(&x, "w1", "{}");
    world_server(&x, "w1", "db01", "{}");
    world_need(workflow_start_wave(x.w, "w1", "user:anna", x.run, &e), &e);
    boot = world_work(&x, "boot_test");
    task = world_task(&x, x.run, "db01", "boot_test");
    id = json_get_string(task, "id", "");
    is_int(workflow_skip(x.w, id, "no time", "user:anna", &e), -1, "what runs is not skipped: %s", e.message);
    world_finish(&x, boot, "dc1", "failed", "protocol", NULL);
    is_int(workflow_skip(x.w, id, "", "user:anna", &e), -1, "not without a reason: %s", e.message);
    is_int(workflow_skip(x.w, id, "the screen was looked at", "user:anna", &e), 0, "with one, it is");
    is_int(workflow_skip(x.w, id, "the screen was looked at", "user:anna", &e), -1, "once: %s", e.message);
    world_is_state(&x, x.run, "db01", "sign_off", "WAITING");
    json_free(&task);
    task = world_task(&x, x.run, "db01", "compare");
    is_int(workflow_skip(x.w, json_get_string(task, "id", ""), "not needed", "user:anna", &e), -1, "nothing before its turn: %s", e.message);
    json_free(&task);
    task = world_task(&x, x.run, "db01", "quiesce");
    is_int(workflow_skip(x.w, json_get_string(task, "id", ""), "why not", "user:anna", &e), -1, "quiesce is not: %s", e.message);
    world_close(&x);
}

static void test_cancel(void)
{
    CLEANUP(json_free) json_t *sync = NULL, *task = NULL;
    struct world x;
    struct err e = {0};
    const char *id;

    world_open(&x);
    world_wave(&x, "w1", "{}");
    world_server(&x, "w1", "db01", "{}");
    world_need(workflow_start_wave(x.w, "w1", "user:anna", x.run, &e), &e);
    sync = world_work(&x, "initial_sync");
    task = world_task(&x, x.run, "db01", "initial_sync");
    id = json_get_string(task, "id", "");
    is_int(workflow_cancel_task(x.w, id, "user:anna", &e), 0, "it is cancelled");
    is_int(workflow_cancel_task(x.w, id, "user:bob", &e), -1, "once: %s", e.message);
    world_is_state(&x, x.run, "db01", "initial_sync", "RUNNING");
    is_int(world_report(&x, sync, "dc1", json_object(), &e), 1, "its runner is told");
    world_finish(&x, sync, "dc1", "failed", "cancelled", NULL);
    world_is_state(&x, x.run, "db01", "initial_sync", "FAILED");
    is_int(workflow_retry(x.w, id, "user:anna", &e), 0, "it can be tried again");
    is_int(workflow_cancel_run(x.w, x.run, "user:anna", &e), 0, "the whole run is cancelled");
    ok(!world_claim(&x, "dc1"), "nothing starts");
    is_int(workflow_cancel_run(x.w, x.run, "user:anna", &e), -1, "once: %s", e.message);
    is_int(workflow_start_wave(x.w, "w1", "user:anna", x.run, &e), 0, "and the wave can start anew");
    world_close(&x);
}

static void test_cancel_running(void)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *sync = NULL, *run = NULL;
    struct world x;
    struct err e = {0};

    world_open(&x);
    world_wave(&x, "w1", "{}");
    world_server(&x, "w1", "db01", "{}");
    world_need(workflow_start_wave(x.w, "w1", "user:anna", x.run, &e), &e);
    sync = world_work(&x, "initial_sync");
    is_int(workflow_cancel_run(x.w, x.run, "user:anna", &e), 0, "cancelled while a task runs");
    is_int(workflow_start_wave(x.w, "w1", "user:anna", x.run, &e), -1, "it is not over before that stopped: %s", e.message);
    world_finish(&x, sync, "dc1", "failed", "cancelled", NULL);
    world_need(store_begin(x.store, STORE_READ, &tx, &e), &e);
    world_need(workflow_run_json(tx, x.run, true, &run, &e), &e);
    is_str(json_get_string(run, "state", ""), "CANCELLED", "then it is");
    store_rollback(&tx);
    world_close(&x);
}

static void test_lists(void)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *list = NULL, *rest = NULL, *wave = json_object();
    struct world x;
    struct err e = {0};
    char run[WORKFLOW_ID_SIZE];

    up_to_sign_off(&x);
    world_wave(&x, "w2", "{}");
    for (int i = 0; i < 3; i++)
        world_need(workflow_start_probe(x.w, i ? "w2" : NULL, "user:anna", run, &e), &e);
    world_need(store_begin(x.store, STORE_READ, &tx, &e), &e);
    world_need(workflow_runs_json(tx, NULL, 3, NULL, &list, &e), &e);
    is_int(json_array_size(json_object_get(list, "items")), 3, "a page of runs");
    is_str(json_get_string(json_array_get(json_object_get(list, "items"), 0), "id", ""), run, "newest first");
    world_need(workflow_runs_json(tx, NULL, 3, json_get_string(list, "next", ""), &rest, &e), &e);
    is_int(json_array_size(json_object_get(rest, "items")), 1, "and the rest");
    ok(json_is_null(json_object_get(rest, "next")), "then nothing");
    is_int(workflow_wave_status(tx, "w1", wave, &e), 1, "a wave's status");
    is_str(json_get_string(wave, "stage", ""), "validate", "its stage");
    is_str(json_get_string(wave, "health", ""), "waiting", "its health");
    is_int(workflow_wave_status(tx, "w2", wave, &e), 0, "a wave that never ran");
    is_str(json_get_string(wave, "health", ""), "idle", "is idle");
    store_rollback(&tx);
    world_close(&x);
}

static void test_measure(void)
{
    CLEANUP(json_free) json_t *value = json_pack("{s:i}", "a", 1);
    struct world x;
    struct err e = {0};

    up_to_sign_off(&x);
    is_int(workflow_measure(x.w, "w1", "rows", value, "user:anna", &e), 0, "a measurement is kept");
    is_int(workflow_measure(x.w, "w1", "rows", value, "user:anna", &e), 0, "and put again");
    is_int(workflow_measure(x.w, "w9", "rows", value, "user:anna", &e), -1, "of an unknown wave it is not: %s", e.message);
    is_int(workflow_measure(x.w, "w1", "../rows", value, "user:anna", &e), -1, "nor under a path: %s", e.message);
    world_close(&x);
}

int main(int count, char **arguments)
{
    world_url = count > 1 ? arguments[1] : NULL;
    test_reject();
    test_decide_wrong();
    test_skip();
    test_cancel();
    test_cancel_running();
    test_lists();
    test_measure();
    return tap_done();
}
