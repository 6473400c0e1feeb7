#include "vault/nbd_session.h"
#include "base/bytes.h"
#include "base/file.h"
#include "vault/nbd.h"
#include "vault/nbd_proto.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_LIMIT (32u << 20)    /* the protocol's default for a client that did not ask */
#define PREFERRED_BYTES 65536u
#define EXTENT_LIMIT 1024u        /* in one answer to BLOCK_STATUS */
#define ALLOCATION_CONTEXT_ID 1u

struct talk {
    struct nbd_session *s;
    struct vault_image *image;
    bool no_zeroes, structured, allocation;
    char meta_name[NBD_NAME_LIMIT + 1]; /* for which base:allocation was chosen */
    uint8_t *buffer;
    size_t buffer_size;
};

static int send_all(struct talk *t, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;

    while (size) {
        ssize_t n = send(t->s->fd, at, size, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

static int receive(struct talk *t, void *bytes, size_t size) { return fd_read_all(t->s->fd, bytes, size, NULL) == 1 ? 0 : -1; }

/* ---- options ---- */

static int reply(struct talk *t, uint32_t option, uint32_t type, const void *data, size_t size)
{
    uint8_t header[NBD_OPTION_REPLY_SIZE];

    nbd_option_reply_encode(option, type, (uint32_t)size, header);
    return send_all(t, header, sizeof header) < 0 || (size && send_all(t, data, size) < 0) ? -1 : 0;
}

static int reply_words(struct talk *t, uint32_t option, uint32_t type, const char *words)
{
    return reply(t, option, type, words, strlen(words));
}

static bool is_lent(const char *name) { return strncmp(name, NBD_LENT_PREFIX, strlen(NBD_LENT_PREFIX)) == 0; }

/* Opens NAME's image where its point is exported, or lent, and usable. */
static int open_export(struct talk *t, const char *name, struct vault_image **out, char point[static VAULT_POINT_ID_SIZE],
                       struct err *e)
{
    char point_name[VAULT_DISK_ID_SIZE], disk[VAULT_DISK_ID_SIZE];
    bool lent = is_lent(name);
    int found;

    if (nbd_export_split(lent ? name + strlen(NBD_LENT_PREFIX) : name, point_name, disk, sizeof disk, e) < 0)
        return -1;
    if (strlen(point_name) >= VAULT_POINT_ID_SIZE)
        return err_set(e, ERR_NOT_FOUND, "there is no such recovery point");
    found = vault_point_pinned(t->s->v, point_name, lent ? VAULT_LENT_PIN : VAULT_EXPORT_PIN, e);
    if (found != 1)
        return found < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "recovery point %s is not %s", point_name, lent ? "lent" : "exported");
    if (vault_point_usable(t->s->v, point_name, e) < 0)
        return -1;
    memcpy(point, point_name, strlen(point_name) + 1);
    return vault_image_open(t->s->v, point, disk, out, e);
}

static uint16_t export_flags(const struct talk *t)
{
    return (uint16_t)(NBD_HAS_FLAGS | NBD_READ_ONLY | NBD_SEND_FLUSH | NBD_CAN_MULTI_CONN | (t->structured ? NBD_SEND_DF : 0));
}

static int reply_export(struct talk *t, uint32_t option, const struct vault_image *image, bool block_size)
{
    uint8_t info[14];

    put_be16(info, NBD_INFO_EXPORT);
    put_be64(info + 2, vault_image_size(image));
    put_be16(info + 10, export_flags(t));
    if (reply(t, option, NBD_REP_INFO, info, 12) < 0)
        return -1;
    put_be16(info, NBD_INFO_BLOCK_SIZE);
    put_be32(info + 2, 1);
    put_be32(info + 6, PREFERRED_BYTES);
    put_be32(info + 10, READ_LIMIT);
    return block_size && reply(t, option, NBD_REP_INFO, info, 14) < 0 ? -1 : reply(t, option, NBD_REP_ACK, NULL, 0);
}

static void attach(struct talk *t, struct vault_image *image, const char *name, const char point[static VAULT_POINT_ID_SIZE])
{
    t->image = image;
    t->s->lent = is_lent(name);
    memcpy(t->s->point, point, VAULT_POINT_ID_SIZE);
    atomic_store(&t->s->attached, true);
}

/* 1: transmission starts; 0: the next option; -1: the connection ends. */
static int option_go(struct talk *t, const struct nbd_option_header *h, const uint8_t *data)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    char name[NBD_NAME_LIMIT + 1], point[VAULT_POINT_ID_SIZE] = "";
    struct err e = {0};
    bool block_size;

    if (nbd_go_decode(data, h->size, name, &block_size, &e) < 0)
        return reply_words(t, h->option, (uint32_t)NBD_REP_ERR_INVALID, e.message);
    if (open_export(t, name, &image, point, &e) < 0)
        return reply_words(t, h->option, (uint32_t)NBD_REP_ERR_UNKNOWN, e.message);
    if (reply_export(t, h->option, image, block_size) < 0)
        return -1;
    if (h->option == NBD_OPT_INFO)
        return 0;
    t->allocation = t->allocation && strcmp(name, t->meta_name) == 0; /* the context was chosen for that export only */
    attach(t, image, name, point);
    image = NULL;
    return 1;
}

static int option_export_name(struct talk *t, const struct nbd_option_header *h, const uint8_t *data)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    char name[NBD_NAME_LIMIT + 1], point[VAULT_POINT_ID_SIZE] = "";
    uint8_t answer[10 + 124] = {0};

    if (h->size > NBD_NAME_LIMIT)
        return -1;
    memcpy(name, data, h->size);
    name[h->size] = '\0';
    if (open_export(t, name, &image, point, NULL) < 0)
        return -1; /* this option has no way to say no */
    put_be64(answer, vault_image_size(image));
    put_be16(answer + 8, export_flags(t));
    if (send_all(t, answer, t->no_zeroes ? 10 : sizeof answer) < 0)
        return -1;
    attach(t, image, name, point);
    image = NULL;
    return 1;
}

