/* forget_disk: what forget.c (what the disk holds) and forget_calls.c (what the process does) share. */
#pragma once

#include "forget.h"

#include <pthread.h>
#include <sys/stat.h>

#define SECTOR 512u
#define FD_MOST 1024
#define NAME_SIZE 96
#define ROOT_SIZE 2048

/* Since the last flush of a file. bytes NULL: it was cut (or grown) to size. */
struct change {
    uint8_t *bytes;
    uint64_t offset, size;
    bool durable; /* written through */
};

struct node {
    ino_t ino;
    bool folder, gone; /* gone: its last name was taken away, and the number may be another's by now */
    bool named;        /* on the disk; while what the disk holds is written out */
    bool unlike;       /* a flush failed: what is read is not what the disk holds */
    uint8_t *bytes;    /* a file's, as on the disk */
    uint64_t size;
    struct change *changes;
    size_t change_count;
    struct entry *entries; /* a folder's, as on the disk */
    size_t entry_count;
};

struct entry {
    char name[NAME_SIZE];
    struct node *node;
};

/* A name that was made (from NULL), moved, or taken away (to NULL). */
struct naming {
    struct node *from, *to, *node;
    char from_name[NAME_SIZE], to_name[NAME_SIZE];
    bool chosen;
};

extern struct forget {
    pthread_mutex_t lock;
    bool on;
    char root[ROOT_SIZE];
    struct forget_plan plan;
    struct forget_count *count;
    uint64_t state;
    struct node **nodes;
    size_t node_count;
    struct naming *namings;
    size_t naming_count;
    struct {
        struct node *node;
        bool through; /* O_DSYNC */
    } open[FD_MOST];
} f;

uint64_t forget_draw(uint64_t bound);
_Noreturn void forget_blind(const char *what, const char *name);
enum forget_kind { OTHER, FLUSH, WRITE_THROUGH };

/* Whether the next operation, of this kind, is the last. lock held, as for all below. */
bool forget_ends(enum forget_kind kind);
/* Counts an operation that the disk has in its queue by now; ends with the power. The errno of a fault, or 0. */
int forget_step(enum forget_kind kind);
struct node *add_node(ino_t ino, bool folder);
struct node *node_of(ino_t ino);
struct node *node_at(const char *path);
struct node *folder_of(const char *path);
void add_change(struct node *n, const void *bytes, uint64_t offset, uint64_t size, bool durable); /* bytes NULL: cut to size */
void add_naming(struct node *from, const char *from_path, struct node *to, const char *to_path, struct node *node);
void forget_flush(struct node *n);
void forget_read_anew(int fd, struct node *n); /* the real file becomes what the disk holds */
void forget_settle(struct node *n); /* a file's changes that were not flushed are there, or not, or torn */
