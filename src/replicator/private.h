/* private: what the files of replicator/ share. */
#pragma once

#include "base/calendar.h"
#include "base/clock.h"
#include "base/hope.h"
#include "base/ladder.h"
#include "base/tls.h"
#include "replicator/lifetime.h"
#include "replicator/missing.h"
#include "replicator/replicator.h"
#include "vault/nbd.h"
#include "vault/vault.h"
#include "wire/conn.h"

#include <pthread.h>
#include <stdatomic.h>

#define POINTS_IN_STATUS 8
#define TAKEOVERS_KEPT 8
#define POINT_ASKS_KEPT 32 /* without an answer: behind a slow link several may be on their way, the next one is asked for a minute later at the soonest */
#define LIMIT_ADDRESS_BYTES 64

struct replicator_options {
    const char *data, *state, *listen, *factory_url, *name;
    const char *token_file, *ca_file, *ca_fingerprint;
    const char *certificate_file, *key_file;
    const char *vault_key_file;
    bool make_vault_key, factory_keeps_key;
    const char *s3_url, *s3_bucket, *s3_prefix, *s3_region, *s3_ca_file, *s3_credentials_file;
    int64_t s3_cache_mib, s3_wait_us, s3_uploads;
    char listen_address[64]; /* what listen says */
    int listen_port;
    int64_t point_interval_us;
    int64_t guard_mib, work_memory_mib; /* work_memory_mib 0: the vault's own */
    int64_t limit_bytes_per_s;
    const char *advertise;   /* where agents reach it; NULL: where it listens */
    char advertise_address[64]; /* "": it can't be told from where it listens */
    int advertise_port;
};

struct session;

/* What an agent answers once for each request. */
enum slot_kind { SLOT_POINT, SLOT_THAW, SLOT_HASH, SLOT_COUNT };
struct slot {
    bool busy;  /* somebody asked and has not taken the answer */
    bool quiet; /* nobody waits for it: the schedule asked */
    bool done;
    bool lost; /* by the link, not by the agent's word; done, too */
    bool committed; /* the agent's word has come, what it sent before may not have */
    int64_t request, asked_us /* monotonic */, asked_wall_us;
    struct err e; /* kind ERR_NONE: it went well */
    char point[VAULT_POINT_ID_SIZE];
    bool held;
    /* of a point that is taken in step with other servers: */
    bool in_step;
    int64_t step, step_us;           /* the enum wire_step that the agent has come to, and when (monotonic) */
    const struct vault_group *group; /* set once all stand still; before, no POINT_COMMIT is taken. point: the staged one */
    struct vault_unreadable unreadable; /* of the staged one */
    struct wire_thawed thawed;
    struct wire_hash_done *hashed; /* the slot's owner frees it */
    int hash_fd[LIMIT_DISKS_PER_SERVER]; /* of struct compared, where HASHES go, by HELLO's disk; -1: not wanted */
    int64_t bytes_done, bytes_total;     /* what slot_wait tells meanwhile; 0: nothing but that it waits */
};

/* How much may travel, and when. */
struct limit_calendar {
    struct calendar calendar;
    struct zone *zone; /* owned; NULL: UTC */
};
#define SHARES_MAX 2 /* the wave's and the site's */
/* How a server is to be replicated: settings.c. */
struct settings {
    int64_t point_interval_us;             /* 0: nobody said; the replicator's own */
    struct ladder ladder;                  /* without rungs: the vault's default */
    int64_t read_bytes_per_s, cpu_percent; /* 0: no limit from here */
    int64_t rescan_freeze_us;              /* where its changes can't be followed: how long it may stand still for a point; 0: not at all */
    int64_t rescan_points_us;              /* and how often one is taken by itself; 0: never */
    int64_t copy_bytes_per_s;              /* of its points to the second replicator; 0: no limit */
    char group[LIMIT_NAME_BYTES + 1];      /* whose servers' points are taken together; "": it has its own */
    struct limit_calendar own;
    int share_count;
    struct share { /* a limit of several servers together: those with the same key */
        char key[LIMIT_NAME_BYTES + 8];
        struct limit_calendar limit;
    } shares[SHARES_MAX];
};

