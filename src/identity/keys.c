#include "identity/private.h"

#include "base/file.h"

#include <sodium.h>
#include <string.h>

#define SEALED_VERSION 1 /* the first byte of sealed bytes; then nonce, then ciphertext with its tag */
#define NONCE_SIZE crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
#define TAG_SIZE crypto_aead_xchacha20poly1305_ietf_ABYTES

static int read_key(const char *path, unsigned char key[static MASTER_KEY_SIZE], struct err *e)
{
    CLEANUP(buf_release) struct buf text;
    int rc;

    buf_init(&text, 4096);
    if (file_read(path, 1024, &text, e) < 0)
        return -1;
    text.data[strcspn(text.data, "\n")] = 0;
    rc = hash_unhex(text.data, key, MASTER_KEY_SIZE, e);
    sodium_memzero(text.data, text.size_bytes);
    return rc < 0 ? err_set(e, ERR_CORRUPT, "the master key %s is not %d hexadecimal digits", path, MASTER_KEY_SIZE * 2) : 0;
}

static int make_key(const char *path, unsigned char key[static MASTER_KEY_SIZE], struct err *e)
{
    char text[MASTER_KEY_SIZE * 2 + 2];
    int rc;

    randombytes_buf(key, MASTER_KEY_SIZE);
    hash_hex(key, MASTER_KEY_SIZE, text);
    strcat(text, "\n");
    rc = file_write(path, text, strlen(text), 0600, e);
    sodium_memzero(text, sizeof text);
    return rc;
}

/* What the database remembers of its key: enough to recognise it, nothing to find it. */
static void mark_of(const unsigned char key[static MASTER_KEY_SIZE], char mark[static HASH_SHA256_HEX_SIZE])
{
    unsigned char hash[32];

    crypto_generichash(hash, sizeof hash, (const unsigned char *)"slipway master key", 18, key, MASTER_KEY_SIZE);
    hash_hex(hash, sizeof hash, mark);
}

/* The mark of the key that the database was made with: 1, 0 for a new database, -1. */
static int read_mark(struct store_tx *tx, char mark[static HASH_SHA256_HEX_SIZE], struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc;

    if (store_query(tx, &rows, e, "SELECT value FROM identity_mark WHERE name = 'master_key'", "") < 0)
        return -1;
    rc = store_next(rows, e);
    if (rc > 0)
        snprintf(mark, HASH_SHA256_HEX_SIZE, "%s", store_text(rows, 0));
    return rc;
}

int keys_open(struct identity *i, const char *master_key_path, struct err *e)
{
    CLEANUP(free_ptr) char *path = master_key_path ? xstrdup(master_key_path) : xasprintf("%s/master.key", i->folder);
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    char known[HASH_SHA256_HEX_SIZE] = "", mark[HASH_SHA256_HEX_SIZE];
    int rc;

    if (sodium_init() < 0)
        return err_set(e, ERR_INTERNAL, "libsodium can't start");
    if (file_make_dirs(i->folder, 0700, e) < 0 || store_begin(i->store, STORE_WRITE, &tx, e) < 0)
        return -1;
    rc = read_mark(tx, known, e);
    if (rc < 0)
        return -1;
    i->master_key = sodium_malloc(MASTER_KEY_SIZE);
    MUST(i->master_key);
    if (rc == 1 && !file_exists(path))
        return err_set(e, ERR_WRONG_STATE, "the master key %s is missing: without it, the secrets in the database can't be opened. Put it"
                                     " back from the backup", path);
    if ((file_exists(path) ? read_key(path, i->master_key, e) : make_key(path, i->master_key, e)) < 0)
        return err_wrap(e, "the master key");
    mark_of(i->master_key, mark);
    if (rc == 1 && strcmp(mark, known) != 0)
        return err_set(e, ERR_WRONG_STATE, "%s is not the master key that this database was made with: put the right one back from the"
                                     " backup", path);
    if (rc == 0 && store_run(tx, e, "INSERT INTO identity_mark (name, value) VALUES ('master_key', $1)", "s", mark) < 0)
        return -1;
    return store_commit(&tx, e);
}

int identity_seal(struct identity *i, const char *context, const void *bytes, size_t size, struct buf *out, struct err *e)
{
    size_t sealed_size = 1 + NONCE_SIZE + size + TAG_SIZE;
    CLEANUP(free_ptr) unsigned char *sealed = xmalloc(sealed_size);

    sealed[0] = SEALED_VERSION;
    randombytes_buf(sealed + 1, NONCE_SIZE);
    crypto_aead_xchacha20poly1305_ietf_encrypt(sealed + 1 + NONCE_SIZE, NULL, bytes, size, (const unsigned char *)context,
                                               strlen(context), NULL, sealed + 1, i->master_key);
    if (buf_add(out, sealed, sealed_size) < 0)
        return err_set(e, ERR_LIMIT, "%s is too large to be sealed", context);
    return 0;
}

int identity_unseal(struct identity *i, const char *context, const void *sealed, size_t size, struct secret *out, struct err *e)
{
    const unsigned char *from = sealed;
    unsigned char *plain;
    int rc;

    if (size < 1 + NONCE_SIZE + TAG_SIZE || from[0] != SEALED_VERSION)
        return err_set(e, ERR_CORRUPT, "%s: these are not sealed bytes", context);
    size -= 1 + NONCE_SIZE;
    plain = xmalloc(size);
    rc = crypto_aead_xchacha20poly1305_ietf_decrypt(plain, NULL, NULL, from + 1 + NONCE_SIZE, size, (const unsigned char *)context,
                                                    strlen(context), from + 1, i->master_key);
    if (rc == 0)
        secret_set(out, plain, size - TAG_SIZE);
    sodium_memzero(plain, size);
    free(plain);
    return rc == 0 ? 0 : err_set(e, ERR_CORRUPT, "%s does not open with this master key: it was changed, or moved from elsewhere", context);
}

static void base64_token(const unsigned char bytes[static 32], const char *prefix, char token[static IDENTITY_TOKEN_SIZE])
{
    char text[48];

    sodium_bin2base64(text, sizeof text, bytes, 32, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    snprintf(token, IDENTITY_TOKEN_SIZE, "%s%s", prefix, text);
}

void token_new(const char *prefix, char token[static IDENTITY_TOKEN_SIZE])
{
    unsigned char bytes[32];

    randombytes_buf(bytes, sizeof bytes);
    base64_token(bytes, prefix, token);
    sodium_memzero(bytes, sizeof bytes);
}

void token_hash(const char *token, char hex[static HASH_SHA256_HEX_SIZE])
{
    uint8_t hash[HASH_SHA256_SIZE];

    hash_sha256(token, strlen(token), hash);
    hash_hex(hash, sizeof hash, hex);
}

void token_csrf(const char *token, char csrf[static IDENTITY_TOKEN_SIZE])
{
    uint8_t hash[HASH_SHA256_SIZE];
    char text[IDENTITY_TOKEN_SIZE + 16];

    snprintf(text, sizeof text, "csrf %.*s", IDENTITY_TOKEN_SIZE - 1, token);
    hash_sha256(text, strlen(text), hash);
    base64_token(hash, "", csrf);
    sodium_memzero(text, sizeof text);
}
