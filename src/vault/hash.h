/* hash: the name of a chunk is the SHA-256 of its bytes. Two names are reserved: all zero bits for a chunk (or a whole subtree of
 * chunks) that holds only zeros and is stored nowhere, all one bits for a chunk of a working map that was never received. */
#pragma once

#include "base/mem.h"

#define VAULT_HASH_SIZE 32
#define VAULT_HASH_TEXT_SIZE 65

struct vault_hash {
    uint8_t bytes[VAULT_HASH_SIZE];
};

extern const struct vault_hash vault_hash_zero, vault_hash_unknown;

bool vault_hash_same(const struct vault_hash *a, const struct vault_hash *b);
bool vault_hash_is_zero(const struct vault_hash *hash);
bool vault_hash_is_unknown(const struct vault_hash *hash);
char *vault_hash_text(const struct vault_hash *hash, char text[static VAULT_HASH_TEXT_SIZE]); /* returns text */
int vault_hash_parse(const char *text, struct vault_hash *out, struct err *e);
void vault_hash_of(const void *bytes, size_t size, struct vault_hash *out); /* plain SHA-256, also of zeros */
bool vault_bytes_are_zero(const void *bytes, size_t size);

/* SHA-256 over many pieces. */
struct vault_hasher;
struct vault_hasher *vault_hasher_new(void);
void vault_hasher_free(struct vault_hasher **h);
void vault_hasher_add(struct vault_hasher *h, const void *bytes, size_t size);
void vault_hasher_finish(struct vault_hasher *h, struct vault_hash *out); /* may be started again with _add */

/* A set of hashes by their first 128 bits (half the memory of whole ones; nobody makes two that agree in those). Not thread-safe. */
struct hash_set {
    uint64_t (*slots)[2]; /* both 0: empty */
    size_t slot_count, used_count;
};
void hash_set_release(struct hash_set *s);
bool hash_set_add(struct hash_set *s, const struct vault_hash *hash); /* true: it was new */
bool hash_set_has(const struct hash_set *s, const struct vault_hash *hash);

/* For each hash, by its first 128 bits, too, a set of bits. */
struct hash_bits {
    struct hash_bits_slot *slots;
    size_t slot_count, used_count;
};
void hash_bits_release(struct hash_bits *b);
/* false: it would take more slots than slots_most (of 24 bytes), and nothing was added. */
bool hash_bits_add(struct hash_bits *b, const struct vault_hash *hash, uint32_t bits, size_t slots_most);
uint32_t hash_bits_get(const struct hash_bits *b, const struct vault_hash *hash); /* 0: none */
