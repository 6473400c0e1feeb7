/* bucket_private: what bucket.c and bucket_*.c share. */
#pragma once

#include "vault/bucket.h"
#include "vault/internal.h"
#include "vault/s3.h"

#include <stdatomic.h>

#define BUCKET_IDLE_MOST 8
#define BUCKET_WANTED_MOST 16
#define BUCKET_UPLOADS_MOST 16
#define BUCKET_KEY_SIZE 1100
#define BUCKET_REST_US (600 * US_PER_S) /* a segment that can't be read here, or not be brought from there, is not tried again before that */

struct segment_use {
    uint32_t id;
    bool taken;      /* else it is nobody's */
    int64_t used_us; /* monotonic; 0: not since the start */
    unsigned misses; /* read from the store since it was here last */
    bool refused;    /* its file is damaged: it is not sent */
    int64_t again_us; /* monotonic: nor before then: its file could not be read, or was gone. Of one that is kept there: it is not brought before then */
    int64_t removed_us; /* monotonic: when its object was removed, for a first time; 0: it was not */
    bool lacking;    /* it is kept there, not whole here, and could not be brought */
    bool sending;    /* a sender has it: it is not to be removed there meanwhile */
};

/* bucket_claim.c */
#define CLAIM_LEASE_MS 15000
enum claim_state { CLAIM_NONE /* not yet: perhaps another's is watched */, CLAIM_TAKEN /* written; not waited for long enough */, CLAIM_HELD, CLAIM_LOST };
struct claim {
    char holder[33], host[65], folder[512]; /* ours */
    int64_t lease_us;
    uint64_t count;                         /* rises with each writing */
    json_t *seen;                           /* another's, as it is watched */
    unsigned changes;                       /* of it, since we look */
    int64_t seen_us, taken_us;              /* since when; when ours was there: INT64_MAX: nobody knows. Since the boot (clock_boot_us), as what follows */
    pthread_t thread;
    bool runs;
    /* Guarded by the bucket's lock: */
    enum claim_state state;
    int64_t valid_us; /* of CLAIM_HELD: until then we may write */
    struct err why;   /* of the last look; for good where it is lost */
    bool stop;
    pthread_cond_t stirred;
};

/* bucket_send.c: a thread that sends one segment after the other. */
struct sender {
    struct bucket *b;
    pthread_t thread;
    bool runs;
    struct s3 *client; /* its own: what is sent is broken off where the claim is no longer held */
    /* Guarded by the bucket's lock: */
    enum { SENDER_IDLE, SENDER_GIVEN, SENDER_DONE } state;
    uint32_t id;
    struct err why; /* of SENDER_DONE */
};

struct bucket {
    struct vault *v;
    char *url, *name, *prefix, *region, *ca_file; /* prefix: "" or with a slash at its end */
    uint64_t cache_bytes;
    int64_t wait_us, retry_us, late_us;
    bool read_only;      /* nothing is written there */
    size_t upload_count; /* senders that there are to be */
    struct claim claim;
    struct sender *senders;
    size_t sender_count;
    struct s3_keys keys;
    pthread_t thread;
    bool runs;
    struct s3 *writer; /* the thread's, for what it writes and removes there: broken off where the claim is no longer held. NULL: not made yet */
    atomic_bool stopping;
    atomic_ullong pins_sent; /* of the vault's pins_written, when what lies there was read */

    pthread_mutex_t lock; /* guards what follows; the last of all */
    pthread_cond_t stirred, given; /* the bucket's thread; the senders */
    bool stir;
    struct s3 *idle[BUCKET_IDLE_MOST]; /* clients that nobody uses now */
    size_t idle_count;
    char *marker;                      /* vault.json as it lies there, which says that it is ours; NULL: not seen yet */
    struct segment_use *uses;          /* by a hash of its number; what use_of gave moves when another one comes */
    size_t use_count, use_size;
    uint32_t wanted[BUCKET_WANTED_MOST]; /* to be brought whole */
    size_t wanted_count;
    uint32_t held;
    struct err trouble; /* of the thread's last try */
    int64_t trouble_us; /* wall */
    uint32_t foreign;   /* a segment that was not sent from here, and whose object is there: another copy of this vault is that vault. 0: none is known of */
    bool alone;         /* that there is none was looked at */
    struct err lack;    /* why the last one that is lacking could not be brought */
    int64_t lack_us;    /* wall */
};

