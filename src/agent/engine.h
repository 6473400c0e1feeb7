/* engine: the agent's inside, shared by its files; nothing outside the room includes it.
 *
 * Threads: the *engine* (agent_run's own) decides: takes marks, fills offers, takes points, hashes. *Workers* read, hash, compress and
 * send. The *receiver* (one for each connection) handles what the replicator says. The *reporter* sends STATUS every second.
 *
 * Memory: all batches and bitmaps are made at the start; sizes in docs/agent.md.
 *
 * Lock: a->lock guards everything below that doesn't say otherwise; never held over I/O. `changed` is signalled at every change, `work` when
 * a job is queued. */
#pragma once

#include "agent/agent.h"
#include "agent/bits.h"
#include "agent/disks.h"
#include "agent/freeze.h"
#include "agent/gentle.h"
#include "agent/memory.h"
#include "agent/outlook.h"
#include "base/hope.h"
#include "track/track.h"
#include "wire/conn.h"

#include <pthread.h>

#define BATCH_CHUNKS 32u                                  /* chunks in one offer: 2 MiB */
#define BATCH_BYTES ((size_t)BATCH_CHUNKS * WIRE_CHUNK_SIZE)
#define OFFERS_MAX 256u                                   /* offers without ACK; a power of two */
#define COMMANDS_MAX 16
#define WORKERS_MAX 8
#define NICE_MODEST 10 /* the source's own work goes first … */
#define NICE_HURRY (-5) /* … but while it stands frozen */
#define TAKE_INTERVAL_US (200 * US_PER_MS)

/* Sectors of a chunk, from its first on. */
struct sectors {
    uint64_t bits[WIRE_CHUNK_SIZE / WIRE_SECTOR_SIZE / 64];
};

enum offer_state {
    OFFER_FREE,
    OFFER_FILLED,  /* a read job is queued or at work */
    OFFER_READ,    /* the bytes are in memory, no hash yet (frozen points) */
    OFFER_HASHED,  /* waits for its turn to be offered */
    OFFER_OFFERED, /* waits for NEED */
    OFFER_SENDING, /* a send job is queued or at work */
    OFFER_SENT     /* the batch is given back; waits for ACK */
};

struct offer {
    enum offer_state state;
    uint64_t number;
    struct stretch *stretch;       /* that it is of */
    int disk, count;               /* count: what was filled; offered: what was offered (0: nothing had changed) */
    int offered;
    int64_t bytes;                 /* of disk content: pages, or whole chunks */
    uint8_t *batch;                /* BATCH_BYTES; NULL when given back */
    uint32_t chunks[BATCH_CHUNKS]; /* after hashing: those offered come first, with slot, zero and hash */
    uint8_t slot[BATCH_CHUNKS];    /* where in the batch the chunk's bytes are */
    bool zero[BATCH_CHUNKS];
    uint16_t pages[BATCH_CHUNKS];  /* 0: the chunk as a whole; else the pages that were read, after hashing one after the other */
    uint8_t hash[BATCH_CHUNKS][HASH_SHA256_SIZE];
    struct wire_need need;
    struct sectors *bad;           /* BATCH_CHUNKS, by slot: what could not be read; NULL: nothing. Owned; see unreadable.c */
    bool was_read;                 /* its bytes are in the batch */
    bool failed;                   /* reading failed: its chunks go back to todo */
    bool read_only;                /* don't hash yet */
    bool for_hashing;              /* HASH: never offered */
};

enum job_kind { JOB_READ, JOB_HASH, JOB_SEND };
struct job {
    enum job_kind kind;
    struct offer *offer;
};
struct job_queue {
    struct job jobs[2 * OFFERS_MAX];
    unsigned first, count;
};

#define STRETCHES_MOST 8
/* A part of a disk that is read from its first chunk to its last: order.c. */
struct stretch {
    int64_t first, end, cursor; /* chunks; cursor: the engine's, the next one to look at */
    int spared;                 /* under lock: how much of it, of late, was not to be sent */
};

