/* Backups: DATA/backups/TIME/ with slipway.db (a consistent copy), keys/ (master key, CA, the server's certificate) and MANIFEST, which
 * names each file with its size and SHA-256 and is written last: a folder without it is no backup. Readable by its owner alone: the
 * master key in it opens every credential. docs/operations.md says so, too. */
#include "api/api.h"
#include "api/backup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKUP_KEY_FILE_BYTES (1u << 20)

/* --- one file --- */

static int hash_file(const char *path, char hex[static HASH_SHA256_HEX_SIZE], int64_t *size, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    CLEANUP(free_ptr) char *bytes = xmalloc(1 << 20);
    CLEANUP(hash_free) struct hash *hash = hash_new();
    uint8_t digest[HASH_SHA256_SIZE];

    if (fd < 0)
        return err_errno(e, errno, "%s", path);
    *size = 0;
    for (;;) {
        ssize_t count = read(fd, bytes, 1 << 20);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return err_errno(e, errno, "reading %s", path);
        if (!count)
            break;
        hash_add(hash, bytes, (size_t)count);
        *size += count;
    }
    hash_end(hash, digest);
    hash_hex(digest, sizeof digest, hex);
    return 0;
}

static int list_file(const char *folder, const char *name, json_t *files, int64_t *total, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s", folder, name);
    char hex[HASH_SHA256_HEX_SIZE];
    int64_t size;

    if (hash_file(path, hex, &size, e) < 0)
        return -1;
    *total += size;
    json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "name", name, "size_bytes", (json_int_t)size, "sha256", hex));
    return 0;
}

static int copy_small(const char *from, const char *to, struct err *e)
{
    CLEANUP(buf_release) struct buf bytes = {0};
    int result;

    if (file_read(from, BACKUP_KEY_FILE_BYTES, &bytes, e) < 0)
        return -1;
    result = file_write(to, bytes.data ? bytes.data : "", bytes.size_bytes, 0600, e);
    if (bytes.data)
        explicit_bzero(bytes.data, bytes.size_bytes);
    return result;
}

/* --- making one --- */

static int copy_keys(const char *data_dir, const char *folder, json_t *files, int64_t *total, struct err *e)
{
    CLEANUP(free_ptr) char *from = xasprintf("%s/keys", data_dir), *to = xasprintf("%s/keys", folder);
    struct dirent *entry;
    DIR *keys;

    if (file_make_dirs(to, 0700, e) < 0)
        return -1;
    keys = opendir(from);
    if (!keys)
        return err_errno(e, errno, "%s", from);
    while ((entry = readdir(keys))) {
        CLEANUP(free_ptr) char *source = xasprintf("%s/%s", from, entry->d_name), *copy = xasprintf("%s/%s", to, entry->d_name);
        CLEANUP(free_ptr) char *name = xasprintf("keys/%s", entry->d_name);

        if (entry->d_name[0] == '.')
            continue;
        if (copy_small(source, copy, e) < 0 || list_file(folder, name, files, total, e) < 0) {
            closedir(keys);
            return -1;
        }
    }
    closedir(keys);
    return 0;
}

static int fill(struct api *a, const char *folder, int64_t *total, struct err *e)
{
    CLEANUP(free_ptr) char *database = xasprintf("%s/%s", folder, BACKUP_DATABASE), *manifest = xasprintf("%s/%s", folder, BACKUP_MANIFEST);
    CLEANUP(json_free) json_t *files = json_array(), *document = NULL;
    CLEANUP(free_ptr) char *text = NULL;
    char at[CLOCK_TEXT_SIZE];

    if (store_backup(a->store, database, e) < 0)
        return -1;
    chmod(database, 0600);
    if (list_file(folder, BACKUP_DATABASE, files, total, e) < 0 || copy_keys(a->data_dir, folder, files, total, e) < 0)
        return -1;
    document = json_pack("{s:s, s:i, s:s, s:O}", "format", "slipway-backup", "version", 1, "made", clock_format(clock_now_us(), at), "files",
                         files);
    text = json_dumps(document, JSON_INDENT(1));
    MUST(text);
    return file_write(manifest, text, strlen(text), 0600, e);
}

