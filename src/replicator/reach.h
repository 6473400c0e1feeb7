/* reach: the recovery points of a vault, for somebody on the machine that holds it. Where a replicator has the vault open, its control
 * socket is asked; where nobody has, it is opened here, and no replicator can start on it before reach_close. Both answer alike. */
#pragma once

#include "replicator/call.h"
#include "vault/vault.h"

/* The vault itself, of the three folders that a person may name: its own, the replicator's, the factory's data folder. Nothing is made
 * where none is: ERR_NOT_FOUND. The caller frees *out. */
int reach_find_vault(const char *folder, char **out, struct err *e);
/* Says in the log what opening the vault has made anew; mostly nothing. */
void reach_tell_anew(const struct vault *v);
/* Whether the vault in that folder (its own) says that it is encrypted. */
bool reach_is_encrypted(const char *vault);
/* What is needed to open a vault at rest. All of it is borrowed. */
struct reach_needs {
    const char *key_file;      /* NULL: its key is where a factory keeps it */
    struct vault_bucket bucket; /* with its credentials_file: what lies there can be read. What is NULL of url, bucket and prefix is as vault.json says */
};
/* The options to open it with. Looking takes no room: a full one can be looked at; and nothing is written to its bucket. */
struct reach_options {
    struct vault_key key;
    struct vault_bucket bucket;
    json_t *superblock;           /* vault.json */
    struct vault_options options; /* points to these */
};
int reach_options_make(const char *vault, const struct reach_needs *needs, struct reach_options *out, struct err *e);
void reach_options_release(struct reach_options *o); /* wipes the key; for CLEANUP; leaves it empty */
/* PATH of the control socket of the replicator that keeps this vault. The caller frees. */
char *reach_control_path(const char *vault);

struct reach;
int reach_open(const char *folder, const struct reach_needs *needs, struct reach **out, struct err *e);
void reach_close(struct reach **r); /* what was lent is returned; NULL inside is fine; for CLEANUP */
bool reach_is_live(const struct reach *r); /* a replicator has the vault open */

/* Whoever waits. Both may be NULL; `cancelled` is asked at least a few times a second. */
struct reach_waiter {
    bool (*cancelled)(void *user);
    void (*progress)(int64_t done, int64_t total, const char *unit, void *user);
    void *user;
};
/* One verb of the control socket (docs/architecture.md). Of a vault at rest, those that need no more than the vault: ERR_WRONG_STATE for
 * the others. *answer (may be NULL: dropped) is the caller's. */
int reach_ask(struct reach *r, const json_t *request, const struct reach_waiter *w, json_t **answer, struct err *e);
/* The point is served over NBD, and pinned, until reach_return, reach_close or the end of this process, however it ends. One at a time.
 * *disks: [{"id","nbd_uri","nbd_socket","nbd_export","size_bytes"}], the caller's. */
int reach_lend(struct reach *r, const char *point, json_t **disks, struct err *e);
void reach_return(struct reach *r); /* twice is fine */
/* Whether what was lent is no longer served: the replicator has ended. */
bool reach_loan_is_lost(const struct reach *r);