/* Where the factory wants a server to replicate to: another replicator. */
struct place {
    char replicator[LIMIT_NAME_BYTES + 1]; /* "": it is to stay here */
    char address[WIRE_NAME_SIZE];
    int64_t port;
};

/* How the copying of a server's points to a second replicator goes. */
struct copied {
    char point[VAULT_POINT_ID_SIZE]; /* the newest that is there; "": none is, or it has not been asked yet */
    int64_t at_us;                   /* its moment */
    char under_way[VAULT_POINT_ID_SIZE]; /* "": none */
    bool whole;                          /* all of that one is offered, not what differs from the one before */
    int64_t bytes_total, bytes_done;     /* of the one under way */
    int64_t pins_missing;                /* points that people keep here, and that are not there */
    struct err trouble;                  /* why it does not go on; kind ERR_NONE: it does */
    int64_t trouble_us;                  /* wall: since */
};

/* One source server, known from its first HELLO on (or from the vault); never freed while the replicator runs. */
struct peer {
    struct replicator *r;
    struct peer *next;
    char server[LIMIT_NAME_BYTES + 1];

    pthread_mutex_t telling; /* held over the sending of LIMIT, PAUSE and RESUME, so that they arrive in their order; taken before lock */
    pthread_mutex_t lock; /* guards all below; r->lock is never taken under it */
    pthread_cond_t changed;
    struct session *session; /* NULL: not connected */
    bool greeted;            /* its agent has WELCOME and the standing orders: others may be sent */
    unsigned session_users;  /* who is sending over it: it isn't freed before they are done */
    struct wire_hello hello;
    struct wire_status status;
    bool has_status;
    bool paused, detached; /* by order; kept over restarts */
    char paused_by[LIMIT_NAME_BYTES + 1]; /* "": not said */
    int64_t paused_us;     /* wall */
    int64_t order_us;      /* wall, the factory's: of its last order that was carried out; kept over restarts */
    bool stopped;          /* the agent said so when it left */
    bool has_left;         /* it said BYE, for whatever reason; it has not come since */
    char rescue_point[VAULT_POINT_ID_SIZE], rescue_state[WIRE_NAME_SIZE], rescue_message[WIRE_TEXT_SIZE]; /* struct wire_rescue's; kept over restarts; state "": none */
    int64_t rescue_us;     /* wall: when it was said */
    bool rescue_boot;      /* by order: it is to boot when it says "done" next */
    struct missing missing; /* disks that it had; kept over restarts */
    struct settings settings;
    json_t *settings_said;    /* what they were read from; NULL: nothing was said yet */
    json_t *settings_refused; /* what was said since and can't be taken, so that it is not looked at again; else NULL */
    struct err settings_trouble; /* why */
    int64_t active_us;        /* monotonic: when it last had something to send */
    struct wire_limit limit;  /* what its agent is to keep to now; value 0: no limit */
    bool calendar_pause;      /* the calendar says that nothing is sent now */
    struct wire_limit told;   /* what its agent was told */
    bool told_pause;
    int people;               /* who wait for a point that they asked for: no calendar stops that */
    bool was_connected, gone; /* gone: dropped, and nothing of it is left */
    int64_t since_us;      /* wall: connected or disconnected since */
    struct err trouble;    /* why nothing moves on our side (no space) */
    struct err failed;        /* what the vault said when it failed last, not for want of room: each session ends by it, and the next one, too */
    int64_t failed_us;        /* wall: when; 0: never, or it has taken something since */
    struct err point_trouble; /* why the last wanted point did not come about */
    int64_t takeover_us[TAKEOVERS_KEPT]; /* wall: of this place by an agent that knows nothing of the one before, newest last */
    char rivals[2][LIMIT_ADDRESS_BYTES]; /* the last two's addresses */
    /* An agent of this name on another machine (another boot) that was refused, for the one that has the place lives: */
    char refused_address[LIMIT_ADDRESS_BYTES], refused_boot[WIRE_TOKEN_SIZE];
    int64_t refused_us;                 /* wall: when last; 0: never */
    struct err turned_away;             /* why an agent with this server's certificate was turned away last: the certificate was revoked, or its time is over */
    int64_t turned_away_us;             /* wall: when; 0: never */
    struct err stands;                  /* why its agent, which is there, can't replicate: it says so instead of HELLO */
    int64_t stands_us;                  /* wall: when it said so last; 0: never, or it has come since */
    char preferred_boot[WIRE_TOKEN_SIZE]; /* a person's word: it gets the place when it comes next; "": none */
    double busy_share;        /* of the session's time of late: storing, as against waiting for the agent */
    struct slot slots[SLOT_COUNT];
    int64_t next_request;
    int64_t point_asks[POINT_ASKS_KEPT]; /* TAKE_POINTs (none of a group's) that have no answer yet, whoever waits for it still; 0: none */
    unsigned next_ask;
    uint64_t stored_bytes;
    char newest[VAULT_POINT_ID_SIZE]; /* "": none */
    int64_t newest_at_us;  /* the moment that the newest point stands for: its own, or a later one at which nothing had changed */
    int64_t pointed_us;    /* wall, ours: when the last one came; 0: none since we started */
    struct vault_unreadable newest_unreadable; /* what the newest point lacks */
    int64_t last_try_us;   /* monotonic: of the schedule's */
    int64_t try_stuck_us;  /* how long its answer may take */
    bool together;         /* the schedule takes its points with its group's, and none of its own */
    bool group_taking;     /* and does so now */
    int64_t at_point_us;   /* monotonic: since when it has been at a point, or was asked for one, without a pause; 0: it is not. care_groups' alone */
    struct hope group_hope;
    int64_t group_failed_us; /* monotonic: when that came to nothing; 0: the last one came about */
    struct err group_trouble; /* why it is not done, or came to nothing: it has points of its own meanwhile */
    uint64_t offers_since_point;
    bool pointed;          /* a point was committed over the present connection */
    struct place place;
    int64_t move_due_us;   /* monotonic: when its agent may be told (again) */
    struct err move_trouble; /* why it could not follow */
    struct place copy_to;    /* where a second copy of its points is kept; replicator "": nowhere */
    struct copied copied;    /* of copy_to */
    bool copy_runs;          /* a thread copies them */
    struct wire_conn *copy_conn; /* that thread's; NULL: none now */
    bool copy_held;          /* all of it is being dropped: nothing is copied meanwhile */
    char copy_from[LIMIT_NAME_BYTES + 1]; /* the replicator that may bring its points here; "": none may */
    struct session *copying; /* its connection; never beside that of the agent */
};

