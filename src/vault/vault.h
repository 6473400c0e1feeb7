/* vault: each distinct 64 KiB chunk of the whole fleet once, and recovery points made of them.
 *
 * A disk's last chunk is filled up with zeros. Chunks are named by SHA-256, compressed, and appended to immutable segments; an LMDB index says where each lies. Every disk has a
 * *working map* (which chunk is where, now) that a replication session changes, and *recovery points*: copy-on-write trees of chunk
 * names, one root a disk, all disks of a server committed in one transaction. docs/formats/vault.md describes the bytes.
 *
 * Durability: vault_store/map/feed_set are in memory until vault_sync returns 0 (segments synced, then the index committed). A
 * killed process loses what was not synced and nothing else. Every read checks the SHA-256.
 *
 * Threads: all calls may be made from any thread, but one disk's map is changed, and one server's point committed, by one thread at
 * a time (the server's session). One process at a time opens a vault (a lock file holds the others off). The room knows nothing
 * of networks; it does not log. */
#pragma once

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "vault/hash.h"

#define VAULT_CHUNK_BYTES 65536u
#define VAULT_PAGE_BYTES 4096u /* what a delta counts in */
#define VAULT_CHUNK_PAGES (VAULT_CHUNK_BYTES / VAULT_PAGE_BYTES)
#define VAULT_POINT_ID_SIZE 64
#define VAULT_DISK_ID_SIZE 160
#define VAULT_PIN_REASON_SIZE 64

struct vault;

#define VAULT_KEY_SIZE 32
/* What a vault's own keys are wrapped under. */
struct vault_key {
    uint8_t bytes[VAULT_KEY_SIZE];
};
/* A file with a line of 64 hexadecimal digits. */
int vault_key_read(const char *path, struct vault_key *out, struct err *e);
int vault_key_make(const char *path, struct err *e); /* a new one, readable by its owner */

/* Where full segments go, an S3-compatible store, so that their files here are a cache (bucket.h). All strings are copied; NULL where nothing else is said. */
struct vault_bucket {
    const char *url, *bucket;     /* "https://HOST[:PORT]" and the bucket's name: needed */
    const char *prefix;           /* of all keys; NULL: none */
    const char *region, *ca_file; /* NULL: us-east-1; the system's CAs */
    const char *credentials_file; /* needed (s3_sign.h) */
    uint64_t cache_bytes;         /* of segments' files here, those that wait to be sent included; 0: 16 GiB; or, where it is read_only, as much as is here, 1 GiB at least */
    int wait_ms;                  /* a read waits so long for the store at most; 0: 30,000 */
    int retry_ms;                 /* between tries to send, doubled up to a minute; 0: 1,000 */
    size_t upload_count;          /* segments that are sent at once, 16 at most; 0: 4 */
    int lease_ms;                 /* for how long who writes there may do so without looking whether somebody else does; 0: 15,000. All of a prefix say the same */
    int late_ms;                  /* so long after its client gave it up a store may carry out a PUT all the same; 0: an hour */
    bool read_only;               /* nothing is written there: what is full waits for the next opening */
};

struct vault_options {
    uint64_t segment_bytes;    /* 0: 64 MiB; a segment is sealed when the next record would pass it */
    uint64_t guard_bytes;      /* writes are refused (ERR_NO_SPACE) while less than this is free; 0: 256 MiB */
    size_t cache_bytes;        /* of unpacked chunks for readers; 0: 64 MiB */
    const struct clock *clock; /* NULL: the real one */
    const struct vault_key *keys; /* borrowed while it opens; the first is that which a new vault is encrypted with, all may open one */
    size_t key_count;             /* 0: none: a new vault is not encrypted, an encrypted one is refused (ERR_DENIED) */
    size_t work_memory_bytes; /* that giving space back, scrubbing, checking and counting take at most, each while it runs; 0: 512 MiB */
    int scrub_threads;            /* that read at a time in vault_scrub; 0: one */
    const struct vault_bucket *bucket; /* borrowed while it opens; NULL: none: what lies in one can't be read (ERR_UNREACHABLE). Where no vault is
                                          here, and one is there, it is that one */
    bool bucket_needed;                /* for whoever goes on with the vault: ERR_INVALID where segments of it lie in a bucket, and none is given */
};

