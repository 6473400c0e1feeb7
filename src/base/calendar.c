#include "base/calendar.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DAY_MIN (24 * 60)
#define ALL_DAYS 0x7fu
#define WEEK_S INT64_C(604800)

static const struct {
    const char *name;
    int64_t times, over; /* bytes a second: count * times / over */
} units[] = {
    {"bit/s", 1, 8},  {"kbit/s", 1000, 8},   {"Mbit/s", 1000000, 8},    {"Gbit/s", 1000000000, 8},
    {"B/s", 1, 1},    {"kB/s", 1000, 1},     {"MB/s", 1000000, 1},      {"GB/s", 1000000000, 1},
    {"KiB/s", 1 << 10, 1}, {"MiB/s", 1 << 20, 1}, {"GiB/s", 1 << 30, 1},
};

int rate_parse(const char *text, int64_t *bytes_per_s, struct err *e)
{
    size_t digits = strspn(text, "0123456789");
    int64_t count = digits && digits <= 18 ? strtoll(text, NULL, 10) : -1, rate;

    if (strcmp(text, "none") == 0 || strcmp(text, "0") == 0) {
        *bytes_per_s = RATE_NONE;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_COUNT(units); i++) {
        if (count < 0 || strcmp(text + digits, units[i].name) != 0)
            continue;
        if (count > RATE_MOST * units[i].over / units[i].times)
            return err_set(e, ERR_INVALID, "\"%.40s\" is more than %lld bytes a second: say none", text, (long long)RATE_MOST);
        rate = count * units[i].times / units[i].over;
        if (rate < RATE_LEAST)
            return err_set(e, ERR_INVALID, "\"%.40s\" is less than %d bytes a second", text, RATE_LEAST);
        *bytes_per_s = rate;
        return 0;
    }
    return err_set(e, ERR_INVALID, "\"%.40s\" is no rate; write it as 20Mbit/s, 10MB/s, 8MiB/s or none", text);
}

static int day_named(const char *text, size_t length)
{
    static const char names[] = "montuewedthufrisatsun";

    for (int day = 0; day < 7; day++)
        if (length == 3 && strncasecmp(text, names + 3 * day, 3) == 0)
            return day;
    return -1;
}

/* "mon-fri", "sat,sun" */
static bool read_days(const char *text, unsigned *days)
{
    unsigned found = 0;

    for (const char *at = text;; at++) {
        size_t first_size = strcspn(at, "-,"), last_size = 0;
        int first = day_named(at, first_size), last = first;

        at += first_size;
        if (*at == '-') {
            last_size = strcspn(++at, ",");
            last = day_named(at, last_size);
            at += last_size;
        }
        if (first < 0 || last < 0)
            return false;
        for (int day = first;; day = (day + 1) % 7) {
            found |= 1u << day;
            if (day == last)
                break;
        }
        if (!*at) {
            *days = found;
            return true;
        }
    }
}

static bool read_minute(const char *text, int *minute)
{
    for (int i = 0; i < 5; i++)
        if (i == 2 ? text[i] != ':' : text[i] < '0' || text[i] > '9')
            return false;
    *minute = ((text[0] - '0') * 10 + text[1] - '0') * 60 + (text[3] - '0') * 10 + text[4] - '0';
    return text[3] < '6' && *minute <= DAY_MIN;
}

/* "08:00-18:00" */
static bool read_times(const char *text, int *from_min, int *to_min)
{
    return strlen(text) == 11 && text[5] == '-' && read_minute(text, from_min) && read_minute(text + 6, to_min) && *from_min < DAY_MIN &&
           *from_min != *to_min;
}

/* "pause", or a rate. */
static bool read_limit(const char *text, int64_t *rate, struct err *why)
{
    if (strcmp(text, "pause") != 0)
        return rate_parse(text, rate, why) == 0;
    *rate = RATE_PAUSE;
    return true;
}