struct replicator {
    struct replicator_options options;
    char *home; /* DATA/replicator: all else lies in it */
    int64_t write_bytes_per_s; /* of its disk, tried at the start */
    char *control_told; /* control_path, absolute: where a runner beside us asks */
    char *vault_path, *nbd_path, *control_path, *marks_path, *settings_path, *copies_path, *revoked_path, *lifetime_path, *identity;
    int control_fd, agents_fd;
    char *certificate_file, *key_file, *ca_file; /* what we show, to agents and to the factory */
    struct vault *vault;
    struct nbd_server *nbd;
    struct tls_context *tls;
    atomic_bool stopping;
    struct tls_context *dialling;               /* the same identity, for connections to other replicators */
    atomic_uint sessions, talks, groups, copiers; /* connections; points that are taken together on schedule; threads that copy points */
    pthread_mutex_t lock; /* guards peers' chain and the marks file */
    struct peer *peers;
    const struct clock *clock; /* of calendars */
    pthread_mutex_t settings_lock; /* guards the settings' file; the others may be taken under it */
    pthread_mutex_t fleet_lock;    /* guards the next two; no other of ours is taken under it */
    json_t *groups_said;           /* {GROUP: {SERVER: REPLICATOR}}, the factory's last word, never changed once it is here; NULL: it said nothing of them */
    json_t *parts_said;            /* {KEY: millionths}, the same: how much of a shared limit is for the servers here; of what is not in it all is */
    json_t *parts_kept;            /* as they stand in the settings' file; under settings_lock */
    pthread_mutex_t copies_lock;   /* guards copies_said and its file; r->lock and peers' locks may be taken under it */
    json_t *copies_said;           /* the factory's last word on second copies; NULL: none yet */
    pthread_mutex_t revoked_lock;  /* guards revoked_said; no other of ours is taken under it */
    json_t *revoked_said;          /* {version, certificates: {serial: why}}, the factory's last word; NULL: none yet */
    struct lifetime lifetime;      /* care_space's, once it runs */
    pthread_mutex_t turns_lock;    /* guards what follows; no other of ours is taken under it */
    pthread_cond_t turn_free;
    int turns;                     /* copiers that read and send now */
    pthread_mutex_t stat_lock; /* guards what follows; no other of ours is taken under it */
    struct vault_stat stat;
    int64_t stat_due_us; /* monotonic */
    int64_t count_due_us; /* monotonic; status_count's alone */
    pthread_mutex_t stir_lock; /* guards what follows; no other of ours is taken under it */
    pthread_cond_t stirred;
    uint64_t stirs; /* counts what slots tell; whoever waits for several of them waits for this */
};

