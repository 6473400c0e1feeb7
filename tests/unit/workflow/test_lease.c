/* Attempts: fences, leases, retries, time limits, and clocks that jump. */
#include "base/limits.h"
#include "inventory/placement.h"
#include "world.h"

#include <unistd.h>

static void one_server(struct world *x, const char *attributes)
{
    struct err e = {0};

    world_open(x);
    world_wave(x, "w1", "{}");
    world_server(x, "w1", "db01", attributes);
    world_need(workflow_start_wave(x->w, "w1", "user:anna", x->run, &e), &e);
}

static int64_t fence_of(const json_t *document) { return json_get_int(document, "fence", -1); }

static void test_document(void)
{
    CLEANUP(json_free) json_t *first = NULL, *second = NULL;
    struct world x;

    one_server(&x, "{\"cpu\":\"2\"}");
    first = world_claim(&x, "dc1");
    is_str(json_get_string(json_object_get(first, "task"), "step", ""), "prerequisites", "the first task");
    is_int(fence_of(first), 1, "under the first fence");
    is_int(json_get_int(first, "lease_ms", 0), WORKFLOW_LEASE_MS, "the lease is told");
    ok(json_get_int(first, "timeout_ms", 0) > 0, "and the time limit");
    is_int(json_get_int(json_object_get(json_object_get(first, "server"), "attributes"), "cpu", 0), 2, "the server's attributes");
    ok(!world_claim(&x, "dc1"), "it is given once");
    is_int(world_finish(&x, first, "dc1", "succeeded", NULL, world_result_of("prerequisites")), ERR_NONE, "it succeeds");
    second = world_claim(&x, "dc1");
    is_str(json_get_string(json_object_get(second, "facts"), "os", ""), "Debian 12", "the next document has the facts");
    ok(json_object_get(json_object_get(json_object_get(second, "context"), "prerequisites"), "facts") != NULL, "and the context");
    world_close(&x);
}

static json_t *claim_with(struct world *x, const char *label, const char *step)
{
    struct workflow_offer offer = {"dc2", &label, 1, &step, 1};
    json_t *document = NULL;
    struct err e = {0};

    world_need(workflow_claim(x->w, &offer, &document, &e), &e);
    return document;
}

/* The server replicates to that one; then (to not NULL) it moves to another. */
static void place(struct world *x, const char *to)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct inventory_by by = {"user:anna", x->wall_us};
    struct err e = {0};

    world_need(store_begin(x->store, STORE_WRITE, &tx, &e), &e);
    if (!to)
        world_need(placement_set(tx, "db01", "staging2", "replicator:staging2", "", &by, &e), &e);
    else
        world_need(placement_move(tx, "db01", to, "", &by, &e), &e);
    world_need(store_commit(&tx, &e), &e);
}

static void test_beside(void)
{
    char run[WORKFLOW_ID_SIZE], again[WORKFLOW_ID_SIZE];
    struct world x;
    struct err e = {0};

    one_server(&x, "{}");
    for (int i = 0; i < 2; i++) {
        CLEANUP(json_free) json_t *document = world_claim(&x, "dc1");

        world_finish(&x, document, "dc1", "succeeded", NULL, world_result_of(i ? "push_agent" : "prerequisites"));
    }
    place(&x, NULL);
    ok(!claim_with(&x, "replicator", "initial_sync"), "what touches a copy is not for a runner beside another replicator");
    place(&x, "staging3");
    ok(!claim_with(&x, "replicator:staging2", "initial_sync"), "while a server moves, nothing begins");
    world_need(workflow_push_again(x.w, "db01", "user:anna", run, &e), &e);
    world_need(workflow_push_again(x.w, "db01", "user:anna", again, &e), &e);
    is_str(again, run, "its agent is pushed again, by one run");
    {
        CLEANUP(json_free) json_t *document = claim_with(&x, "source:dc1", "push_agent");

        is_str(json_get_string(json_object_get(document, "run"), "template", ""), "push_again", "which is given meanwhile");
    }
    place(&x, "staging2");
    {
        CLEANUP(json_free) json_t *document = claim_with(&x, "replicator:staging2", "initial_sync");

        ok(document != NULL, "where it stays, the one beside its replicator gets it");
    }
    world_close(&x);
}

