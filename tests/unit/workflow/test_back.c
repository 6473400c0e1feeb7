/* The way back of a server, at every point of its cutover. */
#include "world.h"

static void up_to_cutover(struct world *x, const char *attributes)
{
    struct err e = {0};

    world_open(x);
    world_wave(x, "w1", "{\"hold_s\":60,\"right_size_after_s\":1}");
    world_server(x, "w1", "db01", attributes);
    world_window(x, "w1", x->wall_us, x->wall_us + 7200 * US_PER_S);
    world_need(workflow_start_wave(x->w, "w1", "user:anna", x->run, &e), &e);
    world_work(x, NULL);
    world_decide(x, x->run, "db01", "sign_off", true, "user:bob");
    world_work(x, NULL);
    world_need(workflow_cutover_wave(x->w, "w1", "user:anna", &e), &e);
}

static int back(struct world *x, const char *confirm, char run[static WORKFLOW_ID_SIZE], char words[static WORKFLOW_WORDS_SIZE], struct err *e)
{
    return workflow_server_back(x->w, "db01", confirm, "user:anna", run, words, e);
}

static void is_lifecycle(struct world *x, const char *wanted)
{
    CLEANUP(free_ptr) char *got = world_server_member(x, "db01", "lifecycle"), *quoted = xasprintf("\"%s\"", wanted);

    is_str(got, quoted, "db01 is %s", wanted);
}

static void test_before_quiesce(void)
{
    char run[WORKFLOW_ID_SIZE], words[WORKFLOW_WORDS_SIZE];
    struct world x;
    struct err e = {0};

    up_to_cutover(&x, "{}");
    is_int(back(&x, NULL, run, words, &e), -1, "nothing was done yet");
    is_int(e.kind, ERR_WRONG_STATE, "so there is nothing to take back: %s", e.message);
    is_int(workflow_server_cutover(x.w, "db01", "user:anna", &e), -1, "and nothing to cut over again: %s", e.message);
    world_close(&x);
}

/* Taken back while launch_cutover runs: it is told to stop, the way back waits for that. */
static void test_while_running(void)
{
    CLEANUP(json_free) json_t *launch = NULL, *stop = NULL;
    char run[WORKFLOW_ID_SIZE], words[WORKFLOW_WORDS_SIZE], again[WORKFLOW_ID_SIZE];
    struct world x;
    struct err e = {0};

    up_to_cutover(&x, "{}");
    launch = world_work(&x, "launch_cutover");
    is_lifecycle(&x, "CUTTING_OVER");
    is_int(back(&x, NULL, run, words, &e), 0, "behind the closed door: at once");
    is_str(words, "", "no words are asked for");
    is_int(workflow_server_back(x.w, "db01", NULL, "user:carl", again, words, &e), -1, "a second operator is too late");
    is_int(e.kind, ERR_CONFLICT, "and hears who was first: %s", e.message);
    ok(!world_claim(&x, "dc2"), "nothing of the way back starts while the launch runs");
    world_is_state(&x, run, "db01", "stop_instance", "WAITING");
    is_int(world_report(&x, launch, "dc1", json_object(), &e), 1, "the launch is told to stop");
    is_int(world_finish(&x, launch, "dc1", "succeeded", NULL, "{\"instance\":\"cut-1\"}"), ERR_NONE, "it was done already");
    world_is_state(&x, x.run, "db01", "launch_cutover", "CANCELLED");
    stop = world_claim(&x, "dc2");
    is_str(json_get_string(json_object_get(stop, "task"), "name", ""), "stop_instance", "then the way back starts");
    is_str(json_get_string(json_object_get(json_object_get(stop, "context"), "launch_cutover"), "instance", ""), "cut-1", "and knows what to stop");
    is_int(world_finish(&x, stop, "dc2", "succeeded", NULL, NULL), ERR_NONE, "stopped");
    world_work(&x, NULL);
    is_lifecycle(&x, "READY_FOR_CUTOVER");
    world_is_state(&x, x.run, "db01", "quiesce", "PENDING");
    world_is_state(&x, x.run, "db01", "cut_over_again", "WAITING");
    world_close(&x);
}

