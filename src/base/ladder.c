#include "base/ladder.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define SPAN_MOST_US (INT64_C(3660) * 86400 * US_PER_S)

/* "1h 1m", "10m all" */
static bool read_rung(char *text, struct ladder_rung *r, struct err *why)
{
    char *rest = text, *word, *words[3] = {0};
    int count = 0;
    bool all;

    while ((word = strsep(&rest, " ")))
        if (*word && count < 3)
            words[count++] = word;
    if (count != 2)
        return err_set(why, ERR_INVALID, "is no rung; write it as \"10m all\" or \"1h 1m\""), false;
    *r = (struct ladder_rung){0};
    all = strcmp(words[1], "all") == 0;
    if (clock_parse_duration(words[0], &r->span_us, why) < 0 || (!all && clock_parse_duration(words[1], &r->step_us, why) < 0))
        return false;
    if (r->span_us < US_PER_S || r->span_us > SPAN_MOST_US)
        return err_set(why, ERR_INVALID, "\"%.40s\" is not from 1s to 3660d", words[0]), false;
    if (!all && r->step_us < US_PER_S)
        return err_set(why, ERR_INVALID, "\"%.40s\" is less than 1s; \"all\" keeps all", words[1]), false;
    if (r->step_us > r->span_us)
        return err_set(why, ERR_INVALID, "one in %.40s for %.40s: the step is longer than the span", words[1], words[0]), false;
    return true;
}

static void take_rung(struct ladder *l, char *text, int number, struct err *faults)
{
    struct ladder_rung rung, *before = l->rung_count ? &l->rungs[l->rung_count - 1] : NULL;
    struct err why = {0};

    if (!read_rung(text, &rung, &why))
        err_also(faults, ERR_INVALID, "rung %d: %s", number, why.message);
    else if (before && (rung.span_us <= before->span_us || rung.step_us <= before->step_us))
        err_also(faults, ERR_INVALID, "rung %d: its span and its step must be longer than those of the one before", number);
    else if (l->rung_count == LADDER_RUNGS_MAX)
        err_also(faults, ERR_INVALID, "rung %d: there are at most %d", number, LADDER_RUNGS_MAX);
    else
        l->rungs[l->rung_count++] = rung;
}

int ladder_parse(const char *text, struct ladder *out, struct err *e)
{
    CLEANUP(free_ptr) char *copy = xstrdup(text);
    struct ladder l = {0};
    struct err faults = {0};
    char *rest = copy, *rung;

    for (int number = 1; (rung = strsep(&rest, ",")); number++)
        take_rung(&l, rung, number, &faults);
    if (faults.kind)
        return err_set(e, ERR_INVALID, "%s", faults.message);
    *out = l;
    return 0;
}
