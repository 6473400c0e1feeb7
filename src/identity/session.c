/* session: signing in, and who a session's or API token is. A token is found by its hash; what the database holds opens nothing. */
#include "identity/private.h"

#include <sodium.h>
#include <string.h>

#define SESSION_PREFIX "sess_"
#define API_PREFIX "slip_"
#define MINUTE_US (INT64_C(60) * US_PER_S)
#define SESSION_IDLE_US (480 * MINUTE_US)       /* unused for that long, it ends */
#define SESSION_WHOLE_US (7 * 1440 * MINUTE_US) /* and after that in any case */
#define TOUCH_US (5 * MINUTE_US)                /* how exact "last used" is */
#define FAILURES_FORGOTTEN_US (60 * MINUTE_US)
#define WAIT_MAX_US (15 * MINUTE_US)

/* From the limit on, each failure makes the subject wait, twice as long each time. The wide ones stop a search over many names or
 * from many addresses, the narrow one a search for one password, without shutting its owner out elsewhere. */
static const struct failure_limit {
    const char *name;
    bool by_name, by_address;
    int failures;
    int64_t wait_us;
} failure_limits[] = {
    {"pair", true, true, 5, 30 * US_PER_S},
    {"address", false, true, 30, 60 * US_PER_S},
    {"name", true, false, 100, 60 * US_PER_S},
};

static char *subject_of(const struct failure_limit *limit, const char *name, const char *address)
{
    return xasprintf("%s%s%s%s%s", limit->name, limit->by_name ? " " : "", limit->by_name ? name : "", limit->by_address ? " " : "",
                     limit->by_address ? address : "");
}

static int refuse_while_waiting(struct store_tx *tx, const char *name, const char *address, int64_t now_us, struct err *e)
{
    for (size_t n = 0; n < ARRAY_COUNT(failure_limits); n++) {
        CLEANUP(free_ptr) char *subject = subject_of(&failure_limits[n], name, address);
        int64_t until_us = 0;

        if (store_one_int(tx, &until_us, e, "SELECT until_us FROM login_failure WHERE subject = $1", "s", subject) < 0)
            return -1;
        if (until_us > now_us)
            return err_set(e, ERR_LIMIT, "too many failed sign-ins: try again in %lld s", (long long)((until_us - now_us) / US_PER_S + 1));
    }
    return 0;
}

static int count_failure(struct store_tx *tx, const struct failure_limit *limit, const char *subject, int64_t now_us, bool *waits,
                         struct err *e)
{
    int64_t failures = 0, over, wait_us = 0;

    if (store_one_int(tx, &failures, e, "SELECT failures FROM login_failure WHERE subject = $1", "s", subject) < 0)
        return -1;
    over = ++failures - limit->failures;
    if (over >= 0)
        wait_us = over < 10 ? limit->wait_us << over : WAIT_MAX_US;
    wait_us = wait_us > WAIT_MAX_US ? WAIT_MAX_US : wait_us;
    *waits = *waits || over == 0;
    return store_run(tx, e, "INSERT INTO login_failure (subject, failures, last_us, until_us) VALUES ($1, $2, $3, $4) ON CONFLICT (subject)"
                            " DO UPDATE SET failures = excluded.failures, last_us = excluded.last_us, until_us = excluded.until_us",
                     "siii", subject, failures, now_us, now_us + wait_us) < 0 ? -1 : 0;
}

/* In its own transaction: it stays although the sign-in fails. */
static int note_failure(struct identity *i, const char *name, const char *address, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t now_us = identity_now_us(i);
    bool waits = false;

    if (store_begin(i->store, STORE_WRITE, &tx, e) < 0
        || store_run(tx, e, "DELETE FROM login_failure WHERE last_us < $1", "i", now_us - FAILURES_FORGOTTEN_US) < 0)
        return -1;
    for (size_t n = 0; n < ARRAY_COUNT(failure_limits); n++) {
        CLEANUP(free_ptr) char *subject = subject_of(&failure_limits[n], name, address);

        if (count_failure(tx, &failure_limits[n], subject, now_us, &waits, e) < 0)
            return -1;
    }
    if (waits && identity_event(tx, "factory", "user.sign_in_limited", "user", name, json_pack("{s:s}", "address", address), now_us, e) < 0)
        return -1;
    return store_commit(&tx, e);
}

