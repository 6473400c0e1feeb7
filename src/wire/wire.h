/* wire: the replication protocol between agent and replicator: what is said (this header) and how it travels (wire/conn.h).
 * docs/formats/wire.md is the specification; this room encodes and decodes, and decides nothing.
 *
 * The agent dials; TLS 1.3, both with certificates ("agent:SERVER", "replicator:NAME"). Frames go both ways, each direction with its own
 * sequence. All integers are little-endian. Decoders take bytes from outside: they check every length, count and reserved bit, and
 * leave their output untouched on failure (ERR_PROTOCOL).
 *
 * How the streams hang together:
 * - Everything the agent sends is *in order*: the replicator applies offers to its working map in the order of their numbers, and a
 *   POINT_COMMIT names the working map as it is after all offers before it. So a point is a copy of the map; nothing is staged apart.
 * - Offers' numbers rise (numbers may be left out, none is used twice) within an epoch, over reconnects, too. ACK n: every offer up to n is durable in the working map.
 * - The replicator remembers (durably, with the working map) the epoch it is fed from and the last number applied, and says both in
 *   WELCOME. The same epoch, and no number lost: the agent goes on where it was. Anything else: the agent offers every
 *   chunk's hash again, and the replicator asks for what it lacks. */
#pragma once

#include "base/hash.h"
#include "base/limits.h"

#define WIRE_VERSION 2
#define WIRE_HEADER_SIZE 12
#define WIRE_PAYLOAD_LIMIT (8u << 20)
#define WIRE_CHUNK_SIZE 65536u  /* the last chunk of a disk is filled up with zero bytes, for its hash, too */
#define WIRE_PAGE_SIZE 4096u
#define WIRE_SECTOR_SIZE 512u /* the unit of places on a disk, whatever it reads and writes at once */
#define WIRE_RANGES 16
#define WIRE_OFFER_CHUNKS 1024u /* in one OFFER */
#define WIRE_HASHES_CHUNKS 65536u /* in one HASHES */
#define WIRE_DISK_LIMIT_BYTES (INT64_C(1) << 48) /* 2^32 chunks */
#define WIRE_ID_SIZE 160
#define WIRE_NAME_SIZE 64
#define WIRE_TOKEN_SIZE 64
#define WIRE_TEXT_SIZE 512
#define WIRE_SERVER_SIZE (LIMIT_NAME_BYTES + 1)

