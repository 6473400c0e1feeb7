/* The steps at the target, run as the runner runs them, against a real local target with machines that boot in a second (target/probe_disk.h), and a
 * replicator of our own behind the control socket. */
#include "conformance/target/fixture.h"
#include "steps/home.h"
#include "steps/launch.h"
#include "steps/step_run.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

struct replicator {
    struct fixture *f;
    char path[96];
    int fd;
    pthread_t thread;
    int points, exports, unexports, thaws;
    int unreadable_bytes; /* of what is exported */
    char unexported[64];
    char pinned[64], unpinned[64], dropped[64]; /* the last */
    const char *rescue_point, *rescue_state;    /* of the source; NULL: it is in no rescue */
    int asked, unpinned_count;
    char copy_pinned[64]; /* a point of the launched machine */
    bool source_away, away; /* its agent; the replicator itself */
    const char *replication; /* more of the server's replication object; NULL: nothing */
    json_t *wanted;          /* the last point that was asked for */
    const char *disks_missing; /* JSON; NULL: it does not say */
};

static json_t *answer_to(struct replicator *r, const json_t *request)
{
    const char *verb = json_get_string(request, "verb", "");
    json_t *answer;
    char id[32];

    if (strcmp(verb, "point") == 0) {
        snprintf(id, sizeof id, "point-%d", ++r->points);
        json_decref(r->wanted);
        r->wanted = json_deep_copy(request);
        return json_pack("{s:b, s:{s:s, s:s, s:s, s:s, s:i, s:i, s:[{s:s}]}}", "ok", 1, "point", "id", id, "server", "web01", "at", "2026-11-24T21:00:00Z",
                         "consistency", "crash", "freeze_ms", 0, "unreadable_bytes", 0, "disks", "id", "serial:vda");
    }
    if (strcmp(verb, "export") == 0) {
        r->exports++;
        return json_pack("{s:b, s:{s:s, s:i, s:[{s:s, s:i, s:i}]}, s:[{s:s, s:s, s:I}]}", "ok", 1, "point", "id", json_get_string(request, "point", ""), "unreadable_bytes",
                         r->unreadable_bytes, "unreadable", "disk", "serial:vda", "first_sector", 2048, "sector_count", 1, "disks", "id", "serial:vda", "nbd_uri",
                         r->f->uri, "size_bytes", (json_int_t)PROBE_DISK_BYTES);
    }
    if (strcmp(verb, "unexport") == 0 && r->away)
        return json_pack("{s:b, s:{s:s, s:s}}", "ok", 0, "error", "kind", "unreachable", "message", "no replicator listens");
    if (strcmp(verb, "unexport") == 0) {
        r->unexports++;
        snprintf(r->unexported, sizeof r->unexported, "%s", json_get_string(request, "point", ""));
        return json_pack("{s:b}", "ok", 1);
    }
    if (strcmp(verb, "pin") == 0 || strcmp(verb, "unpin") == 0) {
        if (strcmp(json_get_string(request, "reason", ""), HOME_PIN) != 0)
            return json_pack("{s:b, s:{s:s, s:s}}", "ok", 0, "error", "kind", "invalid", "message", "another reason");
        snprintf(verb[0] == 'p' ? r->pinned : r->unpinned, sizeof r->pinned, "%s", json_get_string(request, "point", ""));
        r->unpinned_count += verb[0] == 'u';
        return json_pack("{s:b}", "ok", 1);
    }
    if (strcmp(verb, "points") == 0 && json_get_string(request, "point", NULL))
        return json_pack("{s:b, s:[{s:s, s:i}]}", "ok", 1, "points", "id", json_get_string(request, "point", ""), "unreadable_bytes", 0);
    if (strcmp(verb, "points") == 0 && strcmp(r->dropped, json_get_string(request, "server", "")) == 0)
        return json_pack("{s:b, s:[]}", "ok", 1, "points");
    if (strcmp(verb, "points") == 0)
        return json_pack("{s:b, s:[{s:s, s:[]}, {s:s, s:[s]}]}", "ok", 1, "points", "id", "point-91", "pins", "id", r->copy_pinned, "pins", "kept: " HOME_PIN);
    if (strcmp(verb, "usable") == 0 || strcmp(verb, "verify") == 0)
        return json_pack("{s:b}", "ok", 1);
    if (strcmp(verb, "drop") == 0) {
        snprintf(r->dropped, sizeof r->dropped, "%s", json_get_string(request, "server", ""));
        return json_pack("{s:b, s:i}", "ok", 1, "bytes_freed", 0);
    }
    if (strcmp(verb, "status") == 0) {
        if (++r->asked == 3 && r->rescue_state && strcmp(r->rescue_state, "restoring") == 0)
            r->rescue_state = "done";
        answer = json_pack("{s:b, s:[{s:s, s:s, s:I, s:I, s:o}]}", "ok", 1, "servers", "server", json_get_string(request, "server", ""), "state", "CONTINUOUS", "bytes_total",
                           (json_int_t)4096, "bytes_sent", (json_int_t)512, "rescue",
                           r->rescue_state ? json_pack("{s:s, s:s, s:s}", "point", r->rescue_point, "state", r->rescue_state, "message", "as it is") : json_null());
        if (r->replication)
            json_object_update_new(json_array_get(json_object_get(answer, "servers"), 0), json_loads(r->replication, 0, NULL));
        if (r->disks_missing)
            json_object_set_new(json_array_get(json_object_get(answer, "servers"), 0), "disks_missing", json_loads(r->disks_missing, 0, NULL));
        return answer;
    }
    if (strcmp(verb, "boot_rescued") == 0)
        return json_pack("{s:b, s:s}", "ok", 1, "point", r->rescue_point);
    if (strcmp(verb, "thaw") == 0 && r->source_away)
        return json_pack("{s:b, s:{s:s, s:s}}", "ok", 0, "error", "kind", "unreachable", "message", "its agent is not connected");
    if (strcmp(verb, "thaw") == 0) {
        r->thaws++;
        return json_pack("{s:b, s:b}", "ok", 1, "was_held", 1);
    }
    return json_pack("{s:b, s:{s:s, s:s}}", "ok", 0, "error", "kind", "unsupported", "message", verb);
}

