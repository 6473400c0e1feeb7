#include "base/http.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/limits.h"

#include <ctype.h>
#include <curl/curl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LIMIT_HEADER_BYTES 65536
#define CONNECT_TIMEOUT_MS 10000
#define EXCHANGE_TIMEOUT_MS 30000
#define CANCEL_POLL_US US_PER_S

struct http_client {
    CURL *curl;
    char *ca_file, *certificate_file, *key_file, *proxy;
    int connect_timeout_ms;
    char reason[CURL_ERROR_SIZE];
};

/* One exchange, as libcurl's callbacks see it. */
struct exchange {
    const struct http_request *request;
    struct http_response response;
    int64_t asked_us; /* when cancelled() was asked last */
    bool over, stopped;
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static void start_curl(void) { MUST(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK); }

int http_open(const struct http_options *options, struct http_client **out, struct err *e)
{
    struct http_client *c;

    pthread_once(&curl_once, start_curl);
    if (!!options->certificate_file != !!options->key_file)
        return err_set(e, ERR_INTERNAL, "a certificate needs its key, and a key its certificate");
    c = xcalloc(1, sizeof *c);
    c->curl = curl_easy_init();
    MUST(c->curl);
    c->ca_file = xstrdup(options->ca_file);
    c->certificate_file = xstrdup(options->certificate_file);
    c->key_file = xstrdup(options->key_file);
    c->proxy = xstrdup(options->proxy ? options->proxy : "");
    c->connect_timeout_ms = options->connect_timeout_ms ? options->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    *out = c;
    return 0;
}

void http_close(struct http_client **client)
{
    struct http_client *c = *client;

    if (!c)
        return;
    curl_easy_cleanup(c->curl);
    free(c->ca_file);
    free(c->certificate_file);
    free(c->key_file);
    free(c->proxy);
    free(c);
    *client = NULL;
}

void http_response_release(struct http_response *response)
{
    buf_release(&response->headers);
    buf_release(&response->body);
    response->status = 0;
}

static size_t take_body(char *bytes, size_t one, size_t size, void *user)
{
    struct exchange *x = user;

    (void)one; /* always 1 */
    if (x->request->on_body) {
        x->stopped = x->request->on_body(x->request->user, bytes, size) < 0;
        return x->stopped ? CURL_WRITEFUNC_ERROR : size;
    }
    x->over = buf_add(&x->response.body, bytes, size) < 0;
    return x->over ? CURL_WRITEFUNC_ERROR : size;
}

static size_t take_header(char *bytes, size_t one, size_t size, void *user)
{
    struct exchange *x = user;

    (void)one;
    if (size > 5 && strncasecmp(bytes, "HTTP/", 5) == 0) { /* an answer after "100 Continue" starts anew */
        buf_release(&x->response.headers);
        buf_init(&x->response.headers, LIMIT_HEADER_BYTES);
    }
    x->over = buf_add(&x->response.headers, bytes, size) < 0;
    return x->over ? CURL_WRITEFUNC_ERROR : size;
}

static int watch(void *user, curl_off_t to_get, curl_off_t got, curl_off_t to_put, curl_off_t put)
{
    struct exchange *x = user;
    int64_t now = clock_monotonic_us();

    (void)to_get, (void)got, (void)to_put, (void)put;
    if (!x->request->cancelled || now - x->asked_us < CANCEL_POLL_US)
        return 0;
    x->asked_us = now;
    x->stopped = x->request->cancelled(x->request->user);
    return x->stopped;
}

static void set_up_tls(struct http_client *c)
{
    curl_easy_setopt(c->curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (c->ca_file) {
        curl_easy_setopt(c->curl, CURLOPT_CAINFO, c->ca_file);
        curl_easy_setopt(c->curl, CURLOPT_CAPATH, NULL);
    }
    if (c->certificate_file) {
        curl_easy_setopt(c->curl, CURLOPT_SSLCERT, c->certificate_file);
        curl_easy_setopt(c->curl, CURLOPT_SSLKEY, c->key_file);
    }
}

/* curl_easy_reset keeps the connections, and the next exchange starts from nothing else. */
static void set_up(struct http_client *c, struct exchange *x, struct curl_slist *headers)
{
    const struct http_request *r = x->request;
    long timeout_ms = r->timeout_ms < 0 ? 0 : r->timeout_ms ? r->timeout_ms : EXCHANGE_TIMEOUT_MS;

    curl_easy_reset(c->curl);
    c->reason[0] = '\0';
    curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->reason);
    curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c->curl, CURLOPT_PROXY, c->proxy);
    curl_easy_setopt(c->curl, CURLOPT_URL, r->url);
    curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT_MS, (long)c->connect_timeout_ms);
    curl_easy_setopt(c->curl, CURLOPT_TIMEOUT_MS, timeout_ms);
    if (r->stall_s) {
        curl_easy_setopt(c->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(c->curl, CURLOPT_LOW_SPEED_TIME, (long)r->stall_s);
    }
    curl_easy_setopt(c->curl, CURLOPT_FRESH_CONNECT, (long)r->once);
    curl_easy_setopt(c->curl, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(c->curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(c->curl, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(c->curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c->curl, CURLOPT_XFERINFOFUNCTION, watch);
    curl_easy_setopt(c->curl, CURLOPT_XFERINFODATA, x);
    if (r->body || strcmp(r->method, "POST") == 0) {
        curl_easy_setopt(c->curl, CURLOPT_POST, 1L);
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_bytes);
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, r->body ? r->body : "");
    } else if (strcmp(r->method, "HEAD") == 0) {
        curl_easy_setopt(c->curl, CURLOPT_NOBODY, 1L);
    }
    curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, r->method);
    set_up_tls(c);
}

