/* cmdb: source CMDBs: finding a server's record and retiring it, with evidence, never deleting it. Two dialects: NetBox's REST API, and
 * a program of the owner's own (JSON in, JSON lines out). Both are described in docs/formats/cmdb.md.
 *
 * Every question fails closed: no record, two records, an answer that isn't understood are errors, with what to do. Nothing here keeps
 * state; a call may be repeated: retiring a retired record finds that it is done. */
#pragma once

#include "base/json.h"

#define CMDB_TEXT_SIZE 256

struct cmdb; /* an opened CMDB; for one thread at a time */

struct cmdb_record {
    char id[CMDB_TEXT_SIZE];     /* the CMDB's own id */
    char kind[CMDB_TEXT_SIZE];   /* "virtualization/virtual-machines", "dcim/devices", or the program's word */
    char name[CMDB_TEXT_SIZE];
    char status[CMDB_TEXT_SIZE]; /* "active", "decommissioning" … */
};

/* What is written beside a retired record. */
struct cmdb_note {
    const char *mark; /* names this retirement ("Slipway run r1"), so that a second call finds it; plain text, no line end */
    const char *text; /* the evidence, for a person */
};

/* settings {kind:"netbox", url, ca_file?, retired_status?} or {kind:"program", command:["/path", …]}. token may be NULL or empty where
 * the CMDB wants none; it goes into a header or the program's input, never onto a command line. */
int cmdb_open(const json_t *settings, const char *token, struct cmdb **out, struct err *e);
void cmdb_close(struct cmdb **c); /* for CLEANUP */
/* That it answers and lets us in; evidence gets a line for a person. */
int cmdb_check(struct cmdb *c, struct buf *evidence, struct err *e);
/* The one record of that id (where given) or name. ERR_NOT_FOUND; ERR_CONFLICT where several have the name. */
int cmdb_find(struct cmdb *c, const char *name, const char *id, struct cmdb_record *out, struct err *e);
/* Writes the note and sets the status that says "retired", then reads back that both are there. out: the record after it. */
int cmdb_retire(struct cmdb *c, const struct cmdb_record *record, const struct cmdb_note *note, struct cmdb_record *out, struct err *e);

/* The program's answer, whole: JSON lines, the last one {"done":true}. Sets *record from the line that has one (its reference is
 * the caller's; NULL: none came). ERR_PROTOCOL for anything else. Apart for its fuzz target. */
int cmdb_program_answer(const char *bytes, size_t size, json_t **record, struct err *e);
