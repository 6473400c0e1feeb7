/* What may happen to a local machine: its QEMU is killed, its export goes away and comes back, its disk can't be flushed, its folder is half made. */
#include "conformance/target/fixture.h"
#include "target/local.h"

#include <sys/statvfs.h>

static struct instance *look(struct target *t, const char *name)
{
    struct instance *i = NULL;

    MUST(instance_need(t, name, &i, NULL) == 0);
    return i;
}

static void killed_machine_has_failed(const struct target_api *api, struct target *t, struct fixture *f)
{
    struct target_spec spec = fixture_spec(f, "bad-1");
    enum target_state state = TARGET_ABSENT;
    CLEANUP(instance_free) struct instance *i = NULL;
    CLEANUP(buf_release) struct buf id = {0};
    int pid;

    does(api->launch(t, &spec, e), "a machine is launched");
    i = look(t, "bad-1");
    pid = instance_pid(i, NULL);
    ok(pid > 1, "its process is known");
    ok(file_read(instance_path(i, "qemu.pid"), 64, &id, NULL) == 0 && atoi(id.data) == pid, "by the lock on its pid file");
    kill(pid, SIGKILL);
    ok(instance_wait_gone(i, 10000, NULL) == 1, "QEMU is killed");
    ok(api->state(t, "bad-1", &state, NULL) == 0 && state == TARGET_FAILED, "the machine has failed");
    MUST(file_write(instance_path(i, "qemu.pid"), "1\n", 2, 0600, NULL) == 0);
    ok(api->state(t, "bad-1", &state, NULL) == 0 && state == TARGET_FAILED, "a number that another process has now does not mislead");
    does(api->launch(t, &spec, e), "it is launched again");
    ok(prints(api, t, "bad-1", PROBE_TEXT, 60000), "and boots");
    ok(api->state(t, "bad-1", &state, NULL) == 0 && state == TARGET_RUNNING, "and runs");
}

static void export_may_restart(const struct target_api *api, struct target *t, struct fixture *f)
{
    int64_t done = 0, total = 0, until_us;
    enum target_state state = TARGET_ABSENT;
    struct err why = {0};

    nbd_stop(f);
    is_int(api->fill(t, "bad-1", &done, &total, &why), 0, "a fill begins while the export is away (%s)", why.message);
    clock_sleep_us(US_PER_S);
    ok(api->fill(t, "bad-1", &done, &total, &why) == 0 && done < total, "it waits");
    ok(api->state(t, "bad-1", &state, &why) == 0 && state == TARGET_RUNNING, "the machine runs on");
    ok(nbd_start(f) == 0, "the export comes back");
    for (until_us = clock_monotonic_us() + 60 * US_PER_S; clock_monotonic_us() < until_us && done < total;) {
        if (api->fill(t, "bad-1", &done, &total, &why) < 0)
            break;
        clock_sleep_us(50 * US_PER_MS);
    }
    ok(done == total && total > 0, "and the fill comes to its end (%s)", why.message);
    ok(shell("qemu-img compare -q -U -f raw -F qcow2 %s %s/instances/bad-1/disk-0.qcow2", f->disk, f->folder) == 0,
       "the machine's disk is the export's, byte by byte");
}

/* What QEMU has of a fill is in its memory when the overlay's header says already that there is nothing below. */
static void killed_at_the_end_of_its_fill(const struct target_api *api, struct target *t, struct fixture *f)
{
    struct target_spec spec = fixture_spec(f, "bad-5");
    CLEANUP(instance_free) struct instance *i = NULL;
    int64_t done = 0, total = 0, until_us = clock_monotonic_us() + 60 * US_PER_S;
    struct err why = {0};

    does(api->launch(t, &spec, e), "a machine is launched");
    i = look(t, "bad-5");
    is_int(api->fill(t, "bad-5", &done, &total, &why), 0, "its fill begins (%s)", why.message);
    while (instance_disk_has_backing(i, 0, NULL) == 1 && clock_monotonic_us() < until_us)
        clock_sleep_us(50 * US_PER_MS);
    ok(instance_disk_has_backing(i, 0, NULL) == 0, "and comes to its end while nobody looks");
    kill(instance_pid(i, NULL), SIGKILL);
    ok(instance_wait_gone(i, 10000, NULL) == 1, "QEMU is killed");
    unlink(instance_path(i, "serial.log"));
    does(api->launch(t, &spec, e), "it is launched again");
    ok(prints(api, t, "bad-5", PROBE_TEXT, 60000), "and boots from its export, whatever the overlay's header said");
    for (until_us = clock_monotonic_us() + 60 * US_PER_S; clock_monotonic_us() < until_us && (total == 0 || done < total);) {
        if (api->fill(t, "bad-5", &done, &total, &why) < 0)
            break;
        clock_sleep_us(50 * US_PER_MS);
    }
    ok(done == total && total > 0, "it is filled in anew (%s)", why.message);
    kill(instance_pid(i, NULL), SIGKILL);
    ok(instance_wait_gone(i, 10000, NULL) == 1, "QEMU is killed again");
    ok(shell("qemu-img compare -q -f raw -F qcow2 %s %s/instances/bad-5/disk-0.qcow2", f->disk, f->folder) == 0,
       "\"filled in\" was true: the disk has all of it");
    does(api->remove(t, "bad-5", e), "it is removed");
}

