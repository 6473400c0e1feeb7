#include "model.h"

#include <stdio.h>
#include <string.h>

#define LOG_SIZE 65536u /* writes of a lane between two checks; a power of two */
#define MAGIC UINT64_C(0x736c697077617921)
#define SEARCH_MOST 16384u /* writes of a lane while a point is waited for: on a machine with much else to do, thousands */
#define EXPLAIN_WRITES 16u
#define SEEN_ZERO 0u
#define SEEN_TORN UINT32_MAX
#define SEEN_ALIEN (UINT32_MAX - 1)
#define HELD(number, zero) ((number) << 1 | (zero))

const char *const fault_names[FAULT_KINDS] = {"lost", "torn", "alien", "future", "order"};

struct stamp {
    uint64_t magic, seed;
    uint32_t lane, number, sector, pad;
    uint64_t sum;
};

struct found { /* the newest write of a lane that an image holds anything of */
    uint32_t last;
    bool whole; /* it holds all of it */
};

static _Atomic uint64_t clock_ticks;

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static struct lane_write *write_of(const struct lane *l, uint32_t number) { return &l->log[number % LOG_SIZE]; }

struct lane *lane_new(unsigned number, uint64_t seed, const uint32_t *places, uint32_t size)
{
    struct lane *l = xcalloc(1, sizeof *l);

    l->number = number;
    l->seed = seed;
    l->size = size;
    l->places = xcalloc(size, sizeof *l->places);
    memcpy(l->places, places, size * sizeof *places);
    l->log = xcalloc(LOG_SIZE, sizeof *l->log);
    l->held = xcalloc(size, sizeof *l->held);
    l->seen = xcalloc(size, sizeof *l->seen);
    l->trial = xcalloc(size, sizeof *l->trial);
    for (uint32_t i = 0; i < size; i++)
        l->held[i] = HELD(0u, 1u);
    return l;
}

uint32_t lane_issue(struct lane *l, uint32_t first, uint32_t count, bool zero)
{
    uint32_t number = atomic_load(&l->issued) + 1;
    struct lane_write *w = write_of(l, number);

    MUST(count > 0 && first + count <= l->size && !(zero && l->last_was_zero) && number < SEEN_ALIEN / 2);
    if (number - atomic_load(&l->forgotten) >= LOG_SIZE - 4)
        return 0;
    w->first = first, w->count = count, w->zero = zero;
    atomic_store(&w->acknowledged_at, 0);
    w->issued_at = atomic_fetch_add(&clock_ticks, 1) + 1;
    l->last_was_zero = zero;
    atomic_store(&l->issued, number);
    return number;
}

void lane_acknowledge(struct lane *l, uint32_t number)
{
    atomic_store(&write_of(l, number)->acknowledged_at, atomic_fetch_add(&clock_ticks, 1) + 1);
    atomic_store(&l->acknowledged, number);
}

/* The rest of the sector repeats a sum over the head: a mix of two writes shows, and the vault's disk stays small. */
static void stamp_sector(const struct lane *l, uint32_t number, uint32_t sector, uint64_t words[static SECTOR / 8])
{
    struct stamp s = {.magic = MAGIC, .seed = l->seed, .lane = l->number, .number = number, .sector = sector};

    s.sum = mix(s.seed ^ mix((uint64_t)number << 32 | sector) ^ l->number);
    memcpy(words, &s, sizeof s);
    for (size_t i = sizeof s / 8; i < SECTOR / 8; i++)
        words[i] = s.sum;
}

void lane_stamp(const struct lane *l, uint32_t number, uint32_t first, uint32_t count, void *bytes)
{
    uint64_t words[SECTOR / 8];

    for (uint32_t i = 0; i < count; i++) {
        stamp_sector(l, number, first + i, words);
        memcpy((uint8_t *)bytes + (size_t)i * SECTOR, words, SECTOR);
    }
}

/* ---- checking ---- */

void model_begin(struct lane **lanes, int count)
{
    for (int i = 0; i < count; i++)
        lanes[i]->acknowledged_before = atomic_load(&lanes[i]->acknowledged);
}

void model_end(struct lane **lanes, int count)
{
    for (int i = 0; i < count; i++)
        lanes[i]->issued_after = atomic_load(&lanes[i]->issued);
}

