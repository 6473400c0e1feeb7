/* dialect: what a CMDB's dialect gives; one file each, listed in cmdb.c. */
#pragma once

#include "cmdb/cmdb.h"

struct cmdb_dialect {
    const char *kind;
    void *(*open)(const json_t *settings, const char *token, struct err *e); /* NULL: e says why */
    void (*close)(void *held);
    int (*check)(void *held, struct buf *evidence, struct err *e);
    int (*find)(void *held, const char *name, const char *id, struct cmdb_record *out, struct err *e);
    int (*retire)(void *held, const struct cmdb_record *record, const struct cmdb_note *note, struct cmdb_record *out, struct err *e);
};

extern const struct cmdb_dialect cmdb_netbox, cmdb_program;

/* Copies text into a field of a record: ERR_PROTOCOL where it is missing or does not fit. */
int cmdb_copy(char out[static CMDB_TEXT_SIZE], const char *text, const char *what, struct err *e);