/* Opens or makes the vault. Repairs what a killed writer left (a torn tail is cut off), makes a missing index anew from the segments (ERR_CORRUPT where the file of its pins can't
 * be read then: points that people want kept would expire). options may be NULL. ERR_CONFLICT when another process has it open, or another vault or replicator writes to its bucket (with a bucket, it may take 20 s to know);
 * ERR_UNSUPPORTED for a later version's. A vault that is not encrypted, opened
 * with a key, is from now on: what it holds already stays as it is until vault_compact moves it, and its names stay SHA-256. */
int vault_open(const char *dir, const struct vault_options *options, struct vault **out, struct err *e);
void vault_close(struct vault **v); /* syncs; NULL inside is fine; for CLEANUP */

/* ---- disks and their working maps ---- */
struct vault_disk {
    char server[LIMIT_NAME_BYTES + 1], id[VAULT_DISK_ID_SIZE];
    uint32_t number;
    uint64_t size_bytes, chunk_count;
    uint64_t known_count; /* chunks that were received at least once (as of the last sync) */
};

/* A server's name: 1 to 128 printable ASCII characters, no slash, no dot at the start. */
int vault_name_check(const char *what, const char *name, struct err *e);
/* A disk's: 1 to 159 printable ASCII characters. */
int vault_disk_check(const char *id, struct err *e);
/* Finds or makes the disk. Where its size changed, the map is cut or grown (what is new is unknown). */
int vault_disk_open(struct vault *v, const char *server, const char *disk, uint64_t size_bytes, struct vault_disk *out, struct err *e);
/* All disks of a server (NULL: of all servers), ordered by server and id; the caller frees *out. Returns the count. */
int vault_disk_list(struct vault *v, const char *server, struct vault_disk **out, struct err *e);
/* All servers that have disks or points here, ordered; the caller frees *out. After the index was made anew there are points without disks. Returns the count. */
int vault_server_list(struct vault *v, char (**out)[LIMIT_NAME_BYTES + 1], struct err *e);
/* Removes a disk's working map (it left the source); points keep theirs. */
int vault_disk_drop(struct vault *v, const char *server, const char *disk, struct err *e);
/* Names of the chunks first … first+count-1 as of the last sync; vault_hash_zero and vault_hash_unknown as they are. */
int vault_disk_read(struct vault *v, const struct vault_disk *d, uint64_t first, size_t count, struct vault_hash *out, struct err *e);

/* Whether the vault has the chunk (1/0/-1); 0 too where its copy is known to be damaged. A running vault_gc may take away what is in no
 * map yet: vault_map tells. */
int vault_has(struct vault *v, const struct vault_hash *hash, struct err *e);
/* Stores a chunk: VAULT_CHUNK_BYTES bytes. ERR_CORRUPT when they do not match *expected (may be NULL). *hash and *stored_bytes (may be
 * NULL): its name (vault_hash_zero for zeros), and what it took on disk (0 for zeros and for one that was there). */
int vault_store(struct vault *v, const void *bytes, const struct vault_hash *expected, struct vault_hash *hash, uint64_t *stored_bytes,
                struct err *e);
/* The same where the caller holds a zstd frame of exactly these bytes (as it came over the wire): it is kept as it is. */
int vault_store_packed(struct vault *v, const void *bytes, const void *packed, size_t packed_size, const struct vault_hash *expected,
                       struct vault_hash *hash, uint64_t *stored_bytes, struct err *e);
/* Stores the chunk that is base's with some pages replaced: those whose bits are set in mask, one after the other in pages. Kept as these
 * pages where that pays. 1, and *hash and *stored_bytes (may be NULL) as above; 0: the base is not there whole, and the chunk is wanted as a
 * whole. */
int vault_store_delta(struct vault *v, const struct vault_hash *base, uint32_t mask, const void *pages, struct vault_hash *hash,
                      uint64_t *stored_bytes, struct err *e);
/* Puts a chunk that the vault has into the map. 0: it has it not, and the map is as before. */
int vault_map(struct vault *v, const struct vault_disk *d, uint64_t index, const struct vault_hash *hash, struct err *e);
/* The name of a chunk in the working map, as of the last vault_map: vault_hash_zero, vault_hash_unknown, or a chunk's. */
int vault_map_get(struct vault *v, const struct vault_disk *d, uint64_t index, struct vault_hash *out, struct err *e);
int vault_map_zero(struct vault *v, const struct vault_disk *d, uint64_t first, uint64_t count, struct err *e);
/* What a server's maps were fed from: the sender's epoch, and its number of the last change in them. Becomes durable in the same
 * transaction as the changes before it. */
