#include "replicator/reach.h"
#include "base/file.h"
#include "base/log.h"
#include "replicator/orders.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ASK_TIMEOUT_MS (INT64_C(7) * 86400 * 1000) /* it says how far it is; who does not want to wait ends the program */
#define LEND_TIMEOUT_MS 60000
#define DAMAGE_TOLD 20

struct reach {
    char *control_path;
    int loan_fd; /* the connection that has the point on loan; -1: none */
    /* A vault at rest: */
    struct vault *vault; /* NULL: a replicator has it */
    char *folder;        /* of our socket: temporary */
    struct orders orders;
};

int reach_find_vault(const char *folder, char **out, struct err *e)
{
    static const char *const places[] = {"", "/vault", "/replicator/vault"};

    for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
        CLEANUP(free_ptr) char *path = xasprintf("%s%s", folder, places[i]), *mark = xasprintf("%s/vault.json", path);

        if (!file_exists(mark))
            continue;
        *out = realpath(path, NULL);
        return *out ? 0 : err_set(e, ERR_IO, "can't find out where %s is", path);
    }
    return err_set(e, ERR_NOT_FOUND, "%s holds no vault (there is no vault.json in it, in its vault/ or in its replicator/vault/)", folder);
}

bool reach_is_encrypted(const char *vault)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/vault.json", vault);
    CLEANUP(json_free) json_t *j = NULL;

    return json_read_file(path, &j, NULL) == 0 && json_object_get(j, "sealed");
}

/* As it was told, and as vault.json says. */
static int find_bucket(const struct vault_bucket *told, struct reach_options *out, struct err *e)
{
    const json_t *said = json_object_get(out->superblock, "bucket");
    bool any = told->url || told->bucket || told->prefix || told->region || told->ca_file;

    if (!told->credentials_file)
        return any ? err_set(e, ERR_INVALID, "--s3-… need --s3-credentials-file") : 0;
    out->bucket = *told;
    out->bucket.url = told->url ? told->url : json_get_string(said, "url", NULL);
    out->bucket.bucket = told->bucket ? told->bucket : json_get_string(said, "bucket", NULL);
    out->bucket.prefix = told->prefix ? told->prefix : json_get_string(said, "prefix", NULL);
    out->bucket.read_only = true;
    if (!out->bucket.url || !out->bucket.bucket)
        return err_set(e, ERR_INVALID, "the vault knows of no bucket: nothing of it lies in one");
    out->options.bucket = &out->bucket;
    return 0;
}

int reach_options_make(const char *vault, const struct reach_needs *needs, struct reach_options *out, struct err *e)
{
    CLEANUP(free_ptr) char *beside = xasprintf("%s/../../keys/vault.key", vault), *superblock = xasprintf("%s/vault.json", vault); /* DATA/replicator/vault, DATA/keys */
    const char *file = !reach_is_encrypted(vault) ? NULL : needs->key_file ? needs->key_file : file_exists(beside) ? beside : NULL; /* looking encrypts nothing */

    *out = (struct reach_options){.options = {.guard_bytes = 1, .keys = &out->key, .key_count = file != NULL}};
    if ((file && vault_key_read(file, &out->key, e) < 0) || json_read_file(superblock, &out->superblock, e) < 0)
        return -1;
    return find_bucket(&needs->bucket, out, e);
}

void reach_options_release(struct reach_options *o)
{
    json_free(&o->superblock);
    explicit_bzero(o, sizeof *o);
}

char *reach_control_path(const char *vault) { return xasprintf("%.*s/control.sock", (int)(strrchr(vault, '/') - vault), vault); }

/* The vault is ours: an NBD server of our own on it. */
static int serve_here(struct reach *r, struct err *e)
{
    CLEANUP(free_ptr) char *folder = xstrdup("/tmp/slipway-point.XXXXXX"), *path = NULL;

    if (!mkdtemp(folder))
        return err_errno(e, errno, "can't make a folder in /tmp");
    r->folder = folder;
    folder = NULL;
    path = xasprintf("%s/nbd.sock", r->folder);
    r->orders.vault = r->vault;
    r->orders.nbd_path = path;
    if (nbd_server_start(r->vault, path, &r->orders.nbd, e) < 0) {
        r->orders.nbd_path = NULL;
        return -1;
    }
    path = NULL;
    return 0;
}

void reach_tell_anew(const struct vault *v)
{
    const struct vault_anew *a = vault_anew(v);

    for (size_t i = 0; i < a->damage.told_count && i < DAMAGE_TOLD; i++)
        log_warn("damage in the vault: %s", a->damage.findings[i].text);
    if (a->damage.finding_count > DAMAGE_TOLD)
        log_warn("… and %llu more", (unsigned long long)(a->damage.finding_count - DAMAGE_TOLD));
    if (!a->index)
        return;
    log_warn("the vault's index was made anew from its segments: %llu segments, %llu recovery points, %llu pins, %llu times damage; the next session of each server compares all of its disks",
             (unsigned long long)a->segment_count, (unsigned long long)a->point_count, (unsigned long long)a->pin_count, (unsigned long long)a->damage.finding_count);
    if (a->waiting_pin_count)
        log_warn("%llu pins are of recovery points that are not there: they count again when the points come back with their segments", (unsigned long long)a->waiting_pin_count);
}

