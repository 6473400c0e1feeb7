/* Every target passes this: what target.h promises, tried on real machines that boot in a second (target/probe_disk.h). */
#include "conformance/target/fixture.h"

#define BOOT_MS 60000

/* A member of the table, and how it is opened on the fixture. */
static const struct {
    const char *name;
    json_t *(*settings)(const struct fixture *f);
} members[] = {{"local-qemu", fixture_settings}};

struct subject {
    const struct target_api *api;
    struct target *t;
    struct fixture f;
};

static enum target_state state_of(struct subject *s, const char *instance)
{
    enum target_state state = (enum target_state)99;

    does(s->api->state(s->t, instance, &state, e), "the state of %s can be read", instance);
    return state;
}

static void becomes(struct subject *s, const char *instance, enum target_state wanted, int timeout_ms)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    enum target_state state = TARGET_ABSENT;
    struct err e = {0};

    while (s->api->state(s->t, instance, &state, &e) == 0 && state != wanted && clock_monotonic_us() < until_us)
        clock_sleep_us(50 * US_PER_MS);
    is_int(state, wanted, "%s comes to state %d", instance, (int)wanted);
}

static void lines_are(const json_t *lines, bool wanted, const char *what)
{
    json_t *line;
    size_t i;
    bool whole = json_array_size(lines) > 0;

    json_array_foreach(lines, i, line) {
        whole = whole && json_get_string(line, "name", NULL) && json_is_boolean(json_object_get(line, "passed")) &&
                json_get_string(line, "evidence", "")[0];
        if (json_get_bool(line, "passed", false) != wanted && wanted)
            tap_note("%s: %s", json_get_string(line, "name", ""), json_get_string(line, "evidence", ""));
    }
    ok(whole, "%s: each line has its name and its evidence", what);
    is_int(target_lines_passed(lines), wanted, "%s: %s", what, wanted ? "all passed" : "one at least did not pass");
}

static void checks_itself(struct subject *s)
{
    CLEANUP(json_free) json_t *lines = json_array();

    does(s->api->check(s->t, lines, e), "it can be checked");
    lines_are(lines, true, "check");
}

static void validates(struct subject *s)
{
    static const char *const faults[] = {"none", "memory", "network", "name", "address", "gateway", "disk size", "two boot disks", "bus", "cpu"};

    for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
        struct target_spec spec = fixture_spec(&s->f, "probe-1");
        CLEANUP(json_free) json_t *lines = json_array();

        switch (i) {
        case 1: spec.memory_bytes = INT64_C(1) << 41; break;
        case 2: spec.network = "nowhere", spec.net = TARGET_NET_CLOSED; break;
        case 3: spec.instance = "../probe"; break;
        case 4: spec.nics[0].address = "192.0.2.300/24"; break;
        case 5: spec.nics[0].gateway = "198.51.100.1"; break;
        case 6: spec.disks[0].size_bytes = 1000; break;
        case 7: spec.disk_count = 2, spec.disks[1] = spec.disks[0]; break;
        case 8: spec.disk_bus = "floppy"; break;
        case 9: spec.cpu_count = 0; break;
        default: break;
        }
        does(s->api->validate(s->t, &spec, lines, e), "settings with a fault in \"%s\" can be judged", faults[i]);
        lines_are(lines, i == 0, faults[i]);
        if (i > 0 && i != 1) /* a wrong memory is a fault of the host's, not of the words */
            ok(s->api->launch(s->t, &spec, NULL) < 0, "and a launch with it is refused");
    }
    is_int(state_of(s, "probe-1"), TARGET_ABSENT, "nothing of it was left");
}

/* How a disk is known within the launched machine: by its id alone, and no two by one. */
static void disks_have_serials(struct subject *s)
{
    static const char *const ids[] = {"serial:web01-root", "serial:web01-data", "wwid:t10.ATA_MODEL_OF_A_LONG_NAME_0001", "wwid:t10.ATA_MODEL_OF_A_LONG_NAME_0002", "path:pci0000:00/0:0:1:0", "path:pci0000:00/0:0:10"};
    char serials[ARRAY_COUNT(ids)][TARGET_SERIAL_SIZE], again[TARGET_SERIAL_SIZE];

    for (size_t i = 0; i < ARRAY_COUNT(ids); i++) {
        bool own = true;

        s->api->disk_serial(ids[i], serials[i]);
        s->api->disk_serial(ids[i], again);
        for (size_t k = 0; k < i; k++)
            own = own && strcmp(serials[i], serials[k]) != 0;
        ok(own && serials[i][0] && strcmp(serials[i], again) == 0, "%s has a serial number of its own: %s", ids[i], serials[i]);
    }
}