struct vault_feed {
    char epoch[64]; /* "": nothing yet */
    uint64_t applied;
    uint64_t stored_bytes; /* what the server's chunks took on disk so far; the vault only keeps it */
};
int vault_feed_set(struct vault *v, const char *server, const struct vault_feed *feed, struct err *e);
int vault_feed_get(struct vault *v, const char *server, struct vault_feed *out, struct err *e); /* as of the last sync; 1/0/-1 */
/* Makes everything so far durable. Calls from many threads share one sync. */
int vault_sync(struct vault *v, struct err *e);

/* ---- recovery points ---- */
struct vault_point_disk {
    char id[VAULT_DISK_ID_SIZE];
    uint64_t size_bytes, changed_bytes; /* changed since the point before */
    struct vault_hash root;
};

/* What a point has zero bytes for because its source could not be read there. */
#define VAULT_UNREADABLE_RANGES 16
struct vault_unreadable {
    uint64_t bytes; /* 0: nothing */
    size_t range_count;
    struct { /* the first of them */
        char disk[VAULT_DISK_ID_SIZE];
        uint64_t first_sector, sector_count; /* of 512 bytes */
    } ranges[VAULT_UNREADABLE_RANGES];
};

struct vault_point {
    char id[VAULT_POINT_ID_SIZE]; /* 20261124T203402123Z-17-4be1: time, number, and a piece of the vault's identity */
    char server[LIMIT_NAME_BYTES + 1];
    int64_t at_us;
    char group[VAULT_POINT_ID_SIZE]; /* of which it is one; "": of none */
    char consistency[16]; /* "crash", "frozen", "application" */
    int64_t freeze_ms;
    uint64_t bytes; /* changed since the point before, over all disks */
    bool copied;    /* it was committed in another vault, and is a copy of that one */
    size_t disk_count;
    struct vault_point_disk disks[LIMIT_DISKS_PER_SERVER];
    struct vault_unreadable unreadable;
};

/* Commits the working maps of all the server's disks as one point, durable when it returns. ERR_WRONG_STATE names a disk that still has chunks
 * never received. at_us 0: now. */
int vault_point_commit(struct vault *v, const char *server, int64_t at_us, const char *consistency, int64_t freeze_ms,
                       struct vault_point *out, struct err *e);
/* The same, marked: its document says what could not be read (NULL: nothing). */
int vault_point_commit_marked(struct vault *v, const char *server, int64_t at_us, const char *consistency, int64_t freeze_ms,
                              const struct vault_unreadable *unreadable, struct vault_point *out, struct err *e);
int vault_point_get(struct vault *v, const char *point, struct vault_point *out, struct err *e); /* 1/0/-1 */
/* The newest limit points, newest first (limit 0: all); the caller frees *out. Returns the count. */
int vault_point_list(struct vault *v, const char *server, size_t limit, struct vault_point **out, struct err *e);
/* {"id","server","at","group","consistency","freeze_ms","bytes","unreadable_bytes","disks":[{"id","size_bytes"}]}; group may be null. Where bytes could
 * not be read: "unreadable":[{"disk","first_sector","sector_count"}], the first of them. Of a copy of another vault's: "copied":true */
json_t *vault_point_json(const struct vault_point *p);
/* A pinned point (exported, wanted by a person) is neither expired nor dropped. Pins by different reasons add up. A pin is durable when this returns. reason: UTF-8. */
int vault_point_pin(struct vault *v, const char *point, const char *reason, struct err *e);
/* After a failure it may be pinned or not, now and once the index is made anew. */
int vault_point_unpin(struct vault *v, const char *point, const char *reason, struct err *e);
/* Pins it by VAULT_LENT_PIN for as long as this process has the vault open, without a word on any disk: reading needs no room. Loans add up. ERR_NOT_FOUND. */
#define VAULT_LENT_PIN "lent"
int vault_point_lend(struct vault *v, const char *point, struct err *e);
/* One loan ends: how many are left; -1 ERR_NOT_FOUND: there was none. */
int vault_point_return(struct vault *v, const char *point, struct err *e);
void vault_loans_end(struct vault *v); /* all of them */
/* Whether it is pinned by that reason (NULL: by any): 1/0/-1. */
int vault_point_pinned(struct vault *v, const char *point, const char *reason, struct err *e);
/* The ids of the points pinned by that reason; the caller frees *ids. Returns the count. */
int vault_pin_list(struct vault *v, const char *reason, char (**ids)[VAULT_POINT_ID_SIZE], struct err *e);
/* The reasons that a point is pinned by, in the order of their bytes, VAULT_LENT_PIN last; the caller frees *reasons. Returns the count (0 too for a point that
 * is not there). */
