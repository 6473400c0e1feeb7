#include "replicator/lifetime.h"

#include "base/err.h"
#include "base/mem.h"

#include <string.h>

static struct stretch *last_of(struct lifetime *l) { return &l->stretches[l->count - 1]; }
static int64_t at_least_0(int64_t us) { return us > 0 ? us : 0; }

static void begin_stretch(struct lifetime *l, int64_t wall_us, int64_t ran_us, int64_t monotonic_us)
{
    if (l->count == LIFETIME_STRETCHES_MAX) { /* what lies before the oldest is as old as its beginning, and what the wall clock says beyond that */
        memmove(l->stretches, l->stretches + 1, sizeof l->stretches - sizeof l->stretches[0]);
        l->count--;
    }
    l->stretches[l->count++] = (struct stretch){.wall_us = wall_us, .ran_us = ran_us};
    l->began_us = l->ticked_us = monotonic_us;
}

void lifetime_begin(struct lifetime *l, int64_t wall_us, int64_t monotonic_us)
{
    int64_t away_us = l->count ? wall_us - last_of(l)->wall_us - last_of(l)->length_us : -1;

    if (away_us >= 0 && away_us <= LIFETIME_AWAY_US) {
        last_of(l)->length_us += away_us;
        l->began_us = monotonic_us - last_of(l)->length_us;
        l->ticked_us = monotonic_us;
        return;
    }
    begin_stretch(l, wall_us, l->count ? last_of(l)->ran_us + last_of(l)->length_us : 0, monotonic_us);
}

int64_t lifetime_tick(struct lifetime *l, int64_t wall_us, int64_t monotonic_us)
{
    struct stretch *s = last_of(l);
    int64_t length_us = monotonic_us - l->began_us, jumped_us = wall_us - s->wall_us - length_us, since_us = monotonic_us - l->ticked_us;

    s->length_us = length_us;
    l->ticked_us = monotonic_us;
    if (jumped_us >= -LIFETIME_JUMP_US && jumped_us <= LIFETIME_JUMP_US)
        return 0;
    /* It may have jumped as soon as it was looked at last: from then on both stretches hold. */
    begin_stretch(l, wall_us - since_us, s->ran_us + length_us - since_us, monotonic_us - since_us);
    last_of(l)->length_us = since_us;
    l->ticked_us = monotonic_us;
    return jumped_us;
}

int64_t lifetime_age_us(const struct lifetime *l, int64_t wall_us)
{
    const struct stretch *last = &l->stretches[l->count - 1], *before = NULL;
    int64_t now_us = last->ran_us + last->length_us, youngest_us = INT64_MAX;

    for (int i = 0; i < l->count; i++) {
        const struct stretch *s = &l->stretches[i];
        int64_t end_us = s->wall_us + s->length_us;

        if (wall_us >= s->wall_us && wall_us <= end_us + LIFETIME_JUMP_US && now_us - s->ran_us - (wall_us - s->wall_us) < youngest_us)
            youngest_us = at_least_0(now_us - s->ran_us - (wall_us - s->wall_us));
        if (end_us < wall_us && (!before || end_us >= before->wall_us + before->length_us))
            before = s;
    }
    if (youngest_us != INT64_MAX)
        return youngest_us;
    if (before) /* nobody ran then: as old as the end of the stretch before */
        return now_us - before->ran_us - before->length_us;
    return now_us - l->stretches[0].ran_us + at_least_0(l->stretches[0].wall_us - wall_us);
}

json_t *lifetime_json(const struct lifetime *l)
{
    json_t *list = json_array();

    for (int i = 0; i < l->count; i++)
        json_array_append_new(list, json_pack("{s:I, s:I, s:I}", "wall_us", (json_int_t)l->stretches[i].wall_us, "ran_us", (json_int_t)l->stretches[i].ran_us,
                                              "length_us", (json_int_t)l->stretches[i].length_us));
    return json_pack("{s:o}", "stretches", list);
}

int lifetime_read(struct lifetime *l, const json_t *kept, struct err *e)
{
    json_t *list, *one;
    size_t i;

    *l = (struct lifetime){0};
    if (json_need_array(kept, "stretches", &list, e) < 0)
        return -1;
    if (json_array_size(list) > LIFETIME_STRETCHES_MAX)
        return err_set(e, ERR_INVALID, "more than %d stretches", LIFETIME_STRETCHES_MAX);
    json_array_foreach(list, i, one) {
        struct stretch *s = &l->stretches[i];

        if (json_need_int(one, "wall_us", &s->wall_us, e) < 0 || json_need_int(one, "ran_us", &s->ran_us, e) < 0 || json_need_int(one, "length_us", &s->length_us, e) < 0)
            return -1;
        if (s->ran_us < 0 || s->length_us < 0 || s->wall_us < 0 || (i && s->ran_us < s[-1].ran_us))
            return err_set(e, ERR_INVALID, "stretch %zu does not follow the one before", i);
    }
    l->count = (int)json_array_size(list);
    return 0;
}
