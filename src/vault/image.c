/* image: one disk of one point as a flat image. The path of nodes down to the current chunk is kept, so that reading along a disk looks
 * each node up once. */
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

struct vault_image {
    struct vault *v;
    char point[VAULT_POINT_ID_SIZE], disk[VAULT_DISK_ID_SIZE];
    uint64_t size_bytes, chunk_count;
    struct vault_hash root;
    unsigned depth;
    struct {
        bool loaded;
        uint64_t index; /* of the node within its level */
        struct tree_node node;
    } path[TREE_DEPTH_LIMIT];
    uint8_t chunk[VAULT_CHUNK_BYTES];
    uint64_t chunk_index; /* that lies in chunk; UINT64_MAX: none */
};

int vault_image_open(struct vault *v, const char *point, const char *disk, struct vault_image **out, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    int found = vault_point_get(v, point, p, e);

    if (found != 1)
        return found < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no recovery point %.200s", point);
    for (size_t i = 0; i < p->disk_count; i++) {
        struct vault_image *image;

        if (strcmp(p->disks[i].id, disk) != 0)
            continue;
        image = xcalloc(1, sizeof *image);
        image->v = v;
        snprintf(image->point, sizeof image->point, "%s", point);
        snprintf(image->disk, sizeof image->disk, "%s", disk);
        image->size_bytes = p->disks[i].size_bytes;
        image->chunk_count = chunks_of(image->size_bytes);
        image->root = p->disks[i].root;
        image->depth = tree_depth(image->chunk_count);
        image->chunk_index = UINT64_MAX;
        *out = image;
        return 0;
    }
    return err_set(e, ERR_NOT_FOUND, "recovery point %s has no disk %.200s", point, disk);
}

void vault_image_free(struct vault_image **i)
{
    free(*i);
    *i = NULL;
}

uint64_t vault_image_size(const struct vault_image *i) { return i->size_bytes; }

bool vault_image_is(const struct vault_image *i, const char *point, const char *disk)
{
    return strcmp(i->point, point) == 0 && strcmp(i->disk, disk) == 0;
}

static int wrap(const struct vault_image *i, uint64_t index, struct err *e)
{
    return err_wrap(e, "disk %s of recovery point %s at byte %llu", i->disk, i->point,
                    (unsigned long long)(index * VAULT_CHUNK_BYTES));
}

/* The node on the way to a chunk, at that level; hash is its name. */
static int load_level(struct vault_image *i, int level, uint64_t index, const struct vault_hash *hash, struct err *e)
{
    uint64_t node_index = index / tree_span((unsigned)level + 1);

    if (i->path[level].loaded && i->path[level].index == node_index)
        return 0;
    i->path[level].loaded = false;
    if (vault_hash_is_zero(hash))
        memset(&i->path[level].node, 0, TREE_NODE_SIZE);
    else if (record_get(i->v, hash, &i->path[level].node, TREE_NODE_SIZE, e) < 0 ||
             tree_node_parse(&i->path[level].node, TREE_NODE_SIZE, &i->path[level].node, e) < 0)
        return wrap(i, index, e);
    i->path[level].loaded = true;
    i->path[level].index = node_index;
    return 0;
}

static const struct vault_hash *child_at(const struct vault_image *i, int level, uint64_t index)
{
    return &i->path[level].node.child[index / tree_span((unsigned)level) % TREE_FANOUT];
}

/* Goes down to the chunk. Returns the level at which everything from there on is zero (span = tree_span(level)), or -2 at a chunk that
 * has a name (*out), or -1. */
static int descend(struct vault_image *i, uint64_t index, struct vault_hash *out, struct err *e)
{
    struct vault_hash hash = i->root;

    for (int level = (int)i->depth - 1; level >= 0; level--) {
        if (vault_hash_is_zero(&hash))
            return level + 1;
        if (load_level(i, level, index, &hash, e) < 0)
            return -1;
        hash = *child_at(i, level, index);
    }
    *out = hash;
    return vault_hash_is_zero(&hash) ? 0 : -2;
}

