/* What other rooms own and a task document needs: the credential, for steps that log in; an agent's one-time token, for push_agent and push_copy;
 * the factory's settings and addresses. A step gets no secret that it has no use for. */
#include "api/api.h"
#include "api/placing.h"

#include "base/clock.h"
#include "workflow/templates.h"

#include <string.h>

/* Steps that log in though they don't run beside the sources: the copy takes the source's credential. */
static const char *const logs_in[] = {"boot_test", "verify_cutover", "right_size", "push_copy", "last_change", "resume_copy"};

static const char *label_of(const char *step)
{
    for (const struct template *const *t = template_table; *t; t++)
        for (const struct template_task *task = (*t)->tasks; task->name; task++)
            if (task->step && strcmp(task->step, step) == 0)
                return task->label;
    return "";
}

static bool needs_credential(const struct workflow_claimed *what)
{
    if (!what->server)
        return false;
    for (size_t i = 0; i < ARRAY_COUNT(logs_in); i++)
        if (strcmp(what->step, logs_in[i]) == 0)
            return true;
    return strncmp(label_of(what->step), "source", 6) == 0;
}

/* The server's own, else the wave's, else the factory's. */
static const char *credential_name(const json_t *document, const json_t *settings)
{
    const char *name = json_get_string(json_object_get(json_object_get(document, "server"), "attributes"), "credential", NULL);

    if (!name || !*name)
        name = json_get_string(json_object_get(json_object_get(document, "wave"), "settings"), "credential", NULL);
    return name && *name ? name : json_get_string(json_object_get(settings, "credential"), "name", NULL);
}

static int add_credential(struct api *a, struct store_tx *tx, const struct workflow_claimed *what, json_t *document, const json_t *settings,
                          struct err *e)
{
    CLEANUP(json_free) json_t *credential = NULL;
    CLEANUP(free_ptr) char *host_key = NULL;
    const char *name = credential_name(document, settings);

    if (!name)
        return err_set(e, ERR_INVALID, "no credential is named for %s: set its attribute \"credential\", its wave's setting, or the factory's",
                       what->server);
    if (identity_credential(a->identity, tx, name, &credential, e) < 0 || inventory_host_key(tx, what->server, &host_key, e) < 0)
        return err_wrap(e, "the credential of %s", what->server);
    json_object_set_new(credential, "host_key", host_key ? json_string(host_key) : json_null());
    return json_object_set(document, "credential", credential);
}

/* The CMDB's token travels as the credential of the one step that uses it. */
static int add_cmdb_token(struct api *a, struct store_tx *tx, json_t *document, const json_t *settings, struct err *e)
{
    CLEANUP(json_free) json_t *credential = NULL;
    const char *name = json_get_string(json_object_get(settings, "cmdb"), "token_credential", NULL);

    if (!name)
        return 0;
    if (identity_credential(a->identity, tx, name, &credential, e) < 0)
        return err_wrap(e, "the token of the CMDB");
    return json_object_set(document, "credential", credential);
}

static int add_enrolment(struct api *a, struct store_tx *tx, const struct workflow_claimed *what, json_t *document, struct err *e)
{
    char token[IDENTITY_TOKEN_SIZE];
    int64_t expires_us;

    CLEANUP(free_ptr) char *name = xasprintf("%s%s", what->server, strcmp(what->step, "push_copy") == 0 ? COPY_SUFFIX : "");

    if (identity_enrolment_make(a->identity, tx, ACTOR_AGENT, name, NULL, 0, 0, "factory", token, &expires_us, e) < 0)
        return err_wrap(e, "the agent's enrolment token");
    json_object_set_new(document, "enrolment", json_pack("{s:s}", "token", token));
    explicit_bzero(token, sizeof token);
    return 0;
}

/* The replicator beside the embedded runner listens in the data folder, unless the setting says where another does. */
static void add_control_socket(const struct api *a, json_t *settings)
{
    json_t *replicator = json_object_get(settings, "replicator");
    const char *control = json_get_string(replicator, "control", NULL);

    if (!json_is_object(replicator))
        json_object_set_new(settings, "replicator", replicator = json_object());
    json_object_set_new(replicator, "control_socket", control ? json_string(control) : json_sprintf("%s/replicator/control.sock", a->data_dir));
}

int api_complete_document(void *user, struct store_tx *tx, const struct workflow_claimed *what, json_t *document, struct err *e)
{
    struct api *a = user;
    CLEANUP(json_free) json_t *settings = NULL;
    int64_t version;

    if (settings_read(tx, &settings, &version, e) < 0)
        return -1;
    if (needs_credential(what) && add_credential(a, tx, what, document, settings, e) < 0)
        return -1;
    if (strcmp(what->step, "cmdb_retire") == 0 && add_cmdb_token(a, tx, document, settings, e) < 0)
        return -1;
    if ((strcmp(what->step, "push_agent") == 0 || strcmp(what->step, "push_copy") == 0) && add_enrolment(a, tx, what, document, e) < 0)
        return -1;
    add_control_socket(a, settings);
    if (placing_complete(a, tx, what, settings, e) < 0)
        return -1;
    json_object_set(document, "settings", settings);
    json_object_set_new(document, "api_url", json_string(a->url));
    json_object_set_new(document, "ca_pem", json_string(identity_ca_pem(a->identity)));
    return 0;
}