enum wire_type {
    /* from the agent */
    WIRE_HELLO = 1,        /* struct wire_hello: the first frame */
    WIRE_OFFER = 2,        /* struct wire_offer */
    WIRE_DATA = 3,         /* struct wire_data: the chunks that NEED asked for */
    WIRE_POINT_BEGIN = 4,  /* struct wire_point: the agent is at work on it */
    WIRE_POINT_COMMIT = 5, /* struct wire_point: the working map after all offers before this is the point */
    WIRE_THAWED = 6,       /* struct wire_thawed */
    WIRE_HASHES = 7,       /* struct wire_hashes */
    WIRE_HASH_DONE = 8,    /* struct wire_hash_done */
    WIRE_STATUS = 9,       /* struct wire_status: about every second */
    WIRE_BYE = 10,         /* struct wire_failure: the agent ends on purpose (detached, stopped); request is 0 */
    WIRE_RESTORE = 11,     /* struct wire_restore: the first frame of a connection that brings a point back to disks; then the replicator offers */
    WIRE_POINT_AT = 12,    /* struct wire_simple: value is the enum wire_step that the agent has come to, with a point of a group */
    WIRE_RESCUE = 14,      /* struct wire_rescue: the first frame of a connection that only says how a machine that restores itself fares; answered by HEARD */
    WIRE_PACKED = 16,      /* a DATA as the next piece of the connection's zstd stream; conn.h unpacks it, nobody else sees it */
    WIRE_COPY = 17,        /* struct wire_copy: the first frame of a connection over which another replicator copies a server's points here */
    WIRE_COPY_POINT = 18,  /* struct wire_copy_point: the point that comes next; answered by COPY_GO, POINT_DONE (it is there) or POINT_FAILED */
    WIRE_COPY_COMMIT = 19, /* struct wire_simple: the working map after all offers before this is that point; POINT_DONE, or POINT_FAILED */
    WIRE_COPY_PINS = 20,   /* struct wire_copy_pins: what people keep; answered by COPY_PINNED */
    WIRE_COPY_DROP = 21,   /* struct wire_simple: all of the server goes; answered by COPY_DROPPED, or POINT_FAILED */
    /* from the replicator */
    WIRE_WELCOME = 32,     /* struct wire_welcome: the answer to HELLO */
    WIRE_NEED = 33,        /* struct wire_need: the answer to OFFER, also where nothing is needed */
    WIRE_ACK = 34,         /* struct wire_ack */
    WIRE_TAKE_POINT = 35,  /* struct wire_take_point: answered by POINT_COMMIT or POINT_FAILED */
    WIRE_POINT_DONE = 36,  /* struct wire_point_done: the answer to POINT_COMMIT (or POINT_FAILED) */
    WIRE_THAW = 37,        /* struct wire_simple: end a held point; answered by THAWED */
    WIRE_HASH = 38,        /* struct wire_hash: answered by HASHES…, HASH_DONE, or HASH_FAILED */
    WIRE_PAUSE = 39,       /* struct wire_simple: read and send nothing; marks go on */
    WIRE_RESUME = 40,      /* struct wire_simple */
    WIRE_LIMIT = 41,       /* struct wire_limit */
    WIRE_DETACH = 42,      /* struct wire_simple: replication is over: answer BYE, stop and don't dial again */
    WIRE_RESTORING = 43,   /* struct wire_restoring: the answer to RESTORE; OFFERs of every chunk follow */
    WIRE_POINT_GO = 44,    /* struct wire_simple: value is the enum wire_step to come to now */
    WIRE_HEARD = 46,       /* struct wire_simple: the answer to RESCUE: it is written down; value 1: the machine is to boot from its disks now */
    WIRE_MOVE = 47,        /* struct wire_move: go on at another replicator; answered by BYE, or MOVE_FAILED */
    WIRE_COPYING = 48,     /* struct wire_copying: the answer to COPY */
    WIRE_COPY_GO = 49,     /* struct wire_simple: value is the number of the last offer towards that point that is applied */
    WIRE_COPY_WAITS = 50,  /* struct wire_failure: it can't go on for now, and why; it tries again by itself */
    WIRE_COPY_PINNED = 51, /* struct wire_copy_pinned */
    WIRE_COPY_DROPPED = 52, /* struct wire_simple */
    /* from either */
    WIRE_POINT_FAILED = 64, /* struct wire_failure */
    WIRE_HASH_FAILED = 65,  /* struct wire_failure */
    WIRE_REFUSE = 66,       /* struct wire_failure: why the connection is closed after this frame; request is 0 */
    WIRE_PING = 67,         /* struct wire_simple */
    WIRE_PONG = 68,         /* struct wire_simple: with PING's request */
    WIRE_MOVE_FAILED = 69,  /* struct wire_failure: the agent stays */
};
const char *wire_type_name(unsigned type); /* "OFFER"; "?" for none */

struct wire_header {
    uint32_t payload_size;
    uint16_t type;
    uint16_t flags;    /* 0 */
    uint32_t sequence; /* from 1, +1 a frame in each direction, wraps */
};
void wire_header_encode(const struct wire_header *h, uint8_t bytes[static WIRE_HEADER_SIZE]);
int wire_header_decode(const uint8_t bytes[static WIRE_HEADER_SIZE], struct wire_header *out, struct err *e);

/* ---- binary messages ---- */

