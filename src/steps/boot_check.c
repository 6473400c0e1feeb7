#include "steps/boot_check.h"
#include "base/clock.h"
#include "base/file.h"
#include "steps/facts.h"
#include "steps/scripts.h"
#include "steps/source.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define DIAL_TIMEOUT_MS 5000
#define AGAIN_MS 1000
#define COMMAND_TIMEOUT_MS 60000
#define LOOK_TIMEOUT_MS 240000 /* of the script that looks at the copy: an emulated machine on a busy host takes its time */
#define PATIENCE_MS 120000    /* a machine that still prints gets that much more each time, */
#define PATIENCE_FACTOR 4     /* up to so many times its deadline */
#define SERVICES_S 120        /* how long services may take to come up after the login, where the wave's setting services_s says nothing else */
#define SERIAL_LIMIT_BYTES (2u << 20)
#define EPHEMERAL_PORT 32768  /* from here on the kernel gives ports by chance: another boot, another number */

void boot_check_release(struct boot_check *b)
{
    remote_close(&b->remote);
    buf_release(&b->failed);
    launch_release(&b->launch);
}

void boot_line(struct boot_check *b, const char *name, bool passed, const char *format, ...)
{
    CLEANUP(buf_release) struct buf text = {0};
    char line[2048];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    step_evidence(b->step, name, passed, "%s", line);
    b->line_count++;
    if (passed)
        return;
    b->failed_count++;
    buf_printf(&b->failed, "%s%s", b->failed.size_bytes ? ", " : "", name);
}

int boot_verdict(const struct boot_check *b, struct err *e)
{
    if (b->line_count == 0)
        return err_set(e, ERR_INTERNAL, "nothing was checked");
    if (b->failed_count)
        return err_set(e, ERR_WRONG_STATE, "%d of %d checks of %s did not hold: %s", b->failed_count, b->line_count, b->launch.instance, b->failed.data);
    return 0;
}

int boot_check_open(struct step *s, enum launch_kind kind, const char *task, int deadline_ms, struct boot_check *b, struct err *e)
{
    char path[96];
    const char *instance;

    deadline_ms = (int)step_int(s, "wave.settings.boot_s", deadline_ms / 1000) * 1000;
    *b = (struct boot_check){.step = s, .port = (int)step_int(s, "server.port", 22), .until_us = clock_monotonic_us() + deadline_ms * US_PER_MS,
                             .at_most_us = clock_monotonic_us() + PATIENCE_FACTOR * deadline_ms * US_PER_MS};
    snprintf(path, sizeof path, "context.%s.instance", task);
    if (step_need_string(s, path, &instance, e) < 0 || launch_open_instance(s, kind, &b->launch, e) < 0 || launch_address(s, &b->address, e) < 0)
        return -1;
    if (strcmp(instance, b->launch.instance) != 0)
        return err_set(e, ERR_WRONG_STATE, "%s launched %s, and the instance of this server is %s", task, instance, b->launch.instance);
    return 0;
}

/* -1 where waiting makes no sense any more. */
static int still_running(struct boot_check *b, struct err *e)
{
    enum target_state state;

    if (b->launch.api->state(b->launch.target, b->launch.instance, &state, e) < 0)
        return -1;
    if (state != TARGET_RUNNING && state != TARGET_STARTING)
        return err_set(e, ERR_WRONG_STATE, "the instance %s is %s", b->launch.instance,
                       state == TARGET_ABSENT ? "not there" : state == TARGET_STOPPED ? "stopped" : "failed: its disk can't be read, or it crashed");
    return 0;
}

/* What a kernel says when it will never get further. */
static const char *const hung_words[] = {"BUG: soft lockup", "Kernel panic - not syncing", "BUG: unable to handle"};

/* A kernel that hung at its boot is started again, once: emulated processors lose a race now and then, and real ones, too. It is a line
 * of evidence; a machine that hangs twice does not boot: -1 (the console's log goes on after the first). */
