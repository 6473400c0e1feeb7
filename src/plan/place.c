#include "plan/place.h"

#include "base/words.h"

#include <stdlib.h>
#include <string.h>

#define NEAR_PERCENT 5

static int64_t reckoned(int64_t bytes, int room_percent) { return bytes / 100 * room_percent; }

static bool has_room(const struct place_candidate *c, int64_t need_bytes, int room_percent)
{
    return c->free_bytes >= reckoned(c->to_come_bytes + need_bytes, room_percent);
}

int place_fullness(const struct place_candidate *c, int64_t need_bytes, int room_percent)
{
    int64_t taken = c->total_bytes - c->free_bytes + reckoned(c->to_come_bytes + need_bytes, room_percent);

    return c->total_bytes <= 0 || c->free_bytes < 0 ? 0 : (int)((double)taken * 100 / (double)c->total_bytes);
}

int place_business(const struct place_candidate *c)
{
    return c->write_bytes_per_s <= 0 ? 0 : (int)((double)c->churn_bytes_per_s * 100 / (double)c->write_bytes_per_s);
}

static int scarcer(const struct place_candidate *c, int64_t need_bytes, int room_percent)
{
    int full = place_fullness(c, need_bytes, room_percent), busy = place_business(c);

    return full > busy ? full : busy;
}

/* What speaks against it; NULL where nothing does. */
static const char *fault_of(const struct place_candidate *c, int64_t need_bytes, int room_percent)
{
    if (!c->living)
        return "does not report";
    if (c->draining)
        return "is drained";
    if (!c->addressed)
        return "does not say where agents reach it (--advertise)";
    if (c->free_bytes < 0)
        return "does not tell its room";
    return has_room(c, need_bytes, room_percent) ? NULL : "lacks room";
}

static void say(const struct place_candidate *c, int64_t need_bytes, int room_percent, struct buf *out)
{
    const char *fault = fault_of(c, need_bytes, room_percent);

    buf_printf(out, "%s", c->name);
    if (fault)
        buf_printf(out, " %s", fault);
    if (c->free_bytes < 0 || (fault && strcmp(fault, "lacks room") != 0))
        return;
    buf_printf(out, ": %d servers, ", c->server_count);
    if (c->group_count)
        buf_printf(out, "%d of its application, ", c->group_count);
    words_bytes(out, (double)c->free_bytes);
    buf_puts(out, " free of ");
    words_bytes(out, (double)c->total_bytes);
    buf_printf(out, ", %d %% full with this one and what is to come, %d %% busy", place_fullness(c, need_bytes, room_percent), place_business(c));
}

/* Shares that are near one another count as the same: then the one with fewer servers, so that two that are alike take turns. */
static bool is_better(const struct place_candidate *a, const struct place_candidate *b, int64_t need_bytes, int room_percent)
{
    int of_a = scarcer(a, need_bytes, room_percent), of_b = scarcer(b, need_bytes, room_percent);

    if (a->group_count != b->group_count)
        return a->group_count > b->group_count;
    if (abs(of_a - of_b) >= NEAR_PERCENT)
        return of_a < of_b;
    return a->server_count != b->server_count ? a->server_count < b->server_count : strcmp(a->name, b->name) < 0;
}

int place_choose(const struct place_candidate *list, int count, int64_t need_bytes, int room_percent, struct buf *why, struct err *e)
{
    int best = -1;
    bool lacks_room = false;

    for (int i = 0; i < count; i++) {
        const char *fault = fault_of(&list[i], need_bytes, room_percent);

        lacks_room |= fault && strcmp(fault, "lacks room") == 0;
        if (!fault && (best < 0 || is_better(&list[i], &list[best], need_bytes, room_percent)))
            best = i;
    }
    if (best >= 0)
        say(&list[best], need_bytes, room_percent, why);
    for (int i = 0; i < count; i++)
        if (i != best) {
            buf_puts(why, why->size_bytes ? "; " : "");
            say(&list[i], need_bytes, room_percent, why);
        }
    if (best >= 0)
        return best;
    return err_set(e, lacks_room ? ERR_NO_SPACE : ERR_UNREACHABLE, "no replicator can take it%s%s. %s", count ? ": " : "; none is enrolled", count ? why->data : "",
                   lacks_room ? "Give a replicator's folder a larger disk, start another replicator (slipway enrol replicator NAME), or set replicator.room_percent lower"
                                " where the disks hold much that is empty or alike"
                              : "Start slipway serve without --no-replicator, or slipway replicator (slipway enrol replicator NAME)");
}
