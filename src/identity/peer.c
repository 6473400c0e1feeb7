/* peer: runners, replicators and agents: a one-time token becomes a certificate; a certificate becomes an actor. */
#include "identity/private.h"

#include <string.h>

#define ENROL_PREFIX "enrol_"
#define COMMON_NAME_MAX 64 /* RFC 5280, ub-common-name */
#define TTL_DEFAULT_US (INT64_C(3600) * US_PER_S)
#define TTL_MAX_US (INT64_C(30) * 86400 * US_PER_S)
#define PEER_VALID_US (INT64_C(730) * 86400 * US_PER_S)
#define SEEN_US (5 * US_PER_S)     /* how exact last_seen is */
#define ONLINE_US (30 * US_PER_S)  /* not heard of for longer: silent */

/* Who is a TLS server, too: agents dial the replicator. */
static const char *const key_usages[] = {
    [ACTOR_RUNNER] = "clientAuth",
    [ACTOR_REPLICATOR] = "serverAuth,clientAuth",
    [ACTOR_AGENT] = "clientAuth",
};

/* "db01~copy" is the agent of the machine that was launched for db01. */
static bool is_peer_name(enum actor_kind kind, const char *name)
{
    size_t length = name ? strlen(name) : 0, end = strlen(COPY_SUFFIX);
    char server[LIMIT_NAME_BYTES + 1];

    if (kind != ACTOR_AGENT || length <= end || length - end >= sizeof server || strcmp(name + length - end, COPY_SUFFIX) != 0)
        return name_is_good(name, true);
    memcpy(server, name, length - end);
    server[length - end] = '\0';
    return name_is_good(server, true);
}

static int check_wanted(enum actor_kind kind, const char *name, const char *const *labels, int label_count, int64_t ttl_us, struct err *e)
{
    if (kind == ACTOR_USER || (size_t)kind >= ARRAY_COUNT(key_usages))
        return err_set(e, ERR_INVALID, "runner, replicator and agent enrol, not %s", actor_kind_name(kind));
    if (!is_peer_name(kind, name))
        return err_set(e, ERR_INVALID, "a name has 1 to %d of A-Z a-z 0-9 . _ - and begins with a letter or digit", LIMIT_NAME_BYTES);
    if (strlen(actor_kind_name(kind)) + 1 + strlen(name) > COMMON_NAME_MAX)
        return err_set(e, ERR_INVALID, "%s:%s is longer than %d bytes, which is all that a certificate's name can hold", actor_kind_name(kind), name,
                       COMMON_NAME_MAX);
    if (label_count > IDENTITY_LABELS_MAX)
        return err_set(e, ERR_INVALID, "at most %d labels", IDENTITY_LABELS_MAX);
    for (int n = 0; n < label_count; n++) {
        const char *colon = strchr(labels[n], ':');

        /* "target", or "source:NETWORK", "replicator:NAME" */
        if (strlen(labels[n]) > LIMIT_NAME_BYTES || (colon && !name_is_good(colon + 1, true))
            || !name_is_good(colon ? "source" : labels[n], true) || (colon && strncmp(labels[n], "source:", 7) != 0 && strncmp(labels[n], "replicator:", 11) != 0))
            return err_set(e, ERR_INVALID, "\"%s\" is no label: target, replicator, factory, source:NETWORK, or replicator:NAME", labels[n]);
    }
    if (ttl_us < 0 || ttl_us > TTL_MAX_US)
        return err_set(e, ERR_INVALID, "an enrolment token lives at most 30 days");
    return 0;
}

int identity_enrolment_make(struct identity *i, struct store_tx *tx, enum actor_kind kind, const char *name, const char *const *labels,
                            int label_count, int64_t ttl_us, const char *by, char token[static IDENTITY_TOKEN_SIZE], int64_t *expires_us,
                            struct err *e)
{
    CLEANUP(json_free) json_t *list = json_array();
    CLEANUP(free_ptr) char *text = NULL;
    char made[IDENTITY_TOKEN_SIZE], hash[HASH_SHA256_HEX_SIZE];
    int64_t now_us = identity_now_us(i), ends_us = now_us + (ttl_us ? ttl_us : TTL_DEFAULT_US);
    json_t *data;

    if (check_wanted(kind, name, labels, label_count, ttl_us, e) < 0)
        return -1;
    for (int n = 0; n < label_count; n++)
        json_array_append_new(list, json_string(labels[n]));
    text = json_text(list);
    token_new(ENROL_PREFIX, made);
    token_hash(made, hash);
    data = json_pack("{s:s, s:O}", "kind", actor_kind_name(kind), "labels", list);
    json_set_time(data, "expires", ends_us);
    if (store_run(tx, e, "INSERT INTO enrolment (hash, kind, name, labels, created_us, expires_us) VALUES ($1, $2, $3, $4, $5, $6)", "ssssii",
                  hash, actor_kind_name(kind), name, text, now_us, ends_us) < 0) {
        json_decref(data);
        return -1;
    }
    if (identity_event(tx, by, "enrolment.created", actor_kind_name(kind), name, data, now_us, e) < 0)
        return -1;
    memcpy(token, made, sizeof made);
    *expires_us = ends_us;
    return 0;
}

