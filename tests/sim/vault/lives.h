/* lives: what the simulation of the vault knows: every content that was ever made, what was asked of the vault, and what it has answered. It lies in memory
 * that a life (a process that ends with the power) shares with the next one. */
#pragma once

#include "forget.h"
#include "tap.h"
#include "vault/vault.h"

#define CHUNK VAULT_CHUNK_BYTES
#define DISKS 3
#define SERVERS 2
#define CHUNKS_MOST 72
#define CONTENTS_MOST 8192
#define CHANGES_MOST 4096
#define POINTS_MOST 512
#define REASONS 2
#define KEYS_MOST 4

enum { UNKNOWN = -1, ZEROS = 0 }; /* contents; the others are made */

/* A chunk's bytes: its parent's, with the pages of mask made from seed; parent UNKNOWN: all of them. */
struct content {
    int parent;
    uint32_t mask;
    uint64_t seed;
    struct vault_hash hash;
};

/* One change that was asked for, whether or not it came to be. */
struct change_model {
    uint64_t number;
    int disk, chunk, content;
};

struct disk_model {
    int server;
    char id[8];
    uint64_t size_bytes;
    int chunk_count;
    int before[CHUNKS_MOST]; /* as this life found it */
    int now[CHUNKS_MOST];
};

struct server_model {
    char name[8];
    uint64_t number; /* of the last change */
    uint64_t fed;    /* what vault_feed_set was told last */
    uint64_t synced; /* of that, what was acknowledged as durable */
    bool stalled;    /* something failed in this life: its maps are not known, and it sends no more */
    struct change_model changes[CHANGES_MOST]; /* since this life began */
    int change_count;
};

enum standing {
    ASKED, /* a commit that was not answered, or failed: it may be there */
    THERE, /* acknowledged, or seen */
    GOING, /* dropping it was asked for, and not answered */
    GONE
};

enum pin { FREE, PINNED, EITHER };

struct point_model {
    char id[VAULT_POINT_ID_SIZE], group[VAULT_POINT_ID_SIZE]; /* group "": it was asked for alone */
    int server;
    enum standing standing;
    bool seen;        /* by the look that is under way */
    bool adopted;     /* and nobody was told of it before */
    int disks_seen;   /* by another reader */
    enum pin pins[REASONS];
    int chunks[DISKS][CHUNKS_MOST];
};

struct model {
    uint64_t seed, now_us;
    int life, failed;
    struct vault_key keys[KEYS_MOST]; /* that may open it, the likeliest first */
    size_t key_count;
    bool killed_in_commit; /* may be: the power goes as soon as the next life has looked at what that left */
    uint64_t fails_collecting; /* not 0: the disk is full for a while after a collection has begun to copy, and this says when and for how long */
    bool rebuild_asked; /* since the last look: working maps and feeds may be lost */
    struct content contents[CONTENTS_MOST];
    int content_count;
    struct disk_model disks[DISKS];
    struct server_model servers[SERVERS];
    struct point_model points[POINTS_MOST];
    int point_count;
    struct forget_count count;
    uint64_t points_read, cuts, cuts_opening, lives, rebuilds, vaults_faulted, groups, rotations, compactions, met, read_by_another; /* over all histories */
};

extern struct model *m;
extern const char *const pin_reasons[REASONS];

/* The history has failed: says why, and goes on. */
#define MUST_HOLD(condition, ...) ((condition) ? true : (failed_line(#condition, __VA_ARGS__), false))
void failed_line(const char *condition, const char *format, ...) __attribute__((format(printf, 2, 3)));

int content_new(int parent, uint32_t mask, uint64_t seed); /* parent UNKNOWN: mask is all of it */
int content_depth(int content); /* how many it lies on */
void content_bytes(int content, uint8_t bytes[static CHUNK]);
void content_pages(int content, uint8_t *pages); /* those of its mask, one after the other */

/* That somebody was told of, or that was seen; NULL: there is none. */
struct point_model *find_point(const char *id);
/* Holds all that the vault has against what it has answered, and takes what is found for what is. False: the disk failed meanwhile. */
bool look(struct vault *v, struct vault_disk handles[static DISKS]);
/* The part of it that writes nothing: whatever it reads must stay, though the power went the moment after. */
void look_first(struct vault *v);
/* One point that is there, byte for byte. */
void look_at_point(struct vault *v, const struct point_model *p);

/* The folder of a vault that nobody has open, by tools/vault_read.py. at_rest: all was answered that was asked for; else the power may just have gone. */
void look_by_another(const char *reader, const char *dir, bool at_rest);
