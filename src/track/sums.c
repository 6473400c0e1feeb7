#include "base/hash.h"
#include "track/track.h"

#include <string.h>

struct sum {
    uint8_t bytes[HASH_XXH_SIZE];
};
struct track_sums {
    int64_t chunk_count;
    struct sum *sums;
    uint8_t *known;
};

struct track_sums *track_sums_new(int64_t chunk_count)
{
    struct track_sums *s = xcalloc(1, sizeof *s);

    s->chunk_count = chunk_count;
    s->sums = xcalloc((size_t)chunk_count, sizeof *s->sums);
    s->known = xcalloc((size_t)chunk_count, 1); /* bytes, not bits: threads write side by side */
    return s;
}

void track_sums_free(struct track_sums **s)
{
    if (!*s)
        return;
    free_ptr(&(*s)->sums);
    free_ptr(&(*s)->known);
    free_ptr(s);
}

bool track_sums_changed(struct track_sums *s, int64_t chunk, const void *bytes, size_t size)
{
    struct sum now;

    MUST(chunk >= 0 && chunk < s->chunk_count);
    hash_xxh(bytes, size, now.bytes);
    if (s->known[chunk] && memcmp(&now, &s->sums[chunk], sizeof now) == 0)
        return false;
    s->sums[chunk] = now;
    s->known[chunk] = 1;
    return true;
}

void track_sums_forget(struct track_sums *s, int64_t chunk)
{
    MUST(chunk >= 0 && chunk < s->chunk_count);
    s->known[chunk] = 0;
}
