/* `slipway restore`: puts a backup in the place of a data folder's database and keys. Everything is made and tried beside them first, in
 * DATA/restoring-TIME; then a few renames, and what was there before is kept in DATA/before-restore-TIME. DATA/restore-under-way holds the
 * TIME while they last: whoever opens the folder next finishes them (restore_settle), wherever they were cut short. */
#include "api/backup.h"
#include "api/serve.h"
#include "api/setup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/options.h"
#include "store/event.h"
#include "workflow/workflow.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int copy_file(const char *from, const char *to, struct err *e)
{
    CLEANUP(close_fd) int in = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), out = -1;
    CLEANUP(free_ptr) char *bytes = xmalloc(1 << 20);

    if (in < 0)
        return err_errno(e, errno, "%s", from);
    out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (out < 0)
        return err_errno(e, errno, "%s", to);
    for (;;) {
        ssize_t count = read(in, bytes, 1 << 20);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return err_errno(e, errno, "reading %s", from);
        if (!count)
            break;
        if (fd_write_all(out, bytes, (size_t)count, e) < 0)
            return err_wrap(e, "writing %s", to);
    }
    explicit_bzero(bytes, 1 << 20);
    return fsync(out) < 0 ? err_errno(e, errno, "writing %s", to) : 0;
}

/* All files of the manifest, checked before, into a folder of the same shape. */
static int copy_all(const char *backup, const json_t *manifest, const char *folder, struct err *e)
{
    CLEANUP(free_ptr) char *keys = xasprintf("%s/%s", folder, DATA_KEYS);
    json_t *file;
    size_t i;

    if (file_make_dirs(keys, 0700, e) < 0)
        return -1;
    json_array_foreach(json_object_get(manifest, "files"), i, file) {
        const char *name = json_get_string(file, "name", "");
        CLEANUP(free_ptr) char *from = xasprintf("%s/%s", backup, name), *to = xasprintf("%s/%s", folder, name);

        if (strcmp(name, BACKUP_DATABASE) != 0 && strncmp(name, DATA_KEYS "/", sizeof DATA_KEYS) != 0)
            continue;
        if (copy_file(from, to, e) < 0)
            return -1;
    }
    return 0;
}

/* The vault is not in a backup: the one that is here goes on, with the key that it has by now. */
static int keep_vault_key(const char *data, const char *fresh, struct err *e)
{
    CLEANUP(free_ptr) char *from = xasprintf("%s/%s/" DATA_VAULT_KEY, data, DATA_KEYS), *to = xasprintf("%s/%s/" DATA_VAULT_KEY, fresh, DATA_KEYS);

    if (!file_exists(from))
        return 0;
    return unlink(to) < 0 && errno != ENOENT ? err_errno(e, errno, "%s", to) : copy_file(from, to, e);
}

/* Opens the copy as serve will (so a key that does not fit is found now), and ends what was running when it was made. */
static int prepare(const char *folder, const char *backup, struct err *e)
{
    struct data d = {.path = xstrdup(folder), .lock_fd = -1};
    struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *data = json_pack("{s:s}", "backup", backup);
    CLEANUP(free_ptr) char *text = data ? json_text(data) : NULL;
    struct event event = {.actor = "factory", .kind = "factory.restored", .entity = "factory", .entity_id = "factory", .data = text};
    int result = data_open(&d, e);

    if (result == 0)
        result = store_begin(d.store, STORE_WRITE, &tx, e);
    if (result == 0)
        result = workflow_restored(tx, e) < 0 || event_add(tx, &event, clock_now_us(), e) < 0 ? -1 : store_commit(&tx, e);
    store_rollback(&tx);
    data_close(&d);
    return result;
}

/* Moves DATA/name to folder/name, where it is there. */
static int move_aside(const char *data, const char *name, const char *folder, struct err *e)
{
    CLEANUP(free_ptr) char *from = xasprintf("%s/%s", data, name), *to = xasprintf("%s/%s", folder, strrchr(name, '/') ? strrchr(name, '/') + 1 : name);

    if (rename(from, to) < 0 && errno != ENOENT)
        return err_errno(e, errno, "moving %s to %s", from, to);
    return 0;
}

/* The factory's own runner and replicator enrol again: the restored database may not know their certificates. */
static int forget_identity(const char *data, const char *child, const char *aside, struct err *e)
{
    CLEANUP(free_ptr) char *from = xasprintf("%s/%s/identity", data, child), *to = xasprintf("%s/%s-identity", aside, child);

    if (rename(from, to) < 0 && errno != ENOENT)
        return err_errno(e, errno, "moving %s to %s", from, to);
    return 0;
}