struct agent_disk {
    struct disk info;
    int fd;               /* O_DIRECT */
    int64_t chunk_count;
    int64_t request_bytes; /* the kernel makes requests of at most so many */
    int64_t sector_bytes;  /* the least that can be read: 512 to 4,096 */
    struct bits *todo;    /* the engine's: chunks to offer. a->pages has pages of some of them */
    uint64_t *kept_todo;  /* the same, a bit each, where the agent after this one finds it: the tracker's; NULL where that is not kept */
    int64_t todo_bytes;   /* pages where only pages are to do */
    struct stretch whole, stretches[STRETCHES_MOST]; /* one, or those that together are all of it */
    int stretch_count;
    struct track_sums *sums; /* where writes can't be followed; else NULL */
};

/* What is kept for the agent after this one (kept.c), beside the tracker; where there is none, in memory like the rest. */
struct kept_offer { /* in the place of its offer */
    uint32_t disk, count; /* 0: there is none */
    uint32_t chunks[BATCH_CHUNKS];
};
#define UNREADABLE_MOST 256 /* chunks with sectors that can't be read: 16 MiB; more of them stall replication */
struct unreadable { /* what the replicator's map has zero bytes for */
    uint32_t disk, chunk;
    struct sectors sectors;
};
struct kept {
    uint64_t layout;
    char server[LIMIT_NAME_BYTES + 1], epoch[WIRE_TOKEN_SIZE];
    char ids[LIMIT_DISKS_PER_SERVER][sizeof ((struct disk *)0)->id];
    uint64_t next_number, reported_ack;
    int64_t synced_at_us; /* monotonic: the machine's, not the process's */
    bool pass_done, rescan_pass;
    struct kept_offer offers[OFFERS_MAX];
    uint32_t unreadable_count;
    struct unreadable unreadable[UNREADABLE_MOST];
};
_Static_assert(sizeof(struct kept) <= TRACK_MEMORY_SIZE, "what is kept fits its place");

struct command {
    unsigned type;
    union {
        struct wire_take_point take_point;
        struct wire_hash *hash; /* owned */
        struct wire_simple simple;
        struct wire_move move;
    };
};

/* What the workers' time goes to; the last one: what nobody works at, for the other end has not answered. */
enum spent { SPENT_SOURCE, SPENT_LIMIT, SPENT_LINK, SPENT_REPLICATOR, SPENT_COUNT };

/* Why the agent does what it does, for people: see wire_status's note. */
struct note {
    char kind[WIRE_NAME_SIZE]; /* "": none */
    char text[WIRE_TEXT_SIZE];
    int64_t at_us;             /* monotonic */
};

/* Totals of the disks and of what the agent did on them. */
struct burden {
    bool known; /* the kernel keeps statistics of every disk */
    int64_t at_us, reads, read_bytes, read_us, writes, write_us, own_requests, own_us, own_bytes;
    int64_t others_read_bytes; /* at least: see burden.c */
    int64_t stalled_us; /* -1: not known */
};

struct flow { /* what the connection was doing when it was looked at last */
    int64_t looked_us, sent_bytes, quiet_until_us;
    struct tls_flow tcp;
};

enum pass { PASS_RUNNING, PASS_DRAINING, PASS_DONE };

struct agent {
    const struct agent_config *config;
    struct agent_config *place; /* the same, where the replicator's place in it changes: the engine's (move.c) */
    const atomic_bool *stop;
    pthread_mutex_t lock;
    pthread_cond_t changed, work;