static uint32_t look(const struct lane *l, uint32_t sector, const uint8_t *bytes)
{
    static const uint8_t zeros[SECTOR];
    uint64_t words[SECTOR / 8];
    struct stamp s;

    if (memcmp(bytes, zeros, SECTOR) == 0)
        return SEEN_ZERO;
    memcpy(&s, bytes, sizeof s);
    if (s.magic == MAGIC && (s.seed != l->seed || s.lane != l->number || s.sector != sector || s.number == 0))
        return SEEN_ALIEN;
    stamp_sector(l, s.number, sector, words);
    return memcmp(bytes, words, SECTOR) == 0 ? s.number : SEEN_TORN;
}

__attribute__((format(printf, 3, 4))) static void fault(struct verdict *v, enum fault_kind kind, const char *format, ...)
{
    size_t at = strlen(v->words);
    va_list args;

    if (v->faults[kind]++ < 2 && at + 2 < sizeof v->words) {
        va_start(args, format);
        at += (size_t)snprintf(v->words + at, sizeof v->words - at, "%s", at ? "; " : "");
        vsnprintf(v->words + at, sizeof v->words - at, format, args);
        va_end(args);
    }
}

/* What the lane's sectors must hold after one more write. */
static void apply(const struct lane *l, uint32_t number, uint32_t *held)
{
    const struct lane_write *w = write_of(l, number);

    for (uint32_t i = 0; i < w->count; i++)
        held[w->first + i] = HELD(number, w->zero);
}

static bool is(uint32_t seen, uint32_t held) { return held & 1 ? seen == SEEN_ZERO : seen == held >> 1; }

/* Does the image hold all up to last - 1 (held), and last itself (whole, or in part where it may have been in flight)? Without v nothing is told. */
static uint64_t compare(const struct lane *l, const uint32_t *held, struct found *f, struct verdict *v)
{
    const struct lane_write *w = f->last ? write_of(l, f->last) : NULL;
    bool may_be_part = f->last > l->acknowledged_before;
    uint64_t faults = 0, torn = 0;

    f->whole = true;
    for (uint32_t i = 0; i < l->size; i++) {
        bool in_last = w && i - w->first < w->count;
        uint32_t seen = l->seen[i], must = in_last ? HELD(f->last, w->zero) : held[i];

        if (is(seen, must))
            continue;
        if (in_last && may_be_part && (is(seen, held[i]) || seen == SEEN_TORN)) {
            f->whole = false;
            torn += seen == SEEN_TORN;
            continue;
        }
        faults++;
        if (v)
            fault(v, seen == SEEN_TORN ? FAULT_TORN : seen == SEEN_ALIEN ? FAULT_ALIEN : FAULT_LOST,
                  "lane %u, sector %u of the disk: must hold write %u%s, holds %s %u; %u were acknowledged before the point, the newest seen is %u",
                  l->number, l->places[i], must >> 1, must & 1 ? " (zeros)" : "", seen >= SEEN_ALIEN ? "something else" : seen ? "write" : "zeros",
                  seen, l->acknowledged_before, f->last);
    }
    if (v)
        v->torn += torn;
    return faults;
}

static uint32_t look_at_all(struct lane *l, const uint8_t *image)
{
    uint32_t newest = 0;

    for (uint32_t i = 0; i < l->size; i++) {
        l->seen[i] = look(l, i, image + (size_t)l->places[i] * SECTOR);
        if (l->seen[i] < SEEN_ALIEN && l->seen[i] > newest)
            newest = l->seen[i];
    }
    return newest;
}

/* Zeros carry no number: behind the newest write that is seen there may be others, all under zeros by now. So later ones are tried, too. The least
 * that explains the image is what was seen; the most that does is what may be there. */
static bool search(struct lane *l, struct found *least, struct found *most)
{
    uint32_t first = least->last > l->forgotten || !l->forgotten ? least->last : l->forgotten + 1;
    bool found = false;

    memcpy(l->trial, l->held, l->size * sizeof *l->trial);
    for (uint32_t n = l->forgotten + 1; n < first; n++)
        apply(l, n, l->trial);
    for (uint32_t n = first; n <= l->issued_after && n - first < SEARCH_MOST; n++) {
        struct found tried = {.last = n};

        if (compare(l, l->trial, &tried, NULL) == 0) {
            *most = tried;
            if (!found)
                *least = tried;
            found = true;
        }
        if (n)
            apply(l, n, l->trial);
    }
    return found;
}

