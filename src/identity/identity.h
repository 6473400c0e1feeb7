/* identity: who may do what. Users and their sessions and tokens; one-time enrolment of runners, replicators and agents, and the
 * certificates that they get from the factory's CA; credentials for source machines, sealed at rest.
 *
 * It does not parse HTTP (api/ does) and keeps no server data (inventory/ does).
 *
 * Rights of what is stored: passwords as argon2id; session, API and enrolment tokens as SHA-256 of 256 random bits; credentials and
 * the CA's key sealed (XChaCha20-Poly1305) under a master key that lies in a file outside the database. No function gives a
 * secret to an event, an error's words or a list.
 *
 * Functions with a `struct store_tx` work inside it; the others make transactions of their own. All are thread-safe. */
#pragma once

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "store/store.h"

struct identity;

#define IDENTITY_TOKEN_SIZE 64 /* "slip_" and 43 characters of base64url, and its NUL */
#define IDENTITY_SERIAL_SIZE 33 /* of a certificate's number in hexadecimal */
#define IDENTITY_LABELS_MAX 16

enum actor_kind { ACTOR_USER, ACTOR_RUNNER, ACTOR_REPLICATOR, ACTOR_AGENT };
enum actor_role { ROLE_NONE, ROLE_VIEWER, ROLE_OPERATOR }; /* ordered; ROLE_NONE: not a person */

/* Who is on the other end of a request. */
struct actor {
    enum actor_kind kind;
    enum actor_role role;
    bool admin;                              /* may manage users */
    bool by_session;                         /* by cookie: changes need the CSRF token */
    char name[LIMIT_NAME_BYTES + 1];         /* "anna", "dc1" */
    char text[LIMIT_NAME_BYTES + 16];        /* as events have it: "user:anna", "runner:dc1" */
    char csrf[IDENTITY_TOKEN_SIZE];          /* of the session, else "" */
    char serial[IDENTITY_SERIAL_SIZE];       /* of the certificate that it showed, else "" */
    char labels[IDENTITY_LABELS_MAX][LIMIT_NAME_BYTES + 1]; /* a runner's, as enrolled */
    int label_count;
};
const char *actor_kind_name(enum actor_kind kind); /* "user", "runner" … */
const char *actor_role_name(enum actor_role role); /* "none", "viewer", "operator" */

struct identity_settings {
    struct store *store;         /* migrated */
    const struct clock *clock;   /* NULL: clock_real */
    const char *folder;          /* of keys: DATA/keys, made with mode 0700 */
    const char *master_key_path; /* NULL: FOLDER/master.key */
};
/* Makes master key and CA at the first start. Refuses (ERR_WRONG_STATE) a master key that is not the one that this database was made
 * with, or that is missing: put it back from the backup. Files: master.key (0600), ca.pem, ca.key (sealed). */
int identity_open(const struct identity_settings *settings, struct identity **out, struct err *e);
void identity_close(struct identity **i); /* for CLEANUP; wipes keys */

/* ---- Users ---- */

/* name [a-z0-9][a-z0-9._-]*, password 10-1024 bytes. ERR_CONFLICT: there is one of that name. `by` as in events. */
int identity_user_add(struct identity *i, const char *name, const char *password, enum actor_role role, bool admin, const char *by,
                      struct err *e);
int identity_password_set(struct identity *i, const char *name, const char *password, const char *by, struct err *e); /* ends sessions */
/* Its sessions and tokens go, too. ERR_WRONG_STATE for the last admin. */
int identity_user_remove(struct identity *i, const char *name, const char *by, struct err *e);
int identity_user_count(struct store_tx *tx, int64_t *count, struct err *e); /* 0: run `slipway serve --init` */
int identity_users_json(struct store_tx *tx, json_t **items, struct err *e); /* [{name,role,admin,created,last_login}] */

/* ---- Sessions (cookie) and API tokens (Bearer) ---- */

