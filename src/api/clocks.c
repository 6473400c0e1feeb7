#include "api/clocks.h"

#include "base/limits.h"
#include "base/mem.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLOCKS_MAX 256 /* runners that are kept in mind; the one heard of longest ago gives way */

struct told {
    char name[LIMIT_NAME_BYTES + 1];
    int64_t skew_us, at_us;
};

struct clocks {
    pthread_mutex_t lock;
    struct told list[CLOCKS_MAX];
    int count;
};

struct clocks *clocks_new(void)
{
    struct clocks *c = xcalloc(1, sizeof *c);

    pthread_mutex_init(&c->lock, NULL);
    return c;
}

void clocks_free(struct clocks **c)
{
    if (!*c)
        return;
    pthread_mutex_destroy(&(*c)->lock);
    free(*c);
    *c = NULL;
}

static struct told *place_of(struct clocks *c, const char *name)
{
    struct told *oldest = &c->list[0];

    for (int i = 0; i < c->count; i++) {
        if (strcmp(c->list[i].name, name) == 0)
            return &c->list[i];
        if (c->list[i].at_us < oldest->at_us)
            oldest = &c->list[i];
    }
    return c->count < CLOCKS_MAX ? &c->list[c->count++] : oldest;
}

void clocks_tell(struct clocks *c, const char *name, int64_t told_us, int64_t now_us)
{
    struct told *t;

    pthread_mutex_lock(&c->lock);
    t = place_of(c, name);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->skew_us = told_us - now_us;
    t->at_us = now_us;
    pthread_mutex_unlock(&c->lock);
}

int clocks_worst(struct clocks *c, int64_t since_us, char *name, unsigned long name_size, int64_t *skew_us)
{
    int count = 0;

    *skew_us = 0;
    name[0] = '\0';
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < c->count; i++) {
        const struct told *t = &c->list[i];
        int64_t size = t->skew_us < 0 ? -t->skew_us : t->skew_us, worst = *skew_us < 0 ? -*skew_us : *skew_us;

        if (t->at_us < since_us)
            continue;
        if (!count++ || size > worst) {
            *skew_us = t->skew_us;
            snprintf(name, name_size, "%s", t->name);
        }
    }
    pthread_mutex_unlock(&c->lock);
    return count;
}
