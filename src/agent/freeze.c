#include "agent/freeze.h"

#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define FREEZE_MAX 128           /* filesystems; SCM_RIGHTS takes 253 descriptors */
#define REPLY_TIMEOUT_MS 120000  /* FIFREEZE waits for a filesystem's writers and its sync: that has no bound of ours */
#define LATE_MS 500              /* beyond the deadline: the process answers by then, but where it hangs in a FIFREEZE */

enum verb { VERB_FREEZE = 1, VERB_THAW, VERB_EXTEND };
struct request {
    int32_t verb, count;
    int64_t deadline_us;
};
struct reply {
    int32_t error_number; /* 0: done */
    int32_t frozen;
    int64_t frozen_us;
    int32_t expired;
    int32_t unasked;      /* the deadline ended it */
};

struct freezer {
    int socket;
    pid_t pid;
    char marker[256];
    int fds[FREEZE_MAX]; /* ours of what is frozen, for where the process dies */
    int count;
    bool on, expired;
};

/* ---- the process: no files, no allocation, no locks ---- */

struct keeper {
    int socket;
    int fds[FREEZE_MAX];
    bool frozen[FREEZE_MAX];
    int count;
    bool on, expired;
    int64_t begin_us, deadline_us, frozen_us;
};

static void keeper_thaw(struct keeper *k)
{
    for (int i = k->count - 1; i >= 0; i--) {
        if (k->frozen[i])
            ioctl(k->fds[i], FITHAW, 0);
        close(k->fds[i]);
    }
    if (k->on)
        k->frozen_us = clock_monotonic_us() - k->begin_us;
    k->count = 0;
    k->on = false;
}

static int keeper_freeze(struct keeper *k, int64_t budget_us)
{
    int frozen = 0;

    k->on = true;
    k->expired = false;
    k->begin_us = clock_monotonic_us();
    k->deadline_us = k->begin_us + budget_us;
    for (int i = 0; i < k->count; i++) {
        k->frozen[i] = ioctl(k->fds[i], FIFREEZE, 0) == 0;
        if (!k->frozen[i] && errno != EOPNOTSUPP && errno != EINVAL)
            return -errno;
        frozen += k->frozen[i];
        if (clock_monotonic_us() > k->deadline_us)
            return -ETIMEDOUT;
    }
    return frozen;
}

/* 1 a request, 0 none before the deadline, -1 the agent is gone. */
static int keeper_receive(struct keeper *k, struct request *r, int *fds, int *fd_count)
{
    char control[CMSG_SPACE(FREEZE_MAX * sizeof(int))];
    struct iovec part = {.iov_base = r, .iov_len = sizeof *r};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct pollfd p = {.fd = k->socket, .events = POLLIN};
    int64_t left_us = k->deadline_us - clock_monotonic_us();
    ssize_t got;
    int ready = poll(&p, 1, !k->on ? -1 : left_us <= 0 ? 0 : (int)(left_us / 1000 > 60000 ? 60000 : (left_us + 999) / 1000));

    if (ready <= 0)
        return 0;
    got = recvmsg(k->socket, &message, MSG_CMSG_CLOEXEC);
    if (got != sizeof *r)
        return got < 0 && errno == EINTR ? 0 : -1;
    *fd_count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            *fd_count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(c), (size_t)*fd_count * sizeof(int));
        }
    return 1;
}

static void keeper_answer(struct keeper *k, const struct request *r, const int *fds, int fd_count)
{
    struct reply reply = {0};
    int frozen;

    switch (r->verb) {
    case VERB_FREEZE:
        keeper_thaw(k);
        memcpy(k->fds, fds, (size_t)fd_count * sizeof *fds);
        memset(k->frozen, 0, sizeof k->frozen);
        k->count = fd_count;
        frozen = keeper_freeze(k, r->deadline_us);
        if (frozen < 0) {
            keeper_thaw(k);
            reply.error_number = -frozen;
        } else {
            reply.frozen = frozen;
        }
        break;
    case VERB_EXTEND:
        reply.error_number = k->on ? 0 : ESRCH;
        k->deadline_us = clock_monotonic_us() + r->deadline_us;
        break;
    default:
        k->expired |= k->on && clock_monotonic_us() > k->deadline_us; /* late is late, whoever was sooner */
        keeper_thaw(k);
        reply.expired = k->expired;
    }
    reply.frozen_us = k->frozen_us;
    send(k->socket, &reply, sizeof reply, MSG_NOSIGNAL);
}