int vault_image_hash(struct vault_image *i, uint64_t index, struct vault_hash *out, struct err *e)
{
    struct vault_hash hash = vault_hash_zero;
    int level = descend(i, index, &hash, e);

    if (level == -1)
        return -1;
    seal_reveal(i->v->seal, &hash);
    *out = hash;
    return 0;
}

static int load_chunk(struct vault_image *i, uint64_t index, struct err *e)
{
    struct vault_hash hash;
    int level;

    if (i->chunk_index == index)
        return 0;
    level = descend(i, index, &hash, e);
    if (level == -1)
        return -1;
    i->chunk_index = UINT64_MAX;
    if (level >= 0)
        memset(i->chunk, 0, sizeof i->chunk);
    else if (record_get(i->v, &hash, i->chunk, sizeof i->chunk, e) < 0)
        return wrap(i, index, e);
    i->chunk_index = index;
    return 0;
}

static int check_inside(const struct vault_image *i, uint64_t offset, uint64_t size, struct err *e)
{
    if (size == 0 || offset >= i->size_bytes || size > i->size_bytes - offset)
        return err_set(e, ERR_INVALID, "bytes %llu+%llu lie outside disk %s of %llu bytes", (unsigned long long)offset,
                       (unsigned long long)size, i->disk, (unsigned long long)i->size_bytes);
    return 0;
}

int vault_image_read(struct vault_image *i, void *bytes, size_t size, uint64_t offset, struct err *e)
{
    uint8_t *to = bytes;

    if (check_inside(i, offset, size, e) < 0)
        return -1;
    while (size) {
        uint64_t index = offset / VAULT_CHUNK_BYTES;
        size_t at = offset % VAULT_CHUNK_BYTES, take = VAULT_CHUNK_BYTES - at;

        if (take > size)
            take = size;
        if (load_chunk(i, index, e) < 0)
            return -1;
        memcpy(to, i->chunk + at, take);
        to += take;
        offset += take;
        size -= take;
    }
    return 0;
}

int vault_image_extent(struct vault_image *i, uint64_t offset, uint64_t limit, uint64_t *length, bool *zero, struct err *e)
{
    uint64_t at = offset, end;
    bool first_zero = false;

    if (check_inside(i, offset, 1, e) < 0)
        return -1;
    end = limit < i->size_bytes - offset ? offset + limit : i->size_bytes;
    while (at < end) {
        uint64_t index = at / VAULT_CHUNK_BYTES, span;
        struct vault_hash hash;
        int level = descend(i, index, &hash, e);

        if (level == -1)
            return -1;
        if (at == offset)
            first_zero = level >= 0;
        else if (first_zero != (level >= 0))
            break;
        span = level > 0 ? tree_span((unsigned)level) : 1;
        at = (index / span + 1) * span * VAULT_CHUNK_BYTES;
    }
    if (at > end)
        at = end;
    *length = at - offset;
    *zero = first_zero;
    return 0;
}

/* For how many chunks from index on both are the same; 0: this one is not. -1 */
static int64_t same_from(struct vault_image *a, struct vault_image *b, uint64_t index, struct err *e)
{
    struct vault_hash of_a = a->root, of_b = b->root;

    for (int level = (int)a->depth - 1; level >= 0; level--) {
        uint64_t span = tree_span((unsigned)level + 1);

        if (vault_hash_same(&of_a, &of_b))
            return (int64_t)(span - index % span);
        if (load_level(a, level, index, &of_a, e) < 0 || load_level(b, level, index, &of_b, e) < 0)
            return -1;
        of_a = *child_at(a, level, index);
        of_b = *child_at(b, level, index);
    }
    return vault_hash_same(&of_a, &of_b);
}

int vault_image_differing(struct vault_image *i, struct vault_image *base, uint64_t from, uint32_t *chunks, size_t count, struct err *e)
{
    size_t found = 0;

    MUST(!base || base->size_bytes == i->size_bytes);
    for (uint64_t at = from; at < i->chunk_count && found < count;) {
        int64_t same = base ? same_from(i, base, at, e) : 0;

        if (same < 0)
            return -1;
        if (same == 0)
            chunks[found++] = (uint32_t)at;
        at += same ? (uint64_t)same : 1;
    }
    return (int)found;
}