/* peer.c */
struct peer *peer_find(struct replicator *r, const char *server, bool make); /* NULL: not there */
struct peer *peers_first(struct replicator *r); /* the chain only ever grows at its head, and no peer is freed while it runs: it is walked without the lock */
int peers_load(struct replicator *r, struct err *e); /* what the vault and the marks file know */
/* Points were dropped: whose newest one it was has an older one now, and the next by the clock is one of its own also where nothing has changed. */
int peers_forget_dropped(struct replicator *r, struct err *e);
int peer_find_newest(struct peer *p, const char *was, struct err *e); /* as the vault knows it now, where `was` is taken for it yet */
int peers_save(struct replicator *r, struct err *e);
void peers_free(struct replicator *r);
int peer_need(struct replicator *r, const char *server, struct peer **out, struct err *e);
/* Sends over the peer's session if there is one: ERR_UNREACHABLE otherwise. */
int peer_absent(const struct peer *p, struct err *e); /* -1 ERR_UNREACHABLE, in words */
int peer_send(struct peer *p, unsigned type, const void *message, size_t size, struct err *e);
/* Takes the slot (waits for whoever has it), sets *request_at (inside the message) to the request's number, sends. */
struct ask {
    enum slot_kind kind;
    unsigned type;
    void *message;
    size_t size;
    int64_t *request_at;
    const int *hash_fd; /* for SLOT_HASH: where the hashes go, for each disk that the message names */
    bool quiet;
    bool in_step;
};
int slot_ask(struct peer *p, const struct ask *a, int64_t deadline_us, struct err *e);
struct talk; /* one control connection */
/* Waits until it is answered, telling t (may be NULL) now and then that it waits: ERR_CANCELLED when t is gone. The slot stays the
 * caller's until slot_leave. */
int slot_wait(struct peer *p, enum slot_kind kind, int64_t deadline_us, struct talk *t, struct err *e);
void slot_leave(struct peer *p, enum slot_kind kind);
/* The session's: an answer came. Ignored where the number is of no one who still waits. */
struct slot *slot_answered(struct peer *p, enum slot_kind kind, int64_t request); /* lock held; NULL: ignored */
/* POINT_COMMIT came: whether it was asked for, and not answered before. It counts also where nobody waits for it any more. */
bool slot_committed(struct peer *p, int64_t request);
bool point_ask_answered(struct peer *p, int64_t request); /* lock held; false: there was none */
void slot_finish(struct peer *p, struct slot *s); /* lock held */
void peer_link_lost(struct peer *p, const struct err *why); /* lock held: fails what waits */
void peer_people(struct peer *p, int more); /* somebody begins (1), ends (-1) to wait for a point of it: no calendar's pause stops that */
/* Asks for a point and waits for it. A held one whose asker went away is thawed. */
int peer_take_point(struct peer *p, const struct wire_take_point *wanted, int64_t timeout_ms, struct talk *t,
                    char point[static VAULT_POINT_ID_SIZE], struct err *e);
int peer_thaw(struct peer *p, int64_t timeout_ms, struct talk *t, struct wire_thawed *out, struct err *e);

void peer_forget(struct peer *p); /* all of it was dropped */

/* session.c */
struct wire_conn *session_conn(struct session *s);
void session_serve(struct replicator *r, int fd); /* takes fd; the life of one connection */

