/* The workers: threads that run handlers, a bounded queue before them, and the calls that are parked (long polls); httpd.c's
 * keeper looks after their time. */
#include "api/httpd_private.h"
#include "base/clock.h"

static void queue_add(struct pool *p, struct call *c)
{
    c->next = NULL;
    if (p->last)
        p->last->next = c;
    else
        p->first = c;
    p->last = c;
    p->queued++;
}

static struct call *queue_take(struct pool *p)
{
    struct call *c = p->first;

    p->first = c->next;
    if (!p->first)
        p->last = NULL;
    p->queued--;
    return c;
}

/* Parked calls whose time is up go back into the queue (or all of them). */
static void requeue(struct pool *p, bool all)
{
    int64_t now_us = clock_monotonic_us();

    for (struct call **at = &p->parked; *at;) {
        struct call *c = *at;

        if (c->park_until_us <= now_us || p->stopping)
            c->open.time_is_up = true;
        else if (!all) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        p->parked_count--;
        queue_add(p, c);
    }
}

static void finish(struct call *c)
{
    c->state = CALL_ANSWERED;
    c->link->deadline_us = clock_monotonic_us() + HTTP_REPLY_TIMEOUT_MS * US_PER_MS;
    MHD_resume_connection(c->connection); /* from here on the I/O thread owns c */
}

static void work_on(struct pool *p, struct call *c)
{
    bool parks;

    if (c->was_parked && call_peer_is_gone(c)) /* a long poll that nobody reads: its answer would be lost work */
        c->open.time_is_up = true;
    c->park_until_us = 0;
    call_answer(c);
    if (!c->park_until_us) {
        finish(c);
        return;
    }
    pthread_mutex_lock(&p->lock);
    parks = !p->stopping;
    c->was_parked = true;
    if (parks) {
        c->next = p->parked;
        p->parked = c;
        p->parked_count++;
    } else {
        c->open.time_is_up = true;
        queue_add(p, c);
        pthread_cond_signal(&p->some);
    }
    pthread_mutex_unlock(&p->lock);
}

static void *worker(void *context)
{
    struct httpd_server *s = context;
    struct pool *p = &s->pool;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        if (p->first) {
            struct call *c = queue_take(p);

            p->running++;
            pthread_mutex_unlock(&p->lock);
            work_on(p, c);
            pthread_mutex_lock(&p->lock);
            p->running--;
            if (p->stopping)
                pthread_cond_broadcast(&p->some);
        } else if (p->stopping && !p->running) {
            break;
        } else {
            pthread_cond_wait(&p->some, &p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int pool_start(struct httpd_server *s, int workers, struct err *e)
{
    struct pool *p = &s->pool;

    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->some, NULL);
    p->workers = xcalloc((size_t)workers, sizeof *p->workers);
    for (; p->worker_count < workers; p->worker_count++)
        if (pthread_create(&p->workers[p->worker_count], NULL, worker, s) != 0) {
            pool_stop(s);
            return err_set(e, ERR_LIMIT, "can't start a thread");
        }
    return 0;
}

bool pool_push(struct httpd_server *s, struct call *c)
{
    struct pool *p = &s->pool;
    bool taken;

    pthread_mutex_lock(&p->lock);
    taken = !p->stopping && p->queued < HTTP_LIMIT_QUEUE;
    if (taken) {
        queue_add(p, c);
        pthread_cond_signal(&p->some);
    }
    pthread_mutex_unlock(&p->lock);
    return taken;
}

void pool_wake(struct httpd_server *s, bool all)
{
    pthread_mutex_lock(&s->pool.lock);
    if (s->pool.parked) {
        requeue(&s->pool, all);
        pthread_cond_broadcast(&s->pool.some);
    }
    pthread_mutex_unlock(&s->pool.lock);
}

void pool_stop(struct httpd_server *s)
{
    struct pool *p = &s->pool;

    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    requeue(p, true);
    pthread_cond_broadcast(&p->some);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->worker_count; i++)
        pthread_join(p->workers[i], NULL);
    free(p->workers);
    p->workers = NULL;
    p->worker_count = 0; /* the lock stays: I/O threads may still ask, and are refused */
}