static int reset_if_hung(struct boot_check *b, struct err *e)
{
    CLEANUP(buf_release) struct buf serial = {.limit_bytes = SERIAL_LIMIT_BYTES};
    const char *found = NULL;

    if (b->launch.api->serial(b->launch.target, b->launch.instance, &serial, NULL) < 0 || serial.size_bytes <= b->read_bytes)
        return 0;
    for (size_t i = 0; i < ARRAY_COUNT(hung_words) && !found; i++)
        found = strstr(serial.data + b->read_bytes, hung_words[i]);
    if (!found)
        return 0;
    if (b->was_reset) {
        boot_line(b, "kernel", false, "hung twice; its last boot: %.*s", (int)strcspn(found, "\r\n"), found);
        return err_set(e, ERR_WRONG_STATE, "the copy does not boot: %.*s", (int)strcspn(found, "\r\n"), found);
    }
    b->was_reset = true;
    b->read_bytes = serial.size_bytes;
    boot_line(b, "started twice", true, "the first boot hung (\"%.*s\" on its console); it was reset once", (int)strcspn(found, "\r\n"), found);
    return b->launch.api->reset(b->launch.target, b->launch.instance, e);
}

/* An emulated machine on a busy host may need many minutes; it is not lost as long as it goes on printing. */
static void have_patience(struct boot_check *b)
{
    CLEANUP(buf_release) struct buf serial = {.limit_bytes = SERIAL_LIMIT_BYTES};
    int64_t more_us = clock_monotonic_us() + PATIENCE_MS * US_PER_MS;

    if (b->launch.api->serial(b->launch.target, b->launch.instance, &serial, NULL) < 0 || serial.size_bytes == b->serial_bytes)
        return;
    b->serial_bytes = serial.size_bytes;
    if (more_us > b->until_us)
        b->until_us = more_us < b->at_most_us ? more_us : b->at_most_us;
}

static int try_login(struct boot_check *b, struct err *e)
{
    int fd = b->launch.api->connect(b->launch.target, b->launch.instance, b->address, b->port, DIAL_TIMEOUT_MS, e);

    return fd < 0 ? -1 : source_open_fd(b->step, fd, b->address, &b->remote, e);
}

int boot_login(struct boot_check *b, struct err *e)
{
    int64_t began_us = clock_monotonic_us();
    struct err why = {0};

    for (int tries = 1;; tries++) {
        if (still_running(b, e) < 0)
            return -1;
        have_patience(b);
        step_progress(b->step, 0, 0, "", "waiting for a login at %s port %d (try %d)", b->address, b->port, tries);
        if (try_login(b, &why) == 0)
            break;
        if (why.kind == ERR_DENIED || why.kind == ERR_INVALID || why.kind == ERR_CANCELLED) { /* another host key: that is not the machine */
            boot_line(b, "login", false, "%s", why.message);
            *e = why;
            return -1;
        }
        if (clock_monotonic_us() > b->until_us) {
            boot_line(b, "login", false, "none within %lld s; the last try: %s", (long long)((clock_monotonic_us() - began_us) / US_PER_S), why.message);
            return err_set(e, ERR_WRONG_STATE, "the copy lets nobody log in: %s", why.message);
        }
        if (reset_if_hung(b, e) < 0 || step_sleep_ms(b->step, AGAIN_MS, e) < 0)
            return -1;
    }
    boot_line(b, "login", true, "%s at %s port %d after %.1f s; the host key is the source's, %s", step_string(b->step, "credential.user", "?"), b->address, b->port,
              (double)(clock_monotonic_us() - began_us) / (double)US_PER_S, remote_host_key(b->remote));
    return 0;
}

/* systemd's word on the boot; "" where there is no systemd. Waits while it still starts. */
static int wait_booted(struct boot_check *b, struct err *e)
{
    for (;;) {
        CLEANUP(buf_release) struct buf out = {0};
        int status = 0;

        if (remote_run(b->remote, "uname -r; command -v systemctl >/dev/null && systemctl is-system-running; :", NULL, 0, &out, NULL, &status,
                       COMMAND_TIMEOUT_MS, e) < 0)
            return err_wrap(e, "asking the copy how far it is");
        for (char *at = out.data ? out.data : NULL; at && *at; at++)
            if (*at == '\n')
                *at = ' ';
        if (!out.data || (!strstr(out.data, "starting") && !strstr(out.data, "initializing"))) {
            boot_line(b, "userland", out.size_bytes > 1 && !strstr(out.data, "maintenance"), "kernel and state: %s", out.data ? out.data : "nothing was said");
            return 0;
        }
        if (clock_monotonic_us() > b->until_us) {
            boot_line(b, "userland", false, "still %s", out.data);
            return 0;
        }
        if (step_sleep_ms(b->step, AGAIN_MS, e) < 0)
            return -1;
    }
}

