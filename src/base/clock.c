#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int64_t read_us(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * US_PER_S + now.tv_nsec / 1000;
}

static int64_t real_now_us(void *user)
{
    (void)user;
    return clock_now_us();
}

const struct clock clock_real = {.now_us = real_now_us};

int64_t clock_now_us(void) { return read_us(CLOCK_REALTIME); }
int64_t clock_monotonic_us(void) { return read_us(CLOCK_MONOTONIC); }
int64_t clock_boot_us(void) { return read_us(CLOCK_BOOTTIME); }

void clock_sleep_us(int64_t duration_us)
{
    struct timespec wait = {.tv_sec = duration_us / US_PER_S, .tv_nsec = duration_us % US_PER_S * 1000};

    if (duration_us > 0)
        nanosleep(&wait, NULL);
}

char *clock_format(int64_t time_us, char text[static CLOCK_TEXT_SIZE])
{
    int64_t second = time_us / US_PER_S, rest_us = time_us % US_PER_S;
    time_t whole;
    struct tm parts;

    if (rest_us < 0) {
        rest_us += US_PER_S;
        second--;
    }
    whole = (time_t)second;
    if (!gmtime_r(&whole, &parts) || parts.tm_year > 8099 || parts.tm_year < -1900) {
        snprintf(text, CLOCK_TEXT_SIZE, "1970-01-01T00:00:00.000Z");
        return text;
    }
    snprintf(text, CLOCK_TEXT_SIZE, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", (unsigned)(parts.tm_year + 1900) % 10000u,
             (unsigned)(parts.tm_mon + 1) % 100u, (unsigned)parts.tm_mday % 100u, (unsigned)parts.tm_hour % 100u,
             (unsigned)parts.tm_min % 100u, (unsigned)parts.tm_sec % 100u, (unsigned)(rest_us / 1000) % 1000u);
    return text;
}

static int parse_fraction(const char **at, int64_t *fraction_us)
{
    int64_t scale = 100000;

    *fraction_us = 0;
    if (**at != '.')
        return 0;
    if ((*at)[1] < '0' || (*at)[1] > '9')
        return -1;
    for (++*at; **at >= '0' && **at <= '9'; ++*at, scale /= 10)
        *fraction_us += (**at - '0') * scale;
    return 0;
}

static int parse_offset(const char *at, int64_t *offset_us)
{
    unsigned hour, minute;
    int used = 0;

    *offset_us = 0;
    if ((*at == 'Z' || *at == 'z') && at[1] == '\0')
        return 0;
    if ((*at != '+' && *at != '-') || sscanf(at + 1, "%2u:%2u%n", &hour, &minute, &used) != 2 || used != 5 || at[6] ||
        hour > 23 || minute > 59)
        return -1;
    *offset_us = (int64_t)(hour * 60 + minute) * 60 * US_PER_S * (*at == '-' ? -1 : 1);
    return 0;
}

int clock_parse(const char *text, int64_t *time_us, struct err *e)
{
    struct tm parts = {0}, back;
    int64_t fraction_us, offset_us;
    char mark;
    int used = 0;
    time_t whole;
    const char *at;

    if (sscanf(text, "%4d-%2d-%2d%c%2d:%2d:%2d%n", &parts.tm_year, &parts.tm_mon, &parts.tm_mday, &mark, &parts.tm_hour,
               &parts.tm_min, &parts.tm_sec, &used) != 7 || used != 19 || (mark != 'T' && mark != 't' && mark != ' '))
        goto wrong;
    at = text + used;
    if (parse_fraction(&at, &fraction_us) < 0 || parse_offset(at, &offset_us) < 0)
        goto wrong;
    parts.tm_year -= 1900;
    parts.tm_mon -= 1;
    back = parts;
    whole = timegm(&back);
    if (back.tm_mday != parts.tm_mday || back.tm_mon != parts.tm_mon || back.tm_hour != parts.tm_hour ||
        back.tm_min != parts.tm_min)
        goto wrong; /* 31 February and the like */
    *time_us = (int64_t)whole * US_PER_S + fraction_us - offset_us;
    return 0;
wrong:
    return err_set(e, ERR_INVALID, "\"%.40s\" is not a time; write it as 2026-11-24T21:30:00+01:00 or 2026-11-24T20:30:00Z", text);
}

int clock_parse_duration(const char *text, int64_t *duration_us, struct err *e)
{
    static const struct {
        const char *suffix;
        int64_t unit_us;
    } units[] = {{"us", 1}, {"ms", US_PER_MS}, {"s", US_PER_S}, {"m", 60 * US_PER_S}, {"h", 3600 * US_PER_S}, {"d", 86400 * US_PER_S}};
    char *end = NULL;
    long long count = strtoll(text, &end, 10);

    if (end != text && count >= 0 && count < 1000000000)
        for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
            if (strcmp(end, units[i].suffix) == 0 && count <= INT64_MAX / units[i].unit_us) {
                *duration_us = count * units[i].unit_us;
                return 0;
            }
    return err_set(e, ERR_INVALID, "\"%.40s\" is not a duration; write it as 250ms, 90s, 15m, 4h or 3d", text);
}
