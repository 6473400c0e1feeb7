#include "vault/nbd.h"
#include "vault/nbd_session.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CONNECTION_LIMIT 128

struct connection {
    struct nbd_server *server;
    struct nbd_session session;
    struct connection *next;
};

struct nbd_server {
    struct vault *v;
    int fd;
    char *path;
    pthread_t acceptor;
    atomic_uint_fast64_t read_errors;
    atomic_bool stopping;
    pthread_mutex_t lock; /* guards what follows; nothing else is locked under it */
    pthread_cond_t changed;
    struct connection *connections;
    unsigned connection_count;
    pthread_mutex_t lending; /* whoever reads by a loan that has ended is cut before the next one begins; none that a connection waits for */
};

static void remove_connection(struct connection *c)
{
    struct nbd_server *s = c->server;

    pthread_mutex_lock(&s->lock);
    for (struct connection **at = &s->connections; *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    close(c->session.fd); /* under the lock: nbd_server_stop shuts down only what is in the list */
    s->connection_count--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    free(c);
}

static void *serve(void *user)
{
    struct connection *c = user;

    nbd_session_run(&c->session);
    remove_connection(c);
    return NULL;
}

/* Takes fd. */
static void start_connection(struct nbd_server *s, int fd)
{
    struct connection *c = xcalloc(1, sizeof *c);
    pthread_attr_t attributes;
    pthread_t thread;
    bool refused;

    c->server = s;
    c->session = (struct nbd_session){.v = s->v, .fd = fd, .read_errors = &s->read_errors};
    pthread_mutex_lock(&s->lock);
    refused = s->connection_count >= CONNECTION_LIMIT || atomic_load(&s->stopping);
    s->connection_count++;
    c->next = s->connections;
    s->connections = c;
    pthread_mutex_unlock(&s->lock);
    MUST(pthread_attr_init(&attributes) == 0 && pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0);
    if (refused || pthread_create(&thread, &attributes, serve, c) != 0)
        remove_connection(c);
    pthread_attr_destroy(&attributes);
}

static void *accept_all(void *user)
{
    struct nbd_server *s = user;

    while (!atomic_load(&s->stopping)) {
        int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);

        if (fd >= 0)
            start_connection(s, fd);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            usleep(50000);
        else if (errno != EINTR && errno != ECONNABORTED)
            break;
    }
    return NULL;
}

static int listen_at(const char *path, struct err *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof address.sun_path)
        return err_set(e, ERR_INVALID, "the socket path %s is longer than %zu characters: use a shorter data folder", path,
                       sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (unlink(path) < 0 && errno != ENOENT)
        return err_errno(e, errno, "can't remove the old socket %s", path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(e, errno, "can't make a socket");
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || chmod(path, 0600) < 0 || listen(fd, 64) < 0) {
        err_errno(e, errno, "can't listen on %s", path);
        close(fd);
        return -1;
    }
    return fd;
}

/* Of a version that wrote them down, and was killed. */
static int return_left_loans(struct vault *v, struct err *e)
{
    char(*ids)[VAULT_POINT_ID_SIZE] = NULL;
    int count = vault_pin_list(v, VAULT_LENT_PIN, &ids, e), result = count < 0 ? -1 : 0;

    for (int i = 0; i < count && result == 0; i++)
        result = vault_point_unpin(v, ids[i], VAULT_LENT_PIN, e);
    free(ids);
    return result;
}

int nbd_server_start(struct vault *v, const char *path, struct nbd_server **out, struct err *e)
{
    struct nbd_server *s;
    int fd = return_left_loans(v, e) < 0 ? -1 : listen_at(path, e);

    if (fd < 0)
        return -1;
    s = xcalloc(1, sizeof *s);
    s->v = v;
    s->fd = fd;
    s->path = xstrdup(path);
    MUST(pthread_mutex_init(&s->lock, NULL) == 0 && pthread_cond_init(&s->changed, NULL) == 0 &&
         pthread_mutex_init(&s->lending, NULL) == 0);
    if (pthread_create(&s->acceptor, NULL, accept_all, s) != 0) {
        close(fd);
        free(s->path);
        free(s);
        return err_set(e, ERR_LIMIT, "can't start a thread for the NBD server");
    }
    *out = s;
    return 0;
}

void nbd_server_stop(struct nbd_server **held)
{
    struct nbd_server *s = *held;

    if (!s)
        return;
    atomic_store(&s->stopping, true);
    shutdown(s->fd, SHUT_RDWR); /* wakes accept */
    pthread_join(s->acceptor, NULL);
    pthread_mutex_lock(&s->lock);
    for (struct connection *c = s->connections; c; c = c->next)
        shutdown(c->session.fd, SHUT_RDWR);
    while (s->connection_count)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    close(s->fd);
    unlink(s->path);
    vault_loans_end(s->v);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lending);
    pthread_mutex_destroy(&s->lock);
    free(s->path);
    free(s);
    *held = NULL;
}

int nbd_server_lend(struct nbd_server *s, const char *point, struct err *e)
{
    int result = vault_point_usable(s->v, point, e);

    pthread_mutex_lock(&s->lending);
    if (result == 0)
        result = vault_point_lend(s->v, point, e);
    pthread_mutex_unlock(&s->lending);
    return result;
}

static void cut_lent(struct nbd_server *s, const char *point)
{
    pthread_mutex_lock(&s->lock);
    for (struct connection *c = s->connections; c; c = c->next)
        if (atomic_load(&c->session.attached) && c->session.lent && strcmp(c->session.point, point) == 0)
            shutdown(c->session.fd, SHUT_RDWR);
    pthread_mutex_unlock(&s->lock);
}

int nbd_server_return(struct nbd_server *s, const char *point, struct err *e)
{
    int left;

    pthread_mutex_lock(&s->lending);
    left = vault_point_return(s->v, point, e);
    if (left == 0)
        cut_lent(s, point);
    pthread_mutex_unlock(&s->lending);
    return left < 0 ? -1 : 0;
}

unsigned nbd_server_readers(struct nbd_server *s, const char *point)
{
    unsigned count = 0;

    pthread_mutex_lock(&s->lock);
    for (struct connection *c = s->connections; c; c = c->next)
        count += atomic_load(&c->session.attached) && !c->session.lent && strcmp(c->session.point, point) == 0;
    pthread_mutex_unlock(&s->lock);
    return count;
}

uint64_t nbd_server_read_errors(struct nbd_server *s) { return atomic_load(&s->read_errors); }
