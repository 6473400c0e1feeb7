/* sim_replication: histories of a source and its replicator. The replicator's session (session_serve over TLS, the one that ships) runs in a process whose
 * disk forgets (tests/sim/vault/forget.h): power cuts, kills, a disk that is full, fails, or can't be written. Here is the other end: an agent that speaks the
 * protocol and keeps the source, whose link is cut at any frame; and now and then a second one for the same server. What was acknowledged may not be asked
 * for again, each point that was answered must be there, byte for byte, and no other but one that was asked for. At the end copies of the vault are damaged:
 * a byte flipped, a segment cut short, the index torn, the index lost, and a segment's header with it. Nothing wrong may be read from them, and what is wrong must be named.
 *
 * Usage: sim_replication [must_fail]. SLIPWAY_SEED=N: that history alone, SLIPWAY_SEEDS=N: so many. Threads race: a seed brings the same luck, not the same
 * microsecond. must_fail: for a session with a mistake in it, which some history must show. */
#include "../vault/lives.h"
#include "replicator/session.h"
#include "testca.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HISTORIES 8
#define HISTORIES_MUTANT 100
#define CHUNKS 40
#define SIZE_BYTES ((uint64_t)CHUNKS * CHUNK - 8192)
#define FLIGHTS 32
#define OFFERED 8
#define ASKS 256

struct flight {
    uint64_t number;
    int count, chunk[OFFERED], content[OFFERED];
    uint16_t pages[OFFERED];
};

struct agent {
    char epoch[16];
    struct wire_conn *conn; /* NULL: not connected */
    uint64_t number, acked;
    bool todo[CHUNKS];
    int offered[CHUNKS]; /* in this epoch, and applied or on its way; UNKNOWN: not */
    struct flight flights[FLIGHTS];
    int flight_count;
    int asked;           /* the point that is not answered; -1: none */
    int64_t request;     /* of the last TAKE_POINT; 0: none, or it was followed */
    bool overtaken;      /* the other one has had its place since it began, perhaps */
};

struct asked {
    int chunks[CHUNKS];
    char id[WIRE_TOKEN_SIZE]; /* "": not answered */
};

static char dir[64];
static uint64_t state;
static int source[CHUNKS];
static struct agent agents[2];
static struct asked asks[ASKS];
static int ask_count, listener, orders;
static pid_t replicator;
static struct tls_context *contexts[2];
static uint64_t acks, done_points, resumed, damaged_reads;

static uint64_t draw(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state >> 12;
}
static int below(int bound) { return (int)(draw() % (uint64_t)bound); }
static bool chance(int percent) { return below(100) < percent; }

/* ---- the replicator's process ---- */

static const struct vault_options options = {.segment_bytes = 512 << 10, .guard_bytes = 1 << 20, .cache_bytes = 8 << 20};
static struct replicator r;

static void *serve(void *fd)
{
    session_serve(&r, (int)(intptr_t)fd);
    return NULL;
}

static void *accept_all(void *nothing)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;

        if (fd < 0 || pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) != 0)
            return nothing;
        pthread_detach(thread);
    }
}

/* A point counts only where one was asked for: whoever connects is asked for one, and again once that is answered. Nobody waits: whether and when it comes is the
 * agent's. */
static void *ask_for_points(void *nothing)
{
    int64_t since_us = 0, request = 0;

    for (;; clock_sleep_us(US_PER_MS)) {
        struct wire_take_point take = {.consistency = WIRE_CRASH, .timeout_ms = 30000};
        struct ask a = {SLOT_POINT, WIRE_TAKE_POINT, &take, sizeof take, &take.request, NULL, false, false};
        struct peer *p = peers_first(&r);
        bool asked = false;

        if (!p)
            continue;
        pthread_mutex_lock(&p->lock);
        for (size_t i = 0; i < POINT_ASKS_KEPT; i++)
            asked = asked || (p->point_asks[i] && p->point_asks[i] == request && p->since_us == since_us);
        since_us = p->since_us;
        pthread_mutex_unlock(&p->lock);
        if (asked)
            continue;
        request = slot_ask(p, &a, clock_monotonic_us() + US_PER_S, NULL) == 0 ? take.request : 0;
        if (request)
            slot_leave(p, SLOT_POINT);
    }
    return nothing;
}

