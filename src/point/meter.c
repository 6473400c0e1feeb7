#include "point/meter.h"
#include "base/clock.h"
#include "base/mem.h"

#include <string.h>
#include <unistd.h>

#define QUIET_US (2 * US_PER_S)
#define DRAW_EVERY_US (250 * US_PER_MS)
#define LINE_EVERY_US (10 * US_PER_S)

void point_meter_begin(struct point_meter *m, FILE *to, const char *what)
{
    int64_t now_us = clock_monotonic_us();

    *m = (struct point_meter){.to = to, .what = what, .began_us = now_us, .told_us = now_us};
}

static double scaled(double bytes, double by, const char **unit)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t at = 0;

    for (; by >= 1024 && at + 1 < ARRAY_COUNT(units); by /= 1024, at++)
        bytes /= 1024;
    *unit = units[at];
    return bytes;
}

static void left_text(int64_t seconds, char out[static 24])
{
    if (seconds < 120)
        snprintf(out, 24, "%lld s", (long long)seconds);
    else if (seconds < 7200)
        snprintf(out, 24, "%lld min", (long long)(seconds / 60));
    else
        snprintf(out, 24, "%.1f h", (double)seconds / 3600);
}

char *point_meter_text(int64_t done, int64_t total, int64_t elapsed_us, char out[static POINT_METER_SIZE])
{
    double seconds = elapsed_us > 0 ? (double)elapsed_us / US_PER_S : 1, rate = (double)done / seconds;
    const char *unit, *rate_unit;
    double rate_scaled = scaled(rate, rate, &rate_unit), whole = scaled((double)total, (double)total, &unit);
    double part = scaled((double)done, total > 0 ? (double)total : (double)done, &unit);
    char left[24];

    if (total <= 0) {
        snprintf(out, POINT_METER_SIZE, "%.1f %s, %.0f %s/s", part, unit, rate_scaled, rate_unit);
        return out;
    }
    if (done > total)
        done = total, part = whole;
    if (rate > 0)
        left_text((int64_t)((double)(total - done) / rate), left);
    snprintf(out, POINT_METER_SIZE, "%.1f of %.1f %s, %d %%, %.0f %s/s%s%s", part, whole, unit, (int)(100.0 * (double)done / (double)total),
             rate_scaled, rate_unit, rate > 0 ? ", " : "", rate > 0 ? left : "");
    if (rate > 0)
        snprintf(out + strlen(out), POINT_METER_SIZE - strlen(out), " to go");
    return out;
}

void point_meter_show(struct point_meter *m, int64_t done, int64_t total)
{
    int64_t now_us = clock_monotonic_us();
    char text[POINT_METER_SIZE];
    bool terminal;

    if (!m->to || now_us - m->began_us < QUIET_US || now_us - m->told_us < DRAW_EVERY_US)
        return;
    terminal = isatty(fileno(m->to));
    if (!terminal && now_us - m->told_us < LINE_EVERY_US)
        return;
    m->told_us = now_us;
    m->drawn = terminal;
    fprintf(m->to, terminal ? "\r%s: %s\033[K" : "%s: %s\n", m->what, point_meter_text(done, total, now_us - m->began_us, text));
    fflush(m->to);
}

void point_meter_end(struct point_meter *m)
{
    if (m->drawn)
        fputs("\r\033[K", m->to);
    m->drawn = false;
}
