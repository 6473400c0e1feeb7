/* sharing: how a limit that servers of several replicators share is divided among these (plan/part.h decides). */
#pragma once

#include "api/api.h"

/* A replicator reports. Its own word of `shares`, {KEY: {active, idle, part}}, gets with each `given`: what it is told now; that is to be kept with its status,
 * in this transaction. *out: {KEY: millionths} of every limit that one of the replicators knows. */
int sharing_divide(struct store_tx *tx, const char *replicator, json_t *shares, int64_t now_us, json_t **out, struct err *e);
