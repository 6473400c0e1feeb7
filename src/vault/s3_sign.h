/* s3_sign: AWS Signature Version 4 for requests to an S3-compatible store. Nothing here touches the network; the tests hold it against the
 * published examples. libcurl 7.88 can sign, too, and is wrong for queries, for signed headers beyond its own and for paths to be encoded. */
#pragma once

#include "base/mem.h"

#define S3_STAMP_SIZE 17 /* 20130524T000000Z and its NUL */

struct s3_keys {
    char access[256];
    struct secret secret_key, token; /* token: of temporary credentials; empty: none */
};

struct s3_pair {
    const char *name, *value;
};

/* What is signed. Headers are those that travel, with lower-case names, in the order of their bytes; host, x-amz-content-sha256 and x-amz-date
 * must be among them. */
struct s3_signing {
    const char *method;
    const char *path;  /* as it travels: s3_path made it */
    const char *query; /* as it travels: s3_query made it; "": none */
    const struct s3_pair *headers;
    size_t header_count;
    const char *payload_sha256; /* lower-case hexadecimal */
    const char *stamp;          /* S3_STAMP_SIZE: the moment, as x-amz-date says it */
    const char *region;
};

/* The value of the header Authorization; the caller frees. */
char *s3_sign(const struct s3_signing *s, const struct s3_keys *k);
/* A path with all but the slashes encoded, as S3 has it (once, not twice); the caller frees. */
char *s3_path(const char *path);
/* Pairs in the order of their names, encoded; the caller frees. */
char *s3_query(const struct s3_pair *pairs, size_t count);
void s3_stamp(int64_t now_us, char out[static S3_STAMP_SIZE]);

/* A file as other tools have it: lines `aws_access_key_id = …`, `aws_secret_access_key = …` and, for temporary ones, `aws_session_token = …`;
 * those under the first [section] count. */
int s3_keys_read(const char *path, struct s3_keys *out, struct err *e);
int s3_keys_parse(const char *text, struct s3_keys *out, struct err *e); /* ERR_INVALID */
void s3_keys_release(struct s3_keys *k);                                 /* wipes; for CLEANUP */