static int failed(const struct http_client *c, const struct exchange *x, CURLcode code, struct err *e)
{
    const char *why = c->reason[0] ? c->reason : curl_easy_strerror(code), *url = x->request->url;

    if (x->stopped)
        return err_set(e, ERR_CANCELLED, "%s %s was broken off", x->request->method, url);
    if (x->over)
        return err_set(e, ERR_LIMIT, "the answer of %s is longer than is taken", url);
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT: return err_set(e, ERR_TIMEOUT, "%s: %s", url, why);
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL: return err_set(e, ERR_INVALID, "\"%s\" is no http(s) address: %s", url, why);
    case CURLE_PEER_FAILED_VERIFICATION:
        return err_set(e, ERR_DENIED, "the certificate of %s is not trusted: %s: is it the right factory, and the right CA file?", url, why);
    case CURLE_SSL_CACERT_BADFILE: return err_set(e, ERR_INVALID, "can't use the CA file %s: %s", c->ca_file, why);
    case CURLE_SSL_CERTPROBLEM: return err_set(e, ERR_INVALID, "can't use the certificate %s: %s", c->certificate_file, why);
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING: return err_set(e, ERR_PROTOCOL, "%s: %s", url, why);
    default: return err_set(e, ERR_UNREACHABLE, "%s: %s", url, why);
    }
}

static void free_list(struct curl_slist **list) { curl_slist_free_all(*list); }

int http_do(struct http_client *client, const struct http_request *request, struct http_response *response, struct err *e)
{
    CLEANUP(free_list) struct curl_slist *headers = curl_slist_append(NULL, "Expect:"); /* no waiting for 100 Continue */
    struct exchange x = {.request = request, .asked_us = clock_monotonic_us()};
    char line[256];
    long status = 0;
    CURLcode code;

    snprintf(line, sizeof line, request->content_type ? "Content-Type: %s" : "Content-Type:",
             request->content_type ? request->content_type : "");
    headers = curl_slist_append(headers, line);
    for (size_t i = 0; request->headers && request->headers[i]; i++)
        headers = curl_slist_append(headers, request->headers[i]);
    buf_init(&x.response.headers, LIMIT_HEADER_BYTES);
    buf_init(&x.response.body, request->limit_bytes ? request->limit_bytes : LIMIT_JSON_BYTES);
    set_up(client, &x, headers);
    code = curl_easy_perform(client->curl);
    if (code != CURLE_OK) {
        http_response_release(&x.response);
        return failed(client, &x, code, e);
    }
    curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
    x.response.status = (int)status;
    *response = x.response;
    return 0;
}

