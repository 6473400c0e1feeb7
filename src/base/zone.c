#include "base/zone.h"

#include "base/file.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FOLDER "/usr/share/zoneinfo"
#define FILE_BYTES_MAX (1u << 20)
#define TRANSITIONS_MAX 8192
#define TYPES_MAX 256
#define DAY_S INT64_C(86400)
#define OFFSET_MOST (26 * 3600) /* RFC 9636, 3.2: a type's offset is below that */

/* "M10.5.0/3", "J60", "59": a day of each year, and the time of that day. */
struct day_rule {
    char form; /* 'M', 'J' or '0': as in POSIX */
    int month, week, day;
    int64_t time_s;
};
/* The text at the end of a file, in POSIX's form: what holds after the last transition. */
struct tail {
    bool there, has_summer;
    int64_t standard_s, summer_s; /* added to UTC */
    struct day_rule begin, end;   /* of summer */
};

struct zone {
    size_t count;
    int64_t *at_s;
    int32_t *offset_s; /* from at_s[i] on */
    int32_t first_s;   /* before at_s[0] */
    struct tail tail;
};

void zone_free(struct zone **z)
{
    if (*z) {
        free((*z)->at_s);
        free((*z)->offset_s);
    }
    free_ptr(z);
}

/* ---- the tail ---- */

/* [+-]H[H[H]][:MM[:SS]] */
static bool read_hours(const char **at, int64_t *seconds)
{
    int64_t sign = **at == '-' ? -1 : 1, part, total = 0;

    *at += **at == '-' || **at == '+';
    for (int64_t unit = 3600; unit; unit /= 60) {
        int digits = 0;

        for (part = 0; **at >= '0' && **at <= '9' && digits < 3; ++*at, digits++)
            part = part * 10 + (**at - '0');
        if (!digits || (unit == 3600 ? part > 167 : part > 59))
            return false;
        total += part * unit;
        if (**at != ':' || unit == 1)
            break;
        ++*at;
    }
    *seconds = sign * total;
    return true;
}

static bool read_number(const char **at, int least, int most, int *out)
{
    int digits = 0;

    for (*out = 0; **at >= '0' && **at <= '9' && digits < 4; ++*at, digits++)
        *out = *out * 10 + (**at - '0');
    return digits && *out >= least && *out <= most;
}

static bool take_byte(const char **at, char byte)
{
    bool there = **at == byte;

    *at += there;
    return there;
}

/* "CET", or "<+03>" */
static bool read_label(const char **at)
{
    const char *begin = *at;

    if (**at == '<') {
        *at += strcspn(*at, ">");
        *at += **at == '>';
        return (*at)[-1] == '>';
    }
    while ((**at | 32) >= 'a' && (**at | 32) <= 'z')
        ++*at;
    return *at - begin >= 3;
}

static bool read_day(const char **at, struct day_rule *r)
{
    bool fits;

    *r = (struct day_rule){.form = **at == 'M' || **at == 'J' ? **at : '0', .time_s = 2 * 3600};
    *at += r->form != '0';
    if (r->form == 'M') {
        fits = read_number(at, 1, 12, &r->month) && take_byte(at, '.') && read_number(at, 1, 5, &r->week) && take_byte(at, '.') &&
               read_number(at, 0, 6, &r->day);
    } else {
        fits = read_number(at, r->form == 'J', 365, &r->day);
    }
    if (!fits || **at != '/')
        return fits;
    ++*at;
    return read_hours(at, &r->time_s);
}

static bool read_tail(const char *text, struct tail *t)
{
    const char *at = text;
    int64_t west_s;

    *t = (struct tail){0};
    if (!*at)
        return true;
    if (!read_label(&at) || !read_hours(&at, &west_s))
        return false;
    *t = (struct tail){.there = true, .standard_s = -west_s, .summer_s = -west_s + 3600};
    if (!*at)
        return true;
    if (!read_label(&at))
        return false;
    if (*at != ',' && *at) {
        if (!read_hours(&at, &west_s))
            return false;
        t->summer_s = -west_s;
    }
    t->has_summer = true;
    return take_byte(&at, ',') && read_day(&at, &t->begin) && take_byte(&at, ',') && read_day(&at, &t->end) && !*at;
}

