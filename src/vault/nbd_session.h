/* nbd_session: one connection of the NBD server, from greeting to disconnect. */
#pragma once

#include "vault/vault.h"

#include <stdatomic.h>

struct nbd_session {
    struct vault *v;
    int fd;
    char point[VAULT_POINT_ID_SIZE]; /* written before `attached` is set */
    bool lent; /* so is this */
    atomic_bool attached;
    atomic_uint_fast64_t *read_errors;
};
/* Returns when the client disconnects or breaks the protocol, or the descriptor is shut down. */
void nbd_session_run(struct nbd_session *s);
