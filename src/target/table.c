#include "target/target.h"
#include "target/local.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const struct target_api *const target_table[] = {
    &target_local_qemu,
    NULL,
};

const struct target_api *target_find(const char *name)
{
    for (int i = 0; name && target_table[i]; i++)
        if (strcmp(target_table[i]->name, name) == 0)
            return target_table[i];
    return NULL;
}

void target_line(json_t *lines, const char *name, bool passed, const char *advice, const char *format, ...)
{
    char evidence[1024];
    json_t *line = json_object();
    va_list args;

    va_start(args, format);
    vsnprintf(evidence, sizeof evidence, format, args);
    va_end(args);
    json_object_set_new(line, "name", json_string(name));
    json_object_set_new(line, "passed", json_boolean(passed));
    json_object_set_new(line, "evidence", json_stringn_nocheck(evidence, strlen(evidence)));
    json_object_set_new(line, "advice", !passed && advice ? json_string(advice) : json_null());
    json_array_append_new(lines, line);
}

bool target_lines_passed(const json_t *lines)
{
    bool passed = json_array_size(lines) > 0;
    size_t i;
    json_t *line;

    json_array_foreach(lines, i, line)
        passed = passed && json_get_bool(line, "passed", false);
    return passed;
}