static ssize_t read_line(int fd, char *line, size_t size)
{
    size_t used = 0;
    ssize_t got;

    while (used < size && (got = read(fd, line + used, size - used)) > 0) {
        used += (size_t)got;
        if (line[used - 1] == '\n')
            break;
    }
    return (ssize_t)used;
}

static void *serve(void *user)
{
    struct replicator *r = user;
    int fd;

    while ((fd = accept(r->fd, NULL, NULL)) >= 0) {
        char line[4096];
        ssize_t got = read_line(fd, line, sizeof line);
        CLEANUP(json_free) json_t *request = NULL, *answer = NULL;
        CLEANUP(free_ptr) char *text = NULL;

        if (got > 0 && json_read(line, (size_t)got, &request, NULL) == 0) {
            answer = answer_to(r, request);
            text = json_text(answer);
            fd_write_all(fd, text, strlen(text), NULL);
            fd_write_all(fd, "\n", 1, NULL);
        }
        close(fd);
    }
    return NULL;
}

static void replicator_begin(struct replicator *r, struct fixture *f)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *r = (struct replicator){.f = f};
    snprintf(r->path, sizeof r->path, "%s/control.sock", f->folder);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", r->path);
    r->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(bind(r->fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(r->fd, 4) == 0);
    MUST(pthread_create(&r->thread, NULL, serve, r) == 0);
}

static void replicator_end(struct replicator *r)
{
    shutdown(r->fd, SHUT_RDWR);
    pthread_join(r->thread, NULL);
    close(r->fd);
}

/* What the step said, for the test. */
struct heard {
    int evidence, failed, artifacts;
    char last_failed[512];
};

static void on_line(void *user, const json_t *line)
{
    struct heard *h = user;
    const json_t *evidence = json_object_get(line, "evidence");

    if (!evidence)
        return;
    h->evidence++;
    tap_note("  %s %s: %s", json_get_bool(evidence, "passed", false) ? "+" : "-", json_get_string(evidence, "name", ""), json_get_string(evidence, "evidence", ""));
    if (!json_get_bool(evidence, "passed", false)) {
        h->failed++;
        snprintf(h->last_failed, sizeof h->last_failed, "%s", json_get_string(evidence, "evidence", ""));
    }
}