static int list_point(struct talk *t, const char *prefix, const char *id)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);

    if (vault_point_get(t->s->v, id, p, NULL) != 1)
        return 0;
    for (size_t i = 0; i < p->disk_count; i++) {
        uint8_t entry[4 + sizeof NBD_LENT_PREFIX + VAULT_POINT_ID_SIZE + VAULT_DISK_ID_SIZE + 2];
        int size = snprintf((char *)entry + 4, sizeof entry - 4, "%s%s/%s", prefix, p->id, p->disks[i].id);

        put_be32(entry, (uint32_t)size);
        if (reply(t, NBD_OPT_LIST, NBD_REP_SERVER, entry, 4 + (size_t)size) < 0)
            return -1;
    }
    return 0;
}

static int option_list(struct talk *t, const struct nbd_option_header *h)
{
    static const struct {
        const char *pin, *prefix;
    } kinds[] = {{VAULT_EXPORT_PIN, ""}, {VAULT_LENT_PIN, NBD_LENT_PREFIX}};
    int r = 0;

    if (h->size)
        return reply_words(t, h->option, (uint32_t)NBD_REP_ERR_INVALID, "LIST takes no data");
    for (size_t k = 0; k < ARRAY_COUNT(kinds) && r == 0; k++) {
        char(*ids)[VAULT_POINT_ID_SIZE] = NULL;
        int count = vault_pin_list(t->s->v, kinds[k].pin, &ids, NULL);

        if (count < 0)
            return reply_words(t, h->option, (uint32_t)NBD_REP_ERR_POLICY, "the vault can't be read");
        for (int i = 0; i < count && r == 0; i++)
            r = list_point(t, kinds[k].prefix, ids[i]);
        free(ids);
    }
    return r < 0 ? -1 : reply(t, h->option, NBD_REP_ACK, NULL, 0);
}

static int option_meta(struct talk *t, const struct nbd_option_header *h, const uint8_t *data)
{
    static const char context[] = "base:allocation";
    char name[NBD_NAME_LIMIT + 1];
    uint8_t answer[4 + sizeof context - 1];
    bool list = h->option == NBD_OPT_LIST_META_CONTEXT, wants;
    struct err e = {0};

    if (!t->structured && !list)
        return reply_words(t, h->option, (uint32_t)NBD_REP_ERR_INVALID, "ask for structured replies first");
    if (nbd_meta_decode(data, h->size, list, name, &wants, &e) < 0)
        return reply_words(t, h->option, (uint32_t)NBD_REP_ERR_INVALID, e.message);
    if (!list) {
        t->allocation = wants;
        memcpy(t->meta_name, name, strlen(name) + 1);
    }
    put_be32(answer, list ? 0 : ALLOCATION_CONTEXT_ID);
    memcpy(answer + 4, context, sizeof context - 1);
    if (wants && reply(t, h->option, NBD_REP_META_CONTEXT, answer, sizeof answer) < 0)
        return -1;
    return reply(t, h->option, NBD_REP_ACK, NULL, 0);
}

