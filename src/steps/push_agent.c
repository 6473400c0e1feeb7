/* push_agent: brings the agent to the source machine: one static program, its key made there, its certificate through our connection,
 * a service. No secret on a command line, no package, no reboot. Started again it finds what is done and does the rest. */
#include "base/file.h"
#include "base/limits.h"
#include "steps/factory.h"
#include "steps/source.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define AGENT_PATH "/usr/local/sbin/slipway-agent"
#define AGENT_FOLDER "/etc/slipway-agent"
#define AGENT_UNIT "/etc/systemd/system/slipway-agent.service"
#define AGENT_LIMIT_BYTES (64u << 20)
#define COMMAND_MS 30000
#define UPLOAD_MS 300000
#define ACTIVE_WAIT_MS 30000

/* settings.agent_path, else beside this program. */
static int find_agent(const struct step *s, struct buf *bytes, struct err *e)
{
    const char *named = step_string(s, "settings.agent_path", NULL);
    char program[4000] = "", path[4096];
    char *slash;

    buf_init(bytes, AGENT_LIMIT_BYTES);
    if (named)
        return file_read(named, AGENT_LIMIT_BYTES, bytes, e) < 0 ? err_wrap(e, "the setting agent_path") : 0;
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0)
        return err_set(e, ERR_IO, "can't find out where this program is");
    slash = strrchr(program, '/');
    snprintf(path, sizeof path, "%.*s/slipway-agent", slash ? (int)(slash - program) : 0, program);
    if (file_read(path, AGENT_LIMIT_BYTES, bytes, e) < 0)
        return err_wrap(e, "the agent must lie beside slipway, or be named by the setting agent_path");
    return 0;
}

static void hash_hex(const struct buf *bytes, char out[static 65])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;

    MUST(EVP_Digest(bytes->data, bytes->size_bytes, digest, &size, EVP_sha256(), NULL) == 1);
    for (unsigned i = 0; i < size; i++)
        sprintf(out + (size_t)2 * i, "%02x", digest[i]);
}

static void trim(struct buf *b)
{
    while (b->size_bytes > 0 && strchr(" \r\n", b->data[b->size_bytes - 1]))
        b->data[--b->size_bytes] = '\0';
}

static int put_program(struct step *s, struct remote *r, struct err *e)
{
    CLEANUP(buf_release) struct buf program = {0}, there = {0}, version = {0};
    char hash[65];
    bool same;

    if (find_agent(s, &program, e) < 0)
        return -1;
    hash_hex(&program, hash);
    if (remote_must_root(r, "sha256sum " AGENT_PATH " 2>/dev/null | cut -c 1-64", NULL, 0, &there, COMMAND_MS, e) < 0)
        return -1;
    trim(&there);
    same = there.data && strcmp(there.data, hash) == 0;
    if (!same) {
        step_progress(s, 0, (int64_t)program.size_bytes, "bytes", "uploading the agent");
        if (remote_must_root(r, "mkdir -p /usr/local/sbin", NULL, 0, NULL, COMMAND_MS, e) < 0 ||
            remote_put_root(r, AGENT_PATH, program.data, program.size_bytes, 0755, UPLOAD_MS, e) < 0)
            return -1;
    }
    if (remote_must_root(r, AGENT_PATH " --version", NULL, 0, &version, COMMAND_MS, e) < 0)
        return err_wrap(e, "the agent does not run there");
    trim(&version);
    step_evidence(s, "program", true, "%s: %s, %zu bytes, sha256 %s, %s", AGENT_PATH, version.data ? version.data : "?", program.size_bytes, hash,
                  same ? "was there" : "uploaded and compared there");
    step_result(s, "version", json_string(version.data ? version.data : ""));
    step_result(s, "sha256", json_string(hash));
    return 0;
}

/* Which machine this is, as far as the hardware says. The copy boots from the same disks and would find the agent's service on them;
 * it must not come up there and speak for the source. */
static int read_machine(struct remote *r, struct buf *uuid, struct err *e)
{
    if (remote_must_root(r, "cat /sys/class/dmi/id/product_uuid 2>/dev/null || true", NULL, 0, uuid, COMMAND_MS, e) < 0)
        return -1;
    trim(uuid);
    if (uuid->data && strspn(uuid->data, "0123456789abcdefABCDEF-") != uuid->size_bytes)
        buf_release(uuid);
    return 0;
}

