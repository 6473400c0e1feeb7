/* setup: the data folder: made at the first start, locked while in use, opened. */
#pragma once

#include "identity/identity.h"
#include "store/store.h"

/* A data folder that is ours alone while it is open. */
struct data {
    char *path;                 /* absolute */
    int lock_fd;
    struct store *store;        /* migrated */
    struct identity *identity;
};

#define DATA_DATABASE "slipway.db"
#define DATA_KEYS "keys"
#define DATA_MASTER_KEY "master.key" /* in it */
#define DATA_VAULT_KEY "vault.key" /* in it: what the factory's own replicator's vault is encrypted with */
#define DATA_CA "ca.pem"        /* for clients */
#define DATA_RESTORING "restore-under-way"
#define DATA_FIRST_LOGIN "first-login"

/* Makes the folder (0700) where it is missing. ERR_WRONG_STATE: another slipway serve uses it. */
int data_lock(const char *folder, struct data *d, struct err *e);
/* After data_lock: database, migrations, keys and CA. */
int data_open(struct data *d, struct err *e);
void data_close(struct data *d); /* for CLEANUP; on zeros (with lock_fd -1), too */

/* Where there is no user yet: makes one who is operator and admin. password_file NULL: a password is made up and returned in
 * password (else it is left empty). 1 made, 0 there are users, -1. */
int data_first_user(struct data *d, const char *name, const char *password_file, struct secret *password, struct err *e);
