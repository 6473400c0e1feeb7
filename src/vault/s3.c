#include "vault/s3.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/http.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <errno.h>

#define DEFAULT_REGION "us-east-1"
#define SMALL_TIMEOUT_MS 20000
#define SMALL_MOST 65536         /* bytes: more is a segment */
#define WHOLE_TIMEOUT_MS 3600000 /* of a segment; one that stands still ends before (stall_s) */
#define ANSWER_LIMIT (1u << 20)
#define LIST_LIMIT (4u << 20)
#define PAGES_MOST 1000000
#define HEADERS_MOST 8
#define MD5_SIZE 16
#define ETAG_SIZE 128

struct s3 {
    struct s3_options options;
    struct http_client *http;
    char *url, *bucket, *region, *host;
};

/* What differs between requests. Headers in the order of their names, each "" where it is not sent. */
struct asked {
    const char *method, *key, *query;
    const void *body;
    size_t body_size, limit;
    const char *md5, *range, *sha256;
    bool once;
    int timeout_ms;
    int (*on_body)(void *user, const char *bytes, size_t size);
    bool (*cancelled)(void *user);
    void *user; /* of these two; without them the client's own */
};

/* ---- opening ---- */

/* As libcurl sends it: without the scheme's own port. */
static char *host_of(const char *url, struct err *e)
{
    bool tls = strncmp(url, "https://", 8) == 0;
    const char *from = url + (tls ? 8 : 7), *port;
    size_t size;

    if (!tls && strncmp(url, "http://", 7) != 0) {
        err_set(e, ERR_INVALID, "the store's address is https://HOST[:PORT] or http://HOST[:PORT], not \"%.200s\"", url);
        return NULL;
    }
    size = strcspn(from, "/?#@");
    if (size == 0 || (from[size] && strcmp(from + size, "/") != 0)) {
        err_set(e, ERR_INVALID, "the store's address ends with its host and port: \"%.200s\"", url);
        return NULL;
    }
    port = tls ? ":443" : ":80";
    if (size > strlen(port) && strncmp(from + size - strlen(port), port, strlen(port)) == 0)
        size -= strlen(port);
    return xasprintf("%.*s", (int)size, from);
}

int s3_open(const struct s3_options *options, struct s3 **out, struct err *e)
{
    CLEANUP(s3_close) struct s3 *s = xcalloc(1, sizeof *s);
    struct http_options http = {.ca_file = options->ca_file, .connect_timeout_ms = 5000};
    size_t size = strlen(options->url);

    s->options = *options;
    if (!s->options.small_timeout_ms)
        s->options.small_timeout_ms = SMALL_TIMEOUT_MS;
    s->url = xasprintf("%.*s", (int)(size && options->url[size - 1] == '/' ? size - 1 : size), options->url);
    s->bucket = xstrdup(options->bucket);
    s->region = xstrdup(options->region ? options->region : DEFAULT_REGION);
    s->host = host_of(options->url, e);
    if (!s->host)
        return -1;
    if (!*s->bucket || strchr(s->bucket, '/'))
        return err_set(e, ERR_INVALID, "\"%.200s\" is no bucket's name", s->bucket);
    if (http_open(&http, &s->http, e) < 0)
        return -1;
    *out = s;
    s = NULL;
    return 0;
}

void s3_close(struct s3 **held)
{
    struct s3 *s = *held;

    if (!s)
        return;
    http_close(&s->http);
    free(s->url);
    free(s->bucket);
    free(s->region);
    free(s->host);
    free(s);
    *held = NULL;
}

/* ---- one exchange ---- */

static bool cancelled(void *user)
{
    const struct s3 *s = user;

    return s->options.cancelled && s->options.cancelled(s->options.user);
}

static void release_lines(char *(*lines)[HEADERS_MOST + 2])
{
    for (size_t i = 0; i < HEADERS_MOST + 1; i++)
        free((*lines)[i]);
}

