/* rescue_make: what a rescue needs, looked at while the system still runs, and put into an image. */
#include "agent/agent.h"
#include "agent/cpio.h"
#include "agent/disks.h"
#include "agent/rescue_parts.h"
#include "agent/restore.h"
#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#define PROGRAM_LIMIT (64u << 20)
#define IDENTITY_LIMIT (256u << 10)

struct making {
    const struct agent_config *config;
    const struct rescue_order *order;
    struct rescue_net net;
    struct rescue_modules modules;
    struct restore_outcome found; /* the point; the disks that take it */
    json_t *disks;                /* their identities, in the point's order; owned */
    struct buf image;
};

static void release(struct making *m)
{
    json_decref(m->disks);
    if (m->image.data)
        explicit_bzero(m->image.data, m->image.size_bytes); /* a key is in it */
    buf_release(&m->image);
}

/* ---- looking ---- */

/* The identities of the disks that the replicator's point goes onto: names may be others in the rescue. */
static int identify_disks(struct making *m, struct err *e)
{
    struct agent_config all = *m->config;
    struct disk disks[LIMIT_DISKS_PER_SERVER];
    int count;

    all.disks_auto = true;
    if (disks_find(&all, disks, LIMIT_DISKS_PER_SERVER, &count, e) < 0)
        return -1;
    for (int i = 0; i < m->found.disk_count; i++) {
        int at = 0;

        while (at < count && strcmp(disks[at].name, m->found.names[i]) != 0)
            at++;
        if (at == count)
            return err_set(e, ERR_INVALID, "%s is no whole disk of this machine's hardware", m->found.names[i]);
        json_array_append_new(m->disks, json_string(disks[at].id));
    }
    return 0;
}

static int look_at_disks(struct making *m, struct err *e)
{
    const struct restore_order order = {.point = m->order->point, .onto = m->order->onto, .dry_run = true, .find_only = true};
    static const atomic_bool never;

    if (restore_run(m->config, &order, &never, &m->found, e) < 0)
        return err_wrap(e, "the recovery point and its disks");
    if (identify_disks(m, e) < 0)
        return -1;
    for (int i = 0; i < m->found.disk_count; i++) {
        CLEANUP(free_ptr) char *device = xasprintf("/sys/block/%s/device", m->found.names[i]);

        if (rescue_modules_of(&m->modules, device, e) < 0)
            return err_wrap(e, "the drivers of %s", m->found.names[i]);
    }
    return 0;
}

static int look_here(struct making *m, struct err *e)
{
    const struct agent_config *c = m->config;
    CLEANUP(free_ptr) char *device = NULL;
    struct utsname kernel;

    MUST(uname(&kernel) == 0);
    snprintf(m->modules.release, sizeof m->modules.release, "%s", kernel.release);
    if (look_at_disks(m, e) < 0 || rescue_net_look(c->proxy.port ? c->proxy.address : c->replicator_address, &m->net, e) < 0)
        return -1;
    device = xasprintf("/sys/class/net/%s/device", m->net.name);
    return rescue_modules_of(&m->modules, device, e) < 0 ? err_wrap(e, "the drivers of %s", m->net.name) : 0;
}