/* Days since 1970 of a date, by the calendar that always was. */
static int64_t days_of(int64_t year, int month, int day)
{
    int64_t y = month <= 2 ? year - 1 : year, era = (y >= 0 ? y : y - 399) / 400, of_era = y - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static int64_t day_of_year(const struct day_rule *r, int64_t year)
{
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    int64_t first, day;

    if (r->form == 'J') /* 29 February is never counted */
        return days_of(year, 1, 1) + r->day - 1 + (leap && r->day >= 60);
    if (r->form == '0')
        return days_of(year, 1, 1) + r->day;
    first = days_of(year, r->month, 1);
    day = first + ((r->day - (first + 4) % 7) % 7 + 7) % 7 + 7 * (r->week - 1); /* 1970-01-01 was a Thursday */
    while (day >= (r->month == 12 ? days_of(year + 1, 1, 1) : days_of(year, r->month + 1, 1)))
        day -= 7; /* week 5: the last one */
    return day;
}

static int64_t tail_offset_s(const struct tail *t, int64_t utc_s)
{
    time_t local = (time_t)(utc_s + t->standard_s);
    struct tm parts;
    int64_t begin_s, end_s, year;
    bool summer;

    if (!t->has_summer || !gmtime_r(&local, &parts))
        return t->standard_s;
    year = parts.tm_year + INT64_C(1900);
    begin_s = day_of_year(&t->begin, year) * DAY_S + t->begin.time_s - t->standard_s;
    end_s = day_of_year(&t->end, year) * DAY_S + t->end.time_s - t->summer_s;
    summer = begin_s < end_s ? utc_s >= begin_s && utc_s < end_s : utc_s < end_s || utc_s >= begin_s; /* the south's goes over new year */
    return summer ? t->summer_s : t->standard_s;
}

/* ---- the file ---- */

struct block { /* one header's worth of a file; RFC 9636, 3.1 */
    uint32_t is_ut, is_standard, leaps, times, types, characters;
    size_t time_size;
    const uint8_t *data;
    size_t size;
};

static int64_t big_endian(const uint8_t *at, size_t size)
{
    uint64_t value = at[0] & 0x80 ? UINT64_MAX : 0;

    for (size_t i = 0; i < size; i++)
        value = value << 8 | at[i];
    return (int64_t)value;
}

static bool read_block(const uint8_t *bytes, size_t size, size_t time_size, struct block *b)
{
    uint32_t counts[6];

    if (size < 44 || memcmp(bytes, "TZif", 4) != 0)
        return false;
    for (int i = 0; i < 6; i++) {
        int64_t count = big_endian(bytes + 20 + 4 * i, 4);

        if (count < 0 || count > TRANSITIONS_MAX)
            return false;
        counts[i] = (uint32_t)count;
    }
    *b = (struct block){counts[0], counts[1], counts[2], counts[3], counts[4], counts[5], time_size, bytes + 44, 0};
    b->size = b->times * (time_size + 1) + b->types * 6 + b->characters + b->leaps * (time_size + 4) + b->is_standard + b->is_ut;
    return b->types >= 1 && b->types <= TYPES_MAX && b->size <= size - 44;
}

static bool take_block(struct zone *z, const struct block *b)
{
    const uint8_t *kinds = b->data + b->times * b->time_size, *types = kinds + b->times;

    for (uint32_t i = 0; i < b->types; i++)
        if (llabs(big_endian(types + 6 * i, 4)) > OFFSET_MOST)
            return false;
    z->count = b->times;
    z->at_s = xcalloc(b->times + 1, sizeof *z->at_s);
    z->offset_s = xcalloc(b->times + 1, sizeof *z->offset_s);
    z->first_s = (int32_t)big_endian(types, 4);
    for (uint32_t i = 0; i < b->times; i++) {
        z->at_s[i] = big_endian(b->data + i * b->time_size, b->time_size);
        if (kinds[i] >= b->types || (i && z->at_s[i] <= z->at_s[i - 1]))
            return false;
        z->offset_s[i] = (int32_t)big_endian(types + 6 * kinds[i], 4);
    }
    return true;
}

static bool take_tail(struct zone *z, const uint8_t *at, size_t size)
{
    const uint8_t *end = size && at[0] == '\n' ? memchr(at + 1, '\n', size - 1) : NULL;
    CLEANUP(free_ptr) char *text = NULL;

    if (!end)
        return false;
    text = xasprintf("%.*s", (int)(end - at - 1), (const char *)at + 1);
    return read_tail(text, &z->tail);
}

int zone_read(const void *bytes, size_t size, struct zone **out, struct err *e)
{
    CLEANUP(zone_free) struct zone *z = xcalloc(1, sizeof *z);
    const uint8_t *at = bytes;
    struct block b;
    bool fits = read_block(at, size, 4, &b);

    if (fits && at[4] >= '2') { /* the same again, with times of 64 bits */
        size_t skipped = 44 + b.size;

        fits = read_block(at + skipped, size - skipped, 8, &b) && take_block(z, &b) &&
               take_tail(z, b.data + b.size, size - (size_t)(b.data + b.size - at));
    } else {
        fits = fits && take_block(z, &b);
    }
    if (!fits)
        return err_set(e, ERR_CORRUPT, "no file of a time zone");
    *out = z;
    z = NULL;
    return 0;
}

int zone_open(const char *name, struct zone **out, struct err *e)
{
    CLEANUP(buf_release) struct buf bytes = {0};
    CLEANUP(free_ptr) char *path = xasprintf(FOLDER "/%s", name);
    struct err why = {0};

    if (!*name || strlen(name) > ZONE_NAME_MAX || name[0] == '/' || name[0] == '.' || strstr(name, "..") || strstr(name, "//") ||
        name[strlen(name) - 1] == '/' || name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-/")])
        return err_set(e, ERR_INVALID, "\"%.64s\" is no time zone; write it as Europe/Berlin or UTC", name);
    if (strcmp(name, "UTC") == 0) {
        *out = xcalloc(1, sizeof **out);
        return 0;
    }
    buf_init(&bytes, FILE_BYTES_MAX);
    if (file_read(path, FILE_BYTES_MAX, &bytes, &why) < 0)
        return err_set(e, ERR_NOT_FOUND, "there is no time zone %s on this machine (%s)", name, why.message);
    return zone_read(bytes.data, bytes.size_bytes, out, e) < 0 ? err_wrap(e, "%s", path) : 0;
}

int64_t zone_offset_s(const struct zone *z, int64_t utc_s)
{
    size_t low = 0, high = z ? z->count : 0;

    if (!z)
        return 0;
    if (z->tail.there && (!z->count || utc_s >= z->at_s[z->count - 1]))
        return tail_offset_s(&z->tail, utc_s);
    while (low < high) { /* the first transition after utc_s */
        size_t middle = (low + high) / 2;

        if (z->at_s[middle] <= utc_s)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? z->offset_s[low - 1] : z->first_s;
}