static void unknown_instances(struct subject *s)
{
    CLEANUP(buf_release) struct buf out = {0};
    struct target_usage usage;
    int64_t done, total;

    is_int(state_of(s, "nobody"), TARGET_ABSENT, "an unknown instance is absent");
    does(s->api->remove(s->t, "nobody", e), "removing it is success");
    refuses(s->api->stop(s->t, "nobody", true, 1000, e), ERR_NOT_FOUND, "stopping it is not");
    refuses(s->api->serial(s->t, "nobody", &out, e), ERR_NOT_FOUND, "it has no serial log");
    refuses(s->api->picture(s->t, "nobody", "/nonexistent/x.png", e), ERR_NOT_FOUND, "nor a screen");
    refuses(s->api->usage(s->t, "nobody", &usage, e), ERR_NOT_FOUND, "nor usage");
    refuses(s->api->fill(s->t, "nobody", &done, &total, e), ERR_NOT_FOUND, "nor a fill");
    refuses(s->api->set_net(s->t, "nobody", TARGET_NET_OPEN, e), ERR_NOT_FOUND, "nor a door");
    refuses(s->api->connect(s->t, "nobody", "192.0.2.11", 22, 1000, e), ERR_NOT_FOUND, "nor ports");
    refuses(s->api->remove(s->t, "../etc", e), ERR_INVALID, "a name that is a path is refused");
}

static void picture_is_png(struct subject *s, const char *instance)
{
    CLEANUP(buf_release) struct buf png = {0};
    char path[128];

    snprintf(path, sizeof path, "%s/shot.png", s->f.folder);
    does(s->api->picture(s->t, instance, path, e), "a picture is taken");
    ok(file_read(path, 1u << 24, &png, NULL) == 0 && png.size_bytes > 100 && memcmp(png.data, "\x89PNG", 4) == 0, "it is a PNG");
}

static int count_text(struct subject *s, const char *instance)
{
    CLEANUP(buf_release) struct buf out = {0};
    int count = 0;

    s->api->serial(s->t, instance, &out, NULL);
    for (const char *at = out.data ? out.data : ""; (at = strstr(at, PROBE_TEXT)); at++)
        count++;
    return count;
}

static void launches_once(struct subject *s)
{
    struct target_spec spec = fixture_spec(&s->f, "probe-1"), other = spec;
    struct target_usage usage = {.cpu_share = -1};

    does(s->api->launch(s->t, &spec, e), "a machine is launched");
    ok(prints(s->api, s->t, "probe-1", PROBE_TEXT, BOOT_MS), "it boots: its serial port says so");
    becomes(s, "probe-1", TARGET_RUNNING, 10000);
    does(s->api->launch(s->t, &spec, e), "launching it again finds it");
    clock_sleep_us(1500 * US_PER_MS);
    is_int(count_text(s, "probe-1"), 1, "and did not boot it twice");
    other.memory_bytes *= 2;
    refuses(s->api->launch(s->t, &other, e), ERR_CONFLICT, "another machine under that name is refused");
    picture_is_png(s, "probe-1");
    refuses(s->api->reset(s->t, "nobody", e), ERR_NOT_FOUND, "nobody can't be reset");
    does(s->api->reset(s->t, "probe-1", e), "a running machine is reset");
    becomes(s, "probe-1", TARGET_RUNNING, 5000);
    does(s->api->usage(s->t, "probe-1", &usage, e), "its usage can be read");
    ok(usage.cpu_share >= 0 && usage.cpu_share <= 1 && usage.memory_bytes == spec.memory_bytes && usage.disk_read_bytes >= 512,
       "and makes sense: CPU %.3f, %lld bytes read", usage.cpu_share, (long long)usage.disk_read_bytes);
    ok(s->api->connect(s->t, "probe-1", "192.0.2.11", 22, 4000, NULL) < 0, "a port that nobody serves is no connection");
    refuses(s->api->set_net(s->t, "probe-1", TARGET_NET_OPEN, e), ERR_WRONG_STATE, "a test's network can't be opened");
}

