/* How long a quiet moment is hoped for. */
#include "base/hope.h"

#include "base/clock.h"
#include "tap.h"

int main(void)
{
    struct hope h = {0};

    is_int(hope_us(&h, INT64_MAX), 5 * US_PER_S, "at first a moment is hoped for 5 s");
    hope_learn(&h, true);
    is_int(hope_us(&h, INT64_MAX), 5 * US_PER_S, "and where one comes each time, as long each time");
    for (int i = 1; i <= 4; i++) {
        hope_learn(&h, false);
        is_int(hope_us(&h, INT64_MAX), 5 * US_PER_S >> i, "half as long where none came, %d", i);
    }
    hope_learn(&h, false);
    is_int(hope_us(&h, INT64_MAX), 5 * US_PER_S / 16, "never less than a sixteenth");
    /* On a busy server one comes by luck now and then: the next point must not be 5 s late for it. */
    hope_learn(&h, true);
    is_int(hope_us(&h, INT64_MAX), 5 * US_PER_S / 8, "one that came by luck is no promise of the next");
    for (int i = 0; i < 3; i++)
        hope_learn(&h, true);
    is_int(hope_us(&h, INT64_MAX), 5 * US_PER_S, "and where they come again, it is as at first");
    is_int(hope_us(&h, US_PER_S), US_PER_S, "never for longer than there is time");
    return tap_done();
}