    struct agent_disk disks[LIMIT_DISKS_PER_SERVER]; /* the engine's; set up anew only while no job is at work */
    int disk_count;
    struct disk known[LIMIT_DISKS_PER_SERVER]; /* the engine's: as they were found last, set up or not */
    int known_count;
    struct disk tracked[LIMIT_DISKS_PER_SERVER]; /* the engine's: of which the tracker's memory holds what is known, in this epoch, set up or not */
    int tracked_count;
    bool set_up;              /* the engine's: these are the machine's disks, followed, in this epoch. Else there are none here, and nobody is dialled but to say why (trouble) */
    uint64_t *pages;          /* the engine's: see todo.c */
    struct kept *kept, *own_kept; /* the tracker's memory; without one, own_kept */
    struct tracker *tracker;  /* NULL: rescan */
    char tracker_reason[256]; /* why there is none */
    char epoch[WIRE_TOKEN_SIZE];
    char boot_id[WIRE_TOKEN_SIZE];

    uint8_t zero_hash[HASH_SHA256_SIZE]; /* of a chunk of zero bytes */

    struct memory_plan memory; /* of the disks that there are */

    /* offers */
    uint8_t **free_batches;
    int free_count, batch_count;
    struct offer offers[OFFERS_MAX]; /* by number % OFFERS_MAX */
    uint64_t next_number;            /* to fill; the first is 1 */
    uint64_t next_to_offer;
    uint64_t acked;                  /* every offer up to it is done */
    uint64_t ack_heard;              /* the highest ACK */
    uint64_t reported_ack;           /* the same, 0 in a new epoch: what the replicator must not have lost */
    uint64_t window;
    bool offering;                   /* a worker is sending OFFERs in order */
    struct job_queue urgent, later;  /* sends, hashes first; reads */
    int64_t busy_us, busy_since_us;  /* time with an offer on its way; since when there is one (0: there is none) */
    atomic_llong spent_us[SPENT_COUNT];
    int busy_workers;
    int senders, writing;            /* of them, those that send chunks; and of these, those that have the connection */
    bool urgent_reads;               /* somebody waits for what is read now: no read limit */

    /* workers */
    pthread_t workers[WORKERS_MAX];
    int worker_count, worker_id_count;
    pid_t worker_ids[WORKERS_MAX]; /* for workers_hurry */
    bool workers_stop;

    /* the connection */
    struct tls_context *tls;
    struct wire_conn *conn;
    pthread_t receiver;
    bool receiver_runs, broken; /* broken: the connection is over; link_error says why */
    struct err link_error;
    bool welcomed, detached;
    bool moved;           /* the engine's: this connection ends for another replicator */
    int64_t unreached_us; /* the engine's: since when no replicator could be had; 0: there is a connection */
    atomic_bool pointed;  /* a point was committed over this connection */
    struct wire_welcome *welcome;
    int64_t last_heard_us; /* the receiver's */
    int64_t last_ping_us;  /* the reporter's */
    atomic_int pack_level; /* of what is sent; 0: chunk by chunk. See flow.c */
    struct flow flow;      /* the reporter's */
    struct command commands[COMMANDS_MAX];
    unsigned command_first, command_count;

    /* the engine's state, read by the reporter */
    enum pass pass;          /* over every chunk since tracking began (or since state was lost) */
    bool rescan_pass;        /* the replicator had a whole map before it */
    uint64_t pass_watermark; /* the pass is done when this number is acknowledged */
    bool paused, taking_point, hashing;
    bool held;
    int64_t held_since_us, held_at_us; /* monotonic; wall clock of the point */
    uint64_t held_writes[LIMIT_DISKS_PER_SERVER];
    struct hashed *hashed; /* the engine's; NULL: nothing */
    int64_t step_request, step_told; /* of the point that is taken in step with other servers (0: none): the last POINT_GO; -1: none yet */
    struct freezer *freezer; /* the engine's */
    struct hope hope;        /* the engine's */
    int64_t last_take_us, synced_at_us, take_watermark_us; /* monotonic; see engine_take */
    uint64_t take_watermark;
    int64_t next_scan_us, next_disk_check_us;
    int64_t scan_begin_us, scan_begin_read; /* of reading all disks by checksum: when (0: none goes on), and bytes_read then */
    int64_t scan_us;         /* how long the last one took; 0: there was none */
    bool scan_paced;         /* and a limit, or the back-off, had its part in that */
    int64_t next_retry_us, unreadable_said; /* the engine's: of sectors that can't be read; how many bytes the log knows of */
    struct err trouble;      /* a disk can't be read, …: for a minute the state is STALLED */
    int64_t trouble_us;
    bool trouble_of_reading; /* it is over once all that was to do was read, and is there */
    struct note note;
    struct wire_limit told;           /* by the replicator, last: over reconnections, too */
    struct pace send_pace, read_pace; /* bytes */
    int64_t read_limit, read_back_off; /* of which read_pace keeps to the lower */
    struct gentle gentle;
    struct burden burden;             /* the engine's: at the last look */
    struct pace cpu_pace;             /* microseconds of a processor */