/* fail_sync.so is loaded into QEMU: from the moment that its file is there no flush succeeds. */
static void a_flush_fails(const struct target_api *api, struct target *t, struct fixture *f)
{
    struct target_spec spec = fixture_spec(f, "bad-6");
    CLEANUP(instance_free) struct instance *i = NULL;
    char flag[128];
    int64_t done = 0, total = 0, until_us = clock_monotonic_us() + 60 * US_PER_S;
    bool claimed = false, refused = false;
    struct err why = {0};

    snprintf(flag, sizeof flag, "%s/no-sync", f->folder);
    MUST(setenv("FAIL_SYNC", flag, 1) == 0 && setenv("LD_PRELOAD", getenv("FAIL_SYNC_SO"), 1) == 0);
    does(api->launch(t, &spec, e), "a machine is launched");
    unsetenv("LD_PRELOAD");
    ok(prints(api, t, "bad-6", PROBE_TEXT, 60000), "and boots");
    i = look(t, "bad-6");
    is_int(api->fill(t, "bad-6", &done, &total, &why), 0, "its fill begins (%s)", why.message);
    while (instance_disk_has_backing(i, 0, NULL) == 1 && clock_monotonic_us() < until_us)
        clock_sleep_us(50 * US_PER_MS);
    ok(shell("touch %s", flag) == 0, "and comes to its end, and its disk can't be flushed");
    while (clock_monotonic_us() < until_us && !claimed && !refused) {
        refused = api->fill(t, "bad-6", &done, &total, &why) < 0;
        claimed = !refused && done == total;
        clock_sleep_us(50 * US_PER_MS);
    }
    ok(refused && strstr(why.message, "flush"), "it is not filled in: %s", why.message);
    unlink(flag);
    ok(api->fill(t, "bad-6", &done, &total, &why) < 0, "nor later: what could not be flushed may be lost");
    does(api->remove(t, "bad-6", e), "it is removed");
}

/* An instance that stays is filled in whole: its room is not another one's. */
static void room_is_spoken_for(const struct target_api *api, struct target *t, struct fixture *f)
{
    struct target_spec spec = fixture_spec(f, "bad-7"), other = fixture_spec(f, "bad-8");
    CLEANUP(json_free) json_t *alone = json_array(), *beside = json_array(), *unseen = json_array();
    struct statvfs about;

    MUST(statvfs(f->folder, &about) == 0);
    spec.disks[0].size_bytes = ((int64_t)about.f_bavail * (int64_t)about.f_frsize / 3 * 2) & ~INT64_C(1048575);
    spec.net = TARGET_NET_CLOSED;
    spec.network = "real";
    other = spec;
    other.instance = "bad-8";
    ok(api->validate(t, &other, alone, NULL) == 0 && json_get_bool(json_find(alone, "name", "disk"), "passed", false),
       "a disk of two thirds of what is free has room");
    does(api->launch(t, &spec, e), "one like it is launched");
    ok(api->validate(t, &other, beside, NULL) == 0 && !json_get_bool(json_find(beside, "name", "disk"), "passed", true), "then there is no room for both: %s",
       json_get_string(json_find(beside, "name", "disk"), "evidence", ""));
    does(api->remove(t, "bad-7", e), "it is removed");
    MUST(shell("mkdir %s/instances/bad-9 && echo '{' > %s/instances/bad-9/spec.json", f->folder, f->folder) == 0);
    ok(api->validate(t, &other, unseen, NULL) == 0 && !json_get_bool(json_find(unseen, "name", "disk"), "passed", true), "where another one can't be read, nobody knows what room it takes: %s",
       json_get_string(json_find(unseen, "name", "disk"), "evidence", ""));
    MUST(shell("rm -r %s/instances/bad-9", f->folder) == 0);
}