bool http_header(const struct http_response *response, const char *name, char *out, size_t size)
{
    size_t name_size = strlen(name);

    for (const char *line = response->headers.data; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        const char *from, *to;

        if (strncasecmp(line, name, name_size) != 0 || line[name_size] != ':')
            continue;
        from = line + name_size + 1 + strspn(line + name_size + 1, " \t");
        to = from + strcspn(from, "\r\n");
        while (to > from && isspace((unsigned char)to[-1]))
            to--;
        if ((size_t)(to - from) >= size)
            return false;
        memcpy(out, from, (size_t)(to - from));
        out[to - from] = '\0';
        return true;
    }
    return false;
}

static enum err_kind kind_of_status(int status)
{
    static const struct {
        int status;
        enum err_kind kind;
    } kinds[] = {{400, ERR_INVALID},  {401, ERR_UNAUTHENTICATED}, {403, ERR_DENIED},      {404, ERR_NOT_FOUND}, {408, ERR_TIMEOUT},
                 {409, ERR_CONFLICT}, {412, ERR_CONFLICT},        {413, ERR_LIMIT},       {422, ERR_INVALID},   {429, ERR_UNREACHABLE},
                 {501, ERR_UNSUPPORTED}, {502, ERR_UNREACHABLE},  {503, ERR_UNREACHABLE}, {504, ERR_TIMEOUT},   {507, ERR_NO_SPACE}};

    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++)
        if (kinds[i].status == status)
            return kinds[i].kind;
    return status >= 500 ? ERR_UNREACHABLE : ERR_PROTOCOL;
}

/* The first faults of a problem, as "field: reason; …". */
static void add_faults(struct buf *words, const json_t *faults)
{
    const json_t *fault;
    size_t i;

    json_array_foreach(faults, i, fault) {
        const char *field = json_get_string(fault, "field", json_get_string(fault, "column", ""));

        buf_printf(words, "%s%s%s%s", i ? "; " : ": ", field, *field ? ": " : "", json_get_string(fault, "reason", "?"));
        if (i == 4) {
            buf_printf(words, "; … (%zu in all)", json_array_size(faults));
            break;
        }
    }
}

int http_problem(const struct http_response *response, struct err *e)
{
    CLEANUP(json_free) json_t *problem = NULL;
    CLEANUP(buf_release) struct buf words = {0};
    const char *kind;

    buf_init(&words, 1000);
    if (!response->body.data || json_read(response->body.data, response->body.size_bytes, &problem, NULL) < 0 || !json_is_object(problem))
        return err_set(e, kind_of_status(response->status), "the answer was HTTP status %d", response->status);
    kind = json_get_string(problem, "kind", "");
    buf_puts(&words, json_get_string(problem, "detail", json_get_string(problem, "title", "no detail was given")));
    add_faults(&words, json_object_get(problem, "faults"));
    return err_set(e, strcmp(err_meaning(err_kind_named(kind))->name, kind) == 0 ? err_kind_named(kind) : kind_of_status(response->status),
                   "%s (HTTP %d)", words.data, response->status);
}

int http_json(struct http_client *client, const struct http_request *request, const json_t *body, json_t **out, int *status,
              struct err *e)
{
    CLEANUP(http_response_release) struct http_response answer = {0};
    CLEANUP(free_ptr) char *text = body ? json_text(body) : NULL;
    struct http_request r = *request;
    json_t *parsed = NULL;

