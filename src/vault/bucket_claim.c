/* bucket_claim: who may write under the prefix. Stores have no lock that all of them know, but an object that is read as it was written last: PREFIXclaim.json names its
 * holder, drawn anew at each opening, and a number that rises while that one lives.
 *
 *   Whoever holds it looks at it all the time, and may write until lease_us after it began its last look that showed its own claim.
 *   Whoever wants it watches another's for longer than that: one that changes twice has a holder who lives, and the wanter is refused, for good. It writes its own
 *   over one that stands still, or where there is none, and waits for lease_us more: a holder that lived all the same, or another one that wanted it in the same
 *   moment, has seen so by then, or may not write any more. If its own is still there, it holds it.
 *   Whoever finds another's where its own was has lost it, for good: this vault takes nothing more, for somebody else is that vault now. So has a holder that finds none, and
 *   could not look for lease_us before: another may have held it meanwhile, written there, and given it up.
 *
 * Each end measures with its own clock since its boot, which goes on in a suspend; no wall clock counts. An answer that is no claim says nothing of whose it is: it is asked for again.
 * A holder that may write still writes its own anew over it. */
#include "base/hash.h"
#include "vault/bucket_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define CLAIM "claim.json"
#define CLAIM_LIMIT 8192
#define LOOKS_A_LEASE 3 /* so often it is looked at and renewed */
#define CHANGES_OF_LIFE 2 /* one may be the last word of somebody who was killed, still on its way */

/* It stands still for so long: its holder may not write any more, by any clock that runs a fifth too fast or slow. */
static int64_t silence_us(const struct bucket *b) { return b->claim.lease_us + b->claim.lease_us / 3; }
static int64_t look_every_us(const struct bucket *b) { return b->claim.lease_us / LOOKS_A_LEASE; }

static void claim_key(const struct bucket *b, char out[static BUCKET_KEY_SIZE]) { snprintf(out, BUCKET_KEY_SIZE, "%s" CLAIM, b->prefix); }

/* ---- what is said ---- */

/* What b->claim says now; the caller frees. */
static char *claim_text(struct bucket *b)
{
    CLEANUP(json_free) json_t *j = NULL;
    CLEANUP(free_ptr) char *sum = NULL;
    char id[2 * VAULT_ID_SIZE + 1];

    j = json_pack("{s:s, s:i, s:s, s:s, s:I, s:s, s:s}", "format", "slipway-claim", "version", 1, "vault", hash_hex(b->v->id, VAULT_ID_SIZE, id), "holder", b->claim.holder, "count",
                  (json_int_t)b->claim.count, "host", b->claim.host, "folder", b->claim.folder);
    MUST(j);
    sum = json_sum(j);
    json_object_set_new(j, "sha256", json_string(sum));
    return json_text(j);
}

json_t *claim_parse(const char *text, size_t size)
{
    CLEANUP(free_ptr) char *said = NULL, *sum = NULL;
    CLEANUP(json_free) json_t *j = NULL;
    json_t *whole = NULL;

    if (json_read(text, size, &j, NULL) < 0 || !json_is_object(j))
        return NULL;
    said = xstrdup(json_get_string(j, "sha256", ""));
    json_object_del(j, "sha256");
    sum = json_sum(j);
    if (strcmp(said, sum) == 0 && strcmp(json_get_string(j, "format", ""), "slipway-claim") == 0) {
        whole = j;
        j = NULL;
    }
    return whole;
}

/* *out: whose claim is there; NULL: nobody's. ERR_CORRUPT: what is there, or what the store (or somebody on the way to it) answers, is no claim. */
static int read_claim(struct bucket *b, struct s3 *client, json_t **out, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};
    char key[BUCKET_KEY_SIZE];
    struct err why = {0};

    buf_init(&text, CLAIM_LIMIT);
    claim_key(b, key);
    *out = NULL;
    if (s3_get_text(client, key, CLAIM_LIMIT, &text, &why) < 0)
        return why.kind == ERR_NOT_FOUND ? 0 : err_set(e, why.kind, "%s", why.message);
    *out = claim_parse(text.data ? text.data : "", text.size_bytes);
    return *out ? 0 : err_set(e, ERR_CORRUPT, "%s in the bucket %s is no claim, so nobody knows who writes there. Where it stays so, and no other replicator writes under that prefix, remove it", key, b->name);
}

static int write_claim(struct bucket *b, struct s3 *client, struct err *e)
{
    CLEANUP(free_ptr) char *text = NULL;
    char key[BUCKET_KEY_SIZE];

    b->claim.count++;
    text = claim_text(b);
    claim_key(b, key);
    return s3_put(client, key, text, strlen(text), e);
}

/* ---- one look ---- */

static void set_state(struct bucket *b, enum claim_state state, int64_t valid_us)
{
    pthread_mutex_lock(&b->lock);
    b->claim.state = state;
    b->claim.valid_us = valid_us;
    pthread_mutex_unlock(&b->lock);
}

