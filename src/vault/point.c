/* point: recovery points: their documents, and the rows that know them. */
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

struct vault_hash point_record_hash(const char *text)
{
    struct vault_hash hash;

    vault_hash_of(text, strlen(text), &hash);
    return hash;
}

static json_t *disks_json(const struct vault_point *p, bool roots)
{
    json_t *list = json_array();
    char text[VAULT_HASH_TEXT_SIZE];

    for (size_t i = 0; i < p->disk_count; i++) {
        const struct vault_point_disk *d = &p->disks[i];
        json_t *disk = json_pack("{s:s, s:I}", "id", d->id, "size_bytes", (json_int_t)d->size_bytes);

        if (roots) {
            json_object_set_new(disk, "changed_bytes", json_integer((json_int_t)d->changed_bytes));
            json_object_set_new(disk, "root", json_string(vault_hash_text(&d->root, text)));
        }
        json_array_append_new(list, disk);
    }
    return list;
}

static json_t *ranges_json(const struct vault_unreadable *u)
{
    json_t *list = json_array();

    for (size_t i = 0; i < u->range_count; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "disk", u->ranges[i].disk, "first_sector", (json_int_t)u->ranges[i].first_sector,
                                              "sector_count", (json_int_t)u->ranges[i].sector_count));
    return list;
}

json_t *vault_point_json(const struct vault_point *p)
{
    json_t *j = json_pack("{s:s, s:s}", "id", p->id, "server", p->server);

    json_set_time(j, "at", p->at_us);
    json_object_set_new(j, "group", p->group[0] ? json_string(p->group) : json_null());
    json_object_set_new(j, "consistency", json_string(p->consistency));
    json_object_set_new(j, "freeze_ms", json_integer(p->freeze_ms));
    json_object_set_new(j, "disks", disks_json(p, false));
    json_object_set_new(j, "bytes", json_integer((json_int_t)p->bytes));
    json_object_set_new(j, "unreadable_bytes", json_integer((json_int_t)p->unreadable.bytes));
    if (p->unreadable.bytes)
        json_object_set_new(j, "unreadable", ranges_json(&p->unreadable));
    if (p->copied)
        json_object_set_new(j, "copied", json_true());
    return j;
}

char *point_text(const struct vault_point *p, uint64_t sequence)
{
    CLEANUP(json_free) json_t *j = json_pack("{s:s, s:i, s:s, s:s, s:I, s:I, s:s, s:I, s:I}", "format", "slipway-point", "version", 1,
                                             "id", p->id, "server", p->server, "sequence", (json_int_t)sequence, "at_us",
                                             (json_int_t)p->at_us, "consistency", p->consistency, "freeze_ms",
                                             (json_int_t)p->freeze_ms, "bytes", (json_int_t)p->bytes);

    MUST(j);
    if (p->group[0])
        json_object_set_new(j, "group", json_string(p->group));
    if (p->unreadable.bytes)
        json_object_set_new(j, "unreadable", json_pack("{s:I, s:o}", "bytes", (json_int_t)p->unreadable.bytes, "ranges", ranges_json(&p->unreadable)));
    if (p->copied)
        json_object_set_new(j, "copied", json_true());
    json_object_set_new(j, "disks", disks_json(p, true));
    return json_text(j);
}

static int copy_text(const char *what, const char *from, char *to, size_t size, struct err *e)
{
    if (strlen(from) >= size)
        return err_set(e, ERR_CORRUPT, "a point's %s is too long", what);
    memcpy(to, from, strlen(from) + 1);
    return 0;
}

static int parse_disk(const json_t *j, struct vault_point_disk *out, struct err *e)
{
    const char *id, *root;
    int64_t size_bytes;

    if (json_need_string(j, "id", &id, e) < 0 || vault_disk_check(id, e) < 0 ||
        json_need_int(j, "size_bytes", &size_bytes, e) < 0 || json_need_string(j, "root", &root, e) < 0 ||
        vault_hash_parse(root, &out->root, e) < 0)
        return -1;
    if (size_bytes <= 0 || vault_hash_is_unknown(&out->root))
        return err_set(e, ERR_CORRUPT, "a point's disk %s has %lld bytes or no root", id, (long long)size_bytes);
    out->size_bytes = (uint64_t)size_bytes;
    out->changed_bytes = (uint64_t)json_get_int(j, "changed_bytes", 0);
    return copy_text("disk", id, out->id, sizeof out->id, e);
}