static int begin_session(struct identity *i, const char *name, const char *address, struct identity_session *out, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(free_ptr) char *subject = subject_of(&failure_limits[0], name, address);
    int64_t now_us = identity_now_us(i);
    struct identity_session made;
    char hash[HASH_SHA256_HEX_SIZE];

    token_new(SESSION_PREFIX, made.token);
    token_hash(made.token, hash);
    made.expires_us = now_us + SESSION_IDLE_US;
    if (store_begin(i->store, STORE_WRITE, &tx, e) < 0
        || store_run(tx, e, "DELETE FROM user_session WHERE expires_us < $1", "i", now_us - SESSION_WHOLE_US) < 0
        || store_run(tx, e, "DELETE FROM login_failure WHERE subject = $1", "s", subject) < 0
        || store_run(tx, e, "UPDATE app_user SET last_login_us = $1 WHERE name = $2", "is", now_us, name) < 0
        || store_run(tx, e, "INSERT INTO user_session (hash, user_name, created_us, expires_us) VALUES ($1, $2, $3, $4)", "ssii", hash, name,
                     now_us, made.expires_us) < 0
        || identity_event(tx, "factory", "user.signed_in", "user", name, json_pack("{s:s}", "address", address), now_us, e) < 0
        || store_commit(&tx, e) < 0 || identity_session(i, made.token, &made.actor, e) < 0)
        return -1;
    *out = made;
    return 0;
}

/* The user's password hash, or one that nothing fits: 1 known, 0 not, -1. */
static int find_password(struct identity *i, const char *name, const char *address, char **hash, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc;

    if (store_begin(i->store, STORE_READ, &tx, e) < 0 || refuse_while_waiting(tx, name, address, identity_now_us(i), e) < 0
        || store_query(tx, &rows, e, "SELECT password FROM app_user WHERE name = $1", "s", name) < 0 || (rc = store_next(rows, e)) < 0)
        return -1;
    *hash = xstrdup(rc ? store_text(rows, 0) : i->dummy_password);
    return rc;
}

static int login(struct identity *i, const char *name, const char *password, const char *address, struct identity_session *out, struct err *e)
{
    CLEANUP(free_ptr) char *hash = NULL;
    int known = find_password(i, name, address, &hash, e);

    if (known < 0)
        return -1;
    if (crypto_pwhash_str_verify(hash, password, strlen(password)) == 0 && known)
        return begin_session(i, name, address, out, e);
    if (note_failure(i, name, address, e) < 0)
        return -1;
    return err_set(e, ERR_UNAUTHENTICATED, "no user has this name and password");
}

int identity_login(struct identity *i, const char *name, const char *password, const char *address, struct identity_session *out,
                   struct err *e)
{
    int rc;

    if (!name_is_good(name, false) || !password || strlen(password) > 1024) /* no user can be like that */
        return err_set(e, ERR_UNAUTHENTICATED, "no user has this name and password");
    pthread_mutex_lock(&i->login_lock);
    rc = login(i, name, password, address && strlen(address) <= LIMIT_NAME_BYTES ? address : "unknown", out, e);
    pthread_mutex_unlock(&i->login_lock);
    return rc;
}

static void set_user(struct actor *out, const struct store_rows *rows, int column)
{
    actor_set(out, ACTOR_USER, store_text(rows, column));
    role_named(store_text(rows, column + 1), &out->role);
    out->admin = store_int(rows, column + 2) != 0;
}

