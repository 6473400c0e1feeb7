#include "steps/agent_push.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "steps/agent_file.h"
#include "steps/factory.h"
#include "steps/source.h"
#include "steps/step_run.h"

#include <stdlib.h>
#include <string.h>

#define AGENT_LIMIT_BYTES (64u << 20)
#define COMMAND_MS 120000
#define UPLOAD_MS 480000

char *agent_push_told(const struct buf *out, const char *key)
{
    size_t size = strlen(key);

    for (const char *line = out->data; line && *line; line += strcspn(line, "\n"), line += *line != '\0')
        if (strncmp(line, key, size) == 0 && line[size] == '\t')
            return xasprintf("%.*s", (int)strcspn(line + size + 1, "\n"), line + size + 1);
    return xstrdup("");
}

int agent_push_program(struct step *s, struct remote *r, const char *script, const char *path, struct err *e)
{
    static const char *const look[] = {"look", NULL};
    CLEANUP(buf_release) struct buf program = {.limit_bytes = AGENT_LIMIT_BYTES}, out = {0};
    CLEANUP(free_ptr) char *there = NULL, *arch = NULL, *build = NULL;
    uint8_t digest[HASH_SHA256_SIZE];
    char hash[HASH_SHA256_HEX_SIZE];
    bool same;

    if (source_script(r, script, look, &out, COMMAND_MS, e) < 0)
        return -1;
    arch = agent_push_told(&out, "arch");
    if (agent_file_find(s, arch, &build, e) < 0 || file_read(build, AGENT_LIMIT_BYTES, &program, e) < 0)
        return -1;
    hash_sha256(program.data, program.size_bytes, digest);
    hash_hex(digest, sizeof digest, hash);
    there = agent_push_told(&out, "sha256");
    same = strcmp(there, hash) == 0;
    if (!same) {
        step_progress(s, 0, (int64_t)program.size_bytes, "bytes", "uploading the agent");
        if (remote_put_root(r, path, program.data, program.size_bytes, 0755, UPLOAD_MS, e) < 0)
            return -1;
    }
    step_evidence(s, "program", true, "%s for %s, %zu bytes, sha256 %s, %s", path, arch, program.size_bytes, hash,
                  same ? "was there" : "uploaded and compared there");
    step_result(s, "sha256", json_string(hash));
    return 0;
}

json_t *agent_push_config(const struct step *s, const char *name, struct err *e)
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
    config = json_pack("{s:s, s:s, s:I}", "server", name, "replicator_address", address, "replicator_port", (json_int_t)port);
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

int agent_push_identity(struct step *s, struct remote *r, const char *csr, const char *command, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    CLEANUP(free_ptr) char *pem = NULL;
    const char *certificate, *ca;

    if (ask_factory(s, csr, &answer, e) < 0 || json_need_string(answer, "certificate_pem", &certificate, e) < 0 ||
        json_need_string(answer, "ca_pem", &ca, e) < 0)
        return err_wrap(e, "enrolling the agent");
    pem = xasprintf("%s\n%s", certificate, ca);
    if (remote_must_root(r, command, pem, strlen(pem), NULL, COMMAND_MS, e) < 0)
        return err_wrap(e, "installing the agent's certificate");
    return 0;
}
