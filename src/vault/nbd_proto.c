#include "vault/nbd_proto.h"

#include "base/bytes.h"

#include <string.h>

int nbd_option_decode(const uint8_t bytes[static NBD_OPTION_HEADER_SIZE], struct nbd_option_header *out, struct err *e)
{
    if (get_be64(bytes) != NBD_OPTION_MAGIC)
        return err_set(e, ERR_PROTOCOL, "NBD: an option starts with the wrong magic");
    out->option = get_be32(bytes + 8);
    out->size = get_be32(bytes + 12);
    return 0;
}

int nbd_request_decode(const uint8_t bytes[static NBD_REQUEST_SIZE], struct nbd_request *out, struct err *e)
{
    if (get_be32(bytes) != NBD_REQUEST_MAGIC)
        return err_set(e, ERR_PROTOCOL, "NBD: a request starts with the wrong magic");
    out->flags = get_be16(bytes + 4);
    out->type = get_be16(bytes + 6);
    out->cookie = get_be64(bytes + 8);
    out->offset = get_be64(bytes + 16);
    out->size = get_be32(bytes + 24);
    return 0;
}

/* A walk over an option's data that can't leave it. */
struct reader {
    const uint8_t *at;
    size_t left;
};

static const uint8_t *take(struct reader *r, size_t size)
{
    const uint8_t *at = r->at;

    if (size > r->left)
        return NULL;
    r->at += size;
    r->left -= size;
    return at;
}

static int take_name(struct reader *r, char name[static NBD_NAME_LIMIT + 1], struct err *e)
{
    const uint8_t *size_at = take(r, 4), *bytes;
    uint32_t size = size_at ? get_be32(size_at) : 0;

    if (!size_at || size > NBD_NAME_LIMIT || !(bytes = take(r, size)) || (size && memchr(bytes, 0, size)))
        return err_set(e, ERR_PROTOCOL, "NBD: an option's export name is cut, too long, or holds a zero byte");
    memcpy(name, bytes, size);
    name[size] = '\0';
    return 0;
}

int nbd_go_decode(const void *data, size_t size, char name[static NBD_NAME_LIMIT + 1], bool *wants_block_size, struct err *e)
{
    struct reader r = {data, size};
    const uint8_t *bytes;
    bool wants = false;
    unsigned count;

    if (take_name(&r, name, e) < 0)
        return -1;
    bytes = take(&r, 2);
    count = bytes ? get_be16(bytes) : 0;
    if (!bytes || r.left != count * 2u)
        return err_set(e, ERR_PROTOCOL, "NBD: an option's list of information requests is cut");
    for (unsigned i = 0; i < count; i++)
        wants = wants || get_be16(r.at + 2 * i) == NBD_INFO_BLOCK_SIZE;
    *wants_block_size = wants;
    return 0;
}

static bool query_is(const uint8_t *query, size_t size, const char *text) { return size == strlen(text) && memcmp(query, text, size) == 0; }

int nbd_meta_decode(const void *data, size_t size, bool list, char name[static NBD_NAME_LIMIT + 1], bool *wants_allocation,
                    struct err *e)
{
    struct reader r = {data, size};
    const uint8_t *bytes;
    uint32_t count;
    bool wants;

    if (take_name(&r, name, e) < 0)
        return -1;
    bytes = take(&r, 4);
    count = bytes ? get_be32(bytes) : 0;
    wants = list && count == 0;
    for (uint32_t i = 0; bytes && i < count; i++) {
        uint32_t query_size;

        bytes = take(&r, 4);
        query_size = bytes ? get_be32(bytes) : 0;
        if (!bytes || !(bytes = take(&r, query_size)))
            break;
        wants = wants || query_is(bytes, query_size, "base:allocation") || (list && query_is(bytes, query_size, "base:"));
    }
    if (!bytes || r.left)
        return err_set(e, ERR_PROTOCOL, "NBD: an option's list of metadata queries is cut");
    *wants_allocation = wants;
    return 0;
}

int nbd_export_split(const char *name, char *point, char *disk, size_t part_size, struct err *e)
{
    const char *slash = strchr(name, '/');
    size_t size = slash ? (size_t)(slash - name) : 0;

    if (size == 0 || size >= part_size || slash[1] == '\0' || strlen(slash + 1) >= part_size)
        return err_set(e, ERR_NOT_FOUND, "NBD: an export is named POINT/DISK");
    memcpy(point, name, size);
    point[size] = '\0';
    memcpy(disk, slash + 1, strlen(slash + 1) + 1);
    return 0;
}

void nbd_greeting_encode(uint8_t bytes[static NBD_GREETING_SIZE])
{
    put_be64(bytes, NBD_MAGIC);
    put_be64(bytes + 8, NBD_OPTION_MAGIC);
    put_be16(bytes + 16, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
}

void nbd_option_reply_encode(uint32_t option, uint32_t type, uint32_t size, uint8_t bytes[static NBD_OPTION_REPLY_SIZE])
{
    put_be64(bytes, NBD_OPTION_REPLY_MAGIC);
    put_be32(bytes + 8, option);
    put_be32(bytes + 12, type);
    put_be32(bytes + 16, size);
}