static void take_labels(struct actor *a, const char *text)
{
    CLEANUP(json_free) json_t *list = NULL;
    json_t *label;
    size_t n;

    if (json_read(text, strlen(text), &list, NULL) < 0)
        return;
    json_array_foreach(list, n, label)
        if (a->label_count < IDENTITY_LABELS_MAX && json_is_string(label))
            snprintf(a->labels[a->label_count++], sizeof a->labels[0], "%s", json_string_value(label));
}

static int find_enrolment(struct identity *i, struct store_tx *tx, const char *hash, struct actor *who, char **labels, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    enum actor_kind kind;
    int rc;

    if (store_query(tx, &rows, e, "SELECT kind, name, labels, expires_us, used_us FROM enrolment WHERE hash = $1", "s", hash) < 0
        || (rc = store_next(rows, e)) < 0)
        return -1;
    if (!rc)
        return err_set(e, ERR_UNAUTHENTICATED, "this enrolment token is unknown: ask an operator for another one");
    if (!store_is_null(rows, 4))
        return err_set(e, ERR_UNAUTHENTICATED, "this enrolment token was used before: it works once; ask an operator for another one");
    if (store_int(rows, 3) <= identity_now_us(i))
        return err_set(e, ERR_UNAUTHENTICATED, "this enrolment token has expired: ask an operator for another one");
    if (!peer_kind_named(store_text(rows, 0), &kind))
        return err_set(e, ERR_CORRUPT, "an enrolment of the kind %s", store_text(rows, 0));
    actor_set(who, kind, store_text(rows, 1));
    take_labels(who, store_text(rows, 2));
    *labels = xstrdup(store_text(rows, 2));
    return 0;
}

static int revoke(struct store_tx *tx, const char *kind, const char *name, const char *why, int64_t now_us, struct err *e)
{
    return store_run(tx, e, "UPDATE certificate SET revoked_us = $1, revoked_why = $2 WHERE kind = $3 AND name = $4 AND revoked_us IS NULL",
                     "isss", now_us, why, kind, name) < 0 ? -1 : 0;
}

/* Everything that the database says about a new certificate. */
static int note_certificate(struct store_tx *tx, const struct actor *who, const char *hash, const char *labels, const char *serial,
                            int64_t now_us, int64_t expires_us, struct err *e)
{
    const char *kind = actor_kind_name(who->kind);

    if (revoke(tx, kind, who->name, "it enrolled again", now_us, e) < 0
        || store_run(tx, e, "UPDATE enrolment SET used_us = $1 WHERE hash = $2", "is", now_us, hash) < 0
        || store_run(tx, e, "INSERT INTO certificate (serial, kind, name, issued_us, expires_us) VALUES ($1, $2, $3, $4, $5)", "sssii", serial,
                     kind, who->name, now_us, expires_us) < 0
        || store_run(tx, e, "INSERT INTO peer (kind, name, labels, enrolled_us) VALUES ($1, $2, $3, $4) ON CONFLICT (kind, name) DO UPDATE"
                            " SET labels = excluded.labels, enrolled_us = excluded.enrolled_us", "sssi", kind, who->name, labels, now_us) < 0)
        return -1;
    return identity_event(tx, who->text, "peer.enrolled", kind, who->name, json_pack("{s:s}", "serial", serial), now_us, e);
}

static void free_key(EVP_PKEY **k) { EVP_PKEY_free(*k); }
static void free_x509(X509 **x) { X509_free(*x); }

int identity_enrol(struct identity *i, struct store_tx *tx, const char *token, const char *csr_pem, char **certificate_pem,
                   struct actor *who, struct err *e)
{
    CLEANUP(free_key) EVP_PKEY *key = NULL;
    CLEANUP(free_x509) X509 *certificate = NULL;
    CLEANUP(free_ptr) char *labels = NULL;
    char hash[HASH_SHA256_HEX_SIZE], serial[SERIAL_HEX_SIZE];
    struct certificate_wanted wanted;
    struct actor found;
    int64_t expires_us;

