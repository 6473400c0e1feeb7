/* What a source machine printed when it was looked at (steps/scripts/facts.sh): taken as facts, or refused; never more than the bounds say,
 * each number a number or -1, each disk with a name to go by. */
#include "steps/facts.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void numbers_hold(const json_t *list, const char *member)
{
    const json_t *item;
    size_t i;

    json_array_foreach(list, i, item)
        MUST(json_get_int(item, member, -2) >= -1);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const lists[] = {"disks", "mounts", "swaps", "listening", "nics", "failed_units"};
    CLEANUP(json_free) json_t *facts = NULL, *seen = NULL;
    CLEANUP(free_ptr) char *text = NULL, *more = NULL;
    struct err e = {0};
    const char *cidr = NULL, *key;
    const json_t *disk;
    json_t *value;
    size_t i;

    if (facts_parse((const char *)bytes, size, &facts, &seen, &e) < 0) {
        MUST(e.kind == ERR_PROTOCOL && !facts && !seen);
        return 0;
    }
    for (i = 0; i < ARRAY_COUNT(lists); i++) {
        MUST(json_is_array(json_object_get(facts, lists[i])));
        MUST(json_array_size(json_object_get(facts, lists[i])) <= FACTS_LIST_MOST);
    }
    json_array_foreach(json_object_get(facts, "disks"), i, disk)
        MUST(*json_get_string(disk, "id", "") && *json_get_string(disk, "driver", "") && !json_object_get(disk, "place"));
    numbers_hold(json_object_get(facts, "disks"), "size_bytes");
    numbers_hold(json_object_get(facts, "swaps"), "size_bytes");
    MUST(json_get_int(facts, "memory_bytes", -1) >= -1 && json_get_int(seen, "memory_available_bytes", -1) >= -1);
    json_object_foreach(json_object_get(seen, "free"), key, value)
        MUST(json_integer_value(value) >= -1);
    text = json_text(facts); /* what was taken is text for JSON */
    more = json_text(seen);
    MUST(!facts_nic_of(facts, "192.0.2.11", &cidr) || cidr);
    return 0;
}
