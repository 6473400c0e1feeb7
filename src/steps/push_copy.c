/* push_copy: an agent for the launched machine, which has run without one since its cutover: in its memory, under a name and with a key of its own, over the target's
 * way into its network. It reports its disks as those of the source that they are copies of. Its clients notice nothing. */
#include "steps/agent_push.h"
#include "steps/boot_check.h"
#include "steps/home.h"
#include "steps/scripts.h"
#include "steps/source.h"
#include "steps/step_run.h"

#include <string.h>

#define COMMAND_MS 120000
#define START_MS 180000

static int map_disks(struct step *s, struct boot_check *b, json_t *config, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0};
    CLEANUP(json_free) json_t *facts = NULL, *ids = NULL;
    CLEANUP(free_ptr) char *text = NULL, *told = NULL;
    json_t *disks;

    if (source_script(b->remote, script_home, (const char *const[]){"disks", NULL}, &out, COMMAND_MS, e) < 0)
        return err_wrap(e, "the launched machine's disks");
    text = agent_push_told(&out, "disks");
    if (json_read(text, strlen(text), &facts, e) < 0 || json_need_array(facts, "disks", &disks, e) < 0 || launch_spec(s, LAUNCH_CUTOVER, NULL, &b->launch, e) < 0)
        return err_wrap(e, "the launched machine's disks");
    ids = home_disk_ids(&b->launch, disks, e);
    if (!ids)
        return -1;
    told = json_text(ids);
    step_evidence(s, "disks", true, "%zu, each known to be one of the source's: %s", json_object_size(ids), told);
    return json_object_set(config, "disk_ids", ids);
}

/* *changed: it must start anew to know of it. */
static int configure(struct step *s, struct boot_check *b, const char *name, bool *changed, struct err *e)
{
    CLEANUP(json_free) json_t *config = agent_push_config(s, name, e);
    CLEANUP(free_ptr) char *text = NULL, *version = NULL, *same = NULL;
    CLEANUP(buf_release) struct buf out = {0};
    const char *csr;

    if (!config || map_disks(s, b, config, e) < 0)
        return -1;
    text = json_text(config);
    if (source_script(b->remote, script_home, (const char *const[]){"configure", name, text, NULL}, &out, COMMAND_MS, e) < 0)
        return err_wrap(e, "configuring the launched machine's agent");
    version = agent_push_told(&out, "version");
    same = agent_push_told(&out, "config");
    csr = out.data ? strstr(out.data, "\ncsr\n") : NULL;
    if (csr && agent_push_identity(s, b->remote, csr + strlen("\ncsr\n"), HOME_FOLDER "/slipway-agent install-cert --folder " HOME_FOLDER, e) < 0)
        return -1;
    *changed = csr || strcmp(same, "same") != 0;
    step_evidence(s, "version", *version != '\0', "%s", version);
    step_evidence(s, "identity", true, "agent:%s, %s", name, csr ? "its key was made there, in memory" : "enrolled before");
    return 0;
}

static int start(struct step *s, struct boot_check *b, bool restart, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0};
    CLEANUP(free_ptr) char *status = NULL;

    if (source_script(b->remote, script_home, (const char *const[]){"start", restart ? "yes" : "no", NULL}, &out, START_MS, e) < 0)
        return err_wrap(e, "starting the launched machine's agent");
    status = agent_push_told(&out, "status");
    step_evidence(s, "running", *status != '\0', "%.1000s", status);
    return *status ? 0 : err_set(e, ERR_PROTOCOL, "the launched machine's agent gives no status");
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(boot_check_release) struct boot_check b = {0};
    CLEANUP(free_ptr) char *name = NULL;
    bool changed = false;

    if (home_name(s, &name, e) < 0 || boot_check_open(s, LAUNCH_CUTOVER, "launch_cutover", HOME_LOGIN_MS, &b, e) < 0 || boot_login(&b, e) < 0 ||
        agent_push_program(s, b.remote, script_home, HOME_FOLDER "/slipway-agent", e) < 0 || configure(s, &b, name, &changed, e) < 0)
        return -1;
    return start(s, &b, changed, e);
}

const struct step_api step_push_copy = {
    .name = "push_copy", .title = "Push an agent to the launched machine", .place = STEP_AT_TARGET, .timeout_ms = 30 * 60 * 1000, .attempts = 5, .run = run};