static void half_made_folders(const struct target_api *api, struct target *t, struct fixture *f)
{
    struct target_spec spec = fixture_spec(f, "bad-2");
    enum target_state state = TARGET_RUNNING;
    struct err why = {0};

    ok(shell("mkdir %s/instances/bad-2 && echo '{' > %s/instances/bad-2/spec.json", f->folder, f->folder) == 0, "a spec is damaged");
    refuses(api->state(t, "bad-2", &state, e), ERR_INVALID, "its state is an error, not a guess");
    refuses(api->launch(t, &spec, e), ERR_INVALID, "nothing is launched over it");
    does(api->remove(t, "bad-2", e), "it can be removed");
    ok(shell("mkdir -p %s/instances/.removed-bad-2/x", f->folder) == 0, "a removal was killed half way");
    ok(api->state(t, "bad-2", &state, &why) == 0 && state == TARGET_ABSENT, "its instance is absent");
    does(api->launch(t, &spec, e), "the name is free");
    does(api->remove(t, "bad-2", e), "and is removed with what was left");
    ok(shell("! ls -A %s/instances | grep bad-2", f->folder) == 0, "nothing is left in the folder");
}

static void mended_overlay_is_taken_over(const struct target_api *api, struct target *t, struct fixture *f)
{
    struct target_spec spec = fixture_spec(f, "bad-3");
    char overlay[128];

    snprintf(overlay, sizeof overlay, "%s/mended.qcow2", f->folder);
    ok(shell("qemu-img create -q -u -f qcow2 -F raw -b '%s' %s %lld && qemu-io -c 'write -P 7 4096 512' %s >/dev/null", f->uri, overlay,
             (long long)PROBE_DISK_BYTES, overlay) == 0, "a mend wrote into an overlay");
    spec.disks[0].overlay_path = overlay;
    does(api->launch(t, &spec, e), "the machine is launched with it");
    ok(prints(api, t, "bad-3", PROBE_TEXT, 60000), "it boots from what lies below");
    does(api->launch(t, &spec, e), "launching it again finds it, though the overlay has moved");
    does(api->stop(t, "bad-3", true, 0, e), "it is stopped");
    ok(shell("qemu-io -r -c 'read -P 7 4096 512' %s/instances/bad-3/disk-0.qcow2 | grep -q 'read 512'", f->folder) == 0, "and has what was mended");
    does(api->remove(t, "bad-3", e), "it is removed");
}

static void memory_is_counted(const struct target_api *api, struct fixture *f)
{
    CLEANUP(json_free) json_t *settings = fixture_settings(f);
    struct target_spec spec = fixture_spec(f, "bad-4");
    struct target *t = NULL;

    json_object_set_new(settings, "memory_limit_mib", json_integer(200));
    does(api->open(settings, &t, e), "a target with a memory limit");
    refuses(api->launch(t, &spec, e), ERR_NO_SPACE, "has no room beside the machine that runs");
    does(api->remove(t, "bad-4", e), "what is left of it is removed");
    api->close(t);
}

static void settings_are_checked(const struct target_api *api)
{
    static const char *const wrong[] = {
        "{}", "{\"folder\":\"x\"}", "{\"folder\":1}", "{\"folder\":\"/tmp\",\"acelerator\":\"tcg\"}", "{\"folder\":\"/tmp\",\"accelerator\":\"xen\"}",
        "{\"folder\":\"/tmp\",\"label\":\"a b\"}", "{\"folder\":\"/tmp\",\"memory_limit_mib\":-1}", "{\"folder\":\"/tmp\",\"networks\":{\"a\":{}}}",
        "{\"folder\":\"/tmp\",\"networks\":{\"a\":{\"bridge\":\"br0 up\"}}}", "{\"folder\":\"/tmp\",\"networks\":{\"a\":{\"bridge\":\"br0\",\"namespace\":\"../x\"}}}",
        "{\"folder\":\"/tmp\",\"networks\":{\"a\":{\"bridge\":\"br0\",\"helper\":\"192.0.2.2\"}}}"};

    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        CLEANUP(json_free) json_t *settings = NULL;
        struct target *t = NULL;

        MUST(json_read(wrong[i], strlen(wrong[i]), &settings, NULL) == 0);
        refuses(api->open(settings, &t, e), ERR_INVALID, "%s", wrong[i]);
        if (t)
            api->close(t);
    }
}

int main(void)
{
    const struct target_api *api = target_find("local-qemu");
    struct target *t = NULL;
    struct fixture f;

    settings_are_checked(api);
    if (geteuid() != 0)
        return tap_done();
    MUST(fixture_begin(&f) == 0);
    CLEANUP(json_free) json_t *settings = fixture_settings(&f);
    does(api->open(settings, &t, e), "the target opens");
    killed_machine_has_failed(api, t, &f);
    export_may_restart(api, t, &f);
    memory_is_counted(api, &f);
    killed_at_the_end_of_its_fill(api, t, &f);
    a_flush_fails(api, t, &f);
    room_is_spoken_for(api, t, &f);
    half_made_folders(api, t, &f);
    mended_overlay_is_taken_over(api, t, &f);
    does(api->remove(t, "bad-1", e), "all is removed");
    api->close(t);
    fixture_end(&f);
    return tap_done();
}