/* 0 with whatever the store answered. */
static int exchange(struct s3 *s, const struct asked *a, struct http_response *answer, struct err *e)
{
    CLEANUP(free_ptr) char *plain = xasprintf("/%s%s%s", s->bucket, a->key ? "/" : "", a->key ? a->key : ""), *path = s3_path(plain), *url = NULL, *signature = NULL;
    CLEANUP(release_lines) char *lines[HEADERS_MOST + 2] = {0};
    uint8_t digest[HASH_SHA256_SIZE];
    char payload[HASH_SHA256_HEX_SIZE], stamp[S3_STAMP_SIZE];
    const struct s3_pair all[] = {{"content-md5", a->md5}, {"host", s->host}, {"range", a->range}, {"x-amz-content-sha256", payload}, {"x-amz-date", stamp},
                                  {"x-amz-meta-sha256", a->sha256}, {"x-amz-security-token", s->options.keys->token.bytes}};
    struct s3_pair sent[ARRAY_COUNT(all)];
    struct s3_signing signing = {.method = a->method, .path = path, .query = a->query ? a->query : "", .headers = sent, .payload_sha256 = payload, .stamp = stamp, .region = s->region};
    struct http_request request = {.method = a->method, .headers = (const char *const *)lines, .body = a->body, .body_bytes = a->body_size, .once = a->once, .timeout_ms = a->timeout_ms,
                                   .stall_s = s->options.stall_s, .limit_bytes = a->limit ? a->limit : ANSWER_LIMIT, .on_body = a->on_body, .cancelled = a->cancelled ? a->cancelled : cancelled,
                                   .user = a->user ? a->user : s};

    if (a->sha256)
        snprintf(payload, sizeof payload, "%s", a->sha256);
    else {
        hash_sha256(a->body ? a->body : "", a->body_size, digest);
        hash_hex(digest, sizeof digest, payload);
    }
    s3_stamp(clock_read_us(s->options.clock), stamp);
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        if (!all[i].value || !*all[i].value)
            continue;
        sent[signing.header_count] = all[i];
        lines[signing.header_count++] = xasprintf("%s: %s", all[i].name, all[i].value);
    }
    signature = s3_sign(&signing, s->options.keys);
    lines[signing.header_count] = xasprintf("Authorization: %s", signature);
    url = xasprintf("%s%s%s%s", s->url, path, *signing.query ? "?" : "", signing.query);
    request.url = url;
    return http_do(s->http, &request, answer, e);
}

/* -1 with what the store's answer says. body: where the answer's went elsewhere; else NULL. */
static int refused(const struct s3 *s, const struct asked *a, const struct http_response *answer, const char *body, struct err *e)
{
    const char *text = body ? body : answer->body.data ? answer->body.data : "";
    CLEANUP(free_ptr) char *code = s3_element(text, "Code"), *message = s3_element(text, "Message");
    int status = answer->status;
    enum err_kind kind = status == 401 || status == 403 ? ERR_DENIED : status == 429 || status >= 500 ? ERR_UNREACHABLE : ERR_PROTOCOL;

    /* A bucket that is not there says nothing about its objects. */
    if (status == 404)
        kind = code && strcmp(code, "NoSuchKey") == 0 ? ERR_NOT_FOUND : ERR_WRONG_STATE;
    return err_set(e, kind, "the store answers %d%s%.60s%s%.200s to %s %s/%s%s%s", status, code ? " " : "", code ? code : "", message && *message ? ": " : "",
                   message ? message : "", a->method, s->url, s->bucket, a->key ? "/" : "", a->key ? a->key : "");
}

/* ---- storing ---- */

static bool md5_of(const void *bytes, size_t size, uint8_t out[static MD5_SIZE])
{
    return EVP_Digest(bytes, size, out, NULL, EVP_md5(), NULL) == 1;
}

static bool etag_of(const struct http_response *answer, char out[static ETAG_SIZE])
{
    char quoted[ETAG_SIZE];
    size_t size;

    if (!http_header(answer, "etag", quoted, sizeof quoted))
        return false;
    size = strlen(quoted);
    if (size >= 2 && quoted[0] == '"' && quoted[size - 1] == '"')
        snprintf(out, ETAG_SIZE, "%.*s", (int)size - 2, quoted + 1);
    else
        snprintf(out, ETAG_SIZE, "%s", quoted);
    return true;
}

/* Where the store encrypts under a customer's or its own managed key, the tag is no MD5. */
static bool tag_is_md5(const struct http_response *answer)
{
    char value[64];

    return !(http_header(answer, "x-amz-server-side-encryption", value, sizeof value) && strncmp(value, "aws:kms", 7) == 0) &&
           !http_header(answer, "x-amz-server-side-encryption-customer-algorithm", value, sizeof value);
}