static int parse_range(const json_t *j, struct vault_unreadable *u, struct err *e)
{
    const char *disk;
    int64_t first, count;

    if (json_need_string(j, "disk", &disk, e) < 0 || json_need_int(j, "first_sector", &first, e) < 0 || json_need_int(j, "sector_count", &count, e) < 0 ||
        copy_text("unreadable disk", disk, u->ranges[u->range_count].disk, sizeof u->ranges[0].disk, e) < 0)
        return -1;
    if (first < 0 || count < 1)
        return err_set(e, ERR_CORRUPT, "a point's unreadable sectors are %lld from %lld on", (long long)count, (long long)first);
    u->ranges[u->range_count].first_sector = (uint64_t)first;
    u->ranges[u->range_count++].sector_count = (uint64_t)count;
    return 0;
}

/* Of more ranges than this Slipway writes the first are kept. */
static int parse_unreadable(const json_t *j, struct vault_unreadable *out, struct err *e)
{
    json_t *ranges, *range;
    int64_t bytes;
    size_t i;

    if (!j)
        return 0;
    if (json_need_int(j, "bytes", &bytes, e) < 0 || json_need_array(j, "ranges", &ranges, e) < 0)
        return -1;
    if (bytes < 1)
        return err_set(e, ERR_CORRUPT, "a point's unreadable bytes are %lld", (long long)bytes);
    out->bytes = (uint64_t)bytes;
    json_array_foreach(ranges, i, range)
        if (i < VAULT_UNREADABLE_RANGES && parse_range(range, out, e) < 0)
            return -1;
    return 0;
}

static int parse_members(const json_t *j, struct vault_point *p, uint64_t *sequence, struct err *e)
{
    const char *format, *id, *server, *consistency;
    json_t *disks;
    int64_t version, number;

    if (json_need_string(j, "format", &format, e) < 0 || json_need_int(j, "version", &version, e) < 0)
        return -1;
    if (strcmp(format, "slipway-point") != 0 || version != 1)
        return err_set(e, ERR_UNSUPPORTED, "a point of format %.40s version %lld: this Slipway reads version 1", format,
                       (long long)version);
    if (json_need_string(j, "id", &id, e) < 0 || json_need_string(j, "server", &server, e) < 0 ||
        vault_name_check("server", server, e) < 0 || json_need_string(j, "consistency", &consistency, e) < 0 ||
        json_need_int(j, "sequence", &number, e) < 0 || json_need_int(j, "at_us", &p->at_us, e) < 0 ||
        json_need_array(j, "disks", &disks, e) < 0 || copy_text("id", id, p->id, sizeof p->id, e) < 0 ||
        copy_text("server", server, p->server, sizeof p->server, e) < 0 ||
        copy_text("consistency", consistency, p->consistency, sizeof p->consistency, e) < 0 ||
        copy_text("group", json_get_string(j, "group", ""), p->group, sizeof p->group, e) < 0)
        return -1;
    if (json_array_size(disks) == 0 || json_array_size(disks) > LIMIT_DISKS_PER_SERVER)
        return err_set(e, ERR_CORRUPT, "a point has %zu disks", json_array_size(disks));
    if (parse_unreadable(json_object_get(j, "unreadable"), &p->unreadable, e) < 0)
        return -1;
    p->freeze_ms = json_get_int(j, "freeze_ms", 0);
    p->bytes = (uint64_t)json_get_int(j, "bytes", 0);
    p->copied = json_get_bool(j, "copied", false);
    *sequence = (uint64_t)number;
    for (p->disk_count = 0; p->disk_count < json_array_size(disks); p->disk_count++)
        if (parse_disk(json_array_get(disks, p->disk_count), &p->disks[p->disk_count], e) < 0)
            return -1;
    return 0;
}

