#include "inventory/names.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

void names_release(struct names *n)
{
    free(n->keys);
    free(n->values);
    *n = (struct names){0};
}

/* Where key is, or the free place where it would go. room is a power of two and never full. */
static size_t place(const struct names *n, const char *key)
{
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */
    size_t at;

    for (const char *c = key; *c; c++)
        hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
    for (at = (size_t)(hash ^ hash >> 32) & (n->room - 1); n->keys[at] && strcmp(n->keys[at], key) != 0; at = (at + 1) & (n->room - 1))
        ;
    return at;
}

static void grow(struct names *n)
{
    struct names more = {.room = n->room ? n->room * 2 : 64, .count = n->count};

    more.keys = xcalloc(more.room, sizeof *more.keys);
    more.values = xcalloc(more.room, sizeof *more.values);
    for (size_t i = 0; i < n->room; i++)
        if (n->keys[i]) {
            size_t at = place(&more, n->keys[i]);

            more.keys[at] = n->keys[i];
            more.values[at] = n->values[i];
        }
    names_release(n);
    *n = more;
}

int names_get(const struct names *n, const char *key, int otherwise)
{
    size_t at = n->room ? place(n, key) : 0;

    return n->room && n->keys[at] ? n->values[at] : otherwise;
}

bool names_put(struct names *n, const char *key, int value)
{
    size_t at;

    if (n->count * 2 >= n->room)
        grow(n);
    at = place(n, key);
    if (n->keys[at])
        return false;
    n->keys[at] = key;
    n->values[at] = value;
    n->count++;
    return true;
}
