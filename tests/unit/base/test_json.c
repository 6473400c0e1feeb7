#include "base/json.h"
#include "base/limits.h"
#include "tap.h"

static int read_text(const char *text, size_t size, struct err *e)
{
    CLEANUP(json_free) json_t *j = NULL;

    return json_read(text, size, &j, e);
}

int main(void)
{
    struct err e = {0};
    char deep[LIMIT_JSON_DEPTH * 2 + 4];
    CLEANUP(json_free) json_t *j = NULL;
    const char *name;
    int64_t count;

    memset(deep, '[', LIMIT_JSON_DEPTH + 1);
    memset(deep + LIMIT_JSON_DEPTH + 1, ']', LIMIT_JSON_DEPTH + 1);
    is_int(read_text(deep, 2 * (LIMIT_JSON_DEPTH + 1), &e), -1, "too deep is refused");
    is_int(e.kind, ERR_LIMIT, "as over a limit");
    is_int(read_text(deep + 1, 2 * LIMIT_JSON_DEPTH, &e), 0, "the deepest allowed is read");
    is_int(read_text("{\"a\":1,\"a\":2}", 13, &e), -1, "duplicate keys are refused");
    is_int(read_text("\"\xff\"", 3, &e), -1, "bytes that are not UTF-8 are refused");
    is_int(read_text("{} {}", 5, &e), -1, "so is a second document");
    is_int(json_read("{\"name\":\"db01\",\"n\":3}", 21, &j, &e), 0, "a good one is read");
    is_int(json_need_string(j, "name", &name, &e), 0, "its name is there");
    is_str(name, "db01", "and right");
    is_int(json_need_int(j, "n", &count, &e), 0, "so is its number");
    is_int(json_need_int(j, "name", &count, &e), -1, "a string is no number");
    is_int(json_need_string(j, "wave", &name, &e), -1, "a missing member is an error");
    is_str(e.message, "\"wave\" is missing; it must be a string", "that names it");
    return tap_done();
}
