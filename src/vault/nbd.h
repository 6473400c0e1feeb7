/* nbd: serves pinned points read-only over NBD on a unix socket. An export is named POINT/DISK and is there while the point is pinned by
 * the reason VAULT_EXPORT_PIN; so exports outlive the process. What is lent to somebody for a while is named lent/POINT/DISK, and is there
 * until it is returned or the process ends. Neither kind knows of the other's readers. A thread a connection, several connections an export. A chunk that
 * is damaged fails the read with EIO and is remembered as bad by the vault. */
#pragma once

#include "vault/vault.h"

#define VAULT_EXPORT_PIN "export"
#define NBD_LENT_PREFIX "lent/"

struct nbd_server;
/* Listens on path (mode 0600; a socket left there by a killed process is replaced) and serves until stopped. */
int nbd_server_start(struct vault *v, const char *path, struct nbd_server **out, struct err *e);
void nbd_server_stop(struct nbd_server **s); /* cuts the connections; for CLEANUP */
/* Lends the point (and pins it) until it was returned as often as it was lent; ERR_CORRUPT where it needs a chunk that is known to be
 * bad. The last return cuts the connections that read it on loan. What a killed process had lent is unpinned by nbd_server_start. */
int nbd_server_lend(struct nbd_server *s, const char *point, struct err *e);
int nbd_server_return(struct nbd_server *s, const char *point, struct err *e);
/* Connections that read the point's export now; those that have it on loan don't count. */
unsigned nbd_server_readers(struct nbd_server *s, const char *point);
uint64_t nbd_server_read_errors(struct nbd_server *s); /* reads failed since the start */