/* A runner that died in the middle holds the way back only for its lease. */
static void test_runner_died(void)
{
    CLEANUP(json_free) json_t *quiesce = NULL, *stop = NULL;
    char run[WORKFLOW_ID_SIZE], words[WORKFLOW_WORDS_SIZE];
    struct world x;
    struct err e = {0};

    up_to_cutover(&x, "{}");
    quiesce = world_claim(&x, "dc1");
    is_int(back(&x, NULL, run, words, &e), 0, "back while quiesce runs");
    world_pass(&x, 28);
    ok(!world_claim(&x, "dc2"), "it may still be alive");
    world_pass(&x, 4);
    stop = world_claim(&x, "dc2");
    is_str(json_get_string(json_object_get(stop, "task"), "name", ""), "stop_instance", "after its lease, the way back starts");
    is_int(world_finish(&x, quiesce, "dc1", "succeeded", NULL, NULL), ERR_CONFLICT, "the dead one is too late");
    world_close(&x);
}

static void test_again(void)
{
    CLEANUP(json_free) json_t *quiesce = NULL;
    char run[WORKFLOW_ID_SIZE], words[WORKFLOW_WORDS_SIZE];
    struct world x;
    struct err e = {0};

    up_to_cutover(&x, "{\"door\":\"ask\"}");
    world_work(&x, NULL);
    world_is_state(&x, x.run, "db01", "door", "WAITING");
    is_int(back(&x, NULL, run, words, &e), 0, "taken back at the door");
    world_work(&x, NULL);
    is_int(back(&x, NULL, run, words, &e), -1, "once: %s", e.message);
    ok(!world_claim(&x, "dc1"), "nothing starts again by itself");
    world_pass(&x, 5);
    ok(!world_claim(&x, "dc1"), "not with time, either");
    world_window(&x, "w1", x.wall_us + 100 * US_PER_S, x.wall_us + 900 * US_PER_S);
    is_int(workflow_server_cutover(x.w, "db01", "user:anna", &e), -1, "not outside the window: %s", e.message);
    world_pass(&x, 101);
    is_int(workflow_server_cutover(x.w, "db01", "user:anna", &e), 0, "inside it, again");
    is_int(workflow_server_cutover(x.w, "db01", "user:carl", &e), -1, "once");
    is_int(e.kind, ERR_CONFLICT, "%s", e.message);
    quiesce = world_claim(&x, "dc1");
    is_int(json_get_int(json_object_get(quiesce, "run"), "round", 0), 2, "in a second round");
    ok(!json_object_get(json_object_get(quiesce, "context"), "launch_cutover"), "without what the first one left");
    ok(json_object_get(json_object_get(quiesce, "context"), "prerequisites") != NULL, "with what came before");
    world_finish(&x, quiesce, "dc1", "succeeded", NULL, NULL);
    world_work(&x, NULL);
    is_int(workflow_server_open(x.w, "db01", "user:anna", &e), 0, "the door is opened");
    is_int(workflow_server_open(x.w, "db01", "user:carl", &e), -1, "once: %s", e.message);
    world_work(&x, NULL);
    is_lifecycle(&x, "CUTOVER");
    world_close(&x);
}

static void is_push(struct world *x, const char *words)
{
    CLEANUP(json_free) json_t *document = world_claim(x, "dc1");

    is_str(json_get_string(json_object_get(document, "run"), "template", ""), "push_again", "%s", words);
    if (document)
        is_int(world_finish(x, document, "dc1", "succeeded", NULL, "{}"), ERR_NONE, "which goes well");
}

/* An agent is pushed to the server's address, which is the copy's from quiesce on. */
static void test_push(void)
{
    CLEANUP(json_free) json_t *push = NULL, *quiesce = NULL;
    char run[WORKFLOW_ID_SIZE], again[WORKFLOW_ID_SIZE], words[WORKFLOW_WORDS_SIZE];
    struct world x;
    struct err e = {0};

    up_to_cutover(&x, "{\"door\":\"ask\"}");
    is_int(workflow_push_again(x.w, "db01", "user:anna", run, &e), 0, "its agent is to be pushed again");
    push = world_claim(&x, "dc1");
    is_str(json_get_string(json_object_get(push, "task"), "name", ""), "push_agent", "its services are not stopped before that is done");
    is_int(world_finish(&x, push, "dc1", "failed", "denied", NULL), ERR_NONE, "it fails for good");
    world_pass(&x, 1);
    ok(!world_claim(&x, "dc1"), "nor are they then");
    is_int(workflow_push_again(x.w, "db01", "user:anna", again, &e), 0, "asked for again");
    is_str(again, run, "it is the same run");
    is_push(&x, "and it is tried again");
    world_pass(&x, 1);
    quiesce = world_claim(&x, "dc1");
    is_str(json_get_string(json_object_get(quiesce, "task"), "name", ""), "quiesce", "with its agent there, it is quiesced");
    is_int(workflow_push_again(x.w, "db01", "user:anna", run, &e), 0, "and asked for while it is cut over");
    ok(!world_claim(&x, "dc1"), "it waits: the address will be the copy's");
    world_finish(&x, quiesce, "dc1", "succeeded", NULL, NULL);
    world_work(&x, NULL);
    world_pass(&x, 1);
    world_is_state(&x, run, "db01", "push_agent", "WAITING");
    is_int(back(&x, NULL, again, words, &e), 0, "taken back");
    world_work(&x, NULL);
    world_pass(&x, 1);
    is_push(&x, "its source has its address again, and gets its agent");
    world_close(&x);
}