/* Writes a time in the background of a read; when it can't, the request goes on without. */
static void touch(struct identity *i, const char *sql, int64_t time_us, const char *hash)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    if (store_begin(i->store, STORE_WRITE, &tx, NULL) == 0 && store_run(tx, NULL, sql, "is", time_us, hash) >= 0)
        store_commit(&tx, NULL);
}

int identity_session(struct identity *i, const char *token, struct actor *out, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int64_t now_us = identity_now_us(i), expires_us, longest_us;
    char hash[HASH_SHA256_HEX_SIZE];
    int rc;

    if (strncmp(token, SESSION_PREFIX, strlen(SESSION_PREFIX)) != 0 || strlen(token) >= IDENTITY_TOKEN_SIZE)
        return err_set(e, ERR_UNAUTHENTICATED, "this is not a session: sign in");
    token_hash(token, hash);
    if (store_begin(i->store, STORE_READ, &tx, e) < 0
        || store_query(tx, &rows, e, "SELECT s.expires_us, s.created_us, u.name, u.role, u.admin FROM user_session s JOIN app_user u"
                                     " ON u.name = s.user_name WHERE s.hash = $1", "s", hash) < 0
        || (rc = store_next(rows, e)) < 0)
        return -1;
    if (!rc)
        return err_set(e, ERR_UNAUTHENTICATED, "this session is unknown or was ended: sign in again");
    expires_us = store_int(rows, 0);
    if (expires_us <= now_us)
        return err_set(e, ERR_UNAUTHENTICATED, "this session has expired: sign in again");
    longest_us = store_int(rows, 1) + SESSION_WHOLE_US;
    set_user(out, rows, 2);
    out->by_session = true;
    token_csrf(token, out->csrf);
    store_rollback(&tx);
    longest_us = longest_us < now_us + SESSION_IDLE_US ? longest_us : now_us + SESSION_IDLE_US;
    if (longest_us - expires_us > TOUCH_US)
        touch(i, "UPDATE user_session SET expires_us = $1 WHERE hash = $2", longest_us, hash);
    return 0;
}

int identity_logout(struct identity *i, const char *token, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    char hash[HASH_SHA256_HEX_SIZE];
    struct actor actor;

    if (identity_session(i, token, &actor, e) < 0)
        return -1;
    token_hash(token, hash);
    if (store_begin(i->store, STORE_WRITE, &tx, e) < 0 || store_run(tx, e, "DELETE FROM user_session WHERE hash = $1", "s", hash) < 0
        || identity_event(tx, actor.text, "user.signed_out", "user", actor.name, NULL, identity_now_us(i), e) < 0)
        return -1;
    return store_commit(&tx, e);
}

int identity_csrf_check(const struct actor *actor, const char *header, struct err *e)
{
    if (!actor->by_session)
        return 0;
    if (!header || strlen(header) != strlen(actor->csrf) || sodium_memcmp(header, actor->csrf, strlen(actor->csrf)) != 0)
        return err_set(e, ERR_DENIED, "a change by cookie needs the header X-CSRF-Token with the session's csrf value (GET /v1/me)");
    return 0;
}

int identity_token_make(struct identity *i, const struct actor *owner, const char *name, int64_t expires_in_us,
                        struct identity_token *out, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t now_us = identity_now_us(i), added;
    struct identity_token made = {.expires_us = expires_in_us ? now_us + expires_in_us : 0};
    char hash[HASH_SHA256_HEX_SIZE];

    if (owner->kind != ACTOR_USER)
        return err_set(e, ERR_DENIED, "only a user has API tokens");
    if (!name_is_good(name, true))
        return err_set(e, ERR_INVALID, "a token's name has 1 to %d of A-Z a-z 0-9 . _ - and begins with a letter or digit", LIMIT_NAME_BYTES);
    if (expires_in_us < 0)
        return err_set(e, ERR_INVALID, "a token can't expire before it is made");
    token_new(API_PREFIX, made.text);
    token_hash(made.text, hash);
    snprintf(made.id, sizeof made.id, "%.16s", hash);
    if (store_begin(i->store, STORE_WRITE, &tx, e) < 0)
        return -1;
    added = store_run(tx, e, "INSERT INTO api_token (id, hash, user_name, name, created_us, expires_us) VALUES ($1, $2, $3, $4, $5,"
                             " NULLIF($6, 0)) ON CONFLICT (user_name, name) DO NOTHING", "ssssii", made.id, hash, owner->name, name, now_us,
                      made.expires_us);
    if (added <= 0)
        return added < 0 ? -1 : err_set(e, ERR_CONFLICT, "%s has a token %s already: remove it or take another name", owner->name, name);
    if (identity_event(tx, owner->text, "token.created", "token", made.id, json_pack("{s:s, s:s}", "user", owner->name, "name", name), now_us,
                       e) < 0 || store_commit(&tx, e) < 0)
        return -1;
    *out = made;
    return 0;
}

