/* export: the disks of a recovery point as image files, through the vault's NBD export and qemu-img. */
#pragma once

#include "point/meter.h"
#include "replicator/reach.h"

/* The formats' names in words, "raw, qcow2, …", and whether one is known. */
extern const char point_formats[];
bool point_format_known(const char *format);

struct point_export {
    const char *point, *folder, *format;
    const char *disk;  /* NULL: every one of the point's */
    bool force;        /* files that exist are replaced, once the new one is whole */
    bool skip_compare; /* the image is not read again */
    FILE *tell;        /* how far it is; NULL: not told */
    bool (*cancelled)(void *user); /* NULL: never */
    void *user;
};

/* Makes the folder where it is missing. Every image is written under another name, compared with the point, brought to the disk, and has its
 * name then; on failure those that are whole stay, and nothing of the others. The point is lent meanwhile (reach_lend).
 * *images: [{"disk","path","format","size_bytes","file_bytes","compared"}], the caller's. ERR_INVALID: the format; ERR_NOT_FOUND: point or
 * disk; ERR_CONFLICT: a file exists; ERR_NO_SPACE, before anything is written; ERR_CORRUPT: a damaged chunk, by name, or an image that is
 * not the point; ERR_CANCELLED. */
int point_export(struct reach *r, const struct point_export *q, json_t **images, struct err *e);

/* A failed read's cause, where the vault knows it: replaces *e by its words on a damaged chunk or on a replicator that is gone. */
void point_explain(struct reach *r, const char *point, struct err *e);
/* The document of one point, or ERR_NOT_FOUND with what to do. The caller frees *out. */
int point_look_up(struct reach *r, const char *point, json_t **out, struct err *e);