static int note(struct api *a, const char *path, int64_t size, const char *actor, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(free_ptr) char *data = xasprintf("{\"size_bytes\":%lld}", (long long)size);
    int64_t now_us = clock_now_us();
    struct event event = {.actor = actor, .kind = "backup.made", .entity = "backup", .entity_id = strrchr(path, '/') + 1, .data = data};

    if (store_begin(a->store, STORE_WRITE, &tx, e) < 0 ||
        store_run(tx, e, "INSERT INTO backup (path, at_us, actor, size_bytes) VALUES ($1, $2, $3, $4)", "sisi", path, now_us, actor, size) < 0 ||
        event_add(tx, &event, now_us, e) < 0)
        return -1;
    return store_commit(&tx, e);
}

int backup_make(struct api *a, const char *actor, char **out, struct err *e)
{
    CLEANUP(free_ptr) char *parent = xasprintf("%s/backups", a->data_dir);
    CLEANUP(free_ptr) char *path = NULL;
    char at[CLOCK_TEXT_SIZE];
    int64_t total = 0;
    int result;

    clock_format(clock_now_us(), at);
    for (char *c = at; *c; c++)
        if (*c == ':')
            *c = '-';
    path = xasprintf("%s/%s", parent, at);
    if (pthread_mutex_trylock(&a->backup_lock) != 0)
        return err_set(e, ERR_CONFLICT, "a backup is being made already");
    result = file_make_dirs(parent, 0700, e) < 0 ? -1 : mkdir(path, 0700) < 0 ? err_errno(e, errno, "%s", path) : 0;
    if (result == 0)
        result = fill(a, path, &total, e);
    if (result == 0)
        result = note(a, path, total, actor, e);
    pthread_mutex_unlock(&a->backup_lock);
    if (result < 0)
        return err_wrap(e, "the backup was not made");
    *out = path;
    path = NULL;
    return 0;
}

/* --- checking one --- */

/* "keys/ca.pem": nothing that leaves the folder. */
static bool is_plain(const char *name)
{
    return *name && *name != '/' && !strstr(name, "..") && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") ==
        strlen(name);
}

static int check_file(const char *folder, const json_t *file, struct err *e)
{
    CLEANUP(free_ptr) char *path = NULL;
    const char *name, *wanted;
    int64_t size, found_size;
    char hex[HASH_SHA256_HEX_SIZE];

    if (json_need_string(file, "name", &name, e) < 0 || json_need_string(file, "sha256", &wanted, e) < 0 ||
        json_need_int(file, "size_bytes", &size, e) < 0)
        return -1;
    if (!is_plain(name))
        return err_set(e, ERR_CORRUPT, "its MANIFEST names \"%.100s\"", name);
    path = xasprintf("%s/%s", folder, name);
    if (hash_file(path, hex, &found_size, e) < 0)
        return -1;
    if (found_size != size || strcmp(hex, wanted) != 0)
        return err_set(e, ERR_CORRUPT, "%s is not what was backed up: its size or its SHA-256 differs", path);
    return 0;
}

int backup_check(const char *folder, json_t **manifest, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s", folder, BACKUP_MANIFEST);
    CLEANUP(json_free) json_t *document = NULL;
    json_t *files, *file;
    size_t index;

    if (json_read_file(path, &document, e) < 0 || json_need_array(document, "files", &files, e) < 0)
        return err_wrap(e, "%s is no backup", folder);
    if (strcmp(json_get_string(document, "format", ""), "slipway-backup") != 0 || json_get_int(document, "version", 0) != 1)
        return err_set(e, ERR_UNSUPPORTED, "%s is no backup that this program knows (slipway-backup, version 1)", folder);
    json_array_foreach(files, index, file)
        if (check_file(folder, file, e) < 0)
            return err_wrap(e, "the backup %s", folder);
    if (!json_find(files, "name", BACKUP_DATABASE))
        return err_set(e, ERR_CORRUPT, "the backup %s has no database", folder);
    *manifest = json_incref(document);
    return 0;
}
