#include "base/json.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"

#include <string.h>

void json_free(json_t **j)
{
    json_decref(*j);
    *j = NULL;
}

/* Nesting is bounded before jansson recurses: brackets outside strings are counted. */
static bool too_deep(const char *text, size_t size)
{
    bool in_string = false;
    int depth = 0;

    for (size_t i = 0; i < size; i++) {
        if (in_string) {
            if (text[i] == '\\')
                i++;
            else if (text[i] == '"')
                in_string = false;
        } else if (text[i] == '"') {
            in_string = true;
        } else if (text[i] == '[' || text[i] == '{') {
            if (++depth > LIMIT_JSON_DEPTH)
                return true;
        } else if (text[i] == ']' || text[i] == '}') {
            depth--;
        }
    }
    return false;
}

int json_read(const char *text, size_t size, json_t **out, struct err *e) { return json_read_most(text, size, LIMIT_JSON_BYTES, out, e); }

int json_read_most(const char *text, size_t size, size_t limit_bytes, json_t **out, struct err *e)
{
    json_error_t wrong;
    json_t *parsed;

    if (size > limit_bytes)
        return err_set(e, ERR_LIMIT, "the JSON document has %zu bytes; %zu are allowed", size, limit_bytes);
    if (too_deep(text, size))
        return err_set(e, ERR_LIMIT, "the JSON document is nested deeper than %d levels", LIMIT_JSON_DEPTH);
    parsed = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &wrong);
    if (!parsed)
        return err_set(e, ERR_INVALID, "not JSON: line %d, column %d: %s", wrong.line, wrong.column, wrong.text);
    *out = parsed;
    return 0;
}

int json_read_file(const char *path, json_t **out, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};

    if (file_read(path, LIMIT_JSON_BYTES, &text, e) < 0)
        return -1;
    if (json_read(text.data, text.size_bytes, out, e) < 0)
        return err_wrap(e, "%s", path);
    return 0;
}

char *json_text(const json_t *j)
{
    char *text = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_ENCODE_ANY);

    MUST(text);
    return text;
}

static json_t *need(const json_t *object, const char *name, json_type type, const char *what, struct err *e)
{
    json_t *member = json_object_get(object, name);

    if (member && json_typeof(member) == type)
        return member;
    err_set(e, ERR_INVALID, member ? "\"%s\" must be %s" : "\"%s\" is missing; it must be %s", name, what);
    return NULL;
}

int json_need_string(const json_t *object, const char *name, const char **out, struct err *e)
{
    json_t *member = need(object, name, JSON_STRING, "a string", e);

    if (!member)
        return -1;
    *out = json_string_value(member);
    return 0;
}

int json_need_int(const json_t *object, const char *name, int64_t *out, struct err *e)
{
    json_t *member = need(object, name, JSON_INTEGER, "a whole number", e);

    if (!member)
        return -1;
    *out = json_integer_value(member);
    return 0;
}

int json_need_array(const json_t *object, const char *name, json_t **out, struct err *e)
{
    json_t *member = need(object, name, JSON_ARRAY, "a list", e);

    if (!member)
        return -1;
    *out = member;
    return 0;
}

int json_need_object(const json_t *object, const char *name, json_t **out, struct err *e)
{
    json_t *member = need(object, name, JSON_OBJECT, "an object", e);

    if (!member)
        return -1;
    *out = member;
    return 0;
}

json_t *json_find(const json_t *list, const char *member, const char *text)
{
    json_t *item;
    size_t i;

    json_array_foreach(list, i, item)
        if (strcmp(json_get_string(item, member, ""), text) == 0)
            return item;
    return NULL;
}

const char *json_get_string(const json_t *object, const char *name, const char *otherwise)
{
    const json_t *member = json_object_get(object, name);

    return json_is_string(member) ? json_string_value(member) : otherwise;
}

int64_t json_get_int(const json_t *object, const char *name, int64_t otherwise)
{
    const json_t *member = json_object_get(object, name);

    return json_is_integer(member) ? json_integer_value(member) : otherwise;
}

bool json_get_bool(const json_t *object, const char *name, bool otherwise)
{
    const json_t *member = json_object_get(object, name);

    return json_is_boolean(member) ? json_is_true(member) : otherwise;
}

void json_set_time(json_t *object, const char *name, int64_t time_us)
{
    char text[CLOCK_TEXT_SIZE];

    json_object_set_new(object, name, time_us ? json_string(clock_format(time_us, text)) : json_null());
}