int point_parse(const char *text, size_t size, struct vault_point *out, uint64_t *sequence, struct err *e)
{
    CLEANUP(json_free) json_t *j = NULL;
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);

    if (json_read(text, size, &j, e) < 0 || parse_members(j, p, sequence, e) < 0)
        return err_wrap(e, "a point's document");
    *out = *p;
    return 0;
}

struct vault_hash grave_hash(const struct vault_hash *record, const char *id, uint8_t payload[static VAULT_HASH_SIZE + VAULT_POINT_ID_SIZE],
                             size_t *size)
{
    struct vault_hash hash;

    MUST(strlen(id) < VAULT_POINT_ID_SIZE);
    memcpy(payload, record->bytes, VAULT_HASH_SIZE);
    memcpy(payload + VAULT_HASH_SIZE, id, strlen(id));
    *size = VAULT_HASH_SIZE + strlen(id);
    vault_hash_of(payload, *size, &hash);
    return hash;
}

int grave_parse(const uint8_t *payload, size_t size, struct vault_hash *record, char id[static VAULT_POINT_ID_SIZE], struct err *e)
{
    size_t id_size = size - VAULT_HASH_SIZE;

    if (size <= VAULT_HASH_SIZE || id_size >= VAULT_POINT_ID_SIZE || memchr(payload + VAULT_HASH_SIZE, 0, id_size))
        return err_set(e, ERR_CORRUPT, "a grave of %zu bytes", size);
    memcpy(record->bytes, payload, VAULT_HASH_SIZE);
    memcpy(id, payload + VAULT_HASH_SIZE, id_size);
    id[id_size] = '\0';
    return 0;
}

/* ---- rows ---- */

#define ORDER_KEY_SIZE (LIMIT_NAME_BYTES + 16 + VAULT_POINT_ID_SIZE)

/* id: NULL, or that of a point whose number another one has, too: an earlier Slipway used one again after a commit that failed, and both documents may be there. */
static MDB_val order_key(const char *server, uint64_t sequence, const char *id, uint8_t bytes[static ORDER_KEY_SIZE])
{
    size_t size = strlen(server) + 1, id_size = id ? strlen(id) : 0;

    memcpy(bytes, server, size);
    for (int shift = 56; shift >= 0; shift -= 8)
        bytes[size++] = (uint8_t)(sequence >> shift);
    if (id_size)
        memcpy(bytes + size, id, id_size);
    return index_val(bytes, size + id_size);
}

/* 1: the number is another point's; 0: it is nobody's, or this one's; -1 */
static int order_taken(struct vault *v, MDB_txn *txn, const struct vault_point *p, uint64_t sequence, struct err *e)
{
    uint8_t key[ORDER_KEY_SIZE];
    MDB_val value;
    int found = index_get(&v->index, txn, INDEX_ORDER, order_key(p->server, sequence, NULL, key), &value, e);

    return found != 1 ? found : value.mv_size != strlen(p->id) || memcmp(value.mv_data, p->id, value.mv_size) != 0;
}

int point_insert(struct vault *v, MDB_txn *txn, const struct vault_point *p, uint64_t sequence, const char *text, struct err *e)
{
    uint8_t key[ORDER_KEY_SIZE];
    int taken = order_taken(v, txn, p, sequence, e);

    if (taken < 0 || index_put(&v->index, txn, INDEX_POINT, index_val(p->id, strlen(p->id)), index_val(text, strlen(text)), e) < 0)
        return -1;
    return index_put(&v->index, txn, INDEX_ORDER, order_key(p->server, sequence, taken ? p->id : NULL, key), index_val(p->id, strlen(p->id)), e);
}

static int point_row(struct vault *v, MDB_txn *txn, const char *id, struct vault_point *out, uint64_t *sequence, struct err *e)
{
    MDB_val value;
    int found;

    if (*id == '\0' || strlen(id) >= VAULT_POINT_ID_SIZE)
        return 0;
    found = index_get(&v->index, txn, INDEX_POINT, index_val(id, strlen(id)), &value, e);
    if (found == 1 && point_parse(value.mv_data, value.mv_size, out, sequence, e) < 0)
        return -1;
    return found;
}