static void test_who_may_claim(void)
{
    CLEANUP(json_free) json_t *document = NULL;
    struct world x;

    one_server(&x, "{\"network\":\"dc1\"}");
    ok(!claim_with(&x, "source:dc2", "prerequisites"), "not a runner of another network");
    ok(!claim_with(&x, "source:dc1", "push_agent"), "not one that lacks the step");
    ok(!claim_with(&x, "target", "prerequisites"), "not one of another place");
    document = claim_with(&x, "source:dc1", "prerequisites");
    ok(document != NULL, "the one of its network");
    is_int(world_finish(&x, document, "dc1", "succeeded", NULL, NULL), ERR_DENIED, "another runner can't finish it");
    world_close(&x);
    one_server(&x, "{}");
    json_free(&document);
    document = claim_with(&x, "source:dc2", "prerequisites");
    ok(document != NULL, "without a network, any source runner may");
    world_close(&x);
}

static void test_finish(void)
{
    CLEANUP(json_free) json_t *document = NULL;
    struct world x;
    struct err e = {0};

    one_server(&x, "{}");
    document = world_claim(&x, "dc1");
    json_object_set_new(document, "fence", json_integer(9));
    is_int(world_finish(&x, document, "dc1", "succeeded", NULL, NULL), ERR_CONFLICT, "a wrong fence is refused");
    json_object_set_new(document, "fence", json_integer(1));
    is_int(world_finish(&x, document, "dc1", "done", NULL, NULL), ERR_INVALID, "an unknown outcome is refused");
    is_int(world_finish(&x, document, "dc1", "succeeded", NULL, NULL), ERR_NONE, "it finishes");
    is_int(world_finish(&x, document, "dc1", "succeeded", NULL, NULL), ERR_NONE, "the same again is fine");
    is_int(world_finish(&x, document, "dc1", "failed", "io", NULL), ERR_CONFLICT, "another outcome is not");
    is_int(world_events(&x, "task.succeeded"), 1, "it happened once");
    is_int(world_report(&x, document, "dc1", json_object(), &e), -1, "no report after it");
    is_int(e.kind, ERR_CONFLICT, "the runner must stop: %s", e.message);
    json_object_set_new(document, "attempt", json_string("a0000000000000000"));
    is_int(world_finish(&x, document, "dc1", "succeeded", NULL, NULL), ERR_CONFLICT, "an unknown attempt must stop");
    world_close(&x);
}

static void test_retries(void)
{
    CLEANUP(json_free) json_t *document = NULL, *task = NULL;
    struct world x;
    struct err e = {0};

    one_server(&x, "{}");
    for (int i = 1; i <= 3; i++) {
        json_free(&document);
        document = world_claim(&x, "dc1");
        is_int(fence_of(document), i, "attempt %d", i);
        is_int(world_finish(&x, document, "dc1", "failed", "timeout", NULL), ERR_NONE, "fails in a way that may go away");
        if (i == 3)
            break;
        world_is_state(&x, x.run, "db01", "prerequisites", "WAITING");
        ok(!world_claim(&x, "dc1"), "not at once");
        world_pass(&x, i == 1 ? 4 : 9);
        ok(!world_claim(&x, "dc1"), "later each time");
        world_pass(&x, 2);
    }
    world_is_state(&x, x.run, "db01", "prerequisites", "FAILED");
    task = world_task(&x, x.run, "db01", "prerequisites");
    is_str(json_get_string(json_object_get(task, "error"), "kind", ""), "timeout", "its error is kept");
    is_int(json_array_size(json_object_get(task, "attempts")), 3, "so are its attempts");
    is_int(workflow_retry(x.w, json_get_string(task, "id", ""), "user:anna", &e), 0, "a person has it tried again");
    is_int(workflow_retry(x.w, json_get_string(task, "id", ""), "user:bob", &e), -1, "once: %s", e.message);
    json_free(&document);
    document = world_claim(&x, "dc1");
    is_int(fence_of(document), 4, "under a higher fence");
    is_int(world_finish(&x, document, "dc1", "failed", "denied", NULL), ERR_NONE, "a failure that stays");
    world_is_state(&x, x.run, "db01", "prerequisites", "FAILED");
    world_close(&x);
}

