#include "identity/private.h"

#include <string.h>

#define SECRET_MAX 65536

static const char *const kinds[] = {"ssh_key", "ssh_password", "token"};
static const char *const sudos[] = {"none", "nopasswd", "password"};

__attribute__((format(printf, 4, 5))) static int fault(json_t *faults, int *count, const char *field, const char *format, ...)
{
    CLEANUP(free_ptr) char *reason = NULL;
    va_list args;

    va_start(args, format);
    if (vasprintf(&reason, format, args) < 0)
        reason = NULL;
    va_end(args);
    if (faults)
        json_array_append_new(faults, json_pack("{s:s, s:s}", "field", field, "reason", reason ? reason : format));
    return ++*count;
}

static bool one_of(const char *text, const char *const *all, size_t count)
{
    for (size_t n = 0; n < count; n++)
        if (strcmp(text, all[n]) == 0)
            return true;
    return false;
}

/* An SSH private key that this program could use: told now, not in the night of the cutover. */
static bool looks_like_key(const char *secret)
{
    return strncmp(secret, "-----BEGIN ", 11) == 0 && strstr(secret, "PRIVATE KEY-----") && strstr(secret, "-----END ");
}

struct wanted {
    const char *name, *kind, *user, *secret, *sudo, *sudo_secret;
};

static int check(const json_t *body, struct wanted *w, json_t *faults, struct err *e)
{
    static const char *const known[] = {"name", "kind", "user", "secret", "sudo", "sudo_secret"};
    bool ssh;
    int count = 0;
    const char *key;
    json_t *value;

    if (!json_is_object(body))
        return err_set(e, ERR_INVALID, "a credential is a JSON object");
    json_object_foreach((json_t *)(uintptr_t)body, key, value)
        if (!one_of(key, known, ARRAY_COUNT(known)))
            fault(faults, &count, key, "there is no such member: name, kind, user, secret, sudo, sudo_secret");
        else if (!json_is_string(value) && !json_is_null(value))
            fault(faults, &count, key, "must be a text");
    *w = (struct wanted){json_get_string(body, "name", ""), json_get_string(body, "kind", ""), json_get_string(body, "user", ""),
                         json_get_string(body, "secret", ""), json_get_string(body, "sudo", "none"), json_get_string(body, "sudo_secret", "")};
    ssh = strncmp(w->kind, "ssh_", 4) == 0;
    if (!name_is_good(w->name, true))
        fault(faults, &count, "name", "1 to %d of A-Z a-z 0-9 . _ -, beginning with a letter or digit", LIMIT_NAME_BYTES);
    if (!one_of(w->kind, kinds, ARRAY_COUNT(kinds)))
        fault(faults, &count, "kind", "must be ssh_key, ssh_password or token");
    if (!*w->secret || strlen(w->secret) > SECRET_MAX)
        fault(faults, &count, "secret", "must be there, and have at most %d bytes", SECRET_MAX);
    else if (strcmp(w->kind, "ssh_key") == 0 && !looks_like_key(w->secret))
        fault(faults, &count, "secret", "is no private key in PEM or OpenSSH form (-----BEGIN … PRIVATE KEY-----)");
    if (ssh && (!*w->user || strlen(w->user) > LIMIT_NAME_BYTES || w->user[0] == '-' || strpbrk(w->user, " \t\r\n@:")))
        fault(faults, &count, "user", "must name the user on the source machine");
    if (!one_of(w->sudo, sudos, ARRAY_COUNT(sudos)))
        fault(faults, &count, "sudo", "must be none, nopasswd or password");
    if (strcmp(w->sudo, "password") == 0 && !*w->sudo_secret && strcmp(w->kind, "ssh_password") != 0)
        fault(faults, &count, "sudo_secret", "is needed for sudo \"password\" with a key");
    if (strpbrk(w->sudo_secret, "\r\n") || strlen(w->sudo_secret) > SECRET_MAX)
        fault(faults, &count, "sudo_secret", "must be one line");
    return count ? err_set(e, ERR_INVALID, "the credential has %d fault%s", count, count == 1 ? "" : "s") : 0;
}

static int seal(struct identity *i, const char *name, const char *part, const char *text, struct buf *out, struct err *e)
{
    CLEANUP(free_ptr) char *context = xasprintf("credential/%s/%s", name, part);

    return identity_seal(i, context, text, strlen(text), out, e);
}