static int on_artifact(void *user, const char *name, const char *media_type, const char *path, struct err *e)
{
    struct heard *h = user;

    tap_note("  %s (%s)", name, media_type);
    h->artifacts++;
    return file_exists(path) ? 0 : err_set(e, ERR_NOT_FOUND, "no artifact");
}

static const char *params; /* of the task; NULL: none */
static const char *accept_unreadable; /* the server's attribute; NULL: it has none */

static json_t *document(const struct fixture *f, const struct replicator *r, const char *step, const char *task, json_t *context)
{
    json_t *facts = json_pack("{s:s, s:i, s:I, s:[{s:s, s:s, s:I, s:s}], s:[{s:s, s:s, s:s}], s:[{s:s, s:i}], s:[], s:[{s:s, s:s, s:[s, s], s:s}]}", "boot", "bios",
                              "cpu_count", 1, "memory_bytes", (json_int_t)(128 << 20), "disks", "name", "vda", "id", "serial:vda", "size_bytes",
                              (json_int_t)PROBE_DISK_BYTES, "driver", "virtio_blk", "mounts", "source", "/dev/vda1", "target", "/", "fstype", "ext4",
                              "listening", "address", "0.0.0.0", "port", 80, "failed_units", "nics", "name", "enp0s2", "mac", "52:54:00:00:02:11", "addresses",
                              "fe80::1/64", "192.0.2.11/24", "gateway", "192.0.2.1");
    json_t *target = json_pack("{s:s, s:o}", "name", "local-qemu", "settings", fixture_settings(f));
    json_t *accepted = accept_unreadable ? json_string(accept_unreadable) : NULL;

    MUST(facts && target);
    return json_pack("{s:{s:s, s:s}, s:{s:s, s:s, s:{s:s, s:s, s:s, s:o*}}, s:o, s:o, s:{s:{s:s}, s:o}, s:{s:{s:i}}, s:{s:s, s:s, s:s}}", "task", "id", task, "step", step,
                     "server", "name", "web01", "address", "192.0.2.11", "attributes", "cpu", "1", "memory_mib", "128", "target_network", "real", "accept_unreadable", accepted, "facts", facts,
                     "context", context, "settings", "replicator", "control_socket", r->path, "target", target, "wave", "settings", "right_size_measure_s", 6,
                     "credential", "kind", "ssh_password", "user", "root", "secret", "x");
}

/* Runs one step; its result in *result (borrowed from a list that lives on). */
static int execute(const struct fixture *f, const struct replicator *r, const char *step, const char *task, json_t *context, bool undo, json_t **result,
                   struct heard *h, struct err *e)
{
    struct step_sink sink = {.line = on_line, .artifact = on_artifact, .user = h};
    CLEANUP(step_free) struct step *s = NULL;
    json_t *d = document(f, r, step, task, context ? context : json_object());
    int answer;

    MUST(d);
    if (params)
        json_object_set_new(json_object_get(d, "task"), "params", json_loads(params, 0, NULL));
    if (undo)
        json_object_set_new(d, "undo", json_true());
    *h = (struct heard){0};
    s = step_new(d, f->folder, f->folder, &sink);
    tap_note("%s%s", undo ? "undo " : "", step);
    answer = step_execute(s, e);
    if (result)
        *result = json_deep_copy(step_results(s));
    if (answer < 0 && e)
        tap_note("  %s: %s", err_meaning(e->kind)->name, e->message);
    return answer;
}

static enum target_state state_of(const struct fixture *f, const char *instance)
{
    const struct target_api *api = target_find("local-qemu");
    CLEANUP(json_free) json_t *settings = fixture_settings(f);
    enum target_state state = TARGET_FAILED;
    struct target *t = NULL;

    MUST(api->open(settings, &t, NULL) == 0 && api->state(t, instance, &state, NULL) == 0);
    api->close(t);
    return state;
}

