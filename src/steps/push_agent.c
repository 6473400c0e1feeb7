/* push_agent: brings the agent to the source machine: one static program, its key made there, its certificate through our connection,
 * a service. No secret on a command line, no package, no reboot. Started again it finds what is done and does the rest. */
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "steps/factory.h"
#include "steps/scripts.h"
#include "steps/source.h"
#include "steps/step_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AGENT_PATH "/usr/local/sbin/slipway-agent"
#define AGENT_UNIT "/etc/systemd/system/slipway-agent.service"
#define AGENT_LIMIT_BYTES (64u << 20)
#define COMMAND_MS 120000
#define START_MS 180000
#define UPLOAD_MS 480000

/* settings.agent_path, else beside this program. */
static int find_agent(const struct step *s, struct buf *bytes, struct err *e)
{
    const char *named = step_string(s, "settings.agent_path", NULL);
    CLEANUP(free_ptr) char *path = NULL;
    char program[4000] = "", *slash;

    buf_init(bytes, AGENT_LIMIT_BYTES);
    if (named)
        return file_read(named, AGENT_LIMIT_BYTES, bytes, e) < 0 ? err_wrap(e, "the setting agent_path") : 0;
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0)
        return err_set(e, ERR_IO, "can't find out where this program is");
    slash = strrchr(program, '/');
    path = xasprintf("%.*s/slipway-agent", slash ? (int)(slash - program) : 0, program);
    if (file_read(path, AGENT_LIMIT_BYTES, bytes, e) < 0)
        return err_wrap(e, "the agent must lie beside slipway, or be named by the setting agent_path");
    return 0;
}

/* The text after "KEY<TAB>" on a line of its own, or ""; the caller frees. */
static char *told(const struct buf *out, const char *key)
{
    size_t size = strlen(key);

    for (const char *line = out->data; line && *line; line += strcspn(line, "\n"), line += *line != '\0')
        if (strncmp(line, key, size) == 0 && line[size] == '\t')
            return xasprintf("%.*s", (int)strcspn(line + size + 1, "\n"), line + size + 1);
    return xstrdup("");
}

static int put_program(struct step *s, struct remote *r, struct err *e)
{
    static const char *const look[] = {"look", NULL};
    CLEANUP(buf_release) struct buf program = {0}, out = {0};
    CLEANUP(free_ptr) char *there = NULL;
    uint8_t digest[HASH_SHA256_SIZE];
    char hash[HASH_SHA256_HEX_SIZE];
    bool same;

    if (find_agent(s, &program, e) < 0 || source_script(r, script_agent, look, &out, COMMAND_MS, e) < 0)
        return -1;
    hash_sha256(program.data, program.size_bytes, digest);
    hash_hex(digest, sizeof digest, hash);
    there = told(&out, "sha256");
    same = strcmp(there, hash) == 0;
    if (!same) {
        step_progress(s, 0, (int64_t)program.size_bytes, "bytes", "uploading the agent");
        if (remote_put_root(r, AGENT_PATH, program.data, program.size_bytes, 0755, UPLOAD_MS, e) < 0)
            return -1;
    }
    step_evidence(s, "program", true, "%s, %zu bytes, sha256 %s, %s", AGENT_PATH, program.size_bytes, hash,
                  same ? "was there" : "uploaded and compared there");
    step_result(s, "sha256", json_string(hash));
    return 0;
}

