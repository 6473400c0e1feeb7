/* words: figures as a person reads them, appended to a buf. Sizes count in powers of 1024 (MiB), links in powers of 1000 and bits (Mbit/s), as
 * the field writes both. */
#pragma once

#include "base/mem.h"

void words_bytes(struct buf *out, double bytes);               /* "1.5 GiB" */
void words_rate(struct buf *out, double bytes_per_s);          /* "8.4 Mbit/s" */
void words_duration(struct buf *out, double ms);               /* "850 ms", "12.5 s", "45 min", "3.2 h", "12.0 days" */