struct identity_session {
    char token[IDENTITY_TOKEN_SIZE]; /* the cookie's value; not stored anywhere */
    int64_t expires_us;
    struct actor actor; /* with csrf */
};
/* One answer for an unknown name and a wrong password: ERR_UNAUTHENTICATED. After several failures of that name from that address
 * (or of either): ERR_LIMIT, saying for how long. Takes 50-100 ms of a core and 64 MiB, one at a time. address may be NULL. */
int identity_login(struct identity *i, const char *name, const char *password, const char *address, struct identity_session *out,
                   struct err *e);
/* ERR_UNAUTHENTICATED: unknown, or ended, or expired (the message says which). Extends a session that is in use. */
int identity_session(struct identity *i, const char *token, struct actor *out, struct err *e);
int identity_logout(struct identity *i, const char *token, struct err *e);
/* A change by cookie must carry the session's CSRF token: ERR_DENIED. Nothing to check for the others. */
int identity_csrf_check(const struct actor *actor, const char *header, struct err *e);
struct identity_token {
    char id[17];                     /* names it in lists and for its removal; opens nothing */
    char text[IDENTITY_TOKEN_SIZE];  /* told once */
    int64_t expires_us;              /* 0: never */
};
/* expires_in_us 0: it doesn't. */
int identity_token_make(struct identity *i, const struct actor *owner, const char *name, int64_t expires_in_us, struct identity_token *out,
                        struct err *e);
int identity_token(struct identity *i, const char *token, struct actor *out, struct err *e); /* as identity_session */
/* A user's own tokens: [{id,name,created,expires,last_used}]; an admin (owner NULL) sees all, with "user". */
int identity_tokens_json(struct store_tx *tx, const char *owner, json_t **items, struct err *e);
/* owner NULL: any. ERR_NOT_FOUND. */
int identity_token_remove(struct identity *i, const char *id, const char *owner, const char *by, struct err *e);

/* ---- Enrolment and certificates ---- */

/* kind is not ACTOR_USER. ttl_us 0: an hour. The token is told once. */
int identity_enrolment_make(struct identity *i, struct store_tx *tx, enum actor_kind kind, const char *name, const char *const *labels, int label_count,
                            int64_t ttl_us, const char *by, char token[static IDENTITY_TOKEN_SIZE], int64_t *expires_us, struct err *e);
/* Spends the token on a certificate for the CSR's key, with a CN fixed by the token ("runner:dc1"), whatever the CSR asks for. Earlier
 * certificates of that CN are revoked. ERR_UNAUTHENTICATED: unknown token, expired, or used before (each says so); ERR_INVALID: a CSR
 * that can't be read or isn't signed by its key; the token is not spent then. The caller commits, and frees *certificate_pem. */
int identity_enrol(struct identity *i, struct store_tx *tx, const char *token, const char *csr_pem, char **certificate_pem,
                   struct actor *who, struct err *e);
/* Who holds the client certificate of that common name and serial number (hexadecimal, in either case), which TLS has verified: signed by
 * the CA, in its time, for clients, its key owned. ERR_UNAUTHENTICATED: revoked (by whom or what), or not known to this database. */
int identity_peer(struct identity *i, const char *common_name, const char *serial_hex, struct actor *out, struct err *e);
/* The same for a certificate (PEM) that nobody verified yet. ERR_UNAUTHENTICATED also: another CA, expired, not for clients. */
int identity_certificate(struct identity *i, const char *certificate_pem, struct actor *out, struct err *e);
/* ERR_DENIED, naming both, where the actor is another kind (or, name not NULL, another name). */
int identity_need(const struct actor *actor, enum actor_kind kind, const char *name, struct err *e);
/* Revokes all certificates of it, and unused enrolment tokens. ERR_NOT_FOUND where it never enrolled. */
int identity_revoke(struct identity *i, enum actor_kind kind, const char *name, const char *by, struct err *e);
/* The certificates of agents and replicators that were revoked before their time is over: {version, certificates: {serial: why}}, for those who meet them
 * without the factory. version stands for the content; *out is NULL where it is known_version. The caller frees. */