/* theirs: NULL: nobody's is there any more. */
static int lose(struct bucket *b, const json_t *theirs, struct err *e)
{
    struct err why = {0};

    if (theirs)
        err_set(&why, ERR_CONFLICT, "another replicator (host %.100s, folder %.300s) writes to the bucket %s under \"%s\": this one writes nothing there, and takes nothing more: stop one of the two",
                json_get_string(theirs, "host", "?"), json_get_string(theirs, "folder", "?"), b->name, b->prefix);
    else
        err_set(&why, ERR_CONFLICT, "this replicator could not look at the bucket %s for a while, and its claim under \"%s\" is gone: another one may have written there meanwhile, so this one writes "
                "nothing there, and takes nothing more: start it again where it is the only one", b->name, b->prefix);
    pthread_mutex_lock(&b->lock);
    b->claim.state = CLAIM_LOST;
    b->claim.why = why;
    pthread_mutex_unlock(&b->lock);
    return err_set(e, why.kind, "%s", why.message);
}

static int take(struct bucket *b, struct s3 *client, struct err *e)
{
    /* Before it travels: it may arrive, whatever is heard of it. */
    set_state(b, CLAIM_TAKEN, 0);
    b->claim.taken_us = INT64_MAX;
    if (write_claim(b, client, e) < 0)
        return -1;
    b->claim.taken_us = clock_boot_us();
    return 0;
}

/* Another's: it is watched. */
static int watch(struct bucket *b, struct s3 *client, const json_t *theirs, struct err *e)
{
    bool changed = b->claim.seen && !json_equal(b->claim.seen, theirs);

    if (changed && ++b->claim.changes == CHANGES_OF_LIFE)
        return lose(b, theirs, e);
    if (!b->claim.seen || changed) {
        json_free(&b->claim.seen);
        b->claim.seen = json_deep_copy(theirs);
        MUST(b->claim.seen);
        b->claim.seen_us = clock_boot_us();
    }
    return clock_boot_us() - b->claim.seen_us < silence_us(b) ? 0 : take(b, client, e);
}

/* Our own is there, as it has been since begun_us at least. */
static int hold(struct bucket *b, struct s3 *client, int64_t begun_us, struct err *e)
{
    if (b->claim.taken_us == INT64_MAX) /* it arrived, though nobody heard so */
        b->claim.taken_us = clock_boot_us();
    if (b->claim.state != CLAIM_HELD && begun_us - b->claim.taken_us < b->claim.lease_us)
        return 0;
    set_state(b, CLAIM_HELD, begun_us + b->claim.lease_us);
    return write_claim(b, client, e);
}

static int look(struct bucket *b, struct s3 *client, struct err *e)
{
    CLEANUP(json_free) json_t *there = NULL;
    int64_t begun_us = clock_boot_us();
    struct err why = {0};

    if (read_claim(b, client, &there, &why) < 0) {
        if (why.kind == ERR_CORRUPT && b->claim.state == CLAIM_HELD && begun_us < b->claim.valid_us) /* nobody else may have written it: it is ours, and damaged */
            (void)write_claim(b, client, NULL);
        return err_set(e, why.kind, "%s", why.message);
    }
    if (!there) /* a holder that looked in time knows that nobody else has written meanwhile */
        return b->claim.state == CLAIM_HELD && begun_us >= b->claim.valid_us ? lose(b, NULL, e) : take(b, client, e);
    if (strcmp(json_get_string(there, "holder", ""), b->claim.holder) == 0)
        return hold(b, client, begun_us, e);
    /* Where it is not known whether ours arrived, the one that stood still may stand there as before. */
    if (b->claim.state >= CLAIM_TAKEN && !(b->claim.taken_us == INT64_MAX && b->claim.seen && json_equal(b->claim.seen, there)))
        return lose(b, there, e);
    return watch(b, client, there, e);
}

/* ---- the thread ---- */

static int claim_client(struct bucket *b, struct s3 **out, struct err *e)
{
    return client_open(b, NULL, (int)(look_every_us(b) / US_PER_MS), out, e);
}

/* Until the next look is due; false: it is over. */
static bool rest(struct bucket *b, int64_t duration_us)
{
    int64_t until_us = clock_monotonic_us() + duration_us;
    struct timespec until = {.tv_sec = until_us / US_PER_S, .tv_nsec = until_us % US_PER_S * 1000};
    bool on;

    pthread_mutex_lock(&b->lock);
    while (!b->claim.stop && pthread_cond_timedwait(&b->claim.stirred, &b->lock, &until) == 0)
        ;
    on = !b->claim.stop;
    pthread_mutex_unlock(&b->lock);
    return on;
}

