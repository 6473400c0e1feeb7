/* report_html: what the two files that write the page share. Inside this room only. */
#pragma once

#include "base/json.h"

#include <stdio.h>

void html_text(struct buf *out, const char *text); /* escaped for text and for quoted attributes */
/* The wave's timeline: a lane for the wave and for each server, a bar a task. */
void report_svg(struct buf *out, const json_t *report);
