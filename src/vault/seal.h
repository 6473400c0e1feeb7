/* seal: encryption at rest. Payloads of records are sealed with AES-256-GCM under a key of their segment, which comes from one of the vault's
 * data keys; those lie in vault.json, wrapped under the key that was given with vault_open. Nonces are random: a killed writer, a torn tail
 * that is written over and a restored copy of a vault repeat none (a segment has fewer than 2^20 records: two alike once in 2^57 segments). The
 * names of chunks and map nodes are enciphered, too, in a vault that was encrypted from its first day: the SHA-256 of a chunk would tell
 * whoever has a copy of it that it is there. docs/formats/vault.md describes the bytes. */
#pragma once

#include "vault/record.h"

#define SEAL_OVERHEAD 32u /* number of the data key 4, nonce 12, tag 16 */
#define SEAL_KEYS_MOST 4096u

struct seal; /* the keys of one vault; where it is NULL, a vault has no encryption and the functions do nothing */

/* A seal with one data key, for a vault that has none. hides: of a new vault, whose names are to be hidden. */
int seal_new(const uint8_t vault_id[static VAULT_ID_SIZE], const struct vault_key *key, bool hides, int64_t now_us, struct seal **out, struct err *e);
/* From vault.json's member "sealed". keys: those that may open it; the first opens what is written from now on. ERR_DENIED: none of them does. */
int seal_read(const json_t *sealed, const uint8_t vault_id[static VAULT_ID_SIZE], const struct vault_key *keys, size_t key_count, struct seal **out, struct err *e);
json_t *seal_json(const struct seal *s, struct err *e); /* for vault.json; NULL on failure */
void seal_free(struct seal **s); /* wipes; for CLEANUP */
/* A new data key for what is sealed from now on. The caller writes vault.json before it seals anything. */
int seal_add_key(struct seal *s, int64_t now_us, struct err *e);
void seal_drop_key(struct seal *s); /* the newest: vault.json could not be written */
void seal_wrap_under(struct seal *s, const struct vault_key *key);
const struct vault_key *seal_key(const struct seal *s);
uint32_t seal_newest(const struct seal *s); /* number of the data key in use: from 1; 0: no encryption */
int64_t seal_newest_us(const struct seal *s); /* when it was made */
bool seal_hides(const struct seal *s);

/* A name as it is kept, from the SHA-256, and back. The reserved names stay. */
void seal_name(const struct seal *s, struct vault_hash *name);
void seal_reveal(const struct seal *s, struct vault_hash *name);

/* Header, sealed payload and padding of a packed record, for that segment. The caller frees *sealed. */
size_t seal_record(const struct seal *s, uint32_t segment, const uint8_t *packed, uint8_t **sealed);
/* In place: *r and payload become those of the record as it was packed. ERR_CORRUPT where it does not open, ERR_DENIED where its key is not
 * there. */
int seal_open_record(const struct seal *s, uint32_t segment, struct record *r, uint8_t *payload, struct err *e);
