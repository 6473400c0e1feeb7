/* The steps at the target against a real machine: the demo's web01, where its image has been built (demo.d/world); skipped elsewhere. Its facts are read
 * from its first copy; then copies are tested, cut over, opened, measured and removed. */
#include "conformance/target/fixture.h"
#include "remote/remote.h"
#include "steps/facts.h"
#include "steps/launch.h"
#include "steps/scripts.h"
#include "steps/step_run.h"

#include <glob.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static struct {
    struct fixture f;
    char images[256], sockets[2][128], host_key[REMOTE_HOST_KEY_SIZE];
    int64_t sizes[2];
    struct buf key;
    json_t *facts;
    int control_fd;
    pthread_t thread;
} world;

static bool find_images(void)
{
    char pattern[256];
    struct stat about;
    glob_t found;

    snprintf(pattern, sizeof pattern, "%s/.cache/slipway-demo/images-*/web01-root.raw", getenv("HOME") ? getenv("HOME") : "/root");
    if (glob(pattern, 0, NULL, &found) != 0)
        return false;
    snprintf(world.images, sizeof world.images, "%.*s", (int)(strrchr(found.gl_pathv[0], '/') - found.gl_pathv[0]), found.gl_pathv[0]);
    globfree(&found);
    for (int i = 0; i < 2; i++) {
        snprintf(pattern, sizeof pattern, "%.200s/web01-%s.raw", world.images, i ? "data" : "root");
        if (stat(pattern, &about) < 0)
            return false;
        world.sizes[i] = about.st_size;
    }
    snprintf(pattern, sizeof pattern, "%.200s/key", world.images);
    return file_read(pattern, 65536, &world.key, NULL) == 0;
}

static void *serve(void *unused)
{
    int fd;

    (void)unused;
    while ((fd = accept(world.control_fd, NULL, NULL)) >= 0) {
        char line[4096];
        size_t used = 0;
        ssize_t got;
        CLEANUP(json_free) json_t *answer = json_pack(
            "{s:b, s:{s:s, s:s, s:s, s:i}, s:[{s:s, s:s+, s:I}, {s:s, s:s+, s:I}]}", "ok", 1, "point", "id", "p1", "at", "now", "consistency", "crash", "freeze_ms", 0, "disks",
            "id", "serial:web01-root", "nbd_uri", "nbd+unix:///point?socket=", world.sockets[0], "size_bytes", (json_int_t)world.sizes[0],
            "id", "serial:web01-data", "nbd_uri", "nbd+unix:///point?socket=", world.sockets[1], "size_bytes", (json_int_t)world.sizes[1]);
        CLEANUP(free_ptr) char *text = json_text(answer);

        while (used < sizeof line && (got = read(fd, line + used, sizeof line - used)) > 0 && line[(used += (size_t)got) - 1] != '\n')
            ;
        fd_write_all(fd, text, strlen(text), NULL);
        fd_write_all(fd, "\n", 1, NULL);
        close(fd);
    }
    return NULL;
}

static void on_line(void *user, const json_t *line)
{
    const json_t *evidence = json_object_get(line, "evidence");

    (void)user;
    if (evidence) {
        tap_note("  %s %s: %s", json_get_bool(evidence, "passed", false) ? "+" : "-", json_get_string(evidence, "name", ""), json_get_string(evidence, "evidence", ""));
        fflush(stdout);
    }
}

static json_t *first_facts(void)
{
    return json_pack("{s:s, s:i, s:I, s:[{s:s,s:s,s:b,s:s}, {s:s,s:s,s:b,s:s}], s:[{s:s,s:s,s:s}], s:[], s:[], s:[{s:s,s:s,s:[s],s:s}]}", "boot", "bios", "cpu_count", 2, "memory_bytes",
                     (json_int_t)768 << 20, "disks", "name", "vda", "id", "serial:web01-root", "in_use", 1, "driver", "virtio_blk", "name", "vdb", "id", "serial:web01-data", "in_use", 1, "driver", "virtio_blk", "mounts",
                     "source", "/dev/vda1", "target", "/", "fstype", "ext4", "listening", "failed_units", "nics", "name", "enp0s5", "mac", "52:54:00:00:02:0b", "addresses",
                     "192.0.2.11/24", "gateway", "192.0.2.1");
}