static void tell_write(const struct lane *l, uint32_t number)
{
    const struct lane_write *w = write_of(l, number);

    fprintf(stderr, "  %u: sectors %u+%u%s, issued %llu, acknowledged %llu\n", number, w->first, w->count, w->zero ? " zeros" : "",
            (unsigned long long)w->issued_at, (unsigned long long)atomic_load(&w->acknowledged_at));
}

/* The last writes to a sector, of those that the log still has, the newest first. */
static void tell_history(const struct lane *l, uint32_t sector)
{
    uint32_t number = l->issued_after, oldest = number >= LOG_SIZE ? number - LOG_SIZE + 1 : 1;

    for (uint32_t told = 0; told < EXPLAIN_WRITES && number >= oldest; number--)
        if (sector - write_of(l, number)->first < write_of(l, number)->count) {
            tell_write(l, number);
            told++;
        }
}

/* For whoever looks into a fault: it may never come again. The writes that the image may hold, then what is wrong by runs of sectors. */
static void explain(const struct lane *l, const struct found *least)
{
    fprintf(stderr, "lane %u: newest seen %u, acknowledged before %u, issued after %u, known up to %u\n", l->number, least->last, l->acknowledged_before,
            l->issued_after, l->forgotten);
    for (uint32_t n = l->forgotten > EXPLAIN_WRITES ? l->forgotten - EXPLAIN_WRITES : 1; n <= l->issued_after && n < least->last + EXPLAIN_WRITES; n++)
        tell_write(l, n);
    for (uint32_t i = 0, run; i < l->size; i += run) {
        for (run = 1; i + run < l->size && l->held[i + run] == l->held[i] && l->seen[i + run] == l->seen[i]; run++)
            ;
        if (is(l->seen[i], l->held[i]))
            continue;
        fprintf(stderr, "  sectors %u+%u (disk %u): write %u%s before %u, seen %u; the last to the first of them:\n", i, run, l->places[i], l->held[i] >> 1,
                l->held[i] & 1 ? " zeros" : "", least->last, l->seen[i]);
        tell_history(l, i);
    }
}

static void check_lane(struct lane *l, const uint8_t *image, struct found *least, struct found *most, struct verdict *v)
{
    *least = (struct found){.last = look_at_all(l, image), .whole = true};
    if (least->last < l->acknowledged_before)
        least->last = l->acknowledged_before;
    *most = *least;
    v->sectors += l->size;
    if (least->last > l->issued_after) {
        fault(v, FAULT_FUTURE, "lane %u: the image holds write %u, only %u were issued", l->number, least->last, l->issued_after);
        return;
    }
    search(l, least, most);
    for (uint32_t n = l->forgotten + 1; n < least->last; n++) {
        apply(l, n, l->held);
        atomic_store(&l->forgotten, n);
    }
    if (compare(l, l->held, least, v) > 0)
        explain(l, least);
}

/* When the first write that the image lacks was acknowledged: 0, not yet. */
static uint64_t lacks_from(const struct lane *l, const struct found *most)
{
    uint32_t n = most->last + most->whole;

    return n && n <= l->issued_after ? atomic_load(&write_of(l, n)->acknowledged_at) : 0;
}

void model_check(struct lane **lanes, int count, const uint8_t *image, struct verdict *out)
{
    struct found least[LANES_MAX], most[LANES_MAX];
    struct verdict v = {0};

    MUST(count <= LANES_MAX);
    for (int i = 0; i < count; i++) {
        check_lane(lanes[i], image, &least[i], &most[i], &v);
        v.in_flight += !least[i].whole;
    }
    for (int i = 0; i < count; i++) {
        uint64_t lacks_at = lacks_from(lanes[i], &most[i]);

        for (int k = 0; k < count && lacks_at; k++)
            if (k != i && least[k].last && write_of(lanes[k], least[k].last)->issued_at > lacks_at)
                fault(&v, FAULT_ORDER, "the image holds lane %u's write %u, issued after lane %u's write %u was acknowledged, which it lacks",
                      lanes[k]->number, least[k].last, lanes[i]->number, most[i].last + most[i].whole);
    }
    *out = v;
}