/* Lives until the power goes, or it is told to end: 'c' by a cut, 'k' by a kill. */
static _Noreturn void live(const struct forget_plan *plan, int end)
{
    struct err e = {0};
    pthread_t thread;
    char how = 'k';

    forget_start(dir, plan, &m->count);
    if (vault_open(dir, &options, &r.vault, &e) < 0) {
        MUST_HOLD(m->count.faults, "open: %s", e.message);
        forget_kill();
    }
    r.tls = contexts[1];
    r.options.name = "sim";
    r.identity = xstrdup("replicator:sim");
    r.clock = &clock_real;
    r.marks_path = xasprintf("%s.marks", dir);
    r.settings_path = xasprintf("%s.settings", dir);
    MUST(pthread_mutex_init(&r.lock, NULL) == 0 && pthread_mutex_init(&r.stat_lock, NULL) == 0 && pthread_mutex_init(&r.settings_lock, NULL) == 0 &&
         pthread_mutex_init(&r.stir_lock, NULL) == 0 && pthread_cond_init(&r.stirred, NULL) == 0);
    if (pthread_create(&thread, NULL, accept_all, NULL) != 0 || pthread_create(&thread, NULL, ask_for_points, NULL) != 0)
        abort();
    while (read(end, &how, 1) < 0 && errno == EINTR)
        ;
    if (how == 'c')
        forget_cut();
    forget_kill();
}

static void begin_life(void)
{
    struct forget_plan plan = {.seed = draw(), .killed = chance(25)};
    int pair[2];

    if (chance(70))
        plan.cut_at = 1 + (uint64_t)below(chance(30) ? 30 : 400);
    if (chance(20)) {
        plan.fault_from = 30 + (uint64_t)below(300);
        plan.fault_count = 1 + (uint64_t)below(20);
        plan.fault = (int[]){ENOSPC, EIO, EIO, EROFS}[below(4)];
    }
    m->count = (struct forget_count){0};
    fflush(stdout);
    if (pipe(pair) < 0 || (replicator = fork()) < 0)
        abort();
    if (replicator == 0) {
        close(pair[1]);
        live(&plan, pair[0]);
    }
    close(pair[0]);
    orders = pair[1];
}

static bool replicator_lives(void)
{
    siginfo_t gone = {0};

    return waitid(P_PID, (id_t)replicator, &gone, WEXITED | WNOHANG | WNOWAIT) == 0 && gone.si_pid == 0;
}

static void leave(struct agent *a) { wire_conn_free(&a->conn); }

static void end_life(char how)
{
    int status;

    if (write(orders, &how, 1) < 0 && errno != EPIPE)
        abort();
    if (waitpid(replicator, &status, 0) < 0)
        abort();
    close(orders);
    MUST_HOLD(WIFEXITED(status) && (WEXITSTATUS(status) == FORGET_CUT || WEXITSTATUS(status) == FORGET_KILLED), "the replicator ended with status %x",
              (unsigned)status);
    m->lives++;
    m->cuts += WIFEXITED(status) && WEXITSTATUS(status) == FORGET_CUT;
    for (int i = 0; i < 2; i++)
        leave(&agents[i]);
}

/* ---- the agent ---- */

static void all_to_do(struct agent *a)
{
    for (int c = 0; c < CHUNKS; c++) {
        a->todo[c] = true;
        a->offered[c] = UNKNOWN;
    }
    a->flight_count = 0;
    a->acked = 0;
}

/* What was on its way and is not in the map is to do again, as a whole. */
static void resume(struct agent *a, uint64_t applied)
{
    for (int i = 0; i < a->flight_count; i++)
        for (int n = 0; n < a->flights[i].count && a->flights[i].number > applied; n++) {
            a->todo[a->flights[i].chunk[n]] = true;
            a->offered[a->flights[i].chunk[n]] = UNKNOWN;
        }
    a->flight_count = 0;
    resumed++;
}