int identity_credential_put(struct identity *i, struct store_tx *tx, const json_t *body, const char *by, json_t *faults, struct err *e)
{
    CLEANUP(buf_release) struct buf secret;
    CLEANUP(buf_release) struct buf sudo_secret;
    int64_t now_us = identity_now_us(i);
    /* sudo asks for the same password that the login took, where no other one is given */
    const char *sudo_text;
    struct wanted w = {0};

    buf_init(&secret, 0);
    buf_init(&sudo_secret, 0);
    if (check(body, &w, faults, e) < 0)
        return -1;
    sudo_text = strcmp(w.sudo, "password") != 0 ? "" : *w.sudo_secret ? w.sudo_secret : w.secret;
    if (seal(i, w.name, "secret", w.secret, &secret, e) < 0 || (*sudo_text && seal(i, w.name, "sudo", sudo_text, &sudo_secret, e) < 0)
        || store_run(tx, e, "INSERT INTO credential (name, kind, user_name, secret, sudo, sudo_secret, created_us) VALUES ($1, $2, NULLIF($3, ''),"
                            " $4, $5, $6, $7) ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, user_name = excluded.user_name, secret ="
                            " excluded.secret, sudo = excluded.sudo, sudo_secret = excluded.sudo_secret, created_us = excluded.created_us",
                     "sssbsbi", w.name, w.kind, w.user, (const void *)secret.data, secret.size_bytes, w.sudo,
                     *sudo_text ? (const void *)sudo_secret.data : NULL, sudo_secret.size_bytes, now_us) < 0)
        return -1;
    return identity_event(tx, by, "credential.set", "credential", w.name,
                          json_pack("{s:s, s:s, s:s}", "kind", w.kind, "user", w.user, "sudo", w.sudo), now_us, e);
}

int identity_credential_remove(struct identity *i, struct store_tx *tx, const char *name, const char *by, struct err *e)
{
    int64_t removed = store_run(tx, e, "DELETE FROM credential WHERE name = $1", "s", name);

    if (removed <= 0)
        return removed < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no credential %s", name);
    return identity_event(tx, by, "credential.removed", "credential", name, NULL, identity_now_us(i), e);
}

int identity_credentials_json(struct store_tx *tx, json_t **items, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *list = json_array();
    int rc = store_query(tx, &rows, e, "SELECT name, kind, user_name, sudo, created_us FROM credential ORDER BY name", "");

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        json_t *credential = json_pack("{s:s, s:s, s:s?, s:s}", "name", store_text(rows, 0), "kind", store_text(rows, 1), "user",
                                       store_text(rows, 2), "sudo", store_text(rows, 3));

        json_set_time(credential, "created", store_int(rows, 4));
        json_array_append_new(list, credential);
    }
    if (rc < 0)
        return -1;
    *items = json_incref(list);
    return 0;
}

/* Opens column into object.member; an absent one becomes "". */
static int unseal_into(struct identity *i, const struct store_rows *rows, int column, const char *name, const char *part, json_t *object,
                       const char *member, struct err *e)
{
    CLEANUP(free_ptr) char *context = xasprintf("credential/%s/%s", name, part);
    CLEANUP(secret_release) struct secret text = {0};
    size_t size;
    const void *sealed = store_blob(rows, column, &size);

    if (sealed && identity_unseal(i, context, sealed, size, &text, e) < 0)
        return -1;
    if (json_object_set_new(object, member, json_stringn(sealed ? text.bytes : "", text.size_bytes)) < 0)
        return err_set(e, ERR_CORRUPT, "%s is not a text", context);
    return 0;
}

int identity_credential(struct identity *i, struct store_tx *tx, const char *name, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *made = NULL;
    int rc;

    if (store_query(tx, &rows, e, "SELECT kind, user_name, secret, sudo, sudo_secret FROM credential WHERE name = $1", "s", name) < 0
        || (rc = store_next(rows, e)) < 0)
        return -1;
    if (!rc)
        return err_set(e, ERR_NOT_FOUND, "there is no credential %s: make it with POST /v1/credentials", name);
    made = json_pack("{s:s, s:s?}", "kind", store_text(rows, 0), "user", store_text(rows, 1));
    if (unseal_into(i, rows, 2, name, "secret", made, "secret", e) < 0)
        return -1;
    json_object_set_new(made, "sudo", json_string(store_text(rows, 3)));
    if (unseal_into(i, rows, 4, name, "sudo", made, "sudo_secret", e) < 0)
        return -1;
    *out = json_incref(made);
    return 0;
}