static void test_lost(void)
{
    CLEANUP(json_free) json_t *old = NULL, *new = NULL;
    struct world x;
    struct err e = {0};

    one_server(&x, "{}");
    old = world_claim(&x, "dc1");
    for (int i = 0; i < 6; i++) {
        world_pass(&x, 20);
        is_int(world_report(&x, old, "dc1", json_object(), &e), 0, "a runner that reports keeps its lease");
    }
    world_pass(&x, 28);
    ok(!world_claim(&x, "dc2"), "not before the lease ends");
    world_pass(&x, 4);
    new = world_claim(&x, "dc2");
    ok(new != NULL, "then it is given again");
    is_int(fence_of(new), 2, "under a higher fence");
    is_int(world_report(&x, old, "dc1", json_object(), &e), -1, "the old one may not report");
    is_int(e.kind, ERR_CONFLICT, "and must stop: %s", e.message);
    is_int(world_finish(&x, old, "dc1", "succeeded", NULL, NULL), ERR_CONFLICT, "nor finish");
    is_int(world_finish(&x, new, "dc2", "succeeded", NULL, NULL), ERR_NONE, "the new one may");
    is_int(world_events(&x, "task.lost"), 1, "the loss is in the feed");
    world_close(&x);
}

static void test_clock_jumps(void)
{
    CLEANUP(json_free) json_t *document = NULL;
    struct world x;

    one_server(&x, "{}");
    document = world_claim(&x, "dc1");
    world_pass(&x, 5);
    x.wall_us += 86400 * US_PER_S;
    world_pass(&x, 5);
    ok(!world_claim(&x, "dc2"), "a wall clock that jumps a day ends no lease");
    x.wall_us -= 3 * 86400 * US_PER_S;
    world_pass(&x, 5);
    ok(!world_claim(&x, "dc2"), "nor one that jumps back");
    world_is_state(&x, x.run, "db01", "prerequisites", "RUNNING");
    x.mono_us += 3600 * US_PER_S;
    world_pass(&x, 1);
    ok(!world_claim(&x, "dc2"), "a factory that slept gives a whole lease first");
    world_pass(&x, 31);
    json_decref(document);
    document = world_claim(&x, "dc2");
    ok(document != NULL, "and then it is over");
    world_close(&x);
}

static void test_restart(void)
{
    CLEANUP(json_free) json_t *document = NULL;
    struct world x;

    one_server(&x, "{}");
    document = world_claim(&x, "dc1");
    world_pass(&x, 20);
    workflow_close(&x.w);
    world_open_workflow(&x);
    world_pass(&x, 20);
    ok(!world_claim(&x, "dc2"), "a factory that starts gives a whole lease");
    is_int(world_finish(&x, document, "dc1", "succeeded", NULL, NULL), ERR_NONE, "so a runner that lived on can finish");
    world_close(&x);
}

static void test_time_limit(void)
{
    CLEANUP(json_free) json_t *document = NULL;
    struct world x;
    struct err e = {0};
    int told = 0;

    one_server(&x, "{}");
    document = world_claim(&x, "dc1"); /* prerequisites: 300 s */
    for (int i = 0; i < 29; i++) {
        world_pass(&x, 10);
        told += world_report(&x, document, "dc1", json_object(), &e);
    }
    is_int(told, 0, "not told to stop within its time");
    world_pass(&x, 15);
    is_int(world_report(&x, document, "dc1", json_object(), &e), 1, "then it is told to stop");
    is_int(world_finish(&x, document, "dc1", "failed", "cancelled", NULL), ERR_NONE, "it stops");
    world_is_state(&x, x.run, "db01", "prerequisites", "WAITING");
    world_pass(&x, 6);
    json_decref(document);
    document = world_claim(&x, "dc1");
    is_int(fence_of(document), 2, "and is tried again");
    world_pass(&x, 20);
    world_close(&x);
}