    atomic_llong bytes_total, bytes_read, bytes_sent, bytes_acked, bytes_marked, todo_bytes;
    atomic_llong own_requests, own_asked_bytes, own_read_us; /* of reading: see burden.c */
    bool taking_marks;        /* while it is set, marks that wait can't be told from those just taken */
    int64_t waiting_bytes;    /* that marks in the kernel name */
    bool outlook_void;        /* counters began anew */
    bool rate_void;           /* the limit has changed */
    bool pass_ended;          /* and the reporter has not seen it */
    struct outlook outlook;   /* the reporter's */
    double weights[SPENT_COUNT]; /* the reporter's: spent_us, of late */
    int64_t weighed_us[SPENT_COUNT];
    pthread_t reporter;
    bool reporter_runs, reporter_stop;
};

/* workers.c: threads that read, hash, compress and send; their jobs are the pipeline's */
int workers_start(struct agent *a, struct err *e);
void workers_stop(struct agent *a); /* drops what waits */
void workers_hurry(struct agent *a, bool hurry); /* the engine's: its own priority and the workers' */
/* Whether reading is held to a pace now (not where a point is waited for): then waits until so many bytes may be read. *waited_us grows by how long. */
bool workers_read_turn(struct agent *a, int64_t bytes, int64_t *waited_us);

/* pipeline.c: offers */
int pipeline_start(struct agent *a, struct err *e);
void pipeline_stop(struct agent *a);
/* While no job is at work: the buffers' memory is there for something else for a moment; then all of it must be had again, before anything is read. -1: it can't be. */
void pipeline_lend_buffers(struct agent *a);
int pipeline_have_buffers(struct agent *a, struct err *e);
/* For the workers: */
int64_t pipeline_spend(struct agent *a, enum spent what, int64_t begun_us); /* until now; now */
void pipeline_set_trouble(struct agent *a, const struct err *e);            /* under lock: reading fails */
void pipeline_break_after_status(struct agent *a, const struct err *e);
void pipeline_set_state(struct agent *a, struct offer *o, enum offer_state state);
/* It is hashed: whether the caller is to offer it (pipeline_offer_in_order), for nobody else will. */
bool pipeline_hashed(struct agent *a, struct offer *o);
bool pipeline_one_sends(const struct agent *a); /* the network limits, so one worker sends, and the others read on */
void pipeline_offer_in_order(struct agent *a, struct buf *frame); /* all whose turn it is */
/* Fills one offer from todo and queues its reading: 1, or 0 where there is no room or nothing to do. read_only: see OFFER_READ. */
int pipeline_fill(struct agent *a, bool read_only);
/* A batch read for HASH: chunks first … of a disk, not offered; NULL without room. Give it back with pipeline_give_back. */
struct offer *pipeline_fill_for_hashing(struct agent *a, int disk, int64_t first_chunk, int count);
void pipeline_give_back(struct agent *a, struct offer *o);
void pipeline_hash_read_ones(struct agent *a);            /* queues the hashing of all OFFER_READ */
bool pipeline_all_at_least(const struct agent *a, enum offer_state state); /* under lock: every unacknowledged offer is that far */
bool pipeline_all_read(const struct agent *a);             /* under lock: no reading is under way */
/* Whether chunks that were read may be to do again with no write that is known of. Where changes are followed by checksums, the later content of a chunk must be hashed later, or its
 * checksum would be that of the older one, and a return to that count as no change: not while an offer that may have it waits to be hashed. */
