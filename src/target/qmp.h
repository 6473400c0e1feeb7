/* qmp: a client of QEMU's machine protocol over a unix socket: JSON lines both ways, one command at a time, every wait bounded, every
 * line bounded. What a guest can make QEMU say is outside input: the reader has a fuzz target (fuzz/fuzz_qmp.c). */
#pragma once

#include "base/json.h"

#define QMP_LINE_LIMIT_BYTES (4u << 20)

struct qmp;

/* Connects to FOLDER/name and says hello. The folder's path may be longer than a socket's address allows. Another client of the
 * same socket makes us wait for our turn, within the timeout. ERR_UNREACHABLE: nobody listens. */
int qmp_open(const char *folder, const char *name, int timeout_ms, struct qmp **out, struct err *e);
void qmp_free(struct qmp **q); /* for CLEANUP */
/* Runs a command; takes the reference to arguments (NULL: none). *result (may be NULL) is the caller's. QEMU's own refusals are
 * ERR_NOT_FOUND (no such device), ERR_UNSUPPORTED (no such command), else ERR_IO with its words. */
int qmp_call(struct qmp *q, const char *command, json_t *arguments, int timeout_ms, json_t **result, struct err *e);

enum qmp_kind { QMP_GREETING, QMP_RETURN, QMP_ERROR, QMP_EVENT };
/* The reader, on its own for its tests: takes the first whole line out of `in`. 1: *out is an object of kind *kind; 0: not whole
 * yet; -1: ERR_PROTOCOL. Empty lines are skipped. */
int qmp_take(struct buf *in, json_t **out, enum qmp_kind *kind, struct err *e);
