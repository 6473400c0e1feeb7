/* world: a wave with servers, clocks that a test turns, and a runner that does what it is told. For tests of the workflow. */
#pragma once

#pragma GCC diagnostic ignored "-Wunused-function" /* not every test needs all of it */

#include "base/json.h"
#include "store/event.h"
#include "tap.h"
#include "workflow/workflow.h"

#define START_US (INT64_C(1795000000) * US_PER_S) /* November 2026 */

struct world {
    struct store *store;
    struct workflow *w;
    struct clock wall, mono;
    int64_t wall_us, mono_us;
    uint64_t random;
    char run[WORKFLOW_ID_SIZE];
};

static int64_t world_read(void *user) { return *(int64_t *)user; }
static uint64_t world_random(void *user)
{
    struct world *x = user;

    x->random = x->random * 6364136223846793005u + 1442695040888963407u;
    return x->random ^ x->random >> 29;
}

static void world_need(int rc, const struct err *e)
{
    if (rc < 0) {
        printf("Bail out! %s\n", e->message);
        exit(1);
    }
}

static void world_open_workflow(struct world *x)
{
    struct err e = {0};
    struct workflow_settings settings = {.store = x->store, .clock = &x->wall, .monotonic = &x->mono, .random = world_random, .user = x};

    world_need(workflow_open(&settings, &x->w, &e), &e);
}

/* Given on the command line (on_postgres): databases URL0, URL1 …, one a world. */
static const char *world_url;
static int world_number;

static void world_open(struct world *x)
{
    CLEANUP(free_ptr) char *url = world_url ? xasprintf("%s%d", world_url, world_number++) : xstrdup("sqlite::memory:");
    struct err e = {0};

    *x = (struct world){.wall_us = START_US, .mono_us = 1000 * US_PER_S, .random = 7};
    x->wall = (struct clock){world_read, &x->wall_us};
    x->mono = (struct clock){world_read, &x->mono_us};
    world_need(store_open(url, &x->store, &e), &e);
    world_need(store_migrate(x->store, &e), &e);
    world_open_workflow(x);
}

static void world_close(struct world *x)
{
    workflow_close(&x->w);
    store_close(&x->store);
}

/* world_inventory.c: a wave, its settings and window; a server with attributes (JSON texts). */
void world_wave(struct world *x, const char *wave, const char *settings);
void world_window(struct world *x, const char *wave, int64_t opens_us, int64_t closes_us);
void world_server(struct world *x, const char *wave, const char *server, const char *attributes);
/* What its replicator says of it: a replication object's text. */
void world_replication(struct world *x, const char *server, const char *replication);
/* A member of the server's JSON as text; the caller frees. */
char *world_server_member(struct world *x, const char *server, const char *member);

/* Time goes on for both clocks, in steps of a second, with a tick at each. */
static void world_pass(struct world *x, int64_t seconds)
{
    struct err e = {0};

    for (int64_t i = 0; i < seconds; i++) {
        x->wall_us += US_PER_S;
        x->mono_us += US_PER_S;
        world_need(workflow_tick(x->w, &e), &e);
    }
}

static const char *const world_labels[] = {"source:dc1", "replicator", "target", "factory"};
static const char *const world_steps[] = {
    "prerequisites", "push_agent", "initial_sync", "verify_replication", "validate_launch", "launch_test", "boot_test",
    "terminate_test", "quiesce", "final_sync", "launch_cutover", "verify_cutover", "open_door", "compare", "finalize", "cmdb_retire",
    "decommission", "drop_staged", "right_size", "report", "stop_instance", "restore_source", "verify_source", "keep_source", "push_copy", "sync_copy", "check_rescue", "last_change", "leave_source", "restore_disks",
    "boot_source", "let_go", "resume_copy", "target_probe"};

/* A task for a runner with all labels and steps, or NULL. */
static json_t *world_claim(struct world *x, const char *runner)
{
    struct workflow_offer offer = {runner, world_labels, (int)ARRAY_COUNT(world_labels), world_steps, (int)ARRAY_COUNT(world_steps)};
    json_t *document = NULL;
    struct err e = {0};

    world_need(workflow_claim(x->w, &offer, &document, &e), &e);
    return document;
}

/* 0, or the kind of the error. */
static enum err_kind world_finish(struct world *x, const json_t *document, const char *runner, const char *outcome,
                                                           const char *kind, const char *result)
{
    CLEANUP(json_free) json_t *body = json_pack("{s:I, s:s, s:o}", "fence", (json_int_t)json_get_int(document, "fence", -1), "outcome",
                                                outcome, "result", result ? json_loads(result, 0, NULL) : json_object());
    struct err e = {0};

    if (kind)
        json_object_set_new(body, "error", json_pack("{s:s, s:s}", "kind", kind, "message", "made up"));
    return workflow_finish(x->w, runner, json_get_string(document, "attempt", ""), body, &e) < 0 ? e.kind : ERR_NONE;
}