int identity_token(struct identity *i, const char *token, struct actor *out, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int64_t now_us = identity_now_us(i);
    char hash[HASH_SHA256_HEX_SIZE];
    bool stale;
    int rc;

    if (strncmp(token, API_PREFIX, strlen(API_PREFIX)) != 0 || strlen(token) >= IDENTITY_TOKEN_SIZE)
        return err_set(e, ERR_UNAUTHENTICATED, "this is not an API token: those begin with " API_PREFIX);
    token_hash(token, hash);
    if (store_begin(i->store, STORE_READ, &tx, e) < 0
        || store_query(tx, &rows, e, "SELECT t.expires_us, t.last_used_us, u.name, u.role, u.admin FROM api_token t JOIN app_user u"
                                     " ON u.name = t.user_name WHERE t.hash = $1", "s", hash) < 0
        || (rc = store_next(rows, e)) < 0)
        return -1;
    if (!rc)
        return err_set(e, ERR_UNAUTHENTICATED, "this API token is unknown or was removed");
    if (!store_is_null(rows, 0) && store_int(rows, 0) <= now_us)
        return err_set(e, ERR_UNAUTHENTICATED, "this API token has expired: make another one");
    stale = now_us - store_int(rows, 1) > TOUCH_US;
    set_user(out, rows, 2);
    store_rollback(&tx);
    if (stale)
        touch(i, "UPDATE api_token SET last_used_us = $1 WHERE hash = $2", now_us, hash);
    return 0;
}

int identity_tokens_json(struct store_tx *tx, const char *owner, json_t **items, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *list = json_array();
    int rc = owner
        ? store_query(tx, &rows, e, "SELECT id, name, user_name, created_us, expires_us, last_used_us FROM api_token WHERE user_name = $1"
                                    " ORDER BY name", "s", owner)
        : store_query(tx, &rows, e, "SELECT id, name, user_name, created_us, expires_us, last_used_us FROM api_token ORDER BY user_name, name", "");

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        json_t *token = json_pack("{s:s, s:s, s:s}", "id", store_text(rows, 0), "name", store_text(rows, 1), "user", store_text(rows, 2));

        json_set_time(token, "created", store_int(rows, 3));
        json_set_time(token, "expires", store_int(rows, 4));
        json_set_time(token, "last_used", store_int(rows, 5));
        json_array_append_new(list, token);
    }
    if (rc < 0)
        return -1;
    *items = json_incref(list);
    return 0;
}

int identity_token_remove(struct identity *i, const char *id, const char *owner, const char *by, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t removed;

    if (store_begin(i->store, STORE_WRITE, &tx, e) < 0)
        return -1;
    removed = store_run(tx, e, "DELETE FROM api_token WHERE id = $1 AND ($2 = '' OR user_name = $2)", "ss", id, owner ? owner : "");
    if (removed <= 0)
        return removed < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no token %s%s%s", id, owner ? " of " : "", owner ? owner : "");
    if (identity_event(tx, by, "token.removed", "token", id, NULL, identity_now_us(i), e) < 0)
        return -1;
    return store_commit(&tx, e);
}