/* Whether FOLDER/name is there: 1, 0, -1 where that can't be seen. */
static int is_there(const char *folder, const char *name, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s", folder, name);
    struct stat state;

    if (lstat(path, &state) == 0)
        return 1;
    return errno == ENOENT ? 0 : err_errno(e, errno, "%s", path);
}

/* Fine wherever it was cut short before: as long as the new database is not in its place, all that lies in its place is the old one's. So that one
 * goes first, and only when what was there before is durably aside. */
static int swap(const char *data, const char *fresh, const char *aside, struct err *e)
{
    static const char *const names[] = {DATA_DATABASE, DATA_DATABASE "-wal", DATA_DATABASE "-shm", DATA_KEYS};
    int waits = is_there(fresh, DATA_DATABASE, e);

    if (waits < 0)
        return -1;
    for (size_t i = 0; waits && i < ARRAY_COUNT(names); i++)
        if (move_aside(data, names[i], aside, e) < 0)
            return -1;
    if (waits && (forget_identity(data, "runner", aside, e) < 0 || forget_identity(data, "replicator", aside, e) < 0 || file_sync_dir(aside, e) < 0 ||
                  file_sync_dir(data, e) < 0))
        return -1;
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        if (move_aside(fresh, names[i], data, e) < 0)
            return -1;
    return move_aside(fresh, DATA_CA, data, e);
}

static int put_in_place(const char *data, const char *fresh, const char *aside, struct err *e)
{
    int there;

    if (mkdir(aside, 0700) < 0 && errno != EEXIST)
        return err_errno(e, errno, "%s", aside);
    if (swap(data, fresh, aside, e) < 0 || (there = is_there(data, DATA_DATABASE, e)) < 0)
        return -1;
    return there ? file_sync_dir(data, e) : err_set(e, ERR_CORRUPT, "there is no %s in either", DATA_DATABASE);
}

/* at: the TIME in both folders' names, which DATA/restore-under-way holds. */
static int finish(const char *data, const char *at, struct err *e)
{
    CLEANUP(free_ptr) char *fresh = xasprintf("%s/restoring-%s", data, at), *aside = xasprintf("%s/before-restore-%s", data, at);
    CLEANUP(free_ptr) char *mark = xasprintf("%s/" DATA_RESTORING, data);

    if (put_in_place(data, fresh, aside, e) < 0)
        return err_wrap(e, "the restore stopped half-way: what was there before is in %s, the new files in %s."
                        " Either mend the cause and start again (slipway serve and slipway restore finish it first),"
                        " or move all that is in the first back to where it was (runner-identity is runner/identity) and remove %s", aside, fresh, mark);
    if (unlink(mark) < 0 && errno != ENOENT)
        return err_errno(e, errno, "%s", mark);
    rmdir(fresh);
    return file_sync_dir(data, e);
}

/* Finishes what was cut short. */
static int finish_begun(const char *data, struct err *e)
{
    CLEANUP(free_ptr) char *mark = xasprintf("%s/" DATA_RESTORING, data);
    CLEANUP(buf_release) struct buf at = {0};
    int begun = is_there(data, DATA_RESTORING, e);

    if (begun <= 0)
        return begun;
    if (file_read(mark, 100, &at, e) < 0)
        return -1;
    if (!at.size_bytes || strspn(at.data, "0123456789TZ.-") != at.size_bytes)
        return err_set(e, ERR_CORRUPT, "a restore was cut short, and %s does not say which: look for restoring-TIME and before-restore-TIME beside it,"
                                       " and write that TIME into it", mark);
    if (finish(data, at.data, e) < 0)
        return -1;
    log_warn("a restore was cut short, and is finished now: what was there before it is in %s/before-restore-%s", data, at.data);
    return 0;
}

static void close_folder(DIR **folder)
{
    if (*folder)
        closedir(*folder);
}

