/* bucket_files: segments' files here, as a cache before the store: brought whole, looked at, dropped. */
#include "base/file.h"
#include "vault/bucket_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PART ".part-" /* in the names of files that are not whole yet */

char *maps_path(const struct bucket *b, uint32_t id) { return xasprintf("%s/%010u.maps", b->v->segment_dir, id); }

bool segment_is_here(const struct bucket *b, uint32_t id)
{
    CLEANUP(free_ptr) char *path = segment_path(b->v->segment_dir, id);

    return file_exists(path);
}

int segment_look(const struct vault *v, uint32_t id, const char *path, const struct segment_row *row, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct segment_state state;

    if (fd < 0)
        return err_errno(e, errno, "can't open %s", path);
    if (segment_scan(fd, 0, NULL, NULL, &state, e) < 0)
        return -1;
    if (memcmp(state.header.vault_id, v->id, VAULT_ID_SIZE) != 0 || state.header.id != id)
        return err_set(e, ERR_CORRUPT, "segment %u: it is another vault's, or another one", id);
    if (!state.sealed || (row && (state.end != row->committed || state.record_count != row->record_count)))
        return err_set(e, ERR_CORRUPT, "segment %u: it is damaged at offset %llu", id, (unsigned long long)state.end);
    return 0;
}

/* ---- bringing ---- */

static int room_for(const struct bucket *b, uint64_t size, struct err *e)
{
    struct statvfs st;

    if (statvfs(b->v->segment_dir, &st) < 0)
        return err_errno(e, errno, "can't ask for the free space of %s", b->v->segment_dir);
    if ((uint64_t)st.f_bavail * st.f_frsize < b->v->options.guard_bytes + size)
        return err_set(e, ERR_NO_SPACE, "no room to bring a segment from the bucket %s", b->name);
    return 0;
}

static int bring_to(struct bucket *b, struct s3 *client, uint32_t id, const struct segment_row *row, bool whole, const char *part, int fd, struct err *e)
{
    CLEANUP(free_ptr) char *path = segment_path(b->v->segment_dir, id);
    char key[BUCKET_KEY_SIZE];
    struct segment_row now;
    uint64_t size;
    bool kept;
    int r;

    segment_key(b, id, key);
    if (s3_get_file(client, key, fd, &size, e) < 0)
        return -1;
    if (whole && segment_look(b->v, id, part, row, e) < 0)
        return err_wrap(e, "%s in the bucket %s", key, b->name);
    if (fsync(fd) < 0)
        return err_errno(e, errno, "can't sync %s", part);
    /* A file that came after vault_gc took its segment away would be one without a row: taken in again one day, with points that were dropped. */
    use_begin(b->v);
    kept = !row || (segment_row_get(b->v, id, &now, NULL) == 1 && now.flags & SEGMENT_KEPT && !(now.flags & SEGMENT_DOOMED));
    r = !kept ? err_set(e, ERR_CONFLICT, "segment %u was given back meanwhile", id) : rename(part, path) < 0 ? err_errno(e, errno, "can't keep %s", path) : 0;
    use_end(b->v);
    return r < 0 ? -1 : file_sync_dir(b->v->segment_dir, e);
}

int segment_bring(struct bucket *b, struct s3 *client, uint32_t id, const struct segment_row *row, bool whole, struct err *e)
{
    CLEANUP(free_ptr) char *part = xasprintf("%s/%010u" PART "XXXXXX", b->v->segment_dir, id);
    CLEANUP(close_fd) int fd = -1;

    if (room_for(b, row ? row->committed : b->v->options.segment_bytes, e) < 0 || bucket_meet(b, client, e) < 0)
        return -1;
    fd = mkostemp(part, O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, errno, "can't make %s", part);
    if (bring_to(b, client, id, row, whole, part, fd, e) < 0) {
        unlink(part);
        return -1;
    }
    pthread_mutex_lock(&b->lock);
    *use_of(b, id) = (struct segment_use){.id = id, .taken = true, .used_us = clock_monotonic_us()};
    pthread_mutex_unlock(&b->lock);
    return 0;
}

int bucket_hold(struct vault *v, uint32_t segment, struct err *e)
{
    CLEANUP(free_ptr) char *path = segment_path(v->segment_dir, segment);
    struct bucket *b = v->bucket;
    struct segment_row row;
    struct s3 *client;
    int r;

    if (b) {
        pthread_mutex_lock(&b->lock);
        b->held = segment;
        pthread_mutex_unlock(&b->lock);
    }
    if (!segment || segment_row_get(v, segment, &row, NULL) != 1 || !(row.flags & SEGMENT_KEPT) || segment_look(v, segment, path, &row, NULL) == 0)
        return 0;
    if (!b)
        return bucket_missing(v, e);
    if (client_take(b, &client, e) < 0)
        return -1;
    r = segment_bring(b, client, segment, &row, true, e);
    client_give(b, &client);
    return r;
}

void bucket_sweep(struct bucket *b)
{
    DIR *dir = opendir(b->v->segment_dir);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        const char *dot = strrchr(entry->d_name, '.');
        unsigned long id = strtoul(entry->d_name, NULL, 10);
        struct segment_row row;

        if (strstr(entry->d_name, PART) ||
            (dot && strcmp(dot, ".maps") == 0 && id <= UINT32_MAX && segment_row_get(b->v, (uint32_t)id, &row, NULL) == 0))
            unlinkat(dirfd(dir), entry->d_name, 0);
    }
    if (dir)
        closedir(dir);
}

/* ---- dropping ---- */

struct copying {
    int from, to;
};