int vault_point_get(struct vault *v, const char *point, struct vault_point *out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    uint64_t sequence;

    return index_begin(&v->index, false, &txn, e) < 0 ? -1 : point_row(v, txn, point, out, &sequence, e);
}

struct listing {
    char (*ids)[VAULT_POINT_ID_SIZE];
    size_t count;
};

static int collect_id(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct listing *l = user;

    (void)key;
    if (value.mv_size >= VAULT_POINT_ID_SIZE)
        return err_set(e, ERR_CORRUPT, "the vault's index has a point id of %zu bytes", value.mv_size);
    if ((l->count & (l->count + 1)) == 0)
        l->ids = xrealloc(l->ids, 2 * (l->count + 1) * sizeof *l->ids);
    memset(l->ids[l->count], 0, sizeof l->ids[0]);
    memcpy(l->ids[l->count++], value.mv_data, value.mv_size);
    return 0;
}

static void free_listing(struct listing *l) { free(l->ids); }

struct names {
    char (*list)[LIMIT_NAME_BYTES + 1];
    size_t count;
};

static void add_name(struct names *n, const char *name, size_t size)
{
    if (n->count && strncmp(n->list[n->count - 1], name, size) == 0 && !n->list[n->count - 1][size])
        return;
    if ((n->count & (n->count + 1)) == 0)
        n->list = xrealloc(n->list, 2 * (n->count + 1) * sizeof *n->list);
    memcpy(n->list[n->count], name, size);
    n->list[n->count++][size] = '\0';
}

static int collect_server(MDB_val key, MDB_val value, void *user, struct err *e)
{
    size_t size = strnlen(key.mv_data, key.mv_size);

    (void)value;
    if (size > LIMIT_NAME_BYTES)
        return err_set(e, ERR_CORRUPT, "the vault's index has a server's name of %zu bytes", size);
    add_name(user, key.mv_data, size);
    return 0;
}

static int by_text(const void *a, const void *b) { return strcmp(a, b); }

int vault_server_list(struct vault *v, char (**out)[LIMIT_NAME_BYTES + 1], struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    CLEANUP(free_ptr) struct vault_disk *disks = NULL;
    struct names n = {0};
    int disk_count = vault_disk_list(v, NULL, &disks, e), count = 0;

    if (disk_count < 0 || index_begin(&v->index, false, &txn, e) < 0 || index_each(&v->index, txn, INDEX_ORDER, index_val("", 0), collect_server, &n, e) < 0) {
        free(n.list);
        return -1;
    }
    for (int i = 0; i < disk_count; i++)
        add_name(&n, disks[i].server, strlen(disks[i].server));
    if (n.count)
        qsort(n.list, n.count, sizeof *n.list, by_text);
    for (size_t i = 0; i < n.count; i++)
        if (!count || strcmp(n.list[count - 1], n.list[i]) != 0)
            memmove(n.list[count++], n.list[i], sizeof *n.list);
    *out = n.list;
    return count;
}

int vault_point_list(struct vault *v, const char *server, size_t limit, struct vault_point **out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    CLEANUP(free_listing) struct listing l = {0};
    struct vault_point *list;
    uint64_t sequence;
    size_t count;

    if (vault_name_check("server", server, e) < 0 || index_begin(&v->index, false, &txn, e) < 0 ||
        index_each(&v->index, txn, INDEX_ORDER, index_val(server, strlen(server) + 1), collect_id, &l, e) < 0)
        return -1;
    count = limit && limit < l.count ? limit : l.count;
    list = xcalloc(count, sizeof *list);
    for (size_t i = 0; i < count; i++)
        if (point_row(v, txn, l.ids[l.count - 1 - i], &list[i], &sequence, e) != 1) {
            free(list);
            return err_wrap(e, "the vault's index lacks point %s", l.ids[l.count - 1 - i]);
        }
    *out = list;
    return (int)count;
}

/* ---- dropping ---- */

