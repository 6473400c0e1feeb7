/* copies: second copies as the factory last said it: which servers' points go to which other replicator, and whose may come here. The last good word holds
 * until there is another: over restarts, and while the factory is down. */
#include "base/file.h"
#include "base/log.h"
#include "replicator/private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NICE 10

static void take_peer(struct replicator *r, struct peer *p)
{
    struct place to = place_read(r, json_object_get(json_object_get(r->copies_said, "to"), p->server));
    const char *from = json_get_string(json_object_get(r->copies_said, "from"), p->server, "");

    pthread_mutex_lock(&p->lock);
    if (strcmp(p->copy_to.replicator, to.replicator) != 0)
        p->copied = (struct copied){0}; /* what is there is asked anew */
    p->copy_to = to;
    snprintf(p->copy_from, sizeof p->copy_from, "%s", from);
    pthread_mutex_unlock(&p->lock);
}

/* copies_lock held */
static void take_all(struct replicator *r)
{
    for (struct peer *p = peers_first(r); p; p = p->next)
        take_peer(r, p);
}

int copies_take(struct replicator *r, const json_t *answer, struct err *e)
{
    json_t *said = json_object_get(answer, "copies");
    CLEANUP(free_ptr) char *text = NULL;
    int result = 0;

    if (!json_is_object(said))
        return 0; /* a factory that knows of none */
    pthread_mutex_lock(&r->copies_lock);
    if (!r->copies_said || !json_equal(said, r->copies_said)) {
        json_free(&r->copies_said);
        r->copies_said = json_incref(said);
        text = json_text(said);
        result = file_write(r->copies_path, text, strlen(text), 0600, e);
    }
    take_all(r);
    pthread_mutex_unlock(&r->copies_lock);
    return result < 0 ? err_wrap(e, "keeping the word on second copies") : 0;
}

void copies_apply(struct replicator *r)
{
    pthread_mutex_lock(&r->copies_lock);
    take_all(r);
    pthread_mutex_unlock(&r->copies_lock);
}

int copies_load(struct replicator *r, struct err *e)
{
    if (!file_exists(r->copies_path))
        return 0;
    if (json_read_file(r->copies_path, &r->copies_said, e) < 0)
        return err_wrap(e, "the word on second copies: mend or remove the file, the factory says it again");
    take_all(r);
    return 0;
}

int copies_may(struct replicator *r, const char *from, const char *server, struct err *e)
{
    bool may;

    pthread_mutex_lock(&r->copies_lock);
    may = from[0] && strcmp(json_get_string(json_object_get(r->copies_said, "from"), server, ""), from) == 0;
    pthread_mutex_unlock(&r->copies_lock);
    return may ? 0 : err_set(e, ERR_DENIED, "the factory has not said that the replicator %.128s brings points of %.128s to %s", from, server, r->options.name);
}

void copies_behave(void)
{
    if (setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE) < 0) /* of this thread alone, on Linux */
        log_warn("a copy's thread has the priority of all others");
}

/* ---- what is told of it ---- */

int64_t copies_lag_us(const struct peer *p)
{
    if (!p->copied.point[0] || !p->newest[0] || strcmp(p->copied.point, p->newest) == 0 || p->newest_at_us <= p->copied.at_us)
        return 0;
    return p->newest_at_us - p->copied.at_us;
}

static const char *state_of(const struct peer *p)
{
    const struct copied *c = &p->copied;

    if (c->trouble.kind)
        return "STALLED";
    if (!p->newest[0])
        return "WAITING"; /* for a first point here */
    if (c->point[0] && strcmp(c->point, p->newest) == 0)
        return "CURRENT";
    return c->point[0] && !c->whole ? "BEHIND" : "COPYING";
}

json_t *copies_json(const struct peer *p)
{
    const struct copied *c = &p->copied;
    json_t *j;

    if (!p->copy_to.replicator[0])
        return json_null();
    j = json_pack("{s:s, s:s, s:s?, s:I, s:I, s:I, s:I}", "to", p->copy_to.replicator, "state", state_of(p), "point", c->point[0] ? c->point : NULL, "lag_ms",
                  (json_int_t)(copies_lag_us(p) / US_PER_MS), "bytes_total", (json_int_t)c->bytes_total, "backlog_bytes",
                  (json_int_t)(c->bytes_total - c->bytes_done), "pins_missing", (json_int_t)c->pins_missing);
    json_set_time(j, "point_at", c->point[0] ? c->at_us : 0);
    json_object_set_new(j, "point_age_ms", c->point[0] ? json_integer((clock_now_us() - c->at_us) / US_PER_MS) : json_null());
    json_object_set_new(j, "error", c->trouble.kind ? json_pack("{s:s, s:s}", "kind", err_meaning(c->trouble.kind)->name, "message", c->trouble.message) : json_null());
    json_set_time(j, "error_since", c->trouble.kind ? c->trouble_us : 0);
    return j;
}