/* A program of before left no mark: where it was cut short the database is in neither place. */
static int refuse_unmarked(const char *data, struct err *e)
{
    static const char begins[] = "restoring-";
    CLEANUP(close_folder) DIR *folder = NULL;
    int there = is_there(data, DATA_DATABASE, e);
    const struct dirent *entry;

    if (there != 0)
        return there < 0 ? -1 : 0;
    folder = opendir(data);
    if (!folder)
        return err_errno(e, errno, "%s", data);
    while ((errno = 0, entry = readdir(folder))) {
        CLEANUP(free_ptr) char *aside = NULL;
        int half;

        if (strncmp(entry->d_name, begins, strlen(begins)) != 0)
            continue;
        aside = xasprintf("before-restore-%s", entry->d_name + strlen(begins));
        half = is_there(data, aside, e);
        if (half != 0)
            return half < 0 ? -1 : err_set(e, ERR_WRONG_STATE, "a restore was cut short: what was there before is in %s/%s, the new files in %s/%s."
                                           " Move slipway.db* and keys from the first back to %s, and start or restore again",
                                           data, aside, data, entry->d_name, data);
    }
    return errno ? err_errno(e, errno, "reading %s", data) : 0;
}

int restore_settle(const char *data, struct err *e)
{
    int there, keys;

    if (finish_begun(data, e) < 0 || refuse_unmarked(data, e) < 0 || (there = is_there(data, DATA_DATABASE, e)) < 0 ||
        (keys = is_there(data, DATA_KEYS "/" DATA_MASTER_KEY, e)) < 0)
        return -1;
    if (!there && keys)
        return err_set(e, ERR_WRONG_STATE, "%s has the keys of a factory, but not its database (%s): put that back, or a backup in its place (slipway restore)."
                                           " A factory that begins anew takes another folder", data, DATA_DATABASE);
    return 0;
}

static int restore(const char *folder, const char *backup, char **kept, struct err *e)
{
    CLEANUP(data_close) struct data d = {.lock_fd = -1};
    CLEANUP(json_free) json_t *manifest = NULL;
    CLEANUP(free_ptr) char *fresh = NULL, *fresh_keys = NULL, *mark = NULL;
    char at[CLOCK_TEXT_SIZE];

    if (backup_check(backup, &manifest, e) < 0 || data_lock(folder, &d, e) < 0 || finish_begun(d.path, e) < 0 || refuse_unmarked(d.path, e) < 0)
        return -1;
    clock_format(clock_now_us(), at);
    for (char *c = at; *c; c++)
        if (*c == ':')
            *c = '-';
    fresh = xasprintf("%s/restoring-%s", d.path, at);
    fresh_keys = xasprintf("%s/%s", fresh, DATA_KEYS);
    mark = xasprintf("%s/" DATA_RESTORING, d.path);
    if (mkdir(fresh, 0700) < 0)
        return err_errno(e, errno, "%s", fresh);
    if (copy_all(backup, manifest, fresh, e) < 0 || keep_vault_key(d.path, fresh, e) < 0 || prepare(fresh, backup, e) < 0 || file_sync_dir(fresh_keys, e) < 0 ||
        file_sync_dir(fresh, e) < 0)
        return err_wrap(e, "nothing was changed (%s can be removed)", fresh);
    if (file_write(mark, at, strlen(at), 0600, e) < 0 || finish(d.path, at, e) < 0)
        return -1;
    *kept = xasprintf("%s/before-restore-%s", d.path, at);
    return 0;
}

struct options {
    const char *data, *from;
};

static const struct option_row option_rows[] = {
    {"data", OPTION_TEXT, offsetof(struct options, data), "FOLDER", "the data folder of slipway serve, which must not run", true},
    {"from", OPTION_TEXT, offsetof(struct options, from), "BACKUP", "a folder that `slipway backup` made", true},
};
static const struct option_table option_table = {
    "slipway restore", "--data FOLDER --from BACKUP",
    "Puts the database and the keys of a backup in the place of those in FOLDER, and keeps what was there in\n"
    "FOLDER/before-restore-TIME. Tasks that were running when the backup was made are given again; runners, replicators and\n"
    "agents that enrolled after it must enrol again.", option_rows, ARRAY_COUNT(option_rows)};

int restore_main(int argc, char **argv)
{
    CLEANUP(free_ptr) char *kept = NULL;
    struct options o = {0};
    struct err e = {0};
    int status;

    if (!options_begin(&option_table, argc, argv, &o, &status))
        return status;
    if (options_need(&option_table, &o, &e) < 0)
        return options_refuse(&option_table, &e);
    log_open("slipway", LOG_INFO);
    if (restore(o.data, o.from, &kept, &e) < 0)
        return options_refuse(&option_table, &e);
    printf("Restored from %s. What was there before is in %s.\nStart it with: slipway serve --data %s\n", o.from, kept, o.data);
    return 0;
}