static void welcomed(struct agent *a, const struct wire_welcome *w)
{
    a->asked = -1;
    a->request = 0;
    /* The other one's feeding ends ours: WELCOME says so by its epoch; and where that WELCOME is lost, the next one by what is applied (docs/formats/wire.md). */
    if (strcmp(w->epoch, a->epoch) != 0 || (a->overtaken && (uint64_t)w->applied < a->acked)) {
        all_to_do(a);
        return;
    }
    MUST_HOLD((uint64_t)w->applied >= a->acked, "offer %llu was acknowledged, and the map is at %lld", (unsigned long long)a->acked, (long long)w->applied);
    resume(a, (uint64_t)w->applied);
}

static void join(struct agent *a)
{
    CLEANUP(free_ptr) struct wire_hello *hello = xcalloc(1, sizeof *hello);
    CLEANUP(free_ptr) struct wire_welcome *w = xcalloc(1, sizeof *w);
    struct sockaddr_storage to;
    socklen_t size = sizeof to;
    struct tls_stream *stream = NULL;
    struct wire_frame f;
    struct err e = {0};
    bool closed;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (getsockname(listener, (struct sockaddr *)&to, &size) < 0 || connect(fd, (struct sockaddr *)&to, size) < 0) {
        close(fd);
        return;
    }
    if (tls_open(contexts[0], fd, "replicator:", 2000, &stream, &e) < 0)
        return;
    a->conn = wire_conn_new(&stream, 2000);
    *hello = (struct wire_hello){.version = WIRE_VERSION, .disk_count = 1, .disks = {{.id = "disk", .name = "sda", .size_bytes = (int64_t)SIZE_BYTES}}};
    snprintf(hello->server, sizeof hello->server, "s0");
    snprintf(hello->epoch, sizeof hello->epoch, "%s", a->epoch);
    snprintf(hello->tracker, sizeof hello->tracker, "ebpf");
    agents[a == &agents[0]].overtaken = true;
    if (wire_send_message(a->conn, WIRE_HELLO, hello, &e) < 0 || wire_recv(a->conn, &f, 2000, &closed, &e) != 1 || f.type != WIRE_WELCOME ||
        wire_json_decode(WIRE_WELCOME, f.payload, f.size, w, sizeof *w, &e) < 0)
        leave(a);
    else
        welcomed(a, w);
}

static void hear_need(struct agent *a, const struct wire_frame *frame)
{
    CLEANUP(buf_release) struct buf out = {.limit_bytes = WIRE_PAYLOAD_LIMIT};
    struct flight *found = NULL;
    struct wire_need need;
    struct err e = {0};

    if (!MUST_HOLD(wire_need_decode(frame->payload, frame->size, &need, &e) == 0, "%s", e.message))
        return;
    for (int i = 0; i < a->flight_count; i++)
        if (a->flights[i].number == need.offer)
            found = &a->flights[i];
    if (!found)
        return;
    wire_data_begin(&out, need.offer);
    for (int i = 0; i < found->count; i++) {
        uint8_t bytes[CHUNK];
        struct wire_data_chunk c = {.entry = (uint16_t)i, .codec = WIRE_RAW, .bytes = bytes, .stored_size = CHUNK, .raw_size = CHUNK};

        if (!wire_needs(&need, (unsigned)i))
            continue;
        if (found->pages[i]) {
            content_pages(found->content[i], bytes);
            c.stored_size = c.raw_size = (uint32_t)__builtin_popcount(found->pages[i]) * WIRE_PAGE_SIZE;
        } else {
            content_bytes(found->content[i], bytes);
        }
        MUST_HOLD(wire_data_add(&out, &c) == 0, "the frame is full");
    }
    if (wire_data_count(&out) && wire_send_buf(a->conn, WIRE_DATA, &out, &e) < 0)
        leave(a);
}

static void hear_ack(struct agent *a, const struct wire_frame *frame)
{
    struct wire_ack ack;
    int left = 0;

    if (!MUST_HOLD(wire_ack_decode(frame->payload, frame->size, &ack, NULL) == 0 && ack.offer <= a->number, "a wrong ACK"))
        return;
    a->acked = ack.offer;
    for (int i = 0; i < a->flight_count; i++)
        if (a->flights[i].number > ack.offer)
            a->flights[left++] = a->flights[i];
    a->flight_count = left;
    acks++;
}