/* group.c */
struct group_wanted {
    const char *name; /* a person's; may be "" */
    int64_t consistency; /* enum wire_consistency */
    int64_t timeout_ms, freeze_budget_ms; /* freeze_budget_ms 0: each agent's own */
    int64_t hope_ms; /* WIRE_ANY: so long at most a moment without writes is hoped for; 0: as long as group.c wants */
};
/* A point of each of these servers, all of one instant, or none. *out: {"id","name","at","window_us","consistency","attempts","points":[…]}, the
 * caller's. t NULL: nobody waits, and a calendar's pause stays. */
int group_take(struct replicator *r, struct peer *const *peers, size_t count, const struct group_wanted *w, struct talk *t, json_t **out, struct err *e);
void group_stir(struct replicator *r); /* a slot has changed */
/* settings.c: how servers are to be replicated, as the factory last said it */
int settings_load(struct replicator *r, struct err *e); /* the last word of before a restart */
/* The factory's answer: what it says of a server holds from now on, where it can be read; else what held before goes on, and the server's
 * status says why. -1 only where it could not be kept (it holds all the same). */
int settings_take(struct replicator *r, const json_t *answer, struct err *e);
int64_t settings_point_interval_us(const struct peer *p);                     /* its lock held */
void settings_ladder(struct peer *p, struct vault_rung rungs[static LADDER_RUNGS_MAX], struct vault_ladder *out);
/* Who is of which group, here and on other replicators: groups_said, a new reference. A group that is not in it is made of those that are here. */
json_t *settings_groups(struct replicator *r);
#define SETTINGS_PART_WHOLE 1000000 /* parts are millionths of a limit */
json_t *settings_parts(struct replicator *r); /* parts_said, a new reference */
int64_t settings_part(const json_t *parts, const char *key);
void settings_free(struct replicator *r); /* what the factory said of them all */
json_t *settings_json(const struct peer *p); /* its lock held: what holds now, and why what was said last does not */
void settings_release(struct peer *p);

/* limits.c: what follows of that now for what may travel */
/* Reckons every agent's limit by calendars, shares and what there is to send, and tells those for whom it has changed. */
void limits_apply(struct replicator *r);
void limits_tell(struct peer *p); /* the latter, for one */
/* The session's, when its agent has come: WELCOME's limit. The rest is told with the first STATUS. */
int64_t limits_greeting(struct peer *p);
/* For the factory: {KEY: {active, idle, part}} of the limits that servers here share: how many of them have something to send, how many are connected and have
 * nothing, and the part of the limit that is gone by. */
json_t *limits_shares(struct replicator *r);
/* How much each of count askers gets of a limit, each no more than it asks for (0: as much as there is), so that nothing is left over while
 * one lacks. */
void limits_share_out(int64_t limit, int64_t *rates, size_t count);

/* copies.c: second copies, as the factory last said it: whose points go where, and whose may come here. That holds over restarts, and while it is down. */
int copies_load(struct replicator *r, struct err *e);
int copies_take(struct replicator *r, const json_t *answer, struct err *e); /* of the factory */
void copies_apply(struct replicator *r); /* what was said holds for servers, too, that have come since */
/* Whether that replicator may bring that server's points here: 0, or -1 ERR_DENIED. */
int copies_may(struct replicator *r, const char *from, const char *server, struct err *e);
json_t *copies_json(const struct peer *p); /* its lock held: {to, state, point, at, …}, or null */
int64_t copies_lag_us(const struct peer *p); /* its lock held: how much older the newest copied point is than the newest; 0 where nothing is copied yet */
void copies_behave(void);                  /* this thread's work gives way to that for agents */

/* revoked.c: certificates that are not taken any more, as the factory last said it. */
int revoked_load(struct replicator *r, struct err *e);
int revoked_take(struct replicator *r, const json_t *answer, struct err *e); /* of the factory: who is connected with such a one is so no longer */
json_t *revoked_version(struct replicator *r); /* "": nothing was said yet */
/* -1 ERR_UNAUTHENTICATED where the other end's was revoked: by whom, or why. */
int revoked_check(struct replicator *r, const struct wire_conn *conn, struct err *e);
/* For the server's cause: a certificate of that common name was turned away. Those of others than agents have none. */
void revoked_note(struct replicator *r, const char *name, const struct err *why);

