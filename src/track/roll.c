/* The roll call: of two programs on one tracepoint the first counts how often it was called, and the kernel never passes it over (or where it was interrupted by itself only); the second answers each call by marking what was written, and
 * is passed over now and then. Each processor has counts of its own, so that they agree but for the moment in which one of them is between the two.
 *
 * Where called is read after answered and both agree, nothing was called until answered was read that was not answered: called never lags behind. (But where somebody's else program was on the tracepoint before us, as a tracepoint's: then answering may come before calling. One that is between
 * the two at that moment hides one that was passed over; the balance of sectors is held against it, too.) */
#include "track/plain.h"
#include "track/plain_shared.h"

#include <string.h>

#define LOOKS 10
#define BEGINNINGS 10

struct roll {
    roll_read *read;
    const void *user;
    unsigned processor_count;
    uint64_t *owed; /* of each processor: what was called and not answered before all began */
    bool *agrees;
    struct plain_roll *first, *then; /* two readings */
};

struct roll *roll_new(roll_read *read, const void *user, unsigned processor_count)
{
    struct roll *r = xcalloc(1, sizeof *r);

    r->read = read;
    r->user = user;
    r->processor_count = processor_count;
    r->owed = xcalloc(processor_count, sizeof *r->owed);
    r->agrees = xcalloc(processor_count, sizeof *r->agrees);
    r->first = xcalloc(processor_count, sizeof *r->first);
    r->then = xcalloc(processor_count, sizeof *r->then);
    return r;
}

void roll_free(struct roll **r)
{
    if (!*r)
        return;
    free_ptr(&(*r)->owed);
    free_ptr(&(*r)->agrees);
    free_ptr(&(*r)->first);
    free_ptr(&(*r)->then);
    free_ptr(r);
}

static int read_twice(struct roll *r) { return r->read(r->user, r->first) < 0 ? -1 : r->read(r->user, r->then); }

/* The least that is seen, at moments between which everything that is under way comes to its end. Should a processor have had something under way at each of them, the first look that finds less says so. */
void roll_begin(struct roll *r)
{
    memset(r->owed, 0xff, r->processor_count * sizeof *r->owed);
    for (int i = 0; i < BEGINNINGS; i++) {
        if (read_twice(r) < 0)
            continue;
        for (unsigned p = 0; p < r->processor_count; p++) {
            uint64_t owed = r->then[p].called - r->first[p].answered;

            if (owed < r->owed[p])
                r->owed[p] = owed;
        }
        plain_wait_for_programs();
    }
}

/* How many processors have not agreed yet, in any of some looks; -1: it can't be read. */
static int look(struct roll *r)
{
    int open = (int)r->processor_count;

    for (int i = 0; i < LOOKS && open; i++) {
        if (read_twice(r) < 0)
            return -1;
        open = 0;
        for (unsigned p = 0; p < r->processor_count; p++) {
            r->agrees[p] |= r->then[p].called - r->first[p].answered == r->owed[p];
            open += !r->agrees[p];
        }
    }
    return open;
}

int roll_call(struct roll *r)
{
    int open;

    memset(r->agrees, 0, r->processor_count * sizeof *r->agrees);
    open = look(r);
    if (open > 0) /* whatever is under way comes to its end */
        open = plain_wait_for_programs() < 0 ? -1 : look(r);
    if (open <= 0)
        return open < 0 ? 0 : 1;
    for (unsigned p = 0; p < r->processor_count; p++)
        if (!r->agrees[p])
            r->owed[p] = r->then[p].called - r->first[p].answered;
    return -1;
}