static void a_test_comes_and_goes(struct fixture *f, struct replicator *r)
{
    CLEANUP(json_free) json_t *result = NULL, *again = NULL, *third = NULL;
    struct heard h;

    does(execute(f, r, "validate_launch", "t0", NULL, false, NULL, &h, e), "the launch settings are judged");
    ok(h.evidence >= 6 && h.failed == 0, "with %d lines", h.evidence);
    does(execute(f, r, "launch_test", "t1", NULL, false, &result, &h, e), "a test instance is launched");
    is_str(json_get_string(result, "instance", NULL), "web01-test", "its name is a result");
    is_str(json_get_string(result, "point", NULL), "point-1", "and the point");
    ok(json_is_array(json_object_get(result, "mends")) && json_array_size(json_object_get(result, "mends")) == 0, "it needed no mend");
    ok(json_get_string(result, "accelerator", NULL) != NULL, "what it runs on is a result");
    is_int(state_of(f, "web01-test"), TARGET_RUNNING, "it runs");
    does(execute(f, r, "launch_test", "t1", NULL, false, &again, &h, e), "an attempt after a killed one finds it");
    is_str(json_get_string(again, "point", NULL), "point-1", "with the same point");
    is_int(r->points, 1, "no second one was taken");
    does(execute(f, r, "launch_test", "t9", NULL, false, &third, &h, e), "another task's launch takes its place");
    is_str(json_get_string(third, "point", NULL), "point-2", "from a point of its own");
    refuses(execute(f, r, "boot_test", "t2", NULL, false, NULL, &h, e), ERR_INVALID, "a boot test without a launch is refused");
    does(execute(f, r, "terminate_test", "t3", NULL, false, NULL, &h, e), "it is removed");
    is_int(state_of(f, "web01-test"), TARGET_ABSENT, "and gone");
    is_str(r->unexported, "point-2", "its export was taken back");
    does(execute(f, r, "terminate_test", "t3", NULL, false, NULL, &h, e), "removing it again is success");
}

static void a_machine_that_does_not_boot_fails(struct fixture *f, struct replicator *r)
{
    CLEANUP(json_free) json_t *result = NULL;
    struct heard h;
    struct err why = {0};

    does(execute(f, r, "launch_test", "t4", NULL, false, &result, &h, e), "a machine without an operating system is launched");
    does(execute(f, r, "launch_test", "t4", NULL, true, NULL, &h, e), "its launch is undone");
    is_int(state_of(f, "web01-test"), TARGET_ABSENT, "it is gone");
    ok(execute(f, r, "boot_test", "t5", json_pack("{s:{s:s}}", "launch_test", "instance", "web01-test"), false, NULL, &h, &why) < 0 && why.kind == ERR_WRONG_STATE,
       "its boot test fails at once: it is not there");
    ok(h.failed > 0, "with lines that say so");
}

static json_t *cutover_context(bool parked, bool agent_off)
{
    return json_pack("{s:{s:b, s:s}, s:{s:s}, s:{s:s}, s:{s:b}}", "quiesce", "parked", parked, "parking_address", "192.0.2.211", "final_sync", "point", "point-77",
                     "launch_cutover", "instance", "web01-cutover", "verify_cutover", "agent_off", agent_off);
}

static void a_point_that_lacks_sectors(struct fixture *f, struct replicator *r)
{
    struct heard h;
    int taken = r->points;

    r->unreadable_bytes = 512;
    refuses(execute(f, r, "launch_test", "t6", NULL, false, NULL, &h, e), ERR_WRONG_STATE, "a point that lacks a sector is not launched");
    ok(strstr(h.last_failed, "512 bytes") && strstr(h.last_failed, "disk serial:vda, sectors 2048 to 2048"), "and the evidence says which: %s", h.last_failed);
    is_int(state_of(f, "web01-test"), TARGET_ABSENT, "nothing runs");
    refuses(execute(f, r, "launch_cutover", "c0", cutover_context(true, true), false, NULL, &h, e), ERR_WRONG_STATE, "nor as a cutover");
    accept_unreadable = "a page of an old log";
    does(execute(f, r, "launch_test", "t6", NULL, false, NULL, &h, e), "with a reason it is");
    ok(h.failed == 0 && r->points == taken + 2, "from a point of its own");
    does(execute(f, r, "launch_test", "t6", NULL, true, NULL, &h, e), "and it is removed");
    accept_unreadable = NULL;
    r->unreadable_bytes = 0;
}