_Noreturn static void keeper_run(int socket)
{
    static struct keeper k;
    struct request r;
    int fds[FREEZE_MAX], fd_count = 0, got;

    k.socket = socket;
    prctl(PR_SET_NAME, "slipway-thaw");
    for (int i = 1; i < 32; i++)
        if (i != SIGKILL && i != SIGSTOP && i != SIGSEGV && i != SIGBUS)
            signal(i, SIG_IGN);
    setsid();
    setpriority(PRIO_PROCESS, 0, -5);
    mlockall(MCL_CURRENT | MCL_FUTURE);
    for (int fd = 3; fd < 1024; fd++)
        if (fd != socket)
            close(fd);
    while ((got = keeper_receive(&k, &r, fds, &fd_count)) >= 0) {
        if (got > 0) {
            keeper_answer(&k, &r, fds, fd_count);
        } else if (k.on && clock_monotonic_us() >= k.deadline_us) {
            struct reply unasked = {.unasked = 1, .expired = 1};

            k.expired = true;
            keeper_thaw(&k);
            send(k.socket, &unasked, sizeof unasked, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
    }
    keeper_thaw(&k); /* the agent is gone */
    _exit(0);
}

/* ---- the agent's side ---- */

static int spawn(struct freezer *f, struct err *e)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(e, errno, "can't make the freezer's socket");
    f->pid = fork();
    if (f->pid == 0) {
        close(pair[0]);
        keeper_run(pair[1]);
    }
    close(pair[1]);
    if (f->pid < 0) {
        f->pid = 0;
        close(pair[0]);
        return err_errno(e, errno, "can't start the freezer's process");
    }
    f->socket = pair[0];
    return 0;
}

int freezer_start(const char *marker, struct freezer **out, struct err *e)
{
    struct freezer *f = xcalloc(1, sizeof *f);

    MUST(strlen(marker) < sizeof f->marker);
    memcpy(f->marker, marker, strlen(marker) + 1);
    if (spawn(f, e) < 0) {
        free(f);
        return -1;
    }
    *out = f;
    return 0;
}

static void forget(struct freezer *f)
{
    for (int i = 0; i < f->count; i++)
        close(f->fds[i]);
    f->count = 0;
    f->on = false;
    if (f->marker[0])
        unlink(f->marker);
}

/* In the order of the freezing: where the process hangs in the midst of it, what is frozen comes before the filesystem that it hangs in. Our FITHAW of
 * that one may hang with it. */
static void thaw_ourselves(const struct freezer *f)
{
    for (int i = 0; i < f->count; i++)
        ioctl(f->fds[i], FITHAW, 0);
}

/* The process died (or hangs): what is frozen we thaw, and start another. One that hangs in the kernel ends only when that lets it go, which nothing that is
 * frozen waits for; what it has frozen by then is thawed after its end. */
static void recover(struct freezer *f)
{
    kill(f->pid, SIGKILL);
    thaw_ourselves(f);
    waitpid(f->pid, NULL, 0);
    thaw_ourselves(f);
    close(f->socket);
    f->socket = -1;
    f->expired = f->on;
    forget(f);
    spawn(f, NULL);
}

/* Reads what comes unasked until there is a reply; 0, or -1 where the process is gone. */
static int receive(struct freezer *f, struct reply *out, int timeout_ms)
{
    struct pollfd p = {.fd = f->socket, .events = POLLIN};
    int64_t deadline_us = clock_monotonic_us() + timeout_ms * US_PER_MS;

    for (;;) {
        int64_t left_us = deadline_us - clock_monotonic_us();
        int ready = poll(&p, 1, left_us > 0 ? (int)(left_us / 1000) : 0);

        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0 || recv(f->socket, out, sizeof *out, 0) != sizeof *out)
            return -1;
        if (!out->unasked)
            return 0;
        f->expired = true;
    }
}

static bool has_answered(const struct freezer *f, int64_t until_us)
{
    struct pollfd p = {.fd = f->socket, .events = POLLIN};
    int ready;

    do {
        int64_t left_us = until_us - clock_monotonic_us();

        ready = poll(&p, 1, left_us > 0 ? (int)((left_us + 999) / 1000) : 0);
    } while (ready < 0 && errno == EINTR);
    return ready != 0;
}

/* In a FIFREEZE that does not end (a disk that hangs) the process can't keep the deadline: then we do, for what is frozen already. It gives up by itself
 * once the kernel lets it go. */
static int receive_freeze(struct freezer *f, int64_t budget_us, struct reply *reply)
{
    int64_t late_us = budget_us + LATE_MS * US_PER_MS;

    if (late_us < REPLY_TIMEOUT_MS * US_PER_MS && !has_answered(f, clock_monotonic_us() + late_us)) {
        thaw_ourselves(f);
        f->expired = true;
    }
    return receive(f, reply, REPLY_TIMEOUT_MS);
}