static int execute(const char *step, const char *task, json_t *facts, json_t **result, struct err *e)
{
    struct step_sink sink = {.line = on_line};
    CLEANUP(step_free) struct step *s = NULL;
    char control[128];
    json_t *document;
    int64_t began_us = clock_monotonic_us();
    int answer;

    snprintf(control, sizeof control, "%s/control.sock", world.f.folder);
    document = json_pack(
        "{s:{s:s,s:s}, s:{s:s,s:s,s:{s:s,s:s}}, s:O, s:{s:{s:b,s:s}, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}}, s:{s:{s:s}, s:{s:s,s:o}}, s:{s:{s:i,s:i}}, s:{s:s,s:s,s:s,s:s}}",
        "task", "id", task, "step", step, "server", "name", "web01", "address", "192.0.2.11", "attributes", "target_network", "real", "checks",
        "http://192.0.2.11:80/ contains web01; command systemctl is-active nginx", "facts", facts, "context", "quiesce", "parked", 1, "parking_address", "192.0.2.211",
        "final_sync", "point", "p2", "launch_test", "instance", "web01-test", "launch_cutover", "instance", "web01-cutover", "prerequisites", "host_key", world.host_key,
        "settings", "replicator", "control_socket", control, "target", "name", "local-qemu", "settings", fixture_settings(&world.f), "wave", "settings",
        "right_size_measure_s", 10, "services_s", 30, "credential", "kind", "ssh_key", "user", "migrate", "secret", world.key.data, "sudo", "nopasswd");
    MUST(document);
    s = step_new(document, world.f.folder, world.f.folder, &sink);
    tap_note("%s", step);
    answer = step_execute(s, e);
    tap_note("  %s after %.1f s%s%s", answer < 0 ? "failed" : "done", (double)(clock_monotonic_us() - began_us) / 1e6, answer < 0 ? ": " : "", answer < 0 ? e->message : "");
    if (result)
        *result = json_deep_copy(step_results(s));
    return answer;
}

/* Logs in at the first copy, pins its host key, and takes its facts for the source's. */
static int read_facts(void)
{
    const struct target_api *api = target_find("local-qemu");
    CLEANUP(json_free) json_t *settings = fixture_settings(&world.f), *seen = NULL;
    CLEANUP(buf_release) struct buf out = {0};
    CLEANUP(remote_close) struct remote *r = NULL;
    int64_t until_us = clock_monotonic_us() + 300 * US_PER_S;
    struct target *t = NULL;
    struct err e = {0};
    int result = -1;

    MUST(api->open(settings, &t, NULL) == 0);
    while (!r && clock_monotonic_us() < until_us) {
        int fd = api->connect(t, "web01-test", "192.0.2.11", 22, 5000, &e);
        struct remote_options o = {.fd = fd, .address = "192.0.2.11", .user = "migrate", .private_key = world.key.data, .sudo = REMOTE_SUDO_NOPASSWD, .accept_unknown = true};

        if (fd < 0 || remote_open(&o, &r, &e) < 0)
            clock_sleep_us(US_PER_S);
    }
    if (r) {
        snprintf(world.host_key, sizeof world.host_key, "%s", remote_host_key(r));
        clock_sleep_us(5 * US_PER_S); /* its services */
        result = remote_must_root(r, "sh -s -- '' '' '' ''", script_facts, strlen(script_facts), &out, 60000, &e);
        if (result == 0)
            result = facts_parse(out.data, out.size_bytes, &world.facts, &seen, &e);
    }
    if (result < 0)
        tap_note("%s", e.message);
    api->close(t);
    return result;
}

