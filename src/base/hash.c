#include "base/hash.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>
#include <xxhash.h>

struct hash {
    EVP_MD_CTX *context;
};

static EVP_MD *sha256;
static pthread_once_t fetched = PTHREAD_ONCE_INIT;

/* Fetched once: an implicit fetch for each chunk costs more than it looks. It lives as long as the program. */
static void fetch_sha256(void) { sha256 = EVP_MD_fetch(NULL, "SHA256", NULL); }

static const EVP_MD *sha256_method(void)
{
    pthread_once(&fetched, fetch_sha256);
    MUST(sha256 != NULL);
    return sha256;
}

void hash_sha256(const void *bytes, size_t size, uint8_t out[static HASH_SHA256_SIZE])
{
    MUST(EVP_Digest(bytes, size, out, NULL, sha256_method(), NULL) == 1);
}

void hash_xxh(const void *bytes, size_t size, uint8_t out[static HASH_XXH_SIZE])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, size));
    memcpy(out, canonical.digest, HASH_XXH_SIZE);
}

struct hash *hash_new(void)
{
    struct hash *h = xcalloc(1, sizeof *h);

    h->context = EVP_MD_CTX_new();
    MUST(h->context && EVP_DigestInit_ex2(h->context, sha256_method(), NULL) == 1);
    return h;
}

struct hash *hash_copy(const struct hash *h)
{
    struct hash *copy = xcalloc(1, sizeof *copy);

    copy->context = EVP_MD_CTX_new();
    MUST(copy->context && EVP_MD_CTX_copy_ex(copy->context, h->context) == 1);
    return copy;
}

void hash_add(struct hash *h, const void *bytes, size_t size) { MUST(EVP_DigestUpdate(h->context, bytes, size) == 1); }

void hash_end(struct hash *h, uint8_t out[static HASH_SHA256_SIZE])
{
    MUST(EVP_DigestFinal_ex(h->context, out, NULL) == 1);
    MUST(EVP_DigestInit_ex2(h->context, sha256_method(), NULL) == 1);
}

void hash_free(struct hash **h)
{
    if (!*h)
        return;
    EVP_MD_CTX_free((*h)->context);
    free_ptr(h);
}

char *hash_hex(const void *bytes, size_t size, char *hex)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < size; i++) {
        hex[2 * i] = digits[((const uint8_t *)bytes)[i] >> 4];
        hex[2 * i + 1] = digits[((const uint8_t *)bytes)[i] & 15];
    }
    hex[2 * size] = '\0';
    return hex;
}

int hash_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int hash_unhex(const char *hex, void *bytes, size_t size, struct err *e)
{
    if (strlen(hex) != 2 * size)
        return err_set(e, ERR_INVALID, "%zu hexadecimal digits expected, there are %zu", 2 * size, strlen(hex));
    for (size_t i = 0; i < 2 * size; i++)
        if (hash_digit(hex[i]) < 0)
            return err_set(e, ERR_INVALID, "\"%c\" is no hexadecimal digit", hex[i]);
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)(hash_digit(hex[2 * i]) << 4 | hash_digit(hex[2 * i + 1]));
    return 0;
}
