#include "identity/private.h"

#include <sodium.h>
#include <string.h>

static const char *const kind_names[] = {"user", "runner", "replicator", "agent"};
static const char *const role_names[] = {"none", "viewer", "operator"};

const char *actor_kind_name(enum actor_kind kind)
{
    MUST((size_t)kind < ARRAY_COUNT(kind_names));
    return kind_names[kind];
}

const char *actor_role_name(enum actor_role role)
{
    MUST((size_t)role < ARRAY_COUNT(role_names));
    return role_names[role];
}

bool role_named(const char *name, enum actor_role *out)
{
    for (size_t role = ROLE_VIEWER; name && role < ARRAY_COUNT(role_names); role++)
        if (strcmp(role_names[role], name) == 0) {
            *out = (enum actor_role)role;
            return true;
        }
    return false;
}

bool peer_kind_named(const char *name, enum actor_kind *out)
{
    for (size_t kind = ACTOR_RUNNER; name && kind < ARRAY_COUNT(kind_names); kind++)
        if (strcmp(kind_names[kind], name) == 0) {
            *out = (enum actor_kind)kind;
            return true;
        }
    return false;
}

bool name_is_good(const char *name, bool capitals)
{
    static const char small[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    static const char more[] = "._-ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    size_t length = name ? strlen(name) : 0;

    if (length == 0 || length > LIMIT_NAME_BYTES)
        return false;
    for (size_t n = 0; n < length; n++) {
        const char *found = strchr(more, name[n]);

        if (strchr(small, name[n]))
            continue;
        if (!found || (found - more >= 3 && !capitals) || (n == 0 && found - more < 3))
            return false;
    }
    return true;
}

void actor_set(struct actor *a, enum actor_kind kind, const char *name)
{
    *a = (struct actor){.kind = kind};
    snprintf(a->name, sizeof a->name, "%s", name);
    snprintf(a->text, sizeof a->text, "%s:%s", actor_kind_name(kind), a->name);
}

int identity_event(struct store_tx *tx, const char *by, const char *kind, const char *entity, const char *entity_id, json_t *data,
                   int64_t now_us, struct err *e)
{
    CLEANUP(json_free) json_t *held = data;
    CLEANUP(free_ptr) char *text = data ? json_text(data) : NULL;
    struct event event = {.actor = by, .kind = kind, .entity = entity, .entity_id = entity_id, .data = text};

    return event_add(tx, &event, now_us, e);
}

int identity_open(const struct identity_settings *settings, struct identity **out, struct err *e)
{
    CLEANUP(identity_close) struct identity *i = xcalloc(1, sizeof *i);
    char dummy[crypto_pwhash_STRBYTES], password[IDENTITY_TOKEN_SIZE];

    i->store = settings->store;
    i->clock = settings->clock ? settings->clock : &clock_real;
    i->folder = xstrdup(settings->folder);
    pthread_mutex_init(&i->login_lock, NULL);
    if (keys_open(i, settings->master_key_path, e) < 0 || ca_open(i, e) < 0)
        return err_wrap(e, "opening the keys in %s", settings->folder);
    token_new("", password);
    if (crypto_pwhash_str(dummy, password, strlen(password), crypto_pwhash_OPSLIMIT_INTERACTIVE, crypto_pwhash_MEMLIMIT_INTERACTIVE) != 0)
        return err_set(e, ERR_INTERNAL, "argon2id needs %zu MiB of memory", (size_t)crypto_pwhash_MEMLIMIT_INTERACTIVE >> 20);
    i->dummy_password = xstrdup(dummy);
    *out = i;
    i = NULL;
    return 0;
}

void identity_close(struct identity **i)
{
    struct identity *held = *i;

    if (!held)
        return;
    *i = NULL;
    sodium_free(held->master_key);
    X509_free(held->ca_certificate);
    EVP_PKEY_free(held->ca_key);
    free(held->ca_pem);
    free(held->ca_fingerprint);
    free(held->dummy_password);
    free(held->folder);
    pthread_mutex_destroy(&held->login_lock);
    free(held);
}
