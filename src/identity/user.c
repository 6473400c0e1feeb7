#include "identity/private.h"

#include <sodium.h>
#include <string.h>

#define PASSWORD_MIN 10
#define PASSWORD_MAX 1024

static int check_password(const char *password, struct err *e)
{
    size_t length = password ? strlen(password) : 0;

    if (length < PASSWORD_MIN || length > PASSWORD_MAX)
        return err_set(e, ERR_INVALID, "a password has %d to %d bytes", PASSWORD_MIN, PASSWORD_MAX);
    return 0;
}

/* Slow on purpose; never inside a transaction. */
static int hash_password(struct identity *i, const char *password, char hash[static crypto_pwhash_STRBYTES], struct err *e)
{
    int rc;

    pthread_mutex_lock(&i->login_lock); /* 64 MiB at a time */
    rc = crypto_pwhash_str(hash, password, strlen(password), crypto_pwhash_OPSLIMIT_INTERACTIVE, crypto_pwhash_MEMLIMIT_INTERACTIVE);
    pthread_mutex_unlock(&i->login_lock);
    return rc == 0 ? 0 : err_set(e, ERR_INTERNAL, "argon2id found too little memory");
}

int identity_user_add(struct identity *i, const char *name, const char *password, enum actor_role role, bool admin, const char *by,
                      struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t now_us = identity_now_us(i), added;
    char hash[crypto_pwhash_STRBYTES];

    if (!name_is_good(name, false))
        return err_set(e, ERR_INVALID, "a user's name has 1 to %d of a-z 0-9 . _ - and begins with a letter or digit", LIMIT_NAME_BYTES);
    if (role != ROLE_VIEWER && role != ROLE_OPERATOR)
        return err_set(e, ERR_INVALID, "a user's role is viewer or operator");
    if (check_password(password, e) < 0 || hash_password(i, password, hash, e) < 0 || store_begin(i->store, STORE_WRITE, &tx, e) < 0)
        return -1;
    added = store_run(tx, e, "INSERT INTO app_user (name, password, role, admin, created_us) VALUES ($1, $2, $3, $4, $5)"
                             " ON CONFLICT (name) DO NOTHING", "sssii", name, hash, actor_role_name(role), (int64_t)admin, now_us);
    if (added <= 0)
        return added < 0 ? -1 : err_set(e, ERR_CONFLICT, "there is a user %s already", name);
    if (identity_event(tx, by, "user.created", "user", name, json_pack("{s:s, s:b}", "role", actor_role_name(role), "admin", admin),
                       now_us, e) < 0)
        return -1;
    return store_commit(&tx, e);
}

int identity_password_set(struct identity *i, const char *name, const char *password, const char *by, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    char hash[crypto_pwhash_STRBYTES];
    int64_t changed;

    if (check_password(password, e) < 0 || hash_password(i, password, hash, e) < 0 || store_begin(i->store, STORE_WRITE, &tx, e) < 0)
        return -1;
    changed = store_run(tx, e, "UPDATE app_user SET password = $1 WHERE name = $2", "ss", hash, name);
    if (changed <= 0)
        return changed < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no user %s", name);
    if (store_run(tx, e, "DELETE FROM user_session WHERE user_name = $1", "s", name) < 0
        || identity_event(tx, by, "user.password_set", "user", name, NULL, identity_now_us(i), e) < 0)
        return -1;
    return store_commit(&tx, e);
}

int identity_user_remove(struct identity *i, const char *name, const char *by, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t admin = 0, admins = 0;
    int rc;

    if (store_begin(i->store, STORE_WRITE, &tx, e) < 0)
        return -1;
    rc = store_one_int(tx, &admin, e, "SELECT admin FROM app_user WHERE name = $1", "s", name);
    if (rc <= 0)
        return rc < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no user %s", name);
    if (store_one_int(tx, &admins, e, "SELECT COUNT(*) FROM app_user WHERE admin = 1", "") < 0)
        return -1;
    if (admin && admins == 1)
        return err_set(e, ERR_WRONG_STATE, "%s is the last admin: make another one first", name);
    if (store_run(tx, e, "DELETE FROM app_user WHERE name = $1", "s", name) < 0
        || identity_event(tx, by, "user.removed", "user", name, NULL, identity_now_us(i), e) < 0)
        return -1;
    return store_commit(&tx, e);
}

int identity_user_count(struct store_tx *tx, int64_t *count, struct err *e)
{
    return store_one_int(tx, count, e, "SELECT COUNT(*) FROM app_user", "") < 0 ? -1 : 0;
}

int identity_users_json(struct store_tx *tx, json_t **items, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *list = json_array();
    int rc = store_query(tx, &rows, e, "SELECT name, role, admin, created_us, last_login_us FROM app_user ORDER BY name", "");

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        json_t *user = json_pack("{s:s, s:s, s:b}", "name", store_text(rows, 0), "role", store_text(rows, 1), "admin",
                                 store_int(rows, 2) != 0);

        json_set_time(user, "created", store_int(rows, 3));
        json_set_time(user, "last_login", store_int(rows, 4));
        json_array_append_new(list, user);
    }
    if (rc < 0)
        return -1;
    *items = json_incref(list);
    return 0;
}