struct wire_entry {
    uint32_t chunk; /* offset on the disk / WIRE_CHUNK_SIZE */
    bool zero;      /* all bytes zero: hash is not set, and NEED never asks for it */
    uint16_t pages; /* 0: the chunk as a whole. Else bit i: page i is new, and the others are as the working map has them; NEED always asks */
    uint8_t hash[HASH_SHA256_SIZE]; /* of the chunk; of its new pages, one after the other */
};
struct wire_offer {
    uint64_t number;
    uint16_t disk; /* index into HELLO's disks */
    uint16_t count; /* 1 … WIRE_OFFER_CHUNKS */
    struct wire_entry entries[WIRE_OFFER_CHUNKS]; /* chunks strictly rising */
};
/* Bytes that DATA brings for an entry. */
static inline uint32_t wire_entry_size(const struct wire_entry *entry)
{
    return entry->pages ? (uint32_t)__builtin_popcount(entry->pages) * WIRE_PAGE_SIZE : WIRE_CHUNK_SIZE;
}
/* Encoders append to out, whose limit must allow WIRE_PAYLOAD_LIMIT; what they are given must hold (MUST). */
void wire_offer_encode(const struct wire_offer *o, struct buf *out);
int wire_offer_decode(const void *payload, size_t size, struct wire_offer *out, struct err *e);

struct wire_need {
    uint64_t offer;
    uint16_t count; /* as in the offer */
    uint8_t bitmap[WIRE_OFFER_CHUNKS / 8]; /* bit i (of byte i/8, lowest first): entry i is needed */
};
static inline bool wire_needs(const struct wire_need *n, unsigned i) { return n->bitmap[i / 8] >> (i % 8) & 1; }
static inline void wire_need_set(struct wire_need *n, unsigned i) { n->bitmap[i / 8] |= (uint8_t)(1u << (i % 8)); }
void wire_need_encode(const struct wire_need *n, struct buf *out);
int wire_need_decode(const void *payload, size_t size, struct wire_need *out, struct err *e);

enum wire_codec { WIRE_RAW = 0, WIRE_ZSTD = 1 };
struct wire_data_chunk {
    uint16_t entry; /* index into the offer's entries */
    uint8_t codec;
    uint32_t stored_size;
    const uint8_t *bytes;
    uint32_t raw_size; /* WIRE_CHUNK_SIZE, or what wire_entry_size says */
};
/* DATA for one offer may come in several frames, each with some of the chunks that NEED asked for, in any order. */
void wire_data_begin(struct buf *out, uint64_t offer);
int wire_data_add(struct buf *out, const struct wire_data_chunk *c); /* -1, and nothing added, where the frame is full */
unsigned wire_data_count(const struct buf *out);
struct wire_data {
    uint64_t offer;
    uint16_t count;
    const uint8_t *at, *end; /* what wire_data_next reads; into the payload */
};
/* Checks the whole frame, so that wire_data_next can't fail. Does not check hashes: see wire_data_unpack. */
int wire_data_decode(const void *payload, size_t size, struct wire_data *out, struct err *e);
bool wire_data_next(struct wire_data *d, struct wire_data_chunk *out);
/* The raw_size bytes, checked against the hash that was offered: ERR_CORRUPT where they differ. */
struct zip;
int wire_data_unpack(struct zip *z, const struct wire_data_chunk *c, const uint8_t hash[static HASH_SHA256_SIZE],
                     uint8_t out[static WIRE_CHUNK_SIZE], struct err *e);

struct wire_ack {
    uint64_t offer; /* cumulative */
};
void wire_ack_encode(const struct wire_ack *a, struct buf *out);
int wire_ack_decode(const void *payload, size_t size, struct wire_ack *out, struct err *e);

/* Hashes of count chunks from first_chunk on; zero chunks have the hash of 65,536 zero bytes, too. */
struct wire_hashes {
    uint64_t request;
    uint16_t disk;
    uint32_t first_chunk;
    uint32_t count;        /* 1 … WIRE_HASHES_CHUNKS */
    const uint8_t *hashes; /* count * HASH_SHA256_SIZE, into the payload */
};
void wire_hashes_encode(const struct wire_hashes *h, struct buf *out);
int wire_hashes_decode(const void *payload, size_t size, struct wire_hashes *out, struct err *e);

/* ---- JSON messages ---- */

