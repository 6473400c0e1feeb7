#include "base/hope.h"

#include "base/clock.h"

#define LONGEST_US (5 * US_PER_S)
#define VAIN_MOST 4

int64_t hope_us(const struct hope *h, int64_t most_us) { return LONGEST_US >> h->vain < most_us ? LONGEST_US >> h->vain : most_us; }

void hope_learn(struct hope *h, bool came)
{
    if (came)
        h->vain -= h->vain > 0;
    else
        h->vain += h->vain < VAIN_MOST;
}