static void a_disk_that_is_missing(struct fixture *f, struct replicator *r)
{
    struct heard h;
    int taken = r->points;

    r->disks_missing = "[{\"id\":\"gpt:0123\",\"size_bytes\":4096,\"since\":\"2026-11-24T21:00:00Z\"}]";
    refuses(execute(f, r, "verify_replication", "m0", NULL, false, NULL, &h, e), ERR_WRONG_STATE, "a server one of whose disks is missing is not verified");
    ok(strstr(h.last_failed, "gpt:0123 (4096 bytes, since 2026-11-24T21:00:00Z)"), "and the evidence says which: %s", h.last_failed);
    refuses(execute(f, r, "final_sync", "m1", NULL, false, NULL, &h, e), ERR_WRONG_STATE, "no cutover point is taken of it");
    r->disks_missing = NULL;
    refuses(execute(f, r, "verify_replication", "m0", NULL, false, NULL, &h, e), ERR_INVALID, "nor is one of which it is not said");
    refuses(execute(f, r, "final_sync", "m1", NULL, false, NULL, &h, e), ERR_INVALID, "nor a point of that");
    is_int(r->points, taken, "none was asked for");
    r->disks_missing = "[]";
    does(execute(f, r, "final_sync", "m1", NULL, false, NULL, &h, e), "where none is missing it is asked for");
    is_int(r->points, taken + 1, "once");
}

static void a_cutover_and_its_way_back(struct fixture *f, struct replicator *r)
{
    CLEANUP(json_free) json_t *result = NULL, *sized = NULL;
    struct heard h;
    struct err why = {0};

    refuses(execute(f, r, "launch_cutover", "c1", NULL, false, NULL, &h, e), ERR_INVALID, "without a cutover point nothing is launched");
    does(execute(f, r, "launch_cutover", "c1", cutover_context(true, true), false, &result, &h, e), "a cutover instance is launched");
    is_str(json_get_string(result, "point", NULL), "point-77", "from the cutover point");
    refuses(execute(f, r, "open_door", "c2", cutover_context(false, true), false, NULL, &h, e), ERR_WRONG_STATE, "the door stays shut while the source is not parked");
    refuses(execute(f, r, "open_door", "c2", json_object(), false, NULL, &h, e), ERR_WRONG_STATE, "or nobody knows whether it is");
    does(execute(f, r, "right_size", "c3", cutover_context(true, true), false, &sized, &h, e), "its use is measured, and it is filled in");
    is_int(json_get_int(sized, "filled_bytes", 0), PROBE_DISK_BYTES, "to the last byte");
    is_int(json_array_size(json_object_get(sized, "advice")), 2, "with advice on CPUs and memory");
    r->source_away = r->away = true;
    r->unexported[0] = '\0';
    params = "{\"wait_ms\":100}";
    does(execute(f, r, "stop_instance", "b1", cutover_context(true, true), false, NULL, &h, e), "the way back stops it, though the replicator is away");
    is_int(state_of(f, "web01-cutover"), TARGET_ABSENT, "it is gone");
    is_str(r->unexported, "", "its export stays for now");
    r->source_away = r->away = false;
    does(execute(f, r, "stop_instance", "b1", cutover_context(true, true), false, NULL, &h, e), "stopping it again is success");
    is_str(r->unexported, "point-77", "and its export was taken back");
    is_int(r->thaws, 1, "and the source may move");
    r->source_away = true;
    does(execute(f, r, "stop_instance", "b1", cutover_context(true, true), false, NULL, &h, e), "where the source's agent is away, the way back goes on");
    r->source_away = false;
    params = NULL;
    ok(execute(f, r, "open_door", "c2", cutover_context(true, true), false, NULL, &h, &why) < 0 && why.kind == ERR_WRONG_STATE, "no door opens for what is not there");
}

static json_t *home_context(const char *mends)
{
    json_t *context = json_pack("{s:{s:s}, s:{s:s, s:o}, s:{s:s}, s:{s:s}}", "final_sync", "point", "point-77", "launch_cutover", "instance", "web01-cutover", "mends",
                                json_loads(mends, 0, NULL), "keep_source", "point", "point-77", "last_change", "point", "point-90");

    MUST(context);
    return context;
}

