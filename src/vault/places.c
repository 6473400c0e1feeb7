#include "vault/places.h"

#include <stdlib.h>

void places_release(struct places *p)
{
    free(p->list);
    *p = (struct places){0};
}

void places_make(struct places *p, size_t count)
{
    p->count = 0;
    if (p->held < count) {
        free(p->list);
        p->list = xmalloc(count * sizeof *p->list);
        p->held = count;
    }
}

void places_add(struct places *p, const struct vault_hash *hash, const struct chunk_place *place)
{
    if (p->count == p->held) {
        p->held = p->held ? p->held + p->held / 2 : 256;
        p->list = xrealloc(p->list, p->held * sizeof *p->list);
    }
    p->list[p->count++] = (struct placed){*hash, *place};
}

static int by_place(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;

    if (x->place.segment != y->place.segment)
        return x->place.segment < y->place.segment ? -1 : 1;
    return x->place.offset < y->place.offset ? -1 : x->place.offset > y->place.offset;
}

void places_sort(struct places *p)
{
    if (p->count)
        qsort(p->list, p->count, sizeof *p->list, by_place);
}