    if (strncmp(token, ENROL_PREFIX, strlen(ENROL_PREFIX)) != 0 || strlen(token) >= IDENTITY_TOKEN_SIZE)
        return err_set(e, ERR_UNAUTHENTICATED, "this is not an enrolment token: those begin with " ENROL_PREFIX);
    token_hash(token, hash);
    if (find_enrolment(i, tx, hash, &found, &labels, e) < 0 || ca_read_request(csr_pem, &key, e) < 0)
        return -1;
    wanted = (struct certificate_wanted){.common_name = found.text, .key = key, .key_usage = key_usages[found.kind], .valid_us = PEER_VALID_US};
    if (ca_issue(i, &wanted, &certificate, serial, &expires_us, e) < 0
        || note_certificate(tx, &found, hash, labels, serial, identity_now_us(i), expires_us, e) < 0)
        return -1;
    *certificate_pem = ca_certificate_text(certificate);
    *who = found;
    return 0;
}

/* The serial as we write it: lower case, without leading zero bytes. */
static int plain_serial(const char *hex, char serial[static SERIAL_HEX_SIZE])
{
    size_t length;

    while (hex[0] == '0' && hex[1] == '0')
        hex += 2;
    length = strlen(hex);
    if (length >= SERIAL_HEX_SIZE || strspn(hex, "0123456789abcdefABCDEF") != length)
        return -1;
    for (size_t n = 0; n <= length; n++)
        serial[n] = hex[n] >= 'A' && hex[n] <= 'F' ? (char)(hex[n] - 'A' + 'a') : hex[n];
    return 0;
}

int identity_peer(struct identity *i, const char *common_name, const char *serial_hex, struct actor *out, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    char serial[SERIAL_HEX_SIZE];
    enum actor_kind kind;
    struct actor found;
    int rc;

    if (plain_serial(serial_hex, serial) < 0)
        return err_set(e, ERR_UNAUTHENTICATED, "the certificate's number is none of ours");
    if (store_begin(i->store, STORE_READ, &tx, e) < 0
        || store_query(tx, &rows, e, "SELECT c.kind, c.name, c.revoked_us, c.revoked_why, c.expires_us, p.labels FROM certificate c JOIN peer p"
                                     " ON p.kind = c.kind AND p.name = c.name WHERE c.serial = $1", "s", serial) < 0
        || (rc = store_next(rows, e)) < 0)
        return -1;
    if (!rc || !peer_kind_named(store_text(rows, 0), &kind))
        return err_set(e, ERR_UNAUTHENTICATED, "the certificate of %.200s is not known to this database: was it restored from an older copy?"
                                               " Enrol again", common_name);
    actor_set(&found, kind, store_text(rows, 1));
    take_labels(&found, store_text(rows, 5));
    snprintf(found.serial, sizeof found.serial, "%s", serial);
    if (strcmp(found.text, common_name) != 0)
        return err_set(e, ERR_UNAUTHENTICATED, "the certificate says %.200s, and was issued to %s", common_name, found.text);
    if (!store_is_null(rows, 2))
        return err_set(e, ERR_UNAUTHENTICATED, "the certificate of %s was revoked: %s", found.text, store_text(rows, 3));
    if (store_int(rows, 4) <= identity_now_us(i))
        return err_set(e, ERR_UNAUTHENTICATED, "the certificate of %s has expired: enrol again", found.text);
    *out = found;
    return 0;
}

int identity_certificate(struct identity *i, const char *certificate_pem, struct actor *out, struct err *e)
{
    char common_name[256], serial[SERIAL_HEX_SIZE];

    if (ca_read_client(i, certificate_pem, common_name, serial, e) < 0)
        return -1;
    return identity_peer(i, common_name, serial, out, e);
}

int identity_need(const struct actor *actor, enum actor_kind kind, const char *name, struct err *e)
{
    if (actor->kind != kind)
        return err_set(e, ERR_DENIED, "this is for a %s, and %s is a %s", actor_kind_name(kind), actor->text, actor_kind_name(actor->kind));
    if (name && strcmp(actor->name, name) != 0)
        return err_set(e, ERR_DENIED, "this is for %s:%s, and the certificate is of %s", actor_kind_name(kind), name, actor->text);
    return 0;
}

int identity_revoke(struct identity *i, enum actor_kind kind, const char *name, const char *by, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(free_ptr) char *why = xasprintf("by %s", by);
    const char *kind_name = actor_kind_name(kind);
    int64_t now_us = identity_now_us(i), count = 0;

    if (store_begin(i->store, STORE_WRITE, &tx, e) < 0
        || store_one_int(tx, &count, e, "SELECT COUNT(*) FROM peer WHERE kind = $1 AND name = $2", "ss", kind_name, name) < 0)
        return -1;
    if (!count)
        return err_set(e, ERR_NOT_FOUND, "there is no %s %s", kind_name, name);
    if (revoke(tx, kind_name, name, why, now_us, e) < 0
        || store_run(tx, e, "DELETE FROM enrolment WHERE kind = $1 AND name = $2 AND used_us IS NULL", "ss", kind_name, name) < 0
        || identity_event(tx, by, "peer.revoked", kind_name, name, NULL, now_us, e) < 0)
        return -1;
    return store_commit(&tx, e);
}