int point_remove(struct vault *v, MDB_txn *txn, const char *id, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    uint8_t key[ORDER_KEY_SIZE];
    uint64_t sequence;
    int found = point_pinned(v, txn, id, e), taken;

    if (found)
        return found < 0 ? -1 : 0;
    found = point_row(v, txn, id, p, &sequence, e);
    if (found != 1)
        return found;
    taken = order_taken(v, txn, p, sequence, e);
    if (taken < 0 || (!taken && index_del(&v->index, txn, INDEX_ORDER, order_key(p->server, sequence, NULL, key), e) < 0) ||
        index_del(&v->index, txn, INDEX_ORDER, order_key(p->server, sequence, p->id, key), e) < 0 ||
        index_del(&v->index, txn, INDEX_POINT, index_val(id, strlen(id)), e) < 0)
        return -1;
    return p->group[0] ? group_forget(v, txn, p->group, e) : 0;
}

/* The point's document lies there, in a segment that a rebuild would read: 1/0/-1. */
static int segment_of_record(struct vault *v, MDB_txn *txn, const struct vault_hash *hash, uint32_t *segment, struct err *e)
{
    struct chunk_place place;
    MDB_val value;
    int found = index_get(&v->index, txn, INDEX_CHUNK, index_val(hash, sizeof *hash), &value, e);

    if (found == 1 && value.mv_size != sizeof place)
        return err_set(e, ERR_CORRUPT, "the vault's index has a chunk row of %zu bytes", value.mv_size);
    if (found == 1) {
        memcpy(&place, value.mv_data, sizeof place);
        *segment = place.segment;
    }
    return found;
}

/* The grave's row is needed for as long as the point's record lies in a segment. */
static int drop_row(struct vault *v, MDB_txn *txn, const struct drop *d, struct err *e)
{
    uint32_t segment;
    int found = segment_of_record(v, txn, &d->record, &segment, e);
    struct vault_hash record;
    MDB_val text;

    if (found < 0 || (found == 1 && index_put(&v->index, txn, INDEX_GRAVE, index_val(&d->grave, sizeof d->grave), index_val(&segment, sizeof segment), e) < 0))
        return -1;
    found = index_get(&v->index, txn, INDEX_POINT, index_val(d->id, strlen(d->id)), &text, e);
    if (found != 1)
        return found;
    vault_hash_of(text.mv_data, text.mv_size, &record);
    return vault_hash_same(&record, &d->record) ? point_remove(v, txn, d->id, e) : 0; /* else a copy that came again, under the same id */
}

int drops_finish(struct vault *v, MDB_txn *txn, struct err *e)
{
    for (size_t i = 0; i < v->drop_count; i++)
        if (drop_row(v, txn, &v->drops[i], e) < 0)
            return -1;
    return 0;
}

void drop_begin(struct vault *v, const struct drop *d)
{
    v->drops = xrealloc(v->drops, (v->drop_count + 1) * sizeof *v->drops);
    v->drops[v->drop_count++] = *d;
}

static int drop_server_rows(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    const char *server = user;

    for (size_t i = 0; i < v->disk_count; i++) {
        struct work_key key = work_key_make(v->disks[i].number, 0);

        if (strcmp(v->disks[i].server, server) == 0 &&
            (index_del_prefix(&v->index, txn, INDEX_WORK, index_val(&key, 4), e) < 0 ||
             index_del_prefix(&v->index, txn, INDEX_DIRTY, index_val(&key, 4), e) < 0))
            return -1;
    }
    if (index_del(&v->index, txn, INDEX_FEED, index_val(server, strlen(server)), e) < 0)
        return -1;
    return index_del_prefix(&v->index, txn, INDEX_DISK, index_val(server, strlen(server) + 1), e);
}

/* The hash of the document of a point as it is in the index. */
static int record_of(struct vault *v, const char *id, struct vault_hash *out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    MDB_val text;
    int found;

    if (*id == '\0' || strlen(id) >= VAULT_POINT_ID_SIZE)
        return err_set(e, ERR_NOT_FOUND, "there is no such recovery point");
    if (index_begin(&v->index, false, &txn, e) < 0)
        return -1;
    found = index_get(&v->index, txn, INDEX_POINT, index_val(id, strlen(id)), &text, e);
    if (found == 1)
        vault_hash_of(text.mv_data, text.mv_size, out);
    return found == 1 ? 0 : found < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no recovery point %s", id);
}