static const char *world_result_of(const char *step)
{
    static const struct {
        const char *step, *result;
    } results[] = {
        {"prerequisites", "{\"facts\":{\"os\":\"Debian 12\",\"kernel\":\"6.1\",\"disks\":[{\"name\":\"vda\",\"id\":\"vda\",\"size_bytes\":4096}]}}"},
        {"launch_test", "{\"instance\":\"test-1\",\"mends\":[]}"},
        {"launch_cutover", "{\"instance\":\"cut-1\",\"mends\":[],\"accelerator\":\"tcg\"}"},
        {"initial_sync", "{\"replication\":{\"bytes_read\":1048576}}"},
        {"right_size", "{\"advice\":[\"2 vCPUs are enough: p95 of its use was 31 %\"]}"},
        {"compare", "{\"disks\":[{\"id\":\"vda\",\"size_bytes\":4096,\"bytes_compared\":4096,\"source_sha256\":\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\",\"target_sha256\":\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"}]}"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(results); i++)
        if (strcmp(results[i].step, step) == 0)
            return results[i].result;
    return "{}";
}

static int world_report(struct world *x, const json_t *document, const char *runner, json_t *body, struct err *e)
{
    CLEANUP(json_free) json_t *held = body, *answer = NULL;

    json_object_set_new(held, "fence", json_integer(json_get_int(document, "fence", -1)));
    return workflow_report(x->w, runner, json_get_string(document, "attempt", ""), held, &answer, e) < 0 ? -1
        : json_get_bool(answer, "cancelled", false)                                                      ? 1
                                                                                                         : 0;
}

/* A line of evidence for each step, and a picture for the boot tests. */
static void world_show(struct world *x, const json_t *document)
{
    static const unsigned char png[] = {
        0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d, 0x49, 0x48, 0x44, 0x52, 0, 0, 0, 1, 0, 0, 0, 1, 8, 2, 0, 0, 0, 0x90, 0x77,
        0x53, 0xde, 0, 0, 0, 0x0c, 0x49, 0x44, 0x41, 0x54, 8, 0xd7, 0x63, 0xf8, 0xcf, 0xc0, 0, 0, 3, 1, 1, 0, 0x18, 0xdd, 0x8d, 0xb0, 0, 0, 0, 0,
        0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82};
    const char *step = json_get_string(json_object_get(document, "task"), "step", "");
    struct err e = {0};

    world_need(world_report(x, document, "dc1",
                            json_pack("{s:[{s:s, s:b, s:s}], s:{s:i, s:i, s:s}, s:[s]}", "evidence", "name", "a <check>", "passed", 1,
                                      "evidence", "seen & believed", "progress", "done", 1, "total", 2, "unit", "bytes", "log", "a line"),
                            &e),
               &e);
    if (strcmp(step, "boot_test") == 0)
        world_need(workflow_artifact(x->w, "dc1", json_get_string(document, "attempt", ""), json_get_int(document, "fence", 0),
                                     "screen.png", "image/png", png, sizeof png, &e),
                   &e);
}

/* Does all that is ready until a task named `until` (NULL: nothing left) is claimed; returns its document. */
static json_t *world_work(struct world *x, const char *until)
{
    json_t *document;

    while ((document = world_claim(x, "dc1"))) {
        const json_t *task = json_object_get(document, "task");

        if (until && strcmp(json_get_string(task, "name", ""), until) == 0)
            return document;
        world_show(x, document);
        x->wall_us += 700 * US_PER_MS;
        if (world_finish(x, document, "dc1", "succeeded", NULL, world_result_of(json_get_string(task, "step", ""))) != ERR_NONE) {
            printf("Bail out! a finish was refused\n");
            exit(1);
        }
        json_decref(document);
    }
    return NULL;
}

/* The task of that name (server NULL: of the wave) in the run; the caller frees; ends the test where there is none. */
static json_t *world_task(struct world *x, const char *run, const char *server, const char *name)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *found = NULL;
    json_t *task = NULL, *one;
    struct err e = {0};
    size_t i;

    world_need(store_begin(x->store, STORE_READ, &tx, &e), &e);
    world_need(workflow_run_json(tx, run, true, &found, &e), &e);
    json_array_foreach(json_object_get(found, "tasks"), i, one)
        if (strcmp(json_get_string(one, "name", ""), name) == 0 && strcmp(json_get_string(one, "server", ""), server ? server : "") == 0)
            world_need(workflow_task_json(tx, json_get_string(one, "id", ""), true, &task, &e), &e);
    if (!task) {
        printf("Bail out! no task %s of %s\n", name, server ? server : "the wave");
        exit(1);
    }
    return task;
}

static void world_is_state(struct world *x, const char *run, const char *server, const char *name, const char *state)
{
    CLEANUP(json_free) json_t *task = world_task(x, run, server, name);

    is_str(json_get_string(task, "state", ""), state, "%s%s%s is %s", name, server ? " of " : "", server ? server : "", state);
}

static enum err_kind world_decide(struct world *x, const char *run, const char *server, const char *name, bool approve,
                                                           const char *actor)
{
    CLEANUP(json_free) json_t *task = world_task(x, run, server, name);
    struct err e = {0};

    return workflow_decide(x->w, json_get_string(task, "id", ""), approve, NULL, actor, &e) < 0 ? e.kind : ERR_NONE;
}

static int world_count_event(void *user, const struct event *what)
{
    const char *const *wanted = ((void **)user)[0];

    if (strcmp(what->kind, *wanted) == 0)
        ++*(int *)((void **)user)[1];
    return 0;
}

static int world_events(struct world *x, const char *kind)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int count = 0;
    void *user[] = {&kind, &count};
    struct err e = {0};

    world_need(store_begin(x->store, STORE_READ, &tx, &e), &e);
    world_need(event_read(tx, 0, NULL, 1000000, world_count_event, user, &e), &e);
    return count;
}
