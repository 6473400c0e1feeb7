/* names: a growing table from names to numbers, for an import of many rows. Names are borrowed. Inside this room only. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct names {
    const char **keys;
    int *values;
    size_t room, count;
};
void names_release(struct names *n); /* for CLEANUP */
/* The value kept for key, or otherwise. */
int names_get(const struct names *n, const char *key, int otherwise);
/* Keeps value for key. False, and nothing changed, where there is one already. */
bool names_put(struct names *n, const char *key, int value);