    if (status)
        *status = 0;
    r.body = text;
    r.body_bytes = text ? strlen(text) : 0;
    r.content_type = text ? "application/json" : NULL;
    if (http_do(client, &r, &answer, e) < 0)
        return -1;
    if (status)
        *status = answer.status;
    if (answer.status < 200 || answer.status > 299) {
        http_problem(&answer, e);
        return err_wrap(e, "%s %s", r.method, r.url);
    }
    if (out && answer.body.size_bytes > 0 && json_read(answer.body.data, answer.body.size_bytes, &parsed, e) < 0) {
        if (e)
            e->kind = ERR_PROTOCOL;
        return err_wrap(e, "the answer of %s", r.url);
    }
    if (out)
        *out = parsed;
    return 0;
}

char *http_escape(const char *text)
{
    char *out = xmalloc(strlen(text) * 3 + 1), *at = out;

    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;

        if (c < 0x80 && (isalnum(c) || strchr("-._~", c)))
            *at++ = (char)c;
        else
            at += sprintf(at, "%%%02X", c);
    }
    *at = '\0';
    return out;
}

/* "SHA256:AB:cd…" to 64 lower-case digits; false where it is no such thing. */
static bool plain_fingerprint(const char *text, char out[65])
{
    size_t count = 0;

    if (strncasecmp(text, "SHA256:", 7) == 0)
        text += 7;
    for (; *text; text++) {
        if (*text == ':')
            continue;
        if (!isxdigit((unsigned char)*text) || count == 64)
            return false;
        out[count++] = (char)tolower((unsigned char)*text);
    }
    out[count] = '\0';
    return count == 64;
}

static bool certificate_is(const char *pem, const char *wanted)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *certificate = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    unsigned char digest[EVP_MAX_MD_SIZE];
    char text[2 * EVP_MAX_MD_SIZE + 1] = "";
    unsigned size = 0;

    if (certificate && X509_digest(certificate, EVP_sha256(), digest, &size) == 1)
        hash_hex(digest, size, text);
    X509_free(certificate);
    BIO_free(bio);
    return strcmp(text, wanted) == 0;
}

/* libcurl gives each certificate of the chain as lines "Name:value"; "Cert:" holds the PEM. */
static char *find_in_chain(const struct curl_certinfo *chain, const char *wanted)
{
    for (int i = 0; chain && i < chain->num_of_certs; i++)
        for (const struct curl_slist *line = chain->certinfo[i]; line; line = line->next)
            if (strncmp(line->data, "Cert:", 5) == 0 && certificate_is(line->data + 5, wanted))
                return xstrdup(line->data + 5);
    return NULL;
}

int http_pin(const char *url, const char *fingerprint, char **ca_pem, struct err *e)
{
    CLEANUP(http_close) struct http_client *client = NULL;
    struct http_request request = {.method = "HEAD", .url = url};
    struct exchange x = {.request = &request};
    struct curl_certinfo *chain = NULL;
    char wanted[65];
    CURLcode code;

    if (!plain_fingerprint(fingerprint, wanted))
        return err_set(e, ERR_INVALID, "\"%s\" is no fingerprint: it is SHA256: and 64 hexadecimal digits", fingerprint);
    if (http_open(&(struct http_options){0}, &client, e) < 0)
        return -1;
    buf_init(&x.response.headers, LIMIT_HEADER_BYTES);
    buf_init(&x.response.body, LIMIT_JSON_BYTES);
    set_up(client, &x, NULL);
    curl_easy_setopt(client->curl, CURLOPT_SSL_VERIFYPEER, 0L); /* nothing is sent but HEAD, and nothing taken but certificates */
    curl_easy_setopt(client->curl, CURLOPT_SSL_VERIFYHOST, 0L);
    curl_easy_setopt(client->curl, CURLOPT_CERTINFO, 1L);
    code = curl_easy_perform(client->curl);
    http_response_release(&x.response);
    if (code != CURLE_OK)
        return failed(client, &x, code, e);
    curl_easy_getinfo(client->curl, CURLINFO_CERTINFO, &chain);
    *ca_pem = find_in_chain(chain, wanted);
    if (!*ca_pem)
        return err_set(e, ERR_DENIED, "no certificate of %s has the fingerprint SHA256:%s: compare it with what the factory printed", url, wanted);
    return 0;
}