bool pipeline_may_read_again(struct agent *a);
int pipeline_room(const struct agent *a);                 /* under lock: free batches */
void pipeline_need(struct agent *a, const struct wire_need *n, struct err *e);
int pipeline_ack(struct agent *a, uint64_t number, struct err *e);
/* Waits for the workers to be idle, then puts the chunks of every offer without ACK back to todo. The connection must be broken or gone. */
void pipeline_requeue(struct agent *a);
void agent_broken(struct agent *a, const struct err *e);  /* any thread, without lock: the connection is over */

/* chunks.c */
/* Into the batch: entry i to its place, pages to theirs in it. Sectors that can't be read are zero bytes, and o->bad says which. */
int chunks_read(struct agent *a, struct offer *o, int64_t *waited_us, struct err *e); /* *waited_us grows by what it waited for its turn */
/* The pages that were read, one after the other at the chunk's start: their bytes. */
size_t chunks_gather(uint8_t *chunk, uint32_t pages);

/* unreadable.c */
#define UNREADABLE_WORDS 300
struct unreadable_told {
    int64_t bytes, range_total;
    struct wire_range ranges[WIRE_RANGES], last; /* the first of them, by place */
};
void sectors_add(struct sectors *s, unsigned first, unsigned count);
/* Under lock, before the offer goes out: what it holds zero bytes for, and what it does no longer. -1: too much; nothing may be offered. */
int unreadable_apply(struct agent *a, struct offer *o, struct err *e);
void unreadable_drop(struct offer *o); /* nothing of it is to be known */
int unreadable_too_much(const struct agent_disk *d, struct err *e); /* -1, in words */
bool unreadable_full(struct agent *a); /* without lock */
bool unreadable_knows(struct agent *a, int disk, int64_t from, int64_t size); /* without lock: some of it is listed */
void unreadable_tell(const struct agent *a, struct unreadable_told *out); /* under lock */
void unreadable_say(const struct agent *a, const struct unreadable_told *t, struct buf *out); /* in words, less than WIRE_TEXT_SIZE */
void unreadable_mark_point(struct agent *a, struct wire_point *p); /* once all that the point holds was offered */
void unreadable_look(struct agent *a); /* the engine's, often: logs a change, and sometimes all of them are read again */
void unreadable_kept(struct agent *a); /* what the agent before left: read again at once */

/* flow.c: where the network is what limits, more is compressed. */
void flow_begin(struct agent *a, const struct wire_conn *c); /* a new connection */
void flow_look(struct agent *a);                             /* the reporter's, several times a second, while it keeps the connection */
bool flow_packs(const struct agent *a, const struct offer *o); /* whether what is needed of it goes as a part of the stream */
int flow_next_level(int level, double busy_share, double held_share, double bytes_per_s, bool has_work);

/* todo.c */
void todo_set(struct agent *a, int disk, int64_t chunk); /* as a whole */
void todo_mark(struct agent *a, int disk, int64_t chunk, uint32_t pages); /* these pages, too */
void todo_all(struct agent *a, int disk);
int64_t todo_total(const struct agent *a);
int64_t todo_bytes(const struct agent *a); /* what of it will travel */
/* Up to limit chunks of the stretch, in order from its cursor, to do no longer but on their way: their count. pages: 0 where the whole chunk is to be offered. */
int todo_next(struct agent *a, int disk, struct stretch *s, struct kept_offer *under_way, uint32_t *chunks, uint16_t *pages, int limit);
void todo_kept(struct agent *a, int disk); /* what the agent before left to do */

