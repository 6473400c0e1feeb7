#include "base/words.h"

static void add_scaled(struct buf *out, double value, double step, const char *const *units, size_t unit_count, const char *end)
{
    size_t unit = 0;

    while (value >= step && unit + 1 < unit_count) {
        value /= step;
        unit++;
    }
    buf_printf(out, unit && value < 100 ? "%.1f %s%s" : "%.0f %s%s", value, units[unit], end);
}

void words_bytes(struct buf *out, double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};

    add_scaled(out, bytes, 1024, units, ARRAY_COUNT(units), "");
}

void words_rate(struct buf *out, double bytes_per_s)
{
    static const char *const units[] = {"bit", "kbit", "Mbit", "Gbit", "Tbit"};

    add_scaled(out, bytes_per_s * 8, 1000, units, ARRAY_COUNT(units), "/s");
}

void words_duration(struct buf *out, double ms)
{
    if (ms < 1000)
        buf_printf(out, "%.0f ms", ms);
    else if (ms < 120000)
        buf_printf(out, "%.1f s", ms / 1000);
    else if (ms < 7200000)
        buf_printf(out, "%.0f min", ms / 60000);
    else if (ms < 172800000)
        buf_printf(out, "%.1f h", ms / 3600000);
    else
        buf_printf(out, "%.1f days", ms / 86400000);
}
