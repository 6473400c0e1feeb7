/* json: jansson with our limits and our way to fail. Documents from outside go through json_read; text is strict UTF-8. */
#pragma once

#include "base/mem.h"

#include <jansson.h>

void json_free(json_t **j); /* for CLEANUP: json_decref */

/* Parses exactly one document of at most LIMIT_JSON_BYTES and LIMIT_JSON_DEPTH, duplicate keys refused. The caller owns *out. */
int json_read(const char *text, size_t size, json_t **out, struct err *e);
/* The same, of at most so many bytes: for files of our own. */
int json_read_most(const char *text, size_t size, size_t limit_bytes, json_t **out, struct err *e);
int json_read_file(const char *path, json_t **out, struct err *e);
/* Compact text, keys in insertion order; the caller frees. */
char *json_text(const json_t *j);

/* Members that must be there, of that type: ERR_INVALID names the missing one. Strings are borrowed from the object. */
int json_need_string(const json_t *object, const char *name, const char **out, struct err *e);
int json_need_int(const json_t *object, const char *name, int64_t *out, struct err *e);
int json_need_array(const json_t *object, const char *name, json_t **out, struct err *e);
int json_need_object(const json_t *object, const char *name, json_t **out, struct err *e);
/* Members that may be missing: the given value then, and for a value of another type. */
const char *json_get_string(const json_t *object, const char *name, const char *otherwise);
/* The first object of the list whose member is that text (where text is "": or is none), borrowed; NULL where there is none. */
json_t *json_find(const json_t *list, const char *member, const char *text);
int64_t json_get_int(const json_t *object, const char *name, int64_t otherwise);
bool json_get_bool(const json_t *object, const char *name, bool otherwise);
/* Sets object.name to the RFC 3339 text of time_us, or null where time_us is 0. */
void json_set_time(json_t *object, const char *name, int64_t time_us);
