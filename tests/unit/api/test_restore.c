/* `slipway restore`, killed at each of its renames: the next start has the backup or what was there before, whole, and never an empty factory. */
#include "api/api.h"
#include "api/backup.h"
#include "api/serve.h"
#include "api/setup.h"
#include "base/file.h"
#include "inventory/inventory.h"
#include "shell.h"
#include "tap.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/slipway-restore-XXXXXX";
static int dies_at, renames; /* 0: never */

/* In the place of libc's. */
int rename(const char *from, const char *to)
{
    if (++renames == dies_at)
        kill(getpid(), SIGKILL);
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* As a start does, in words. */
static const char *opened(const char *name, struct data *d, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s", folder, name);

    *d = (struct data){.lock_fd = -1};
    return data_lock(path, d, e) == 0 && restore_settle(d->path, e) == 0 && data_open(d, e) == 0 ? "opened" : e->message;
}

static int64_t users(struct data *d)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t count = -1;
    struct err e = {0};

    MUST(store_begin(d->store, STORE_READ, &tx, &e) == 0 && identity_user_count(tx, &count, &e) == 0);
    return count;
}

/* A factory with one user is backed up; then it gets another, and another vault's key. */
static void make(char **backup)
{
    struct data d;
    struct err e = {0};
    struct api a;

    MUST(mkdtemp(folder));
    is_str(opened("data", &d, &e), "opened", "a folder that is new");
    a = (struct api){.store = d.store, .identity = d.identity, .data_dir = d.path};
    pthread_mutex_init(&a.backup_lock, NULL);
    MUST(identity_user_add(d.identity, "one", "correct horse", ROLE_OPERATOR, true, "test", &e) == 0 && shell("echo old >%s/data/keys/vault.key", folder));
    ok(backup_make(&a, "test", backup, &e) == 0, "is backed up");
    MUST(identity_user_add(d.identity, "two", "correct horse", ROLE_OPERATOR, true, "test", &e) == 0 && shell("echo new >%s/data/keys/vault.key", folder));
    MUST(shell("mkdir -p %s/data/runner/identity && echo it >%s/data/runner/identity/cert.pem", folder, folder));
    data_close(&d);
}

/* Of a copy of the folder. True: it was killed. */
static bool restore_killed_at(int number, const char *backup)
{
    CLEANUP(free_ptr) char *name = xstrdup("restore"), *data = xasprintf("--data=%s/copy", folder), *from = xasprintf("--from=%s", backup);
    char *arguments[] = {name, data, from, NULL};
    int status;
    pid_t pid;

    MUST(shell("rm -rf %s/copy && cp -a %s/data %s/copy", folder, folder, folder));
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        dies_at = number;
        renames = 0;
        (void)!freopen("/dev/null", "w", stdout);
        _exit(restore_main(3, arguments));
    }
    MUST(waitpid(pid, &status, 0) == pid && (WIFSIGNALED(status) || WEXITSTATUS(status) == 0));
    return WIFSIGNALED(status);
}

static void sweep(const char *backup)
{
    bool kept_old = false, killed;
    int number = 0, wrong = 0, old = 0;

    do {
        struct err e = {0};
        struct data d;
        int64_t count = -1;
        const char *how;

        killed = restore_killed_at(++number, backup);
        how = opened("copy", &d, &e);
        if (strcmp(how, "opened") == 0)
            count = users(&d);
        kept_old = count == 1 ? shell("test $(ls -d %s/copy/before-restore-*/slipway.db | wc -l) = 1 && test -f %s/copy/before-restore-*/keys/master.key && "
                                      "test -f %s/copy/before-restore-*/runner-identity/cert.pem && ! test -e %s/copy/runner/identity", folder, folder, folder, folder)
                              : count == 2 && shell("test -f %s/copy/runner/identity/cert.pem", folder);
        if (!kept_old || !shell("grep -q new %s/copy/keys/vault.key && ! test -e %s/copy/restore-under-way", folder, folder)) {
            tap_note("killed at rename %d: %s, %lld users", number, how, (long long)count);
            wrong++;
        }
        old += count == 2;
        data_close(&d);
    } while (killed && number < 50);
    is_int(wrong, 0, "killed at each of its %d renames, it is finished by the next start, or was not begun", number - 1);
    ok(number > 8 && old < number - 4, "(%d times it was not)", old);
}

/* What a program of before left behind, and a folder that lost its database. */
static void refused(const char *backup)
{
    struct err e = {0};
    struct data d;

    MUST(!restore_killed_at(0, backup) && shell("cd %s/copy && mkdir restoring-T before-restore-T && mv slipway.db* keys before-restore-T/", folder));
    ok(strstr(opened("copy", &d, &e), "a restore was cut short: what was there before is in") && !shell("test -e %s/copy/slipway.db", folder), "one that left no mark is not begun beside: %s", e.message);
    data_close(&d);
    MUST(shell("cd %s/copy && mv before-restore-T/* . && rmdir before-restore-T", folder));
    e = (struct err){0};
    is_str(opened("copy", &d, &e), "opened", "moved back as it says, it starts");
    data_close(&d);
    MUST(shell("rm %s/copy/slipway.db*", folder));
    e = (struct err){0};
    ok(strstr(opened("copy", &d, &e), "but not its database") && !shell("test -e %s/copy/slipway.db", folder), "nor where the keys of one are alone: %s", e.message);
    data_close(&d);
    MUST(shell("echo x >%s/copy/restore-under-way", folder));
    e = (struct err){0};
    ok(strstr(opened("copy", &d, &e), "does not say which"), "a mark that says nothing is refused: %s", e.message);
    data_close(&d);
    MUST(shell("printf 2026-01-01T00-00-00.000Z >%s/copy/restore-under-way", folder));
    e = (struct err){0};
    ok(strstr(opened("copy", &d, &e), "half-way") && shell("test -e %s/copy/restore-under-way", folder), "and one whose files are gone: %s", e.message);
    data_close(&d);
}

int main(void)
{
    CLEANUP(free_ptr) char *backup = NULL;

    make(&backup);
    sweep(backup);
    refused(backup);
    MUST(shell("rm -rf %s", folder));
    return tap_done();
}
