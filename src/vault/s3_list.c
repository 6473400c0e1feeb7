/* s3_list: the few elements of S3's XML that are needed: keys and sizes of a list's page, and a refusal's code. Elements have no attributes
 * there but the outermost one, and text holds no "<". What looks otherwise is refused. */
#include "vault/s3.h"

#include <stdlib.h>
#include <string.h>

#define KEY_LIMIT 1024 /* S3's own */

/* Between <name> and </name>, from..*end; NULL: there is none. */
static const char *inside(const char *text, const char *name, const char **end)
{
    CLEANUP(free_ptr) char *open = xasprintf("<%s>", name), *close = xasprintf("</%s>", name);
    const char *from = strstr(text, open), *to = from ? strstr(from, close) : NULL;

    if (!to)
        return NULL;
    *end = to;
    return from + strlen(open);
}

static void add_character(struct buf *out, unsigned long c)
{
    char utf8[4];
    size_t size = 0;

    if (c < 0x80) {
        utf8[size++] = (char)c;
    } else if (c < 0x800) {
        utf8[size++] = (char)(0xc0 | c >> 6);
    } else if (c < 0x10000) {
        utf8[size++] = (char)(0xe0 | c >> 12);
        utf8[size++] = (char)(0x80 | (c >> 6 & 0x3f));
    } else {
        utf8[size++] = (char)(0xf0 | c >> 18);
        utf8[size++] = (char)(0x80 | (c >> 12 & 0x3f));
        utf8[size++] = (char)(0x80 | (c >> 6 & 0x3f));
    }
    if (c >= 0x80)
        utf8[size++] = (char)(0x80 | (c & 0x3f));
    buf_add(out, utf8, size);
}

/* One entity at *text (which is '&'); what is none stays as it is. */
static void add_entity(struct buf *out, const char **text, const char *end)
{
    static const struct {
        const char *name;
        char c;
    } named[] = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
    unsigned long c;
    char *rest;

    for (size_t i = 0; i < ARRAY_COUNT(named); i++)
        if ((size_t)(end - *text) >= strlen(named[i].name) && strncmp(*text, named[i].name, strlen(named[i].name)) == 0) {
            buf_add(out, &named[i].c, 1);
            *text += strlen(named[i].name);
            return;
        }
    if (end - *text > 3 && (*text)[1] == '#') {
        c = (*text)[2] == 'x' ? strtoul(*text + 3, &rest, 16) : strtoul(*text + 2, &rest, 10);
        if (*rest == ';' && rest < end && c > 0 && c < 0x110000) {
            add_character(out, c);
            *text = rest + 1;
            return;
        }
    }
    buf_add(out, (*text)++, 1);
}

char *s3_element(const char *text, const char *name)
{
    const char *end, *from = inside(text, name, &end);
    struct buf out = {0};

    if (!from)
        return NULL;
    while (from < end)
        if (*from == '&')
            add_entity(&out, &from, end);
        else
            buf_add(&out, from++, 1);
    return buf_take(&out);
}

static int take_object(const char *contents, s3_visit *visit, void *user, struct err *e)
{
    CLEANUP(free_ptr) char *key = s3_element(contents, "Key"), *size = s3_element(contents, "Size");
    unsigned long long bytes;
    char *rest;

    if (!key || !*key || strlen(key) > KEY_LIMIT || !size || *size < '0' || *size > '9')
        return err_set(e, ERR_PROTOCOL, "the store's list holds an object without key or size");
    bytes = strtoull(size, &rest, 10);
    if (*rest)
        return err_set(e, ERR_PROTOCOL, "the store's list holds an object of \"%.40s\" bytes", size);
    return visit(key, bytes, user, e);
}

int s3_list_parse(const char *text, s3_visit *visit, void *user, char **next, struct err *e)
{
    CLEANUP(free_ptr) char *more = s3_element(text, "IsTruncated"), *token = s3_element(text, "NextContinuationToken");
    const char *from, *end;

    if (!strstr(text, "<ListBucketResult") || !strstr(text, "</ListBucketResult>"))
        return err_set(e, ERR_PROTOCOL, "the store's list of objects is none, or is cut off");
    for (from = text; (from = inside(from, "Contents", &end)); from = end) {
        CLEANUP(free_ptr) char *contents = xasprintf("%.*s", (int)(end - from), from);

        if (take_object(contents, visit, user, e) < 0)
            return -1;
    }
    if (!more || (strcmp(more, "true") != 0 && strcmp(more, "false") != 0))
        return err_set(e, ERR_PROTOCOL, "the store's list does not say whether it goes on");
    if (strcmp(more, "true") == 0 && (!token || !*token))
        return err_set(e, ERR_PROTOCOL, "the store's list goes on, and it does not say where");
    *next = NULL;
    if (strcmp(more, "true") == 0) {
        *next = token;
        token = NULL;
    }
    return 0;
}
