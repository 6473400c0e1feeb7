#include "point/export.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/proc.h"
#include "point/output.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <libnbd.h>
#include <string.h>
#include <sys/stat.h>

#define EXTENTS_BYTES (1ull << 30) /* asked for at once; it lies below the protocol's 32 bits */
#define OVERHEAD_BYTES (4u << 20)  /* of an image's own tables, at the least */

const char point_formats[] = "raw, qcow2, vmdk, vhdx";
static const char *const formats[] = {"raw", "qcow2", "vmdk", "vhdx"};

bool point_format_known(const char *format)
{
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++)
        if (strcmp(format, formats[i]) == 0)
            return true;
    return false;
}

/* One disk on its way. */
struct image {
    const char *disk, *uri; /* borrowed from the loan's answer */
    char *path;
    int64_t size_bytes;
    uint64_t data_bytes; /* what is not zero */
};

struct job {
    const struct point_export *q;
    struct reach *r;
    json_t *loan; /* the disks, as lent */
    struct image images[LIMIT_DISKS_PER_SERVER];
    size_t count;
};

static void job_end(struct job *j)
{
    reach_return(j->r);
    for (size_t i = 0; i < j->count; i++)
        free(j->images[i].path);
    json_free(&j->loan);
}

/* ---- before anything is written ---- */

int point_look_up(struct reach *r, const char *point, json_t **out, struct err *e)
{
    CLEANUP(json_free) json_t *request = json_pack("{s:s, s:s}", "verb", "points", "point", point), *answer = NULL;
    struct err why = {0};

    if (!request)
        return err_set(e, ERR_INVALID, "a recovery point's id is plain text");
    if (reach_ask(r, request, NULL, &answer, &why) < 0)
        return why.kind == ERR_NOT_FOUND
                   ? err_set(e, ERR_NOT_FOUND, "there is no recovery point %.100s: `slipway point list SERVER` lists those that are there", point)
                   : err_set(e, why.kind, "%s", why.message);
    *out = json_incref(json_array_get(json_object_get(answer, "points"), 0));
    return 0;
}

/* SERVER-POINT-DISK.FORMAT, of what a file's name may safely hold; a number after it where two disks come out alike. */
static char *image_path(const struct job *j, const char *server, const char *disk)
{
    for (int number = 1;; number++) {
        CLEANUP(free_ptr) char *name = xasprintf("%s-%s-%s", server, j->q->point, disk);
        char after[16] = "", *path;
        bool taken = false;

        for (char *at = name; *at; at++)
            if (!isalnum((unsigned char)*at) && !strchr("._-", *at))
                *at = '_';
        if (number > 1)
            snprintf(after, sizeof after, "-%d", number);
        path = xasprintf("%s/%s%s.%s", j->q->folder, name, after, j->q->format);
        for (size_t i = 0; i < j->count; i++)
            taken = taken || strcmp(j->images[i].path, path) == 0;
        if (!taken)
            return path;
        free(path);
    }
}

static int unknown_disk(const json_t *disks, const struct point_export *q, struct err *e)
{
    CLEANUP(buf_release) struct buf names = {0};
    const json_t *disk;
    size_t i;

    json_array_foreach(disks, i, disk)
        buf_printf(&names, "%s%s", i ? ", " : "", json_get_string(disk, "id", "?"));
    return err_set(e, ERR_NOT_FOUND, "recovery point %s has no disk %.100s: it has %.600s", q->point, q->disk, names.data ? names.data : "none");
}

/* Which files will be made, before the vault is troubled. */
static int plan(struct job *j, struct err *e)
{
    CLEANUP(json_free) json_t *point = NULL;
    const json_t *disk, *disks;
    size_t i;

    if (point_look_up(j->r, j->q->point, &point, e) < 0)
        return -1;
    disks = json_object_get(point, "disks");
    json_array_foreach(disks, i, disk) {
        const char *id = json_get_string(disk, "id", "");

        if ((j->q->disk && strcmp(id, j->q->disk) != 0) || j->count == ARRAY_COUNT(j->images))
            continue;
        j->images[j->count].size_bytes = json_get_int(disk, "size_bytes", 0);
        j->images[j->count].path = image_path(j, json_get_string(point, "server", "server"), id);
        j->count++;
    }
    if (j->count == 0)
        return unknown_disk(disks, j->q, e);
    for (i = 0; i < j->count; i++)
        if (point_output_check(j->images[i].path, j->q->force, e) < 0)
            return -1;
    return 0;
}

