/* console: the web console's files, embedded when the program was built (web/embed.mjs writes the table). */
#pragma once

#include <stddef.h>

struct console_file {
    const char *path;       /* "/index.html", "/assets/index-….js" */
    const char *media_type;
    const char *encoding;   /* "br": the bytes are compressed so (RFC 7932); NULL: as they are */
    const char *etag;       /* with its quotes; changes with the content */
    const unsigned char *bytes, *end;
};

extern const struct console_file console_files[]; /* the end has path NULL */

/* The file at that path; for any other path outside /assets/ (a client route) index.html; NULL where there is none. */
const struct console_file *console_find(const char *path);
