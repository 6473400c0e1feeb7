/* acts: what a life does with the vault that it has open, at random, and what the model takes down of it. All luck comes from the seed. */
#pragma once

#include "lives.h"

extern struct vault *v;
extern struct vault_disk handles[DISKS];
extern bool trace;

#define TRACE(...) (trace ? (void)(printf("#   %d: ", m->life), printf(__VA_ARGS__), printf("\n")) : (void)0)

void draw_from(uint64_t seed);
uint64_t draw(void);
int below(int bound);
bool chance(int percent);

/* What failed may fail where the disk did; nothing else may. */
bool done(const char *what, int result, const struct err *e);
void new_key(void); /* the likeliest that opens the vault from now on */
void act(void);
