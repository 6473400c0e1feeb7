/* clocks: what the clocks of runners say, against ours. In memory: each tells it with every claim. */
#pragma once

#include <stdint.h>

struct clocks;
struct clocks *clocks_new(void);
void clocks_free(struct clocks **c); /* for CLEANUP */
/* name told told_us when ours was now_us. The delay of the way is in it: good to some tens of milliseconds. */
void clocks_tell(struct clocks *c, const char *name, int64_t told_us, int64_t now_us);
/* Those told since since_us: their count; the worst one's name (lent until the next tell) and its skew (theirs minus ours). */
int clocks_worst(struct clocks *c, int64_t since_us, char *name, unsigned long name_size, int64_t *skew_us);
