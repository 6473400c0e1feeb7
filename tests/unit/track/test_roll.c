/* The roll call: what was called and not answered is noticed once, on any processor; what was so before it began, or what was both, is not. The programs' counts are written here. */
#include "track/plain.h"
#include "track/plain_shared.h"
#include "tap.h"

#include <string.h>

#define PROCESSORS 3

static struct plain_roll counts[PROCESSORS];
static bool unreadable;

static int read_counts(const void *user, struct plain_roll *out)
{
    (void)user;
    memcpy(out, counts, sizeof counts);
    return unreadable ? -1 : 0;
}

int main(void)
{
    struct roll *r = roll_new(read_counts, NULL, PROCESSORS);

    for (int i = 0; i < PROCESSORS; i++)
        counts[i] = (struct plain_roll){.called = 100 + (uint64_t)i, .answered = 90};
    roll_begin(r);
    is_int(roll_call(r), 1, "what was called before it began is not owed");
    for (int i = 0; i < PROCESSORS; i++)
        counts[i].called += 7, counts[i].answered += 7;
    is_int(roll_call(r), 1, "what was called and answered agrees");
    for (int i = 0; i < PROCESSORS; i++) {
        counts[i].called++;
        is_int(roll_call(r), -1, "what was called and not answered on processor %d is noticed", i);
        is_int(roll_call(r), 1, "once");
        counts[i].answered++;
        is_int(roll_call(r), -1, "so is what was answered and not called");
        is_int(roll_call(r), 1, "once");
    }
    counts[0].called += 3, counts[2].answered += 3;
    is_int(roll_call(r), -1, "one processor's does not make up for another's");
    unreadable = true;
    is_int(roll_call(r), 0, "counts that can't be read say nothing");
    roll_free(&r);
    return tap_done();
}
