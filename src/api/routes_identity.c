/* Sessions, users, tokens, enrolment, credentials: over identity/. */
#include "api/api.h"
#include "api/routes.h"
#include "base/clock.h"

#include <stdatomic.h>
#include <string.h>

/* --- sessions --- */

static json_t *me_json(const struct actor *who)
{
    return json_pack("{s:s, s:s, s:b, s:s}", "name", who->name, "role", actor_role_name(who->role), "admin", who->admin, "csrf", who->csrf);
}

/* Hashing takes a tenth of a second and 64 MiB: who comes while others hash is parked, so that strangers can't take all workers. */
static int login(struct http_call *c, const char *name, const char *password, struct identity_session *session, struct err *e)
{
    struct api *a = api_of(c);
    int64_t now_us = clock_monotonic_us();
    int result = -1;

    if (!c->poll_until_us)
        c->poll_until_us = now_us + API_LOGIN_WAIT_MS * US_PER_MS;
    if (atomic_fetch_add(&a->logins, 1) < API_LIMIT_LOGINS)
        result = identity_login(a->identity, name, password, call_peer_address(c), session, e);
    else if (now_us < c->poll_until_us && !call_is_last(c))
        result = call_park(c, now_us + 50 * US_PER_MS);
    else
        err_set(e, ERR_LIMIT, "too many are signing in at this moment: try again");
    a->logins--;
    if (result < 0 && e->kind == ERR_LIMIT) /* or too many failures */
        c->problem_status = 429;
    return result;
}

int route_session_create(struct http_call *c, struct err *e)
{
    struct identity_session session;
    const char *name, *password;
    int64_t age_s;
    int result;

    if (json_need_string(c->body, "name", &name, e) < 0 || json_need_string(c->body, "password", &password, e) < 0)
        return -1;
    result = login(c, name, password, &session, e);
    if (result != 0)
        return result;
    age_s = (session.expires_us - clock_now_us()) / US_PER_S;
    reply_header(c, "Set-Cookie", "%s=%s; Path=/; Max-Age=%lld; HttpOnly; Secure; SameSite=Strict", API_COOKIE, session.token,
                 (long long)age_s);
    explicit_bzero(session.token, sizeof session.token);
    return reply_json(c, 201, json_pack("{s:o, s:s}", "user", me_json(&session.actor), "csrf", session.actor.csrf));
}

int route_session_end(struct http_call *c, struct err *e)
{
    const char *token = call_cookie(c, API_COOKIE);

    if (!c->who.by_session || !token)
        return err_set(e, ERR_WRONG_STATE, "there is no session to end: this request was signed with a token");
    if (identity_logout(api_of(c)->identity, token, e) < 0)
        return -1;
    reply_header(c, "Set-Cookie", "%s=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Strict", API_COOKIE);
    return reply_empty(c, 204);
}

int route_me(struct http_call *c, struct err *e)
{
    (void)e;
    return reply_json(c, 200, me_json(&c->who));
}

/* --- users and tokens --- */

int route_users(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    json_t *items = NULL;

    if (api_read(c, &tx, e) < 0)
        return -1;
    return api_reply_items(c, identity_users_json(tx, &items, e), &items);
}

int route_user_add(struct http_call *c, struct err *e)
{
    const char *name, *password, *role = json_get_string(c->body, "role", "viewer");
    bool admin = json_get_bool(c->body, "admin", false);
    enum actor_role given = ROLE_NONE;

    for (enum actor_role r = ROLE_VIEWER; r <= ROLE_OPERATOR; r++)
        if (strcmp(role, actor_role_name(r)) == 0)
            given = r;
    if (given == ROLE_NONE)
        call_fault(c, "role", "must be viewer or operator");
    if (json_need_string(c->body, "name", &name, e) < 0)
        call_fault(c, "name", "must be a text");
    if (json_need_string(c->body, "password", &password, e) < 0)
        call_fault(c, "password", "must be a text of at least 10 bytes");
    if (c->faults)
        return err_set(e, ERR_INVALID, "this user can't be added");
    if (identity_user_add(api_of(c)->identity, name, password, given, admin, c->who.text, e) < 0)
        return -1;
    return reply_json(c, 201, json_pack("{s:s, s:s, s:b}", "name", name, "role", role, "admin", admin));
}