/* What the store tells of the object now. */
static int look_again(struct s3 *s, const char *key, size_t size, const char *sha256, const char *etag, struct err *e)
{
    CLEANUP(http_response_release) struct http_response answer = {0};
    struct asked a = {.method = "HEAD", .key = key, .timeout_ms = s->options.small_timeout_ms};
    char text[32], meta[HASH_SHA256_HEX_SIZE], tag[ETAG_SIZE];

    if (exchange(s, &a, &answer, e) < 0)
        return -1;
    if (answer.status != 200)
        return answer.status == 404 ? err_set(e, ERR_PROTOCOL, "the store took %s and does not have it", key) : refused(s, &a, &answer, NULL, e);
    if (!http_header(&answer, "content-length", text, sizeof text) || strtoull(text, NULL, 10) != size)
        return err_set(e, ERR_PROTOCOL, "the store has %s bytes of %s: it should have %zu", text, key, size);
    if (!http_header(&answer, "x-amz-meta-sha256", meta, sizeof meta) || strcmp(meta, sha256) != 0)
        return err_set(e, ERR_PROTOCOL, "the store does not tell the SHA-256 that %s was sent with", key);
    if (!etag_of(&answer, tag) || strcmp(tag, etag) != 0)
        return err_set(e, ERR_PROTOCOL, "the store has another version of %s than the one that it took", key);
    return 0;
}

int s3_put(struct s3 *s, const char *key, const void *bytes, size_t size, struct err *e)
{
    CLEANUP(http_response_release) struct http_response answer = {0};
    uint8_t digest[HASH_SHA256_SIZE], md5[MD5_SIZE];
    char sha256[HASH_SHA256_HEX_SIZE], md5_hex[2 * MD5_SIZE + 1], md5_text[32] = "", etag[ETAG_SIZE];
    struct asked a = {.method = "PUT", .key = key, .body = bytes, .body_size = size, .sha256 = sha256, .md5 = md5_text, .once = true, .timeout_ms = size > SMALL_MOST ? WHOLE_TIMEOUT_MS : s->options.small_timeout_ms};
    bool has_md5 = md5_of(bytes, size, md5);

    hash_sha256(bytes, size, digest);
    hash_hex(digest, sizeof digest, sha256);
    if (has_md5) {
        EVP_EncodeBlock((unsigned char *)md5_text, md5, MD5_SIZE);
        hash_hex(md5, sizeof md5, md5_hex);
    }
    if (exchange(s, &a, &answer, e) < 0)
        return -1;
    if (answer.status != 200)
        return refused(s, &a, &answer, NULL, e);
    if (!etag_of(&answer, etag))
        return err_set(e, ERR_PROTOCOL, "the store took %s and tells no ETag", key);
    if (has_md5 && tag_is_md5(&answer) && strcmp(etag, md5_hex) != 0)
        return err_set(e, ERR_PROTOCOL, "%s arrived damaged: its MD5 is %s, the store has %s", key, md5_hex, etag);
    return look_again(s, key, size, sha256, etag, e);
}

/* ---- getting ---- */

int s3_has(struct s3 *s, const char *key, struct err *e)
{
    CLEANUP(http_response_release) struct http_response answer = {0};
    struct asked a = {.method = "HEAD", .key = key, .timeout_ms = s->options.small_timeout_ms};

    if (exchange(s, &a, &answer, e) < 0)
        return -1;
    return answer.status == 200 ? 1 : answer.status == 404 ? 0 : refused(s, &a, &answer, NULL, e);
}

int s3_get(struct s3 *s, const char *key, uint64_t offset, size_t size, void *bytes, int timeout_ms, struct err *e)
{
    CLEANUP(http_response_release) struct http_response answer = {0};
    char range[64];
    struct asked a = {.method = "GET", .key = key, .range = range, .limit = size + ANSWER_LIMIT, .timeout_ms = timeout_ms};

    snprintf(range, sizeof range, "bytes=%llu-%llu", (unsigned long long)offset, (unsigned long long)(offset + size - 1));
    if (exchange(s, &a, &answer, e) < 0)
        return -1;
    if (answer.status == 416)
        return err_set(e, ERR_CORRUPT, "%s in the store ends before offset %llu", key, (unsigned long long)offset);
    if (answer.status != 206)
        return answer.status == 200 ? err_set(e, ERR_PROTOCOL, "the store answers the whole of %s where a part was asked for", key)
                                    : refused(s, &a, &answer, NULL, e);
    if (answer.body.size_bytes != size)
        return err_set(e, ERR_CORRUPT, "the store gives %zu bytes of %s where %zu were asked for", answer.body.size_bytes, key, size);
    memcpy(bytes, answer.body.data, size);
    return 0;
}