int vault_point_pins(struct vault *v, const char *point, char (**reasons)[VAULT_PIN_REASON_SIZE], struct err *e);
int vault_point_drop(struct vault *v, const char *point, struct err *e);   /* ERR_WRONG_STATE when pinned, NOT_FOUND when absent */
/* All points and working maps of a server. ERR_WRONG_STATE when one is pinned. Space comes back with the next vault_gc. */
int vault_server_drop(struct vault *v, const char *server, struct err *e);

/* Points of several servers that stand for one instant: all of them become visible in one transaction, or none ever does. */
#define VAULT_GROUP_MOST 32
#define VAULT_GROUP_NAME_SIZE 64
struct vault_group_point {
    char id[VAULT_POINT_ID_SIZE], server[LIMIT_NAME_BYTES + 1];
    struct vault_hash document; /* name of the record that holds the point's document */
};
struct vault_group {
    char id[VAULT_POINT_ID_SIZE]; /* g and what a point's id is made of */
    char name[VAULT_GROUP_NAME_SIZE]; /* a person's; may be "" */
    int64_t at_us, window_us; /* the instant lies in the window that begins then */
    size_t count;
    struct vault_group_point points[VAULT_GROUP_MOST];
};
/* Names a group that is to come; at_us 0: now. */
void vault_group_begin(struct vault *v, const char *name, int64_t at_us, struct vault_group *out);
/* As vault_point_commit_marked, but what is made is not there yet: durable, safe from vault_gc, and gone with the process if nothing follows. A
 * staged point that comes to nothing makes the server's next one count its changed bytes from there. */
int vault_point_stage(struct vault *v, const struct vault_group *g, const char *server, const char *consistency, int64_t freeze_ms,
                      const struct vault_unreadable *unreadable, struct vault_point *out, struct err *e);
void vault_point_unstage(struct vault *v, const char *point); /* twice is fine, and so is one that was committed */
/* g->count and each points[].id say which staged points; the rest of points[] is filled in. */
int vault_group_commit(struct vault *v, struct vault_group *g, struct err *e);
int vault_group_get(struct vault *v, const char *group, struct vault_group *out, struct err *e); /* 1/0/-1; also names points dropped since */

/* A point that was committed in another vault, and comes to this one under its own id. */
struct vault_copied {
    char id[VAULT_POINT_ID_SIZE], server[LIMIT_NAME_BYTES + 1], consistency[16];
    int64_t at_us, freeze_ms;
    struct vault_unreadable unreadable;
    struct vault_group group; /* id "": of none. It names all of its points, those too that are not here and may never come */
    char base[VAULT_POINT_ID_SIZE]; /* the point that it was made of there; "": of none */
};
/* Commits the working maps of all the server's disks as that point, as vault_point_commit_marked does. ERR_CONFLICT where a point of that id is here, or a
 * later one of the server: points come in the order of their moments, but for one that was made of the newest one here: then a clock was set back there. */
int vault_point_commit_copied(struct vault *v, const struct vault_copied *c, struct vault_point *out, struct err *e);
/* Whether the server's working maps are exactly what that point holds: the same disks, each of its size, every chunk: 1/0/-1. */
int vault_map_is(struct vault *v, const char *server, const char *point, struct err *e);

/* Which points stay. A point stands from its moment to that of the server's next one, the newest for now: so it may be the state of hours in which nothing changed.
 * For each rung, of all that stood within the last span_us, the oldest of each step stays (step 0: all), which is the one that was current as the step began; one
 * that stood in many steps is that of all of them. So a rung keeps span_us / step_us + 2 at most. The newest keep_last and the pinned ones always stay (with rungs, the newest
 * whatever keep_last is), and a group's points stay for as long as one of them does so, by the ladder of its server. */
