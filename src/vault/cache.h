/* cache: unpacked, checked chunks for readers, bounded. Thread-safe. */
#pragma once

#include "vault/hash.h"

struct cache;
struct cache *cache_new(size_t limit_bytes);
void cache_free(struct cache **c);
/* Copies size bytes at offset of the chunk where it is held whole with total bytes. */
bool cache_get(struct cache *c, const struct vault_hash *hash, size_t total, size_t offset, void *bytes, size_t size);
void cache_put(struct cache *c, const struct vault_hash *hash, const void *bytes, size_t total);
