#include "target/local.h"
#include "base/file.h"
#include "base/net.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NETWORK_LIMIT 64
#define RECONNECT_S 600
#define POWER_BUTTON_MS 10000 /* pressed again after so long: a machine that was still booting did not feel it */
#define QUIT_MS 10000

/* Every setting: its name, whether it must be there, and its type in words. */
static const struct {
    const char *name;
    json_type type;
} setting_table[] = {
    {"folder", JSON_STRING},           {"accelerator", JSON_STRING},    {"networks", JSON_OBJECT},
    {"memory_limit_mib", JSON_INTEGER}, {"fill_mib_per_s", JSON_INTEGER}, {"reconnect_s", JSON_INTEGER},
    {"label", JSON_STRING},
};

/* Words of ip's command line: no spaces, no options. */
static bool plain_word(const char *text)
{
    return strlen(text) < 64 && text[0] != '-' && text[0] != '.' &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") == strlen(text);
}

static int check_settings(const json_t *settings, struct err *e)
{
    const char *accelerator = json_get_string(settings, "accelerator", "auto"), *label = json_get_string(settings, "label", "");
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)settings, name, value) {
        size_t i = 0;

        while (i < ARRAY_COUNT(setting_table) && strcmp(setting_table[i].name, name) != 0)
            i++;
        if (i == ARRAY_COUNT(setting_table))
            return err_set(e, ERR_INVALID, "the target local-qemu has no setting \"%s\"", name);
        if (json_typeof(value) != setting_table[i].type)
            return err_set(e, ERR_INVALID, "the target's setting \"%s\" has the wrong type", name);
        if (json_is_integer(value) && json_integer_value(value) < 0)
            return err_set(e, ERR_INVALID, "the target's setting \"%s\" is negative", name);
    }
    if (label[0] && (!plain_word(label) || strlen(label) > 24))
        return err_set(e, ERR_INVALID, "the target's setting \"label\" is a word of at most 24 letters, digits, - and _, not \"%s\"", label);
    if (strcmp(accelerator, "auto") != 0 && strcmp(accelerator, "kvm") != 0 && strcmp(accelerator, "tcg") != 0)
        return err_set(e, ERR_INVALID, "the target's setting \"accelerator\" is auto, kvm or tcg, not \"%s\"", accelerator);
    return 0;
}

static int read_networks(struct target *t, const json_t *networks, struct err *e)
{
    const char *name;
    json_t *value;

    if (json_object_size(networks) > NETWORK_LIMIT)
        return err_set(e, ERR_LIMIT, "the target has more than %d networks", NETWORK_LIMIT);
    t->networks = arena_alloc(t->arena, (json_object_size(networks) + 1) * sizeof *t->networks);
    json_object_foreach((json_t *)networks, name, value) {
        struct network_real real = {
            .name = arena_strdup(t->arena, name), .netns = arena_strdup(t->arena, json_get_string(value, "namespace", "")),
            .bridge = arena_strdup(t->arena, json_get_string(value, "bridge", "")),
            .helper = arena_strdup(t->arena, json_get_string(value, "helper", "")),
        };
        struct spec_cidr helper;

        if (!real.bridge[0] || strlen(real.bridge) > 15 || !plain_word(real.bridge) || !plain_word(real.netns))
            return err_set(e, ERR_INVALID, "the target's network \"%s\" needs a \"bridge\" and a \"namespace\" (\"\": this host's own)", name);
        if (real.helper[0] && spec_cidr_parse(real.helper, &helper, e) < 0)
            return err_wrap(e, "the helper address of the target's network \"%s\"", name);
        t->networks[t->network_count++] = real;
    }
    return 0;
}

static void local_close(struct target *t)
{
    if (!t)
        return;
    arena_free(&t->arena);
    free(t);
}

