#include "plan/part.h"

#include "base/mem.h"

#define ACTIVE_WEIGHT 16 /* of one server that has something to send, where a replicator with idle ones has 1 */

static int64_t weight_of(const struct part_holder *h) { return h->active > 0 ? ACTIVE_WEIGHT * h->active : h->idle > 0; }

int64_t part_give(const struct part_holder *all, int count, int self)
{
    int64_t weights = 0, free = PART_WHOLE, fair, most;

    MUST(self >= 0 && self < count);
    for (int i = 0; i < count; i++) {
        weights += weight_of(&all[i]);
        free -= i == self ? 0 : all[i].held;
    }
    fair = weights ? PART_WHOLE * weight_of(&all[self]) / weights : PART_WHOLE / count; /* nobody is there: even parts */
    most = all[self].held > free ? all[self].held : free;
    return fair < most ? fair : most < 0 ? 0 : most;
}
