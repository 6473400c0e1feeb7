#include "api/setup.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PASSWORD_LETTERS 20

int data_lock(const char *folder, struct data *d, struct err *e)
{
    CLEANUP(free_ptr) char *path = NULL, *lock = NULL;
    CLEANUP(close_fd) int fd = -1;
    char pid[32] = "";
    ssize_t size;

    if (file_make_dirs(folder, 0700, e) < 0)
        return -1;
    path = realpath(folder, NULL);
    if (!path)
        return err_errno(e, errno, "%s", folder);
    if (chmod(path, 0700) < 0)
        return err_errno(e, errno, "can't keep others out of %s", path);
    lock = xasprintf("%s/lock", path);
    fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(e, errno, "can't open %s", lock);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        size = pread(fd, pid, sizeof pid - 1, 0);
        pid[size > 0 ? strcspn(pid, "\n") : 0] = '\0';
        return err_set(e, ERR_WRONG_STATE, "%s is in use by slipway serve, process %s: stop that first", path, *pid ? pid : "(unknown)");
    }
    snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, strlen(pid), 0) < 0)
        return err_errno(e, errno, "can't write %s", lock);
    d->path = path;
    d->lock_fd = fd;
    path = NULL;
    fd = -1;
    return 0;
}

int data_open(struct data *d, struct err *e)
{
    CLEANUP(free_ptr) char *url = xasprintf("sqlite:%s/%s", d->path, DATA_DATABASE), *keys = xasprintf("%s/%s", d->path, DATA_KEYS);
    CLEANUP(free_ptr) char *ca = xasprintf("%s/%s", d->path, DATA_CA);
    const char *pem;

    if (store_open(url, &d->store, e) < 0 || store_migrate(d->store, e) < 0)
        return err_wrap(e, "the database of %s", d->path);
    if (identity_open(&(struct identity_settings){.store = d->store, .folder = keys}, &d->identity, e) < 0)
        return err_wrap(e, "the keys of %s", d->path);
    pem = identity_ca_pem(d->identity);
    return file_write(ca, pem, strlen(pem), 0644, e);
}

void data_close(struct data *d)
{
    identity_close(&d->identity);
    store_close(&d->store);
    close_fd(&d->lock_fd);
    free(d->path);
    d->path = NULL;
}

/* Letters and digits that are hard to take for one another; 20 of 32 are 100 bits. */
static void make_password(struct secret *password)
{
    static const char letters[] = "abcdefghijkmnpqrstuvwxyz23456789";
    unsigned char random[PASSWORD_LETTERS];
    char text[PASSWORD_LETTERS + 1];

    MUST(RAND_bytes(random, sizeof random) == 1);
    for (int i = 0; i < PASSWORD_LETTERS; i++)
        text[i] = letters[random[i] % (sizeof letters - 1)];
    text[PASSWORD_LETTERS] = '\0';
    secret_set(password, text, PASSWORD_LETTERS);
    explicit_bzero(text, sizeof text);
    explicit_bzero(random, sizeof random);
}

static int read_password(const char *path, struct secret *password, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};

    if (file_read(path, 2048, &text, e) < 0)
        return -1;
    text.size_bytes = strcspn(text.data ? text.data : "", "\r\n");
    secret_set(password, text.data ? text.data : "", text.size_bytes);
    if (text.data)
        explicit_bzero(text.data, text.held_bytes);
    return password->size_bytes ? 0 : err_set(e, ERR_INVALID, "%s is empty: it must hold the password", path);
}

int data_first_user(struct data *d, const char *name, const char *password_file, struct secret *password, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(secret_release) struct secret chosen = {0};
    int64_t count = 0;

    if (store_begin(d->store, STORE_READ, &tx, e) < 0 || identity_user_count(tx, &count, e) < 0)
        return -1;
    store_rollback(&tx);
    if (count)
        return 0;
    if (password_file ? read_password(password_file, &chosen, e) < 0 : (make_password(&chosen), 0))
        return -1;
    if (identity_user_add(d->identity, name, chosen.bytes, ROLE_OPERATOR, true, "factory", e) < 0)
        return err_wrap(e, "the first user");
    if (!password_file)
        secret_set(password, chosen.bytes, chosen.size_bytes);
    return 1;
}
