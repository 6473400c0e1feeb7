/* The way back with what was written since, and its being called off. */
#include "world.h"

static json_t *cut_over(struct world *x, const char *until)
{
    struct err e = {0};

    world_open(x);
    world_wave(x, "w1", "{\"hold_s\":60,\"right_size_after_s\":1}");
    world_server(x, "w1", "db01", "{}");
    world_window(x, "w1", x->wall_us, x->wall_us + 7200 * US_PER_S);
    world_need(workflow_start_wave(x->w, "w1", "user:anna", x->run, &e), &e);
    world_work(x, NULL);
    world_decide(x, x->run, "db01", "sign_off", true, "user:bob");
    world_work(x, NULL);
    world_need(workflow_cutover_wave(x->w, "w1", "user:anna", &e), &e);
    return world_work(x, until);
}

static void up_to_open_door(struct world *x, const char *until) { json_decref(cut_over(x, until)); }

static void is_lifecycle(struct world *x, const char *wanted)
{
    CLEANUP(free_ptr) char *got = world_server_member(x, "db01", "lifecycle"), *quoted = xasprintf("\"%s\"", wanted);

    is_str(got, quoted, "db01 is %s", wanted);
}

static const char *member(const json_t *document, const char *object, const char *name)
{
    return json_get_string(json_object_get(document, object), name, "");
}

static void test_nothing_to_bring(void)
{
    char run[WORKFLOW_ID_SIZE];
    struct world x;
    struct err e = {0};

    up_to_open_door(&x, "open_door");
    world_pass(&x, 40); /* its claim is lost: the door was being opened, and may be open */
    is_int(workflow_server_stay(x.w, "db01", "user:anna", run, &e), -1, "nothing can be called off: %s", e.message);
    world_close(&x);
    up_to_open_door(&x, "verify_cutover");
    is_int(workflow_server_home(x.w, "db01", "user:anna", run, &e), -1, "behind a closed door nobody has written anything");
    is_int(e.kind, ERR_WRONG_STATE, "%s", e.message);
    is_int(world_events(&x, "refused"), 1, "which is remembered");
    world_close(&x);
}

/* Every task in its order, each once, with what those before it found. */
static void test_home(void)
{
    static const char *const order[] = {"keep_source", "push_copy", "sync_copy", "check_rescue", "last_change", "leave_source", "restore_disks", "stop_instance", "boot_source",
                                        "restore_source", "verify_source", "push_agent", "initial_sync"};
    char run[WORKFLOW_ID_SIZE], words[WORKFLOW_WORDS_SIZE], again[WORKFLOW_ID_SIZE];
    json_t *document;
    struct world x;
    struct err e = {0};

    up_to_open_door(&x, NULL);
    is_lifecycle(&x, "CUTOVER");
    is_int(workflow_server_home(x.w, "db01", "user:anna", run, &e), 0, "no words are asked for: nothing is lost");
    is_int(workflow_server_home(x.w, "db01", "user:carl", again, &e), -1, "once");
    is_int(e.kind, ERR_CONFLICT, "%s", e.message);
    is_int(workflow_server_back(x.w, "db01", NULL, "user:carl", again, words, &e), -1, "and not without, meanwhile: %s", e.message);
    is_int(workflow_server_finalize(x.w, "db01", "user:carl", &e), -1, "nor finalized: %s", e.message);
    for (size_t i = 0; i < ARRAY_COUNT(order); i++) {
        document = world_claim(&x, "dc1");
        is_str(member(document, "task", "name"), order[i], "%zu: %s", i, order[i]);
        is_str(member(document, "run", "template"), "way_home", "of the way home");
        is_str(member(json_object_get(document, "context"), "launch_cutover", "instance"), "cut-1", "which knows what was launched");
        if (strcmp(order[i], "last_change") == 0)
            is_lifecycle(&x, "CUTOVER");
        if (strcmp(order[i], "leave_source") == 0)
            is_str(member(json_object_get(document, "context"), "last_change", "point"), "point-9", "and the point that goes home");
        if (strcmp(order[i], "stop_instance") == 0)
            ok(json_is_true(json_object_get(json_object_get(json_object_get(document, "task"), "params"), "keep")), "its disks are kept");
        if (strcmp(order[i], "restore_source") == 0)
            ok(json_is_true(json_object_get(json_object_get(json_object_get(document, "task"), "params"), "rescued")), "the source was not parked any more");
        ok(i + 1 == ARRAY_COUNT(order) || !world_claim(&x, "dc2"), "and nothing beside it");
        is_int(world_finish(&x, document, "dc1", "succeeded", NULL, strcmp(order[i], "last_change") == 0 ? "{\"point\":\"point-9\"}" : NULL), ERR_NONE, "done");
        json_decref(document);
    }
    ok(!world_claim(&x, "dc1"), "nothing goes before what came home is accepted");
    is_lifecycle(&x, "CUTOVER");
    is_int(workflow_server_stay(x.w, "db01", "user:anna", again, &e), -1, "it can't be called off any more: %s", e.message);
    is_int(world_decide(&x, run, "db01", "accept_home", true, "user:bob"), ERR_NONE, "accepted");
    document = world_claim(&x, "dc1");
    is_str(member(document, "task", "name"), "let_go", "then the launched machine goes");
    world_finish(&x, document, "dc1", "succeeded", NULL, NULL);
    json_decref(document);
    is_lifecycle(&x, "READY_FOR_CUTOVER");
    world_is_state(&x, x.run, "db01", "cut_over_again", "WAITING");
    world_is_state(&x, x.run, "db01", "acceptance", "PENDING");
    is_int(workflow_server_cutover(x.w, "db01", "user:anna", &e), 0, "and the server may be cut over again");
    world_close(&x);
}