/* What the source had and the copy has not, one after the other. */
struct missing {
    int wanted, count;
    struct buf text;
};

static void missing_release(struct missing *m) { buf_release(&m->text); }

__attribute__((format(printf, 2, 3))) static void miss(struct missing *m, const char *format, ...)
{
    char line[512];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    buf_printf(&m->text, "%s%s", m->count++ ? ", " : "", line);
}

static void compare_mounts(const json_t *source, const json_t *copy, struct missing *m)
{
    json_t *wanted, *there;
    size_t i, k;

    json_array_foreach(json_object_get(source, "mounts"), i, wanted) {
        const char *target = json_get_string(wanted, "target", "?"), *fstype = json_get_string(wanted, "fstype", "?");
        bool found = false;

        json_array_foreach(json_object_get(copy, "mounts"), k, there)
            found = found || (strcmp(json_get_string(there, "target", ""), target) == 0 && strcmp(json_get_string(there, "fstype", ""), fstype) == 0);
        m->wanted++;
        if (!found)
            miss(m, "%s (%s)", target, fstype);
    }
}

static void compare_ports(const json_t *source, const json_t *copy, struct missing *m)
{
    json_t *wanted, *there;
    size_t i, k;

    json_array_foreach(json_object_get(source, "listening"), i, wanted) {
        const char *address = json_get_string(wanted, "address", "?");
        int64_t port = json_get_int(wanted, "port", 0);
        bool found = false;

        if (port >= EPHEMERAL_PORT)
            continue;
        json_array_foreach(json_object_get(copy, "listening"), k, there)
            found = found || (json_get_int(there, "port", 0) == port && strcmp(json_get_string(there, "address", ""), address) == 0);
        m->wanted++;
        if (!found)
            miss(m, "%s:%lld", address, (long long)port);
    }
}

/* Here "missing" is what the copy has too much. */
static void compare_units(const json_t *source, const json_t *copy, struct missing *m)
{
    json_t *failed, *before;
    size_t i, k;

    json_array_foreach(json_object_get(copy, "failed_units"), i, failed) {
        const char *unit = json_string_value(failed);
        bool known = !unit || strcmp(unit, "slipway-agent.service") == 0; /* it has no replicator to reach here */

        json_array_foreach(json_object_get(source, "failed_units"), k, before)
            known = known || strcmp(json_string_value(before) ? json_string_value(before) : "", unit) == 0;
        m->wanted++;
        if (!known)
            miss(m, "%s", unit);
    }
}

/* Where the source had none, nothing was compared: that holds nothing. */
static void missing_line(struct boot_check *b, const char *name, const char *what, const struct missing *m)
{
    if (m->wanted == 0)
        boot_line(b, name, false, "no %s of the source are known: run `prerequisites` again", what);
    else if (m->count)
        boot_line(b, name, false, "%d of the source's %d %s are missing: %s", m->count, m->wanted, what, m->text.data);
    else
        boot_line(b, name, true, "all %d %s of the source are there", m->wanted, what);
}

static int read_facts(struct boot_check *b, json_t **facts, struct err *e)
{
    static const char *const arguments[] = {"", "", "", "", NULL};
    CLEANUP(buf_release) struct buf out = {0};
    CLEANUP(json_free) json_t *seen = NULL;

    if (source_script(b->remote, script_facts, arguments, &out, LOOK_TIMEOUT_MS, e) < 0)
        return err_wrap(e, "looking at the copy");
    return facts_parse(out.data ? out.data : "", out.size_bytes, facts, &seen, e);
}

