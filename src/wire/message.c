/* The JSON messages: one table of fields for each struct, one encoder and one decoder for all. Members that the table doesn't name are
 * ignored, so that a later version may add some; members that it names must be there (but for those that an older version doesn't say: 0 then), of their
 * type and within their bounds. */
#include "wire/wire.h"

#include "base/json.h"

#include <string.h>

enum field_type { FIELD_INT, FIELD_BOOL, FIELD_TEXT, FIELD_CONSISTENCY, FIELD_HASH, FIELD_LIST, FIELD_END };

struct field {
    const char *name;
    enum field_type type;
    size_t offset;
    size_t size;             /* TEXT: of the array. LIST: of an item */
    int64_t least, most;     /* INT. LIST: most is the count's bound */
    bool may_lack;           /* it is 0 then */
    const struct field *item; /* LIST */
    size_t count_offset;     /* LIST: where its int64_t count is */
};

#define INT(owner, member, lo, hi) {.name = #member, .type = FIELD_INT, .offset = offsetof(struct owner, member), .least = (lo), .most = (hi)}
#define INT_LATER(owner, member, lo, hi) \
    {.name = #member, .type = FIELD_INT, .offset = offsetof(struct owner, member), .least = (lo), .most = (hi), .may_lack = true}
#define BOOL(owner, member) {.name = #member, .type = FIELD_BOOL, .offset = offsetof(struct owner, member)}
#define TEXT(owner, member) \
    {.name = #member, .type = FIELD_TEXT, .offset = offsetof(struct owner, member), .size = sizeof ((struct owner *)0)->member}
#define CONSISTENCY(owner, member) {.name = #member, .type = FIELD_CONSISTENCY, .offset = offsetof(struct owner, member)}
#define HASH(owner, member) {.name = #member, .type = FIELD_HASH, .offset = offsetof(struct owner, member)}
#define LIST_OF(owner, member, count, items, may_be_missing) \
    {.name = #member, .type = FIELD_LIST, .offset = offsetof(struct owner, member), .size = sizeof ((struct owner *)0)->member[0], \
     .most = ARRAY_COUNT(((struct owner *)0)->member), .item = (items), .count_offset = offsetof(struct owner, count), .may_lack = (may_be_missing)}
#define LIST(owner, member, count, items) LIST_OF(owner, member, count, items, false)
#define LIST_LATER(owner, member, count, items) LIST_OF(owner, member, count, items, true)
#define DISKS(owner, items) LIST(owner, disks, disk_count, items)
#define END {.type = FIELD_END}

#define REQUEST_MOST INT64_MAX
#define MS_MOST (INT64_C(100) * 365 * 86400 * 1000)
#define BYTES_MOST (INT64_C(1) << 60)
#define CHUNKS_MOST (INT64_C(1) << 32)
/* Where the offers of a way back begin. */
#define FROM(owner) INT_LATER(owner, from_disk, 0, LIMIT_DISKS_PER_SERVER - 1), INT_LATER(owner, from_chunk, 0, CHUNKS_MOST - 1)

static const struct field disk_fields[] = {TEXT(wire_disk, id), TEXT(wire_disk, name),
                                           INT(wire_disk, size_bytes, 1, WIRE_DISK_LIMIT_BYTES), END};
static const struct field hello_fields[] = {
    INT(wire_hello, version, 1, 65535), TEXT(wire_hello, agent_version), TEXT(wire_hello, server), TEXT(wire_hello, boot_id),
    TEXT(wire_hello, tracker), TEXT(wire_hello, epoch), DISKS(wire_hello, disk_fields), END};
static const struct field welcome_disk_fields[] = {TEXT(wire_welcome_disk, id), BOOL(wire_welcome_disk, whole),
                                                   INT(wire_welcome_disk, chunks_known, 0, CHUNKS_MOST),
                                                   TEXT(wire_welcome_disk, point), END};
static const struct field welcome_fields[] = {
    INT(wire_welcome, version, 1, 65535), TEXT(wire_welcome, replicator), TEXT(wire_welcome, epoch),
    INT(wire_welcome, applied, 0, INT64_MAX), INT(wire_welcome, window_offers, 1, 65536),
    INT(wire_welcome, limit_bytes_per_s, 0, BYTES_MOST), DISKS(wire_welcome, welcome_disk_fields), END};
static const struct field restore_disk_fields[] = {TEXT(wire_restore_disk, id), END};
static const struct field restore_fields[] = {INT(wire_restore, version, 1, 65535), TEXT(wire_restore, agent_version), TEXT(wire_restore, server),
                                              TEXT(wire_restore, point), DISKS(wire_restore, restore_disk_fields), FROM(wire_restore), END};
static const struct field restoring_fields[] = {INT(wire_restoring, version, 1, 65535), TEXT(wire_restoring, replicator), TEXT(wire_restoring, point),
                                                INT(wire_restoring, at_us, 0, INT64_MAX), DISKS(wire_restoring, disk_fields), FROM(wire_restoring), END};
static const struct field rescue_fields[] = {INT(wire_rescue, version, 1, 65535), TEXT(wire_rescue, agent_version), TEXT(wire_rescue, server),
                                             TEXT(wire_rescue, point), TEXT(wire_rescue, state), TEXT(wire_rescue, message), END};
static const struct field take_point_fields[] = {
    INT(wire_take_point, request, 1, REQUEST_MOST), CONSISTENCY(wire_take_point, consistency), BOOL(wire_take_point, hold),
    INT(wire_take_point, timeout_ms, 1, MS_MOST), INT(wire_take_point, freeze_budget_ms, 0, MS_MOST),
    INT(wire_take_point, hold_limit_ms, 0, MS_MOST), BOOL(wire_take_point, group), INT_LATER(wire_take_point, hope_ms, 0, MS_MOST), END};
static const struct field range_fields[] = {INT(wire_range, disk, 0, LIMIT_DISKS_PER_SERVER - 1),
                                            INT(wire_range, first_sector, 0, WIRE_DISK_LIMIT_BYTES / WIRE_SECTOR_SIZE),
                                            INT(wire_range, sector_count, 1, WIRE_DISK_LIMIT_BYTES / WIRE_SECTOR_SIZE), END};
static const struct field point_fields[] = {
    INT(wire_point, request, 1, REQUEST_MOST), CONSISTENCY(wire_point, consistency), INT(wire_point, at_us, 0, INT64_MAX),
    INT(wire_point, freeze_ms, 0, MS_MOST), BOOL(wire_point, held), INT(wire_point, attempts, 0, INT32_MAX),
    BOOL(wire_point, group), INT(wire_point, unreadable_bytes, 0, BYTES_MOST), LIST(wire_point, ranges, range_count, range_fields), END};
static const struct field copy_fields[] = {INT(wire_copy, version, 1, 65535), TEXT(wire_copy, replicator), TEXT(wire_copy, server), END};
static const struct field copying_fields[] = {INT(wire_copying, version, 1, 65535), TEXT(wire_copying, replicator), TEXT(wire_copying, point),
                                              BOOL(wire_copying, exact), TEXT(wire_copying, epoch), INT(wire_copying, window_offers, 1, 65536), END};
static const struct field member_fields[] = {TEXT(wire_member, point), TEXT(wire_member, server), END};
static const struct field copy_point_fields[] = {
    INT(wire_copy_point, request, 1, REQUEST_MOST), TEXT(wire_copy_point, epoch), TEXT(wire_copy_point, point), TEXT(wire_copy_point, base),
    INT(wire_copy_point, at_us, 1, INT64_MAX), CONSISTENCY(wire_copy_point, consistency), INT(wire_copy_point, freeze_ms, 0, MS_MOST),
    INT(wire_copy_point, unreadable_bytes, 0, BYTES_MOST), LIST(wire_copy_point, ranges, range_count, range_fields), TEXT(wire_copy_point, group),
    TEXT(wire_copy_point, group_name), INT(wire_copy_point, group_at_us, 0, INT64_MAX), INT(wire_copy_point, group_window_us, 0, INT64_MAX),
    LIST(wire_copy_point, members, member_count, member_fields), DISKS(wire_copy_point, disk_fields), END};
static const struct field pin_fields[] = {TEXT(wire_pin, point), TEXT(wire_pin, reason), END};
static const struct field copy_pins_fields[] = {INT(wire_copy_pins, request, 1, REQUEST_MOST), LIST(wire_copy_pins, pins, pin_count, pin_fields),
                                                LIST_LATER(wire_copy_pins, ended, ended_count, pin_fields), END};
static const struct field copy_pinned_fields[] = {INT(wire_copy_pinned, request, 1, REQUEST_MOST), INT(wire_copy_pinned, value, 0, WIRE_PINS_MOST),
                                                  LIST_LATER(wire_copy_pinned, unsaid, unsaid_count, pin_fields), END};
static const struct field point_done_fields[] = {INT(wire_point_done, request, 1, REQUEST_MOST), TEXT(wire_point_done, point), END};
static const struct field failure_fields[] = {INT(wire_failure, request, 0, REQUEST_MOST), TEXT(wire_failure, kind),
                                              TEXT(wire_failure, message), END};
static const struct field simple_fields[] = {INT(wire_simple, request, 0, REQUEST_MOST), INT(wire_simple, value, 0, BYTES_MOST), END};
static const struct field move_fields[] = {INT(wire_move, request, 0, REQUEST_MOST), TEXT(wire_move, replicator), TEXT(wire_move, address),
                                           INT(wire_move, port, 1, 65535), END};
static const struct field limit_fields[] = {INT(wire_limit, request, 0, REQUEST_MOST), INT(wire_limit, value, 0, BYTES_MOST),
                                            INT(wire_limit, read_bytes_per_s, 0, BYTES_MOST),
                                            INT(wire_limit, cpu_percent, 0, 1000000), END};
static const struct field thawed_fields[] = {INT(wire_thawed, request, 0, REQUEST_MOST), BOOL(wire_thawed, was_held),
                                             BOOL(wire_thawed, still), INT(wire_thawed, held_ms, 0, MS_MOST), END};
static const struct field hash_disk_fields[] = {TEXT(wire_hash_disk, id), INT_LATER(wire_hash_disk, from_chunk, 0, CHUNKS_MOST), END};
static const struct field hash_fields[] = {INT(wire_hash, request, 1, REQUEST_MOST), INT_LATER(wire_hash, run, 0, INT64_MAX),
                                           DISKS(wire_hash, hash_disk_fields), END};
static const struct field hashed_disk_fields[] = {TEXT(wire_hashed_disk, id),
                                                  INT(wire_hashed_disk, size_bytes, 1, WIRE_DISK_LIMIT_BYTES),
                                                  HASH(wire_hashed_disk, sha256), END};
static const struct field hash_done_fields[] = {INT(wire_hash_done, request, 1, REQUEST_MOST), BOOL(wire_hash_done, still),
                                                DISKS(wire_hash_done, hashed_disk_fields), END};
static const struct field status_fields[] = {
    TEXT(wire_status, state), TEXT(wire_status, tracker), INT(wire_status, bytes_total, 0, BYTES_MOST),
    INT(wire_status, bytes_read, 0, INT64_MAX), INT(wire_status, bytes_sent, 0, INT64_MAX),
    INT(wire_status, bytes_done, 0, BYTES_MOST), INT(wire_status, backlog_bytes, 0, BYTES_MOST),
    INT(wire_status, lag_ms, 0, MS_MOST), INT(wire_status, eta_ms, -2, MS_MOST), INT(wire_status, rate_bytes_per_s, -1, BYTES_MOST),
    INT(wire_status, churn_bytes_per_s, -1, BYTES_MOST), INT(wire_status, limit_bytes_per_s, 0, BYTES_MOST),
    TEXT(wire_status, bottleneck), INT(wire_status, source_latency_us, 0, MS_MOST),
    INT(wire_status, source_latency_without_us, 0, MS_MOST), INT(wire_status, source_latency_with_us, 0, MS_MOST),
    INT(wire_status, backoff_bytes_per_s, 0, BYTES_MOST), BOOL(wire_status, held), TEXT(wire_status, tracker_reason),
    INT(wire_status, rescan_interval_s, 0, MS_MOST), TEXT(wire_status, note_kind), TEXT(wire_status, note),
    INT(wire_status, unreadable_bytes, 0, BYTES_MOST), TEXT(wire_status, unreadable), TEXT(wire_status, error_kind), TEXT(wire_status, error),
    INT_LATER(wire_status, scan_ms, 0, MS_MOST), END};

static const struct shape {
    unsigned type;
    size_t size;
    const struct field *fields;
} shapes[] = {
    {WIRE_HELLO, sizeof(struct wire_hello), hello_fields},
    {WIRE_WELCOME, sizeof(struct wire_welcome), welcome_fields},
    {WIRE_RESTORE, sizeof(struct wire_restore), restore_fields},
    {WIRE_RESTORING, sizeof(struct wire_restoring), restoring_fields},
    {WIRE_RESCUE, sizeof(struct wire_rescue), rescue_fields},
    {WIRE_HEARD, sizeof(struct wire_simple), simple_fields},
    {WIRE_POINT_BEGIN, sizeof(struct wire_point), point_fields},
    {WIRE_POINT_COMMIT, sizeof(struct wire_point), point_fields},
    {WIRE_POINT_DONE, sizeof(struct wire_point_done), point_done_fields},
    {WIRE_POINT_FAILED, sizeof(struct wire_failure), failure_fields},
    {WIRE_TAKE_POINT, sizeof(struct wire_take_point), take_point_fields},
    {WIRE_THAW, sizeof(struct wire_simple), simple_fields},
    {WIRE_THAWED, sizeof(struct wire_thawed), thawed_fields},
    {WIRE_HASH, sizeof(struct wire_hash), hash_fields},
    {WIRE_HASH_DONE, sizeof(struct wire_hash_done), hash_done_fields},
    {WIRE_HASH_FAILED, sizeof(struct wire_failure), failure_fields},
    {WIRE_STATUS, sizeof(struct wire_status), status_fields},
    {WIRE_PAUSE, sizeof(struct wire_simple), simple_fields},
    {WIRE_RESUME, sizeof(struct wire_simple), simple_fields},
    {WIRE_LIMIT, sizeof(struct wire_limit), limit_fields},
    {WIRE_DETACH, sizeof(struct wire_simple), simple_fields},
    {WIRE_MOVE, sizeof(struct wire_move), move_fields},
    {WIRE_MOVE_FAILED, sizeof(struct wire_failure), failure_fields},
    {WIRE_COPY, sizeof(struct wire_copy), copy_fields},
    {WIRE_COPY_POINT, sizeof(struct wire_copy_point), copy_point_fields},
    {WIRE_COPY_COMMIT, sizeof(struct wire_simple), simple_fields},
    {WIRE_COPY_PINS, sizeof(struct wire_copy_pins), copy_pins_fields},
    {WIRE_COPY_DROP, sizeof(struct wire_simple), simple_fields},
    {WIRE_COPYING, sizeof(struct wire_copying), copying_fields},
    {WIRE_COPY_GO, sizeof(struct wire_simple), simple_fields},
    {WIRE_COPY_WAITS, sizeof(struct wire_failure), failure_fields},
    {WIRE_COPY_PINNED, sizeof(struct wire_copy_pinned), copy_pinned_fields},
    {WIRE_COPY_DROPPED, sizeof(struct wire_simple), simple_fields},
    {WIRE_PING, sizeof(struct wire_simple), simple_fields},
    {WIRE_PONG, sizeof(struct wire_simple), simple_fields},
    {WIRE_BYE, sizeof(struct wire_failure), failure_fields},
    {WIRE_POINT_AT, sizeof(struct wire_simple), simple_fields},
    {WIRE_POINT_GO, sizeof(struct wire_simple), simple_fields},
    {WIRE_REFUSE, sizeof(struct wire_failure), failure_fields},
};

static const struct shape *shape_of(unsigned type, size_t message_size)
{
    for (size_t i = 0; i < ARRAY_COUNT(shapes); i++)
        if (shapes[i].type == type) {
            MUST(shapes[i].size == message_size);
            return &shapes[i];
        }
    must_failed("a JSON message's type", __FILE__, __LINE__);
}

static const char *const consistencies[] = {[WIRE_ANY] = "any", [WIRE_CRASH] = "crash", [WIRE_FROZEN] = "frozen",
                                            [WIRE_APPLICATION] = "application"};

enum err_kind wire_failure_kind(const struct wire_failure *f)
{
    enum err_kind kind = err_kind_named(f->kind);

    return kind != ERR_NONE ? kind : ERR_PROTOCOL;
}

const char *wire_consistency_name(int64_t consistency)
{
    MUST(consistency >= WIRE_ANY && consistency <= WIRE_APPLICATION);
    return consistencies[consistency];
}

static json_t *pack(const struct field *fields, const char *base);

/* How many bytes of UTF-8 its first letter has; 0: they are none. */
static size_t letter_size(const char *text)
{
    for (size_t size = 1; size <= 4 && text[size - 1]; size++) {
        CLEANUP(json_free) json_t *letter = json_stringn(text, size);

        if (letter)
            return size;
    }
    return 0;
}

/* A message may have been cut in the midst of a letter, or have a program's words in another encoding: each byte that is no UTF-8 becomes a '?'. */
static json_t *pack_text(const char *text)
{
    CLEANUP(free_ptr) char *mended = NULL;
    json_t *value = json_string(text);
    size_t size;

    if (value)
        return value;
    mended = xstrdup(text);
    for (char *at = mended; *at; at += size ? size : 1)
        if ((size = letter_size(at)) == 0)
            *at = '?';
    return json_string(mended);
}

static json_t *pack_field(const struct field *f, const char *base)
{
    const char *at = base + f->offset;
    char hex[HASH_SHA256_HEX_SIZE];
    json_t *list;

    switch (f->type) {
    case FIELD_INT: return json_integer(*(const int64_t *)at);
    case FIELD_BOOL: return json_boolean(*(const bool *)at);
    case FIELD_TEXT: return pack_text(at);
    case FIELD_CONSISTENCY: return json_string(wire_consistency_name(*(const int64_t *)at));
    case FIELD_HASH: return json_string(hash_hex(at, HASH_SHA256_SIZE, hex));
    case FIELD_LIST:
        list = json_array();
        MUST(*(const int64_t *)(base + f->count_offset) <= f->most);
        for (int64_t i = 0; i < *(const int64_t *)(base + f->count_offset); i++)
            json_array_append_new(list, pack(f->item, at + (size_t)i * f->size));
        return list;
    case FIELD_END: break;
    }
    must_failed("a field's type", __FILE__, __LINE__);
}

static json_t *pack(const struct field *fields, const char *base)
{
    json_t *object = json_object();

    for (const struct field *f = fields; f->type != FIELD_END; f++)
        MUST(json_object_set_new(object, f->name, pack_field(f, base)) == 0);
    return object;
}

void wire_json_encode(unsigned type, const void *message, size_t message_size, struct buf *out)
{
    CLEANUP(json_free) json_t *object = pack(shape_of(type, message_size)->fields, message);
    CLEANUP(free_ptr) char *text = json_text(object);

    MUST(buf_puts(out, text) == 0);
}

static int unpack(const struct field *fields, const json_t *object, char *base, struct err *e);

static int unpack_int(const struct field *f, const json_t *value, char *at, struct err *e)
{
    if (!json_is_integer(value))
        return err_set(e, ERR_PROTOCOL, "%s is no integer", f->name);
    if (json_integer_value(value) < f->least || json_integer_value(value) > f->most)
        return err_set(e, ERR_PROTOCOL, "%s is %lld; it must be %lld to %lld", f->name, (long long)json_integer_value(value),
                       (long long)f->least, (long long)f->most);
    *(int64_t *)at = json_integer_value(value);
    return 0;
}

static int unpack_text(const struct field *f, const json_t *value, char *at, struct err *e)
{
    if (!json_is_string(value) || json_string_length(value) >= f->size || strlen(json_string_value(value)) != json_string_length(value))
        return err_set(e, ERR_PROTOCOL, "%s is no text of less than %zu bytes", f->name, f->size);
    memcpy(at, json_string_value(value), json_string_length(value) + 1);
    return 0;
}

static int unpack_consistency(const struct field *f, const json_t *value, char *at, struct err *e)
{
    for (int i = 0; json_is_string(value) && i < (int)ARRAY_COUNT(consistencies); i++)
        if (strcmp(json_string_value(value), consistencies[i]) == 0) {
            *(int64_t *)at = i;
            return 0;
        }
    return err_set(e, ERR_PROTOCOL, "%s is none of any, crash, frozen, application", f->name);
}

static int unpack_list(const struct field *f, const json_t *value, char *base, struct err *e)
{
    if (!json_is_array(value) || json_array_size(value) > (size_t)f->most)
        return err_set(e, ERR_PROTOCOL, "%s is no list of at most %lld", f->name, (long long)f->most);
    for (size_t i = 0; i < json_array_size(value); i++)
        if (unpack(f->item, json_array_get(value, i), base + f->offset + i * f->size, e) < 0)
            return err_wrap(e, "%s[%zu]", f->name, i);
    *(int64_t *)(base + f->count_offset) = (int64_t)json_array_size(value);
    return 0;
}

static int unpack_field(const struct field *f, const json_t *value, char *base, struct err *e)
{
    char *at = base + f->offset;

    if (!value)
        return f->may_lack ? 0 : err_set(e, ERR_PROTOCOL, "%s is missing", f->name);
    switch (f->type) {
    case FIELD_INT: return unpack_int(f, value, at, e);
    case FIELD_BOOL:
        if (!json_is_boolean(value))
            return err_set(e, ERR_PROTOCOL, "%s is no boolean", f->name);
        *(bool *)at = json_boolean_value(value);
        return 0;
    case FIELD_TEXT: return unpack_text(f, value, at, e);
    case FIELD_CONSISTENCY: return unpack_consistency(f, value, at, e);
    case FIELD_HASH:
        if (!json_is_string(value) || hash_unhex(json_string_value(value), at, HASH_SHA256_SIZE, NULL) < 0)
            return err_set(e, ERR_PROTOCOL, "%s is no SHA-256", f->name);
        return 0;
    case FIELD_LIST: return unpack_list(f, value, base, e);
    case FIELD_END: break;
    }
    must_failed("a field's type", __FILE__, __LINE__);
}

static int unpack(const struct field *fields, const json_t *object, char *base, struct err *e)
{
    if (!json_is_object(object))
        return err_set(e, ERR_PROTOCOL, "not an object");
    for (const struct field *f = fields; f->type != FIELD_END; f++)
        if (unpack_field(f, json_object_get(object, f->name), base, e) < 0)
            return -1;
    return 0;
}

int wire_json_decode(unsigned type, const void *payload, size_t size, void *message, size_t message_size, struct err *e)
{
    const struct shape *shape = shape_of(type, message_size);
    CLEANUP(json_free) json_t *object = NULL;
    CLEANUP(free_ptr) char *found = xcalloc(1, shape->size);

    if (json_read(payload, size, &object, e) < 0 || unpack(shape->fields, object, found, e) < 0) {
        if (e)
            e->kind = ERR_PROTOCOL;
        return err_wrap(e, "%s", wire_type_name(type));
    }
    memcpy(message, found, shape->size);
    return 0;
}
