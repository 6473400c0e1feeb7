/* last_change: from here on nobody is told by the launched machine that something was kept: its services stop, its last point is taken frozen and held, and while it is
 * held, so that nothing more can be written, its door closes. An attempt after a killed one that did not get that far opens the door again and takes another point. */
#include "base/clock.h"
#include "base/file.h"
#include "steps/boot_check.h"
#include "steps/control.h"
#include "steps/home.h"
#include "steps/scripts.h"
#include "steps/source.h"

#include <inttypes.h>
#include <string.h>

#define STOP_MS 420000 /* services may take their time */
#define POINT_TIMEOUT_MS (60 * 60 * 1000)
#define CLOSING_MS (15 * 60 * 1000) /* a door that closes later than this after the point came may have closed after the hold */
#define HOLD_LIMIT_MS (POINT_TIMEOUT_MS + 2 * CLOSING_MS) /* from the freeze on: sending the last change may take all of the point's time before it comes */
#define THAW_WAIT_MS 60000

/* {task,point}: written when the door was closed over the point. */
static const char *record_path(const struct launch *l) { return arena_printf(l->arena, "%s/%s.home.json", l->folder, l->instance); }

/* The point of an attempt of this task that came to its end; NULL. In the arena. */
static const char *done_before(const struct step *s, const struct launch *l)
{
    CLEANUP(json_free) json_t *record = NULL;

    if (json_read_file(record_path(l), &record, NULL) < 0 || strcmp(json_get_string(record, "task", ""), step_string(s, "task.id", "?")) != 0)
        return NULL;
    return arena_strdup(l->arena, json_get_string(record, "point", NULL));
}

static int note_done(const struct step *s, const struct launch *l, const char *point, struct err *e)
{
    CLEANUP(json_free) json_t *record = json_pack("{s:s, s:s}", "task", step_string(s, "task.id", "?"), "point", point);
    CLEANUP(free_ptr) char *text = json_text(record);

    return file_write(record_path(l), text, strlen(text), 0600, e);
}

static int stop_services(struct step *s, struct boot_check *b, struct err *e)
{
    CLEANUP(free_ptr) char *services = NULL;

    if (source_services(s, &services, e) < 0 || boot_login(b, e) < 0 ||
        source_phase(s, b->remote, script_home, (const char *const[]){"still", services, NULL}, STOP_MS, NULL, e) < 0)
        return err_wrap(e, "the launched machine's services");
    remote_close(&b->remote); /* nothing of ours may wait on what is frozen next */
    return 0;
}

/* In the arena of b. */
static int take_point(struct step *s, struct boot_check *b, const char *name, const char **id, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    const char *made;
    json_t *point;

    step_progress(s, 0, 0, "", "the last change is read and sent");
    if (control_ask_agent(s, json_pack("{s:s, s:s, s:s, s:b, s:i, s:i}", "verb", "point", "server", name, "consistency", "frozen", "hold", 1, "timeout_ms", POINT_TIMEOUT_MS,
                                       "hold_limit_ms", HOLD_LIMIT_MS), POINT_TIMEOUT_MS + 60000, "the last change", &answer, e) < 0)
        return err_wrap(e, "the launched machine's last point was not taken");
    if (json_need_object(answer, "point", &point, e) < 0 || json_need_string(point, "id", &made, e) < 0 || control_point_whole(s, point, e) < 0 || home_pin(s, made, e) < 0) {
        struct err ignored = {0};

        (void)home_thaw(s, 0, &ignored); /* it need not stand still for a point that is not used */
        return -1;
    }
    step_evidence(s, "last point", true, "%s, %s-consistent, %" PRId64 " bytes of last changes; the launched machine is held still", made,
                  json_get_string(point, "consistency", "?"), json_get_int(point, "bytes", 0));
    *id = arena_strdup(b->launch.arena, made);
    return 0;
}

/* The agent says every second whether it holds. */
static int check_held(struct step *s, const char *name, const char *point, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    json_t *server;

    if (control_server_named(s, name, &answer, &server, e) < 0)
        return -1;
    if (!json_get_bool(server, "held", false) || strcmp(json_get_string(server, "newest_point", ""), point) != 0)
        return err_set(e, ERR_TIMEOUT, "the launched machine is not held at its last point any more: it is taken again");
    return 0;
}

static int wait_held(struct step *s, const char *name, const char *point, struct err *e)
{
    for (int tries = 0; check_held(s, name, point, e) < 0; tries++) {
        if (e->kind != ERR_TIMEOUT || tries == 10)
            return -1;
        err_clear(e);
        if (step_sleep_ms(s, 1000, e) < 0)
            return -1;
    }
    return 0;
}

static int close_door(struct step *s, struct boot_check *b, const char *name, const char *point, int64_t taken_us, struct err *e)
{
    struct launch *l = &b->launch;
    char at[CLOCK_TEXT_SIZE];

    if (wait_held(s, name, point, e) < 0)
        return -1;
    if (l->api->set_net(l->target, l->instance, TARGET_NET_CLOSED, e) < 0)
        return err_wrap(e, "the door of %s can't be closed", l->instance);
    if (clock_monotonic_us() - taken_us > CLOSING_MS * US_PER_MS)
        return err_set(e, ERR_TIMEOUT, "the door closed too long after the last point: it is taken again");
    step_evidence(s, "door", true, "closed at %s, while the machine was held: nothing that was written after its last point was acknowledged to anybody",
                  clock_format(clock_now_us(), at));
    return 0;
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(boot_check_release) struct boot_check b = {0};
    CLEANUP(free_ptr) char *name = NULL;
    const char *point;
    int64_t taken_us;

    if (home_name(s, &name, e) < 0 || boot_check_open(s, LAUNCH_CUTOVER, "launch_cutover", HOME_LOGIN_MS, &b, e) < 0)
        return -1;
    point = done_before(s, &b.launch);
    if (!point) {
        if (b.launch.api->set_net(b.launch.target, b.launch.instance, TARGET_NET_OPEN, e) < 0 || home_thaw(s, THAW_WAIT_MS, e) < 0 || stop_services(s, &b, e) < 0 ||
            take_point(s, &b, name, &point, e) < 0)
            return -1;
        taken_us = clock_monotonic_us();
        if (close_door(s, &b, name, point, taken_us, e) < 0 || note_done(s, &b.launch, point, e) < 0)
            return -1;
    } else {
        step_evidence(s, "last point", true, "%s, taken by an attempt before this one, which closed the door over it", point);
    }
    step_result(s, "point", json_string(point));
    return 0;
}

const struct step_api step_last_change = {
    .name = "last_change", .title = "Stop its services, take its last change", .place = STEP_AT_TARGET, .timeout_ms = 3 * 3600 * 1000, .attempts = 5, .run = run};
