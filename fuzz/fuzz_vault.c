/* The first byte names what the rest is: a segment (header and records), a map node, a point's document, a grave, NBD options and requests,
 * a group's document, the pins as they lie in a bucket. */
#include "vault/bucket_private.h"
#include "vault/internal.h"
#include "vault/nbd_proto.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static int look_at(const struct record *r, uint64_t offset, const uint8_t *stored, void *user, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *raw = xmalloc(r->raw_size), *payload = xmalloc(r->stored_size);
    struct record opened = *r;

    (void)e;
    MUST(offset % 8 == 0 && offset >= SEGMENT_HEADER_SIZE && r->raw_size <= RECORD_RAW_LIMIT);
    memcpy(payload, stored, r->stored_size);
    if (seal_open_record(user, 1, &opened, payload, NULL) == 0)
        (void)record_unpack(&opened, payload, NULL, raw, NULL);
    return 0;
}

static void try_segment(const uint8_t *bytes, size_t size)
{
    CLEANUP(close_fd) int fd = memfd_create("segment", MFD_CLOEXEC);
    struct segment_state state;
    static struct seal *seal; /* for all runs */

    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
        return;
    if (!seal)
        MUST(seal_new((const uint8_t[VAULT_ID_SIZE]){1}, &(struct vault_key){{2}}, false, 1, &seal, NULL) == 0);
    if (segment_scan(fd, 0, look_at, seal, &state, NULL) == 0)
        MUST(state.end <= size && !(state.sealed && state.torn));
}

static void try_node(const uint8_t *bytes, size_t size)
{
    struct tree_node n;

    if (tree_node_parse(bytes, size, &n, NULL) == 0)
        MUST(memcmp(&n, bytes, size) == 0);
}

static void try_point(const uint8_t *bytes, size_t size)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p), *again = xcalloc(1, sizeof *again);
    CLEANUP(free_ptr) char *text = NULL;
    uint64_t sequence, second;

    if (point_parse((const char *)bytes, size, p, &sequence, NULL) < 0)
        return;
    MUST(p->disk_count >= 1 && p->disk_count <= LIMIT_DISKS_PER_SERVER);
    text = point_text(p, sequence);
    MUST(point_parse(text, strlen(text), again, &second, NULL) == 0 && second == sequence && memcmp(p, again, sizeof *p) == 0);
}

static void try_group(const uint8_t *bytes, size_t size)
{
    CLEANUP(free_ptr) struct vault_group *g = xcalloc(1, sizeof *g), *again = xcalloc(1, sizeof *again);
    CLEANUP(free_ptr) char *text = NULL;

    if (group_parse((const char *)bytes, size, g, NULL) < 0)
        return;
    MUST(g->count >= 1 && g->count <= VAULT_GROUP_MOST);
    text = group_text(g);
    MUST(group_parse(text, strlen(text), again, NULL) == 0 && memcmp(g, again, sizeof *g) == 0);
}

static void try_grave(const uint8_t *bytes, size_t size)
{
    char id[VAULT_POINT_ID_SIZE];
    struct vault_hash record;

    (void)grave_parse(bytes, size, &record, id, NULL);
}

static void try_pins(const uint8_t *bytes, size_t size)
{
    CLEANUP(free_ptr) uint8_t *object = xmalloc(size + 1);
    CLEANUP(buf_release) struct buf text = {.limit_bytes = PINS_LIMIT}, given = {.limit_bytes = PINS_LIMIT};
    CLEANUP(json_free) json_t *pins = NULL;
    const uint8_t id[VAULT_ID_SIZE] = {0};

    memcpy(object, bytes, size);
    if (bucket_pins_unpack(NULL, object, size, &text, NULL) < 0)
        MUST(buf_add(&given, bytes, size) == 0);
    if (pins_parse(id, given.size_bytes ? &given : &text, &pins, NULL) == 0)
        MUST(json_is_array(pins));
}

static void try_nbd(const uint8_t *bytes, size_t size)
{
    char name[NBD_NAME_LIMIT + 1], point[VAULT_DISK_ID_SIZE], disk[VAULT_DISK_ID_SIZE];
    struct nbd_option_header h;
    struct nbd_request q;
    bool wants;

    if (nbd_go_decode(bytes, size, name, &wants, NULL) == 0)
        (void)nbd_export_split(name, point, disk, sizeof disk, NULL);
    (void)nbd_meta_decode(bytes, size, true, name, &wants, NULL);
    (void)nbd_meta_decode(bytes, size, false, name, &wants, NULL);
    if (size >= NBD_REQUEST_SIZE)
        (void)nbd_request_decode(bytes, &q, NULL);
    if (size >= NBD_OPTION_HEADER_SIZE)
        (void)nbd_option_decode(bytes, &h, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static void (*const tries[])(const uint8_t *bytes, size_t size) = {try_segment, try_node, try_point, try_grave, try_nbd, try_group, try_pins};

    if (size == 0 || size > 4u << 20)
        return 0;
    tries[bytes[0] % ARRAY_COUNT(tries)](bytes + 1, size - 1);
    return 0;
}