/* Called off in the midst: what runs is told to stop, then the launched machine serves on, and its cutover goes on where it was. */
static void test_stay(void)
{
    CLEANUP(json_free) json_t *change = NULL, *resume = NULL;
    char home[WORKFLOW_ID_SIZE], run[WORKFLOW_ID_SIZE], again[WORKFLOW_ID_SIZE];
    struct world x;
    struct err e = {0};

    up_to_open_door(&x, NULL);
    world_is_state(&x, x.run, "db01", "acceptance", "WAITING");
    is_int(workflow_server_stay(x.w, "db01", "user:anna", run, &e), -1, "nothing to call off: %s", e.message);
    is_int(workflow_server_home(x.w, "db01", "user:anna", home, &e), 0, "home");
    world_is_state(&x, x.run, "db01", "acceptance", "CANCELLED");
    change = world_work(&x, "last_change");
    is_int(workflow_server_stay(x.w, "db01", "user:anna", run, &e), 0, "called off");
    is_int(workflow_server_stay(x.w, "db01", "user:carl", again, &e), -1, "once");
    is_int(e.kind, ERR_CONFLICT, "%s", e.message);
    is_int(workflow_server_home(x.w, "db01", "user:carl", again, &e), -1, "and not begun anew before it is through: %s", e.message);
    ok(!world_claim(&x, "dc2"), "while an attempt runs, nothing else does");
    is_int(world_report(&x, change, "dc1", json_object(), &e), 1, "it is told to stop");
    is_int(world_finish(&x, change, "dc1", "failed", "cancelled", NULL), ERR_NONE, "and stops");
    world_is_state(&x, home, "db01", "last_change", "CANCELLED");
    world_is_state(&x, home, "db01", "leave_source", "CANCELLED");
    resume = world_claim(&x, "dc2");
    is_str(member(resume, "task", "name"), "resume_copy", "then the launched machine serves on");
    is_str(member(json_object_get(resume, "context"), "launch_cutover", "instance"), "cut-1", "which is known");
    world_finish(&x, resume, "dc2", "succeeded", NULL, NULL);
    world_is_state(&x, x.run, "db01", "open_door", "SUCCEEDED");
    world_is_state(&x, x.run, "db01", "acceptance", "WAITING");
    is_lifecycle(&x, "CUTOVER");
    is_int(workflow_server_home(x.w, "db01", "user:anna", home, &e), 0, "and it can be asked for again");
    json_decref(world_work(&x, "stop_instance"));
    is_int(workflow_server_stay(x.w, "db01", "user:anna", run, &e), -1, "until the launched machine is being stopped: %s", e.message);
    is_int(e.kind, ERR_WRONG_STATE, "from then on the source has all of it");
    world_close(&x);
}

