/* nbd: serves pinned points read-only over NBD on a unix socket. An export is named POINT/DISK and is there while the point is pinned by
 * the reason VAULT_EXPORT_PIN; so exports outlive the process. A thread a connection, several connections an export. A chunk that
 * is damaged fails the read with EIO and is remembered as bad by the vault. */
#pragma once

#include "vault/vault.h"

#define VAULT_EXPORT_PIN "export"

struct nbd_server;
/* Listens on path (mode 0600; a socket left there by a killed process is replaced) and serves until stopped. */
int nbd_server_start(struct vault *v, const char *path, struct nbd_server **out, struct err *e);
void nbd_server_stop(struct nbd_server **s); /* cuts the connections; for CLEANUP */
/* Connections that read the point now. */
unsigned nbd_server_readers(struct nbd_server *s, const char *point);
uint64_t nbd_server_read_errors(struct nbd_server *s); /* reads failed since the start */
