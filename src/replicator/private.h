/* private: what the files of replicator/ share. */
#pragma once

#include "base/calendar.h"
#include "base/clock.h"
#include "base/ladder.h"
#include "base/tls.h"
#include "replicator/replicator.h"
#include "vault/nbd.h"
#include "vault/vault.h"
#include "wire/conn.h"

#include <pthread.h>
#include <stdatomic.h>

#define POINTS_IN_STATUS 8
#define TAKEOVERS_KEPT 8
#define LIMIT_ADDRESS_BYTES 64

struct replicator_options {
    const char *data, *state, *listen, *factory_url, *name;
    const char *token_file, *ca_file, *ca_fingerprint;
    const char *certificate_file, *key_file;
    const char *vault_key_file;
    bool make_vault_key;
    char listen_address[64]; /* what listen says */
    int listen_port;
    int64_t point_interval_us;
    int64_t guard_mib;
    int64_t limit_bytes_per_s;
};

struct session;

/* What an agent answers once for each request. */
enum slot_kind { SLOT_POINT, SLOT_THAW, SLOT_HASH, SLOT_COUNT };
struct slot {
    bool busy;  /* somebody asked and has not taken the answer */
    bool quiet; /* nobody waits for it: the schedule asked */
    bool done;
    int64_t request, asked_us /* monotonic */, asked_wall_us;
    struct err e; /* kind ERR_NONE: it went well */
    char point[VAULT_POINT_ID_SIZE];
    bool held;
    /* of a point that is taken in step with other servers: */
    bool in_step;
    int64_t step, step_us;           /* the enum wire_step that the agent has come to, and when (monotonic) */
    const struct vault_group *group; /* set once all stand still; before, no POINT_COMMIT is taken. point: the staged one */
    struct wire_thawed thawed;
    struct wire_hash_done *hashed; /* the slot's owner frees it */
    int hash_fd[LIMIT_DISKS_PER_SERVER]; /* where HASHES go, by HELLO's disk; -1: not wanted */
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
    struct limit_calendar own;
    int share_count;
    struct share { /* a limit of several servers together: those with the same key */
        char key[LIMIT_NAME_BYTES + 8];
        struct limit_calendar limit;
    } shares[SHARES_MAX];
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
    bool stopped;          /* the agent said so when it left */
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
    struct err point_trouble; /* why the last wanted point did not come about */
    int64_t takeover_us[TAKEOVERS_KEPT]; /* wall: of this place by an agent that knows nothing of the one before, newest last */
    char rivals[2][LIMIT_ADDRESS_BYTES]; /* the last two's addresses */
    double busy_share;        /* of the session's time of late: storing, as against waiting for the agent */
    struct slot slots[SLOT_COUNT];
    int64_t next_request;
    uint64_t stored_bytes;
    char newest[VAULT_POINT_ID_SIZE]; /* "": none */
    int64_t newest_at_us;  /* the moment that the newest point stands for: its own, or a later one at which nothing had changed */
    int64_t last_try_us;   /* monotonic: of the schedule's */
    uint64_t offers_since_point;
};

struct replicator {
    struct replicator_options options;
    char *home; /* DATA/replicator: all else lies in it */
    int64_t write_bytes_per_s; /* of its disk, tried at the start */
    char *vault_path, *nbd_path, *control_path, *marks_path, *settings_path, *identity;
    int control_fd, agents_fd;
    char *certificate_file, *key_file, *ca_file; /* what we show, to agents and to the factory */
    struct vault *vault;
    struct nbd_server *nbd;
    struct tls_context *tls;
    atomic_bool stopping;
    atomic_uint sessions, talks;
    pthread_mutex_t lock; /* guards peers' chain and the marks file */
    struct peer *peers;
    const struct clock *clock; /* of calendars */
    pthread_mutex_t settings_lock; /* guards the settings' file; the others may be taken under it */
    pthread_mutex_t stat_lock; /* guards what follows; no other of ours is taken under it */
    struct vault_stat stat;
    int64_t stat_due_us; /* monotonic */
    pthread_mutex_t stir_lock; /* guards what follows; no other of ours is taken under it */
    pthread_cond_t stirred;
    uint64_t stirs; /* counts what slots tell; whoever waits for several of them waits for this */
};

