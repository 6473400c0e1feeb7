#include "vault/hash.h"

#include "base/hash.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

const struct vault_hash vault_hash_zero;
const struct vault_hash vault_hash_unknown = {
    {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

bool vault_hash_same(const struct vault_hash *a, const struct vault_hash *b) { return memcmp(a, b, sizeof *a) == 0; }
bool vault_hash_is_zero(const struct vault_hash *hash) { return vault_hash_same(hash, &vault_hash_zero); }
bool vault_hash_is_unknown(const struct vault_hash *hash) { return vault_hash_same(hash, &vault_hash_unknown); }

char *vault_hash_text(const struct vault_hash *hash, char text[static VAULT_HASH_TEXT_SIZE])
{
    return hash_hex(hash->bytes, VAULT_HASH_SIZE, text);
}

int vault_hash_parse(const char *text, struct vault_hash *out, struct err *e)
{
    if (strlen(text) != 2 * (size_t)VAULT_HASH_SIZE)
        return err_set(e, ERR_INVALID, "a SHA-256 has 64 hexadecimal digits, not %zu characters", strlen(text));
    if (strspn(text, "0123456789abcdef") != 2 * (size_t)VAULT_HASH_SIZE)
        return err_set(e, ERR_INVALID, "a SHA-256 is written in the digits 0-9 and a-f");
    return hash_unhex(text, out->bytes, VAULT_HASH_SIZE, e);
}

/* One digest context for each thread: making one costs more than hashing a small node. */
static pthread_key_t context_key;
static pthread_once_t context_once = PTHREAD_ONCE_INIT;
static EVP_MD *sha256;

static void context_destroy(void *held) { EVP_MD_CTX_free(held); }

static void context_setup(void)
{
    MUST(pthread_key_create(&context_key, context_destroy) == 0);
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    MUST(sha256);
}

static EVP_MD_CTX *context_of_thread(void)
{
    EVP_MD_CTX *context;

    MUST(pthread_once(&context_once, context_setup) == 0);
    context = pthread_getspecific(context_key);
    if (!context) {
        context = EVP_MD_CTX_new();
        MUST(context && pthread_setspecific(context_key, context) == 0);
    }
    return context;
}

void vault_hash_of(const void *bytes, size_t size, struct vault_hash *out)
{
    EVP_MD_CTX *context = context_of_thread();

    MUST(EVP_DigestInit_ex2(context, sha256, NULL) == 1 && EVP_DigestUpdate(context, bytes, size) == 1 &&
         EVP_DigestFinal_ex(context, out->bytes, NULL) == 1);
}

bool vault_bytes_are_zero(const void *bytes, size_t size)
{
    const uint8_t *b = bytes;

    /* Equal to itself shifted by one and starting with zero: all zero, at memcmp's speed. */
    return size == 0 || (b[0] == 0 && memcmp(b, b + 1, size - 1) == 0);
}

struct vault_hasher {
    EVP_MD_CTX *context;
    bool started;
};

struct vault_hasher *vault_hasher_new(void)
{
    struct vault_hasher *h = xcalloc(1, sizeof *h);

    (void)context_of_thread(); /* fetches the algorithm */
    h->context = EVP_MD_CTX_new();
    MUST(h->context);
    return h;
}

void vault_hasher_free(struct vault_hasher **h)
{
    if (*h)
        EVP_MD_CTX_free((*h)->context);
    free(*h);
    *h = NULL;
}

void vault_hasher_add(struct vault_hasher *h, const void *bytes, size_t size)
{
    if (!h->started)
        MUST(EVP_DigestInit_ex2(h->context, sha256, NULL) == 1);
    h->started = true;
    MUST(EVP_DigestUpdate(h->context, bytes, size) == 1);
}

void vault_hasher_finish(struct vault_hasher *h, struct vault_hash *out)
{
    vault_hasher_add(h, "", 0);
    MUST(EVP_DigestFinal_ex(h->context, out->bytes, NULL) == 1);
    h->started = false;
}

struct fingerprint {
    uint64_t half[2];
};

static struct fingerprint fingerprint_of(const struct vault_hash *hash)
{
    struct fingerprint f;

    memcpy(f.half, hash->bytes, sizeof f.half);
    f.half[1] |= f.half[0] == 0; /* both 0 mark an empty slot */
    return f;
}

void hash_set_release(struct hash_set *s)
{
    free(s->slots);
    *s = (struct hash_set){0};
}

static bool slot_empty(const uint64_t slot[2]) { return slot[0] == 0 && slot[1] == 0; }

/* The slot that holds f, or the empty one where it would go. The hash is uniform already: its low bits are the place. */
static uint64_t *find_slot(uint64_t (*slots)[2], size_t slot_count, const uint64_t f[2])
{
    size_t at = f[0] & (slot_count - 1);

    while (!slot_empty(slots[at]) && (slots[at][0] != f[0] || slots[at][1] != f[1]))
        at = (at + 1) & (slot_count - 1);
    return slots[at];
}

static void hash_set_grow(struct hash_set *s)
{
    size_t slot_count = s->slot_count ? s->slot_count * 2 : 1024;
    uint64_t(*slots)[2] = xcalloc(slot_count, sizeof *slots);

    for (size_t i = 0; i < s->slot_count; i++)
        if (!slot_empty(s->slots[i]))
            memcpy(find_slot(slots, slot_count, s->slots[i]), s->slots[i], sizeof *slots);
    free(s->slots);
    s->slots = slots;
    s->slot_count = slot_count;
}

bool hash_set_add(struct hash_set *s, const struct vault_hash *hash)
{
    struct fingerprint f = fingerprint_of(hash);
    uint64_t *slot;

    if (s->used_count * 2 >= s->slot_count)
        hash_set_grow(s);
    slot = find_slot(s->slots, s->slot_count, f.half);
    if (!slot_empty(slot))
        return false;
    memcpy(slot, f.half, sizeof f.half);
    s->used_count++;
    return true;
}

bool hash_set_has(const struct hash_set *s, const struct vault_hash *hash)
{
    struct fingerprint f = fingerprint_of(hash);

    return s->slot_count && !slot_empty(find_slot(s->slots, s->slot_count, f.half));
}

struct hash_bits_slot {
    struct fingerprint print;
    uint64_t bits; /* 0: empty */
};

void hash_bits_release(struct hash_bits *b)
{
    free(b->slots);
    *b = (struct hash_bits){0};
}

static struct hash_bits_slot *find_bits(struct hash_bits_slot *slots, size_t slot_count, const struct fingerprint *f)
{
    size_t at = f->half[0] & (slot_count - 1);

    while (slots[at].bits && memcmp(&slots[at].print, f, sizeof *f) != 0)
        at = (at + 1) & (slot_count - 1);
    return &slots[at];
}

static size_t slots_wanted(const struct hash_bits *b) { return b->slot_count ? b->slot_count * 2 : 1024; }

static void hash_bits_grow(struct hash_bits *b)
{
    size_t slot_count = slots_wanted(b);
    struct hash_bits_slot *slots = xcalloc(slot_count, sizeof *slots);

    for (size_t i = 0; i < b->slot_count; i++)
        if (b->slots[i].bits)
            *find_bits(slots, slot_count, &b->slots[i].print) = b->slots[i];
    free(b->slots);
    b->slots = slots;
    b->slot_count = slot_count;
}

bool hash_bits_add(struct hash_bits *b, const struct vault_hash *hash, uint32_t bits, size_t slots_most)
{
    struct fingerprint f = fingerprint_of(hash);
    struct hash_bits_slot *slot;

    MUST(bits);
    if (b->used_count * 2 >= b->slot_count && slots_wanted(b) <= slots_most)
        hash_bits_grow(b);
    if (!b->slot_count)
        return false;
    slot = find_bits(b->slots, b->slot_count, &f);
    if (!slot->bits && b->used_count * 2 >= b->slot_count)
        return false;
    b->used_count += slot->bits == 0;
    slot->print = f;
    slot->bits |= bits;
    return true;
}

uint32_t hash_bits_get(const struct hash_bits *b, const struct vault_hash *hash)
{
    struct fingerprint f = fingerprint_of(hash);

    return b->slot_count ? (uint32_t)find_bits(b->slots, b->slot_count, &f)->bits : 0;
}
