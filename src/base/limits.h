/* limits: every bound on what the outside can make us hold or do, by name. */
#pragma once

#define LIMIT_JSON_BYTES (8u << 20)        /* a JSON document from outside */
#define LIMIT_JSON_DEPTH 32                /* its nesting (jansson's own bound is 2048) */
#define LIMIT_REQUEST_BODY_BYTES (64u << 20)
#define LIMIT_NAME_BYTES 128               /* a server's, wave's, user's name */
#define COPY_SUFFIX "~copy"                /* behind a server's name: the machine that was launched for it, whose agent has an identity of its own. No server can be
                                            * called so */
#define LIMIT_CSV_ROWS 200000
#define LIMIT_CSV_FIELD_BYTES 65536
#define LIMIT_PAGE_ITEMS 500
#define LIMIT_DISKS_PER_SERVER 64
#define LIMIT_COMMAND_OUTPUT_BYTES (4u << 20) /* of a remote or local command */
#define LIMIT_ARTIFACT_BYTES (16u << 20)
#define LIMIT_EVIDENCE_TEXT_BYTES 8192
#define LIMIT_TOKEN_BYTES 256
