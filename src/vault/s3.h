/* s3: objects in one bucket of an S3-compatible store, addressed by path (URL/BUCKET/KEY), each request signed (s3_sign.h). One client is for
 * one thread at a time. Nothing is tried twice here: whoever asks knows how long it may take.
 *
 * Errors: ERR_NOT_FOUND: the store says that this very object is not there. ERR_UNREACHABLE, ERR_TIMEOUT: gone, slow, or an answer 5xx: it may
 * go away by itself. ERR_DENIED: credentials, clock or certificate. ERR_PROTOCOL: an answer that can't be right. ERR_CANCELLED. */
#pragma once

#include "vault/s3_sign.h"

struct clock;

struct s3_options {
    const char *url;    /* "https://host:port" */
    const char *bucket;
    const char *region; /* NULL: us-east-1 */
    const char *ca_file; /* NULL: the system's */
    const struct s3_keys *keys; /* borrowed for as long as the client lives */
    const struct clock *clock;
    int stall_s;        /* an exchange in which nothing moves for so long ends */
    int small_timeout_ms; /* of one that carries little; 0: 20,000 */
    bool (*cancelled)(void *user); /* asked once a second */
    void *user;
};

struct s3;
int s3_open(const struct s3_options *options, struct s3 **out, struct err *e); /* connects to nobody yet */
void s3_close(struct s3 **s);                                                  /* for CLEANUP */

/* Stores the object, which is sent once, and makes sure: the store had its SHA-256 and MD5 before it, what it answers must be that MD5, and what it tells of the
 * object afterwards must be its size and our SHA-256. Less than that is no 0. */
int s3_put(struct s3 *s, const char *key, const void *bytes, size_t size, struct err *e);
/* Whether there is such an object: 1/0/-1. A bucket that is not there has none. */
int s3_has(struct s3 *s, const char *key, struct err *e);
/* Exactly size bytes from offset on, within timeout_ms; ERR_CORRUPT where the object ends before. */
int s3_get(struct s3 *s, const char *key, uint64_t offset, size_t size, void *bytes, int timeout_ms, struct err *e);
/* A whole small object, of at most limit bytes, appended to out. */
int s3_get_text(struct s3 *s, const char *key, size_t limit, struct buf *out, struct err *e);
/* A whole object into fd, from where it stands on; *size: its bytes. */
int s3_get_file(struct s3 *s, const char *key, int fd, uint64_t *size, struct err *e);
int s3_delete(struct s3 *s, const char *key, struct err *e); /* one that is not there is fine */
/* All objects whose keys begin so, over as many pages as there are. The visitor returns -1 to end it. */
typedef int s3_visit(const char *key, uint64_t size, void *user, struct err *e);
int s3_list(struct s3 *s, const char *prefix, s3_visit *visit, void *user, struct err *e);

/* s3_list.c: one page (ListObjectsV2); *next (the caller frees): what the next one is asked for with; NULL: this was the last. */
int s3_list_parse(const char *text, s3_visit *visit, void *user, char **next, struct err *e);
/* The text between <name> and </name>, entities resolved; NULL: there is none. The caller frees. */
char *s3_element(const char *text, const char *name);
