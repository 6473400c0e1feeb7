#include "replicator/missing.h"

#include <stdlib.h>
#include <string.h>

void missing_release(struct missing *m)
{
    free(m->disks);
    *m = (struct missing){0};
}

int missing_count(const struct missing *m)
{
    int count = 0;

    for (int i = 0; m && i < m->count; i++)
        count += !m->disks[i].accepted;
    return count;
}

static const struct missing_disk *find(const struct missing *m, const char *id)
{
    for (int i = 0; i < m->count; i++)
        if (strcmp(m->disks[i].id, id) == 0)
            return &m->disks[i];
    return NULL;
}

static bool is_named(const struct wire_hello *hello, const char *id)
{
    for (int64_t i = 0; i < hello->disk_count; i++)
        if (strcmp(hello->disks[i].id, id) == 0)
            return true;
    return false;
}

static void add(struct missing *m, const struct missing_disk *d)
{
    if (find(m, d->id) || m->count == LIMIT_DISKS_PER_SERVER)
        return;
    if (!m->disks)
        m->disks = xcalloc(LIMIT_DISKS_PER_SERVER, sizeof *m->disks);
    m->disks[m->count++] = *d;
}

bool missing_learn(struct missing *m, const struct wire_hello *hello, const struct missing_disk *had, int had_count, int64_t now_us)
{
    struct missing now = {0};
    bool differs;

    for (int i = 0; i < m->count; i++) /* it stands, also where no newer point has the disk */
        if (!m->disks[i].accepted && !is_named(hello, m->disks[i].id))
            add(&now, &m->disks[i]);
    for (int i = 0; i < had_count; i++) {
        const struct missing_disk *known = find(m, had[i].id);
        struct missing_disk d = had[i];

        if (is_named(hello, d.id))
            continue;
        d.since_us = known ? known->since_us : now_us;
        d.accepted = known && known->accepted; /* that word holds until nothing has the disk any more */
        add(&now, &d);
    }
    differs = now.count != m->count;
    for (int i = 0; i < now.count && !differs; i++)
        differs = !find(m, now.disks[i].id);
    missing_release(m);
    *m = now;
    return differs;
}

int missing_accept(struct missing *m)
{
    int count = missing_count(m);

    for (int i = 0; i < m->count; i++)
        m->disks[i].accepted = true;
    return count;
}

json_t *missing_json(const struct missing *m)
{
    json_t *list = json_array();

    for (int i = 0; i < m->count && json_array_size(list) < MISSING_TOLD; i++) {
        const struct missing_disk *d = &m->disks[i];
        json_t *one;

        if (d->accepted)
            continue;
        one = json_pack("{s:s, s:I}", "id", d->id, "size_bytes", (json_int_t)d->size_bytes);
        json_set_time(one, "since", d->since_us);
        json_array_append_new(list, one);
    }
    return list;
}

json_t *missing_kept(const struct missing *m)
{
    json_t *list = json_array();

    for (int i = 0; i < m->count; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:b}", "id", m->disks[i].id, "size_bytes", (json_int_t)m->disks[i].size_bytes, "since_us",
                                              (json_int_t)m->disks[i].since_us, "accepted", m->disks[i].accepted));
    return list;
}

void missing_load(struct missing *m, const json_t *kept)
{
    size_t i;
    json_t *one;

    missing_release(m);
    json_array_foreach ((json_t *)(uintptr_t)kept, i, one) {
        struct missing_disk d = {.size_bytes = json_get_int(one, "size_bytes", 0), .since_us = json_get_int(one, "since_us", 0),
                                 .accepted = json_get_bool(one, "accepted", false)};
        const char *id = json_get_string(one, "id", "");

        if (!*id || strlen(id) >= sizeof d.id)
            continue;
        memcpy(d.id, id, strlen(id) + 1);
        add(m, &d);
    }
}
