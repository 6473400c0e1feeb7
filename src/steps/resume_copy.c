/* resume_copy: a way home is called off: the launched machine serves on. Its door opens, which it does not where somebody else has its address; its filesystems move,
 * its services run, its agent goes. A source that has left for its rescue stays there, and waits: it boots only when it is told to. */
#include "base/clock.h"
#include "steps/boot_check.h"
#include "steps/control.h"
#include "steps/home.h"
#include "steps/scripts.h"
#include "steps/source.h"

#define SERVE_MS 420000
#define THAW_WAIT_MS 60000

static void tell_of_rescue(struct step *s)
{
    CLEANUP(json_free) json_t *answer = NULL;
    json_t *server, *rescue;

    if (control_server(s, &answer, &server, NULL) < 0)
        return;
    rescue = json_object_get(server, "rescue");
    if (json_is_object(rescue))
        step_evidence(s, "source", true, "it was in a rescue of %s: %s (%s); where it still is, it stays there. What it was at its cutover is kept",
                      json_get_string(rescue, "point", "?"), json_get_string(rescue, "state", "?"), json_get_string(rescue, "message", ""));
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(boot_check_release) struct boot_check b = {0};
    CLEANUP(free_ptr) char *services = NULL;
    char at[CLOCK_TEXT_SIZE];

    if (source_services(s, &services, e) < 0 || boot_check_open(s, LAUNCH_CUTOVER, "launch_cutover", HOME_LOGIN_MS, &b, e) < 0)
        return -1;
    if (b.launch.api->set_net(b.launch.target, b.launch.instance, TARGET_NET_OPEN, e) < 0)
        return err_wrap(e, "the door of %s stays closed", b.launch.instance);
    step_evidence(s, "door", true, "open at %s", clock_format(clock_now_us(), at));
    if (home_thaw(s, THAW_WAIT_MS, e) < 0 || boot_login(&b, e) < 0 ||
        source_phase(s, b.remote, script_home, (const char *const[]){"resume", services, NULL}, SERVE_MS, NULL, e) < 0)
        return -1;
    tell_of_rescue(s);
    return home_drop(s, e);
}

const struct step_api step_resume_copy = {
    .name = "resume_copy", .title = "The launched machine serves on", .place = STEP_AT_TARGET, .timeout_ms = 30 * 60 * 1000, .attempts = 5, .run = run};