int s3_get_text(struct s3 *s, const char *key, size_t limit, struct buf *out, struct err *e)
{
    CLEANUP(http_response_release) struct http_response answer = {0};
    struct asked a = {.method = "GET", .key = key, .limit = limit, .timeout_ms = s->options.small_timeout_ms};

    if (exchange(s, &a, &answer, e) < 0)
        return -1;
    if (answer.status != 200)
        return refused(s, &a, &answer, NULL, e);
    return buf_add(out, answer.body.data ? answer.body.data : "", answer.body.size_bytes) < 0 ? err_set(e, ERR_LIMIT, "%s is too long", key) : 0;
}

struct filling {
    struct s3 *s;
    int fd;
    uint64_t size;
    char begin[2048]; /* what it says where it is a refusal */
    struct err why;
};

static int fill(void *user, const char *bytes, size_t size)
{
    struct filling *f = user;

    if (f->size < sizeof f->begin - 1)
        memcpy(f->begin + f->size, bytes, size < sizeof f->begin - 1 - f->size ? size : sizeof f->begin - 1 - (size_t)f->size);
    f->size += size;
    while (size) {
        ssize_t n = write(f->fd, bytes, size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_errno(&f->why, n < 0 ? errno : ENOSPC, "can't write what the store sends");
        bytes += n;
        size -= (size_t)n;
    }
    return 0;
}

static bool filling_cancelled(void *user) { return cancelled(((struct filling *)user)->s); }

int s3_get_file(struct s3 *s, const char *key, int fd, uint64_t *size, struct err *e)
{
    CLEANUP(http_response_release) struct http_response answer = {0};
    struct filling f = {.s = s, .fd = fd};
    struct asked a = {.method = "GET", .key = key, .timeout_ms = WHOLE_TIMEOUT_MS, .on_body = fill, .cancelled = filling_cancelled, .user = &f};

    if (exchange(s, &a, &answer, e) < 0)
        return f.why.kind ? err_set(e, f.why.kind, "%s", f.why.message) : -1;
    if (answer.status != 200)
        return refused(s, &a, &answer, f.begin, e);
    *size = f.size;
    return 0;
}

/* ---- the rest ---- */

int s3_delete(struct s3 *s, const char *key, struct err *e)
{
    CLEANUP(http_response_release) struct http_response answer = {0};
    struct asked a = {.method = "DELETE", .key = key, .timeout_ms = s->options.small_timeout_ms};
    struct err why = {0};

    if (exchange(s, &a, &answer, e) < 0)
        return -1;
    if (answer.status == 204 || answer.status == 200)
        return 0;
    refused(s, &a, &answer, NULL, &why);
    return why.kind == ERR_NOT_FOUND ? 0 : err_set(e, why.kind, "%s", why.message);
}

int s3_list(struct s3 *s, const char *prefix, s3_visit *visit, void *user, struct err *e)
{
    CLEANUP(free_ptr) char *token = NULL;

    for (int page = 0; page < PAGES_MOST; page++) {
        CLEANUP(http_response_release) struct http_response answer = {0};
        const struct s3_pair pairs[] = {{"continuation-token", token}, {"list-type", "2"}, {"prefix", prefix}};
        CLEANUP(free_ptr) char *query = s3_query(pairs + !token, ARRAY_COUNT(pairs) - !token), *next = NULL;
        struct asked a = {.method = "GET", .query = query, .limit = LIST_LIMIT, .timeout_ms = s->options.small_timeout_ms};

        if (exchange(s, &a, &answer, e) < 0)
            return -1;
        if (answer.status != 200)
            return refused(s, &a, &answer, NULL, e);
        if (s3_list_parse(answer.body.data ? answer.body.data : "", visit, user, &next, e) < 0)
            return -1;
        if (!next)
            return 0;
        if (token && strcmp(token, next) == 0)
            break;
        free(token);
        token = next;
        next = NULL;
    }
    return err_set(e, ERR_PROTOCOL, "the store's list of %s does not end", prefix);
}