/* The tasks of the way home that need no login at the launched machine. */
static void a_way_home(struct fixture *f, struct replicator *r)
{
    CLEANUP(json_free) json_t *result = NULL, *synced = NULL;
    struct heard h;

    does(execute(f, r, "launch_cutover", "h0", cutover_context(true, true), false, NULL, &h, e), "a cutover instance is launched");
    refuses(execute(f, r, "keep_source", "h1", json_object(), false, NULL, &h, e), ERR_INVALID, "what the source was is not known");
    refuses(execute(f, r, "keep_source", "h1", home_context("[\"drivers\"]"), false, NULL, &h, e), ERR_WRONG_STATE, "disks that were mended for the target do not go home");
    ok(strstr(h.last_failed, "1 on the launched") && !*r->pinned, "and nothing was done: %s", h.last_failed);
    r->source_away = true;
    does(execute(f, r, "keep_source", "h1", home_context("[]"), false, &result, &h, e), "what the source was is kept, wherever its agent is");
    is_str(r->pinned, "point-77", "its point at the cutover is pinned");
    is_str(json_get_string(result, "point", NULL), "point-77", "and a result");
    r->source_away = false;
    does(execute(f, r, "sync_copy", "h2", home_context("[]"), false, &synced, &h, e), "the launched machine is in step");
    is_str(r->pinned, json_get_string(synced, "point", "?"), "its first point is pinned, too");
    memcpy(r->copy_pinned, r->pinned, sizeof r->pinned);
    r->rescue_point = "point-89";
    r->rescue_state = "done"; /* of an earlier way home */
    refuses(execute(f, r, "boot_source", "h3", home_context("[]"), false, NULL, &h, e), ERR_CORRUPT, "a source that has restored another point does not boot");
    r->rescue_point = "point-90";
    r->rescue_state = "restoring";
    r->asked = 0;
    does(execute(f, r, "restore_disks", "h3", home_context("[]"), false, NULL, &h, e), "the source's disks are restored");
    ok(r->asked >= 3, "it was waited for: %d looks", r->asked);
    r->rescue_state = "dancing";
    refuses(execute(f, r, "restore_disks", "h3", home_context("[]"), false, NULL, &h, e), ERR_PROTOCOL, "what nobody knows is no success");
    r->rescue_state = "done";
    is_int(state_of(f, "web01-cutover"), TARGET_RUNNING, "the launched machine runs until then");
    params = "{\"keep\":true}";
    r->thaws = 0;
    does(execute(f, r, "stop_instance", "h4", home_context("[]"), false, NULL, &h, e), "then it is stopped");
    is_int(state_of(f, "web01-cutover"), TARGET_STOPPED, "with its disks kept");
    does(execute(f, r, "stop_instance", "h4", home_context("[]"), false, NULL, &h, e), "stopping it again is success");
    is_int(r->thaws, 0, "the source's agent, which is gone, is told nothing");
    params = NULL;
    does(execute(f, r, "boot_source", "h5", home_context("[]"), false, NULL, &h, e), "the source may boot");
    does(execute(f, r, "let_go", "h6", home_context("[]"), false, NULL, &h, e), "what was kept goes when it was accepted");
    is_int(state_of(f, "web01-cutover"), TARGET_ABSENT, "the launched machine");
    is_str(r->dropped, "web01~copy", "its points, and not the source's");
    is_str(r->unpinned, "point-77", "and the pin");
    is_int(r->unpinned_count, 2, "and that of the launched machine's");
    does(execute(f, r, "let_go", "h6", home_context("[]"), false, NULL, &h, e), "again is success");
    does(execute(f, r, "drop_staged", "h7", json_pack("{s:{s:s}, s:{s:b}}", "final_sync", "point", "point-77", "right_size", "filled", 1), false, NULL, &h, e),
         "what a way home that was called off has kept does not keep staged data from being dropped");
    is_int(r->unpinned_count, 4, "its pin ended");
}