static void copies_are_tested(void)
{
    CLEANUP(json_free) json_t *facts = first_facts(), *wrong = NULL;
    struct err why = {0};

    does(execute("launch_test", "t1", facts, NULL, e), "a copy is launched");
    if (!ok(read_facts() == 0, "its facts are read"))
        return;
    does(execute("boot_test", "t2", world.facts, NULL, e), "it passes its boot-up test");
    wrong = json_deep_copy(world.facts);
    json_array_append_new(json_object_get(wrong, "mounts"), json_pack("{s:s,s:s,s:s}", "source", "/dev/vdc1", "target", "/srv/lost", "fstype", "ext4"));
    json_array_append_new(json_object_get(wrong, "listening"), json_pack("{s:s,s:i}", "address", "0.0.0.0", "port", 4711));
    ok(execute("boot_test", "t3", wrong, NULL, &why) < 0 && why.kind == ERR_WRONG_STATE && strstr(why.message, "mounts") && strstr(why.message, "ports"),
       "a copy that lacks a mount and a port fails it");
    does(execute("terminate_test", "t4", world.facts, NULL, e), "it is removed");
}

static void a_copy_takes_over(void)
{
    CLEANUP(json_free) json_t *opened = NULL;

    does(execute("launch_cutover", "c1", world.facts, NULL, e), "the cutover instance is launched");
    does(execute("verify_cutover", "c2", world.facts, NULL, e), "it is verified");
    ok(shell("! ip netns exec %s curl -s -m 2 http://192.0.2.11/ >/dev/null", world.f.netns) == 0, "behind its door nobody reaches it");
    does(execute("open_door", "c3", world.facts, &opened, e), "its door opens");
    ok(shell("ip netns exec %s curl -s -m 2 http://192.0.2.11/ | grep -q web01", world.f.netns) == 0, "a client reaches it");
    ok(shell("ip netns exec %s ip neigh flush all; ip netns exec %s ping -q -c 3 -i 0.2 -W 1 192.0.2.11 >/dev/null", world.f.netns, world.f.netns) == 0, "again and again");
    does(execute("open_door", "c3", world.facts, NULL, e), "opening it again is success");
    does(execute("right_size", "c4", world.facts, NULL, e), "it is measured and filled in");
    does(execute("stop_instance", "c5", world.facts, NULL, e), "and taken away");
    ok(shell("! ip netns exec %s curl -s -m 2 http://192.0.2.11/ >/dev/null", world.f.netns) == 0, "nobody answers any more");
}

int main(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    signal(SIGPIPE, SIG_IGN);
    if (geteuid() != 0 || !find_images()) {
        printf("1..0 # SKIP needs root, and web01's image as demo.d/world builds it\n");
        return 0;
    }
    MUST(fixture_begin(&world.f) == 0);
    for (int i = 0; i < 2; i++) {
        snprintf(world.sockets[i], sizeof world.sockets[i], "%s/nbd%d.sock", world.f.folder, i);
        MUST(shell("qemu-nbd --fork --persistent --read-only --shared=8 -f raw -x point -k %s --pid-file=%s.pid %s/web01-%s.raw", world.sockets[i], world.sockets[i],
                   world.images, i ? "data" : "root") == 0);
    }
    snprintf(address.sun_path, sizeof address.sun_path, "%s/control.sock", world.f.folder);
    world.control_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(bind(world.control_fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(world.control_fd, 4) == 0);
    MUST(pthread_create(&world.thread, NULL, serve, NULL) == 0);
    copies_are_tested();
    if (world.facts)
        a_copy_takes_over();
    execute("terminate_test", "end", world.facts ? world.facts : json_object(), NULL, &(struct err){0});
    shutdown(world.control_fd, SHUT_RDWR);
    pthread_join(world.thread, NULL);
    shell("kill $(cat %s.pid %s.pid)", world.sockets[0], world.sockets[1]);
    json_decref(world.facts);
    buf_release(&world.key);
    fixture_end(&world.f);
    return tap_done();
}