static int take_elsewhere(struct making *m, struct err *e)
{
    CLEANUP(free_ptr) char *names = xstrdup(m->order->modules);
    char *rest = NULL;

    if (strlen(m->order->release) >= sizeof m->modules.release || strchr(m->order->release, '/'))
        return err_set(e, ERR_INVALID, "\"%.60s\" is no kernel's release", m->order->release);
    if (strlen(m->order->point) >= sizeof m->found.point)
        return err_set(e, ERR_INVALID, "\"%.60s\" is no recovery point", m->order->point);
    memcpy(m->modules.release, m->order->release, strlen(m->order->release) + 1);
    memcpy(m->found.point, m->order->point, strlen(m->order->point) + 1);
    if (rescue_net_parse(m->order->network, &m->net, e) < 0)
        return -1;
    for (char *name = strtok_r(names, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
        if (rescue_modules_add(&m->modules, name, e) < 0)
            return -1;
    return 0;
}

/* ---- the image ---- */

static void add_folders(struct buf *image)
{
    static const char *const folders[] = {"dev", "proc", "sys", "run", "modules", "etc", "etc/slipway-agent"};

    for (size_t i = 0; i < ARRAY_COUNT(folders); i++)
        cpio_add(image, folders[i], S_IFDIR | 0755, "", 0);
    cpio_device(image, "dev/console", S_IFCHR | 0600, 5, 1);
}

static int add_program(struct making *m, struct err *e)
{
    CLEANUP(buf_release) struct buf program = {0};

    if (file_read("/proc/self/exe", PROGRAM_LIMIT, &program, e) < 0)
        return err_wrap(e, "this program");
    cpio_add(&m->image, "init", S_IFREG | 0755, program.data, program.size_bytes);
    return 0;
}

static void wipe(struct buf *b)
{
    if (b->data)
        explicit_bzero(b->data, b->size_bytes);
    buf_release(b);
}

static int add_identity(struct making *m, struct err *e)
{
    static const char *const names[] = {"key.pem", "cert.pem", "ca.pem"};

    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        CLEANUP(free_ptr) char *from = xasprintf("%s/%s", m->config->folder, names[i]), *to = xasprintf("etc/slipway-agent/%s", names[i]);
        CLEANUP(wipe) struct buf bytes = {0};

        if (file_read(from, IDENTITY_LIMIT, &bytes, e) < 0)
            return err_wrap(e, "the agent's identity");
        cpio_add(&m->image, to, S_IFREG | 0600, bytes.data, bytes.size_bytes);
    }
    return 0;
}

/* What the agent must know in there; all else is of its running beside a system. */
static int add_config(struct making *m, struct err *e)
{
    static const char *const kept[] = {"server", "replicator_address", "replicator_port", "proxy"};
    CLEANUP(free_ptr) char *path = xasprintf("%s/config.json", m->config->folder), *text = NULL;
    CLEANUP(json_free) json_t *there = NULL, *here = json_object();

    if (json_read_file(path, &there, e) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_COUNT(kept); i++)
        if (json_object_get(there, kept[i]))
            json_object_set(here, kept[i], json_object_get(there, kept[i]));
    text = json_text(here);
    cpio_add(&m->image, "etc/slipway-agent/config.json", S_IFREG | 0600, text, strlen(text));
    return 0;
}

static int add_modules(struct making *m, json_t *files, struct err *e)
{
    for (int i = 0; i < m->modules.count; i++) {
        CLEANUP(free_ptr) char *to = xasprintf("modules/%02d.ko", i);
        CLEANUP(buf_release) struct buf bytes = {0};

        if (rescue_modules_read(&m->modules, i, &bytes, e) < 0)
            return -1;
        cpio_add(&m->image, to, S_IFREG | 0644, bytes.data, bytes.size_bytes);
        json_array_append_new(files, json_string(m->modules.paths[i]));
    }
    return 0;
}

/* rescue.json, which rescue_live reads. */
static json_t *plan_json(const struct making *m)
{
    json_t *plan = json_pack("{s:s, s:s, s:o, s:O, s:[], s:I}", "point", m->found.point, "release", m->modules.release, "network", rescue_net_json(&m->net), "disks",
                             m->disks, "modules", "made_us", (json_int_t)clock_now_us());

    MUST(plan);
    if (m->order->onto && m->order->network)
        json_object_set_new(plan, "onto", json_string(m->order->onto));
    return plan;
}

static int build(struct making *m, json_t *plan, struct err *e)
{
    CLEANUP(free_ptr) char *text = NULL;

    add_folders(&m->image);
    if (add_program(m, e) < 0 || add_identity(m, e) < 0 || add_config(m, e) < 0 || add_modules(m, json_object_get(plan, "modules"), e) < 0)
        return -1;
    text = json_text(plan);
    cpio_add(&m->image, "etc/slipway-agent/rescue.json", S_IFREG | 0600, text, strlen(text));
    cpio_end(&m->image);
    return m->image.over ? err_set(e, ERR_LIMIT, "the image would have more than %u MiB", RESCUE_IMAGE_LIMIT >> 20) : 0;
}

static int put(const struct making *m, struct err *e)
{
    CLEANUP(free_ptr) char *path = xstrdup(m->order->image);

    return file_make_dirs(dirname(path), 0755, e) < 0 ? -1 : file_write(m->order->image, m->image.data, m->image.size_bytes, 0600, e);
}

/* The kernel that is to be started takes kernel and image: lock-down, signatures and room are its business. */
static int try_kernel(const struct rescue_order *order, struct err *e)
{
    CLEANUP(free_ptr) char *kernel = rescue_kernel(order, e);

    return kernel ? rescue_load(kernel, order->image, true, e) : -1;
}

int rescue_make(const struct agent_config *c, const struct rescue_order *order, json_t **about, struct err *e)
{
    CLEANUP(release) struct making m = {.config = c, .order = order, .disks = json_array(), .image = {.limit_bytes = RESCUE_IMAGE_LIMIT}};
    CLEANUP(json_free) json_t *plan = NULL;
    int given = !!order->network + !!order->modules + !!order->release;

    if (given != 0 && given != 3)
        return err_set(e, ERR_INVALID, "an image for another machine needs all of --network, --modules and --release");
    if ((given ? take_elsewhere(&m, e) : look_here(&m, e)) < 0)
        return -1;
    plan = plan_json(&m);
    if (build(&m, plan, e) < 0 || put(&m, e) < 0 || (!given && try_kernel(order, e) < 0))
        return -1;
    json_object_set_new(plan, "image", json_string(order->image));
    json_object_set_new(plan, "size_bytes", json_integer((json_int_t)m.image.size_bytes));
    *about = plan;
    plan = NULL;
    return 0;
}