static void test_bad_reports(void)
{
    static const char *const bad[] = {"{\"evidence\":{}}", "{\"evidence\":[1]}", "{\"evidence\":[{\"name\":\"x\"}]}",
                                      "{\"evidence\":[{\"name\":\"x\",\"passed\":\"yes\"}]}", "{\"progress\":[]}", "{\"log\":[1]}", "{\"log\":{}}"};
    CLEANUP(json_free) json_t *document = NULL, *task = NULL, *nothing = json_object();
    CLEANUP(free_ptr) char *big = xmalloc(LIMIT_ARTIFACT_BYTES + 1);
    struct world x;
    struct err e = {0};
    json_t *answer;
    const char *attempt;

    one_server(&x, "{}");
    document = world_claim(&x, "dc1");
    attempt = json_get_string(document, "attempt", "");
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        is_int(world_report(&x, document, "dc1", json_loads(bad[i], 0, NULL), &e), -1, "%s: %s", bad[i], e.message);
    is_int(workflow_report(x.w, "dc1", attempt, nothing, &answer, &e), -1, "no fence: %s", e.message);
    is_int(workflow_artifact(x.w, "dc1", attempt, 1, "../x", "text/plain", "x", 1, &e), -1, "a path is no name: %s", e.message);
    is_int(workflow_artifact(x.w, "dc1", attempt, 1, "x", "text/plain", big, LIMIT_ARTIFACT_BYTES + 1, &e), -1, "too big: %s", e.message);
    is_int(workflow_artifact(x.w, "dc1", attempt, 2, "x", "text/plain", "x", 1, &e), -1, "another's fence: %s", e.message);
    task = world_task(&x, x.run, "db01", "prerequisites");
    is_int(json_get_int(task, "evidence_count", -1), 0, "nothing of it was kept");
    is_int(json_array_size(json_object_get(task, "artifacts")), 0, "nothing at all");
    world_close(&x);
}

static void test_evidence(void)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *document = NULL, *task = NULL;
    CLEANUP(free_ptr) char *type = NULL;
    CLEANUP(free_ptr) void *bytes = NULL;
    struct world x;
    struct err e = {0};
    size_t size = 0;

    one_server(&x, "{}");
    document = world_claim(&x, "dc1");
    for (int i = 0; i < 2; i++) /* the answer to the first was lost */
        world_show(&x, document);
    world_need(world_report(&x, document, "dc1", json_pack("{s:[{s:s, s:b, s:s}]}", "evidence", "name", "reach", "passed", 0, "evidence", "no"), &e),
               &e);
    world_need(workflow_artifact(x.w, "dc1", json_get_string(document, "attempt", ""), 1, "log.txt", "text/plain", "one", 3, &e), &e);
    world_need(workflow_artifact(x.w, "dc1", json_get_string(document, "attempt", ""), 1, "log.txt", "text/plain", "two!", 4, &e), &e);
    task = world_task(&x, x.run, "db01", "prerequisites");
    is_int(json_get_int(task, "evidence_count", -1), 2, "a report that comes twice counts once");
    is_int(json_get_int(task, "evidence_failed", -1), 1, "what did not hold is counted");
    is_int(json_get_int(json_object_get(task, "progress"), "total", 0), 2, "progress");
    world_need(store_begin(x.store, STORE_READ, &tx, &e), &e);
    is_int(workflow_artifact_read(tx, json_get_string(task, "id", ""), "log.txt", &type, &bytes, &size, &e), 1, "the artifact is there");
    ok(size == 4 && memcmp(bytes, "two!", 4) == 0, "as it was put last");
    is_str(type, "text/plain", "with its type");
    is_int(workflow_artifact_read(tx, json_get_string(task, "id", ""), "nix", &type, &bytes, &size, &e), 0, "another is not");
    store_rollback(&tx);
    world_close(&x);
}

/* What prerequisites saw of the host's key is pinned; another one later is no success. */
static void test_host_key(void)
{
    static const char first_key[] = "{\"host_key\":\"SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}",
                      other_key[] = "{\"host_key\":\"SHA256:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB\"}";
    CLEANUP(json_free) json_t *document = NULL, *again = NULL;
    struct world x;
    struct err e = {0};

    one_server(&x, "{}");
    document = world_claim(&x, "dc1");
    is_int(world_finish(&x, document, "dc1", "succeeded", NULL, first_key), ERR_NONE, "prerequisites saw a key");
    is_int(world_events(&x, "server.trusted"), 1, "it is pinned");
    world_need(workflow_cancel_run(x.w, x.run, "user:anna", &e), &e);
    world_need(workflow_start_wave(x.w, "w1", "user:anna", x.run, &e), &e);
    again = world_claim(&x, "dc1");
    is_int(world_finish(&x, again, "dc1", "succeeded", NULL, other_key), ERR_NONE, "another one later");
    world_is_state(&x, x.run, "db01", "prerequisites", "FAILED");
    world_close(&x);
}