static int copy_map(const struct record *r, uint64_t offset, const uint8_t *payload, void *user, struct err *e)
{
    struct copying *c = user;
    uint8_t header[RECORD_HEADER_SIZE];

    if (r->kind == RECORD_CHUNK)
        return 0;
    return fd_pread_all(c->from, header, sizeof header, (int64_t)offset, e) < 0 || fd_pwrite_all(c->to, header, sizeof header, (int64_t)offset, e) < 0
               ? -1 : fd_pwrite_all(c->to, payload, r->stored_size, (int64_t)(offset + sizeof header), e);
}

static int copy_maps(struct bucket *b, uint32_t id, const char *path, const struct segment_row *row, const char *part, int to, struct err *e)
{
    CLEANUP(free_ptr) char *maps = maps_path(b, id);
    CLEANUP(close_fd) int from = open(path, O_RDONLY | O_CLOEXEC);
    struct copying c = {from, to};
    struct segment_state state;

    if (from < 0)
        return err_errno(e, errno, "can't open %s", path);
    if (segment_scan(from, 0, copy_map, &c, &state, e) < 0)
        return -1;
    if (!state.sealed || state.end != row->committed || state.record_count != row->record_count)
        return err_set(e, ERR_CORRUPT, "segment %u is damaged here", id);
    if (ftruncate(to, (off_t)(state.end + SEGMENT_TRAILER_SIZE)) < 0 || fsync(to) < 0 || rename(part, maps) < 0)
        return err_errno(e, errno, "can't keep %s", maps);
    return file_sync_dir(b->v->segment_dir, e);
}

/* All but its chunks stays here. ERR_CORRUPT: the file is damaged, and may not go as it is. */
static int keep_maps(struct bucket *b, uint32_t id, const char *path, const struct segment_row *row, struct err *e)
{
    CLEANUP(free_ptr) char *maps = maps_path(b, id), *part = xasprintf("%s" PART "XXXXXX", maps);
    CLEANUP(close_fd) int to = -1;

    if (file_exists(maps)) /* a segment never changes: nor do they */
        return 0;
    to = mkostemp(part, O_CLOEXEC);
    if (to < 0)
        return err_errno(e, errno, "can't make %s", part);
    if (copy_maps(b, id, path, row, part, to, e) < 0) {
        unlink(part);
        return -1;
    }
    return 0;
}

struct cached {
    uint32_t id;
    uint64_t size_bytes;
    int64_t used_us, made_us;
};

struct cached_list {
    struct cached *items;
    size_t count;
    uint64_t bytes;
};

static int by_use(const void *x, const void *y)
{
    const struct cached *a = x, *b = y;

    if (a->used_us != b->used_us)
        return a->used_us < b->used_us ? -1 : 1;
    return a->made_us < b->made_us ? -1 : a->made_us > b->made_us;
}

static void list_files(struct bucket *b, struct cached_list *out)
{
    DIR *dir = opendir(b->v->segment_dir);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        uint32_t id = segment_id_of_name(entry->d_name);
        struct stat st;

        if (!id || fstatat(dirfd(dir), entry->d_name, &st, 0) < 0)
            continue;
        pthread_mutex_lock(&b->lock);
        out->items = xrealloc(out->items, (out->count + 1) * sizeof *out->items);
        out->items[out->count++] = (struct cached){id, (uint64_t)st.st_blocks * 512, use_of(b, id)->used_us, st.st_mtim.tv_sec * US_PER_S};
        pthread_mutex_unlock(&b->lock);
        out->bytes += (uint64_t)st.st_blocks * 512;
    }
    if (dir)
        closedir(dir);
}

static bool too_much(const struct bucket *b, uint64_t bytes)
{
    struct statvfs st;

    return bytes > b->cache_bytes || (statvfs(b->v->segment_dir, &st) == 0 && (uint64_t)st.f_bavail * st.f_frsize < 2 * b->v->options.guard_bytes);
}

static bool is_held(struct bucket *b, uint32_t id)
{
    bool held;

    pthread_mutex_lock(&b->lock);
    held = b->held == id;
    pthread_mutex_unlock(&b->lock);
    return held;
}

/* 1: it is gone; 0: it stays. */
static int drop(struct bucket *b, uint32_t id, struct err *e)
{
    CLEANUP(free_ptr) char *path = segment_path(b->v->segment_dir, id);
    struct segment_row row;
    struct err why = {0};
    int found = segment_row_get(b->v, id, &row, e), gone;

    if (found <= 0 || is_held(b, id) || !(row.flags & SEGMENT_KEPT) || row.flags & SEGMENT_DOOMED)
        return found < 0 ? -1 : 0;
    if (keep_maps(b, id, path, &row, &why) < 0) {
        if (why.kind == ERR_CORRUPT)
            bucket_want(b, id); /* the store has it whole: it comes in this one's place */
        return why.kind == ERR_CORRUPT || why.kind == ERR_NOT_FOUND ? 0 : err_set(e, why.kind, "%s", why.message);
    }
    pthread_mutex_lock(&b->lock); /* whoever holds it from now on finds it gone */
    gone = b->held != id && (unlink(path) == 0 || errno == ENOENT);
    pthread_mutex_unlock(&b->lock);
    return gone;
}

uint64_t bucket_here_bytes(struct bucket *b)
{
    struct cached_list l = {0};

    list_files(b, &l);
    free(l.items);
    return l.bytes;
}

int bucket_shrink(struct bucket *b, struct err *e)
{
    struct cached_list l = {0};
    int r = 0;

    list_files(b, &l);
    if (l.count)
        qsort(l.items, l.count, sizeof *l.items, by_use);
    for (size_t i = 0; r >= 0 && i < l.count && too_much(b, l.bytes); i++) {
        r = drop(b, l.items[i].id, e);
        if (r == 1)
            l.bytes -= l.items[i].size_bytes;
    }
    free(l.items);
    return r < 0 ? -1 : 0;
}