/* Compares until all is there or services had their time; then says what was seen last. */
static int compare_with_source(struct boot_check *b, struct err *e)
{
    const json_t *source = step_json(b->step, "facts");
    int64_t until_us = clock_monotonic_us() + step_int(b->step, "wave.settings.services_s", SERVICES_S) * US_PER_S;

    for (;;) {
        CLEANUP(json_free) json_t *copy = NULL;
        CLEANUP(missing_release) struct missing mounts = {0}, ports = {0}, units = {0};

        if (read_facts(b, &copy, e) < 0)
            return -1;
        compare_mounts(source, copy, &mounts);
        compare_ports(source, copy, &ports);
        compare_units(source, copy, &units);
        if ((mounts.count || ports.count || units.count) && clock_monotonic_us() < until_us) {
            step_progress(b->step, 0, 0, "", "waiting for %d mounts and %d ports", mounts.count, ports.count);
            if (step_sleep_ms(b->step, AGAIN_MS * 2, e) < 0)
                return -1;
            continue;
        }
        missing_line(b, "mounts", "file systems", &mounts);
        missing_line(b, "ports", "TCP ports below 32768", &ports);
        if (units.count)
            boot_line(b, "units", false, "failed, and not so at the source: %s", units.text.data);
        else
            boot_line(b, "units", true, "no unit failed that had not failed at the source");
        return 0;
    }
}

int boot_look(struct boot_check *b, struct err *e)
{
    if (wait_booted(b, e) < 0 || compare_with_source(b, e) < 0)
        return -1;
    return boot_owner_checks(b, e);
}

/* The last line with something to read in it. */
/* Past the control sequences that begin at i: colours and cursor moves (ECMA-48 5.4: CSI, parameters, one final byte). */
static size_t skip_controls(const struct buf *text, size_t i)
{
    while (i + 1 < text->size_bytes && text->data[i] == '\x1b' && text->data[i + 1] == '[') {
        for (i += 2; i < text->size_bytes && (text->data[i] < '@' || text->data[i] > '~');)
            i++;
        i++;
    }
    return i;
}

static void last_line(const struct buf *serial, char out[static 160])
{
    size_t used = 0;

    out[0] = '\0';
    for (size_t i = skip_controls(serial, 0); i < serial->size_bytes; i = skip_controls(serial, i + 1)) {
        char c = serial->data[i];

        if (c == '\n') {
            if (used > 2)
                out[used] = '\0';
            used = 0;
        } else if (used < 150 && c >= ' ' && c < 127) {
            if (used == 0)
                memset(out, 0, 160);
            out[used++] = c;
        }
    }
}

/* Whether the kernel was told to talk on a serial port: only then silence there means something. */
static int serial_console(struct boot_check *b, struct err *e)
{
    CLEANUP(buf_release) struct buf line = {0};

    if (!b->remote)
        return 1;
    if (remote_must(b->remote, "cat /proc/cmdline", &line, COMMAND_TIMEOUT_MS, e) < 0)
        return -1;
    return line.data && strstr(line.data, "console=ttyS") != NULL;
}

static int keep_serial(struct boot_check *b, struct err *e)
{
    static const char *const marks[] = {"login:", "systemd[1]", "Reached target", "Linux version", "Welcome to"};
    CLEANUP(buf_release) struct buf serial = {.limit_bytes = SERIAL_LIMIT_BYTES};
    CLEANUP(free_ptr) char *path = xasprintf("%s/serial.log", step_scratch_dir(b->step));
    char last[160];
    bool reached = false;
    int has_console = serial_console(b, e);

    if (has_console < 0 || b->launch.api->serial(b->launch.target, b->launch.instance, &serial, e) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_COUNT(marks) && !reached; i++)
        reached = serial.data && memmem(serial.data, serial.size_bytes, marks[i], strlen(marks[i]));
    last_line(&serial, last);
    if (reached || has_console)
        boot_line(b, "console", reached, "%zu bytes on the serial port, at last: %s", serial.size_bytes, last);
    else
        boot_line(b, "console", b->remote != NULL, "its kernel has no serial console (/proc/cmdline); kernel and userland are proven by the login");
    if (serial.size_bytes == 0)
        return 0;
    if (file_write(path, serial.data, serial.size_bytes, 0600, e) < 0)
        return -1;
    return step_artifact(b->step, "serial.log", "text/plain; charset=utf-8", path, e);
}

int boot_keep(struct boot_check *b, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/screen.png", step_scratch_dir(b->step));
    struct err why = {0};

    if (b->launch.api->picture(b->launch.target, b->launch.instance, path, &why) < 0)
        boot_line(b, "screen", false, "no picture: %s", why.message);
    else if (step_artifact(b->step, "screen.png", "image/png", path, e) < 0)
        return -1;
    else
        boot_line(b, "screen", true, "screen.png");
    return keep_serial(b, e);
}
