#include "vault/s3_sign.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define ALGORITHM "AWS4-HMAC-SHA256"
#define DAY_DIGITS 8
#define CREDENTIALS_LIMIT 65536

/* ---- encoding ---- */

static void encode(struct buf *out, const char *text, bool slashes)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;

        if ((c < 0x80 && (isalnum(c) || strchr("-._~", c))) || (c == '/' && slashes))
            buf_add(out, &c, 1);
        else
            buf_printf(out, "%%%02X", c);
    }
}

char *s3_path(const char *path)
{
    struct buf out = {0};

    encode(&out, path, true);
    return buf_take(&out);
}

char *s3_query(const struct s3_pair *pairs, size_t count)
{
    struct buf out = {0};

    buf_puts(&out, "");
    for (size_t i = 0; i < count; i++) {
        MUST(i == 0 || strcmp(pairs[i - 1].name, pairs[i].name) < 0);
        buf_puts(&out, i ? "&" : "");
        encode(&out, pairs[i].name, false);
        buf_puts(&out, "=");
        encode(&out, pairs[i].value, false);
    }
    return buf_take(&out);
}

void s3_stamp(int64_t now_us, char out[static S3_STAMP_SIZE])
{
    time_t seconds = (time_t)(now_us / US_PER_S);
    struct tm t;

    gmtime_r(&seconds, &t);
    MUST(strftime(out, S3_STAMP_SIZE, "%Y%m%dT%H%M%SZ", &t) == S3_STAMP_SIZE - 1);
}

/* ---- signing ---- */

static void hmac(const void *key, size_t key_size, const char *text, size_t size, uint8_t out[static HASH_SHA256_SIZE])
{
    unsigned made = 0;

    MUST(HMAC(EVP_sha256(), key, (int)key_size, (const unsigned char *)text, size, out, &made) && made == HASH_SHA256_SIZE);
}

static void add_sha256(struct buf *out, const void *bytes, size_t size)
{
    uint8_t digest[HASH_SHA256_SIZE];
    char hex[HASH_SHA256_HEX_SIZE];

    hash_sha256(bytes, size, digest);
    buf_puts(out, hash_hex(digest, sizeof digest, hex));
}

static void add_names(struct buf *out, const struct s3_signing *s)
{
    for (size_t i = 0; i < s->header_count; i++)
        buf_printf(out, "%s%s", i ? ";" : "", s->headers[i].name);
}

/* The request in the one form that both ends hash. */
static void canonical(const struct s3_signing *s, struct buf *out)
{
    buf_printf(out, "%s\n%s\n%s\n", s->method, s->path, s->query);
    for (size_t i = 0; i < s->header_count; i++) {
        MUST(i == 0 || strcmp(s->headers[i - 1].name, s->headers[i].name) < 0);
        buf_printf(out, "%s:%s\n", s->headers[i].name, s->headers[i].value);
    }
    buf_puts(out, "\n");
    add_names(out, s);
    buf_printf(out, "\n%s", s->payload_sha256);
}

static void signing_key(const struct s3_signing *s, const struct s3_keys *k, uint8_t out[static HASH_SHA256_SIZE])
{
    CLEANUP(secret_release) struct secret first = {0};
    CLEANUP(free_ptr) char *text = xasprintf("AWS4%s", k->secret_key.bytes);

    secret_set(&first, text, strlen(text));
    OPENSSL_cleanse(text, strlen(text));
    hmac(first.bytes, first.size_bytes, s->stamp, DAY_DIGITS, out);
    hmac(out, HASH_SHA256_SIZE, s->region, strlen(s->region), out);
    hmac(out, HASH_SHA256_SIZE, "s3", 2, out);
    hmac(out, HASH_SHA256_SIZE, "aws4_request", 12, out);
}

