#include "vault/index.h"
#include "base/file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Address space only: the file grows as it is used. About 250 bytes a chunk (bench/run vault): room for 60 TiB of distinct data, and for four times as much as there is
 * when it is opened. */
#define INDEX_MAP_BYTES (UINT64_C(256) << 30)
#define INDEX_ROOM 4
#define INDEX_READERS 1024
#define FULL_BYTES (64 << 10) /* less than what a commit may need */

static const char *const table_name[INDEX_TABLES] = {
    [INDEX_CHUNK] = "chunk", [INDEX_DISK] = "disk",       [INDEX_WORK] = "work",   [INDEX_DIRTY] = "dirty",
    [INDEX_POINT] = "point", [INDEX_GROUP] = "group", [INDEX_ORDER] = "order",     [INDEX_PIN] = "pin",     [INDEX_SEGMENT] = "segment",
    [INDEX_FEED] = "feed", [INDEX_GRAVE] = "grave", [INDEX_BAD] = "bad",         [INDEX_BASE] = "base",
    [INDEX_META] = "meta",
};

int index_fail(struct err *e, int code, const char *what)
{
    if (code > 0)
        return err_errno(e, code, "the vault's index: can't %s", what);
    switch (code) {
    case MDB_MAP_FULL: return err_set(e, ERR_LIMIT, "the vault's index is full: can't %s: start again, it has room for four times as much then", what);
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
        return err_set(e, ERR_CORRUPT, "the vault's index is damaged (%s): move the folder index/ away and start again, it is made "
                       "anew from the segments", mdb_strerror(code));
    default: return err_set(e, ERR_IO, "the vault's index: can't %s: %s", what, mdb_strerror(code));
    }
}

static int open_tables(struct vault_index *x, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    if (index_begin(x, true, &txn, e) < 0)
        return -1;
    for (int t = 0; t < INDEX_TABLES; t++) {
        int code = mdb_dbi_open(txn, table_name[t], MDB_CREATE, &x->table[t]);

        if (code)
            return index_fail(e, code, "open a table");
    }
    return index_commit(&txn, e);
}

static uint64_t map_bytes(const char *file)
{
    struct stat st;
    uint64_t bytes = INDEX_MAP_BYTES;

    while (stat(file, &st) == 0 && bytes < INDEX_ROOM * (uint64_t)st.st_size)
        bytes *= 2;
    return bytes;
}

/* file: where LMDB keeps it, which is path or lies in it. */
static int open_at(const char *path, const char *file, unsigned flags, struct vault_index *out, struct err *e)
{
    struct vault_index x = {0};
    int code = mdb_env_create(&x.env);

    if (code)
        return index_fail(e, code, "start");
    /* None of the flags that write later or through the mapping: a commit syncs its pages before the one sector that makes them count. */
    if ((code = mdb_env_set_maxdbs(x.env, INDEX_TABLES)) || (code = mdb_env_set_mapsize(x.env, map_bytes(file))) ||
        (code = mdb_env_set_maxreaders(x.env, INDEX_READERS)) ||
        (code = mdb_env_open(x.env, path, MDB_NOTLS | MDB_NORDAHEAD | flags, 0600))) {
        index_close(&x);
        return index_fail(e, code, "open it");
    }
    if (open_tables(&x, e) < 0) {
        index_close(&x);
        return -1;
    }
    *out = x;
    return 0;
}

/* LMDB begins a file by writing to it unsynced, and takes one that was half begun for damaged. So it is begun under another name, and gets its own
 * when it is whole and synced. */
static int make_file(const char *path, struct err *e)
{
    CLEANUP(free_ptr) char *new = xasprintf("%s.new", path), *lock = xasprintf("%s.new-lock", path);
    CLEANUP(index_close) struct vault_index x = {0};

    if (unlink(new) < 0 && errno != ENOENT)
        return err_errno(e, errno, "can't remove %s", new);
    if (open_at(new, new, MDB_NOSUBDIR, &x, e) < 0)
        return -1;
    index_close(&x);
    return unlink(lock) < 0 || rename(new, path) < 0 ? err_errno(e, errno, "can't make %s", path) : 0;
}

int index_open(const char *dir, struct vault_index *out, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/data.mdb", dir);
    int code;

    if (file_make_dirs(dir, 0700, e) < 0 || (!file_exists(path) && make_file(path, e) < 0))
        return -1;
    if (open_at(dir, path, 0, out, e) < 0)
        return -1;
    /* A process that was killed in a commit may have left it to be read, and not on the disk: what is believed from now on must stay. */
    code = mdb_env_sync(out->env, 1);
    if (code) {
        index_close(out);
        return index_fail(e, code, "sync it");
    }
    return 0;
}

void index_close(struct vault_index *x)
{
    if (x->env)
        mdb_env_close(x->env);
    x->env = NULL;
}

static _Thread_local const MDB_txn *writing; /* this thread's transaction that writes */

bool index_writes_here(void) { return writing; }