static int local_open(const json_t *settings, struct target **out, struct err *e)
{
    const char *folder = NULL;
    struct target *t;

    if (json_need_string(settings, "folder", &folder, e) < 0 || check_settings(settings, e) < 0)
        return -1;
    if (folder[0] != '/')
        return err_set(e, ERR_INVALID, "the target's setting \"folder\" is a path from the root, not \"%s\"", folder);
    if (file_make_dirs(folder, 0700, e) < 0)
        return err_wrap(e, "the target's folder");
    t = xcalloc(1, sizeof *t);
    t->arena = arena_new();
    t->folder = arena_strdup(t->arena, folder);
    t->label = arena_strdup(t->arena, json_get_string(settings, "label", ""));
    t->accelerator = arena_strdup(t->arena, json_get_string(settings, "accelerator", "auto"));
    t->memory_limit_bytes = json_get_int(settings, "memory_limit_mib", 0) << 20;
    t->fill_bytes_per_s = json_get_int(settings, "fill_mib_per_s", 0) << 20;
    t->reconnect_s = (int)json_get_int(settings, "reconnect_s", RECONNECT_S);
    if (read_networks(t, json_object_get(settings, "networks"), e) < 0) {
        local_close(t);
        return -1;
    }
    *out = t;
    return 0;
}

int local_accel(struct target *t, struct err *e)
{
    if (!t->accel_known && accel_decide(t->folder, t->accelerator, &t->accel, e) < 0)
        return -1;
    t->accel_known = true;
    return 0;
}

static const char *local_accelerator(struct target *t, struct err *e)
{
    return local_accel(t, e) < 0 ? NULL : t->accel.kvm ? "kvm" : "tcg";
}

const struct network_real *local_network_find(const struct target *t, const char *name)
{
    for (int i = 0; name && i < t->network_count; i++)
        if (strcmp(t->networks[i].name, name) == 0)
            return &t->networks[i];
    return NULL;
}

static int need_network(const struct target *t, const struct target_spec *spec, const struct network_real **out, struct err *e)
{
    *out = local_network_find(t, spec->network);
    return *out ? 0 : err_set(e, ERR_NOT_FOUND, "the target has no network \"%s\": add it to the target's settings",
                              spec->network ? spec->network : "");
}

/* Moves the door and tells whoever has to know. The caller holds the lock; the machine runs. */
static int move_door(struct target *t, struct instance *i, bool open, struct err *e)
{
    const struct network_real *real = NULL;
    CLEANUP(qmp_free) struct qmp *q = NULL;
    int is_open = network_door(&i->network, e);

    if (is_open < 0)
        return -1;
    /* One that is closed may be so half way, of a caller that was killed while it opened it: without the gateway's address. */
    if (!open && network_close_door(&i->network, &i->spec, e) < 0)
        return -1;
    if (open && !is_open && (need_network(t, &i->spec, &real, e) < 0 || network_open_door(&i->network, &i->spec, real, e) < 0))
        return -1;
    /* The network's switches learn where the copy's MAC is, and the copy who its gateway is. */
    if (instance_qmp(i, &q, e) < 0 ||
        qmp_call(q, "announce-self", json_pack("{s:i,s:i,s:i,s:i}", "initial", 50, "max", 550, "rounds", 5, "step", 50),
                 LOCAL_QMP_TIMEOUT_MS, NULL, e) < 0)
        return -1;
    return network_tell_gateway(&i->network, &i->spec, e);
}

static int local_set_net(struct target *t, const char *instance, enum target_net net, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = NULL;
    int pid;

    if (instance_need(t, instance, &i, e) < 0 || instance_lock(i, e) < 0)
        return -1;
    if (net == TARGET_NET_OPEN && i->spec.net == TARGET_NET_ISOLATED)
        return err_set(e, ERR_WRONG_STATE, "the instance %s is a test: its network stays isolated", instance);
    pid = instance_pid(i, e);
    if (pid < 0)
        return -1;
    if (pid == 0)
        return err_set(e, ERR_WRONG_STATE, "the instance %s does not run, so its door can't be moved", instance);
    return move_door(t, i, net == TARGET_NET_OPEN, e);
}