/* One's own password, or, for an admin, anybody's. */
int route_user_password(struct http_call *c, struct err *e)
{
    const char *name = call_param(c, "name"), *password;

    if (!c->who.admin && strcmp(name, c->who.name) != 0)
        return err_set(e, ERR_DENIED, "%s may set only their own password", c->who.name);
    if (json_need_string(c->body, "password", &password, e) < 0)
        return -1;
    return identity_password_set(api_of(c)->identity, name, password, c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

int route_user_remove(struct http_call *c, struct err *e)
{
    return identity_user_remove(api_of(c)->identity, call_param(c, "name"), c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

int route_tokens(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    json_t *items = NULL;

    if (api_read(c, &tx, e) < 0)
        return -1;
    return api_reply_items(c, identity_tokens_json(tx, c->who.admin ? NULL : c->who.name, &items, e), &items);
}

/* expires_in: seconds as a number, or "90d", "12h" as clock_parse_duration reads them. */
static int read_duration(const json_t *body, const char *name, int64_t *duration_us, struct err *e)
{
    const json_t *value = json_object_get(body, name);

    if (!value || json_is_null(value))
        return 0;
    if (json_is_integer(value) && json_integer_value(value) > 0 && json_integer_value(value) < INT64_MAX / US_PER_S) {
        *duration_us = json_integer_value(value) * US_PER_S;
        return 0;
    }
    if (json_is_string(value) && clock_parse_duration(json_string_value(value), duration_us, e) == 0)
        return 0;
    return err_set(e, ERR_INVALID, "\"%s\" must be a count of seconds, or a text such as \"90d\" or \"12h\"", name);
}

int route_token_make(struct http_call *c, struct err *e)
{
    struct identity_token made;
    int64_t expires_in_us = 0;
    const char *name;
    json_t *answer;

    if (json_need_string(c->body, "name", &name, e) < 0 || read_duration(c->body, "expires_in", &expires_in_us, e) < 0 ||
        identity_token_make(api_of(c)->identity, &c->who, name, expires_in_us, &made, e) < 0)
        return -1;
    answer = json_pack("{s:s, s:s, s:s}", "id", made.id, "token", made.text, "name", name);
    json_set_time(answer, "expires", made.expires_us);
    return reply_json(c, 201, answer);
}

int route_token_remove(struct http_call *c, struct err *e)
{
    const char *owner = c->who.admin ? NULL : c->who.name;

    return identity_token_remove(api_of(c)->identity, call_param(c, "id"), owner, c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

/* --- enrolment --- */

static int kind_named(const char *name, enum actor_kind *kind, struct err *e)
{
    for (enum actor_kind k = ACTOR_RUNNER; k <= ACTOR_AGENT; k++)
        if (strcmp(name, actor_kind_name(k)) == 0) {
            *kind = k;
            return 0;
        }
    return err_set(e, ERR_INVALID, "\"kind\" must be runner, replicator or agent");
}

static int read_labels(const json_t *body, const char *labels[IDENTITY_LABELS_MAX], int *count, struct err *e)
{
    const json_t *list = json_object_get(body, "labels"), *label;
    size_t index;

    *count = 0;
    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list) || json_array_size(list) > IDENTITY_LABELS_MAX)
        return err_set(e, ERR_INVALID, "\"labels\" must be a list of at most %d texts", IDENTITY_LABELS_MAX);
    json_array_foreach(list, index, label) {
        if (!json_is_string(label))
            return err_set(e, ERR_INVALID, "\"labels\" must be a list of texts");
        labels[(*count)++] = json_string_value(label);
    }
    return 0;
}

int route_enrolment_make(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    const char *kind_name, *name, *labels[IDENTITY_LABELS_MAX];
    char token[IDENTITY_TOKEN_SIZE];
    int64_t ttl_s = json_get_int(c->body, "ttl_s", 0), expires_us = 0;
    enum actor_kind kind = ACTOR_RUNNER;
    json_t *answer;
    int label_count;

    if (json_need_string(c->body, "kind", &kind_name, e) < 0 || kind_named(kind_name, &kind, e) < 0 ||
        json_need_string(c->body, "name", &name, e) < 0 || read_labels(c->body, labels, &label_count, e) < 0)
        return -1;
    if (ttl_s < 0 || ttl_s > 30 * 86400)
        return err_set(e, ERR_INVALID, "\"ttl_s\" must be from 1 to 2592000 (30 days)");
    if (api_write(c, &tx, e) < 0 ||
        identity_enrolment_make(api_of(c)->identity, tx, kind, name, labels, label_count, ttl_s * US_PER_S, c->who.text, token, &expires_us, e) < 0 ||
        store_commit(&tx, e) < 0)
        return -1;
    answer = json_pack("{s:s, s:s}", "token", token, "ca_fingerprint", identity_ca_fingerprint(api_of(c)->identity));
    json_set_time(answer, "expires", expires_us);
    return reply_json(c, 201, answer);
}

int route_enrol(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(free_ptr) char *certificate = NULL;
    const char *token, *csr;
    struct actor who;

    if (json_need_string(c->body, "token", &token, e) < 0 || json_need_string(c->body, "csr_pem", &csr, e) < 0)
        return -1;
    if (strlen(token) < 40 || strlen(token) >= IDENTITY_TOKEN_SIZE) /* a stranger's guess doesn't get at the writer */
        return err_set(e, ERR_UNAUTHENTICATED, "this is no enrolment token: an operator makes one with `slipway enrol`");
    if (api_write(c, &tx, e) < 0 ||
        identity_enrol(api_of(c)->identity, tx, token, csr, &certificate, &who, e) < 0 || store_commit(&tx, e) < 0)
        return -1;
    return reply_json(c, 201, json_pack("{s:s, s:s, s:s}", "certificate_pem", certificate, "ca_pem", identity_ca_pem(api_of(c)->identity),
                                        "name", who.name));
}

static int peers(struct http_call *c, enum actor_kind kind, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    json_t *items = NULL;

    if (api_read(c, &tx, e) < 0)
        return -1;
    return api_reply_items(c, identity_peers_json(api_of(c)->identity, tx, kind, &items, e), &items);
}

int route_runners(struct http_call *c, struct err *e)
{
    return peers(c, ACTOR_RUNNER, e);
}

int route_agents(struct http_call *c, struct err *e)
{
    return peers(c, ACTOR_AGENT, e);
}

int route_runner_revoke(struct http_call *c, struct err *e)
{
    return identity_revoke(api_of(c)->identity, ACTOR_RUNNER, call_param(c, "name"), c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

int route_agent_revoke(struct http_call *c, struct err *e)
{
    return identity_revoke(api_of(c)->identity, ACTOR_AGENT, call_param(c, "name"), c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

int route_replicator_revoke(struct http_call *c, struct err *e)
{
    return identity_revoke(api_of(c)->identity, ACTOR_REPLICATOR, call_param(c, "name"), c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

/* --- keys of vaults: for the replicator whose certificate asks --- */

static int reply_vault_keys(struct http_call *c, struct store_tx *tx, int status, struct err *e)
{
    json_t *keys = NULL;

    return identity_vault_keys(api_of(c)->identity, tx, c->who.name, &keys, e) < 0 ? -1 : reply_json(c, status, json_pack("{s:o}", "keys", keys));
}

int route_vault_keys(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    return api_read(c, &tx, e) < 0 ? -1 : reply_vault_keys(c, tx, 200, e);
}

int route_vault_key_make(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    if (api_write(c, &tx, e) < 0 || identity_vault_key_make(api_of(c)->identity, tx, c->who.name, e) < 0 || store_commit(&tx, e) < 0 || api_read(c, &tx, e) < 0)
        return -1;
    return reply_vault_keys(c, tx, 201, e);
}

/* --- credentials --- */

int route_credentials(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    json_t *items = NULL;

    if (api_read(c, &tx, e) < 0)
        return -1;
    return api_reply_items(c, identity_credentials_json(tx, &items, e), &items);
}

int route_credential_put(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    if (api_write(c, &tx, e) < 0 ||
        identity_credential_put(api_of(c)->identity, tx, c->body, c->who.text, api_faults(c), e) < 0 || store_commit(&tx, e) < 0)
        return api_failed(c, e);
    return reply_json(c, 201, json_pack("{s:s}", "name", json_get_string(c->body, "name", "")));
}

int route_credential_remove(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    if (api_write(c, &tx, e) < 0 || identity_credential_remove(api_of(c)->identity, tx, call_param(c, "name"), c->who.text, e) < 0 ||
        store_commit(&tx, e) < 0)
        return -1;
    return reply_empty(c, 204);
}
