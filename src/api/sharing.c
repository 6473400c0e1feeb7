#include "api/sharing.h"

#include "base/clock.h"
#include "plan/part.h"

#include <string.h>

#define LIVING_US (15 * US_PER_S)
#define HOLDERS_MOST 1000

/* What the others said last, [shares, …]. One that is silent holds what it had for as long as servers are its own: nobody knows whether their agents still send
 * to it. */
static int read_others(struct store_tx *tx, const char *replicator, int64_t now_us, json_t *others, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e,
                         "SELECT r.status FROM replicator_status r WHERE r.name <> $1 AND (r.seen_us > $2 OR EXISTS (SELECT 1 FROM placement p JOIN server s ON s.name = p.server"
                         " WHERE (p.replicator = r.name OR p.seen_at = r.name) AND s.lifecycle NOT IN ('DISCONNECTED', 'ARCHIVED'))) ORDER BY r.name",
                         "si", replicator, now_us - LIVING_US);

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        CLEANUP(json_free) json_t *status = json_loads(store_text(rows, 0), 0, NULL);
        json_t *shares = json_object_get(status, "shares");

        if (json_is_object(shares) && json_array_size(others) < HOLDERS_MOST)
            json_array_append(others, shares);
    }
    return rc < 0 ? -1 : 0;
}

static int64_t figure(const json_t *share, const char *name, int64_t most)
{
    int64_t value = json_get_int(share, name, 0);

    return value < 0 ? 0 : value > most ? most : value;
}

/* What it may go by: its own word, and what it was told in answer to that. */
static struct part_holder holder_of(const json_t *share)
{
    int64_t said = figure(share, "part", PART_WHOLE), given = figure(share, "given", PART_WHOLE);

    return (struct part_holder){figure(share, "active", INT32_MAX), figure(share, "idle", INT32_MAX), said > given ? said : given};
}

static int64_t give(const char *key, const json_t *own, const json_t *others)
{
    CLEANUP(free_ptr) struct part_holder *all = xcalloc(json_array_size(others) + 1, sizeof *all);
    const json_t *shares, *share;
    int count = 1;
    size_t i;

    all[0] = holder_of(json_object_get(own, key));
    json_array_foreach((json_t *)(uintptr_t)others, i, shares)
        if ((share = json_object_get(shares, key)))
            all[count++] = holder_of(share);
    return part_give(all, count, 0);
}

static void give_all(const json_t *from, json_t *own, const json_t *others, json_t *parts)
{
    const char *key;
    json_t *share;

    json_object_foreach((json_t *)(uintptr_t)from, key, share) {
        json_t *mine = json_object_get(own, key);

        if (json_object_get(parts, key))
            continue;
        if (json_is_object(mine))
            json_object_del(mine, "given"); /* the factory's word, not the replicator's */
        json_object_set_new(parts, key, json_integer(give(key, own, others)));
        if (json_is_object(mine))
            json_object_set(mine, "given", json_object_get(parts, key));
    }
}

int sharing_divide(struct store_tx *tx, const char *replicator, json_t *shares, int64_t now_us, json_t **out, struct err *e)
{
    CLEANUP(json_free) json_t *others = json_array(), *parts = json_object();
    json_t *one;
    size_t i;

    if (read_others(tx, replicator, now_us, others, e) < 0)
        return -1;
    give_all(shares, shares, others, parts);
    json_array_foreach(others, i, one)
        give_all(one, shares, others, parts);
    *out = json_incref(parts);
    return 0;
}
