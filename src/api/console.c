#include "api/console.h"

#include <string.h>

const struct console_file *console_find(const char *path)
{
    const char *last = strrchr(path, '/');

    if (!last || !strchr(last, '.'))
        path = "/index.html";
    for (const struct console_file *file = console_files; file->path; file++)
        if (strcmp(file->path, path) == 0)
            return file;
    return NULL;
}
