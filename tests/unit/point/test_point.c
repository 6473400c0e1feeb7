/* A file that is under its name only when it is whole; what a person is told about long work. */
#include "base/clock.h"
#include "base/file.h"
#include "base/proc.h"
#include "point/export.h"
#include "point/meter.h"
#include "point/output.h"
#include "tap.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/slipway-test-point.XXXXXX";
static char *path, *part;

static bool holds(const char *text)
{
    CLEANUP(buf_release) struct buf b = {0};

    return file_read(path, 1 << 16, &b, NULL) == 0 && b.size_bytes == strlen(text) && memcmp(b.data, text, strlen(text)) == 0;
}

static int write_text(const struct point_output *o, const char *text)
{
    return (int)write(o->fd, text, strlen(text));
}

static void whole_or_not_at_all(void)
{
    struct point_output o = {.fd = -1}, second = {.fd = -1};
    struct err e = {0};
    struct stat st;

    is_int(point_output_begin(&o, path, false, &e), 0, "an output begins");
    ok(write_text(&o, "first") == 5 && !file_exists(path) && file_exists(part), "what is written lies beside its name");
    is_int(point_output_begin(&second, path, false, &e), -1, "a second writer is refused");
    ok(e.kind == ERR_CONFLICT && strstr(e.message, "another process"), "and told: %s", e.message);
    is_int(point_output_finish(&o, &e), 0, "it is finished");
    point_output_end(&o);
    ok(holds("first") && !file_exists(part), "it has its name, and nothing else is left");
    ok(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600, "only its owner may read it");

    is_int(point_output_begin(&o, path, false, &e), -1, "a file that exists is refused");
    ok(e.kind == ERR_CONFLICT && strstr(e.message, "--force"), "and told what to do: %s", e.message);
    is_int(point_output_begin(&o, path, true, &e), 0, "unless by force");
    ok(write_text(&o, "second") == 6 && holds("first"), "which replaces nothing before the end");
    point_output_end(&o);
    ok(holds("first") && !file_exists(part), "and nothing at all where it is broken off");
    is_int(point_output_begin(&o, path, true, &e), 0, "again");
    ok(write_text(&o, "second") == 6, "written");
    is_int(point_output_finish(&o, &e), 0, "and finished");
    point_output_end(&o);
    ok(holds("second"), "then it is replaced");
}

/* A writer that has a program write for it, and is killed; that program lives on, and is returned. */
static pid_t killed_writer(void)
{
    CLEANUP(free_ptr) char *said = xasprintf("%s/pid", folder), *script = xasprintf("echo $$ > %s.new && mv %s.new %s && exec sleep 60", said, said, said);
    CLEANUP(buf_release) struct buf text = {0};
    const char *const argv[] = {"sh", "-c", script, NULL};
    pid_t child = fork();

    if (child == 0) {
        struct point_output o = {.fd = -1};
        struct err e = {0};

        MUST(point_output_begin(&o, path, true, &e) == 0);
        (void)proc_must(&(struct proc_options){.argv = argv, .keep_fd = o.fd}, NULL, &e);
        _exit(1);
    }
    while (!file_exists(said))
        clock_sleep_us(10 * US_PER_MS);
    buf_init(&text, 64);
    MUST(file_read(said, 64, &text, NULL) == 0 && unlink(said) == 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return atoi(text.data);
}

/* It may have writes on their way. */
static void a_program_that_writes_on_keeps_it(void)
{
    pid_t program = killed_writer();
    struct point_output o = {.fd = -1};
    struct err e = {0};
    int begun = -1;

    ok(kill(program, 0) == 0, "a writer is killed, and the program that writes for it lives");
    is_int(point_output_begin(&o, path, true, &e), -1, "nobody else begins meanwhile");
    ok(e.kind == ERR_CONFLICT, "and is told: %s", e.message);
    kill(program, SIGKILL);
    for (int i = 0; i < 500 && begun < 0; i++) {
        clock_sleep_us(10 * US_PER_MS);
        begun = point_output_begin(&o, path, true, &e);
    }
    is_int(begun, 0, "when it has ended one may");
    point_output_end(&o);
}

static void nothing_is_run_over(void)
{
    struct point_output o = {.fd = -1};
    struct err e = {0};

    unlink(path);
    file_write(part, "left by a killed one", 20, 0644, &e);
    is_int(point_output_begin(&o, path, false, &e), 0, "what a killed one left is written over");
    ok(write_text(&o, "mine") == 4, "written");
    file_write(path, "somebody's", 10, 0600, &e);
    is_int(point_output_finish(&o, &e), -1, "a file that came there meanwhile is not replaced");
    ok(e.kind == ERR_CONFLICT, "and told: %s", e.message);
    point_output_end(&o);
    ok(holds("somebody's") && !file_exists(part), "it is as it was");
    unlink(path);
    is_int(mkdir(path, 0700), 0, "a folder of that name");
    is_int(point_output_begin(&o, path, true, &e), -1, "is not replaced by force, either");
    rmdir(path);
}

static void room(void)
{
    struct err e = {0};

    is_int(point_output_room(folder, 1, &e), 0, "there is room for a byte");
    is_int(point_output_room(folder, UINT64_MAX, &e), -1, "and none for everything");
    ok(e.kind == ERR_NO_SPACE && strstr(e.message, "make room"), "told: %s", e.message);
}

static void words(void)
{
    char text[POINT_METER_SIZE];

    is_str(point_meter_text(INT64_C(1) << 30, INT64_C(4) << 30, 10 * US_PER_S, text), "1.0 of 4.0 GiB, 25 %, 102 MiB/s, 30 s to go", "a quarter");
    is_str(point_meter_text(0, INT64_C(4) << 30, US_PER_S, text), "0.0 of 4.0 GiB, 0 %, 0 B/s", "nothing yet: no guess");
    is_str(point_meter_text(INT64_C(5) << 30, INT64_C(4) << 30, 4 * US_PER_S, text),
           "4.0 of 4.0 GiB, 100 %, 1 GiB/s, 0 s to go", "never more than all");
    is_str(point_meter_text(1 << 20, INT64_C(1) << 50, US_PER_S, text), "0.0 of 1.0 PiB, 0 %, 1 MiB/s, 298261.6 h to go", "it fits");
    is_str(point_meter_text(3 << 20, 0, US_PER_S, text), "3.0 MiB, 3 MiB/s", "of what nobody knows the size");
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    path = xasprintf("%s/image.raw", folder);
    part = xasprintf("%s.part", path);
    whole_or_not_at_all();
    a_program_that_writes_on_keeps_it();
    nothing_is_run_over();
    room();
    words();
    ok(point_format_known("vhdx") && !point_format_known("vdi"), "formats");
    free(path);
    free(part);
    rmdir(folder);
    return tap_done();
}