int index_begin(const struct vault_index *x, bool write, MDB_txn **out, struct err *e)
{
    int code;

    MUST(!write || !writing); /* it would wait for itself */
    code = mdb_txn_begin(x->env, NULL, write ? 0 : MDB_RDONLY, out);
    if (code) {
        *out = NULL;
        return index_fail(e, code, "begin a transaction");
    }
    if (write)
        writing = *out;
    return 0;
}

static void note_end(const MDB_txn *txn)
{
    if (txn == writing)
        writing = NULL;
}

/* LMDB says EIO where a write came out short: on a full disk that is no fault of the disk. */
static bool disk_is_full(MDB_env *env)
{
    struct statvfs st;
    int fd;

    return mdb_env_get_fd(env, &fd) == 0 && fstatvfs(fd, &st) == 0 && (uint64_t)st.f_bavail * st.f_frsize < FULL_BYTES;
}

int index_commit(MDB_txn **txn, struct err *e)
{
    MDB_env *env = mdb_txn_env(*txn);
    int code;

    note_end(*txn);
    code = mdb_txn_commit(*txn);
    *txn = NULL;
    if (code == ENOSPC || (code == EIO && disk_is_full(env)))
        return err_set(e, ERR_NO_SPACE, "the disk of the vault's index is full: make room on it or add a disk");
    return code ? index_fail(e, code, "commit") : 0;
}

void index_abort(MDB_txn **txn)
{
    if (*txn) {
        note_end(*txn);
        mdb_txn_abort(*txn);
    }
    *txn = NULL;
}

void index_cursor_close(MDB_cursor **cursor)
{
    if (*cursor)
        mdb_cursor_close(*cursor);
    *cursor = NULL;
}

int index_get(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val key, MDB_val *value, struct err *e)
{
    int code = mdb_get(txn, x->table[t], &key, value);

    if (code == MDB_NOTFOUND)
        return 0;
    return code ? index_fail(e, code, "read") : 1;
}

int index_put(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val key, MDB_val value, struct err *e)
{
    int code = mdb_put(txn, x->table[t], &key, &value, 0);

    return code ? index_fail(e, code, "write") : 0;
}

int index_del(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val key, struct err *e)
{
    int code = mdb_del(txn, x->table[t], &key, NULL);

    return code && code != MDB_NOTFOUND ? index_fail(e, code, "delete") : 0;
}

static bool has_prefix(MDB_val key, MDB_val prefix)
{
    return key.mv_size >= prefix.mv_size && (prefix.mv_size == 0 || memcmp(key.mv_data, prefix.mv_data, prefix.mv_size) == 0);
}

int index_each(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, index_visit *visit, void *user,
               struct err *e)
{
    CLEANUP(index_cursor_close) MDB_cursor *cursor = NULL;
    MDB_val key = prefix, value;
    int code = mdb_cursor_open(txn, x->table[t], &cursor);

    if (code)
        return index_fail(e, code, "read");
    code = mdb_cursor_get(cursor, &key, &value, prefix.mv_size ? MDB_SET_RANGE : MDB_FIRST);
    while (code == 0 && has_prefix(key, prefix)) {
        int got = visit(key, value, user, e);

        if (got)
            return got < 0 ? -1 : 0;
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    return code && code != MDB_NOTFOUND ? index_fail(e, code, "read") : 0;
}

int index_del_prefix(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, struct err *e)
{
    CLEANUP(index_cursor_close) MDB_cursor *cursor = NULL;
    MDB_val key = prefix, value;
    int code = mdb_cursor_open(txn, x->table[t], &cursor);

    if (code)
        return index_fail(e, code, "delete");
    MUST(prefix.mv_size > 0);
    code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (code == 0 && has_prefix(key, prefix)) {
        code = mdb_cursor_del(cursor, 0);
        if (code == 0)
            code = mdb_cursor_get(cursor, &key, &value, MDB_GET_CURRENT);
        /* After a delete at the end of a page the cursor may stand nowhere: seek again. */
        if (code == EINVAL || code == MDB_NOTFOUND) {
            key = prefix;
            code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        }
    }
    return code && code != MDB_NOTFOUND ? index_fail(e, code, "delete") : 0;
}

const char *index_table_name(enum index_table t) { return table_name[t]; }

static int table_stat(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_stat *out, struct err *e)
{
    int code = mdb_stat(txn, x->table[t], out);

    return code ? index_fail(e, code, "measure a table") : 0;
}

int index_table_bytes(const struct vault_index *x, MDB_txn *txn, enum index_table t, uint64_t *bytes, struct err *e)
{
    MDB_stat s;

    if (table_stat(x, txn, t, &s, e) < 0)
        return -1;
    *bytes = (s.ms_branch_pages + s.ms_leaf_pages + s.ms_overflow_pages) * s.ms_psize;
    return 0;
}

int index_count(const struct vault_index *x, MDB_txn *txn, enum index_table t, uint64_t *count, struct err *e)
{
    MDB_stat s;

    if (table_stat(x, txn, t, &s, e) < 0)
        return -1;
    *count = s.ms_entries;
    return 0;
}
