/* cause: why a server's replication is not as one wishes, and what to do about it, in words: one table, worst first. Pure: made from facts that
 * status.c gathers. */
#pragma once

#include "base/err.h"
#include "base/json.h"
#include "wire/wire.h"

struct cause_facts {
    int64_t now_us; /* wall, as all times here */
    bool detached, connected;
    bool stopped;          /* its agent said that it stops */
    int64_t since_us;      /* connected, or not, since */
    int takeovers;         /* of the last minute, between agents that know nothing of each other */
    const char *rivals[2]; /* the addresses that they came from */
    bool paused;
    const char *paused_by; /* "": not known */
    int64_t paused_us;     /* 0: not known */
    bool paused_by_calendar;
    const struct err *settings_trouble; /* why what the factory said last of how to replicate it is not taken; NULL, or of kind ERR_NONE: it is */
    const struct err *trouble; /* on the replicator's side; kind ERR_NONE: none */
    const struct wire_status *status; /* the agent's last; of state "" where there was none */
    bool busy;             /* the replicator's own work is what takes the time */
    int64_t limit_said_bytes_per_s; /* that the replicator told the agent to keep to; 0: none */
    const struct err *point_trouble; /* why the last wanted point did not come about */
    int64_t newest_at_us;  /* of points; 0: there is none */
};

#define CAUSE_KIND_SIZE 32
/* {kind, severity: "info"|"warning"|"error", text, advice}; null where all is well. error: replication does not keep up, or stands. */
json_t *cause_json(const struct cause_facts *f);
/* "source", "limit", "link", "replicator"; NULL where nothing holds it up. */
const char *cause_bottleneck(const struct cause_facts *f);
