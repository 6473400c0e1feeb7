/* orders: what is asked of a vault and its NBD server alone, as verbs: by the control socket (docs/architecture.md) where a replicator has
 * the vault open, by reach.c where nobody has it and this process opened it. */
#pragma once

#include "base/json.h"
#include "vault/nbd.h"
#include "vault/vault.h"

#define KEPT_PREFIX "kept: " /* before a person's reason to pin a point, so that it is none of ours */
#define COPIED_PREFIX "copy: " /* before such a reason where a point is the second copy of the one that is pinned */
#define COPY_PIN "copying"     /* pins the points that a second copy is made of, and goes on from */

/* Whoever asks. All but the last is borrowed. */
struct orders {
    struct vault *vault;
    struct nbd_server *nbd;
    const char *nbd_path;     /* the server's socket */
    vault_progress *progress; /* of long work; NULL: none */
    void *user;
    char lent[VAULT_POINT_ID_SIZE]; /* the point that the asker has on loan; "": none */
};

/* Fills *answer. 1: done; 0: the verb is none of these; -1. */
int orders_run(struct orders *o, const char *verb, const json_t *q, json_t *answer, struct err *e);
/* The asker goes: what was lent to it is returned. Twice is fine. */
void orders_end(struct orders *o);

/* The point that q.point names; the caller frees *out. */
int orders_need_point(struct vault *v, const json_t *q, struct vault_point **out, struct err *e);
/* The point's document gets its group's window (group_window_us; null where the group is not known): nothing where it is of none. windows: {GROUP: window}, for
 * who asks of many points; what is not in it is looked up and put there. */
int orders_set_window(struct vault *v, json_t *point, json_t *windows, struct err *e);
/* nbd+unix:///… of a point's disk at that socket; prefix is "" or NBD_LENT_PREFIX. The caller frees. */
char *orders_uri(const char *nbd_path, const char *prefix, const char *point, const char *disk);
/* [{"id","nbd_uri","nbd_socket","nbd_export","size_bytes"}] of all its disks. */
json_t *orders_disks(const char *nbd_path, const char *prefix, const struct vault_point *p);
