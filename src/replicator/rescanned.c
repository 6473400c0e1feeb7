/* rescanned: points of servers whose changes can't be followed. Each holds its source still for as long as reading all of its disks takes: so they are taken
 * where somebody has said for how long that may be (rescan_freeze_s), and by themselves only as often as somebody wants them (rescan_points_s). */
#include "replicator/private.h"

#include <stdlib.h>
#include <string.h>

#define BEFORE_FREEZE_MS (10 * 60 * 1000) /* what is to be read and sent before it */

bool rescanned(const struct peer *p) { return p->has_status && strcmp(p->status.tracker, "rescan") == 0; }

/* A reading that goes on comes to its end first, as slowly as it is limited to, and then one more. */
static int64_t timeout_ms(const struct peer *p) { return BEFORE_FREEZE_MS + p->settings.rescan_freeze_us / US_PER_MS + 2 * p->status.scan_ms; }

/* By the age of the newest one, for a restart of ours must not cost the source another. One that is of a time to come (the clock was set back since) is old. */
static bool is_time(const struct peer *p, int64_t now_us)
{
    int64_t every_us = p->settings.rescan_points_us, freeze_us = p->settings.rescan_freeze_us;

    if (!freeze_us || !every_us)
        return false;
    if (every_us < 2 * freeze_us) /* for at least as long as it may stand still it goes on */
        every_us = 2 * freeze_us;
    return llabs(clock_now_us() - p->newest_at_us) >= every_us && (!p->last_try_us || now_us - p->last_try_us >= every_us);
}

bool rescanned_due(const struct peer *p, int64_t now_us, struct wire_take_point *out)
{
    *out = (struct wire_take_point){.consistency = WIRE_FROZEN, .freeze_budget_ms = p->settings.rescan_freeze_us / US_PER_MS, .timeout_ms = timeout_ms(p)};
    return is_time(p, now_us);
}

int rescanned_allow(struct peer *p, struct wire_take_point *wanted, int64_t *least_ms, struct err *e)
{
    int result = 0;

    pthread_mutex_lock(&p->lock);
    if (rescanned(p) && !wanted->hold && wanted->consistency != WIRE_CRASH) {
        if (!wanted->freeze_budget_ms)
            wanted->freeze_budget_ms = p->settings.rescan_freeze_us / US_PER_MS;
        if (*least_ms < timeout_ms(p))
            *least_ms = timeout_ms(p);
        if (!wanted->freeze_budget_ms)
            result = err_set(e, ERR_WRONG_STATE, "changes can't be followed on %s (%.200s), so a recovery point holds it still for as long as reading all of its disks takes: set "
                             "rescan_freeze_s to how long that may be", p->server, p->status.tracker_reason);
    }
    pthread_mutex_unlock(&p->lock);
    return result;
}

json_t *rescanned_json(const struct peer *p)
{
    const struct wire_status *s = &p->status;

    if (!rescanned(p))
        return json_null();
    return json_pack("{s:s, s:I, s:o}", "reason", s->tracker_reason, "interval_ms", (json_int_t)(s->rescan_interval_s * 1000), "reading_ms",
                     s->scan_ms ? json_integer(s->scan_ms) : json_null());
}