/* Nothing is appended before all of them are known to be there, and pinned by nobody: a grave of a point that stays would bury it in a rebuild. */
static int find_all(struct vault *v, char (*ids)[VAULT_POINT_ID_SIZE], size_t count, struct vault_hash *records, struct err *e)
{
    for (size_t i = 0; i < count; i++) {
        int pinned = record_of(v, ids[i], &records[i], e) < 0 ? -1 : vault_point_pinned(v, ids[i], NULL, e);

        if (pinned)
            return pinned < 0 ? -1 : err_set(e, ERR_WRONG_STATE, "recovery point %s is pinned (a machine or a person reads it, or wants it kept): end that first",
                                             ids[i]);
    }
    return 0;
}

/* What has a grave is dropped for certain, though what follows should fail: the grave becomes durable with whatever is. */
static int add_graves(struct vault *v, char (*ids)[VAULT_POINT_ID_SIZE], size_t count, const struct vault_hash *records, struct err *e)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t payload[VAULT_HASH_SIZE + VAULT_POINT_ID_SIZE];
        struct drop d = {.record = records[i]};
        size_t size;

        memcpy(d.id, ids[i], sizeof d.id);
        d.grave = grave_hash(&d.record, d.id, payload, &size);
        if (record_add(v, RECORD_GRAVE, payload, size, &d.grave, NULL, e) < 0)
            return -1;
        drop_begin(v, &d);
    }
    return 0;
}

/* Those of a drop that failed go first. */
static int finish_before(struct vault *v, struct err *e) { return v->drop_count ? vault_flush(v, NULL, NULL, e) : 0; }

/* commit_lock held: pins change under it too. server: not NULL: its working maps go as well. */
static int drop_all(struct vault *v, char (*ids)[VAULT_POINT_ID_SIZE], size_t count, const char *server, struct err *e)
{
    CLEANUP(free_ptr) struct vault_hash *records = xcalloc(count, sizeof *records);

    if (finish_before(v, e) < 0 || find_all(v, ids, count, records, e) < 0)
        return -1;
    if (add_graves(v, ids, count, records, e) < 0 || vault_flush(v, server ? drop_server_rows : NULL, (void *)server, e) < 0)
        return v->drop_count ? err_wrap(e, "dropping recovery points (they go with what is written next)") : -1;
    return server ? disks_load(v, e) : 0;
}

int points_drop(struct vault *v, char (*ids)[VAULT_POINT_ID_SIZE], size_t count, struct err *e)
{
    int r;

    use_begin(v);
    pthread_mutex_lock(&v->commit_lock);
    r = drop_all(v, ids, count, NULL, e);
    pthread_mutex_unlock(&v->commit_lock);
    use_end(v);
    return r;
}

int vault_point_drop(struct vault *v, const char *point, struct err *e)
{
    char ids[1][VAULT_POINT_ID_SIZE] = {0};

    if (strlen(point) >= sizeof ids[0])
        return err_set(e, ERR_NOT_FOUND, "there is no such recovery point");
    snprintf(ids[0], sizeof ids[0], "%s", point);
    return points_drop(v, ids, 1, e);
}

/* commit_lock held: no point of it comes meanwhile. */
static int drop_server(struct vault *v, const char *server, struct err *e)
{
    CLEANUP(free_listing) struct listing l = {0};
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    if (finish_before(v, e) < 0 || index_begin(&v->index, false, &txn, e) < 0 ||
        index_each(&v->index, txn, INDEX_ORDER, index_val(server, strlen(server) + 1), collect_id, &l, e) < 0)
        return -1;
    index_abort(&txn);
    return drop_all(v, l.ids, l.count, server, e);
}

int vault_server_drop(struct vault *v, const char *server, struct err *e)
{
    int r;

    if (vault_name_check("server", server, e) < 0)
        return -1;
    use_begin(v);
    pthread_mutex_lock(&v->commit_lock);
    r = drop_server(v, server, e);
    pthread_mutex_unlock(&v->commit_lock);
    use_end(v);
    return r < 0 ? -1 : current_seal(v, e);
}
