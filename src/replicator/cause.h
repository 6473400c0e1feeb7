/* cause: why a server's replication is not as one wishes, and what to do about it, in words: one table, worst first. Pure: made from facts that
 * status.c gathers. */
#pragma once

#include "base/err.h"
#include "base/json.h"
#include "replicator/missing.h"
#include "wire/wire.h"

struct cause_facts {
    int64_t now_us; /* wall, as all times here */
    bool detached, connected;
    bool stopped;          /* its agent said that it stops */
    int64_t since_us;      /* connected, or not, since */
    const char *moved_to;  /* the replicator that its agent was told to go to; "" or NULL: it is to be here */
    int takeovers;         /* of the last minute, between agents that know nothing of each other */
    const char *rivals[2]; /* the addresses that they came from; the second one's agent is connected */
    const char *refused;   /* the address of another machine's agent of this name that was refused of late; NULL: none */
    const struct err *turned_away; /* why an agent with this server's certificate was turned away of late; NULL: none was */
    const struct err *stands; /* why its agent, which is there, can't replicate; NULL: it has not said so of late */
    bool paused;
    const char *paused_by; /* "": not known */
    int64_t paused_us;     /* 0: not known */
    bool paused_by_calendar;
    const struct err *settings_trouble; /* why what the factory said last of how to replicate it is not taken; NULL, or of kind ERR_NONE: it is */
    const struct err *trouble; /* on the replicator's side, also where the agent was sent away by it a moment ago; kind ERR_NONE: none */
    const struct missing *missing; /* disks that it had; NULL: none */
    const struct wire_status *status; /* the agent's last; of state "" where there was none */
    bool busy;             /* the replicator's own work is what takes the time */
    int64_t limit_said_bytes_per_s; /* that the replicator told the agent to keep to; 0: none */
    const struct err *point_trouble; /* why the last wanted point did not come about */
    const char *group;               /* whose servers' points it is to have together; "": none */
    const struct err *group_trouble; /* why it has not; NULL, or of kind ERR_NONE: it has */
    int64_t newest_at_us;  /* of points, by the source's clock; 0: there is none */
    int64_t pointed_us;    /* when the last one came, by ours; 0: not since we started */
    int64_t point_interval_us; /* how often they are to come */
    int64_t rescan_freeze_us, rescan_points_us; /* where changes can't be followed: how long the source may stand still for one, and how often by itself; 0: not at all */
    const char *copied_to;          /* the replicator that has its second copy; "" or NULL: none has */
    const struct err *copy_trouble; /* why that does not go on; NULL, or of kind ERR_NONE: it does */
    int64_t copy_trouble_us;        /* since */
    int64_t copy_lag_us;            /* how much older its newest point is there */
};

#define CAUSE_KIND_SIZE 32
/* {kind, severity: "info"|"warning"|"error", text, advice}; null where all is well. error: replication does not keep up, stands, or lacks
 * something of the source. */
json_t *cause_json(const struct cause_facts *f);
/* "source", "limit", "link", "replicator"; NULL where nothing holds it up. */
const char *cause_bottleneck(const struct cause_facts *f);
