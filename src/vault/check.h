/* check: what those share that look whether everything is there (check.c, scrub.c). */
#pragma once

#include "vault/vault.h"

/* One more finding, told in words if it is among the first. */
void report_add(struct vault_report *r, enum err_kind kind, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* It says nothing about the bytes: another time they may be read. */
bool out_of_reach(const struct err *e);
/* A finding for each disk of a recovery point that uses one of these. */
int blame_points(struct vault *v, const struct hash_set *bad, struct vault_report *out, struct err *e);
