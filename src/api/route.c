/* Matching paths to routes, and the small parsers of outside bytes. All of it is fuzzed (fuzz/fuzz_httpd.c). */
#include "api/httpd.h"

#include "base/hash.h"

#include <string.h>
#include <strings.h>

const char *const httpd_method_names[HTTP_METHOD_COUNT] = {"GET", "POST", "PUT", "PATCH", "DELETE"};
const char *const httpd_access_names[ACCESS_COUNT] = {"public", "viewer", "operator", "admin", "runner", "replicator", "reader"};

/* RFC 3629: shortest forms only, no surrogates, nothing above U+10FFFF. */
static bool is_utf8(const unsigned char *at)
{
    while (*at) {
        int more = *at < 0x80 ? 0 : *at >= 0xc2 && *at <= 0xdf ? 1 : *at >= 0xe0 && *at <= 0xef ? 2 : *at >= 0xf0 && *at <= 0xf4 ? 3 : -1;

        if (more < 0 || (*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] > 0x9f) || (*at == 0xf0 && at[1] < 0x90) ||
            (*at == 0xf4 && at[1] > 0x8f))
            return false;
        for (at++; more > 0; more--, at++)
            if ((*at & 0xc0) != 0x80)
                return false;
    }
    return true;
}

char *httpd_unescape(struct arena *a, const char *text, size_t size, bool plus)
{
    char *out = arena_alloc(a, size + 1), *to = out;

    for (size_t i = 0; i < size; i++) {
        int high, low;

        if (text[i] != '%') {
            *to = plus && text[i] == '+' ? ' ' : text[i];
            if (!*to++)
                return NULL;
            continue;
        }
        high = size - i > 2 ? hash_digit(text[i + 1]) : -1;
        low = high >= 0 ? hash_digit(text[i + 2]) : -1;
        if (low < 0 || (high == 0 && low == 0))
            return NULL;
        *to++ = (char)(high << 4 | low);
        i += 2;
    }
    *to = '\0';
    return is_utf8((const unsigned char *)out) ? out : NULL;
}

/* The decoded segments of a path: their count, or -1. A trailing slash gives an empty last one. */
static int split(const char *path, struct arena *a, char *segments[HTTP_LIMIT_SEGMENTS])
{
    int count = 0;

    if (*path != '/')
        return -1;
    while (*path == '/') {
        size_t length = strcspn(path + 1, "/");

        if (count == HTTP_LIMIT_SEGMENTS)
            return -1;
        segments[count] = httpd_unescape(a, path + 1, length, false);
        if (!segments[count++])
            return -1;
        path += 1 + length;
    }
    return count;
}

static bool fits(const char *template, char *const segments[], int count, char *values[])
{
    int at = 0, found = 0;

    while (*template == '/') {
        size_t length = strcspn(template + 1, "/");

        if (at == count)
            return false;
        if (template[1] == '{') {
            if (!*segments[at])
                return false;
            values[found++] = segments[at];
        } else if (strlen(segments[at]) != length || memcmp(segments[at], template + 1, length) != 0) {
            return false;
        }
        at++;
        template += 1 + length;
    }
    return at == count;
}

int httpd_match(const struct http_route *routes, size_t count, enum http_method method, const char *path, struct arena *a,
               const struct http_route **out, char *values[HTTP_LIMIT_SEGMENTS], unsigned *allowed, struct err *e)
{
    char *segments[HTTP_LIMIT_SEGMENTS], *found[HTTP_LIMIT_SEGMENTS] = {0};
    int segment_count = split(path, a, segments);

    if (segment_count < 0)
        return err_set(e, ERR_INVALID, "the path is not one: it must have at most %d segments of UTF-8, with whole %%XX escapes",
                       HTTP_LIMIT_SEGMENTS);
    *allowed = 0;
    for (size_t i = 0; i < count; i++) {
        if (!fits(routes[i].path, segments, segment_count, found))
            continue;
        *allowed |= 1u << routes[i].method;
        if (routes[i].method != method)
            continue;
        memcpy(values, found, sizeof found);
        *out = &routes[i];
        return 1;
    }
    return 0;
}

char *httpd_cookie(struct arena *a, const char *header, const char *name)
{
    size_t name_length = strlen(name);

    while (*header) {
        size_t length;

        header += strspn(header, " \t;");
        length = strcspn(header, ";");
        if (length > name_length && header[name_length] == '=' && strncmp(header, name, name_length) == 0) {
            const char *value = header + name_length + 1;
            size_t size = length - name_length - 1;
            char *out = arena_alloc(a, size + 1);

            memcpy(out, value, size);
            while (size && (out[size - 1] == ' ' || out[size - 1] == '\t'))
                out[--size] = '\0';
            return out;
        }
        header += length;
    }
    return NULL;
}