static int ask(struct freezer *f, const struct request *r, const int *fds, struct reply *reply, struct err *e)
{
    char control[CMSG_SPACE(FREEZE_MAX * sizeof(int))] = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)r, .iov_len = sizeof *r};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (fds && r->count) {
        struct cmsghdr *c;

        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE((size_t)r->count * sizeof(int));
        c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN((size_t)r->count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, (size_t)r->count * sizeof(int));
    }
    if (f->socket < 0 && spawn(f, e) < 0) {
        forget(f); /* nothing is frozen: nobody was asked */
        return -1;
    }
    if (sendmsg(f->socket, &message, MSG_NOSIGNAL) == sizeof *r &&
        (r->verb == VERB_FREEZE ? receive_freeze(f, r->deadline_us, reply) : receive(f, reply, REPLY_TIMEOUT_MS)) == 0)
        return 0;
    recover(f);
    return err_set(e, ERR_INTERNAL, "the process that keeps the filesystems frozen went away; they are thawed");
}

static void write_marker(struct freezer *f, const char *const *paths, int count)
{
    CLEANUP(buf_release) struct buf text = {0};

    for (int i = 0; i < count; i++)
        buf_printf(&text, "%s\n", paths[i]);
    if (f->marker[0] && text.size_bytes)
        file_write(f->marker, text.data, text.size_bytes, 0600, NULL);
}

int freezer_freeze(struct freezer *f, const int *fds, const char *const *paths, int count, int64_t deadline_us, int *frozen, struct err *e)
{
    struct request r = {.verb = VERB_FREEZE, .count = count, .deadline_us = deadline_us};
    struct reply reply;

    MUST(!f->on && count <= FREEZE_MAX);
    f->expired = false;
    write_marker(f, paths, count);
    for (int i = 0; i < count; i++) {
        f->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        f->count = i + 1;
    }
    f->on = true;
    if (ask(f, &r, fds, &reply, e) < 0)
        return -1;
    if (reply.error_number) {
        forget(f);
        if (reply.error_number == ETIMEDOUT)
            return err_set(e, ERR_TIMEOUT, "freezing took %lld ms, over its budget of %lld ms; everything is thawed",
                           (long long)(reply.frozen_us / 1000), (long long)(deadline_us / 1000));
        return err_errno(e, reply.error_number, "a filesystem can't be frozen");
    }
    if (f->expired) { /* it came to its end, but too late for us */
        freezer_thaw(f, &(struct freeze_result){0}, NULL);
        return err_set(e, ERR_TIMEOUT, "freezing took longer than its budget of %lld ms; everything is thawed", (long long)(deadline_us / 1000));
    }
    *frozen = reply.frozen;
    return 0;
}

int freezer_extend(struct freezer *f, int64_t deadline_us, struct err *e)
{
    struct request r = {.verb = VERB_EXTEND, .deadline_us = deadline_us};
    struct reply reply;

    if (ask(f, &r, NULL, &reply, e) < 0)
        return -1;
    if (reply.error_number)
        return err_set(e, ERR_TIMEOUT, "the freeze had ended before it could be extended");
    return 0;
}

int freezer_thaw(struct freezer *f, struct freeze_result *out, struct err *e)
{
    struct request r = {.verb = VERB_THAW};
    struct reply reply;

    if (ask(f, &r, NULL, &reply, e) < 0) {
        *out = (struct freeze_result){.expired = true};
        return -1;
    }
    *out = (struct freeze_result){.frozen_us = reply.frozen_us, .expired = reply.expired || f->expired};
    forget(f);
    return 0;
}

bool freezer_expired(struct freezer *f)
{
    struct pollfd p = {.fd = f->socket, .events = POLLIN};
    struct reply reply;

    if (f->on && !f->expired && poll(&p, 1, 0) > 0) {
        if (recv(f->socket, &reply, sizeof reply, MSG_DONTWAIT) == sizeof reply)
            f->expired = true;
        else
            recover(f);
    }
    return f->expired;
}

int freezer_pid(const struct freezer *f) { return f->pid; }

void freezer_stop(struct freezer **f)
{
    struct freeze_result ignored;

    if (!*f)
        return;
    if ((*f)->on)
        freezer_thaw(*f, &ignored, NULL);
    if ((*f)->socket >= 0)
        close((*f)->socket); /* it ends by itself */
    if ((*f)->pid)
        waitpid((*f)->pid, NULL, 0);
    free_ptr(f);
}
