/* sieve: which names were met, in memory that is settled before, for walks over more of them than fit in it. Each of the two errs to one side only, and which
 * that is decides what it may be used for. Neither is thread-safe. */
#pragma once

#include "vault/hash.h"

/* A name that was added is always there; one that was not is there now and then: of a million about 5 where there are 64 bits for each that was added, 1,300
 * with 16, 24,000 with 8. For what may be kept for too long. A Bloom filter of which all bits of a name lie in one line of the processor's cache (Putze,
 * Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007). Another salt errs for other names. */
struct hash_sieve {
    uint64_t (*blocks)[8]; /* of 512 bits */
    uint64_t block_count, salt;
};
/* For so many names in at most bytes_most (at least 64), 64 bits a name at most. */
void hash_sieve_make(struct hash_sieve *s, size_t bytes_most, uint64_t name_count, uint64_t salt);
void hash_sieve_release(struct hash_sieve *s);
bool hash_sieve_add(struct hash_sieve *s, const struct vault_hash *hash); /* false: it seemed to be there already */
bool hash_sieve_has(const struct hash_sieve *s, const struct vault_hash *hash);

/* A name that is there was added; one that was added is forgotten now and then, most of all where more come than there is room for. For what may be done twice. By
 * the first 128 bits, as hash_set. */
struct hash_seen {
    uint64_t (*sets)[8][2]; /* a name's place is one of eight; both 0: empty */
    uint64_t set_count;
    unsigned turn; /* who goes next where all eight are taken */
};
/* For so many names in at most bytes_most (at least 128), 64 bytes a name at most. */
void hash_seen_make(struct hash_seen *s, size_t bytes_most, uint64_t name_count);
void hash_seen_release(struct hash_seen *s);
void hash_seen_forget(struct hash_seen *s); /* all */
bool hash_seen_add(struct hash_seen *s, const struct vault_hash *hash); /* false: it is there */
