/* compare: the proof: every block of the source, which is still as it was at the cutover point, against the same point read through
 * the export that the instance boots from. Both hashes are computed now. After it the source may go on (it serves nobody). */
#include "steps/control.h"

#include <inttypes.h>
#include <string.h>

#define COMPARE_TIMEOUT_MS (12 * 3600 * 1000)
#define SHA256_TEXT_SIZE 64

static bool is_sha256(const char *text) { return strlen(text) == SHA256_TEXT_SIZE && strspn(text, "0123456789abcdef") == SHA256_TEXT_SIZE; }

/* One disk's line; whether it holds. */
static int judge(struct step *s, const json_t *disk, bool *same, struct err *e)
{
    const char *id, *source, *target;
    int64_t size_bytes, compared_bytes, differing;
    bool still, hashed;

    if (json_need_string(disk, "id", &id, e) < 0 || json_need_string(disk, "source_sha256", &source, e) < 0 || json_need_string(disk, "target_sha256", &target, e) < 0 ||
        json_need_int(disk, "size_bytes", &size_bytes, e) < 0 || json_need_int(disk, "bytes_compared", &compared_bytes, e) < 0 ||
        json_need_int(disk, "blocks_differing", &differing, e) < 0)
        return err_wrap(e, "the comparison");
    still = json_get_bool(disk, "still", false);
    hashed = is_sha256(source) && is_sha256(target) && size_bytes > 0;
    *same = hashed && still && compared_bytes == size_bytes && differing == 0 && strcmp(source, target) == 0;
    step_evidence(s, id, *same, "%" PRId64 " of %" PRId64 " bytes compared, %" PRId64 " blocks differ, the source %s; source %s, copy %s", compared_bytes, size_bytes,
                  differing, still ? "was still" : "HAS CHANGED since the point", source, target);
    return 0;
}

/* Every disk of the cutover point must be among those that were compared. */
static int covers(const struct step *s, const json_t *disks, struct err *e)
{
    const json_t *wanted = step_json(s, "context.final_sync.disks"), *disk;
    size_t i;

    if (json_array_size(wanted) == 0)
        return err_set(e, ERR_WRONG_STATE, "the cutover point's disks are not known");
    json_array_foreach(wanted, i, disk) {
        const char *id = json_get_string(disk, "id", "");

        if (!json_find(disks, "id", id))
            return err_set(e, ERR_PROTOCOL, "the disk %s of the cutover point was not compared", id);
    }
    return 0;
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    const char *server, *point;
    json_t *disks, *disk;
    size_t i;
    bool all_same = true;

    if (step_need_string(s, "server.name", &server, e) < 0 || step_need_string(s, "context.final_sync.point", &point, e) < 0 ||
        control_ask_agent(s, json_pack("{s:s, s:s, s:s}", "verb", "compare", "server", server, "point", point), COMPARE_TIMEOUT_MS,
                    "every block, on the source and in the copy", &answer, e) < 0 || control_point_whole(s, json_object_get(answer, "point"), e) < 0 ||
        json_need_array(answer, "disks", &disks, e) < 0 || covers(s, disks, e) < 0)
        return -1;
    json_array_foreach(disks, i, disk) {
        bool same = false;

        if (judge(s, disk, &same, e) < 0)
            return -1;
        all_same = all_same && same;
    }
    step_result(s, "disks", json_incref(disks));
    step_result(s, "point", json_string(point));
    if (!all_same)
        return err_set(e, ERR_CORRUPT, "the source and the copy of %s are not the same at the cutover point; take the server back and look at the evidence", server);
    if (control_ask(s, json_pack("{s:s, s:s}", "verb", "thaw", "server", server), 60000, NULL, NULL, e) < 0)
        return err_wrap(e, "the source was compared and is still held");
    step_evidence(s, "source let go", true, "it stands by at its parking address and serves nobody");
    return 0;
}

const struct step_api step_compare = {
    .name = "compare", .title = "Compare source and copy", .place = STEP_AT_REPLICATOR, .timeout_ms = COMPARE_TIMEOUT_MS, .attempts = 3, .span = STEP_LONG, .run = run};
