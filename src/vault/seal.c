#include "vault/seal.h"
#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define NONCE_SIZE 12u
#define TAG_SIZE 16u
#define KEY_SIZE VAULT_KEY_SIZE
#define WRAPPED_SIZE (NONCE_SIZE + KEY_SIZE + TAG_SIZE)
#define NAMES 0u /* the number under which the key of the names is wrapped */
#define BOUND_SIZE 48u /* what of a record's header is bound to the payload: all but the sums */

struct seal {
    struct vault_key key;
    uint8_t vault_id[VAULT_ID_SIZE];
    bool hides;
    uint8_t names[KEY_SIZE];
    atomic_uint count; /* of the data keys: those in use never move, so that readers need no lock */
    struct {
        uint8_t key[KEY_SIZE];
        int64_t made_us;
    } data[SEAL_KEYS_MOST];
};

/* ---- AES, with one context for each thread ---- */

static pthread_key_t context_key;
static pthread_once_t context_once = PTHREAD_ONCE_INIT;
static EVP_CIPHER *gcm, *ecb;

static void context_destroy(void *held) { EVP_CIPHER_CTX_free(held); }

static void context_setup(void)
{
    MUST(pthread_key_create(&context_key, context_destroy) == 0);
    gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    ecb = EVP_CIPHER_fetch(NULL, "AES-256-ECB", NULL);
    MUST(gcm && ecb);
}

static EVP_CIPHER_CTX *context_of_thread(void)
{
    EVP_CIPHER_CTX *context;

    MUST(pthread_once(&context_once, context_setup) == 0);
    context = pthread_getspecific(context_key);
    if (!context) {
        context = EVP_CIPHER_CTX_new();
        MUST(context && pthread_setspecific(context_key, context) == 0);
    }
    return context;
}

/* out: nonce, ciphertext, tag. plain may lie where the ciphertext goes. */
static void encrypt(const uint8_t key[static KEY_SIZE], const void *bound, size_t bound_size, const void *plain, size_t size, uint8_t *out)
{
    EVP_CIPHER_CTX *c = context_of_thread();
    int done = 0;

    MUST(RAND_bytes(out, NONCE_SIZE) == 1);
    MUST(EVP_EncryptInit_ex2(c, gcm, key, out, NULL) == 1 && EVP_EncryptUpdate(c, NULL, &done, bound, (int)bound_size) == 1 &&
         EVP_EncryptUpdate(c, out + NONCE_SIZE, &done, plain, (int)size) == 1 && done == (int)size &&
         EVP_EncryptFinal_ex(c, out + NONCE_SIZE + size, &done) == 1 &&
         EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, out + NONCE_SIZE + size) == 1);
}

static bool decrypt(const uint8_t key[static KEY_SIZE], const void *bound, size_t bound_size, const uint8_t *sealed, size_t size, uint8_t *plain)
{
    EVP_CIPHER_CTX *c = context_of_thread();
    uint8_t tag[TAG_SIZE], rest[16];
    int done = 0;

    memcpy(tag, sealed + NONCE_SIZE + size, TAG_SIZE);
    return EVP_DecryptInit_ex2(c, gcm, key, sealed, NULL) == 1 && EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, tag) == 1 &&
           EVP_DecryptUpdate(c, NULL, &done, bound, (int)bound_size) == 1 &&
           EVP_DecryptUpdate(c, plain, &done, sealed + NONCE_SIZE, (int)size) == 1 && EVP_DecryptFinal_ex(c, rest, &done) == 1;
}

/* ---- the vault's keys ---- */

/* A wrapped key is bound to its vault and number. */
static void bind_key(const struct seal *s, uint32_t number, uint8_t out[static 24 + VAULT_ID_SIZE])
{
    memcpy(out, "slipway vault key   ", 20);
    put_le32(out + 20, number);
    memcpy(out + 24, s->vault_id, VAULT_ID_SIZE);
}

static json_t *wrap_key(const struct seal *s, uint32_t number, const uint8_t key[static KEY_SIZE])
{
    uint8_t bound[24 + VAULT_ID_SIZE], wrapped[WRAPPED_SIZE];
    char text[2 * WRAPPED_SIZE + 1];

    bind_key(s, number, bound);
    encrypt(s->key.bytes, bound, sizeof bound, key, KEY_SIZE, wrapped);
    return json_string(hash_hex(wrapped, sizeof wrapped, text));
}

static int unwrap_key(const struct seal *s, uint32_t number, const char *text, uint8_t key[static KEY_SIZE], struct err *e)
{
    uint8_t bound[24 + VAULT_ID_SIZE], wrapped[WRAPPED_SIZE];

    if (strlen(text) != 2 * WRAPPED_SIZE || hash_unhex(text, wrapped, sizeof wrapped, NULL) < 0)
        return err_set(e, ERR_CORRUPT, "vault.json: a sealed key is not %u hexadecimal digits", 2 * WRAPPED_SIZE);
    bind_key(s, number, bound);
    return decrypt(s->key.bytes, bound, sizeof bound, wrapped, KEY_SIZE, key) ? 0 : err_set(e, ERR_DENIED, "the key does not open it");
}