/* Writes the spec of a new instance, or holds it against the one that is there. */
static int claim_name(struct instance *i, const struct target_spec *spec, struct err *e)
{
    CLEANUP(json_free) json_t *wanted = spec_to_json(spec);
    CLEANUP(free_ptr) char *text = json_text(wanted);
    int found = instance_load(i, e);

    if (found < 0)
        return -1;
    if (found && !json_equal(wanted, i->spec_json))
        return err_set(e, ERR_CONFLICT, "there is an instance %s with other settings or another recovery point: remove it first", i->name);
    if (found)
        return 0;
    if (file_make_dirs(i->folder, 0700, e) < 0 || file_write(instance_path(i, "spec.json"), text, strlen(text), 0600, e) < 0)
        return -1;
    return instance_load(i, e) < 0 ? -1 : 0;
}

static int local_launch(struct target *t, const struct target_spec *spec, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = NULL;
    const struct network_real *real = NULL;
    int pid;

    if (spec_check(spec, e) < 0)
        return -1;
    if (spec->net != TARGET_NET_ISOLATED && (need_network(t, spec, &real, e) < 0 || network_real_check(real, e) < 0))
        return -1;
    if (instance_open(t, spec->instance, &i, e) < 0 || instance_lock(i, e) < 0 || claim_name(i, spec, e) < 0)
        return -1;
    pid = instance_pid(i, e);
    if (pid < 0)
        return -1;
    if (pid > 0)
        return 0;
    if (instance_start(t, i, spec, e) < 0)
        return err_wrap(e, "launching %s", spec->instance);
    return spec->net == TARGET_NET_OPEN ? move_door(t, i, true, e) : 0;
}

/* QEMU's run states as ours. */
static int state_named(const char *status, enum target_state *out)
{
    static const struct {
        const char *status;
        enum target_state state;
    } states[] = {
        {"running", TARGET_RUNNING},       {"prelaunch", TARGET_STARTING},      {"inmigrate", TARGET_STARTING},
        {"suspended", TARGET_RUNNING},     {"paused", TARGET_STOPPED},          {"shutdown", TARGET_STOPPED},
        {"internal-error", TARGET_FAILED}, {"io-error", TARGET_FAILED},         {"guest-panicked", TARGET_FAILED},
        {"watchdog", TARGET_FAILED},
    };

    for (size_t i = 0; i < ARRAY_COUNT(states); i++)
        if (strcmp(states[i].status, status) == 0) {
            *out = states[i].state;
            return 0;
        }
    return -1;
}

static int local_state(struct target *t, const char *instance, enum target_state *out, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = NULL;
    CLEANUP(qmp_free) struct qmp *q = NULL;
    CLEANUP(json_free) json_t *answer = NULL;
    int found, pid;

    if (instance_open(t, instance, &i, e) < 0 || (found = instance_load(i, e)) < 0 || (pid = instance_pid(i, e)) < 0)
        return -1;
    if (!found || pid == 0) {
        /* QEMU removes its pid file when it ends by itself: one that is left says that it was killed. */
        *out = !found ? TARGET_ABSENT : file_exists(instance_path(i, "qemu.pid")) ? TARGET_FAILED : TARGET_STOPPED;
        return 0;
    }
    if (instance_qmp(i, &q, e) < 0 || qmp_call(q, "query-status", NULL, LOCAL_QMP_TIMEOUT_MS, &answer, e) < 0) {
        if (instance_pid(i, NULL) != 0)
            return -1;
        *out = file_exists(instance_path(i, "qemu.pid")) ? TARGET_FAILED : TARGET_STOPPED; /* it ended while we asked */
        return 0;
    }
    if (state_named(json_get_string(answer, "status", ""), out) < 0)
        return err_set(e, ERR_PROTOCOL, "QEMU says that %s is \"%s\"", instance, json_get_string(answer, "status", ""));
    return 0;
}

/* Presses the power button now and then until it is off. 1: it is, 0: time is over. */
static int power_down(const struct instance *i, int timeout_ms, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;

    for (;;) {
        CLEANUP(qmp_free) struct qmp *q = NULL;
        int64_t left_ms = (until_us - clock_monotonic_us()) / US_PER_MS;
        int gone;

        if (left_ms <= 0)
            return 0;
        if (instance_qmp(i, &q, e) < 0 || qmp_call(q, "system_powerdown", NULL, LOCAL_QMP_TIMEOUT_MS, NULL, e) < 0) {
            gone = instance_pid(i, e);
            return gone < 0 ? -1 : gone == 0; /* it went away under our hands, or does not listen: pull the plug */
        }
        qmp_free(&q); /* others may want to talk to it while we wait */
        gone = instance_wait_gone(i, (int)(left_ms < POWER_BUTTON_MS ? left_ms : POWER_BUTTON_MS), e);
        if (gone)
            return gone;
    }
}