/* peer.c */
struct peer *peer_find(struct replicator *r, const char *server, bool make); /* NULL: not there */
int peers_load(struct replicator *r, struct err *e); /* what the vault and the marks file know */
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
    const int *hash_fd; /* for SLOT_HASH: LIMIT_DISKS_PER_SERVER of them */
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
void slot_finish(struct peer *p, struct slot *s); /* lock held */
void peer_link_lost(struct peer *p, const struct err *why); /* lock held: fails what waits */
void peer_people(struct peer *p, int more); /* somebody begins (1), ends (-1) to wait for a point of it: no calendar's pause stops that */
/* Asks for a point and waits for it. A held one whose asker went away is thawed. */
int peer_take_point(struct peer *p, const struct wire_take_point *wanted, int64_t timeout_ms, struct talk *t,
                    char point[static VAULT_POINT_ID_SIZE], struct err *e);
int peer_thaw(struct peer *p, int64_t timeout_ms, struct talk *t, struct wire_thawed *out, struct err *e);

/* session.c */
struct wire_conn *session_conn(struct session *s);
void session_serve(struct replicator *r, int fd); /* takes fd; the life of one connection */

/* group.c */
struct group_wanted {
    const char *name; /* a person's; may be "" */
    int64_t consistency; /* enum wire_consistency */
    int64_t timeout_ms, freeze_budget_ms; /* freeze_budget_ms 0: each agent's own */
};
/* A point of each of these servers, all of one instant, or none. *out: {"id","name","at","window_us","consistency","attempts","points":[…]}, the
 * caller's. t may be NULL. */
int group_take(struct replicator *r, struct peer *const *peers, size_t count, const struct group_wanted *w, struct talk *t, json_t **out, struct err *e);
void group_stir(struct replicator *r); /* a slot has changed */
/* settings.c: how servers are to be replicated, as the factory last said it; and what follows from it now */
int settings_load(struct replicator *r, struct err *e); /* the last word of before a restart */
/* The factory's answer: what it says of a server holds from now on, where it can be read; else what held before goes on, and the server's
 * status says why. -1 only where it could not be kept (it holds all the same). */
int settings_take(struct replicator *r, const json_t *answer, struct err *e);
int64_t settings_point_interval_us(const struct peer *p);                     /* its lock held */
void settings_ladder(struct peer *p, struct vault_rung rungs[static LADDER_RUNGS_MAX], struct vault_ladder *out);
/* Reckons every agent's limit by calendars, shares and what there is to send, and tells those for whom it has changed. */
void settings_apply(struct replicator *r);
void settings_tell(struct peer *p); /* the latter, for one */
/* The session's, when its agent has come: WELCOME's limit. The rest is told with the first STATUS. */
int64_t settings_greeting(struct peer *p);
json_t *settings_json(const struct peer *p); /* its lock held: what holds now, and why what was said last does not */
void settings_release(struct peer *p);
/* How much each of count askers gets of a limit, each no more than it asks for (0: as much as there is), so that nothing is left over while
 * one lacks. */
void settings_share_out(int64_t limit, int64_t *rates, size_t count);

/* status.c */
json_t *peer_json(struct peer *p);  /* {server, state, …, points:[…]} */
json_t *status_json(struct replicator *r, const char *server); /* NULL: all; the body of POST /v1/replicator/status */

/* control.c, compare.c */
int talk_progress(struct talk *t, int64_t done, int64_t total, const char *unit); /* non-zero: the other end is gone */
void *control_accept(void *replicator);
int control_listen(struct replicator *r, struct err *e);
int compare_point(struct talk *t, struct peer *p, const struct vault_point *point, json_t **disks, struct err *e);

/* care.c: the threads of the house: points on schedule; limits; expiry and space; the factory */
void *care_points(void *replicator);
void *care_limits(void *replicator);
void *care_space(void *replicator);
void *care_factory(void *replicator);
/* Damage that is known: the maps forget it, and the agents of those servers start a session anew, in which they are asked for it. Returns how many places. */
int care_repair(struct replicator *r, struct err *e);