struct wire_disk {
    char id[WIRE_ID_SIZE];     /* the identity: stays over reboots and renames (WWN, serial, GPT GUID, …) */
    char name[WIRE_NAME_SIZE]; /* "sda": today's */
    int64_t size_bytes;
};
struct wire_hello {
    int64_t version;
    char agent_version[WIRE_NAME_SIZE];
    char server[WIRE_SERVER_SIZE];
    char boot_id[WIRE_TOKEN_SIZE];
    char tracker[WIRE_NAME_SIZE]; /* "ebpf" or "rescan" */
    char epoch[WIRE_TOKEN_SIZE];  /* new whenever marks were broken: the agent started anew */
    int64_t disk_count;
    struct wire_disk disks[LIMIT_DISKS_PER_SERVER];
};
struct wire_welcome_disk {
    char id[WIRE_ID_SIZE];
    bool whole;            /* every chunk of the disk, in its present size, has been applied at least once */
    int64_t chunks_known;
    char point[WIRE_TOKEN_SIZE]; /* the newest point that holds this disk; "" for none */
};
struct wire_welcome {
    int64_t version;
    char replicator[WIRE_SERVER_SIZE];
    char epoch[WIRE_TOKEN_SIZE]; /* that the working map was last fed from; "" for none. The map is fed from HELLO's from now on */
    int64_t applied;             /* the last offer of that epoch that is durable */
    int64_t window_offers;       /* how many offers may be without ACK */
    int64_t limit_bytes_per_s;   /* 0: none */
    int64_t disk_count;
    struct wire_welcome_disk disks[LIMIT_DISKS_PER_SERVER]; /* in HELLO's order */
};

/* The way back to disks. After RESTORING the replicator offers every chunk of every disk, in order; the agent answers each OFFER by NEED, gets DATA,
 * writes, and answers ACK. */
struct wire_restore_disk {
    char id[WIRE_ID_SIZE];
};
struct wire_restore {
    int64_t version;
    char agent_version[WIRE_NAME_SIZE];
    char server[WIRE_SERVER_SIZE];
    char point[WIRE_TOKEN_SIZE]; /* "": the newest */
    int64_t disk_count;          /* 0: all of the point's */
    struct wire_restore_disk disks[LIMIT_DISKS_PER_SERVER];
    int64_t from_disk, from_chunk; /* what comes before is on the disks already, from a connection that broke; from_disk: index into RESTORING's */
};
struct wire_restoring {
    int64_t version;
    char replicator[WIRE_SERVER_SIZE];
    char point[WIRE_TOKEN_SIZE];
    int64_t at_us; /* the point's moment */
    int64_t disk_count;
    struct wire_disk disks[LIMIT_DISKS_PER_SERVER]; /* in the order of the OFFERs' disks; name is "" */
    int64_t from_disk, from_chunk; /* where the offers begin: as asked, or 0 and 0 */
};

/* What a machine that runs nothing but the agent says of its own restoring. */
struct wire_rescue {
    int64_t version;
    char agent_version[WIRE_NAME_SIZE];
    char server[WIRE_SERVER_SIZE];
    char point[WIRE_TOKEN_SIZE];
    char state[WIRE_NAME_SIZE]; /* "restoring"; "failed": it tries again; "done": verified, it waits to be told to boot */
    char message[WIRE_TEXT_SIZE];
};

