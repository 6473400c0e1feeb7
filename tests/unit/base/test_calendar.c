#include "base/calendar.h"
#include "base/clock.h"
#include "base/ladder.h"
#include "tap.h"

#include <time.h>

#define MBIT 125000
#define MINUTE_US (60 * US_PER_S)

static void rates(void)
{
    static const struct {
        const char *text;
        int64_t rate;
    } good[] = {{"none", RATE_NONE}, {"0", RATE_NONE}, {"100Mbit/s", 100 * MBIT}, {"1Gbit/s", 125000000}, {"500kbit/s", 62500}, {"8192bit/s", 1024},
                {"10MB/s", 10000000}, {"8MiB/s", 8 << 20}, {"1024B/s", 1024}, {"1024GiB/s", RATE_MOST}};
    static const char *const bad[] = {"", "100", "Mbit/s", "100mbit/s", "100 Mbit/s", "100Mbit", "-1MB/s", "1.5MB/s", "1023B/s", "1025GiB/s",
                                      "99999999999999999999GB/s", "999999999999999999GiB/s", "pause", "0MB/s", "100Mbit/s "};
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(good); i++) {
        int64_t rate = -7;

        ok(rate_parse(good[i].text, &rate, &e) == 0 && rate == good[i].rate, "%s is %lld bytes a second", good[i].text, (long long)rate);
    }
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        int64_t rate = -7;

        err_clear(&e);
        ok(rate_parse(bad[i], &rate, &e) == -1 && rate == -7 && e.kind == ERR_INVALID, "\"%s\": %s", bad[i], e.message);
    }
}

/* What the example means, told otherwise than calendar.c does: by the C library's broken-down time. */
static int64_t meant(const struct tm *t)
{
    bool weekend = t->tm_wday == 0 || t->tm_wday == 6;
    int minute = t->tm_hour * 60 + t->tm_min;

    if (t->tm_wday == 3 && minute >= 12 * 60 && minute < 13 * 60)
        return RATE_NONE;
    if ((t->tm_wday == 5 && minute >= 22 * 60) || (t->tm_wday == 6 && minute < 6 * 60))
        return RATE_PAUSE;
    if (!weekend && minute >= 8 * 60 && minute < 18 * 60)
        return 20 * MBIT;
    return 100 * MBIT;
}

/* A week's minutes, and the fortnights in which clocks are put forward and back. */
static void weeks(const char *zone)
{
    static const char *const begins[] = {"2026-11-23T00:00:00Z", "2026-03-22T00:00:00Z", "2026-10-18T00:00:00Z", "2045-03-20T00:00:00Z",
                                         "2045-10-20T00:00:00Z"};
    CLEANUP(zone_free) struct zone *z = NULL;
    struct calendar c;
    struct err e = {0};
    int wrong = 0, seen[3] = {0};

    ok(calendar_parse("100Mbit/s; mon-fri 08:00-18:00 20Mbit/s;fri 22:00-06:00 pause; wed 12:00-13:00 none", &c, &e) == 0, "the calendar: %s",
       e.message);
    if (!ok(zone_open(zone, &z, &e) == 0, "the zone %s: %s", zone, e.message))
        return;
    setenv("TZ", zone, 1);
    tzset();
    for (size_t i = 0; i < ARRAY_COUNT(begins); i++) {
        int64_t now_us = 0;

        clock_parse(begins[i], &now_us, NULL);
        for (int minute = 0; minute < 14 * 24 * 60; minute++, now_us += MINUTE_US) {
            time_t now = (time_t)(now_us / US_PER_S);
            struct tm parts;
            int64_t rate = calendar_rate(&c, z, now_us);

            localtime_r(&now, &parts);
            wrong += rate != meant(&parts);
            seen[0] += rate == RATE_PAUSE, seen[1] += rate == RATE_NONE, seen[2] += rate == 20 * MBIT;
        }
    }
    is_int(wrong, 0, "%s: each minute of ten weeks has the rate that was meant", zone);
    ok(seen[0] > 5 * 2 * 7 * 60 && seen[1] >= 5 * 2 * 60 && seen[2] > 5 * 2 * 40 * 60, "%s: pauses, free hours and working hours were met", zone);
}