/* Whether a replicator answers. */
static int greet(const struct reach *r, struct err *e)
{
    CLEANUP(json_free) json_t *request = json_pack("{s:s}", "verb", "servers"), *answer = NULL;
    struct replicator_call call = {.socket_path = r->control_path, .timeout_ms = LEND_TIMEOUT_MS};

    return replicator_call(&call, request, &answer, e);
}

int reach_open(const char *folder, const struct reach_needs *needs, struct reach **out, struct err *e)
{
    CLEANUP(reach_options_release) struct reach_options with = {0};
    CLEANUP(reach_close) struct reach *r = xcalloc(1, sizeof *r);
    CLEANUP(free_ptr) char *path = NULL;

    r->loan_fd = -1;
    if (reach_find_vault(folder, &path, e) < 0 || reach_options_make(path, needs, &with, e) < 0)
        return -1;
    r->control_path = reach_control_path(path);
    if (vault_open(path, &with.options, &r->vault, e) == 0) {
        reach_tell_anew(r->vault);
        if (serve_here(r, e) < 0)
            return -1;
    } else if (!e || e->kind == ERR_CONFLICT) {
        err_clear(e);
        if (greet(r, e) < 0)
            return !e || e->kind == ERR_UNREACHABLE
                       ? err_wrap(e, "the vault %s is open in another process: wait until it is done, or stop it", path) : -1;
    } else {
        return -1;
    }
    *out = r;
    r = NULL;
    return 0;
}

void reach_close(struct reach **held)
{
    struct reach *r = *held;

    if (!r)
        return;
    reach_return(r);
    nbd_server_stop(&r->orders.nbd);
    vault_close(&r->vault);
    if (r->folder)
        rmdir(r->folder);
    free((char *)(uintptr_t)r->orders.nbd_path);
    free(r->folder);
    free(r->control_path);
    free(r);
    *held = NULL;
}

bool reach_is_live(const struct reach *r) { return !r->vault; }

static int beat(uint64_t done, uint64_t total, void *user)
{
    const struct reach_waiter *w = user;

    if (w->progress)
        w->progress((int64_t)done, (int64_t)total, "bytes", w->user);
    return w->cancelled && w->cancelled(w->user);
}

static int ask_here(struct reach *r, const json_t *request, const struct reach_waiter *w, json_t **answer, struct err *e)
{
    CLEANUP(json_free) json_t *made = json_pack("{s:b}", "ok", 1);
    const char *verb = json_get_string(request, "verb", "");
    int done;

    r->orders.progress = w ? beat : NULL;
    r->orders.user = (void *)(uintptr_t)w;
    done = orders_run(&r->orders, verb, request, made, e);
    if (done == 0)
        return err_set(e, ERR_WRONG_STATE, "no replicator runs on this vault, and `%s` needs one", verb);
    if (done > 0 && answer)
        *answer = json_incref(made);
    return done < 0 ? -1 : 0;
}

int reach_ask(struct reach *r, const json_t *request, const struct reach_waiter *w, json_t **answer, struct err *e)
{
    CLEANUP(json_free) json_t *got = NULL;
    struct replicator_call call = {.socket_path = r->control_path, .timeout_ms = ASK_TIMEOUT_MS};

    if (!reach_is_live(r))
        return ask_here(r, request, w, answer, e);
    if (w) {
        call.cancelled = w->cancelled;
        call.progress = w->progress;
        call.user = w->user;
    }
    if (replicator_call(&call, request, &got, e) < 0)
        return -1;
    if (answer)
        *answer = json_incref(got);
    return 0;
}

int reach_lend(struct reach *r, const char *point, json_t **disks, struct err *e)
{
    CLEANUP(json_free) json_t *request = json_pack("{s:s, s:s}", "verb", "lend", "point", point), *answer = NULL;
    struct replicator_call call = {.socket_path = r->control_path, .timeout_ms = LEND_TIMEOUT_MS};
    json_t *list;

    if (!request)
        return err_set(e, ERR_INVALID, "a recovery point's id is plain text");
    MUST(r->loan_fd < 0);
    if (reach_is_live(r) ? replicator_call_keep(&call, request, &r->loan_fd, &answer, e) < 0 : ask_here(r, request, NULL, &answer, e) < 0)
        return -1;
    if (json_need_array(answer, "disks", &list, e) < 0)
        return -1;
    *disks = json_incref(list);
    return 0;
}

void reach_return(struct reach *r)
{
    close_fd(&r->loan_fd);
    r->loan_fd = -1;
    orders_end(&r->orders);
}

bool reach_loan_is_lost(const struct reach *r)
{
    struct pollfd p = {.fd = r->loan_fd, .events = POLLIN | POLLRDHUP};

    return reach_is_live(r) && (r->loan_fd < 0 || poll(&p, 1, 0) > 0); /* after its answer it says nothing any more */
}