enum wire_consistency {
    WIRE_ANY,   /* crash-consistent where that comes by itself, else frozen */
    WIRE_CRASH, /* never freezes */
    WIRE_FROZEN, /* filesystem-consistent: always freezes */
    WIRE_APPLICATION /* freezes, and the owner's programs ran around it */
};
const char *wire_consistency_name(int64_t consistency); /* "any", "crash", "frozen", "application" */
/* The steps of a point that is taken in step with other servers' (docs/formats/wire.md, "Groups"). */
enum wire_step {
    WIRE_GIVE_UP, /* told only */
    WIRE_READY,   /* come to: little is left to send */
    WIRE_STILL,   /* told: stand still. Come to: what the point will hold is read, and nothing was written meanwhile */
    WIRE_COMMIT   /* told: all of the group stand still */
};
struct wire_take_point {
    int64_t request;     /* the replicator's number for it, not 0 */
    int64_t consistency; /* enum wire_consistency */
    bool hold;           /* stay frozen and still until THAW (or the hold deadline) */
    int64_t timeout_ms;
    int64_t freeze_budget_ms; /* 0: the agent's own */
    int64_t hold_limit_ms;    /* 0: the agent's own (30 minutes): the source thaws by itself then */
    bool group;               /* in step with other servers: one attempt, by POINT_AT and POINT_GO; never held */
    int64_t hope_ms;          /* WIRE_ANY: so long at most a moment without writes is hoped for; 0: the agent's own */
};
struct wire_range {
    int64_t disk; /* index into HELLO's disks */
    int64_t first_sector, sector_count;
};
struct wire_point {
    int64_t request;
    int64_t consistency; /* WIRE_CRASH, WIRE_FROZEN or WIRE_APPLICATION in POINT_COMMIT */
    int64_t at_us;       /* the moment, by the source's clock */
    int64_t freeze_ms;   /* how long the filesystems stood still; held: until all was copied; 0: they didn't */
    bool held;
    int64_t attempts;
    bool group; /* as it was asked for: it counts with the others' only */
    /* Of POINT_COMMIT: what the point has zero bytes for because the source's disks could not be read there, and the first places. */
    int64_t unreadable_bytes;
    int64_t range_count;
    struct wire_range ranges[WIRE_RANGES];
};
/* A second copy: another replicator brings a server's points (docs/formats/wire.md, "Second copies"). */
#define WIRE_COPY_VERSION 1
#define WIRE_GROUP_MOST 32
#define WIRE_PINS_MOST 256
struct wire_copy {
    int64_t version;
    char replicator[WIRE_SERVER_SIZE]; /* who copies: as its certificate says */
    char server[WIRE_SERVER_SIZE];
};
struct wire_copying {
    int64_t version;
    char replicator[WIRE_SERVER_SIZE];
    char point[WIRE_TOKEN_SIZE]; /* the server's newest here; "": none */
    bool exact;                  /* the working map is that point, and nothing else */
    char epoch[WIRE_TOKEN_SIZE]; /* that the working map was last fed from */
    int64_t window_offers;
};
struct wire_member {
    char point[WIRE_TOKEN_SIZE], server[WIRE_SERVER_SIZE];
};
struct wire_copy_point {
    int64_t request;
    char epoch[WIRE_TOKEN_SIZE]; /* of the offers towards this point */
    char point[WIRE_TOKEN_SIZE];
    char base[WIRE_TOKEN_SIZE];  /* only what differs from this one is offered; "": every chunk is */
    int64_t at_us, consistency, freeze_ms;
    int64_t unreadable_bytes, range_count;
    struct wire_range ranges[WIRE_RANGES];
    char group[WIRE_TOKEN_SIZE], group_name[WIRE_TOKEN_SIZE]; /* group "": it is of none */
    int64_t group_at_us, group_window_us, member_count;
    struct wire_member members[WIRE_GROUP_MOST];
    int64_t disk_count;
    struct wire_disk disks[LIMIT_DISKS_PER_SERVER]; /* name is "" */
};
struct wire_pin {
    char point[WIRE_TOKEN_SIZE], reason[WIRE_NAME_SIZE];
};
struct wire_copy_pins {
    int64_t request, pin_count;
    struct wire_pin pins[WIRE_PINS_MOST];
    int64_t ended_count;
    struct wire_pin ended[WIRE_PINS_MOST]; /* that nobody keeps any more, of points that the copier has */
};
struct wire_copy_pinned {
    int64_t request, value; /* so many of the pins name points that are not here */
    int64_t unsaid_count;
    struct wire_pin unsaid[WIRE_PINS_MOST]; /* the copier's pins of before that it did not say this time: they stay until it says that they have ended */
};

