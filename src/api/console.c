#include "api/console.h"

#include <string.h>

const struct console_file *console_find(const char *path)
{
    const struct console_file *page = NULL;

    for (const struct console_file *file = console_files; file->path; file++) {
        if (strcmp(file->path, path) == 0)
            return file;
        if (strcmp(file->path, "/index.html") == 0)
            page = file;
    }
    /* A server's name has dots often ("/servers/web01.example.com"), and tells nothing apart. */
    return strncmp(path, "/assets/", 8) == 0 ? NULL : page;
}