/* A result that breaks the inventory's rules is the step's failure; the runner is not asked to tell it for ever. */
static void test_bad_result(void)
{
    CLEANUP(json_free) json_t *document = NULL, *task = NULL;
    struct world x;

    one_server(&x, "{}");
    document = world_claim(&x, "dc1");
    is_int(world_finish(&x, document, "dc1", "succeeded", NULL, "{\"facts\":{\"disks\":[{\"name\":\"vda\"}]}}"), ERR_NONE, "bad facts are taken");
    task = world_task(&x, x.run, "db01", "prerequisites");
    is_str(json_get_string(task, "state", ""), "FAILED", "as a failure");
    ok(strstr(json_get_string(json_object_get(task, "error"), "message", ""), "disk"), "that says what is wrong: %s",
       json_get_string(json_object_get(task, "error"), "message", ""));
    world_close(&x);
}

/* A database that was copied away and put back knows nothing of what was given since, and takes nothing of it. */
static void test_restored(void)
{
    CLEANUP(json_free) json_t *before = NULL, *after = NULL;
    char path[64];
    CLEANUP(free_ptr) char *url = NULL;
    struct world x;
    struct err e = {0};

    if (world_url) /* only SQLite has a file to copy */
        return;
    snprintf(path, sizeof path, "/tmp/slipway-test-restored-%d.db", (int)getpid());
    unlink(path);
    url = xasprintf("sqlite:%s", path);
    one_server(&x, "{}");
    world_need(store_backup(x.store, path, &e), &e);
    before = world_claim(&x, "dc1");
    workflow_close(&x.w);
    store_close(&x.store);
    world_need(store_open(url, &x.store, &e), &e);
    world_open_workflow(&x);
    after = world_claim(&x, "dc2");
    is_int(fence_of(after), fence_of(before), "the same task is given under the same fence");
    ok(strcmp(json_get_string(after, "attempt", ""), json_get_string(before, "attempt", "")) != 0, "as another attempt");
    is_int(world_finish(&x, before, "dc1", "succeeded", NULL, NULL), ERR_CONFLICT, "the one from before the copy must stop");
    is_int(world_finish(&x, after, "dc2", "succeeded", NULL, NULL), ERR_NONE, "the one from after it counts");
    world_close(&x);
    unlink(path);
}

static int refuse_document(void *user, struct store_tx *tx, const struct workflow_claimed *what, json_t *document, struct err *e)
{
    (void)user, (void)tx, (void)document;
    return err_set(e, ERR_NOT_FOUND, "there is no credential \"%s-key\"", what->server);
}

static void test_no_document(void)
{
    CLEANUP(json_free) json_t *task = NULL;
    struct err e = {0};
    struct world x;

    one_server(&x, "{}");
    workflow_close(&x.w);
    world_need(workflow_open(&(struct workflow_settings){.store = x.store, .clock = &x.wall, .monotonic = &x.mono, .complete = refuse_document}, &x.w,
                             &e),
               &e);
    ok(!world_claim(&x, "dc1"), "a task whose document can't be made is not given");
    task = world_task(&x, x.run, "db01", "prerequisites");
    is_str(json_get_string(task, "state", ""), "FAILED", "it fails");
    ok(strstr(json_get_string(json_object_get(task, "error"), "message", ""), "db01-key"), "and says why");
    world_close(&x);
}

int main(int count, char **arguments)
{
    world_url = count > 1 ? arguments[1] : NULL;
    test_document();
    test_who_may_claim();
    test_beside();
    test_finish();
    test_retries();
    test_lost();
    test_clock_jumps();
    test_restart();
    test_time_limit();
    test_bad_reports();
    test_evidence();
    test_bad_result();
    test_host_key();
    test_restored();
    test_no_document();
    return tap_done();
}