/* The launched machine's disks, as its agent finds them, are known by the serial numbers that the target gave them, or by an identity that came along. */
static void whose_disks(void)
{
    static const struct {
        const char *what, *found;
        bool fits;
    } rows[] = {
        {"by serial number and table", "[{\"id\":\"serial:root\",\"name\":\"vda\",\"size_bytes\":4096},{\"id\":\"gpt:00ff\",\"name\":\"vdb\",\"size_bytes\":8192}]", true},
        {"in another order", "[{\"id\":\"gpt:00ff\",\"name\":\"vda\",\"size_bytes\":8192},{\"id\":\"serial:root\",\"name\":\"vdb\",\"size_bytes\":4096}]", true},
        {"a disk too few", "[{\"id\":\"serial:root\",\"name\":\"vda\",\"size_bytes\":4096}]", false},
        {"a disk too many", "[{\"id\":\"serial:root\",\"size_bytes\":4096},{\"id\":\"gpt:00ff\",\"size_bytes\":8192},{\"id\":\"gpt:11\",\"size_bytes\":8192}]", false},
        {"one twice", "[{\"id\":\"serial:root\",\"size_bytes\":4096},{\"id\":\"serial:root\",\"size_bytes\":4096}]", false},
        {"another size", "[{\"id\":\"serial:root\",\"size_bytes\":4096},{\"id\":\"gpt:00ff\",\"size_bytes\":8193}]", false},
        {"a stranger", "[{\"id\":\"serial:root\",\"size_bytes\":4096},{\"id\":\"serial:boot\",\"size_bytes\":8192}]", false},
    };
    struct launch l = {.api = target_find("local-qemu"), .spec = {.disk_count = 2, .disks = {{.id = "serial:root", .size_bytes = 4096}, {.id = "gpt:00ff", .size_bytes = 8192}}}};
    struct launch placed = {.api = l.api, .spec = {.disk_count = 2, .disks = {{.id = "path:pci0/0:0:1:0", .size_bytes = 4096}, {.id = "wwid:t10.X_very_long_indeed_0001", .size_bytes = 4096}}}};
    CLEANUP(json_free) json_t *ids = NULL, *found = NULL, *wrong = NULL, *none = NULL;
    char serials[2][TARGET_SERIAL_SIZE];

    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        CLEANUP(json_free) json_t *disks = json_loads(rows[i].found, 0, NULL), *made = NULL;
        struct err e = {0};

        MUST(disks);
        made = home_disk_ids(&l, disks, &e);
        ok((made != NULL) == rows[i].fits, "%s: %s", rows[i].what, made ? "each is known" : e.message);
        ok(!made || strcmp(json_get_string(made, "gpt:00ff", ""), "gpt:00ff") == 0, "as itself");
    }
    for (int i = 0; i < 2; i++)
        l.api->disk_serial(placed.spec.disks[i].id, serials[i]);
    ok(strlen(serials[0]) <= 20 && strlen(serials[1]) <= 20, "what does not fit into a serial number is cut: %s, %s", serials[0], serials[1]);
    found = json_pack("[{s:s+, s:i}, {s:s+, s:i}]", "id", "serial:", serials[1], "size_bytes", 4096, "id", "wwid:0QEMU_QEMU_HARDDISK_", serials[0], "size_bytes", 4096);
    ids = home_disk_ids(&placed, found, NULL);
    ok(ids && json_object_size(ids) == 2, "places and WWIDs are known by the serial numbers that stand for them");
    wrong = json_pack("[{s:s, s:i}, {s:s+, s:i}]", "id", "path:pci0/0:0:1:0", "size_bytes", 4096, "id", "serial:", serials[1], "size_bytes", 4096);
    none = home_disk_ids(&placed, wrong, &(struct err){0});
    ok(!none, "a place in another machine is nobody's identity");
    l.api->disk_serial("wwid:t10.X_very_long_indeed_0002", serials[0]);
    ok(strcmp(serials[0], serials[1]) != 0, "two that begin alike are two: %s, %s", serials[0], serials[1]);
}

#define RESCANNED(allowed, more) \
    "{\"connected\":true, \"tracker\":\"rescan\", \"bytes_total\":103079215104, \"lag_ms\":900000, \"rescan\":{\"reason\":\"it is old\", \"interval_ms\":300000, \"reading_ms\":720000}," \
    "\"settings\":{\"rescan_freeze_ms\":" allowed "}" more "}"