char *s3_sign(const struct s3_signing *s, const struct s3_keys *k)
{
    CLEANUP(buf_release) struct buf request = {0}, words = {0};
    uint8_t key[HASH_SHA256_SIZE], signature[HASH_SHA256_SIZE];
    char hex[HASH_SHA256_HEX_SIZE];
    struct buf out = {0};

    canonical(s, &request);
    buf_printf(&words, ALGORITHM "\n%s\n%.*s/%s/s3/aws4_request\n", s->stamp, DAY_DIGITS, s->stamp, s->region);
    add_sha256(&words, request.data, request.size_bytes);
    signing_key(s, k, key);
    hmac(key, sizeof key, words.data, words.size_bytes, signature);
    OPENSSL_cleanse(key, sizeof key);
    buf_printf(&out, ALGORITHM " Credential=%s/%.*s/%s/s3/aws4_request,SignedHeaders=", k->access, DAY_DIGITS, s->stamp, s->region);
    add_names(&out, s);
    buf_printf(&out, ",Signature=%s", hash_hex(signature, sizeof signature, hex));
    MUST(!request.over && !words.over && !out.over);
    return buf_take(&out);
}

/* ---- credentials ---- */

void s3_keys_release(struct s3_keys *k)
{
    secret_release(&k->secret_key);
    secret_release(&k->token);
    OPENSSL_cleanse(k->access, sizeof k->access);
}

/* Takes one `name = value`; what it does not know is not its business. */
static int take_line(struct s3_keys *k, const char *name, const char *value, struct err *e)
{
    struct secret *into = strcmp(name, "aws_secret_access_key") == 0 ? &k->secret_key : strcmp(name, "aws_session_token") == 0 ? &k->token : NULL;

    for (const char *c = value; *c; c++)
        if (*c <= ' ' || *c > '~')
            return err_set(e, ERR_INVALID, "%s is no plain word", name);
    if (into) {
        secret_release(into);
        secret_set(into, value, strlen(value));
    } else if (strcmp(name, "aws_access_key_id") == 0) {
        if (strlen(value) >= sizeof k->access)
            return err_set(e, ERR_INVALID, "%s is too long", name);
        snprintf(k->access, sizeof k->access, "%s", value);
    }
    return 0;
}

static char *trim(char *text)
{
    char *end;

    text += strspn(text, " \t\r");
    end = text + strlen(text);
    while (end > text && strchr(" \t\r", end[-1]))
        *--end = '\0';
    return text;
}

static int take_lines(char *text, struct s3_keys *k, struct err *e)
{
    char *rest = NULL;
    bool in_section = false;

    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *equals;

        line = trim(line);
        if (*line == '[' && in_section)
            break;
        in_section = in_section || *line == '[';
        equals = strchr(line, '=');
        if (!equals || strchr("#;[", *line))
            continue;
        *equals = '\0';
        if (take_line(k, trim(line), trim(equals + 1), e) < 0)
            return -1;
    }
    if (!k->access[0] || !k->secret_key.size_bytes)
        return err_set(e, ERR_INVALID, "it must hold the lines aws_access_key_id = … and aws_secret_access_key = …");
    return 0;
}

int s3_keys_parse(const char *text, struct s3_keys *out, struct err *e)
{
    CLEANUP(s3_keys_release) struct s3_keys k = {0};
    CLEANUP(free_ptr) char *copy = xstrdup(text);
    size_t size = strlen(copy);
    int r = take_lines(copy, &k, e);

    OPENSSL_cleanse(copy, size);
    if (r < 0)
        return -1;
    *out = k;
    k = (struct s3_keys){0};
    return 0;
}

int s3_keys_read(const char *path, struct s3_keys *out, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};
    int r;

    buf_init(&text, CREDENTIALS_LIMIT);
    if (file_read(path, CREDENTIALS_LIMIT, &text, e) < 0)
        return err_wrap(e, "the store's credentials");
    r = s3_keys_parse(text.data ? text.data : "", out, e);
    if (text.data)
        OPENSSL_cleanse(text.data, text.size_bytes);
    return r < 0 ? err_wrap(e, "the store's credentials, %s", path) : 0;
}