int identity_revoked_json(struct identity *i, struct store_tx *tx, const char *known_version, json_t **out, struct err *e);
/* Notes that it was heard of (at most one write in 5 s). */
int identity_seen(struct identity *i, const struct actor *peer, struct err *e);
/* Enrolled runners, replicators or agents: [{name,labels,enrolled,last_seen,state:"online"|"silent"|"never"|"revoked"}]. */
int identity_peers_json(struct identity *i, struct store_tx *tx, enum actor_kind kind, json_t **items, struct err *e);

/* So long before its end a certificate is renewed where that can be done here, and told of where it can't. */
#define IDENTITY_RENEW_US (INT64_C(30) * 86400 * US_PER_S)
/* The newest certificates of runners, replicators and agents that end by then (or have), the soonest first: [{kind,name,expires}]. Without those
 * that were revoked, of servers that are gone or done with, and of launched machines' agents, which are for a way home only. The caller frees. */
int identity_ending_json(struct store_tx *tx, int64_t until_us, json_t **items, struct err *e);
/* When the API's own certificate and the CA's end. */
int identity_own_ends(struct identity *i, int64_t *api_us, int64_t *ca_us, struct err *e);

const char *identity_ca_pem(const struct identity *i);
const char *identity_ca_fingerprint(const struct identity *i); /* "SHA256:" and 64 hex digits of the DER */
/* The API's own certificate, valid for localhost, 127.0.0.1, ::1 and names (DNS names or addresses); made where there is none in the
 * folder, it lacks a name, or it ends within 30 days. The caller frees *certificate_pem (with the CA after it). */
int identity_server_certificate(struct identity *i, const char *const *names, int name_count, char **certificate_pem,
                                struct secret *key_pem, struct err *e);

/* ---- Credentials for source machines and services ---- */

/* body as POST /v1/credentials: {name, kind:"ssh_key"|"ssh_password"|"token", user?, secret, sudo?, sudo_secret?}. One of that name is
 * replaced. faults (may be NULL): an array that gets {field,reason} for each fault. */
int identity_credential_put(struct identity *i, struct store_tx *tx, const json_t *body, const char *by, json_t *faults, struct err *e);
/* ERR_NOT_FOUND. */
int identity_credential_remove(struct identity *i, struct store_tx *tx, const char *name, const char *by, struct err *e);
/* [{name,kind,user,sudo,created}]: secrets go in and never come out. */
int identity_credentials_json(struct store_tx *tx, json_t **items, struct err *e);
/* For a task document: {kind,user,secret,sudo,sudo_secret}; the caller frees. ERR_NOT_FOUND names it; ERR_CORRUPT: it can't be unsealed. */
int identity_credential(struct identity *i, struct store_tx *tx, const char *name, json_t **out, struct err *e);

/* ---- Keys of vaults ---- */

/* The keys that this replicator's vault is or was encrypted with, sealed here: [64 hexadecimal digits], the newest first, which is the one in
 * use; empty where none was made. ERR_CORRUPT: one can't be unsealed. */
int identity_vault_keys(struct identity *i, struct store_tx *tx, const char *replicator, json_t **keys, struct err *e);
/* A new one, which is the newest from now on. The caller commits. ERR_LIMIT: after a thousand. */
int identity_vault_key_make(struct identity *i, struct store_tx *tx, const char *replicator, struct err *e);

/* ---- Sealing ---- */

/* context binds the sealed bytes to their place ("credential/dc1"): moved elsewhere, they don't open. */
int identity_seal(struct identity *i, const char *context, const void *bytes, size_t size, struct buf *out, struct err *e);
int identity_unseal(struct identity *i, const char *context, const void *sealed, size_t size, struct secret *out, struct err *e);
