/* push_agent: brings the agent to the source machine: one static program, its key made there, its certificate through our connection,
 * a service. No secret on a command line, no package, no reboot. Started again it finds what is done and does the rest. */
#include "steps/agent_push.h"
#include "steps/scripts.h"
#include "steps/source.h"
#include "steps/step_run.h"

#include <string.h>

#define AGENT_PATH "/usr/local/sbin/slipway-agent"
#define AGENT_UNIT "/etc/systemd/system/slipway-agent.service"
#define COMMAND_MS 120000
#define START_MS 180000

/* Configuration and identity; *changed: the agent must start anew to know of it. */
static int configure(struct step *s, struct remote *r, bool *changed, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0};
    CLEANUP(json_free) json_t *config = NULL;
    CLEANUP(free_ptr) char *text = NULL, *version = NULL, *same = NULL;
    const char *server, *csr;
    const char *arguments[] = {"configure", NULL, NULL, NULL};

    if (step_need_string(s, "server.name", &server, e) < 0)
        return -1;
    config = agent_push_config(s, server, e);
    if (!config)
        return -1;
    text = json_text(config);
    arguments[1] = server;
    arguments[2] = text;
    if (source_script(r, script_agent, arguments, &out, COMMAND_MS, e) < 0)
        return err_wrap(e, "configuring the agent");
    version = agent_push_told(&out, "version");
    same = agent_push_told(&out, "config");
    csr = out.data ? strstr(out.data, "\ncsr\n") : NULL;
    if (csr && agent_push_identity(s, r, csr + strlen("\ncsr\n"), AGENT_PATH " install-cert", e) < 0)
        return -1;
    *changed = csr || strcmp(same, "same") != 0;
    step_result(s, "version", step_text(version, strlen(version)));
    step_evidence(s, "version", *version != '\0', "%s", version);
    step_evidence(s, "configuration", true, "replicates to %s port %lld as %s%s%s", json_get_string(config, "replicator_address", "?"),
                  (long long)json_get_int(config, "replicator_port", 0), server, json_get_string(config, "proxy", NULL) ? " through the proxy " : "",
                  json_get_string(config, "proxy", ""));
    if (step_string(s, "settings.replicator.why", NULL))
        step_evidence(s, "replicator", true, "%s", step_string(s, "settings.replicator.why", ""));
    step_evidence(s, "identity", true, "agent:%s, %s", server, csr ? "the key was made on the source and stays there" : "enrolled before");
    return 0;
}

static int start(struct step *s, struct remote *r, bool restart, struct err *e)
{
    const char *const arguments[] = {"start", restart ? "yes" : "no", NULL};
    CLEANUP(buf_release) struct buf out = {0};
    CLEANUP(free_ptr) char *uuid = NULL, *status = NULL;

    if (source_script(r, script_agent, arguments, &out, START_MS, e) < 0)
        return err_wrap(e, "starting the agent");
    uuid = agent_push_told(&out, "uuid");
    status = agent_push_told(&out, "status");
    step_evidence(s, "service", true, "%s, bound to this machine (%s)", AGENT_UNIT, *uuid ? uuid : "which has no hardware identity");
    step_evidence(s, "running", *status != '\0', "%.1000s", status);
    return *status ? 0 : err_set(e, ERR_PROTOCOL, "the agent gives no status");
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = NULL;
    bool changed = false;

    if (source_open(s, SOURCE_SERVING, false, &r, e) < 0 || agent_push_program(s, r, script_agent, AGENT_PATH, e) < 0 || configure(s, r, &changed, e) < 0)
        return -1;
    return start(s, r, changed, e);
}

static int undo(struct step *s, struct err *e)
{
    static const char *const arguments[] = {"remove", NULL};
    CLEANUP(remote_close) struct remote *r = NULL;

    if (source_open(s, SOURCE_SERVING, false, &r, e) < 0 || source_script(r, script_agent, arguments, NULL, COMMAND_MS, e) < 0)
        return err_wrap(e, "removing the agent");
    step_evidence(s, "agent", true, "removed");
    return 0;
}

const struct step_api step_push_agent = {.name = "push_agent", .title = "Push the agent", .place = STEP_AT_SOURCE, .timeout_ms = 1200000,
                                         .attempts = 3, .run = run, .undo = undo};