#define VAULT_RUNGS_MOST 8
struct vault_rung {
    int64_t span_us, step_us; /* steps by the wall clock, from 1970 UTC on */
};
struct vault_ladder {
    size_t keep_last, rung_count;
    const struct vault_rung *rungs;
    int64_t (*age_us)(void *user, int64_t at_us); /* how long ago that moment was; NULL: by the vault's clock */
    void *user;
    /* Another server's ladder, for the points of a group: true: *out, with its rungs in rungs; false: nothing of that server expires. NULL: it is this one. */
    bool (*of)(void *user, const char *server, struct vault_rung rungs[static VAULT_RUNGS_MOST], struct vault_ladder *out);
};
extern const struct vault_ladder vault_ladder_default; /* 10 min all, 1 h by minute, 1 d by hour, 3 d by day */
int vault_expire(struct vault *v, const char *server, const struct vault_ladder *ladder, struct err *e); /* how many were dropped */

/* ---- reading a point ---- */
/* One disk of one point, as a flat read-only image. An image is used by one thread at a time; open one for each. */
struct vault_image;
int vault_image_open(struct vault *v, const char *point, const char *disk, struct vault_image **out, struct err *e);
void vault_image_free(struct vault_image **i); /* for CLEANUP */
uint64_t vault_image_size(const struct vault_image *i);
/* ERR_CORRUPT names chunk, segment, point and disk; the chunk is remembered as bad. */
int vault_image_read(struct vault_image *i, void *bytes, size_t size, uint64_t offset, struct err *e);
/* How far from offset the image goes on being zero (or not): *length >= 1, *zero tells which. */
int vault_image_extent(struct vault_image *i, uint64_t offset, uint64_t limit, uint64_t *length, bool *zero, struct err *e);
int vault_image_hash(struct vault_image *i, uint64_t index, struct vault_hash *out, struct err *e); /* the name of a chunk */
bool vault_image_is(const struct vault_image *i, const char *point, const char *disk);
/* The chunks from `from` on that are not the same in base, an image of the same size (MUST), rising; base NULL: all chunks. At most count of them; returns
 * how many, 0 where there are no more. Reads map nodes only, and of these what differs. */
int vault_image_differing(struct vault_image *i, struct vault_image *base, uint64_t from, uint32_t *chunks, size_t count, struct err *e);

/* ---- care ---- */
typedef int vault_progress(uint64_t done, uint64_t total, void *user); /* non-zero stops with ERR_CANCELLED; NULL: none */

struct vault_finding {
    enum err_kind kind;
    char text[512];
};
#define VAULT_FINDINGS_TOLD 1024
struct vault_report {
    uint64_t looked_at, bytes, finding_count;
    size_t told_count;
    struct vault_finding *findings; /* the first VAULT_FINDINGS_TOLD, in words: told_count of them */
};
void vault_report_release(struct vault_report *r); /* for CLEANUP; leaves it empty. The functions below empty what they get first: it must be one, or {0} */
/* {"looked_at","bytes","finding_count","findings":[{"kind","text"}]} */
json_t *vault_report_json(const struct vault_report *r);
/* What opening it has made anew, and what it found damaged, for whoever tells people. */
struct vault_anew {
    bool index; /* there was none, or it was not made to its end: what follows was found. Else the counts are 0 */
    uint64_t segment_count, point_count, pin_count;
    struct vault_report damage; /* of segments and points; where there was an index, only of what it says was acknowledged */
    uint64_t waiting_pin_count; /* of points that are not there; they are kept, should their segments come back */
};
const struct vault_anew *vault_anew(const struct vault *v); /* the vault's */
/* Reads and checks every chunk of a point. 0 with findings means that it looked at everything and found those. ERR_NOT_FOUND also where
 * it was dropped meanwhile, and not all of it was there any more. */
int vault_verify_point(struct vault *v, const char *point, vault_progress *progress, void *user, struct vault_report *out,
                       struct err *e);
/* Every point's tree is whole, every record that it needs lies inside its segment, and none is known to be damaged; each segment has its header and trailer; reads no chunk.
 * What is dropped and given back meanwhile is no finding. */
int vault_check(struct vault *v, struct vault_report *out, struct err *e);
/* Reads and checks every record that the index knows, and each segment's header and trailer, and names the points that use a damaged one. */
int vault_scrub(struct vault *v, vault_progress *progress, void *user, struct vault_report *out, struct err *e);
/* ERR_CORRUPT when the point needs a chunk that is known to be bad, and names it with disk and byte (cheap where none is). */
int vault_point_usable(struct vault *v, const char *point, struct err *e);