/* What stands before `next`, which should have been the last word. */
static bool refuse_more(const char *text, const char *next, struct err *why)
{
    int64_t rate;

    if (read_limit(text, &rate, NULL))
        err_set(why, ERR_INVALID, "\"%.40s\" comes after the rate", next);
    else
        err_set(why, ERR_INVALID, "\"%.40s\" is no days and no time; write it as mon-fri 08:00-18:00", text);
    return false;
}

/* One part; false and why. bare: it holds always. */
static bool read_part(char *part, struct calendar_rule *r, bool *bare, struct err *why)
{
    char *rest = part, *word, *rate = NULL;
    bool has_days = false, has_times = false;

    *r = (struct calendar_rule){.days = ALL_DAYS, .to_min = DAY_MIN};
    while ((word = strsep(&rest, " "))) {
        if (!*word)
            continue;
        if (rate)
            return refuse_more(rate, word, why);
        if (!has_days && !has_times && read_days(word, &r->days)) {
            has_days = true;
        } else if (!has_times && strchr(word, ':')) {
            if (!read_times(word, &r->from_min, &r->to_min)) {
                err_set(why, ERR_INVALID, "\"%.40s\" is no time from and to; write it as 08:00-18:00", word);
                return false;
            }
            has_times = true;
        } else {
            rate = word;
        }
    }
    *bare = !has_days && !has_times;
    if (!rate) {
        err_set(why, ERR_INVALID, "no rate is in it");
        return false;
    }
    return read_limit(rate, &r->rate, why);
}

static void take_part(struct calendar *c, char *part, int number, bool *has_otherwise, struct err *faults)
{
    CLEANUP(free_ptr) char *copy = xstrdup(part);
    struct calendar_rule rule;
    struct err why = {0};
    bool bare = false;

    if (!read_part(copy, &rule, &bare, &why))
        err_also(faults, ERR_INVALID, "part %d: %s", number, why.message);
    else if (bare && *has_otherwise)
        err_also(faults, ERR_INVALID, "part %d: a second rate that always holds", number);
    else if (bare)
        *has_otherwise = true, c->otherwise = rule.rate;
    else if (c->rule_count == CALENDAR_RULES_MAX)
        err_also(faults, ERR_LIMIT, "more than %d parts", CALENDAR_RULES_MAX);
    else
        c->rules[c->rule_count++] = rule;
}

int calendar_parse(const char *text, struct calendar *out, struct err *e)
{
    CLEANUP(free_ptr) char *copy = xstrdup(text);
    struct calendar c = {.otherwise = RATE_NONE};
    struct err faults = {0};
    char *rest = copy, *part;
    bool has_otherwise = false;

    for (int number = 1; (part = strsep(&rest, ";")); number++)
        take_part(&c, part, number, &has_otherwise, &faults);
    if (faults.kind)
        return err_set(e, ERR_INVALID, "%s", faults.message);
    *out = c;
    return 0;
}

static bool holds(const struct calendar_rule *r, int day, int minute)
{
    bool today = r->days >> day & 1, yesterday = r->days >> ((day + 6) % 7) & 1;

    if (r->from_min < r->to_min)
        return today && minute >= r->from_min && minute < r->to_min;
    return (today && minute >= r->from_min) || (yesterday && minute < r->to_min);
}

int64_t calendar_rate(const struct calendar *c, const struct zone *z, int64_t now_us)
{
    int64_t utc_s = now_us / US_PER_S, local_s = utc_s + zone_offset_s(z, utc_s) + WEEK_S; /* a clock may stand at 1970, west of Greenwich */
    int day = (int)((local_s / 86400 + 3) % 7), minute = (int)(local_s % 86400 / 60);      /* 1970-01-01 was a Thursday */

    for (int i = c->rule_count - 1; i >= 0; i--)
        if (holds(&c->rules[i], day, minute))
            return c->rules[i].rate;
    return c->otherwise;
}
