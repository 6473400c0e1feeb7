/* report: what a wave came to, from the database. The JSON is docs/formats/report.md; the page is one file without scripts. */
#pragma once

#include "base/json.h"
#include "store/store.h"

/* The wave's report as of now_us; the caller frees *out. ERR_NOT_FOUND: no such wave; ERR_WRONG_STATE: it never ran.
 *
 * Measurements that it reads (PUT /v1/waves/{wave}/measurements/NAME):
 *   probe  {servers:{NAME:{downtime_ms,probes_total,probes_failed}}}   seen by an outside probe
 *   rows   {acknowledged,present,missing,torn}                          of an outside writer
 *   machine {accelerator,…}                                             where the targets' results don't say
 * Results that it reads: compare.disks, boot_test and verify_cutover's evidence, launch_test.mends, launch_cutover.mends and
 * .accelerator, right_size.advice. */
int report_json(struct store_tx *tx, const char *wave, int64_t now_us, json_t **out, struct err *e);
/* The page from that JSON. ERR_LIMIT where it does not fit the buffer. */
int report_html(const json_t *report, struct buf *out, struct err *e);
