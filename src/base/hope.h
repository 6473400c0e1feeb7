/* hope: for how long a recovery point waits for a moment at which nobody writes, before somebody is held still for it. Where none came lately none will
 * hardly come now, and points would grow old over the hoping; and one that came by luck is no promise of the next. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct hope { /* zeroed: nothing is known yet */
    int vain; /* times that none came, less times that one did: 0 … 4 */
};

/* 5 s, and half as long for each time that was in vain, down to a sixteenth; never more than most_us. In µs. */
int64_t hope_us(const struct hope *h, int64_t most_us);
void hope_learn(struct hope *h, bool came);
