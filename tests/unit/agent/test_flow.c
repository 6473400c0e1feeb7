/* When is more compressed: only where the network is what limits, and not beyond what the machine can do. */
#include "agent/engine.h"
#include "tap.h"

int main(void)
{
    static const struct {
        int level;
        double busy_share, held_share, bytes_per_s;
        bool has_work;
        int next;
        const char *what;
    } cases[] = {
        {0, 1.0, 0.0, 12e6, true, 6, "a slow network that is never idle: hard"},
        {0, 1.0, 0.0, 25e6, true, 3, "a faster one: lightly"},
        {0, 1.0, 0.0, 110e6, true, 0, "a fast one: each chunk alone"},
        {0, 1.0, 0.9, 12e6, true, 0, "the other end has no room: it is what limits"},
        {0, 0.3, 0.0, 2e6, true, 0, "the network waits for us: nothing more"},
        {6, 1.0, 0.0, 12e6, true, 6, "what goes well goes on"},
        {6, 1.0, 0.0, 25e6, true, 6, "nor does it fall where the network became faster"},
        {6, 0.4, 0.0, 5e6, true, 3, "compressing is what limits: lighter"},
        {3, 0.4, 0.0, 5e6, true, 0, "and lighter"},
        {6, 0.1, 0.0, 1e5, false, 6, "there is little to send: nothing is learned from it"},
        {6, 0.7, 0.0, 9e6, true, 6, "in between it stays"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        is_int(flow_next_level(cases[i].level, cases[i].busy_share, cases[i].held_share, cases[i].bytes_per_s, cases[i].has_work), cases[i].next, "%s", cases[i].what);
    return tap_done();
}