static void hear_done(struct agent *a, const struct wire_frame *frame)
{
    struct wire_point_done done;

    if (!MUST_HOLD(wire_json_decode(WIRE_POINT_DONE, frame->payload, frame->size, &done, sizeof done, NULL) == 0 && a->asked >= 0, "a point that was not asked for"))
        return;
    snprintf(asks[a->asked].id, sizeof asks[0].id, "%s", done.point);
    a->asked = -1;
    done_points++;
}

/* Only the disk, and another session, are reasons. */
static void hear_refuse(const struct wire_frame *frame)
{
    struct wire_failure why;

    if (MUST_HOLD(wire_json_decode(WIRE_REFUSE, frame->payload, frame->size, &why, sizeof why, NULL) == 0, "a wrong REFUSE"))
        MUST_HOLD(m->count.faults || strcmp(why.kind, "conflict") == 0, "refused: %s: %s", why.kind, why.message);
}

/* One frame: false where none came. */
static void hear_take(struct agent *a, const struct wire_frame *f)
{
    struct wire_take_point take;

    if (MUST_HOLD(wire_json_decode(WIRE_TAKE_POINT, f->payload, f->size, &take, sizeof take, NULL) == 0, "a TAKE_POINT that is none"))
        a->request = take.request;
}

static bool hear(struct agent *a, int timeout_ms)
{
    struct wire_simple pong = {0};
    struct wire_frame f;
    bool closed = false;
    int got = wire_recv(a->conn, &f, timeout_ms, &closed, NULL);

    if (got == 1 && f.type == WIRE_REFUSE)
        hear_refuse(&f);
    if (got < 0 || closed || (got == 1 && f.type == WIRE_REFUSE)) {
        leave(a);
        return false;
    }
    if (got == 0)
        return false;
    if (f.type == WIRE_NEED)
        hear_need(a, &f);
    else if (f.type == WIRE_ACK)
        hear_ack(a, &f);
    else if (f.type == WIRE_POINT_DONE)
        hear_done(a, &f);
    else if (f.type == WIRE_POINT_FAILED)
        a->asked = -1;
    else if (f.type == WIRE_TAKE_POINT)
        hear_take(a, &f);
    else if (f.type == WIRE_PING && wire_send_message(a->conn, WIRE_PONG, &pong, NULL) < 0)
        leave(a);
    return a->conn != NULL;
}

static void hash_of(int content, uint16_t pages, uint8_t out[static HASH_SHA256_SIZE])
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash = m->contents[content].hash;

    if (pages) {
        content_pages(content, bytes);
        vault_hash_of(bytes, (size_t)__builtin_popcount(pages) * WIRE_PAGE_SIZE, &hash);
    }
    memcpy(out, hash.bytes, sizeof hash);
}

static void offer(struct agent *a)
{
    CLEANUP(free_ptr) struct wire_offer *o = xcalloc(1, sizeof *o);
    CLEANUP(buf_release) struct buf out = {.limit_bytes = WIRE_PAYLOAD_LIMIT};
    struct flight *f = &a->flights[a->flight_count];

    if (a->flight_count == FLIGHTS)
        return;
    *f = (struct flight){.number = ++a->number};
    o->number = f->number;
    for (int c = below(CHUNKS / 2); c < CHUNKS && f->count < OFFERED; c++) {
        int content = source[c];
        struct wire_entry *entry = &o->entries[f->count];
        bool pages = content != ZEROS && a->offered[c] != UNKNOWN && m->contents[content].parent == a->offered[c];

        if (!a->todo[c])
            continue;
        *entry = (struct wire_entry){.chunk = (uint32_t)c, .zero = content == ZEROS, .pages = pages ? (uint16_t)m->contents[content].mask : 0};
        if (!entry->zero)
            hash_of(content, entry->pages, entry->hash);
        f->chunk[f->count] = c;
        f->content[f->count] = a->offered[c] = content;
        f->pages[f->count++] = entry->pages;
        a->todo[c] = false;
    }
    o->count = (uint16_t)f->count;
    if (!f->count)
        return;
    a->flight_count++;
    wire_offer_encode(o, &out);
    if (wire_send_buf(a->conn, WIRE_OFFER, &out, NULL) < 0)
        leave(a);
}

static bool anything_to_do(const struct agent *a)
{
    for (int c = 0; c < CHUNKS; c++)
        if (a->todo[c])
            return true;
    return false;
}

