#include "base/clock.h"
#include "plan/right_size.h"
#include "tap.h"

#define GIB (INT64_C(1) << 30)
#define MIB (INT64_C(1) << 20)

static void test_percentile(void)
{
    double values[100], few[] = {3, -1, 1, 2};

    for (int i = 0; i < 100; i++)
        values[i] = 100 - i;
    is_int(plan_percentile(values, 100, 0.95), 95, "95 of 100");
    is_int(plan_percentile(values, 100, 1), 100, "all");
    is_int(plan_percentile(values, 100, 0), 1, "none: the least");
    is_int(values[0], 100, "the list stays as it was");
    is_int(plan_percentile(few, 4, 0.5), 2, "unknown ones are left out");
    is_int(plan_percentile(few, 0, 0.5), -1, "nothing is nothing");
    is_int(plan_percentile((double[]){-1, -1}, 2, 0.5), -1, "only unknown ones are nothing");
}

/* count samples a second apart, of that share and memory. */
static json_t *advise(int count, double share, int64_t memory, struct machine_size now)
{
    CLEANUP(free_ptr) struct use_sample *samples = xcalloc((size_t)count + 1, sizeof *samples);
    json_t *advice = json_array();

    for (int i = 0; i < count; i++)
        samples[i] = (struct use_sample){i * US_PER_S, share, memory};
    plan_right_size(samples, count, now, 60, advice);
    return advice;
}

static void is_advice(int count, double share, int64_t memory, struct machine_size now, int64_t cpus, int64_t bytes, const char *what)
{
    CLEANUP(json_free) json_t *advice = advise(count, share, memory, now);
    const json_t *cpu = json_array_get(advice, 0), *mem = json_array_get(advice, 1);

    is_int(json_get_int(cpu, "advised", -1), cpus, "%s: CPUs (%s)", what, json_get_string(cpu, "reason", ""));
    is_int(json_get_int(mem, "advised", -1) / MIB, bytes / MIB, "%s: MiB (%s)", what, json_get_string(mem, "reason", ""));
    is_str(json_get_string(cpu, "change", ""), cpus == now.cpu_count ? "keep" : cpus < now.cpu_count ? "smaller" : "larger", "%s: in a word", what);
}

static void test_advice(void)
{
    struct machine_size four = {4, 8 * GIB}, one = {1, 512 * MIB}, odd = {3, 3 * GIB};

    is_advice(100, 0.05, GIB, four, 2, 4 * GIB, "idle: smaller, but no more than by half");
    is_advice(100, 0.30, 4 * GIB, four, 2, 5 * GIB + 512 * MIB, "half used: what is used at 60 and 75 %");
    is_advice(100, 0.58, 6 * GIB, four, 4, 8 * GIB, "well used: kept");
    is_advice(100, 0.95, 7 * GIB + 900 * MIB, four, 7, 10 * GIB + 768 * MIB, "too small: larger");
    is_advice(3, 0.05, GIB, four, 4, 8 * GIB, "too few samples: kept");
    is_advice(30, 0.05, GIB, four, 4, 8 * GIB, "too short a time: kept");
    is_advice(3, 0.99, 8 * GIB, four, 7, 10 * GIB + 768 * MIB, "too small is seen at once");
    is_advice(100, -1, -1, four, 4, 8 * GIB, "unknown: kept");
    is_advice(0, 0, 0, four, 4, 8 * GIB, "no samples: kept");
    is_advice(100, 0.01, 10 * MIB, one, 1, 512 * MIB, "the least there is");
    is_advice(100, 0.0, 0, odd, 2, GIB + 512 * MIB, "an odd number of CPUs");
}

/* Whatever is measured: advice stays within its promises. */
static void test_bounds(void)
{
    int broken = 0;

    for (int share = 0; share <= 100; share++)
        for (int cpus = 1; cpus <= 16; cpus++) {
            struct machine_size now = {cpus, cpus * GIB};
            CLEANUP(json_free) json_t *advice = advise(100, share / 100.0, (int64_t)(share / 100.0 * (double)now.memory_bytes), now);
            int64_t cpu = json_get_int(json_array_get(advice, 0), "advised", -1), memory = json_get_int(json_array_get(advice, 1), "advised", -1);

            broken += cpu < 1 || cpu < cpus / 2 || memory < 512 * MIB || memory < now.memory_bytes / 2;
            broken += share > 85 && cpu <= cpus;
            broken += share > 90 && memory <= now.memory_bytes;
            broken += share <= 85 && cpu > cpus;
            /* what is advised carries what was used */
            broken += share / 100.0 * cpus / (double)cpu > 0.86;
        }
    is_int(broken, 0, "advice keeps its promises over all loads and sizes");
}

int main(void)
{
    test_percentile();
    test_advice();
    test_bounds();
    return tap_done();
}