/* What was not held is not given away. */
static void give_up(struct bucket *b, struct s3 *client)
{
    CLEANUP(json_free) json_t *there = NULL;
    char key[BUCKET_KEY_SIZE];

    if (b->claim.state < CLAIM_TAKEN || b->claim.why.kind || read_claim(b, client, &there, NULL) < 0 || !there ||
        strcmp(json_get_string(there, "holder", ""), b->claim.holder) != 0)
        return;
    claim_key(b, key);
    (void)s3_delete(client, key, NULL);
}

static void *keep(void *user)
{
    CLEANUP(s3_close) struct s3 *client = NULL;
    struct bucket *b = user;
    int64_t pause_us = 0;
    bool lost = false;

    if (claim_client(b, &client, &b->claim.why) < 0)
        return NULL;
    while (rest(b, pause_us ? pause_us : look_every_us(b))) {
        struct err why = {0};

        if (lost)
            continue;
        lost = look(b, client, &why) < 0 && b->claim.state == CLAIM_LOST;
        pause_us = !why.kind ? 0 : !pause_us ? b->retry_us : pause_us * 2;
        pause_us = pause_us < look_every_us(b) ? pause_us : look_every_us(b);
        pthread_mutex_lock(&b->lock);
        b->claim.why = why;
        pthread_mutex_unlock(&b->lock);
        bucket_stir(b);
    }
    give_up(b, client);
    return NULL;
}

/* ---- for the others ---- */

void claim_init(struct bucket *b, int lease_ms)
{
    CLEANUP(free_ptr) char *folder = realpath(b->v->dir, NULL);
    uint8_t drawn[16];

    MUST(getrandom(drawn, sizeof drawn, 0) == sizeof drawn);
    hash_hex(drawn, sizeof drawn, b->claim.holder);
    b->claim.lease_us = (int64_t)(lease_ms ? lease_ms : CLAIM_LEASE_MS) * US_PER_MS;
    if (gethostname(b->claim.host, sizeof b->claim.host - 1) < 0)
        snprintf(b->claim.host, sizeof b->claim.host, "?");
    snprintf(b->claim.folder, sizeof b->claim.folder, "%s", folder ? folder : b->v->dir);
    /* JSON is UTF-8, and a person reads it. */
    for (char *c = b->claim.host; *c; c++)
        *c = *c > ' ' && *c <= '~' ? *c : '?';
    for (char *c = b->claim.folder; *c; c++)
        *c = *c >= ' ' && *c <= '~' ? *c : '?';
}

/* A process of this very folder that was killed leaves such a claim: nobody else has the folder open. A copy of the whole machine has the same, and is found out
 * while it is watched. */
static bool is_of_here(const struct bucket *b)
{
    return strcmp(json_get_string(b->claim.seen, "host", ""), b->claim.host) == 0 && strcmp(json_get_string(b->claim.seen, "folder", ""), b->claim.folder) == 0;
}

int claim_begin(struct bucket *b, bool must, struct err *e)
{
    CLEANUP(s3_close) struct s3 *client = NULL;
    struct err why = {0};
    int r;

    if (claim_client(b, &client, e) < 0)
        return -1;
    r = look(b, client, &why);
    if (r < 0 && !must && why.kind != ERR_CONFLICT) {
        b->claim.why = why;
        r = 0; /* the store may be away: all but sending goes on, and the claim comes later */
    }
    while (r == 0 && b->claim.state < CLAIM_TAKEN && b->claim.seen && (must || !is_of_here(b))) {
        clock_sleep_us(look_every_us(b));
        r = look(b, client, &why);
    }
    if (r < 0)
        return err_set(e, why.kind, "%s", why.message);
    b->claim.runs = pthread_create(&b->claim.thread, NULL, keep, b) == 0;
    return b->claim.runs ? 0 : err_set(e, ERR_LIMIT, "can't start a thread");
}

void claim_end(struct bucket *b)
{
    pthread_mutex_lock(&b->lock);
    b->claim.stop = true;
    pthread_cond_signal(&b->claim.stirred);
    pthread_mutex_unlock(&b->lock);
    if (b->claim.runs)
        pthread_join(b->claim.thread, NULL);
    json_free(&b->claim.seen);
}

int claim_holds(struct bucket *b, struct err *e)
{
    int r;

    pthread_mutex_lock(&b->lock);
    r = b->claim.state == CLAIM_HELD && clock_boot_us() < b->claim.valid_us;
    if (!r && b->claim.why.kind)
        r = err_set(e, b->claim.why.kind, "%s", b->claim.why.message);
    pthread_mutex_unlock(&b->lock);
    return r;
}

int bucket_may_append(struct bucket *b, struct err *e)
{
    int r;

    pthread_mutex_lock(&b->lock);
    r = b->claim.state != CLAIM_LOST ? 0 : err_set(e, b->claim.why.kind, "%s", b->claim.why.message);
    pthread_mutex_unlock(&b->lock);
    return r;
}