static void ask_for_point(struct agent *a)
{
    struct wire_point point = {.consistency = WIRE_CRASH, .at_us = clock_now_us(), .attempts = 1};

    for (int n = 0; n < 400 && a->conn && anything_to_do(a); n++) {
        offer(a);
        while (a->conn && hear(a, a->flight_count >= FLIGHTS ? 20 : 0))
            ;
    }
    for (int n = 0; n < 100 && a->conn && !a->request; n++)
        hear(a, 20);
    if (!a->conn || !a->request || anything_to_do(a) || ask_count == ASKS)
        return;
    a->asked = ask_count++;
    point.request = a->request;
    a->request = 0;
    asks[a->asked] = (struct asked){0};
    memcpy(asks[a->asked].chunks, source, sizeof source);
    if (wire_send_message(a->conn, WIRE_POINT_COMMIT, &point, NULL) < 0)
        leave(a);
    for (int n = 0; n < 100 && a->conn && a->asked >= 0 && !chance(2); n++)
        hear(a, 20);
}

static void write_source(void)
{
    int c = below(CHUNKS), before = source[c];
    uint32_t mask = 1u << below(VAULT_CHUNK_PAGES) | 1u << below(VAULT_CHUNK_PAGES);

    if (before == ZEROS || content_depth(before) > 6 || chance(40))
        source[c] = chance(15) ? ZEROS : m->content_count > 4 && chance(20) ? below(m->content_count) : content_new(UNKNOWN, 0xffff, draw());
    else
        source[c] = content_new(before, mask, draw());
    for (int i = 0; i < 2; i++)
        agents[i].todo[c] = true;
}

static void act(struct agent *a)
{
    for (int n = below(6); n > 0; n--)
        write_source();
    if (!a->conn)
        join(a);
    if (!a->conn)
        return;
    if (chance(70))
        offer(a);
    while (a->conn && hear(a, chance(20) ? 5 : 0))
        ;
    if (a->conn && a->asked < 0 && chance(25))
        ask_for_point(a);
    if (a->conn && chance(6))
        leave(a); /* the link is cut */
}

/* ---- what is left ---- */

static bool reads_as(struct vault *v, const char *id, const int chunks[static CHUNKS], bool damaged)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    uint8_t bytes[CHUNK], wanted[CHUNK];
    struct err e = {0};

    if (vault_image_open(v, id, "disk", &image, &e) < 0)
        return damaged && e.kind == ERR_CORRUPT;
    for (int c = 0; c < CHUNKS; c++) {
        size_t size = c + 1 < CHUNKS ? CHUNK : (size_t)(SIZE_BYTES - (uint64_t)c * CHUNK);

        content_bytes(chunks[c], wanted);
        if (vault_image_read(image, bytes, size, (uint64_t)c * CHUNK, &e) < 0) {
            damaged_reads++;
            if (!damaged || e.kind != ERR_CORRUPT)
                return false;
            err_clear(&e);
        } else if (memcmp(bytes, wanted, size) != 0) {
            return false;
        }
    }
    return true;
}

/* Every point is what it was asked for as, and every one that was answered is there. damaged: what can't be read is named instead. */
static void look_at_all(struct vault *v, bool damaged, bool all)
{
    CLEANUP(free_ptr) struct vault_point *list = NULL;
    struct err e = {0};
    int count = vault_point_list(v, "s0", 0, &list, &e);
    bool found[ASKS] = {false};

    MUST_HOLD(count >= 0, "%s", e.message);
    for (int i = 0; i < count; i++) {
        bool right = false;
        int n = 0;

        while (n < ask_count && strcmp(asks[n].id, list[i].id) != 0)
            n++;
        if (n < ask_count)
            found[n] = right = reads_as(v, list[i].id, asks[n].chunks, damaged);
        /* One that was not answered is one of those that were not. */
        for (n = n < ask_count || damaged ? ask_count : 0; n < ask_count && !right; n++)
            if (!asks[n].id[0] && !found[n])
                found[n] = right = reads_as(v, list[i].id, asks[n].chunks, false);
        MUST_HOLD(right || damaged, "point %s is not what was asked for", list[i].id);
    }
    for (int n = 0; n < ask_count; n++)
        MUST_HOLD(!all || !asks[n].id[0] || found[n], "point %s is lost, or reads otherwise", asks[n].id);
}