static void fills_and_needs_its_export_no_more(struct subject *s)
{
    struct target_spec spec = fixture_spec(&s->f, "probe-1");
    int64_t done = -1, total = 0, until_us = clock_monotonic_us() + 60 * US_PER_S;

    while (done < total && clock_monotonic_us() < until_us) {
        struct err e = {0};

        if (s->api->fill(s->t, "probe-1", &done, &total, &e) < 0) {
            ok(false, "filling goes on: %s", e.message);
            break;
        }
        clock_sleep_us(50 * US_PER_MS);
    }
    ok(done == total && total == PROBE_DISK_BYTES, "it is filled in: %lld of %lld bytes", (long long)done, (long long)total);
    nbd_stop(&s->f);
    does(s->api->stop(s->t, "probe-1", false, 60000, e), "it is shut down");
    becomes(s, "probe-1", TARGET_STOPPED, 10000);
    does(s->api->stop(s->t, "probe-1", false, 1000, e), "stopping what is stopped is success");
    refuses(s->api->picture(s->t, "probe-1", "/nonexistent/x.png", e), ERR_WRONG_STATE, "what is stopped has no screen");
    does(s->api->launch(s->t, &spec, e), "without its export it is started again");
    ok(prints(s->api, s->t, "probe-1", PROBE_TEXT, BOOT_MS), "and boots from its own disk");
    does(s->api->stop(s->t, "probe-1", true, 0, e), "it is stopped by force");
    becomes(s, "probe-1", TARGET_STOPPED, 10000);
    does(s->api->remove(s->t, "probe-1", e), "it is removed");
    is_int(state_of(s, "probe-1"), TARGET_ABSENT, "and absent");
    does(s->api->remove(s->t, "probe-1", e), "removing it again is success");
    ok(nbd_start(&s->f) == 0, "the export is back");
}

static void doors_open_and_close(struct subject *s)
{
    struct target_spec spec = fixture_spec(&s->f, "probe-2");

    spec.net = TARGET_NET_CLOSED;
    spec.network = "real";
    spec.disk_bus = "scsi";
    does(s->api->launch(s->t, &spec, e), "a machine is launched behind its closed door");
    ok(prints(s->api, s->t, "probe-2", PROBE_TEXT, BOOT_MS), "it boots from a SCSI disk");
    does(s->api->set_net(s->t, "probe-2", TARGET_NET_OPEN, e), "the door opens");
    does(s->api->set_net(s->t, "probe-2", TARGET_NET_OPEN, e), "and is open when it is opened again");
    does(s->api->set_net(s->t, "probe-2", TARGET_NET_CLOSED, e), "the door closes");
    does(s->api->set_net(s->t, "probe-2", TARGET_NET_CLOSED, e), "and is closed when it is closed again");
    becomes(s, "probe-2", TARGET_RUNNING, 10000);
    does(s->api->remove(s->t, "probe-2", e), "removing a running machine ends it");
    is_int(state_of(s, "probe-2"), TARGET_ABSENT, "and it is absent");
}

static void failures_leave_nothing_running(struct subject *s)
{
    struct target_spec spec = fixture_spec(&s->f, "probe-3");

    spec.disks[0].nbd_uri = "nbd+unix:///point?socket=/nonexistent/nbd.sock";
    ok(s->api->launch(s->t, &spec, NULL) < 0, "a machine whose export isn't served is not launched");
    ok(state_of(s, "probe-3") != TARGET_RUNNING, "and does not run");
    does(s->api->remove(s->t, "probe-3", e), "what is left of it is removed");
    spec = fixture_spec(&s->f, "probe-3");
    spec.net = TARGET_NET_CLOSED;
    spec.network = "nowhere";
    refuses(s->api->launch(s->t, &spec, e), ERR_NOT_FOUND, "a network that isn't there is refused");
    is_int(state_of(s, "probe-3"), TARGET_ABSENT, "with nothing left");
}

static void refuses_wrong_settings(const struct target_api *api)
{
    struct target *t = NULL;
    CLEANUP(json_free) json_t *nothing = json_object();

    refuses(api->open(nothing, &t, e), ERR_INVALID, "settings without anything are refused");
    ok(!t, "and the output is untouched");
}

int main(void)
{
    if (geteuid() != 0) {
        printf("1..0 # SKIP needs root: network namespaces\n");
        return 0;
    }
    for (size_t i = 0; i < ARRAY_COUNT(members); i++) {
        struct subject s = {.api = target_find(members[i].name)};
        CLEANUP(json_free) json_t *settings = NULL;

        ok(s.api != NULL, "%s is in the table", members[i].name);
        if (!s.api || !ok(fixture_begin(&s.f) == 0, "the fixture stands"))
            continue;
        settings = members[i].settings(&s.f);
        refuses_wrong_settings(s.api);
        does(s.api->open(settings, &s.t, e), "it opens");
        if (s.t) {
            checks_itself(&s);
            validates(&s);
            disks_have_serials(&s);
            unknown_instances(&s);
            launches_once(&s);
            fills_and_needs_its_export_no_more(&s);
            doors_open_and_close(&s);
            failures_leave_nothing_running(&s);
            s.api->close(s.t);
        }
        fixture_end(&s.f);
    }
    ok(!target_find("nowhere"), "an unknown target is not found");
    return tap_done();
}