/* A server whose changes can't be followed pays for a point with its own time: not without its owner's word, but then all can be done that is to be done. */
static void a_source_that_stands_still(struct fixture *f, struct replicator *r)
{
    CLEANUP(json_free) json_t *result = NULL, *again = NULL;
    struct heard h;
    int taken = r->points;

    r->disks_missing = "[]";
    r->replication = RESCANNED("0", "");
    refuses(execute(f, r, "launch_test", "s1", NULL, false, NULL, &h, e), ERR_WRONG_STATE, "a test launch that would hold its source still is refused");
    ok(strstr(h.last_failed, "96.0 GiB are read while it stands still, about 12 min") && strstr(h.last_failed, "nobody has allowed it"), "and the evidence says what it would cost: %s",
       h.last_failed);
    refuses(execute(f, r, "verify_replication", "s2", NULL, false, NULL, &h, e), ERR_WRONG_STATE, "so is verifying where there is no fresh point");
    is_int(r->points, taken, "none was taken");
    r->replication = RESCANNED("900000", "");
    does(execute(f, r, "launch_test", "s3", NULL, false, NULL, &h, e), "where it is allowed it is launched");
    ok(h.failed == 0 && r->points == taken + 1 && strcmp(json_get_string(r->wanted, "consistency", ""), "frozen") == 0 && !json_get_bool(r->wanted, "hold", true),
       "from a point that lets the source go again");
    is_int(json_get_int(r->wanted, "timeout_ms", 0), 660000 + 900000 + 2 * 720000, "which is waited for as long as it may take");
    does(execute(f, r, "launch_test", "s3", NULL, true, NULL, &h, e), "and it is removed");
    does(execute(f, r, "verify_replication", "s4", NULL, false, &result, &h, e), "its replication is verified, though its copy is 15 minutes old");
    ok(h.failed == 0 && r->points == taken + 2 && json_get_string(result, "point", NULL), "with a point that was taken for it");
    r->replication = RESCANNED("0", ", \"newest_point\":\"point-7\", \"newest_point_age_ms\":1000");
    does(execute(f, r, "verify_replication", "s5", NULL, false, &again, &h, e), "where a fresh one is there");
    ok(r->points == taken + 2 && strcmp(json_get_string(again, "point", ""), "point-7") == 0, "that one is taken");
    does(execute(f, r, "final_sync", "s6", NULL, false, NULL, &h, e), "a cutover needs no leave of its own");
    ok(json_get_bool(r->wanted, "hold", false) && json_get_int(r->wanted, "hold_limit_ms", 0) == 1800000 + 3 * 720000 && json_get_int(r->wanted, "timeout_ms", 0) == 3600000 + 3 * 720000,
       "and holds its source for as long as reading it and comparing it may take");
    r->replication = NULL;
    does(execute(f, r, "final_sync", "s7", NULL, false, NULL, &h, e), "of another server");
    ok(json_get_int(r->wanted, "hold_limit_ms", -1) == 0 && json_get_int(r->wanted, "timeout_ms", 0) == 3600000, "that is the agent's own matter");
}

static void the_target_is_probed(struct fixture *f, struct replicator *r)
{
    CLEANUP(json_free) json_t *result = NULL;
    struct heard h;

    does(execute(f, r, "target_probe", "p1", NULL, false, &result, &h, e), "a probe machine is launched and removed");
    ok(h.failed == 0 && h.evidence >= 10 && h.artifacts == 1, "with %d lines and its screen", h.evidence);
    is_int(state_of(f, "slipway-probe"), TARGET_ABSENT, "nothing is left");
}

static void names(void)
{
    char name[48], other[48];

    launch_name("web01", LAUNCH_TEST, name);
    is_str(name, "web01-test", "a plain name stays");
    launch_name("Web_01", LAUNCH_CUTOVER, name);
    launch_name("web_01", LAUNCH_CUTOVER, other);
    ok(strcmp(name, other) != 0 && strncmp(name, "webx01-", 7) == 0 && strlen(name) <= 40, "others are made plain, and stay apart: %s, %s", name, other);
    launch_name("a-server-with-a-very-long-name.of-some-domain.example.org", LAUNCH_CUTOVER, name);
    ok(strlen(name) <= 40, "long ones are cut: %s", name);
}

int main(void)
{
    struct fixture f;
    struct replicator r;

    signal(SIGPIPE, SIG_IGN); /* as the programs do */
    names();
    whose_disks();
    if (geteuid() != 0)
        return tap_done();
    MUST(fixture_begin(&f) == 0);
    replicator_begin(&r, &f);
    the_target_is_probed(&f, &r);
    a_test_comes_and_goes(&f, &r);
    a_machine_that_does_not_boot_fails(&f, &r);
    a_point_that_lacks_sectors(&f, &r);
    a_source_that_stands_still(&f, &r);
    a_disk_that_is_missing(&f, &r);
    a_cutover_and_its_way_back(&f, &r);
    a_way_home(&f, &r);
    replicator_end(&r);
    json_decref(r.wanted);
    fixture_end(&f);
    return tap_done();
}