static int put_unit(struct step *s, struct remote *r, struct err *e)
{
    CLEANUP(buf_release) struct buf unit = {0}, whole = {0}, uuid = {0};
    const char *service;

    if (remote_must_root(r, AGENT_PATH " unit", NULL, 0, &unit, COMMAND_MS, e) < 0 || read_machine(r, &uuid, e) < 0)
        return -1;
    service = unit.data ? strstr(unit.data, "[Service]\n") : NULL;
    if (!service)
        return err_set(e, ERR_PROTOCOL, "the agent's own service file has no [Service]");
    service += strlen("[Service]\n");
    buf_add(&whole, unit.data, (size_t)(service - unit.data));
    if (uuid.size_bytes > 0)
        buf_printf(&whole, "# On this machine only: a copy of its disks must not speak for it.\n"
                           "ExecCondition=/bin/sh -c '[ \"$(cat /sys/class/dmi/id/product_uuid)\" = \"%s\" ]'\n", uuid.data);
    buf_puts(&whole, service);
    if (remote_put_root(r, AGENT_UNIT, whole.data, whole.size_bytes, 0644, COMMAND_MS, e) < 0 ||
        remote_must_root(r, "systemctl daemon-reload", NULL, 0, NULL, COMMAND_MS, e) < 0)
        return -1;
    step_evidence(s, "service", true, "%s, bound to this machine (%s)", AGENT_UNIT, uuid.size_bytes ? uuid.data : "which has no hardware identity");
    return 0;
}

static int put_config(struct step *s, struct remote *r, bool *changed, struct err *e)
{
    CLEANUP(json_free) json_t *config = NULL;
    CLEANUP(free_ptr) char *text = NULL;
    CLEANUP(buf_release) struct buf there = {0};
    const char *server, *address;
    int64_t port = step_int(s, "settings.replicator.port", 0), budget = step_int(s, "server.attributes.freeze_budget_ms", 0);

    if (step_need_string(s, "server.name", &server, e) < 0 || step_need_string(s, "settings.replicator.address", &address, e) < 0)
        return -1;
    if (port < 1 || port > 65535)
        return err_set(e, ERR_INVALID, "the setting replicator.port is no port");
    config = json_pack("{s:s, s:s, s:I}", "server", server, "replicator_address", address, "replicator_port", (json_int_t)port);
    MUST(config);
    if (budget > 0)
        json_object_set_new(config, "freeze_budget_ms", json_integer(budget));
    if (step_int(s, "server.attributes.bytes_per_s", 0) > 0)
        json_object_set_new(config, "bytes_per_s", json_integer(step_int(s, "server.attributes.bytes_per_s", 0)));
    text = json_text(config);
    if (remote_must_root(r, "mkdir -p " AGENT_FOLDER " && chmod 700 " AGENT_FOLDER "; cat " AGENT_FOLDER "/config.json 2>/dev/null || true", NULL,
                         0, &there, COMMAND_MS, e) < 0)
        return -1;
    *changed = !there.data || strcmp(there.data, text) != 0;
    if (*changed && remote_put_root(r, AGENT_FOLDER "/config.json", text, strlen(text), 0600, COMMAND_MS, e) < 0)
        return -1;
    step_evidence(s, "configuration", true, "replicates to %s port %lld as %s", address, (long long)port, server);
    return 0;
}