static void calendars(void)
{
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"", "part 1: no rate is in it"},
        {"10MB/s;", "part 2: no rate is in it"},
        {"10MB/s; 20MB/s", "part 2: a second rate that always holds"},
        {"mon-fri 8:00-18:00 10MB/s", "\"8:00-18:00\" is no time from and to"},
        {"mon-fri 08:00-18:60 10MB/s", "is no time from and to"},
        {"08:00-08:00 10MB/s", "is no time from and to"},
        {"24:00-08:00 10MB/s", "is no time from and to"},
        {"mon-fri 10MB/s x", "\"x\" comes after the rate"},
        {"mon-fro 10MB/s", "part 1: \"mon-fro\" is no days and no time"},
        {"mon,,tue 10MB/s", "\"mon,,tue\" is no days"},
        {"08:00-18:00 mon 10MB/s", "\"mon\" is no days"},
        {"mon pausen", "\"pausen\" is no rate"},
        {"fast; tue 1B/s; wed 25:00-26:00 none", "part 1: \"fast\" is no rate"},
    };
    struct calendar c = {.otherwise = 77};
    struct err e = {0};
    int64_t monday_us = 0;

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        err_clear(&e);
        ok(calendar_parse(bad[i].text, &c, &e) == -1 && strstr(e.message, bad[i].words) && c.otherwise == 77, "\"%s\": %s", bad[i].text, e.message);
    }
    ok(strstr(e.message, "part 2: ") && strstr(e.message, "part 3: "), "every fault is named");
    clock_parse("2026-11-23T00:00:00Z", &monday_us, NULL);
    ok(calendar_parse("none", &c, &e) == 0 && calendar_rate(&c, NULL, monday_us) == RATE_NONE, "none");
    ok(calendar_parse("sun 1MB/s; sat-mon 2MB/s", &c, &e) == 0 && calendar_rate(&c, NULL, monday_us - 1) == 2000000 &&
           calendar_rate(&c, NULL, monday_us) == 2000000 && calendar_rate(&c, NULL, monday_us + 1440 * MINUTE_US) == RATE_NONE,
       "days go round the week's end, and the last part that holds counts");
    ok(calendar_parse("22:00-24:00 1MB/s", &c, &e) == 0 && calendar_rate(&c, NULL, monday_us - 1) == 1000000 &&
           calendar_rate(&c, NULL, monday_us) == RATE_NONE, "a day ends at 24:00");
}

static void ladders(void)
{
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"", "rung 1: is no rung"},
        {"10m", "is no rung"},
        {"10m all 1h", "is no rung"},
        {"10m all,", "rung 2: is no rung"},
        {"10 all", "\"10\" is not a duration"},
        {"10m some", "\"some\" is not a duration"},
        {"500ms all", "is not from 1s"},
        {"9999d all", "is not from 1s"},
        {"10m 0s", "is less than 1s"},
        {"10m 1h", "longer than the span"},
        {"1h 1m, 10m all", "rung 2: its span and its step must be longer"},
        {"10m all, 1h all", "rung 2: its span and its step must be longer"},
        {"1s all, 2s 1s, 3s 2s, 4s 3s, 5s 4s, 6s 5s, 7s 6s, 8s 7s, 9s 8s", "at most 8"},
        {"106751992d all", "is not"},
        {"x all, 1h y", "rung 1: \"x\" is not a duration"},
    };
    struct ladder l = {.rung_count = 77};
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        err_clear(&e);
        ok(ladder_parse(bad[i].text, &l, &e) == -1 && strstr(e.message, bad[i].words) && l.rung_count == 77, "\"%s\": %s", bad[i].text, e.message);
    }
    ok(strstr(e.message, "rung 2: ") != NULL, "every fault is named");
    ok(ladder_parse("10m all, 1h 1m,1d 1h, 3d 1d", &l, &e) == 0 && l.rung_count == 4, "the usual ladder %s", e.message);
    ok(l.rungs[0].span_us == 600 * US_PER_S && l.rungs[0].step_us == 0 && l.rungs[1].step_us == 60 * US_PER_S && l.rungs[3].span_us == 3 * 86400 * US_PER_S &&
           l.rungs[3].step_us == 86400 * US_PER_S, "has its rungs");
}

static void zones(void)
{
    static const char *const names[] = {"Europe/Berlin", "America/New_York", "Australia/Sydney", "Asia/Kolkata", "America/Sao_Paulo", "Africa/Casablanca",
                                        "Pacific/Kiritimati", "Asia/Tokyo", "Europe/Dublin", "America/Nuuk"};
    static const char *const bad[] = {"", "/etc/passwd", "../zoneinfo/UTC", "Europe//Berlin", "Europe/", "Europe/Atlantis", "zone.tab", "UTC "};
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        CLEANUP(zone_free) struct zone *z = NULL;
        int wrong = 0;

        if (!ok(zone_open(names[i], &z, &e) == 0, "%s is known: %s", names[i], e.message))
            continue;
        setenv("TZ", names[i], 1);
        tzset();
        for (int64_t s = 0; s < INT64_C(4102444800); s += 13 * 3600 + 1) { /* to the year 2100 */
            time_t now = (time_t)s;
            struct tm parts;

            localtime_r(&now, &parts);
            wrong += zone_offset_s(z, s) != parts.tm_gmtoff;
        }
        is_int(wrong, 0, "%s: as the C library has it, from 1970 to 2100", names[i]);
    }
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        CLEANUP(zone_free) struct zone *z = NULL;

        err_clear(&e);
        ok(zone_open(bad[i], &z, &e) == -1 && !z, "\"%s\": %s", bad[i], e.message);
    }
}

int main(void)
{
    rates();
    calendars();
    ladders();
    zones();
    weeks("UTC");
    weeks("Europe/Berlin");
    weeks("America/New_York");
    weeks("Australia/Sydney");
    weeks("Asia/Kolkata");
    return tap_done();
}