static int option_answer(struct talk *t, const struct nbd_option_header *h, const uint8_t *data)
{
    switch (h->option) {
    case NBD_OPT_EXPORT_NAME: return option_export_name(t, h, data);
    case NBD_OPT_GO:
    case NBD_OPT_INFO: return option_go(t, h, data);
    case NBD_OPT_LIST: return option_list(t, h);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT: return option_meta(t, h, data);
    case NBD_OPT_STRUCTURED_REPLY:
        if (h->size)
            return reply_words(t, h->option, (uint32_t)NBD_REP_ERR_INVALID, "STRUCTURED_REPLY takes no data");
        t->structured = true;
        return reply(t, h->option, NBD_REP_ACK, NULL, 0);
    case NBD_OPT_ABORT:
        (void)reply(t, h->option, NBD_REP_ACK, NULL, 0);
        return -1;
    default: return reply_words(t, h->option, (uint32_t)NBD_REP_ERR_UNSUP, "not supported");
    }
}

static int skip(struct talk *t, uint64_t size)
{
    uint8_t bytes[4096];

    while (size) {
        size_t take = size < sizeof bytes ? (size_t)size : sizeof bytes;

        if (receive(t, bytes, take) < 0)
            return -1;
        size -= take;
    }
    return 0;
}

static int handshake(struct talk *t)
{
    uint8_t greeting[NBD_GREETING_SIZE], flags[4], header[NBD_OPTION_HEADER_SIZE], data[NBD_OPTION_LIMIT];
    struct nbd_option_header h;
    int r = 0;

    nbd_greeting_encode(greeting);
    if (send_all(t, greeting, sizeof greeting) < 0 || receive(t, flags, sizeof flags) < 0 ||
        (get_be32(flags) & ~(uint32_t)(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES)))
        return -1;
    t->no_zeroes = get_be32(flags) & NBD_NO_ZEROES;
    while (r == 0) {
        if (receive(t, header, sizeof header) < 0 || nbd_option_decode(header, &h, NULL) < 0)
            return -1;
        if (h.size > sizeof data) {
            /* As large as the protocol's own limits let it be, and no larger, is worth reading over. */
            if (h.size > READ_LIMIT || skip(t, h.size) < 0 || h.option == NBD_OPT_EXPORT_NAME)
                return -1;
            r = reply_words(t, h.option, (uint32_t)NBD_REP_ERR_TOO_BIG, "too much data in an option");
            continue;
        }
        r = receive(t, data, h.size) < 0 ? -1 : option_answer(t, &h, data);
    }
    return r;
}

/* ---- transmission ---- */

static int send_simple(struct talk *t, const struct nbd_request *q, uint32_t error)
{
    uint8_t bytes[16];

    put_be32(bytes, NBD_SIMPLE_REPLY_MAGIC);
    put_be32(bytes + 4, error);
    put_be64(bytes + 8, q->cookie);
    return send_all(t, bytes, sizeof bytes);
}

static int send_chunk(struct talk *t, const struct nbd_request *q, unsigned flags, unsigned type, const void *head, size_t head_size,
                      const void *data, size_t size)
{
    uint8_t bytes[20 + 16];

    MUST(head_size <= 16);
    put_be32(bytes, NBD_STRUCTURED_REPLY_MAGIC);
    put_be16(bytes + 4, (uint16_t)flags);
    put_be16(bytes + 6, (uint16_t)type);
    put_be64(bytes + 8, q->cookie);
    put_be32(bytes + 16, (uint32_t)(head_size + size));
    if (head_size)
        memcpy(bytes + 20, head, head_size);
    return send_all(t, bytes, 20 + head_size) < 0 || (size && send_all(t, data, size) < 0) ? -1 : 0;
}

static int send_error(struct talk *t, const struct nbd_request *q, uint32_t error, const char *words)
{
    uint8_t head[6];
    size_t size = strlen(words);

    /* What can only be answered in structured form is not asked for by others. */
    if (!t->structured)
        return send_simple(t, q, error);
    put_be32(head, error);
    put_be16(head + 4, (uint16_t)size);
    return send_chunk(t, q, NBD_CHUNK_DONE, NBD_CHUNK_ERROR, head, sizeof head, words, size);
}