static void nbd_release(struct nbd_handle **h)
{
    if (*h)
        nbd_close(*h);
}

/* What one answer told. */
struct walk {
    uint64_t seen_bytes, data_bytes;
};

/* Entries are pairs: a length, and flags. */
static int add_extents(void *user, const char *context, uint64_t offset, uint32_t *entries, size_t entry_count, int *error)
{
    struct walk *w = user;

    (void)context;
    (void)offset;
    (void)error;
    for (size_t i = 0; i + 1 < entry_count; i += 2) {
        w->seen_bytes += entries[i];
        w->data_bytes += entries[i + 1] & LIBNBD_STATE_ZERO ? 0 : entries[i];
    }
    return 0;
}

/* How much of the disk is not zero. */
static int measure(const struct job *j, struct image *image, struct err *e)
{
    CLEANUP(nbd_release) struct nbd_handle *h = nbd_create();
    uint64_t size = (uint64_t)image->size_bytes;

    if (!h || nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 || nbd_connect_uri(h, image->uri) < 0)
        return err_set(e, ERR_UNREACHABLE, "can't read disk %s over NBD: %s", image->disk, nbd_get_error());
    for (uint64_t at = 0; at < size;) {
        struct walk w = {0};
        uint64_t ask = size - at < EXTENTS_BYTES ? size - at : EXTENTS_BYTES;

        if (nbd_block_status(h, ask, at, (nbd_extent_callback){.callback = add_extents, .user_data = &w}, 0) < 0 || w.seen_bytes == 0)
            return err_set(e, ERR_IO, "can't tell which parts of disk %s are zero: %s", image->disk, nbd_get_error());
        if (j->q->cancelled && j->q->cancelled(j->q->user))
            return err_set(e, ERR_CANCELLED, "stopped before anything was written");
        image->data_bytes += w.data_bytes;
        at += w.seen_bytes;
    }
    nbd_shutdown(h, 0);
    return 0;
}

/* Has the point lent, and finds room for all images before the first is begun. */
static int prepare(struct job *j, struct err *e)
{
    uint64_t needed = 0;
    const json_t *lent;
    size_t at = 0, i;

    if (reach_lend(j->r, j->q->point, &j->loan, e) < 0)
        return -1;
    json_array_foreach(j->loan, i, lent) {
        if (j->q->disk && strcmp(json_get_string(lent, "id", ""), j->q->disk) != 0)
            continue;
        if (at == j->count)
            break;
        j->images[at].disk = json_get_string(lent, "id", "");
        j->images[at].uri = json_get_string(lent, "nbd_uri", "");
        if (measure(j, &j->images[at], e) < 0)
            return -1;
        needed += j->images[at].data_bytes + j->images[at].data_bytes / 100 + OVERHEAD_BYTES;
        at++;
    }
    MUST(at == j->count); /* a point does not change */
    return file_make_dirs(j->q->folder, 0700, e) < 0 ? -1 : point_output_room(j->q->folder, needed, e);
}

/* ---- one image ---- */

/* What qemu-img prints with -p: "    (12.34/100%)" again and again. */
struct watch {
    const struct job *j;
    const struct buf *said;
    struct point_meter meter;
    uint64_t total_bytes;
};

static bool look(void *user)
{
    struct watch *w = user;
    const char *last = w->said->size_bytes ? memrchr(w->said->data, '(', w->said->size_bytes) : NULL;
    double percent;

    if (last && sscanf(last, "(%lf/100%%", &percent) == 1 && percent >= 0 && percent <= 100)
        point_meter_show(&w->meter, (int64_t)(percent / 100 * (double)w->total_bytes), (int64_t)w->total_bytes);
    return w->j->q->cancelled && w->j->q->cancelled(w->j->q->user);
}

/* qemu-img, watched. It has the output's lock as well: where we are killed it writes on for a moment, and nobody else may begin meanwhile. *status is its exit status, *words what it said on stderr. */
static int run(const struct job *j, const struct image *image, const struct point_output *output, const char *doing, const char *const *argv, int *status,
               struct buf *words, struct err *e)
{
    CLEANUP(buf_release) struct buf said = {0};
    CLEANUP(free_ptr) char *what = xasprintf("%s: %s", image->disk, doing);
    struct watch w = {.j = j, .said = &said, .total_bytes = image->data_bytes};
    struct proc_options options = {.argv = argv, .keep_fd = output->fd, .timeout_ms = INT_MAX, .cancelled = look, .user = &w};
    int result;