/* copy_out.c */
void *care_copies(void *replicator);
int copy_release(struct replicator *r, const char *server, struct err *e); /* nothing is copied from here any more: its pins end */
/* All of that server goes from the replicator that has its second copy; where there is none, nothing is to do. Nothing is copied from then on, until
 * copy_drop_over, whatever comes of it. */
int copy_drop(struct peer *p, struct err *e);
void copy_drop_over(struct peer *p);

/* moves.c */
struct place place_read(const struct replicator *r, const json_t *said); /* {replicator, address, port}; empty where that is none, or this one */
bool place_same(const struct place *a, const struct place *b);
/* The factory's answer: servers that are to go elsewhere; their agents are told. */
void moves_take(struct replicator *r, const json_t *answer);
int moves_refused(struct peer *p, const struct wire_failure *why); /* the agent's MOVE_FAILED */
json_t *moves_json(const struct peer *p); /* its lock held: {to, error?} or null */

/* status.c */
json_t *peer_json(struct peer *p, json_t *windows);  /* {server, state, …, points:[…]}; windows: orders_set_window's, for all of them */
json_t *status_json(struct replicator *r, const char *server); /* NULL: all; the body of POST /v1/replicator/status */
void status_count(struct replicator *r); /* walks the index for what status_json tells of chunks; care_space calls it now and then */

/* rescanned.c: points of servers whose changes can't be followed */
bool rescanned(const struct peer *p); /* lock held: its changes can't be */
bool rescanned_due(const struct peer *p, int64_t now_us, struct wire_take_point *out); /* lock held: it is time for one by itself; *out: how it is taken */
/* A point that somebody asks for gets the time that its server may stand still, and *least_ms is as long as it may take. -1 (ERR_WRONG_STATE): it may not. Nothing to do for others. */
int rescanned_allow(struct peer *p, struct wire_take_point *wanted, int64_t *least_ms, struct err *e);
json_t *rescanned_json(const struct peer *p); /* lock held: {reason, interval_ms, reading_ms}; null: its changes are followed */

/* control.c, compare.c */
int talk_progress(struct talk *t, int64_t done, int64_t total, const char *unit); /* non-zero: the other end is gone */
bool talk_is_gone(struct talk *t); /* the same, without a word */
/* control_care.c: a verb of the vault's care: 1, filled *answer; 0: it is none; -1. */
int care_verb(struct replicator *r, struct talk *t, const char *verb, const json_t *q, json_t *answer, struct err *e);
void *control_accept(void *replicator);
int control_listen(struct replicator *r, struct err *e);
int compare_point(struct talk *t, struct peer *p, const struct vault_point *point, json_t **disks, struct err *e);

/* care.c: the threads of the house: points on schedule, alone and together; limits; expiry and space */
void *care_points(void *replicator);
void *care_groups(void *replicator);
void *care_limits(void *replicator);
void *care_space(void *replicator);
const char *care_why_no_point(struct peer *p, bool grouped, int64_t now_us); /* lock held; NULL: its agent takes one when it is asked. grouped: with its group's servers */
bool care_may_expire(struct peer *p); /* not before the factory, where there is one, has spoken of it: until then nobody knows what is to be kept */
int64_t care_space_every_us(bool no_room, int64_t took_us); /* from the beginning of one collection, which took that long, to the next one's */
int life_load(struct replicator *r, struct err *e); /* lifetime.h; before care_space runs */
void replicator_rest(struct replicator *r, int64_t duration_us); /* shorter where it stops */
/* Damage that is known: the maps forget it, and the agents of those servers start a session anew, in which they are asked for it. Returns how many places. */
int care_repair(struct replicator *r, struct err *e);

/* factory.c: what the factory is told and asked */
void *care_factory(void *replicator);
/* The vault's keys, which the factory keeps, the newest first; make: a new one is made before. The caller frees. ERR_UNREACHABLE, ERR_TIMEOUT: it may be had later. */
int factory_keys(struct replicator *r, bool make, struct vault_key **keys, size_t *count, struct err *e);
void factory_keys_free(struct vault_key **keys, size_t count); /* wiped */
