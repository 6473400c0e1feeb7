#include "base/clock.h"
#include "tap.h"

static void times_go_both_ways(void)
{
    static const struct {
        const char *text, *utc;
    } good[] = {{"2026-11-24T20:34:02.123Z", "2026-11-24T20:34:02.123Z"},
                {"2026-11-24T21:34:02+01:00", "2026-11-24T20:34:02.000Z"},
                {"2024-02-29 00:00:00-05:30", "2024-02-29T05:30:00.000Z"}};
    static const char *const bad[] = {"", "2026-11-24", "2026-02-30T00:00:00Z", "2026-11-24T20:34:02", "2026-11-24T20:34:02+1:00",
                                      "2026-11-24T20:34:02Zx", "2026-11-24T20:34:02.Z"};
    char text[CLOCK_TEXT_SIZE];
    int64_t at;
    struct err e = {0};

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        is_int(clock_parse(good[i].text, &at, &e), 0, "%s is a time", good[i].text);
        is_str(clock_format(at, text), good[i].utc, "and reads %s", good[i].utc);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        is_int(clock_parse(bad[i], &at, &e), -1, "\"%s\" is refused", bad[i]);
    is_str(clock_format(-1, text), "1969-12-31T23:59:59.999Z", "before 1970, too");
}

static void durations(void)
{
    int64_t us = 0;
    struct err e = {0};

    is_int(clock_parse_duration("15m", &us, &e), 0, "15m is a duration");
    is_int(us, 900 * US_PER_S, "of 900 seconds");
    is_int(clock_parse_duration("250ms", &us, &e), 0, "250ms too");
    is_int(us, 250000, "of 250,000 microseconds");
    is_int(clock_parse_duration("15", &us, &e), -1, "a number without a unit is refused");
    is_int(clock_parse_duration("-3s", &us, &e), -1, "a negative one too");
}

int main(void)
{
    times_go_both_ways();
    durations();
    return tap_done();
}