static void test_over_an_open_door(void)
{
    char run[WORKFLOW_ID_SIZE], words[WORKFLOW_WORDS_SIZE], said[WORKFLOW_WORDS_SIZE];
    struct world x;
    struct err e = {0};

    up_to_cutover(&x, "{}");
    world_work(&x, NULL);
    is_lifecycle(&x, "CUTOVER");
    world_pass(&x, 11 * 60 + 30);
    world_work(&x, NULL);
    is_int(back(&x, NULL, said, words, &e), -1, "not without words");
    is_int(e.kind, ERR_WRONG_STATE, "refused: %s", e.message);
    is_str(words, "lose 12 minutes of db01", "the words say what it costs");
    ok(strstr(e.message, words) && strstr(e.message, "opened at 2026-"), "the refusal names them, and since when");
    memcpy(said, words, sizeof said);
    is_int(back(&x, "yes", run, words, &e), -1, "other words do not do");
    is_int(back(&x, "lose 1 minutes of db01", run, words, &e), -1, "nor words for less");
    is_int(back(&x, "lose 13 minutes of db01", run, words, &e), -1, "nor for more");
    is_int(back(&x, "lose 12 minutes of db02", run, words, &e), -1, "nor for another");
    is_int(world_events(&x, "refused"), 5, "all that is remembered");
    world_pass(&x, 120);
    is_int(back(&x, said, run, words, &e), 0, "the words hold for a while");
    world_work(&x, NULL);
    is_lifecycle(&x, "READY_FOR_CUTOVER");
    world_close(&x);
}

static void test_after_finalize(void)
{
    char run[WORKFLOW_ID_SIZE], words[WORKFLOW_WORDS_SIZE];
    struct world x;
    struct err e = {0};

    up_to_cutover(&x, "{}");
    world_work(&x, NULL);
    world_decide(&x, x.run, "db01", "acceptance", true, "user:bob");
    world_need(workflow_server_finalize(x.w, "db01", "user:anna", &e), &e);
    world_work(&x, NULL);
    is_int(back(&x, "lose 1 minute of db01", run, words, &e), -1, "after finalize there is no way back");
    is_int(e.kind, ERR_WRONG_STATE, "%s", e.message);
    is_str(words, "", "and no words that would do it");
    world_close(&x);
}

/* A way back that fails is tried again until it is done; the run can't be cancelled away under it. */
static void test_back_fails(void)
{
    CLEANUP(json_free) json_t *restore = NULL, *task = NULL;
    char run[WORKFLOW_ID_SIZE], words[WORKFLOW_WORDS_SIZE];
    struct world x;
    struct err e = {0};

    up_to_cutover(&x, "{}");
    json_decref(world_work(&x, "verify_cutover"));
    is_int(workflow_cancel_run(x.w, x.run, "user:anna", &e), -1, "a run in the middle of a cutover is not cancelled: %s", e.message);
    is_int(back(&x, NULL, run, words, &e), 0, "back");
    world_pass(&x, 32);
    restore = world_work(&x, "restore_source");
    world_finish(&x, restore, "dc1", "failed", "denied", NULL);
    world_is_state(&x, run, "db01", "restore_source", "FAILED");
    is_int(workflow_cancel_run(x.w, run, "user:anna", &e), -1, "a way back is not cancelled: %s", e.message);
    task = world_task(&x, run, "db01", "restore_source");
    is_int(workflow_skip(x.w, json_get_string(task, "id", ""), "can't be bothered", "user:anna", &e), -1, "nor skipped: %s", e.message);
    is_int(workflow_retry(x.w, json_get_string(task, "id", ""), "user:anna", &e), 0, "it is tried again");
    world_work(&x, NULL);
    is_lifecycle(&x, "READY_FOR_CUTOVER");
    world_close(&x);
}

int main(int count, char **arguments)
{
    world_url = count > 1 ? arguments[1] : NULL;
    test_before_quiesce();
    test_while_running();
    test_runner_died();
    test_again();
    test_push();
    test_over_an_open_door();
    test_after_finalize();
    test_back_fails();
    return tap_done();
}