/* order.c: the engine's */
void order_begin(struct agent_disk *d);  /* its todo is new */
void order_rewind(struct agent_disk *d); /* chunks before a cursor may be to do again */
int64_t order_peek(const struct agent_disk *d, const struct stretch *s); /* the next chunk of it that is to do; -1: none */
struct stretch *order_next(struct agent *a, int *disk);   /* under lock: where the next offer is to be filled from; NULL: nothing is to do */
void order_learn(struct stretch *s, int sent, int count); /* under lock: of so many chunks of it so many had to be sent */

/* carry.c */
struct carried {
    const struct disk *disks; /* as they are now */
    int count;
    /* carry_over's: */
    int origin[LIMIT_DISKS_PER_SERVER]; /* which disk each was; -1: its tracking does not go on */
    bool begins_anew;                   /* of some disk chunks are to do that were not marked */
    bool rescan;                        /* the replicator may hold all of them, as they were */
};
/* A tracker of the disks as they are now, which has inherited from the old one (of a->tracked) what is known of those that are as they were, or have grown; all else is
 * to do. It is kept in the other one's place. -1: that can't be had, so everything is to be read again, in a new epoch. No job may be at work, and nothing on its way; buffers
 * may be lent (pipeline.c). */
int carry_over(struct agent *a, struct tracker *old, struct carried *c, const struct track_disk *tracked, struct tracker **out, struct err *e);

/* kept.c */
void kept_add(struct kept_offer *o, uint32_t chunk);
void kept_done(struct kept_offer *o);
/* The tracker that the agent before left, where everything fits. The disks are not set up yet. */
int kept_adopt(struct agent *a, const struct disk *disks, int count, const struct track_disk *tracked, struct tracker **out, struct err *e);
void kept_go_on(struct agent *a);                 /* with an adopted one, or one that was carried over, once the disks are set up */
void kept_begin(struct agent *a);                 /* with a new one: what is to be known of it, then it is kept */
void kept_forget(const struct agent_config *c);
void kept_inherit(struct kept *to, struct kept *from, const struct carried *c); /* from is void then */

/* move.c */
void move_obey(struct agent *a, const struct wire_move *m);
void move_settle(struct agent *a);    /* where a point was committed, the replicator before is let go */
bool move_fall_back(struct agent *a); /* there is no connection: in the midst of a move, the other replicator's turn may have come */

/* link.c */
int link_dial(const struct agent_config *c, struct err *e); /* a connected socket to the replicator, through the proxy where there is one */
int link_dial_within(const struct agent_config *c, int timeout_ms, struct err *e);
void link_limit(struct agent *a, const struct wire_limit *l); /* under lock: what the replicator says, and our own settings: the lower holds */
void link_greeted(struct agent *a, int64_t bytes_per_s); /* under lock: WELCOME says no more than that; the other limits stay as they were told last */
void link_pace_reading(struct agent *a); /* under lock: the limit or the back-off has changed */
int link_open(struct agent *a, struct err *e);  /* dials, says HELLO, hears WELCOME, starts the receiver */
void link_say_trouble(struct agent *a, const struct err *why); /* over a connection of its own: why there is none that replicates */
void link_close(struct agent *a);               /* requeues what wasn't acknowledged */
void link_say_bye(struct agent *a, enum err_kind kind, const char *message);

