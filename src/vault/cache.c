#include "vault/cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define WAYS 8u
#define SLOT_BYTES 65536u

/* Set-associative: a chunk may lie in one of 8 slots, the least recently used of them gives way. */
struct slot {
    struct vault_hash hash;
    uint8_t *bytes;
    size_t total;
    uint64_t used; /* 0: empty */
};

struct cache {
    pthread_mutex_t lock; /* over all below; no other lock is taken under it */
    struct slot *slots;
    size_t set_count;
    uint64_t tick;
};

struct cache *cache_new(size_t limit_bytes)
{
    struct cache *c = xcalloc(1, sizeof *c);

    MUST(pthread_mutex_init(&c->lock, NULL) == 0);
    c->set_count = limit_bytes / (SLOT_BYTES * WAYS);
    if (c->set_count == 0)
        c->set_count = 1;
    c->slots = xcalloc(c->set_count * WAYS, sizeof *c->slots);
    return c;
}

void cache_free(struct cache **held)
{
    struct cache *c = *held;

    if (!c)
        return;
    for (size_t i = 0; i < c->set_count * WAYS; i++)
        free(c->slots[i].bytes);
    free(c->slots);
    pthread_mutex_destroy(&c->lock);
    free(c);
    *held = NULL;
}

static struct slot *set_of(struct cache *c, const struct vault_hash *hash)
{
    uint64_t value;

    memcpy(&value, hash->bytes + 8, sizeof value);
    return &c->slots[value % c->set_count * WAYS];
}

static struct slot *find(struct cache *c, const struct vault_hash *hash)
{
    struct slot *set = set_of(c, hash);

    for (size_t i = 0; i < WAYS; i++)
        if (set[i].used && vault_hash_same(&set[i].hash, hash))
            return &set[i];
    return NULL;
}

bool cache_get(struct cache *c, const struct vault_hash *hash, size_t total, size_t offset, void *bytes, size_t size)
{
    struct slot *s;
    bool found;

    pthread_mutex_lock(&c->lock);
    s = find(c, hash);
    found = s && s->total == total && offset <= total && size <= total - offset;
    if (found) {
        memcpy(bytes, s->bytes + offset, size);
        s->used = ++c->tick;
    }
    pthread_mutex_unlock(&c->lock);
    return found;
}

void cache_put(struct cache *c, const struct vault_hash *hash, const void *bytes, size_t total)
{
    struct slot *set, *s;

    pthread_mutex_lock(&c->lock);
    s = find(c, hash);
    if (!s && total <= SLOT_BYTES) {
        s = set = set_of(c, hash);
        for (size_t i = 1; i < WAYS; i++)
            if (set[i].used < s->used)
                s = &set[i];
        if (!s->bytes)
            s->bytes = xmalloc(SLOT_BYTES);
        memcpy(s->bytes, bytes, total);
        s->hash = *hash;
        s->total = total;
        s->used = ++c->tick;
    }
    pthread_mutex_unlock(&c->lock);
}