/* Ends QEMU: asks it to quit, so that it writes out what it holds; then by force. */
static int quit(const struct instance *i, struct err *e)
{
    CLEANUP(qmp_free) struct qmp *q = NULL;
    int gone = 0;

    if (instance_qmp(i, &q, NULL) == 0) {
        qmp_call(q, "quit", NULL, QUIT_MS, NULL, NULL);
        gone = instance_wait_gone(i, QUIT_MS, e);
    }
    if (gone < 0 || (gone == 0 && instance_kill(i, e) < 0))
        return -1;
    unlink(instance_path(i, "qemu.pid")); /* it was stopped, it did not fail */
    return 0;
}

static int stop_locked(struct instance *i, bool force, int timeout_ms, struct err *e)
{
    int pid = instance_pid(i, e), off;

    if (pid <= 0)
        return pid;
    off = force ? 0 : power_down(i, timeout_ms, e);
    if (off < 0)
        return -1;
    return off ? 0 : quit(i, e);
}

static int local_stop(struct target *t, const char *instance, bool force, int timeout_ms, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = NULL;

    if (instance_need(t, instance, &i, e) < 0 || instance_lock(i, e) < 0)
        return -1;
    if (stop_locked(i, force, timeout_ms, e) < 0)
        return err_wrap(e, "stopping %s", instance);
    return network_remove(&i->network, e);
}

static int remove_one(const char *path, const struct stat *about, int type, struct FTW *at)
{
    (void)about, (void)type, (void)at;
    return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

static int remove_tree(const char *path, struct err *e)
{
    if (file_exists(path) && nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0)
        return err_errno(e, errno, "can't remove the folder %s", path);
    return 0;
}

static int local_remove(struct target *t, const char *instance, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = NULL;
    const char *gone;

    if (instance_open(t, instance, &i, e) < 0 || instance_lock(i, e) < 0)
        return -1;
    if (stop_locked(i, true, 0, e) < 0 || network_remove(&i->network, e) < 0)
        return err_wrap(e, "removing %s", instance);
    /* The name is free at one moment: a removal that is killed must not leave disks for the next instance of that name. */
    gone = arena_printf(i->arena, "%s/.removed-%s", t->folder, instance);
    if (remove_tree(gone, e) < 0)
        return -1;
    if (rename(i->folder, gone) < 0 && errno != ENOENT)
        return err_errno(e, errno, "can't remove the folder %s", i->folder);
    if (remove_tree(gone, e) < 0)
        return -1;
    unlink(arena_printf(i->arena, "%s.lock", i->folder));
    return 0;
}

static int local_connect(struct target *t, const char *instance, const char *address, int port, int timeout_ms, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = NULL;
    CLEANUP(free_ptr) char *path = NULL;
    const struct network_real *real = NULL;
    int open;

    if (instance_need(t, instance, &i, e) < 0 || (open = network_door(&i->network, e)) < 0)
        return -1;
    if (open) {
        if (need_network(t, &i->spec, &real, e) < 0)
            return -1;
        path = real->helper[0] ? xstrdup(i->network.netns_path) : network_real_path(real);
    } else {
        path = xstrdup(i->network.netns_path);
    }
    return net_connect(address, port, path, timeout_ms, e);
}

const struct target_api target_local_qemu = {
    .name = "local-qemu",
    .open = local_open,
    .close = local_close,
    .accelerator = local_accelerator,
    .check = local_check,
    .validate = local_validate,
    .launch = local_launch,
    .state = local_state,
    .stop = local_stop,
    .remove = local_remove,
    .set_net = local_set_net,
    .connect = local_connect,
    .reset = local_reset,
    .picture = local_picture,
    .serial = local_serial,
    .usage = local_usage,
    .disk_serial = local_disk_serial,
    .fill = local_fill,
};
