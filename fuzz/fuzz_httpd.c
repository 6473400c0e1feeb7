/* What a stranger can write into a request: the first byte chooses the parser, the rest is its text. What is taken must hold what the
 * handlers count on: UTF-8 without NULs, parameters that are there. */
#include "api/httpd.h"
#include "api/sse.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static int nothing(struct http_call *c, struct err *e)
{
    (void)c, (void)e;
    return 0;
}

static const struct http_route routes[] = {
    {.method = HTTP_GET, .path = "/v1/waves", .run = nothing},
    {.method = HTTP_GET, .path = "/v1/waves/{wave}", .run = nothing},
    {.method = HTTP_PUT, .path = "/v1/waves/{wave}/measurements/{name}", .run = nothing},
    {.method = HTTP_DELETE, .path = "/v1/sessions/current", .run = nothing},
};

static int parameters_of(const struct http_route *r)
{
    int count = 0;

    for (const char *at = r->path; *at; at++)
        count += *at == '{';
    return count;
}

static void path(struct arena *a, const char *text)
{
    const struct http_route *found = NULL;
    char *values[HTTP_LIMIT_SEGMENTS] = {0};
    unsigned allowed = 0;
    struct err e = {0};
    int matched;

    for (enum http_method m = HTTP_GET; m < HTTP_METHOD_COUNT; m++) {
        matched = httpd_match(routes, ARRAY_COUNT(routes), m, text, a, &found, values, &allowed, &e);
        MUST(matched >= -1 && matched <= 1);
        MUST(matched != -1 || e.kind == ERR_INVALID);
        if (matched != 1)
            continue;
        MUST(found->method == m && (allowed & 1u << m));
        for (int i = 0; i < parameters_of(found); i++)
            MUST(values[i] && *values[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    char *text, *out, host[64];
    int64_t id = -1;
    int port = -1;

    if (size < 1)
        return 0;
    text = arena_alloc(a, size); /* the rest and a NUL */
    memcpy(text, bytes + 1, size - 1);
    switch (bytes[0] % 6) {
    case 0: path(a, text); break;
    case 1:
    case 2:
        out = httpd_unescape(a, (const char *)bytes + 1, size - 1, bytes[0] % 6 == 1);
        MUST(!out || strlen(out) <= size - 1);
        break;
    case 3:
        out = httpd_cookie(a, text, "slipway_session");
        MUST(!out || (strlen(out) < size && !strchr(out, ';')));
        break;
    case 4: MUST((sse_parse_id(text, &id, NULL) == 0) == (id >= 0)); break;
    case 5: MUST(httpd_split_address(text, host, sizeof host, &port, NULL) < 0 || (port >= 0 && port <= 65535 && *host)); break;
    }
    return 0;
}
