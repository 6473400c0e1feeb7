/* control: the replicator's control socket: a JSON line each way. */
#include "base/log.h"
#include "replicator/orders.h"
#include "replicator/private.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE_LIMIT 65536u
#define PROGRESS_EVERY_US (300 * US_PER_MS)
#define DEFAULT_POINT_TIMEOUT_MS 120000
#define DETACH_WAIT_US (15 * US_PER_S)
#define STOP_LOOK_MS 200
#define READERS_WAIT_US (5 * US_PER_S)

struct talk {
    struct replicator *r;
    int fd;
    bool gone;
    int64_t said_us;
    struct orders orders;
};

static void say(struct talk *t, json_t *line)
{
    CLEANUP(json_free) json_t *held = line;
    CLEANUP(free_ptr) char *text = json_text(held), *with_end = xasprintf("%s\n", text);
    size_t size = strlen(with_end), sent = 0;

    while (sent < size && !t->gone) {
        ssize_t n = send(t->fd, with_end + sent, size - sent, MSG_NOSIGNAL);

        if (n <= 0 && errno != EINTR)
            t->gone = true;
        sent += n > 0 ? (size_t)n : 0;
    }
    t->said_us = clock_monotonic_us();
}

/* Nobody sends anything while waiting: an event means that the other end has closed. */
static bool closed(struct talk *t)
{
    struct pollfd p = {.fd = t->fd, .events = POLLIN | POLLRDHUP};
    char byte;

    return poll(&p, 1, 0) > 0 && recv(t->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

bool talk_is_gone(struct talk *t)
{
    t->gone = t->gone || closed(t);
    return t->gone;
}

int talk_progress(struct talk *t, int64_t done, int64_t total, const char *unit)
{
    if (atomic_load(&t->r->stopping))
        return 1;
    if (clock_monotonic_us() - t->said_us < PROGRESS_EVERY_US)
        return t->gone;
    say(t, json_pack("{s:{s:I, s:I, s:s}}", "progress", "done", (json_int_t)done, "total", (json_int_t)total, "unit", unit));
    return talk_is_gone(t);
}

static int vault_beat(uint64_t done, uint64_t total, void *user) { return talk_progress(user, (int64_t)done, (int64_t)total, "bytes"); }

/* ---- helpers of the verbs ---- */

static int need_peer(struct talk *t, const json_t *q, struct peer **out, struct err *e)
{
    const char *server;

    return json_need_string(q, "server", &server, e) < 0 ? -1 : peer_need(t->r, server, out, e);
}

/* ---- the verbs: each fills *answer ---- */

static int do_status(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    const char *server = json_get_string(q, "server", NULL);
    CLEANUP(json_free) json_t *status = NULL;
    struct peer *p;

    if (server && peer_need(t->r, server, &p, e) < 0)
        return -1;
    status = status_json(t->r, server);
    return json_object_update(answer, status);
}

static int consistency_of(const json_t *q, int64_t *out, struct err *e)
{
    const char *name = json_get_string(q, "consistency", "any");

    for (int64_t c = WIRE_ANY; c <= WIRE_APPLICATION; c++)
        if (strcmp(name, wire_consistency_name(c)) == 0) {
            *out = c;
            return 0;
        }
    return err_set(e, ERR_INVALID, "consistency is any, crash, frozen or application, not %.40s", name);
}

static int do_point(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *made = xcalloc(1, sizeof *made);
    struct wire_take_point wanted = {.hold = json_get_bool(q, "hold", false),
                                     .freeze_budget_ms = json_get_int(q, "freeze_budget_ms", 0),
                                     .hold_limit_ms = json_get_int(q, "hold_limit_ms", 0)};
    int64_t timeout_ms = json_get_int(q, "timeout_ms", DEFAULT_POINT_TIMEOUT_MS);
    char id[VAULT_POINT_ID_SIZE];
    struct peer *p;

    if (need_peer(t, q, &p, e) < 0 || consistency_of(q, &wanted.consistency, e) < 0)
        return -1;
    if (timeout_ms <= 0 || wanted.freeze_budget_ms < 0 || wanted.hold_limit_ms < 0)
        return err_set(e, ERR_INVALID, "timeout_ms, freeze_budget_ms and hold_limit_ms are positive");
    if (wanted.hold && wanted.consistency == WIRE_CRASH)
        return err_set(e, ERR_INVALID, "a point that is held is frozen: ask for consistency any or frozen");
    if (rescanned_allow(p, &wanted, &timeout_ms, e) < 0 || peer_take_point(p, &wanted, timeout_ms, t, id, e) < 0)
        return -1;
    if (vault_point_get(t->r->vault, id, made, e) != 1)
        return err_set(e, ERR_INTERNAL, "recovery point %s was made and is not there", id);
    return json_object_set_new(answer, "point", vault_point_json(made));
}

static int named_peers(struct talk *t, const json_t *servers, struct peer **peers, struct err *e)
{
    if (json_array_size(servers) < 1 || json_array_size(servers) > VAULT_GROUP_MOST)
        return err_set(e, ERR_INVALID, "a group has 1 to %d servers", VAULT_GROUP_MOST);
    for (size_t i = 0; i < json_array_size(servers); i++) {
        const char *name = json_string_value(json_array_get(servers, i));

        if (!name)
            return err_set(e, ERR_INVALID, "servers is a list of names");
        if (peer_need(t->r, name, &peers[i], e) < 0)
            return -1;
    }
    return 0;
}

static int do_group_point(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    struct group_wanted wanted = {.name = json_get_string(q, "name", ""), .freeze_budget_ms = json_get_int(q, "freeze_budget_ms", 0),
                                  .timeout_ms = json_get_int(q, "timeout_ms", DEFAULT_POINT_TIMEOUT_MS)};
    struct peer *peers[VAULT_GROUP_MOST];
    json_t *servers, *group = NULL;

    if (json_need_array(q, "servers", &servers, e) < 0 || named_peers(t, servers, peers, e) < 0 || consistency_of(q, &wanted.consistency, e) < 0)
        return -1;
    if (wanted.timeout_ms <= 0 || wanted.freeze_budget_ms < 0 || strlen(wanted.name) >= VAULT_GROUP_NAME_SIZE)
        return err_set(e, ERR_INVALID, "timeout_ms and freeze_budget_ms are positive, and a name has at most %d bytes", VAULT_GROUP_NAME_SIZE - 1);
    if (group_take(t->r, peers, json_array_size(servers), &wanted, t, &group, e) < 0)
        return -1;
    return json_object_set_new(answer, "group", group);
}

static int do_thaw(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    struct wire_thawed thawed = {0};
    struct peer *p;

    if (need_peer(t, q, &p, e) < 0 || peer_thaw(p, json_get_int(q, "timeout_ms", 60000), t, &thawed, e) < 0)
        return -1;
    json_object_set_new(answer, "was_held", json_boolean(thawed.was_held));
    json_object_set_new(answer, "still", json_boolean(thawed.still));
    return json_object_set_new(answer, "held_ms", json_integer(thawed.held_ms));
}

/* A machine in rescue whose disks are restored (from that point, where one is named): it hears of it when it asks next. Asked twice is fine. */
static int do_boot_rescued(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    const char *wanted = json_get_string(q, "point", NULL);
    struct peer *p;

    if (need_peer(t, q, &p, e) < 0)
        return -1;
    pthread_mutex_lock(&p->lock);
    if (strcmp(p->rescue_state, "done") != 0)
        err_set(e, ERR_WRONG_STATE, "%s has not said that its disks are restored (%s%s%s)", p->server, *p->rescue_state ? p->rescue_state : "it is in no rescue",
                *p->rescue_state ? ": " : "", p->rescue_message);
    else if (wanted && strcmp(wanted, p->rescue_point) != 0)
        err_set(e, ERR_WRONG_STATE, "%s has recovery point %s on its disks, not %.63s", p->server, p->rescue_point, wanted);
    else
        json_object_set_new(answer, "point", json_string(p->rescue_point));
    p->rescue_boot = json_object_get(answer, "point") != NULL;
    pthread_mutex_unlock(&p->lock);
    return json_object_get(answer, "point") ? peers_save(t->r, e) : -1;
}

static int do_export(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *point = NULL;

    if (orders_need_point(t->r->vault, q, &point, e) < 0 || vault_point_usable(t->r->vault, point->id, e) < 0 ||
        vault_point_pin(t->r->vault, point->id, VAULT_EXPORT_PIN, e) < 0)
        return -1;
    json_object_set_new(answer, "point", vault_point_json(point));
    return json_object_set_new(answer, "disks", orders_disks(t->r->nbd_path, "", point));
}

/* A client that has just ended may not have been seen off yet. */
static int wait_for_no_readers(struct talk *t, const char *point, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + READERS_WAIT_US;
    unsigned readers;

    while ((readers = nbd_server_readers(t->r->nbd, point)) && clock_monotonic_us() < until_us)
        clock_sleep_us(20 * US_PER_MS);
    return readers ? err_set(e, ERR_WRONG_STATE, "%u connection(s) read recovery point %s: stop the instance, or let it be filled in "
                             "first", readers, point) : 0;
}

static int unexport(struct talk *t, const char *point, struct err *e)
{
    return wait_for_no_readers(t, point, e) < 0 ? -1 : vault_point_unpin(t->r->vault, point, VAULT_EXPORT_PIN, e);
}

static int do_unexport(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    const char *point;

    (void)answer;
    return json_need_string(q, "point", &point, e) < 0 ? -1 : unexport(t, point, e);
}

/* Whether the source stands still at this very point: then what differs is a fault, and not a later write. */
static bool held_at(struct peer *p, const struct vault_point *point)
{
    bool held;

    pthread_mutex_lock(&p->lock);
    held = p->session && p->has_status && p->status.held && strcmp(p->newest, point->id) == 0;
    pthread_mutex_unlock(&p->lock);
    return held;
}

static int do_compare(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *point = NULL;
    json_t *disks = NULL;
    struct peer *p;
    int result;

    if (need_peer(t, q, &p, e) < 0 || orders_need_point(t->r->vault, q, &point, e) < 0)
        return -1;
    if (strcmp(point->server, p->server) != 0)
        return err_set(e, ERR_INVALID, "recovery point %s is not of %s", point->id, p->server);
    if (nbd_server_lend(t->r->nbd, point->id, e) < 0)
        return -1;
    json_object_set_new(answer, "held", json_boolean(held_at(p, point)));
    json_object_set_new(answer, "point", vault_point_json(point));
    result = compare_point(t, p, point, &disks, e);
    (void)nbd_server_return(t->r->nbd, point->id, NULL);
    return result < 0 ? -1 : json_object_set_new(answer, "disks", disks);
}

static int order(struct talk *t, const json_t *q, unsigned type, struct peer **out, struct err *e)
{
    struct wire_simple message = {0};
    const char *by = json_get_string(q, "by", "");
    struct peer *p;
    bool connected;

    if (need_peer(t, q, &p, e) < 0)
        return -1;
    if (strlen(by) > LIMIT_NAME_BYTES)
        return err_set(e, ERR_INVALID, "\"by\" is a name of at most %d bytes", LIMIT_NAME_BYTES);
    pthread_mutex_lock(&p->lock);
    if (type == WIRE_PAUSE && !p->paused) {
        snprintf(p->paused_by, sizeof p->paused_by, "%s", by);
        p->paused_us = clock_now_us();
    }
    p->paused = type == WIRE_PAUSE || (type == WIRE_DETACH && p->paused);
    p->detached = type == WIRE_DETACH;
    connected = p->session && p->greeted; /* before, its session tells it with the standing orders */
    pthread_mutex_unlock(&p->lock);
    *out = p;
    if (peers_save(t->r, e) < 0)
        return -1;
    /* An agent that is away is told when it comes back. A pause is what a calendar may want, too. */
    limits_tell(p);
    return connected && type == WIRE_DETACH ? peer_send(p, type, &message, sizeof message, e) : 0;
}

static int do_pause(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    struct peer *p;

    (void)answer;
    return order(t, q, WIRE_PAUSE, &p, e);
}

static int do_resume(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    struct peer *p;

    (void)answer;
    return order(t, q, WIRE_RESUME, &p, e);
}

/* A person's word on which of two machines of one name is the server: the one that was refused last. It gets the place when it dials next. */
static int do_prefer(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    struct peer *p;
    bool known;

    if (need_peer(t, q, &p, e) < 0)
        return -1;
    pthread_mutex_lock(&p->lock);
    known = p->refused_us;
    memcpy(p->preferred_boot, p->refused_boot, sizeof p->preferred_boot);
    json_object_set_new(answer, "address", json_string(p->refused_address));
    pthread_mutex_unlock(&p->lock);
    return known ? 0 : err_set(e, ERR_WRONG_STATE, "no other machine's agent of the name %s was refused", p->server);
}

/* A person's word that the disks that are missing were meant to go: points are whole without them from now on. */
static int do_accept_disks(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    struct peer *p;
    int count;

    if (need_peer(t, q, &p, e) < 0)
        return -1;
    pthread_mutex_lock(&p->lock);
    json_object_set_new(answer, "disks", missing_json(&p->missing));
    count = missing_accept(&p->missing);
    pthread_mutex_unlock(&p->lock);
    if (!count)
        return err_set(e, ERR_WRONG_STATE, "no disk of %s is missing", p->server);
    log_info("%s: it was said that %d disks that are missing were meant to go", p->server, count);
    return peers_save(t->r, e);
}

static bool connected(struct peer *p)
{
    bool result;

    pthread_mutex_lock(&p->lock);
    result = p->session != NULL;
    pthread_mutex_unlock(&p->lock);
    return result;
}

static bool has_left(struct peer *p)
{
    bool result;

    pthread_mutex_lock(&p->lock);
    result = p->has_left;
    pthread_mutex_unlock(&p->lock);
    return result;
}

static int do_detach(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + DETACH_WAIT_US;
    struct err why = {0};
    struct peer *p = NULL;
    bool was_there;

    if (need_peer(t, q, &p, e) < 0)
        return -1;
    was_there = connected(p);
    if (order(t, q, WIRE_DETACH, &p, &why) < 0 && why.kind != ERR_UNREACHABLE)
        return err_set(e, why.kind, "%s", why.message);
    while (connected(p) && clock_monotonic_us() < until_us)
        clock_sleep_us(50 * US_PER_MS);
    /* One that is away is told when it comes back; one whose link was cut meanwhile, too. */
    return json_object_set_new(answer, "agent_told", json_boolean(was_there && has_left(p)));
}

static int unexport_all(struct talk *t, const char *server, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *points = NULL;
    int count = vault_point_list(t->r->vault, server, 0, &points, e);

    for (int i = 0; i < count; i++) {
        int pinned = vault_point_pinned(t->r->vault, points[i].id, VAULT_EXPORT_PIN, e);

        if (pinned < 0 || (pinned && unexport(t, points[i].id, e) < 0))
            return -1;
    }
    return count < 0 ? -1 : 0;
}

void peer_forget(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    p->gone = true;
    p->paused = p->detached = p->has_status = false;
    p->newest[0] = p->rescue_state[0] = '\0';
    p->newest_at_us = p->pointed_us = 0;
    p->newest_unreadable = (struct vault_unreadable){0};
    p->stored_bytes = 0;
    missing_release(&p->missing);
    memset(&p->status, 0, sizeof p->status);
    pthread_mutex_unlock(&p->lock);
}

static bool is_copied_here(struct peer *p)
{
    bool result;

    pthread_mutex_lock(&p->lock);
    result = p->copying != NULL;
    pthread_mutex_unlock(&p->lock);
    return result;
}

/* What would keep it here must be known before its second copy is gone. Our own pins for that one are no reason. */
static int none_pinned(struct talk *t, const char *server, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *points = NULL;
    int count = vault_point_list(t->r->vault, server, 0, &points, e);

    for (int i = 0; i < count; i++) {
        CLEANUP(free_ptr) char(*reasons)[VAULT_PIN_REASON_SIZE] = NULL;
        int pins = vault_point_pins(t->r->vault, points[i].id, &reasons, e);

        if (pins < 0)
            return -1;
        for (int k = 0; k < pins; k++)
            if (strcmp(reasons[k], COPY_PIN) != 0)
                return err_set(e, ERR_WRONG_STATE, "recovery point %s is pinned (%s): end that first", points[i].id, reasons[k]);
    }
    return count < 0 ? -1 : 0;
}

/* Its second copy first: where that can't be had nothing is dropped, and it is said. p may be NULL. */
static int drop_all(struct talk *t, struct peer *p, const char *server, uint64_t *freed, struct err *e)
{
    int result = unexport_all(t, server, e) < 0 || none_pinned(t, server, e) < 0 || (p && copy_drop(p, e) < 0) ? -1 : 0;

    if (result == 0)
        result = vault_server_drop(t->r->vault, server, e) < 0 || vault_gc(t->r->vault, freed, e) < 0 ? -1 : 0;
    if (p && result == 0)
        peer_forget(p);
    if (p)
        copy_drop_over(p);
    return result;
}

/* Asked twice is fine: there is nothing the second time. */
static int do_drop(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    uint64_t freed = 0;
    const char *server;
    struct peer *p;

    if (json_need_string(q, "server", &server, e) < 0)
        return -1;
    p = peer_find(t->r, server, false);
    if (p && connected(p))
        return err_set(e, ERR_WRONG_STATE, "the agent of %s is connected: detach it first", p->server);
    if (p && is_copied_here(p))
        return err_set(e, ERR_WRONG_STATE, "another replicator copies points of %s here: they are dropped there, and go from here with those", p->server);
    if (drop_all(t, p, server, &freed, e) < 0)
        return -1;
    if (peers_save(t->r, e) < 0)
        return -1;
    return json_object_set_new(answer, "bytes_freed", json_integer((json_int_t)freed));
}

/* Those of servers; the vault's care is in control_care.c, what needs no more than the vault in orders.c. */
static int do_drop_point(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    return orders_run(&t->orders, "drop_point", q, answer, e) < 0 ? -1 : peers_forget_dropped(t->r, e);
}

static const struct {
    const char *verb;
    int (*run)(struct talk *t, const json_t *q, json_t *answer, struct err *e);
} verbs[] = {
    {"status", do_status},   {"point", do_point}, {"group_point", do_group_point}, {"thaw", do_thaw}, {"export", do_export}, {"unexport", do_unexport}, {"compare", do_compare},
    {"pause", do_pause},     {"resume", do_resume}, {"detach", do_detach}, {"prefer", do_prefer}, {"drop", do_drop}, {"boot_rescued", do_boot_rescued}, {"drop_point", do_drop_point},
    {"accept_disks", do_accept_disks},
};

static int run_verb(struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    const char *verb, *replicator = json_get_string(q, "replicator", NULL);
    int done;

    if (json_need_string(q, "verb", &verb, e) < 0)
        return -1;
    if (replicator && strcmp(replicator, t->r->options.name) != 0) /* whose copy of a server it is must not be guessed */
        return err_set(e, ERR_CONFLICT, "this is the replicator %s, and %.128s was asked for: start a runner with the label replicator:%.128s beside that one", t->r->options.name,
                       replicator, replicator);
    for (size_t i = 0; i < ARRAY_COUNT(verbs); i++)
        if (strcmp(verb, verbs[i].verb) == 0)
            return verbs[i].run(t, q, answer, e);
    done = care_verb(t->r, t, verb, q, answer, e);
    done = done ? done : orders_run(&t->orders, verb, q, answer, e);
    return done ? done : err_set(e, ERR_INVALID, "there is no verb %.40s", verb);
}

static void answer_line(struct talk *t, const char *line, size_t size)
{
    CLEANUP(json_free) json_t *q = NULL, *answer = json_pack("{s:b}", "ok", 1);
    struct err e = {0};

    t->said_us = clock_monotonic_us();
    if (json_read(line, size, &q, &e) < 0 || run_verb(t, q, answer, &e) < 0) {
        if (e.kind == ERR_NONE)
            err_set(&e, ERR_INTERNAL, "a verb failed without a reason");
        say(t, json_pack("{s:b, s:{s:s, s:s}}", "ok", 0, "error", "kind", err_meaning(e.kind)->name, "message", e.message));
        return;
    }
    say(t, json_incref(answer));
}

/* ---- connections ---- */

/* False: we are to stop, and nobody is in the middle of something. */
static bool wait_for_line(struct talk *t)
{
    struct pollfd p = {.fd = t->fd, .events = POLLIN};

    while (!atomic_load(&t->r->stopping))
        if (poll(&p, 1, STOP_LOOK_MS) > 0)
            return true;
    return false;
}

static void *serve(void *user)
{
    struct talk *t = user;
    CLEANUP(buf_release) struct buf b = {0};
    char bytes[4096];
    ssize_t n;

    buf_init(&b, LINE_LIMIT);
    while (!t->gone && wait_for_line(t) && (n = recv(t->fd, bytes, sizeof bytes, 0)) > 0) {
        char *end;

        if (buf_add(&b, bytes, (size_t)n) < 0)
            break;
        while (!t->gone && (end = memchr(b.data, '\n', b.size_bytes))) {
            size_t size = (size_t)(end - b.data);

            answer_line(t, b.data, size);
            memmove(b.data, end + 1, b.size_bytes - size - 1);
            b.size_bytes -= size + 1;
        }
    }
    orders_end(&t->orders); /* whoever has a point on loan has it as long as it stays connected */
    close(t->fd);
    atomic_fetch_sub(&t->r->talks, 1);
    free(t);
    return NULL;
}

int control_listen(struct replicator *r, struct err *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(r->control_path) >= sizeof address.sun_path)
        return err_set(e, ERR_INVALID, "the data folder's path is too long for a socket in it: %s", r->control_path);
    memcpy(address.sun_path, r->control_path, strlen(r->control_path) + 1);
    if (unlink(r->control_path) < 0 && errno != ENOENT)
        return err_errno(e, errno, "can't remove the old socket %s", r->control_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || chmod(r->control_path, 0600) < 0 ||
        listen(fd, 64) < 0) {
        err_errno(e, errno, "can't listen on %s", r->control_path);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    r->control_fd = fd;
    return 0;
}

static void start(struct replicator *r, int fd)
{
    struct talk *t = xcalloc(1, sizeof *t);
    pthread_attr_t attributes;
    pthread_t thread;

    t->r = r;
    t->fd = fd;
    t->orders = (struct orders){.vault = r->vault, .nbd = r->nbd, .nbd_path = r->nbd_path, .progress = vault_beat, .user = t};
    atomic_fetch_add(&r->talks, 1);
    MUST(pthread_attr_init(&attributes) == 0 && pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0);
    if (pthread_create(&thread, &attributes, serve, t) != 0) {
        close(fd);
        atomic_fetch_sub(&r->talks, 1);
        free(t);
    }
    pthread_attr_destroy(&attributes);
}

void *control_accept(void *replicator)
{
    struct replicator *r = replicator;

    while (!atomic_load(&r->stopping)) {
        struct pollfd p = {.fd = r->control_fd, .events = POLLIN};
        int fd;

        if (poll(&p, 1, 200) <= 0)
            continue;
        fd = accept4(r->control_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0 && atomic_load(&r->talks) < 128)
            start(r, fd);
        else if (fd >= 0)
            close(fd);
        else
            clock_sleep_us(20 * US_PER_MS);
    }
    return NULL;
}