/* bucket.c */
/* cancelled: NULL: the exchange goes on when all ends. small_timeout_ms: 0: as s3.c has it. */
int client_open(struct bucket *b, bool (*cancelled)(void *bucket), int small_timeout_ms, struct s3 **out, struct err *e);
int client_take(struct bucket *b, struct s3 **out, struct err *e);
void client_give(struct bucket *b, struct s3 **client);
void segment_key(const struct bucket *b, uint32_t id, char out[static BUCKET_KEY_SIZE]);
/* 1: it is ours; 0: nobody's, and segments of this vault never were there. */
int bucket_look(struct bucket *b, struct s3 *client, struct err *e);
/* The bucket is this vault's. Nothing is believed of it before. */
int bucket_meet(struct bucket *b, struct s3 *client, struct err *e);
/* The same, and made so where it is empty and should be. Its vault.json is that of here after: what is sealed under a new data key comes after it. With the
 * claim held, by one thread. */
int bucket_mark(struct bucket *b, struct s3 *client, struct err *e);
bool bucket_is_marked(struct bucket *b); /* it is that of here still */
struct segment_use *use_of(struct bucket *b, uint32_t id); /* lock held */
bool tells_of_bytes(enum err_kind kind); /* and not of the store */

/* bucket_files.c: the files here */
char *maps_path(const struct bucket *b, uint32_t id);
bool segment_is_here(const struct bucket *b, uint32_t id);
/* In the place of what is here. whole: or not at all (ERR_CORRUPT); row: NULL where the index is made anew. */
int segment_bring(struct bucket *b, struct s3 *client, uint32_t id, const struct segment_row *row, bool whole, struct err *e);
int bucket_shrink(struct bucket *b, struct err *e);
uint64_t bucket_here_bytes(struct bucket *b);
void bucket_sweep(struct bucket *b); /* what a killed process left half brought */

/* bucket_claim.c: who may write there */
json_t *claim_parse(const char *text, size_t size); /* NULL: it is none, or damaged */
void claim_init(struct bucket *b, int lease_ms); /* 0: CLAIM_LEASE_MS */
/* Looks, and has a thread do so from now on. Where another's is there it waits until that one is known to be dead, or (ERR_CONFLICT) alive; but not where it is of this
 * folder itself, and must is false: that is found out by and by. must false: that the store can't be asked is no failure. */
int claim_begin(struct bucket *b, bool must, struct err *e);
void claim_end(struct bucket *b); /* given up; when nobody writes any more */
int claim_holds(struct bucket *b, struct err *e); /* 1: we may write; 0: not yet; -1: the last look failed, and we may not */

/* bucket_pins.c */
bool bucket_pins_wait(struct bucket *b); /* what lies there is not what is here */
int bucket_pins_send(struct bucket *b, struct err *e); /* 1: they were sent, or can be soon; 0: nothing is to do. With the claim held, by the bucket's thread */
/* The file's text out of the object, which is unsealed in place. ERR_CORRUPT; ERR_UNSUPPORTED: of a later version. */
int bucket_pins_unpack(const struct seal *seal, uint8_t *bytes, size_t size, struct buf *text, struct err *e);

/* bucket_send.c */
/* Of a segment that was not sent from here: ERR_CONFLICT where its object is there, and as long as it is, nothing is written or removed there (b->foreign). */
int check_unsent(struct bucket *b, struct s3 *client, uint32_t id, struct err *e);
bool writing_is_over(void *bucket); /* for whatever is written there: what is on its way when the claim ends is broken off */
int senders_start(struct bucket *b, size_t count, struct err *e);
void senders_stop(struct bucket *b); /* b->stopping is set */
/* False: all are busy. */
bool senders_give(struct bucket *b, uint32_t id);
size_t senders_busy(struct bucket *b);
/* What has come back since: 1: all of that was sent; 0: nothing has; -1: the first one that failed. */
int senders_collect(struct bucket *b, struct err *e);