static uint64_t findings(struct vault *v)
{
    CLEANUP(vault_report_release) struct vault_report checked = {0}, scrubbed = {0};
    struct err e = {0};

    MUST_HOLD(vault_check(v, &checked, &e) == 0 && vault_scrub(v, NULL, NULL, &scrubbed, &e) == 0, "%s", e.message);
    return checked.finding_count + scrubbed.finding_count;
}

static int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *format, ...)
{
    char command[512];
    va_list args;

    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    return system(command);
}

/* Anywhere in the file, or in its first `most` bytes. Whether it is in the header, of which nothing is padding. */
static bool flip(const char *path, bool cut_short, int most)
{
    CLEANUP(close_fd) int fd = open(path, O_RDWR | O_CLOEXEC);
    off_t size = lseek(fd, 0, SEEK_END), at;
    uint8_t byte = 0;

    if (fd < 0 || size <= 64)
        return false;
    at = chance(20) ? below(64) : below((int)size);
    at = at < most ? at : below(most);
    if (cut_short) {
        MUST_HOLD(ftruncate(fd, at) == 0, "can't cut %s", path);
        return false;
    }
    MUST_HOLD(pread(fd, &byte, 1, at) == 1, "can't read %s", path);
    byte ^= 1;
    MUST_HOLD(pwrite(fd, &byte, 1, at) == 1, "can't flip %s", path);
    return at < 64;
}

/* A copy with one damage. Padding between records and records that nothing uses may be hit: then there is nothing to name. */
static void damage(const char *name, bool cut_short)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    CLEANUP(free_ptr) char *copy = xasprintf("%s.damaged", dir), *path = xasprintf("%s/segments/0000000001.seg", copy);
    struct err e = {0};
    uint64_t before = damaged_reads, found;
    bool header;

    if (shell("rm -rf %s && cp -r %s %s", copy, dir, copy) != 0)
        abort();
    header = flip(path, cut_short, INT_MAX);
    if (!MUST_HOLD(vault_open(copy, &options, &v, &e) == 0, "%s: %s", name, e.message))
        return;
    found = findings(v) + vault_anew(v)->damage.finding_count; /* that of a segment that is being filled is mended as it is opened */
    MUST_HOLD(found || !header, "%s: a header, which nobody has found", name);
    look_at_all(v, true, false);
    MUST_HOLD(found || damaged_reads == before, "%s: reads fail, and check and scrub have found nothing", name);
}

/* The index is torn: that is said. It is lost: it is made anew, with all points, and what a header was is said, too. */
static void lose_index(bool torn)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    CLEANUP(free_ptr) char *copy = xasprintf("%s.damaged", dir), *path = xasprintf("%s/segments/0000000001.seg", copy);
    struct err e = {0};
    bool header;

    if (shell("rm -rf %s && cp -r %s %s", copy, dir, copy) != 0)
        abort();
    if (torn) {
        if (shell("dd if=/dev/zero of=%s/index/data.mdb bs=512 count=16 conv=notrunc status=none", copy) != 0)
            abort();
        MUST_HOLD(vault_open(copy, &options, &v, &e) < 0 && e.kind == ERR_CORRUPT && strstr(e.message, "index"), "a torn index is opened: %s", e.message);
        err_clear(&e);
    }
    if (shell("rm -rf %s/index", copy) != 0)
        abort();
    header = flip(path, false, 64);
    if (!MUST_HOLD(vault_open(copy, &options, &v, &e) == 0, "without its index: %s", e.message))
        return;
    look_at_all(v, false, true);
    MUST_HOLD(!header || vault_anew(v)->damage.finding_count, "without its index: a damaged header, and nobody says so");
    MUST_HOLD(findings(v) == 0, "without its index: check or scrub finds something");
}

static void look_at_the_end(void)
{
    struct err e = {0};

    {
        CLEANUP(vault_close) struct vault *v = NULL;

        if (!MUST_HOLD(vault_open(dir, &options, &v, &e) == 0, "%s", e.message))
            return;
        look_at_all(v, false, true);
        MUST_HOLD(findings(v) == 0, "check or scrub finds something");
    }
    damage("a byte is flipped", false);
    damage("a segment is cut short", true);
    lose_index(true);
    lose_index(false);
}