int seal_add_key(struct seal *s, int64_t now_us, struct err *e)
{
    unsigned at = atomic_load(&s->count);

    if (at == SEAL_KEYS_MOST)
        return err_set(e, ERR_LIMIT, "the vault has had %u data keys: it takes no more", SEAL_KEYS_MOST);
    MUST(RAND_priv_bytes(s->data[at].key, KEY_SIZE) == 1);
    s->data[at].made_us = now_us;
    atomic_store(&s->count, at + 1);
    return 0;
}

void seal_drop_key(struct seal *s)
{
    unsigned at = atomic_load(&s->count) - 1;

    MUST(at > 0);
    atomic_store(&s->count, at);
    OPENSSL_cleanse(&s->data[at], sizeof s->data[at]);
}

int seal_new(const uint8_t vault_id[static VAULT_ID_SIZE], const struct vault_key *key, bool hides, int64_t now_us, struct seal **out, struct err *e)
{
    struct seal *s = xcalloc(1, sizeof *s);

    s->key = *key;
    s->hides = hides;
    memcpy(s->vault_id, vault_id, VAULT_ID_SIZE);
    MUST(RAND_priv_bytes(s->names, KEY_SIZE) == 1);
    if (seal_add_key(s, now_us, e) < 0) {
        seal_free(&s);
        return -1;
    }
    *out = s;
    return 0;
}

static int read_keys(struct seal *s, const json_t *sealed, struct err *e)
{
    const char *names = json_get_string(sealed, "names", NULL), *text;
    json_t *keys, *one;
    size_t i;

    if (json_need_array(sealed, "keys", &keys, e) < 0)
        return -1;
    if (json_array_size(keys) == 0 || json_array_size(keys) > SEAL_KEYS_MOST)
        return err_set(e, ERR_CORRUPT, "vault.json has %zu sealed keys", json_array_size(keys));
    s->hides = names != NULL;
    if (names && unwrap_key(s, NAMES, names, s->names, e) < 0)
        return -1;
    json_array_foreach(keys, i, one) {
        if (json_need_string(one, "key", &text, e) < 0 || json_need_int(one, "made_us", &s->data[i].made_us, e) < 0 ||
            unwrap_key(s, (uint32_t)i + 1, text, s->data[i].key, e) < 0)
            return -1;
        atomic_store(&s->count, (unsigned)i + 1);
    }
    return 0;
}

int seal_read(const json_t *sealed, const uint8_t vault_id[static VAULT_ID_SIZE], const struct vault_key *keys, size_t key_count, struct seal **out, struct err *e)
{
    CLEANUP(seal_free) struct seal *s = xcalloc(1, sizeof *s);
    struct err why = {.kind = ERR_DENIED};

    memcpy(s->vault_id, vault_id, VAULT_ID_SIZE);
    for (size_t i = 0; i < key_count; i++) {
        s->key = keys[i];
        err_clear(&why);
        if (read_keys(s, sealed, &why) == 0) {
            s->key = keys[0];
            *out = s;
            s = NULL;
            return 0;
        }
        if (why.kind != ERR_DENIED)
            return err_set(e, why.kind, "%s", why.message);
    }
    return key_count ? err_set(e, ERR_DENIED, "the vault is encrypted, and not with the key that was given: nothing was changed. Give the one that it was made with, or last "
                               "rotated to (the factory's own lies in keys/vault.key of its data folder and of its backups)")
                     : err_set(e, ERR_DENIED, "the vault is encrypted: its key is needed (--vault-key-file)");
}

json_t *seal_json(const struct seal *s, struct err *e)
{
    json_t *j = json_object(), *keys = json_array();

    json_object_set_new(j, "names", s->hides ? wrap_key(s, NAMES, s->names) : json_null());
    json_object_set_new(j, "keys", keys);
    for (unsigned i = 0; i < atomic_load(&s->count); i++) {
        json_t *one = json_object();

        json_object_set_new(one, "made_us", json_integer(s->data[i].made_us));
        json_object_set_new(one, "key", wrap_key(s, i + 1, s->data[i].key));
        json_array_append_new(keys, one);
    }
    if (json_array_size(keys) != atomic_load(&s->count)) {
        json_decref(j);
        err_set(e, ERR_INTERNAL, "the vault's keys can't be written down");
        return NULL;
    }
    return j;
}

void seal_free(struct seal **s)
{
    if (*s)
        OPENSSL_cleanse(*s, sizeof **s);
    free(*s);
    *s = NULL;
}

void seal_wrap_under(struct seal *s, const struct vault_key *key) { s->key = *key; }
const struct vault_key *seal_key(const struct seal *s) { return &s->key; }
uint32_t seal_newest(const struct seal *s) { return s ? atomic_load(&s->count) : 0; }
int64_t seal_newest_us(const struct seal *s) { return s ? s->data[seal_newest(s) - 1].made_us : 0; }
bool seal_hides(const struct seal *s) { return s && s->hides; }