static json_t *make_config(const struct step *s, const char *server, struct err *e)
{
    int64_t port = step_int(s, "settings.replicator.port", 0), budget_ms = step_int(s, "server.attributes.freeze_budget_ms", 0),
            rate = step_int(s, "server.attributes.bytes_per_s", 0), bound_mib = step_int(s, "server.attributes.memory_bound_mib", 0);
    static const char *const texts[] = {"proxy", "before_freeze", "after_thaw"}; /* attributes that are settings of the agent */
    const char *address;
    json_t *config;

    if (step_need_string(s, "settings.replicator.address", &address, e) < 0)
        return NULL;
    if (port < 1 || port > 65535) {
        err_set(e, ERR_INVALID, "the setting replicator.port is no port");
        return NULL;
    }
    config = json_pack("{s:s, s:s, s:I}", "server", server, "replicator_address", address, "replicator_port", (json_int_t)port);
    MUST(config);
    if (budget_ms > 0)
        json_object_set_new(config, "freeze_budget_ms", json_integer(budget_ms));
    if (rate > 0)
        json_object_set_new(config, "bytes_per_s", json_integer(rate));
    if (bound_mib > 0)
        json_object_set_new(config, "memory_bound_mib", json_integer(bound_mib));
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        CLEANUP(free_ptr) char *path = xasprintf("server.attributes.%s", texts[i]);
        const char *text = step_string(s, path, NULL);

        if (text)
            json_object_set_new(config, texts[i], json_string(text));
    }
    return config;
}

static int ask_factory(struct step *s, const char *csr, json_t **answer, struct err *e)
{
    CLEANUP(factory_close) struct factory f = {0};
    CLEANUP(json_free) json_t *body = NULL;
    const char *token;

    if (step_need_string(s, "enrolment.token", &token, e) < 0 || factory_open(s, &f, e) < 0)
        return -1;
    body = json_pack("{s:s, s:s}", "token", token, "csr_pem", csr);
    if (!body)
        return err_set(e, ERR_PROTOCOL, "the agent's certificate request is no text");
    return factory_json(&f, "POST", "/v1/enrol", body, answer, e);
}

static int give_identity(struct step *s, struct remote *r, const char *csr, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    CLEANUP(free_ptr) char *pem = NULL;
    const char *certificate, *ca;

    if (ask_factory(s, csr, &answer, e) < 0 || json_need_string(answer, "certificate_pem", &certificate, e) < 0 ||
        json_need_string(answer, "ca_pem", &ca, e) < 0)
        return err_wrap(e, "enrolling the agent");
    pem = xasprintf("%s\n%s", certificate, ca);
    if (remote_must_root(r, AGENT_PATH " install-cert", pem, strlen(pem), NULL, COMMAND_MS, e) < 0)
        return err_wrap(e, "installing the agent's certificate");
    return 0;
}

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
    config = make_config(s, server, e);
    if (!config)
        return -1;
    text = json_text(config);
    arguments[1] = server;
    arguments[2] = text;
    if (source_script(r, script_agent, arguments, &out, COMMAND_MS, e) < 0)
        return err_wrap(e, "configuring the agent");
    version = told(&out, "version");
    same = told(&out, "config");
    csr = out.data ? strstr(out.data, "\ncsr\n") : NULL;
    if (csr && give_identity(s, r, csr + strlen("\ncsr\n"), e) < 0)
        return -1;
    *changed = csr || strcmp(same, "same") != 0;
    step_result(s, "version", step_text(version, strlen(version)));
    step_evidence(s, "version", *version != '\0', "%s", version);
    step_evidence(s, "configuration", true, "replicates to %s port %lld as %s%s%s", json_get_string(config, "replicator_address", "?"),
                  (long long)json_get_int(config, "replicator_port", 0), server, json_get_string(config, "proxy", NULL) ? " through the proxy " : "",
                  json_get_string(config, "proxy", ""));
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
    uuid = told(&out, "uuid");
    status = told(&out, "status");
    step_evidence(s, "service", true, "%s, bound to this machine (%s)", AGENT_UNIT, *uuid ? uuid : "which has no hardware identity");
    step_evidence(s, "running", *status != '\0', "%.1000s", status);
    return *status ? 0 : err_set(e, ERR_PROTOCOL, "the agent gives no status");
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = NULL;
    bool changed = false;

    if (source_open(s, SOURCE_SERVING, false, &r, e) < 0 || put_program(s, r, e) < 0 || configure(s, r, &changed, e) < 0)
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