/* What lies in t->buffer, zeros as holes. */
static int send_pieces(struct talk *t, const struct nbd_request *q)
{
    uint64_t at = q->offset, end = q->offset + q->size;

    while (at < end) {
        uint64_t length = end - at;
        uint8_t head[12];
        bool zero = false;
        unsigned done;

        if (!(q->flags & NBD_CMD_FLAG_DF) && vault_image_extent(t->image, at, end - at, &length, &zero, NULL) < 0)
            return send_error(t, q, NBD_EIO, "the map can't be read");
        done = at + length == end ? NBD_CHUNK_DONE : 0;
        put_be64(head, at);
        put_be32(head + 8, (uint32_t)length);
        if ((zero ? send_chunk(t, q, done, NBD_CHUNK_HOLE, head, 12, NULL, 0)
                  : send_chunk(t, q, done, NBD_CHUNK_DATA, head, 8, t->buffer + (at - q->offset), length)) < 0)
            return -1;
        at += length;
    }
    return 0;
}

static bool inside(const struct talk *t, const struct nbd_request *q)
{
    uint64_t size = vault_image_size(t->image);

    return q->size > 0 && q->offset < size && q->size <= size - q->offset;
}

static int do_read(struct talk *t, const struct nbd_request *q)
{
    struct err e = {0};

    if (!inside(t, q))
        return send_error(t, q, NBD_EINVAL, "outside the disk");
    if (q->size > READ_LIMIT)
        return send_error(t, q, NBD_EOVERFLOW, "a read of more than 32 MiB");
    if (q->size > t->buffer_size) {
        t->buffer = xrealloc(t->buffer, q->size);
        t->buffer_size = q->size;
    }
    if (vault_image_read(t->image, t->buffer, q->size, q->offset, &e) < 0) {
        atomic_fetch_add(t->s->read_errors, 1);
        return send_error(t, q, NBD_EIO, e.message);
    }
    if (t->structured)
        return send_pieces(t, q);
    return send_simple(t, q, 0) < 0 ? -1 : send_all(t, t->buffer, q->size);
}

static int do_block_status(struct talk *t, const struct nbd_request *q)
{
    CLEANUP(free_ptr) uint8_t *extents = xmalloc(8 * EXTENT_LIMIT);
    uint64_t at = q->offset, end = q->offset + q->size;
    size_t count = 0, limit = q->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : EXTENT_LIMIT;
    uint8_t id[4];

    if (!t->structured || !t->allocation)
        return send_error(t, q, NBD_EINVAL, "base:allocation was not asked for");
    if (!inside(t, q))
        return send_error(t, q, NBD_EINVAL, "outside the disk");
    while (at < end && count < limit) {
        uint64_t length;
        struct err e = {0};
        bool zero;

        if (vault_image_extent(t->image, at, end - at, &length, &zero, &e) < 0) {
            atomic_fetch_add(t->s->read_errors, 1);
            return send_error(t, q, NBD_EIO, e.message);
        }
        put_be32(extents + 8 * count, (uint32_t)length);
        put_be32(extents + 8 * count + 4, zero ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0);
        count++;
        at += length;
    }
    put_be32(id, ALLOCATION_CONTEXT_ID);
    return send_chunk(t, q, NBD_CHUNK_DONE, NBD_CHUNK_BLOCK_STATUS, id, 4, extents, 8 * count);
}

/* 0: go on; -1: the connection ends */
static int answer(struct talk *t, const struct nbd_request *q)
{
    switch (q->type) {
    case NBD_CMD_READ: return do_read(t, q);
    case NBD_CMD_BLOCK_STATUS: return do_block_status(t, q);
    case NBD_CMD_FLUSH: return send_simple(t, q, 0);
    case NBD_CMD_WRITE:
        return q->size > READ_LIMIT || skip(t, q->size) < 0 ? -1 : send_error(t, q, NBD_EPERM, "read-only");
    case NBD_CMD_TRIM:
    case NBD_CMD_WRITE_ZEROES: return send_error(t, q, NBD_EPERM, "read-only");
    case NBD_CMD_DISC: return -1;
    default: return send_error(t, q, NBD_EINVAL, "no such command");
    }
}

void nbd_session_run(struct nbd_session *s)
{
    CLEANUP(free_ptr) struct talk *t = xcalloc(1, sizeof *t);
    uint8_t bytes[NBD_REQUEST_SIZE];
    struct nbd_request q;

    t->s = s;
    if (handshake(t) == 1)
        while (receive(t, bytes, sizeof bytes) == 0 && nbd_request_decode(bytes, &q, NULL) == 0 && answer(t, &q) == 0)
            ;
    vault_image_free(&t->image);
    free(t->buffer);
}