struct vault_stat {
    uint64_t chunk_count, segment_count, point_count, disk_count, bad_count;
    uint64_t raw_bytes, stored_bytes; /* of distinct chunks; in segments, wherever they lie */
    uint64_t free_bytes, total_bytes; /* of the file system that holds it: free above the guard */
    uint64_t data_keys, plain_bytes;  /* data keys that it has had (0: it is not encrypted); in segments that are not */
    bool names_hidden;
    uint64_t work_memory_bytes;       /* as it was opened with */
    bool has_bucket, bucket_open; /* there is one; it was opened with it: else what follows is 0 */
    char bucket[256];             /* which */
    uint64_t bucket_kept_count, bucket_kept_bytes;       /* segments that are there for certain */
    uint64_t bucket_waiting_count, bucket_waiting_bytes; /* full ones that are not yet */
    bool bucket_pins_wait;                               /* the pins that lie there are not those of here yet */
    uint64_t bucket_refused_count, bucket_doomed_count;  /* damaged or unreadable here before they were sent; to be removed there */
    enum err_kind bucket_error_kind; /* ERR_NONE: the last try went well */
    char bucket_error[512];
    int64_t bucket_error_us;
};
int vault_stat(struct vault *v, struct vault_stat *out, struct err *e);
/* What takes no walk over all chunks: chunk_count and raw_bytes stay as they are in *out. */
int vault_stat_now(struct vault *v, struct vault_stat *out, struct err *e);
/* {"chunks","chunks_damaged","segments","points","disks","raw_bytes","stored_bytes","free_bytes","total_bytes","work_memory_bytes","bucket":{"at","open","uploaded_segments",
 * "uploaded_bytes","waiting_segments","waiting_bytes","refused_segments","to_remove_segments","error":{"kind","message"}|null,"error_at"}|null} */
json_t *vault_stat_json(const struct vault_stat *s);

/* What takes a look at everything that is known, as vault_gc does, to be told. */
#define VAULT_AGES 5
struct vault_usage {
    uint64_t whole_count, divided_count;  /* chunks whose records hold all of it, or some pages */
    uint64_t page_bytes, packed_bytes;    /* of the pages that records hold: as they are, and stored */
    uint64_t living_bytes;                /* stored: what points and working maps need */
    uint64_t mapped_count, distinct_count; /* chunks of the working maps that are not zero: places, and different ones among them */
    uint64_t index_bytes;                 /* on disk */
    uint64_t points[VAULT_AGES];          /* by the rungs of vault_ladder_default, younger than each; the last: older */
};
int vault_usage(struct vault *v, struct vault_usage *out, struct err *e);
/* {"chunks_whole","chunks_divided","page_bytes","packed_bytes","living_bytes","mapped_chunks","distinct_chunks","index_bytes","points_by_age":[…]} */
json_t *vault_usage_json(const struct vault_usage *u);

/* Places in working maps whose chunk is known to be damaged become unknown: no point is committed over them, and their source is asked for them
 * again at its next session. A map's node that is damaged is made again at the disk's next point. Returns how many places and maps;
 * *servers (may be NULL; the caller frees) names their servers, a line each. Quick where no damage was found since the last time. Headers and trailers of segments that were found damaged are written anew, too, and not counted. */
int vault_forget_damaged(struct vault *v, char **servers, struct err *e);

/* Gives back the space of chunks that no point and no working map uses. Runs beside readers and writers. *freed may be NULL. */
int vault_gc(struct vault *v, uint64_t *freed_bytes, struct err *e);
/* The same, and copies what lives out of every segment of which less than live_percent lives (vault_gc: 50), the one that is being filled
 * included. seal_anew: out of every one that is not sealed under the newest data key, too. */
#define VAULT_COMPACT_LIVE 80u /* what `slipway vault compact` asks for */
int vault_compact(struct vault *v, unsigned live_percent, bool seal_anew, uint64_t *freed_bytes, struct err *e);
/* Makes the index anew from the segments and the file of its pins; the vault must not be open. Working maps are lost (the next session rescans). The index of before
 * is in index.before after. options: its keys; may be NULL. Errors as vault_open. */
int vault_rebuild(const char *dir, const struct vault_options *options, struct err *e);
/* A new data key for all that is written from now on; what is there keeps its own until it is moved. wrap (may be NULL): the vault's keys are
 * wrapped under this one instead, and the one before does not open it any more. ERR_WRONG_STATE: it is not encrypted. */
int vault_rotate(struct vault *v, const struct vault_key *wrap, struct err *e);
