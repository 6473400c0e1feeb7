/* ask: one HTTPS request with libcurl, for the tests of api/. */
#pragma once

#include "base/mem.h"

#include <curl/curl.h>
#include <string.h>
#include <strings.h>

struct answer {
    long status;          /* 0: none came */
    struct buf body, head;
};

struct question {
    const char *method, *path;
    const char *headers[8];             /* ends with NULL */
    const char *body;
    size_t body_size;                   /* 0: strlen(body) */
    const char *certificate, *key;      /* PEM files */
    bool chunked;                       /* without Content-Length */
    bool asks_first; /* whether its body is wanted, before it sends it */
    long timeout_ms;
};

static int ask_port;
static char ask_ca[600]; /* PEM file */

static size_t ask_collect(char *bytes, size_t size, size_t count, void *user)
{
    return buf_add(user, bytes, size * count) == 0 ? size * count : 0;
}

__attribute__((unused)) static void answer_release(struct answer *a)
{
    buf_release(&a->body);
    buf_release(&a->head);
}

__attribute__((unused)) static struct answer ask_with(const struct question *q)
{
    struct answer a = {0};
    CURL *curl = curl_easy_init();
    struct curl_slist *headers = curl_slist_append(NULL, q->asks_first ? "Expect: 100-continue" : "Expect:");
    char url[2048];

    snprintf(url, sizeof url, "https://127.0.0.1:%d%s", ask_port, q->path);
    for (int i = 0; i < 8 && q->headers[i]; i++)
        headers = curl_slist_append(headers, q->headers[i]);
    if (q->chunked)
        headers = curl_slist_append(headers, "Transfer-Encoding: chunked");
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_EXPECT_100_TIMEOUT_MS, 15000L);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, q->method);
    if (strcmp(q->method, "HEAD") == 0)
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    curl_easy_setopt(curl, CURLOPT_CAINFO, ask_ca);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, ask_collect);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &a.body);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, &a.head);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, q->timeout_ms ? q->timeout_ms : 20000L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    if (q->body) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)(q->body_size ? q->body_size : strlen(q->body)));
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, q->body);
    }
    if (q->certificate) {
        curl_easy_setopt(curl, CURLOPT_SSLCERT, q->certificate);
        curl_easy_setopt(curl, CURLOPT_SSLKEY, q->key);
    }
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    if (curl_easy_perform(curl) != CURLE_OK && !q->timeout_ms)
        a.status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &a.status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    if (!a.body.data)
        buf_puts(&a.body, "");
    return a;
}

__attribute__((unused)) static struct answer ask(const char *method, const char *path)
{
    return ask_with(&(struct question){.method = method, .path = path});
}

__attribute__((unused)) static struct answer ask_json(const char *method, const char *path, const char *body)
{
    return ask_with(&(struct question){.method = method, .path = path, .body = body, .headers = {"Content-Type: application/json"}});
}

/* The value of a header in the answer's head, in a static buffer; "" where it isn't there. */
__attribute__((unused)) static const char *answer_header(const struct answer *a, const char *name)
{
    static char value[2048];
    size_t length = strlen(name);

    value[0] = '\0';
    for (const char *line = a->head.data; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : "")
        if (strncasecmp(line, name, length) == 0 && line[length] == ':') {
            const char *from = line + length + 1 + strspn(line + length + 1, " ");

            snprintf(value, sizeof value, "%.*s", (int)strcspn(from, "\r\n"), from);
        }
    return value;
}

__attribute__((unused)) static bool answer_has(const struct answer *a, const char *text)
{
    return a->body.data && strstr(a->body.data, text);
}
