/* nbd_proto: the bytes of the NBD protocol (fixed newstyle, structured replies), as in the protocol document of the NBD project
 * (github.com/NetworkBlockDevice/nbd, doc/proto.md). All integers are big-endian. Decoders take bytes from outside; nothing here
 * touches a socket. */
#pragma once

#include "base/mem.h"

#define NBD_MAGIC UINT64_C(0x4e42444d41474943)        /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_OPTION_REPLY_MAGIC UINT64_C(0x3e889045565a9)
#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
#define NBD_GREETING_SIZE 18
#define NBD_OPTION_HEADER_SIZE 16
#define NBD_OPTION_REPLY_SIZE 20
#define NBD_REQUEST_SIZE 28
#define NBD_NAME_LIMIT 4096u
#define NBD_OPTION_LIMIT 8192u /* of an option's data: a name and some queries */

enum { NBD_FIXED_NEWSTYLE = 1, NBD_NO_ZEROES = 2 }; /* handshake flags, both sides */
enum { NBD_HAS_FLAGS = 1, NBD_READ_ONLY = 2, NBD_SEND_FLUSH = 4, NBD_SEND_DF = 128, NBD_CAN_MULTI_CONN = 256 };
enum nbd_option {
    NBD_OPT_EXPORT_NAME = 1, NBD_OPT_ABORT = 2, NBD_OPT_LIST = 3, NBD_OPT_STARTTLS = 5, NBD_OPT_INFO = 6, NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8, NBD_OPT_LIST_META_CONTEXT = 9, NBD_OPT_SET_META_CONTEXT = 10
};
enum nbd_reply {
    NBD_REP_ACK = 1, NBD_REP_SERVER = 2, NBD_REP_INFO = 3, NBD_REP_META_CONTEXT = 4,
    NBD_REP_ERR_UNSUP = (int)(1u << 31 | 1), NBD_REP_ERR_POLICY = (int)(1u << 31 | 2), NBD_REP_ERR_INVALID = (int)(1u << 31 | 3),
    NBD_REP_ERR_UNKNOWN = (int)(1u << 31 | 6), NBD_REP_ERR_TOO_BIG = (int)(1u << 31 | 9)
};
enum { NBD_INFO_EXPORT = 0, NBD_INFO_BLOCK_SIZE = 3 };
enum nbd_command { NBD_CMD_READ = 0, NBD_CMD_WRITE = 1, NBD_CMD_DISC = 2, NBD_CMD_FLUSH = 3, NBD_CMD_TRIM = 4, NBD_CMD_CACHE = 5,
                   NBD_CMD_WRITE_ZEROES = 6, NBD_CMD_BLOCK_STATUS = 7 };
enum { NBD_CMD_FLAG_DF = 4, NBD_CMD_FLAG_REQ_ONE = 8 };
enum { NBD_CHUNK_DONE = 1 };
enum nbd_chunk { NBD_CHUNK_NONE = 0, NBD_CHUNK_DATA = 1, NBD_CHUNK_HOLE = 2, NBD_CHUNK_BLOCK_STATUS = 5, NBD_CHUNK_ERROR = 32769 };
enum nbd_error { NBD_EPERM = 1, NBD_EIO = 5, NBD_EINVAL = 22, NBD_EOVERFLOW = 75, NBD_ENOTSUP = 95 };
enum { NBD_STATE_HOLE = 1, NBD_STATE_ZERO = 2 };

struct nbd_option_header {
    uint32_t option, size;
};
struct nbd_request {
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t size;
};

/* ERR_PROTOCOL where the magic is wrong: the stream can't be trusted any more. */
int nbd_option_decode(const uint8_t bytes[static NBD_OPTION_HEADER_SIZE], struct nbd_option_header *out, struct err *e);
int nbd_request_decode(const uint8_t bytes[static NBD_REQUEST_SIZE], struct nbd_request *out, struct err *e);
/* Data of INFO and GO: the export's name (NUL-terminated into name) and whether the block size was asked for. */
int nbd_go_decode(const void *data, size_t size, char name[static NBD_NAME_LIMIT + 1], bool *wants_block_size, struct err *e);
/* Data of LIST_META_CONTEXT and SET_META_CONTEXT: the name, and whether a query asks for base:allocation (for a list: no query, or
 * "base:", asks for it, too). */
int nbd_meta_decode(const void *data, size_t size, bool list, char name[static NBD_NAME_LIMIT + 1], bool *wants_allocation,
                    struct err *e);
/* "POINT/DISK", split at the first slash; both parts not empty and shorter than part_size. */
int nbd_export_split(const char *name, char *point, char *disk, size_t part_size, struct err *e);

void nbd_greeting_encode(uint8_t bytes[static NBD_GREETING_SIZE]);
void nbd_option_reply_encode(uint32_t option, uint32_t type, uint32_t size, uint8_t bytes[static NBD_OPTION_REPLY_SIZE]);