static void begin(uint64_t seed)
{
    m->seed = seed;
    m->life = m->failed = 0;
    m->content_count = 1;
    m->contents[0] = (struct content){.parent = UNKNOWN};
    state = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    for (int i = 0; i < 8; i++)
        draw();
    ask_count = 0;
    for (int c = 0; c < CHUNKS; c++)
        source[c] = c % 3 ? ZEROS : content_new(UNKNOWN, 0xffff, draw());
    for (int i = 0; i < 2; i++) {
        agents[i] = (struct agent){.asked = -1};
        snprintf(agents[i].epoch, sizeof agents[i].epoch, "epoch%d", i);
        all_to_do(&agents[i]);
    }
}

static bool one_history(uint64_t seed)
{
    int lives = 3 + (int)(seed % 4);

    begin(seed);
    if (mkdir(dir, 0700) < 0)
        abort();
    for (; m->life < lives && !m->failed; m->life++) {
        bool second = chance(30);

        begin_life();
        for (int n = 20 + below(30); n > 0 && !m->failed && replicator_lives(); n--)
            act(&agents[second && chance(30)]);
        end_life(chance(50) ? 'c' : 'k');
    }
    if (!m->failed)
        look_at_the_end();
    return shell("rm -rf %s %s.*", dir, dir) == 0 && !m->failed;
}

static void make_identities(void)
{
    struct test_ca ca;
    char *agent[2], *own[2];

    test_ca_make(&ca);
    test_ca_sign(&ca, "agent:s0", agent);
    test_ca_sign(&ca, "replicator:sim", own);
    MUST(tls_context_new(TLS_CLIENT, agent[0], agent[1], ca.pem, &contexts[0], NULL) == 0 &&
         tls_context_new(TLS_SERVER, own[0], own[1], ca.pem, &contexts[1], NULL) == 0);
    for (int i = 0; i < 2; i++) {
        free(agent[i]);
        free(own[i]);
    }
    test_ca_release(&ca);
}

int main(int count, char **words)
{
    bool must_fail = count > 1 && strcmp(words[1], "must_fail") == 0;
    const char *one = getenv("SLIPWAY_SEED"), *many = getenv("SLIPWAY_SEEDS");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1;
    int histories = many ? atoi(many) : one ? 1 : must_fail ? HISTORIES_MUTANT : HISTORIES, passed = 0;
    struct sockaddr here = {.sa_family = AF_UNIX};
    char base[40] = "/tmp/sim-replication.XXXXXX";

    signal(SIGPIPE, SIG_IGN);
    if (access("/dev/shm", W_OK) == 0)
        snprintf(base, sizeof base, "/dev/shm/sim-replication.XXXXXX");
    m = mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (m == MAP_FAILED || !mkdtemp(base) || bind(listener, &here, sizeof here.sa_family) < 0 || listen(listener, 16) < 0)
        abort();
    snprintf(dir, sizeof dir, "%s/vault", base);
    make_identities();
    for (int i = 0; i < histories && (passed == i || !must_fail); i++)
        if (one_history(first + (uint64_t)i))
            passed++;
        else if (!must_fail)
            ok(false, "history %llu (SLIPWAY_SEED=%llu brings the same luck)", (unsigned long long)m->seed, (unsigned long long)m->seed);
    rmdir(base);
    tap_note("%llu lives, %llu ended by the power, %llu acknowledgements, %llu points answered, %llu times gone on, %llu reads of damage refused",
             (unsigned long long)m->lives, (unsigned long long)m->cuts, (unsigned long long)acks, (unsigned long long)done_points, (unsigned long long)resumed,
             (unsigned long long)damaged_reads);
    for (int i = 0; i < 2; i++)
        tls_context_free(&contexts[i]);
    if (must_fail) {
        ok(passed < histories, "the mistake shows, in history %llu", (unsigned long long)m->seed);
        return tap_done();
    }
    is_int(passed, histories, "all histories hold");
    ok(one || (m->cuts > (uint64_t)histories && done_points > (uint64_t)histories * 3 && resumed > (uint64_t)histories && damaged_reads), "there was something to lose, and bad luck");
    return tap_done();
}
