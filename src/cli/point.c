/* `slipway point`: the way out of a vault, on the machine that holds it. */
#include "base/clock.h"
#include "cli/cli_private.h"
#include "point/export.h"
#include "point/guest.h"
#include "point/output.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LIST_DEFAULT 50
#define FILES_DEFAULT 1000
#define LIST_MOST 100000
#define TAKE_TIMEOUT_S 120
#define LOST_LOOK_US (200 * US_PER_MS)

static atomic_bool stop_asked;

static void ask_to_stop(int number)
{
    (void)number;
    atomic_store(&stop_asked, true);
}

static bool is_stopped(void *user)
{
    (void)user;
    return atomic_load(&stop_asked);
}

/* From now on ctrl-C ends the work in order: nothing half stays, nothing stays pinned. */
static void catch_signals(void)
{
    struct sigaction stop = {.sa_handler = ask_to_stop}, ignore = {.sa_handler = SIG_IGN}, before;

    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) /* nohup: it is to outlive its terminal */
        sigaction(SIGHUP, &stop, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

static int reach(const struct cli_call *call, struct reach **out, struct err *e)
{
    const char *folder = cli_value(call, "vault") ? cli_value(call, "vault") : getenv("SLIPWAY_VAULT");
    struct reach_needs needs = {
        .key_file = cli_value(call, "vault-key-file") ? cli_value(call, "vault-key-file") : getenv("SLIPWAY_VAULT_KEY_FILE"),
        .bucket = {.url = cli_value(call, "s3-url"), .bucket = cli_value(call, "s3-bucket"), .prefix = cli_value(call, "s3-prefix"), .region = cli_value(call, "s3-region"),
                   .ca_file = cli_value(call, "s3-ca"), .credentials_file = cli_value(call, "s3-credentials-file")}};

    catch_signals();
    if (!folder || !folder[0])
        return err_set(e, ERR_INVALID, "say --vault FOLDER (the vault's folder, or the replicator's, or the factory's data folder), "
                       "or set SLIPWAY_VAULT");
    return reach_open(folder, &needs, out, e);
}

static int count_option(const struct cli_call *call, const char *option, int64_t otherwise, int64_t *out, struct err *e)
{
    const char *value = cli_value(call, option);
    char *end = NULL;

    *out = value ? strtoll(value, &end, 10) : otherwise;
    if (value && (!*value || *end || *out < 1 || *out > LIST_MOST))
        return err_set(e, ERR_INVALID, "--%s takes a whole number from 1 to %d, not \"%s\"", option, LIST_MOST, value);
    return 0;
}

/* What people read; JSON keeps RFC 3339 in UTC. */
static void set_local_time(json_t *item, const char *from, const char *to)
{
    char local[CLI_LOCAL_TIME_SIZE];

    if (cli_local_time(json_get_string(item, from, NULL), local))
        json_object_set_new(item, to, json_string(local));
}

static void make_readable(const struct cli_call *call, json_t *point)
{
    if (call->json)
        return;
    set_local_time(point, "at", "when");
    json_object_set_new(point, "disk_count", json_integer((json_int_t)json_array_size(json_object_get(point, "disks"))));
}

/* ---- looking ---- */

/* An empty list of a server that is there is an answer; of one that nobody knows, a mistake. */
static int must_know(struct reach *r, const char *server, struct err *e)
{
    CLEANUP(json_free) json_t *request = json_pack("{s:s}", "verb", "servers"), *answer = NULL;
    CLEANUP(buf_release) struct buf names = {0};
    const json_t *name;
    size_t i;

    if (reach_ask(r, request, NULL, &answer, e) < 0)
        return -1;
    json_array_foreach(json_object_get(answer, "servers"), i, name) {
        if (strcmp(json_string_value(name), server) == 0)
            return 0;
        buf_printf(&names, "%s%s", i ? ", " : "", json_string_value(name));
    }
    return err_set(e, ERR_NOT_FOUND, "the vault knows no server %.100s: it has %.600s", server, names.size_bytes ? names.data : "none");
}

int cli_run_point_list(struct cli_call *call, struct err *e)
{
    CLEANUP(json_free) json_t *request = json_pack("{s:s, s:s}", "verb", "points", "server", call->words[0]), *answer = NULL, *shown = json_object();
    CLEANUP(reach_close) struct reach *r = NULL;
    const char *page = cli_value(call, "page"), *next;
    int64_t limit;
    json_t *list, *point;
    size_t i;

    if (count_option(call, "limit", LIST_DEFAULT, &limit, e) < 0)
        return -1;
    if (!request || (page && json_object_set_new(request, "before", json_string(page)) < 0))
        return err_set(e, ERR_INVALID, "servers and points have names of plain text");
    json_object_set_new(request, "limit", json_integer(limit));
    if (reach(call, &r, e) < 0 || reach_ask(r, request, NULL, &answer, e) < 0 || json_need_array(answer, "points", &list, e) < 0)
        return -1;
    if (json_array_size(list) == 0 && must_know(r, call->words[0], e) < 0)
        return -1;
    json_array_foreach(list, i, point)
        make_readable(call, point);
    json_object_set(shown, "items", list);
    json_object_set(shown, "next", json_object_get(answer, "next"));
    cli_show_answer(call, shown);
    next = json_get_string(answer, "next", NULL);
    if (next && !call->json)
        fprintf(call->out, "There are more: --page %s\n", next);
    return 0;
}

int cli_run_point_show(struct cli_call *call, struct err *e)
{
    CLEANUP(reach_close) struct reach *r = NULL;
    CLEANUP(json_free) json_t *point = NULL;

    if (reach(call, &r, e) < 0 || point_look_up(r, call->words[0], &point, e) < 0)
        return -1;
    make_readable(call, point);
    cli_show_answer(call, point);
    return 0;
}

/* ---- taking ---- */

/* The servers of a wave, of an application, or of both: the factory knows them. */
static int add_servers(struct cli_call *call, json_t *servers, struct err *e)
{
    const char *application = cli_value(call, "application");
    CLEANUP(free_ptr) char *path = cli_path(call, "/v1/servers?q={application}&wave={wave}");
    CLEANUP(json_free) json_t *list = NULL;
    const json_t *server;
    size_t i;

    if (cli_list(call, path, &list, e) < 0)
        return err_wrap(e, "asking the factory for the servers");
    json_array_foreach(json_object_get(list, "items"), i, server)
        if (!application || strcmp(json_get_string(server, "application", ""), application) == 0)
            json_array_append(servers, json_object_get(server, "name"));
    return json_array_size(servers) ? 0 : err_set(e, ERR_NOT_FOUND, "the factory knows no server of that application or wave");
}

static int take_request(struct cli_call *call, json_t **out, struct err *e)
{
    const char *consistency = cli_value(call, "consistency"), *name = cli_value(call, "name") ? cli_value(call, "name") : cli_value(call, "application");
    CLEANUP(json_free) json_t *servers = json_array();
    int64_t timeout_s;

    for (int i = 0; i < call->option_count; i++)
        if (strcmp(call->options[i].option->name, "server") == 0)
            json_array_append_new(servers, json_string(call->options[i].value));
    if (json_array_size(servers) ? cli_has(call, "application") || cli_has(call, "wave") : !cli_has(call, "application") && !cli_has(call, "wave"))
        return err_set(e, ERR_INVALID, "say of what: --server NAME (once or several times), or --application NAME, --wave NAME or both");
    if (count_option(call, "timeout", TAKE_TIMEOUT_S, &timeout_s, e) < 0 || (json_array_size(servers) == 0 && add_servers(call, servers, e) < 0))
        return -1;
    *out = json_pack("{s:s, s:O, s:s, s:s, s:I}", "verb", "group_point", "servers", servers, "consistency", consistency ? consistency : "any", "name",
                     name ? name : "", "timeout_ms", (json_int_t)(timeout_s * 1000));
    return *out ? 0 : err_set(e, ERR_INVALID, "servers and names are plain text");
}

int cli_run_point_take(struct cli_call *call, struct err *e)
{
    const struct reach_waiter w = {.cancelled = is_stopped};
    CLEANUP(json_free) json_t *request = NULL, *answer = NULL;
    CLEANUP(reach_close) struct reach *r = NULL;
    json_t *group, *points, *point;
    size_t i;

    if (take_request(call, &request, e) < 0 || reach(call, &r, e) < 0 || reach_ask(r, request, &w, &answer, e) < 0)
        return -1;
    group = json_object_get(answer, "group");
    if (json_need_array(group, "points", &points, e) < 0)
        return -1;
    json_array_foreach(points, i, point)
        make_readable(call, point);
    if (!call->json)
        set_local_time(group, "at", "when");
    cli_show_answer(call, group);
    return 0;
}

/* ---- out of the vault ---- */

/* Who keeps a replicator from a vault for long should know. */
static void warn_at_rest(const struct reach *r)
{
    if (!reach_is_live(r))
        fputs("slipway: the vault is at rest; no replicator can start on it before this is done\n", stderr);
}

/* On standard error: what comes out is not all of what the source had. */
static void warn_unreadable(const json_t *point)
{
    int64_t bytes = json_get_int(point, "unreadable_bytes", 0);

    if (bytes)
        fprintf(stderr, "slipway: %lld bytes of the source could not be read for this point, and are zero in it: slipway point show tells where\n", (long long)bytes);
}

int cli_run_point_export(struct cli_call *call, struct err *e)
{
    CLEANUP(json_free) json_t *images = NULL, *shown = json_object(), *point = NULL;
    CLEANUP(reach_close) struct reach *r = NULL;
    struct point_export q = {.point = call->words[0], .folder = cli_value(call, "to"), .format = cli_value(call, "format"),
                             .disk = cli_value(call, "disk"),
                             .force = cli_has(call, "force"), .skip_compare = cli_has(call, "no-compare"), .tell = stderr, .cancelled = is_stopped};

    q.format = q.format ? q.format : "qcow2";
    if (!q.folder || !q.folder[0])
        return err_set(e, ERR_INVALID, "say where the images go: --to FOLDER");
    if (!point_format_known(q.format))
        return err_set(e, ERR_INVALID, "there is no format %.40s: say one of %s", q.format, point_formats);
    if (reach(call, &r, e) < 0)
        return -1;
    warn_at_rest(r);
    if (point_look_up(r, q.point, &point, e) < 0)
        return -1;
    warn_unreadable(point);
    if (point_export(r, &q, &images, e) < 0)
        return -1;
    json_object_set(shown, "items", images);
    cli_show_answer(call, shown);
    if (!call->json)
        fputs(q.skip_compare ? "Done. The images were not compared with the point.\n"
                             : "Done. Every image was read again and is what the point holds.\n", call->out);
    return 0;
}

/* A word of a shell's line. */
static void add_quoted(struct buf *b, const char *before, const char *word, const char *after)
{
    buf_puts(b, before);
    buf_puts(b, "'");
    for (const char *at = word; *at; at++)
        buf_printf(b, *at == '\'' ? "'\\''" : "%c", *at);
    buf_puts(b, "'");
    buf_puts(b, after);
}

static void tell_loan(FILE *out, const char *point, const json_t *disks)
{
    CLEANUP(buf_release) struct buf text = {0}, mount = {0};
    const json_t *disk;
    size_t i;

    fprintf(out, "Recovery point %s is served read-only until ctrl-C. Only root may connect.\n", point);
    buf_puts(&mount, "  guestmount --ro --format=raw");
    json_array_foreach(disks, i, disk) {
        const char *uri = json_get_string(disk, "nbd_uri", "");
        /* libguestfs knows the scheme without "+unix". */
        CLEANUP(free_ptr) char *plain = xasprintf("nbd%s", strchr(uri, ':'));

        buf_printf(&text, "\nDisk %s, %lld MiB\n  %s\n", json_get_string(disk, "id", ""),
                   (long long)(json_get_int(disk, "size_bytes", 0) >> 20), uri);
        add_quoted(&text, "  nbdcopy ", uri, " disk.raw\n");
        add_quoted(&text, "  qemu-img convert -p -f raw -O qcow2 ", uri, " disk.qcow2\n");
        add_quoted(&mount, " -a ", plain, "");
    }
    fprintf(out, "%s\nAll file systems of the system on it, in a folder\n%s -i /mnt\n", text.data, mount.data);
    fflush(out);
}

int cli_run_point_serve(struct cli_call *call, struct err *e)
{
    CLEANUP(json_free) json_t *disks = NULL, *point = NULL, *shown = NULL;
    CLEANUP(reach_close) struct reach *r = NULL;

    if (reach(call, &r, e) < 0 || point_look_up(r, call->words[0], &point, e) < 0 || reach_lend(r, call->words[0], &disks, e) < 0)
        return -1;
    warn_at_rest(r);
    warn_unreadable(point);
    if (call->json) {
        shown = json_pack("{s:s, s:O}", "point", call->words[0], "disks", disks);
        cli_show_json(call->out, shown);
        fflush(call->out);
    } else {
        tell_loan(call->out, call->words[0], disks);
    }
    while (!atomic_load(&stop_asked)) {
        if (reach_loan_is_lost(r))
            return err_set(e, ERR_UNREACHABLE, "the replicator has ended, and with it what it served: start this again when it is back");
        clock_sleep_us(LOST_LOOK_US);
    }
    return 0;
}

/* ---- single files ---- */

static int open_guest(struct cli_call *call, const struct point_guest_waiter *w, struct reach **r, json_t **disks, struct point_guest **g,
                      struct err *e)
{
    CLEANUP(json_free) json_t *point = NULL;

    if (call->words[1][0] != '/')
        return err_set(e, ERR_INVALID, "name it from the root of the point's file systems on: /%s", call->words[1]);
    if (reach(call, r, e) < 0 || point_look_up(*r, call->words[0], &point, e) < 0 || reach_lend(*r, call->words[0], disks, e) < 0)
        return -1;
    warn_unreadable(point);
    return point_guest_open(*disks, cli_value(call, "filesystem"), w, g, e);
}

int cli_run_point_files(struct cli_call *call, struct err *e)
{
    const struct point_guest_waiter w = {.cancelled = is_stopped, .tell = stderr};
    CLEANUP(reach_close) struct reach *r = NULL;
    CLEANUP(json_free) json_t *disks = NULL, *shown = json_object();
    CLEANUP(point_guest_close) struct point_guest *g = NULL;
    json_t *entries, *entry;
    int64_t limit;
    size_t more, i;

    if (count_option(call, "limit", FILES_DEFAULT, &limit, e) < 0)
        return -1;
    if (open_guest(call, &w, &r, &disks, &g, e) < 0 || point_guest_list(g, call->words[1], (size_t)limit, &entries, &more, e) < 0) {
        if (r)
            point_explain(r, call->words[0], e);
        return -1;
    }
    json_object_set_new(shown, "items", entries);
    json_object_set_new(shown, "more", json_integer((json_int_t)more));
    json_array_foreach(entries, i, entry)
        if (!call->json)
            set_local_time(entry, "modified", "modified");
    cli_show_answer(call, shown);
    if (more && !call->json)
        fprintf(call->out, "… and %zu more: --limit %lld\n", more, (long long)limit + (long long)more);
    return 0;
}

int cli_run_point_fetch(struct cli_call *call, struct err *e)
{
    const struct point_guest_waiter w = {.cancelled = is_stopped, .tell = stderr};
    CLEANUP(reach_close) struct reach *r = NULL;
    CLEANUP(json_free) json_t *disks = NULL, *shown = NULL;
    CLEANUP(point_guest_close) struct point_guest *g = NULL;
    const char *to = cli_value(call, "to");
    int64_t size_bytes;

    if (!to || !to[0])
        return err_set(e, ERR_INVALID, "say where it goes: --to FILE");
    if (point_output_check(to, cli_has(call, "force"), e) < 0)
        return -1;
    if (open_guest(call, &w, &r, &disks, &g, e) < 0 || point_guest_fetch(g, call->words[1], to, cli_has(call, "force"), &size_bytes, e) < 0) {
        if (r)
            point_explain(r, call->words[0], e);
        return -1;
    }
    shown = json_pack("{s:s, s:s, s:I}", "path", call->words[1], "file", to, "size_bytes", (json_int_t)size_bytes);
    if (call->json)
        cli_show_json(call->out, shown);
    else
        fprintf(call->out, "%s: %lld bytes of %s, and their hash is that of the point's.\n", to, (long long)size_bytes, call->words[1]);
    return 0;
}

/* ---- verifying ---- */

struct verifying {
    struct point_meter meter;
};

static void show_progress(int64_t done, int64_t total, const char *unit, void *user)
{
    struct verifying *v = user;

    (void)unit;
    point_meter_show(&v->meter, done, total);
}

static int ask_long(struct reach *r, const char *what, json_t *request, json_t **answer, struct err *e)
{
    CLEANUP(json_free) json_t *held = request;
    struct verifying v;
    const struct reach_waiter w = {.cancelled = is_stopped, .progress = show_progress, .user = &v};
    int result;

    point_meter_begin(&v.meter, stderr, what);
    result = reach_ask(r, held, &w, answer, e);
    point_meter_end(&v.meter);
    return result;
}

struct sums {
    int64_t bytes, differing, received;
    bool still;
};

static void sum_up(const json_t *compared, struct sums *s)
{
    const json_t *disk;
    size_t i;

    *s = (struct sums){.still = true};
    json_array_foreach(json_object_get(compared, "disks"), i, disk) {
        s->bytes += json_get_int(disk, "bytes_compared", 0);
        s->differing += json_get_int(disk, "blocks_differing", 0);
        s->received += json_get_int(disk, "blocks_received_since", 0);
        s->still = s->still && json_get_bool(disk, "still", false);
    }
}

/* "equal", "changed_since" or "damaged". Only a source that stood still at this very point makes a difference a fault. */
static const char *verdict_of(const json_t *compared, const struct sums *s)
{
    if (s->differing == 0)
        return "equal";
    return s->still && json_get_bool(compared, "held", false) ? "damaged" : "changed_since";
}

static void tell_verdict(FILE *out, const char *when, const char *verdict, const struct sums *s)
{
    long long blocks = s->bytes / 65536, differing = s->differing, later = s->received, rest = differing - later;

    if (strcmp(verdict, "equal") == 0) {
        fprintf(out, "source  all %lld blocks of the source are those of the point\n", blocks);
    } else if (strcmp(verdict, "damaged") == 0) {
        fprintf(out, "source  %lld of %lld blocks are not those of the point, and the source stands still at it: the copy is not exact\n", differing,
                blocks);
    } else {
        fprintf(out, "source  %lld of %lld blocks have changed on the source since %s. That is no damage: the source has moved on\n", differing,
                blocks, when);
        fprintf(out, "        %lld of them are known as later changes: the vault has received their new content\n", later);
        if (rest)
            fprintf(out, "        %lld are not (yet): written in the last moments, while this looked, or never noticed. Ask again: where\n"
                         "        they are still not known when the source is quiet, `slipway server show` tells what holds it up\n", rest);
        fprintf(out, "        the rest is equal. Only a source that is held still at its point (as a cutover does) can be compared exactly\n");
    }
}

int cli_run_point_verify(struct cli_call *call, struct err *e)
{
    CLEANUP(json_free) json_t *point = NULL, *stored = NULL, *compared = NULL, *shown = NULL;
    CLEANUP(reach_close) struct reach *r = NULL;
    const char *id = call->words[0], *server, *verdict = "stored";
    struct sums sums = {0};

    if (reach(call, &r, e) < 0 || point_look_up(r, id, &point, e) < 0)
        return -1;
    server = json_get_string(point, "server", "");
    warn_unreadable(point);
    set_local_time(point, "at", "when");
    if (ask_long(r, "reading what is stored", json_pack("{s:s, s:s}", "verb", "verify", "point", id), &stored, e) < 0)
        return -1;
    if (!call->json)
        fprintf(call->out, "stored  %lld chunks, %lld MiB: each is there and is what its hash says\n", (long long)json_get_int(stored, "chunks", 0),
                (long long)json_get_int(stored, "bytes", 0) >> 20);
    fflush(call->out);
    if (!cli_has(call, "stored")) {
        json_t *request = json_pack("{s:s, s:s, s:s}", "verb", "compare", "server", server, "point", id);

        if (ask_long(r, "comparing with the source", request, &compared, e) < 0)
            return err_wrap(e, "what is stored is whole, but the source was not compared (--stored asks for the first alone)");
        sum_up(compared, &sums);
        verdict = verdict_of(compared, &sums);
    }
    call->exit_code = strcmp(verdict, "damaged") == 0 ? err_meaning(ERR_CORRUPT)->exit_code : 0;
    if (!call->json) {
        if (compared)
            tell_verdict(call->out, json_get_string(point, "when", "then"), verdict, &sums);
        return 0;
    }
    shown = json_pack("{s:s, s:s, s:s, s:{s:I, s:I}, s:O?}", "point", id, "server", server, "verdict", verdict, "stored", "chunks",
                      (json_int_t)json_get_int(stored, "chunks", 0), "bytes", (json_int_t)json_get_int(stored, "bytes", 0), "source", compared);
    cli_show_json(call->out, shown);
    return 0;
}

/* ---- keeping, letting go ---- */

/* One order about a point, with the reason where one is given. */
static int order(struct cli_call *call, const char *verb, struct err *e)
{
    CLEANUP(json_free) json_t *request = json_pack("{s:s, s:s}", "verb", verb, "point", call->words[0]), *point = NULL;
    CLEANUP(reach_close) struct reach *r = NULL;
    const char *reason = cli_value(call, "reason");

    if (!request || (reason && json_object_set_new(request, "reason", json_string(reason)) < 0))
        return err_set(e, ERR_INVALID, "points and reasons are plain text");
    if (reach(call, &r, e) < 0 || point_look_up(r, call->words[0], &point, e) < 0 || reach_ask(r, request, NULL, NULL, e) < 0)
        return -1;
    cli_show_answer(call, NULL);
    return 0;
}

int cli_run_point_pin(struct cli_call *call, struct err *e)
{
    return cli_value(call, "reason") ? order(call, "pin", e) : err_set(e, ERR_INVALID, "say why, for whoever asks later: --reason TEXT");
}

int cli_run_point_unpin(struct cli_call *call, struct err *e) { return order(call, "unpin", e); }

int cli_run_point_drop(struct cli_call *call, struct err *e) { return cli_ask(call, e) < 0 ? -1 : order(call, "drop_point", e); }

/* What the replicator that runs there is told of a server. */
static int tell_of_server(struct cli_call *call, const char *verb, struct err *e)
{
    CLEANUP(json_free) json_t *request = json_pack("{s:s, s:s}", "verb", verb, "server", call->words[0]), *answer = NULL;
    CLEANUP(reach_close) struct reach *r = NULL;

    if (!request)
        return err_set(e, ERR_INVALID, "a server's name is plain text");
    if (cli_ask(call, e) < 0 || reach(call, &r, e) < 0 || reach_ask(r, request, NULL, &answer, e) < 0)
        return -1;
    cli_show_answer(call, call->json ? answer : NULL);
    return 0;
}

/* A source in rescue, restored. The replicator has to run: it is asked by the machine itself. */
int cli_run_point_boot(struct cli_call *call, struct err *e) { return tell_of_server(call, "boot_rescued", e); }

/* It has to run, too: it holds what is missing. */
int cli_run_replication_accept(struct cli_call *call, struct err *e) { return tell_of_server(call, "accept_disks", e); }