/* The factory may have been told by an attempt that was killed: then its token is used up, and a certificate may lie there already. */
static int has_certificate(struct remote *r, const char *server, bool *has, struct err *e)
{
    CLEANUP(free_ptr) char *quoted = remote_quote(server), *command = NULL;
    int status = 0;

    command = xasprintf("test -s " AGENT_FOLDER "/cert.pem && test -s " AGENT_FOLDER "/ca.pem && test -s " AGENT_FOLDER "/key.pem && "
                        "grep -q %s " AGENT_FOLDER "/config.json", quoted);
    if (remote_run_root(r, command, NULL, 0, NULL, NULL, &status, COMMAND_MS, e) < 0)
        return -1;
    *has = status == 0;
    return 0;
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

static int give_identity(struct step *s, struct remote *r, bool *changed, struct err *e)
{
    CLEANUP(free_ptr) char *quoted = NULL, *command = NULL, *pem = NULL;
    CLEANUP(buf_release) struct buf csr = {0};
    CLEANUP(json_free) json_t *answer = NULL;
    const char *server, *certificate, *ca;
    bool has = false;

    if (step_need_string(s, "server.name", &server, e) < 0 || has_certificate(r, server, &has, e) < 0)
        return -1;
    if (has) {
        step_evidence(s, "identity", true, "agent:%s, enrolled before", server);
        return 0;
    }
    quoted = remote_quote(server);
    command = xasprintf(AGENT_PATH " csr --server %s", quoted);
    if (remote_must_root(r, command, NULL, 0, &csr, COMMAND_MS, e) < 0 || ask_factory(s, csr.data ? csr.data : "", &answer, e) < 0 ||
        json_need_string(answer, "certificate_pem", &certificate, e) < 0 || json_need_string(answer, "ca_pem", &ca, e) < 0)
        return err_wrap(e, "enrolling the agent");
    pem = xasprintf("%s\n%s", certificate, ca);
    if (remote_must_root(r, AGENT_PATH " install-cert", pem, strlen(pem), NULL, COMMAND_MS, e) < 0)
        return err_wrap(e, "installing the agent's certificate");
    *changed = true;
    step_evidence(s, "identity", true, "agent:%s; the key was made on the source and stays there", server);
    return 0;
}

static int start(struct step *s, struct remote *r, bool restart, struct err *e)
{
    CLEANUP(buf_release) struct buf state = {0}, journal = {0};
    const char *command = restart ? "systemctl enable -q slipway-agent && systemctl restart slipway-agent"
                                  : "systemctl enable -q slipway-agent && systemctl start slipway-agent";

    if (remote_must_root(r, command, NULL, 0, NULL, COMMAND_MS, e) < 0)
        return err_wrap(e, "starting the agent");
    for (int waited_ms = 0;; waited_ms += 1000) {
        buf_release(&state);
        if (remote_must_root(r, AGENT_PATH " status 2>/dev/null || true", NULL, 0, &state, COMMAND_MS, e) < 0)
            return -1;
        trim(&state);
        if (state.size_bytes > 0)
            break;
        if (waited_ms >= ACTIVE_WAIT_MS) {
            remote_must_root(r, "journalctl -q -u slipway-agent -n 5 -o cat --no-pager 2>/dev/null || true", NULL, 0, &journal, COMMAND_MS, NULL);
            return err_set(e, ERR_TIMEOUT, "the agent did not come up within %d s; its last words: %.500s", ACTIVE_WAIT_MS / 1000,
                           journal.data ? journal.data : "none");
        }
        if (step_sleep_ms(s, 1000, e) < 0)
            return -1;
    }
    step_evidence(s, "running", true, "%.1000s", state.data);
    return 0;
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = NULL;
    bool changed = false, enrolled = false;

    if (source_open(s, SOURCE_SERVING, false, &r, e) < 0 || put_program(s, r, e) < 0 || put_config(s, r, &changed, e) < 0 ||
        give_identity(s, r, &enrolled, e) < 0 || put_unit(s, r, e) < 0)
        return -1;
    return start(s, r, changed || enrolled, e);
}

static int undo(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = NULL;

    if (source_open(s, SOURCE_SERVING, false, &r, e) < 0)
        return -1;
    if (remote_must_root(r, "systemctl disable -q --now slipway-agent 2>/dev/null; test ! -x " AGENT_PATH " || " AGENT_PATH " uninstall; "
                            "systemctl daemon-reload", NULL, 0, NULL, 60000, e) < 0)
        return err_wrap(e, "removing the agent");
    step_evidence(s, "agent", true, "removed");
    return 0;
}

const struct step_api step_push_agent = {.name = "push_agent", .title = "Push the agent", .place = STEP_AT_SOURCE, .timeout_ms = 600000,
                                         .attempts = 3, .run = run, .undo = undo};
