/* zone: what a clock on the wall shows somewhere, from the tz database's own files (RFC 9636), for any number of zones in one process:
 * the C library knows one at a time. */
#pragma once

#include "base/mem.h"

#define ZONE_NAME_MAX 64

struct zone;
/* "Europe/Berlin"; "UTC" needs no file. ERR_INVALID: no name of a zone; ERR_NOT_FOUND: this machine has none of that name. */
int zone_open(const char *name, struct zone **out, struct err *e);
/* The bytes of a TZif file, version 1 to 4. ERR_CORRUPT where they are none. */
int zone_read(const void *bytes, size_t size, struct zone **out, struct err *e);
void zone_free(struct zone **z); /* for CLEANUP */
/* What is added to UTC there and then, in seconds. z NULL: UTC. */
int64_t zone_offset_s(const struct zone *z, int64_t utc_s);
