/* What the files of identity/ share. Inside this room only.
 *
 *   keys.c       master key, sealing, tokens and their hashes
 *   ca.c         the CA, certificates
 *   user.c       users, passwords · session.c sessions, API tokens, failures to sign in
 *   peer.c       enrolment, who holds a certificate
 *   credential.c credentials for source machines
 *   vault_key.c keys of replicators' vaults */
#pragma once

#include "base/hash.h"
#include "base/mem.h"
#include "identity/identity.h"
#include "store/event.h"

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <pthread.h>

#define MASTER_KEY_SIZE 32

struct identity {
    struct store *store;
    const struct clock *clock;
    char *folder;
    unsigned char *master_key; /* MASTER_KEY_SIZE, in memory that is not swapped */
    X509 *ca_certificate;
    EVP_PKEY *ca_key;
    char *ca_pem, *ca_fingerprint;
    char *dummy_password; /* a hash that no password fits: an unknown name takes as long as a known one */
    pthread_mutex_t login_lock; /* one argon2id at a time; so failures are counted in order, too */
};

static inline int64_t identity_now_us(const struct identity *i) { return clock_read_us(i->clock); }

int keys_open(struct identity *i, const char *master_key_path, struct err *e);
/* PREFIX and 256 random bits as base64url. */
void token_new(const char *prefix, char token[static IDENTITY_TOKEN_SIZE]);
void token_hash(const char *token, char hex[static HASH_SHA256_HEX_SIZE]);
/* The session's CSRF token follows from its secret one, and not the other way round. */
void token_csrf(const char *token, char csrf[static IDENTITY_TOKEN_SIZE]);

int ca_open(struct identity *i, struct err *e);
struct certificate_wanted {
    const char *common_name;
    EVP_PKEY *key;             /* only its public part is used */
    const char *key_usage;     /* extended: "clientAuth" … */
    const char *const *names;  /* DNS names and addresses */
    int name_count;
    int64_t valid_us;
};
#define SERIAL_HEX_SIZE IDENTITY_SERIAL_SIZE
int ca_issue(struct identity *i, const struct certificate_wanted *wanted, X509 **out, char serial[static SERIAL_HEX_SIZE],
             int64_t *expires_us, struct err *e);
/* The key that the request is for, after its own signature was checked. */
int ca_read_request(const char *csr_pem, EVP_PKEY **out, struct err *e);
/* Signed by our CA, in its time, for clients: its common name and serial. */
int ca_read_client(struct identity *i, const char *certificate_pem, char common_name[static 256], char serial[static SERIAL_HEX_SIZE],
                   struct err *e);
char *ca_certificate_text(X509 *certificate); /* PEM; the caller frees */

/* name [a-z0-9][a-z0-9._-]* within LIMIT_NAME_BYTES (or, for peers and credentials, capitals, too). */
bool name_is_good(const char *name, bool capitals);
bool role_named(const char *name, enum actor_role *out);
bool peer_kind_named(const char *name, enum actor_kind *out);
/* Clears it and sets kind, name, text. */
void actor_set(struct actor *a, enum actor_kind kind, const char *name);

/* Writes the event; takes the reference of data (may be NULL). */
int identity_event(struct store_tx *tx, const char *by, const char *kind, const char *entity, const char *entity_id, json_t *data,
                   int64_t now_us, struct err *e);