    point_meter_begin(&w.meter, j->q->tell, what);
    result = proc_run(&options, &said, words, status, e);
    point_meter_end(&w.meter);
    if (result < 0 && e && e->kind == ERR_NOT_FOUND)
        return err_wrap(e, "qemu-img is needed (Debian's package qemu-utils)");
    return result;
}

static int convert(const struct job *j, const struct image *image, const struct point_output *to, struct err *e)
{
    /* -W and the requests in flight: the target is a file of ours alone, so the order of its writes is nobody's concern. */
    const char *const argv[] = {"qemu-img", "convert", "-p", "-W", "-m", "8", "-f", "raw", "-O", j->q->format, image->uri, to->part, NULL};
    CLEANUP(buf_release) struct buf words = {0};
    int status = 0;

    if (run(j, image, to, "copying", argv, &status, &words, e) < 0)
        return -1;
    if (status == 0)
        return 0;
    return err_set(e, strstr(words.size_bytes ? words.data : "", "No space left") ? ERR_NO_SPACE : ERR_IO, "qemu-img convert: %.700s",
                   words.size_bytes ? words.data : "it failed and said nothing");
}

static int compare(const struct job *j, const struct image *image, const struct point_output *with, struct err *e)
{
    const char *const argv[] = {"qemu-img", "compare", "-p", "-f", "raw", "-F", j->q->format, image->uri, with->part, NULL};
    CLEANUP(buf_release) struct buf words = {0};
    int status = 0;

    if (run(j, image, with, "comparing", argv, &status, &words, e) < 0)
        return -1;
    if (status == 1)
        return err_set(e, ERR_CORRUPT, "the image of disk %s is not what the recovery point holds: look at the disk that %s lies on", image->disk,
                       j->q->folder);
    return status == 0 ? 0 : err_set(e, ERR_IO, "qemu-img compare: %.700s", words.size_bytes ? words.data : "it failed and said nothing");
}

static int make(const struct job *j, const struct image *image, json_t *images, struct err *e)
{
    CLEANUP(point_output_end) struct point_output output = {.fd = -1};
    struct stat st;

    if (point_output_begin(&output, image->path, j->q->force, e) < 0)
        return -1;
    if (convert(j, image, &output, e) < 0 || point_output_settle(&output, e) < 0 ||
        (!j->q->skip_compare && compare(j, image, &output, e) < 0))
        return err_wrap(e, "disk %s", image->disk);
    if (fstat(output.fd, &st) < 0 || point_output_finish(&output, e) < 0)
        return -1;
    json_array_append_new(images, json_pack("{s:s, s:s, s:s, s:I, s:I, s:b}", "disk", image->disk, "path", image->path, "format", j->q->format,
                                            "size_bytes", (json_int_t)image->size_bytes, "file_bytes", (json_int_t)st.st_blocks * 512, "compared",
                                            !j->q->skip_compare));
    return 0;
}

/* ---- */

void point_explain(struct reach *r, const char *point, struct err *e)
{
    CLEANUP(json_free) json_t *request = json_pack("{s:s, s:s}", "verb", "usable", "point", point);
    struct err why = {0};

    if (e->kind != ERR_IO && e->kind != ERR_UNREACHABLE)
        return;
    if (reach_ask(r, request, NULL, NULL, &why) < 0 && (why.kind == ERR_CORRUPT || why.kind == ERR_UNREACHABLE))
        *e = why;
}

int point_export(struct reach *r, const struct point_export *q, json_t **images, struct err *e)
{
    CLEANUP(job_end) struct job j = {.q = q, .r = r};
    CLEANUP(json_free) json_t *made = json_array();

    if (!point_format_known(q->format))
        return err_set(e, ERR_INVALID, "there is no format %.40s: say one of %s", q->format, point_formats);
    if (plan(&j, e) < 0 || prepare(&j, e) < 0)
        return -1;
    for (size_t i = 0; i < j.count; i++)
        if (make(&j, &j.images[i], made, e) < 0) {
            point_explain(r, q->point, e);
            return -1;
        }
    *images = made;
    made = NULL;
    return 0;
}
