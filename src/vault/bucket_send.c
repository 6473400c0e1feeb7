/* bucket_send: a fixed number of threads that send a segment each. The bucket's thread (bucket_care.c) gives them what is to be sent, and collects how it went. */
#include "base/clock.h"
#include "base/file.h"
#include "vault/bucket_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- one segment ---- */

/* Into memory, not mapped: a sector that goes bad after the look is an error then, and no signal that ends all. The caller frees. */
static uint8_t *read_whole(const char *path, size_t *size, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    CLEANUP(free_ptr) uint8_t *bytes = NULL;
    uint8_t *whole = NULL;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        err_errno(e, errno, "can't open %s", path);
        return NULL;
    }
    bytes = xmalloc((size_t)st.st_size + 1);
    if (fd_pread_all(fd, bytes, (size_t)st.st_size, 0, e) == 0) {
        *size = (size_t)st.st_size;
        whole = bytes;
        bytes = NULL;
    }
    return whole;
}

/* The row says that something of it was sent before the first byte travels. What lies there under its number all the same is somebody else's, who has the same vault: a later
 * copy of it, which may need it, and all else that is there. */
int check_unsent(struct bucket *b, struct s3 *client, uint32_t id, struct err *e)
{
    char key[BUCKET_KEY_SIZE];
    int there;

    segment_key(b, id, key);
    there = s3_has(client, key, e);
    if (there < 0)
        return -1;
    pthread_mutex_lock(&b->lock);
    b->foreign = there ? id : b->foreign == id ? 0 : b->foreign;
    pthread_mutex_unlock(&b->lock);
    return there ? err_set(e, ERR_CONFLICT, "%s is in the bucket %s, and was not sent from here: another replicator has been this vault, or this folder is an older copy of it. Nothing is written "
                                            "or removed there (where it is nobody's, remove it)", key, b->name) : 0;
}

/* What is sent may be all that there is of it one day: a damaged file is not. One that can't be read, or is gone (vault_gc took it away, or was killed before its row went; or it is lost), is
 * tried again after a while only: it would hold up all that come after it. */
static int send_segment(struct bucket *b, struct s3 *client, uint32_t id, struct err *e)
{
    CLEANUP(free_ptr) char *path = segment_path(b->v->segment_dir, id);
    CLEANUP(free_ptr) uint8_t *bytes = NULL;
    char key[BUCKET_KEY_SIZE];
    struct err why = {0};
    struct segment_row row; /* as it is by now: who gave it may have looked before it was sent the last time */
    size_t size = 0;
    int sent = segment_row_get(b->v, id, &row, e);

    if (sent <= 0 || row.flags & (SEGMENT_KEPT | SEGMENT_DOOMED))
        return sent < 0 ? -1 : 0;
    if (segment_look(b->v, id, path, &row, &why) < 0 || !(bytes = read_whole(path, &size, &why))) {
        pthread_mutex_lock(&b->lock);
        use_of(b, id)->refused = why.kind == ERR_CORRUPT;
        use_of(b, id)->again_us = clock_monotonic_us() + BUCKET_REST_US;
        pthread_mutex_unlock(&b->lock);
        return why.kind == ERR_CORRUPT || why.kind == ERR_NOT_FOUND ? 0 : err_set(e, why.kind, "%s", why.message);
    }
    segment_key(b, id, key);
    if (!bucket_is_marked(b)) /* it may be sealed under a data key that is not known there yet: it comes again */
        return err_set(e, ERR_CANCELLED, "vault.json is to be sent first");
    if (!(row.flags & SEGMENT_SENT) && check_unsent(b, client, id, e) < 0)
        return -1;
    sent = row_flag(b->v, id, (uint16_t)(SEGMENT_SENT | (row.flags & SEGMENT_SENT ? SEGMENT_AGAIN : 0)), e);
    if (sent <= 0)
        return sent; /* the same, a moment later: nothing would remember what is sent */
    if (s3_put(client, key, bytes, size, e) < 0)
        return -1;
    if (claim_holds(b, NULL) <= 0) /* somebody else may have written there since: it is sent again, or never */
        return err_set(e, ERR_CANCELLED, "the claim ended meanwhile");
    return row_flag(b->v, id, SEGMENT_KEPT, e) < 0 ? -1 : 0;
}

/* ---- the threads ---- */

bool writing_is_over(void *user)
{
    struct bucket *b = user;

    return atomic_load(&b->stopping) || claim_holds(b, NULL) <= 0;
}

/* lock held, and held after */
static void send_given(struct sender *s)
{
    struct bucket *b = s->b;
    bool foreign = b->foreign;
    struct err why = {0};

    pthread_mutex_unlock(&b->lock);
    if (foreign || claim_holds(b, NULL) <= 0)
        err_set(&why, ERR_CANCELLED, "the claim ended meanwhile, or another has been this vault");
    else
        (void)send_segment(b, s->client, s->id, &why);
    pthread_mutex_lock(&b->lock);
    use_of(b, s->id)->sending = false;
    s->why = why;
    s->state = SENDER_DONE;
    b->stir = true;
    pthread_cond_signal(&b->stirred);
}

static void *serve(void *user)
{
    struct sender *s = user;
    struct bucket *b = s->b;

    pthread_mutex_lock(&b->lock);
    while (!atomic_load(&b->stopping)) {
        if (s->state == SENDER_GIVEN)
            send_given(s);
        else
            pthread_cond_wait(&b->given, &b->lock);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

int senders_start(struct bucket *b, size_t count, struct err *e)
{
    b->senders = xcalloc(count, sizeof *b->senders);
    for (; b->sender_count < count; b->sender_count++) {
        struct sender *s = &b->senders[b->sender_count];

        s->b = b;
        if (client_open(b, writing_is_over, 0, &s->client, e) < 0)
            return -1;
        s->runs = pthread_create(&s->thread, NULL, serve, s) == 0;
        if (!s->runs) {
            s3_close(&s->client);
            return err_set(e, ERR_LIMIT, "can't start a thread");
        }
    }
    return 0;
}

void senders_stop(struct bucket *b)
{
    pthread_mutex_lock(&b->lock);
    pthread_cond_broadcast(&b->given);
    pthread_mutex_unlock(&b->lock);
    for (size_t i = 0; i < b->sender_count; i++) {
        pthread_join(b->senders[i].thread, NULL);
        s3_close(&b->senders[i].client);
    }
    free(b->senders);
}

bool senders_give(struct bucket *b, uint32_t id)
{
    bool given = false;

    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->sender_count && !given; i++) {
        struct sender *s = &b->senders[i];

        given = s->state == SENDER_IDLE;
        if (!given)
            continue;
        s->state = SENDER_GIVEN;
        s->id = id;
        use_of(b, id)->sending = true;
    }
    pthread_cond_broadcast(&b->given);
    pthread_mutex_unlock(&b->lock);
    return given;
}

size_t senders_busy(struct bucket *b)
{
    size_t busy = 0;

    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->sender_count; i++)
        busy += b->senders[i].state != SENDER_IDLE;
    pthread_mutex_unlock(&b->lock);
    return busy;
}

int senders_collect(struct bucket *b, struct err *e)
{
    int r = 0;

    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->sender_count; i++) {
        struct sender *s = &b->senders[i];

        if (s->state != SENDER_DONE)
            continue;
        s->state = SENDER_IDLE;
        if (s->why.kind == ERR_CANCELLED) /* whoever broke it off knows why */
            continue;
        if (s->why.kind && r >= 0)
            *e = s->why;
        r = s->why.kind || r < 0 ? -1 : 1;
    }
    pthread_mutex_unlock(&b->lock);
    return r;
}