/* engine.c */
/* Waits for a change, at most until deadline_us (monotonic; -1: 200 ms from now). 0, or -1: stop, the link is broken, over the deadline. */
int engine_wait(struct agent *a, int64_t deadline_us, struct err *e); /* under lock */
int engine_take(struct agent *a, struct err *e);                     /* marks into todo; -1: some were lost, a new pass begins */
int engine_fill_all(struct agent *a, int64_t deadline_us, struct err *e); /* until todo is empty and everything was offered */
void engine_writes(struct agent *a, uint64_t *writes);               /* of each disk */
bool engine_still(struct agent *a, const uint64_t *writes);          /* none has completed since */
void engine_scan(struct agent *a);                                   /* without a tracker: all disks are to be read for what has changed, from now on */
void engine_scanned(struct agent *a);                                /* under lock: all of them were */
int engine_advance_pass(struct agent *a);
void engine_set_pass(struct agent *a, enum pass pass);               /* under lock */
void engine_drop_command(struct agent *a, unsigned at);              /* under lock: of those that wait, the first is 0 */

/* watch.c: no job may be at work */
/* The disks as they are now: all their chunks to do, in a new epoch, where nothing is known of them from before (by the agent before this one; or by this one, when
 * they change). -1: nothing is set up; watch_check tries again. */
int watch_begin(struct agent *a, struct err *e);
void watch_check(struct agent *a); /* now and then: has a disk grown, come or gone? Then the link is closed, and they are set up anew */
/* Whether the disks are those that are followed. -1: no, or it can't be said, in words; then watch_check looks at once. Reads /sys alone, so it may be called while the source is
 * held. */
int watch_confirm(struct agent *a, struct err *e);
void watch_end(struct agent *a);

/* filesystems.c: those that are mounted from the disks, the deepest first, open for a freeze */
struct filesystems {
    struct mount mounts[MOUNTS_MAX];
    const char *paths[MOUNTS_MAX];
    int fds[MOUNTS_MAX];
    int count;
};
int filesystems_open(struct agent *a, struct filesystems **out, struct err *e);
void filesystems_sync(const struct filesystems *f);
void filesystems_release(struct filesystems **f);

/* point.c, hashing.c */
void point_take(struct agent *a, const struct wire_take_point *r);
void point_thaw(struct agent *a, int64_t request, bool answer);
void point_check_hold(struct agent *a); /* notices the hold's deadline */
void hashing_run(struct agent *a, const struct wire_hash *r);

/* hashed.c: how far a run of HASH has come, so that it goes on over a cut link. Engine thread. */
void hashed_begin(struct agent *a, int64_t run); /* forgets all, but for what an earlier request of this run left, with the source held as it was then, or not at all */
/* Whether all of the disk was hashed in this run: its hash then. */
bool hashed_whole(const struct agent *a, int disk, uint8_t sha256[static HASH_SHA256_SIZE]);
/* The running hash of the disk's chunks before *from_chunk, which falls to where it is known: 0 at the worst. The caller frees it. */
struct hash *hashed_from(const struct agent *a, int disk, int64_t *from_chunk);
void hashed_note(struct agent *a, int disk, int64_t chunk, const struct hash *running); /* the chunks before it were sent */
void hashed_end(struct agent *a, int disk, const uint8_t sha256[static HASH_SHA256_SIZE]);
void hashed_free(struct agent *a);

/* step.c: points of a group. Between begin and end every engine_wait fails (ERR_CANCELLED) once the replicator has said to give up. */
void step_begin(struct agent *a, int64_t request);
void step_end(struct agent *a);
void step_hear(struct agent *a, const struct wire_simple *go); /* the receiver's */
int step_say(struct agent *a, enum wire_step step, struct err *e);
/* Until told to come to that step (at most deadline_us). */
int step_wait(struct agent *a, enum wire_step step, int64_t deadline_us, struct err *e);
/* burden.c: the engine's */
void burden_begin(struct agent *a); /* other disks */
void burden_look(struct agent *a);  /* may be called often */
struct gentle_sample burden_between(const struct burden *was, const struct burden *is); /* what the source did of its own between two looks */

/* status.c */
/* Under lock. Stands while all is read again; that disks have changed, two minutes longer. */
void note_set(struct agent *a, const char *kind, const char *format, ...) __attribute__((format(printf, 3, 4)));
int reporter_start(struct agent *a, struct err *e);
void reporter_stop(struct agent *a);