struct wire_point_done {
    int64_t request;
    char point[WIRE_TOKEN_SIZE];
};
struct wire_failure {
    int64_t request;
    char kind[WIRE_NAME_SIZE]; /* err_meaning(…)->name */
    char message[WIRE_TEXT_SIZE];
};
enum err_kind wire_failure_kind(const struct wire_failure *f); /* never ERR_NONE: whoever says that nothing failed is broken (ERR_PROTOCOL) */
struct wire_simple {
    int64_t request;
    int64_t value;
};
struct wire_move {
    int64_t request;
    char replicator[WIRE_SERVER_SIZE]; /* the name that its certificate must bear */
    char address[WIRE_NAME_SIZE];      /* numeric, or a name that the agent's proxy knows */
    int64_t port;
};
struct wire_limit {
    int64_t request;
    int64_t value;            /* bytes a second on the wire; 0: no limit */
    int64_t read_bytes_per_s; /* from disks, outside points; 0, and where it is missing: no limit */
    int64_t cpu_percent;      /* of one processor; 0, and where it is missing: no limit */
};
struct wire_thawed {
    int64_t request;
    bool was_held; /* false: there was nothing to thaw, or the hold deadline had ended it */
    bool still;    /* no write completed on any disk from the point to the thaw */
    int64_t held_ms;
};
struct wire_hash_disk {
    char id[WIRE_ID_SIZE];
    int64_t from_chunk; /* the hashes before it are there, from an earlier request of the run */
};
struct wire_hash {
    int64_t request;
    int64_t run; /* all requests of one hashing, over as many connections as it takes, have one number; 0: of none */
    int64_t disk_count; /* 0: all */
    struct wire_hash_disk disks[LIMIT_DISKS_PER_SERVER];
};
struct wire_hashed_disk {
    char id[WIRE_ID_SIZE];
    int64_t size_bytes;
    uint8_t sha256[HASH_SHA256_SIZE]; /* of exactly size_bytes, without filling */
};
struct wire_hash_done {
    int64_t request;
    bool still; /* a point was held, and no write completed on any disk from that point to the end of hashing */
    int64_t disk_count;
    struct wire_hashed_disk disks[LIMIT_DISKS_PER_SERVER];
};
struct wire_status {
    char state[WIRE_NAME_SIZE]; /* process.md: "INITIATING", "INITIAL_SYNC", "CONTINUOUS", … */
    char tracker[WIRE_NAME_SIZE];
    int64_t bytes_total;        /* of all disks */
    int64_t bytes_read;         /* from disks, since the agent started */
    int64_t bytes_sent;         /* in frames */
    int64_t bytes_done;         /* of bytes_total: in the replicator's map as of this round (initial sync, rescan) */
    int64_t backlog_bytes;      /* marked or not yet acknowledged: pages where only pages are to do */
    int64_t lag_ms;             /* since when there is a backlog; 0: none */
    int64_t eta_ms;             /* until the backlog is gone, churn counted; -1: unknown; -2: never */
    int64_t rate_bytes_per_s;   /* of disk content made durable there, by the time in which something was on its way; -1: unknown */
    int64_t churn_bytes_per_s;  /* newly marked: pages, or chunks where no more is known; -1: unknown */
    int64_t limit_bytes_per_s;  /* in force on the wire; 0: none */
    char bottleneck[WIRE_NAME_SIZE]; /* "": nothing holds it up, "source", "limit", "link" or "replicator" */
    /* An I/O of the source's own, in microseconds (0: not known): of late, while the agent rests or reads slowly, while it reads; and what the
     * agent holds its reading to because it takes longer (0: it does not). */
    int64_t source_latency_us, source_latency_without_us, source_latency_with_us, backoff_bytes_per_s;
    bool held;
    char tracker_reason[WIRE_TEXT_SIZE]; /* why tracker is "rescan" */
    int64_t rescan_interval_s;           /* how often then */
    int64_t scan_ms;                     /* and how long it took the last time to read all disks for it; 0: it has not been done yet */
    char note_kind[WIRE_NAME_SIZE]; /* "": none; "marks_lost", "agent_restarted", "state_lost": why all is read again; "disks_changed" */
    char note[WIRE_TEXT_SIZE];
    int64_t unreadable_bytes;        /* sectors that can't be read: the map holds zero bytes there */
    char unreadable[WIRE_TEXT_SIZE]; /* which, in words; "": none */
    char error_kind[WIRE_NAME_SIZE]; /* "": none */
    char error[WIRE_TEXT_SIZE];
};

/* Any of the JSON messages above by its type. message_size is checked against the type's struct (MUST). Of text, each byte that is no UTF-8 goes
 * out as a '?'. */
void wire_json_encode(unsigned type, const void *message, size_t message_size, struct buf *out);
int wire_json_decode(unsigned type, const void *payload, size_t size, void *message, size_t message_size, struct err *e);