int identity_revoked_json(struct identity *i, struct store_tx *tx, const char *known_version, json_t **out, struct err *e)
{
    static const char which[] = " FROM certificate WHERE revoked_us IS NOT NULL AND expires_us > $1 AND kind IN ('agent', 'replicator')";
    CLEANUP(free_ptr) char *counted = xasprintf("SELECT COUNT(*), COALESCE(MAX(revoked_us), 0)%s", which), *listed = xasprintf("SELECT serial, revoked_why%s", which);
    CLEANUP(store_rows_free) struct store_rows *count = NULL, *rows = NULL;
    CLEANUP(free_ptr) char *version = NULL;
    CLEANUP(json_free) json_t *certificates = NULL;
    int64_t now_us = identity_now_us(i);
    int rc;

    *out = NULL;
    if (store_query(tx, &count, e, counted, "i", now_us) < 0 || store_next(count, e) < 0)
        return -1;
    version = xasprintf("%lld-%lld", (long long)store_int(count, 0), (long long)store_int(count, 1));
    if (strcmp(version, known_version) == 0)
        return 0;
    certificates = json_object();
    rc = store_query(tx, &rows, e, listed, "i", now_us);
    while (rc >= 0 && (rc = store_next(rows, e)) > 0)
        json_object_set_new(certificates, store_text(rows, 0), json_string(store_text(rows, 1)));
    if (rc < 0)
        return -1;
    *out = json_pack("{s:s, s:O}", "version", version, "certificates", certificates);
    return 0;
}

int identity_seen(struct identity *i, const struct actor *peer, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t now_us = identity_now_us(i), seen_us = 0;

    if (store_begin(i->store, STORE_READ, &tx, e) < 0
        || store_one_int(tx, &seen_us, e, "SELECT last_seen_us FROM peer WHERE kind = $1 AND name = $2", "ss", actor_kind_name(peer->kind),
                         peer->name) < 0)
        return -1;
    if (now_us - seen_us >= 0 && now_us - seen_us < SEEN_US)
        return 0;
    store_rollback(&tx);
    if (store_begin(i->store, STORE_WRITE, &tx, e) < 0
        || store_run(tx, e, "UPDATE peer SET last_seen_us = $1 WHERE kind = $2 AND name = $3", "iss", now_us, actor_kind_name(peer->kind),
                     peer->name) < 0)
        return -1;
    return store_commit(&tx, e);
}

int identity_peers_json(struct identity *i, struct store_tx *tx, enum actor_kind kind, json_t **items, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *list = json_array();
    int64_t now_us = identity_now_us(i);
    int rc = store_query(tx, &rows, e, "SELECT p.name, p.labels, p.enrolled_us, p.last_seen_us, (SELECT COUNT(*) FROM certificate c WHERE"
                                       " c.kind = p.kind AND c.name = p.name AND c.revoked_us IS NULL) FROM peer p WHERE p.kind = $1"
                                       " ORDER BY p.name", "s", actor_kind_name(kind));

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        int64_t seen_us = store_int(rows, 3);
        const char *state = !store_int(rows, 4) ? "revoked" : !seen_us ? "never" : now_us - seen_us > ONLINE_US ? "silent" : "online";
        json_t *peer = json_pack("{s:s, s:s}", "name", store_text(rows, 0), "state", state), *labels = NULL;

        if (json_read(store_text(rows, 1), strlen(store_text(rows, 1)), &labels, NULL) < 0)
            labels = json_array();
        json_object_set_new(peer, "labels", labels);
        json_set_time(peer, "enrolled", store_int(rows, 2));
        json_set_time(peer, "last_seen", seen_us);
        json_array_append_new(list, peer);
    }
    if (rc < 0)
        return -1;
    *items = json_incref(list);
    return 0;
}

int identity_ending_json(struct store_tx *tx, int64_t until_us, json_t **items, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *list = json_array();
    int rc = store_query(tx, &rows, e, "SELECT c.kind, c.name, c.expires_us FROM certificate c WHERE c.revoked_us IS NULL AND c.expires_us <= $1"
                                       " AND (c.kind <> 'agent' OR EXISTS (SELECT 1 FROM server s WHERE s.name = c.name AND s.lifecycle"
                                       " NOT IN ('DISCONNECTED', 'ARCHIVED'))) ORDER BY c.expires_us, c.kind, c.name", "i", until_us);

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        json_t *one = json_pack("{s:s, s:s}", "kind", store_text(rows, 0), "name", store_text(rows, 1));

        json_set_time(one, "expires", store_int(rows, 2));
        json_array_append_new(list, one);
    }
    if (rc < 0)
        return -1;
    *items = json_incref(list);
    return 0;
}
