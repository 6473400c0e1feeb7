/* The steps at the target, run as the runner runs them, against a real local target with machines that boot in a second (target/probe_disk.h), and a
 * replicator of our own behind the control socket. */
#include "conformance/target/fixture.h"
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
    char unexported[64];
};

static json_t *answer_to(struct replicator *r, const json_t *request)
{
    const char *verb = json_get_string(request, "verb", "");
    char id[32];

    if (strcmp(verb, "point") == 0) {
        snprintf(id, sizeof id, "point-%d", ++r->points);
        return json_pack("{s:b, s:{s:s, s:s, s:s, s:s, s:i, s:[]}}", "ok", 1, "point", "id", id, "server", "web01", "at", "2026-11-24T21:00:00Z",
                         "consistency", "crash", "freeze_ms", 0, "disks");
    }
    if (strcmp(verb, "export") == 0) {
        r->exports++;
        return json_pack("{s:b, s:[{s:s, s:s, s:I}]}", "ok", 1, "disks", "id", "serial:vda", "nbd_uri", r->f->uri, "size_bytes", (json_int_t)PROBE_DISK_BYTES);
    }
    if (strcmp(verb, "unexport") == 0) {
        r->unexports++;
        snprintf(r->unexported, sizeof r->unexported, "%s", json_get_string(request, "point", ""));
        return json_pack("{s:b}", "ok", 1);
    }
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

static json_t *document(const struct fixture *f, const struct replicator *r, const char *step, const char *task, json_t *context)
{
    json_t *facts = json_pack("{s:s, s:i, s:I, s:[{s:s, s:s, s:I, s:s}], s:[{s:s, s:s, s:s}], s:[{s:s, s:i}], s:[], s:[{s:s, s:s, s:[s, s], s:s}]}", "boot", "bios",
                              "cpu_count", 1, "memory_bytes", (json_int_t)(128 << 20), "disks", "name", "vda", "id", "serial:vda", "size_bytes",
                              (json_int_t)PROBE_DISK_BYTES, "driver", "virtio_blk", "mounts", "source", "/dev/vda1", "target", "/", "fstype", "ext4",
                              "listening", "address", "0.0.0.0", "port", 80, "failed_units", "nics", "name", "enp0s2", "mac", "52:54:00:00:02:11", "addresses",
                              "fe80::1/64", "192.0.2.11/24", "gateway", "192.0.2.1");
    json_t *target = json_pack("{s:s, s:o}", "name", "local-qemu", "settings", fixture_settings(f));

    MUST(facts && target);
    return json_pack("{s:{s:s, s:s}, s:{s:s, s:s, s:{s:s, s:s, s:s}}, s:o, s:o, s:{s:{s:s}, s:o}, s:{s:{s:i}}, s:{s:s, s:s, s:s}}", "task", "id", task, "step", step,
                     "server", "name", "web01", "address", "192.0.2.11", "attributes", "cpu", "1", "memory_mib", "128", "target_network", "real", "facts", facts,
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
    does(execute(f, r, "stop_instance", "b1", cutover_context(true, true), false, NULL, &h, e), "the way back stops it");
    is_int(state_of(f, "web01-cutover"), TARGET_ABSENT, "it is gone");
    is_str(r->unexported, "point-77", "its export was taken back");
    is_int(r->thaws, 1, "and the source may move");
    does(execute(f, r, "stop_instance", "b1", cutover_context(true, true), false, NULL, &h, e), "stopping it again is success");
    ok(execute(f, r, "open_door", "c2", cutover_context(true, true), false, NULL, &h, &why) < 0 && why.kind == ERR_WRONG_STATE, "no door opens for what is not there");
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
    if (geteuid() != 0)
        return tap_done();
    MUST(fixture_begin(&f) == 0);
    replicator_begin(&r, &f);
    the_target_is_probed(&f, &r);
    a_test_comes_and_goes(&f, &r);
    a_machine_that_does_not_boot_fails(&f, &r);
    a_cutover_and_its_way_back(&f, &r);
    replicator_end(&r);
    fixture_end(&f);
    return tap_done();
}
