/* What people write in settings, and the files of time zones: whatever is taken keeps what its header promises. */
#include "base/calendar.h"
#include "base/clock.h"
#include "base/ladder.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static bool is_rate(int64_t rate)
{
    return rate == RATE_NONE || (rate >= RATE_LEAST && rate <= RATE_MOST);
}

static void try_calendar(const char *text, const struct zone *z)
{
    struct calendar c;
    struct err e = {0};

    if (calendar_parse(text, &c, &e) < 0) {
        MUST(e.kind == ERR_INVALID && e.message[0]);
        return;
    }
    MUST(c.rule_count <= CALENDAR_RULES_MAX);
    for (int64_t hour = 0; hour < 14 * 24; hour++) {
        int64_t rate = calendar_rate(&c, z, INT64_C(1795392000) * US_PER_S + hour * 3601 * US_PER_S);

        MUST(is_rate(rate) || rate == RATE_PAUSE);
    }
}

static void try_ladder(const char *text)
{
    struct ladder l;

    if (ladder_parse(text, &l, NULL) < 0)
        return;
    MUST(l.rung_count > 0 && l.rung_count <= LADDER_RUNGS_MAX);
    for (size_t i = 0; i < l.rung_count; i++) {
        MUST(l.rungs[i].span_us >= US_PER_S && l.rungs[i].step_us <= l.rungs[i].span_us);
        MUST(!i || (l.rungs[i].span_us > l.rungs[i - 1].span_us && l.rungs[i].step_us > l.rungs[i - 1].step_us));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    CLEANUP(zone_free) struct zone *z = NULL;
    CLEANUP(free_ptr) char *text = xcalloc(size + 1, 1);
    int64_t rate;

    if (zone_read(bytes, size, &z, NULL) == 0)
        for (int64_t s = 0; s < INT64_C(4102444800); s += 40000001) {
            int64_t offset_s = zone_offset_s(z, s);

            MUST(offset_s > -200 * 3600 && offset_s < 200 * 3600);
        }
    memcpy(text, bytes, size);
    if (rate_parse(text, &rate, NULL) == 0)
        MUST(is_rate(rate));
    try_calendar(text, z);
    try_ladder(text);
    return 0;
}