int vault_key_read(const char *path, struct vault_key *out, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};
    int r;

    buf_init(&text, 4096);
    if (file_read(path, 1024, &text, e) < 0)
        return err_wrap(e, "the vault's key");
    text.data[strcspn(text.data, "\r\n")] = '\0';
    r = strlen(text.data) == 2 * KEY_SIZE ? hash_unhex(text.data, out->bytes, KEY_SIZE, NULL) : -1;
    OPENSSL_cleanse(text.data, text.size_bytes);
    return r < 0 ? err_set(e, ERR_INVALID, "the vault's key: %s is not a line of %u hexadecimal digits (`openssl rand -hex %u` makes one)", path, 2 * KEY_SIZE, KEY_SIZE) : 0;
}

int vault_key_make(const char *path, struct err *e)
{
    char text[2 * KEY_SIZE + 2];
    uint8_t key[KEY_SIZE];
    int r;

    MUST(RAND_priv_bytes(key, sizeof key) == 1);
    hash_hex(key, sizeof key, text);
    memcpy(text + 2 * sizeof key, "\n", 2);
    r = file_write(path, text, strlen(text), 0600, e);
    OPENSSL_cleanse(text, sizeof text);
    OPENSSL_cleanse(key, sizeof key);
    return r;
}

/* ---- names ---- */

/* A name is as good as random: enciphered half by half it tells nothing but that two are the same. */
static void cipher_name(const struct seal *s, struct vault_hash *name, int encipher)
{
    EVP_CIPHER_CTX *c;
    int done = 0;

    if (!s || !s->hides || vault_hash_is_zero(name) || vault_hash_is_unknown(name))
        return;
    c = context_of_thread();
    MUST(EVP_CipherInit_ex2(c, ecb, s->names, NULL, encipher, NULL) == 1 && EVP_CIPHER_CTX_set_padding(c, 0) == 1 &&
         EVP_CipherUpdate(c, name->bytes, &done, name->bytes, VAULT_HASH_SIZE) == 1 && done == VAULT_HASH_SIZE);
}

void seal_name(const struct seal *s, struct vault_hash *name) { cipher_name(s, name, 1); }
void seal_reveal(const struct seal *s, struct vault_hash *name) { cipher_name(s, name, 0); }

/* ---- records ---- */

static void segment_key(const struct seal *s, uint32_t number, uint32_t segment, uint8_t out[static KEY_SIZE])
{
    uint8_t words[20 + VAULT_ID_SIZE];
    unsigned size = KEY_SIZE;

    memcpy(words, "slipway segment ", 16);
    put_le32(words + 16, segment);
    memcpy(words + 20, s->vault_id, VAULT_ID_SIZE);
    MUST(HMAC(EVP_sha256(), s->data[number - 1].key, KEY_SIZE, words, sizeof words, out, &size) && size == KEY_SIZE);
}

size_t seal_record(const struct seal *s, uint32_t segment, const uint8_t *packed, uint8_t **sealed)
{
    struct record r;
    uint8_t key[KEY_SIZE], *payload;
    size_t plain_size;

    MUST(record_decode(packed, &r, NULL) == 0 && !r.sealed);
    plain_size = r.stored_size;
    r.sealed = true;
    r.stored_size += SEAL_OVERHEAD;
    *sealed = xmalloc(record_span(r.stored_size));
    payload = *sealed + RECORD_HEADER_SIZE;
    record_encode(&r, *sealed); /* what is bound to the payload stands; the sums come after it */
    put_le32(payload, seal_newest(s));
    segment_key(s, seal_newest(s), segment, key);
    encrypt(key, *sealed, BOUND_SIZE, packed + RECORD_HEADER_SIZE, plain_size, payload + 4);
    OPENSSL_cleanse(key, sizeof key);
    return record_frame(&r, *sealed);
}

int seal_open_record(const struct seal *s, uint32_t segment, struct record *r, uint8_t *payload, struct err *e)
{
    uint8_t key[KEY_SIZE], header[RECORD_HEADER_SIZE];
    char text[VAULT_HASH_TEXT_SIZE];
    struct record plain = *r;
    uint32_t number;
    bool opened;

    if (!r->sealed)
        return 0;
    number = get_le32(payload);
    if (number == 0 || number > seal_newest(s))
        return err_set(e, ERR_DENIED, "chunk %s in segment %u is sealed under key %u, which is not in vault.json", vault_hash_text(&r->hash, text), segment, number);
    record_encode(r, header);
    segment_key(s, number, segment, key);
    plain.sealed = false;
    plain.stored_size -= SEAL_OVERHEAD;
    opened = decrypt(key, header, BOUND_SIZE, payload + 4, plain.stored_size, payload + 4 + NONCE_SIZE);
    OPENSSL_cleanse(key, sizeof key);
    if (!opened)
        return err_set(e, ERR_CORRUPT, "chunk %s in segment %u does not open: its bytes, or what its header says of them, were changed", vault_hash_text(&r->hash, text), segment);
    memmove(payload, payload + 4 + NONCE_SIZE, plain.stored_size);
    *r = plain;
    return 0;
}