/* A door that was being opened when the way home began may be open: called off, the way back without what was written still asks for words. */
static void test_door_may_be_open(void)
{
    CLEANUP(json_free) json_t *door = NULL, *resume = NULL;
    char home[WORKFLOW_ID_SIZE], run[WORKFLOW_ID_SIZE], words[WORKFLOW_WORDS_SIZE];
    struct world x;
    struct err e = {0};

    door = cut_over(&x, "open_door");
    is_str(member(door, "task", "name"), "open_door", "the door is being opened");
    is_int(workflow_server_home(x.w, "db01", "user:anna", home, &e), 0, "what was written comes home: %s", e.message);
    world_pass(&x, 1);
    is_int(world_finish(&x, door, "dc1", "succeeded", NULL, NULL), ERR_NONE, "told to stop it comes to its end all the same");
    is_int(workflow_server_stay(x.w, "db01", "user:anna", run, &e), 0, "called off: %s", e.message);
    resume = world_claim(&x, "dc2");
    is_str(member(resume, "task", "name"), "resume_copy", "the launched machine serves on");
    world_finish(&x, resume, "dc2", "succeeded", NULL, NULL);
    world_is_state(&x, x.run, "db01", "open_door", "READY");
    e = (struct err){0};
    is_int(workflow_server_back(x.w, "db01", NULL, "user:anna", run, words, &e), -1, "clients may have written: going back asks for words");
    ok(strstr(e.message, "would be lost") && words[0], "(%s)", e.message);
    world_work(&x, NULL);
    world_is_state(&x, x.run, "db01", "open_door", "SUCCEEDED");
    is_lifecycle(&x, "CUTOVER");
    world_close(&x);
}

/* A runner that dies in the midst holds nothing up for longer than its lease; a failure is tried again, and not skipped. */
static void test_it_fails(void)
{
    CLEANUP(json_free) json_t *leave = NULL, *again = NULL, *task = NULL;
    char run[WORKFLOW_ID_SIZE];
    struct world x;
    struct err e = {0};

    up_to_open_door(&x, NULL);
    is_int(workflow_server_home(x.w, "db01", "user:anna", run, &e), 0, "home");
    leave = world_work(&x, "leave_source");
    world_pass(&x, 32);
    again = world_claim(&x, "dc2");
    is_str(member(again, "task", "name"), "leave_source", "the same task, after its lease");
    is_int(world_finish(&x, leave, "dc1", "succeeded", NULL, NULL), ERR_CONFLICT, "the dead one is too late");
    world_finish(&x, again, "dc2", "failed", "state", NULL);
    world_is_state(&x, run, "db01", "leave_source", "FAILED");
    task = world_task(&x, run, "db01", "leave_source");
    is_int(workflow_skip(x.w, json_get_string(task, "id", ""), "can't be bothered", "user:anna", &e), -1, "not skipped: %s", e.message);
    is_int(workflow_cancel_run(x.w, run, "user:anna", &e), -1, "nor cancelled: %s", e.message);
    is_int(workflow_retry(x.w, json_get_string(task, "id", ""), "user:anna", &e), 0, "it is tried again");
    world_work(&x, NULL);
    is_int(world_decide(&x, run, "db01", "accept_home", true, "user:bob"), ERR_NONE, "to its end");
    world_work(&x, NULL);
    is_lifecycle(&x, "READY_FOR_CUTOVER");
    world_close(&x);
}

int main(int count, char **arguments)
{
    world_url = count > 1 ? arguments[1] : NULL;
    test_nothing_to_bring();
    test_home();
    test_stay();
    test_it_fails();
    test_door_may_be_open();
    return tap_done();
}
