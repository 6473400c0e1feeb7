/* hash: SHA-256 names a chunk to the outside and proves a disk; XXH3-128 only finds changes (it is no proof against anybody). */
#pragma once

#include "base/mem.h"

#define HASH_SHA256_SIZE 32
#define HASH_SHA256_HEX_SIZE 65 /* with its NUL */
#define HASH_XXH_SIZE 16

void hash_sha256(const void *bytes, size_t size, uint8_t out[static HASH_SHA256_SIZE]);
void hash_xxh(const void *bytes, size_t size, uint8_t out[static HASH_XXH_SIZE]); /* XXH3-128, canonical (big-endian) bytes */

/* A running SHA-256, for a whole disk. */
struct hash;
struct hash *hash_new(void);
struct hash *hash_copy(const struct hash *h); /* goes on where h is */
void hash_add(struct hash *h, const void *bytes, size_t size);
void hash_end(struct hash *h, uint8_t out[static HASH_SHA256_SIZE]); /* and begins a new one */
void hash_free(struct hash **h);                                     /* for CLEANUP */

/* Lower-case hexadecimal; hex holds 2 * size + 1. Returns hex. */
char *hash_hex(const void *bytes, size_t size, char *hex);
/* The value of one digit, of either case; -1: it is none. */
int hash_digit(char c);
/* Exactly 2 * size hexadecimal digits, nothing after them. */
int hash_unhex(const char *hex, void *bytes, size_t size, struct err *e);
