#include "agent/rescue_parts.h"

#include "base/file.h"
#include "base/proc.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIST_LIMIT (16u << 20)
#define MODULE_LIMIT (64u << 20)
#define UNPACK_MS 60000

/* What packs a driver's file, by the ending of its name, and what unpacks it. */
static const struct packing {
    const char *ending, *program;
} packings[] = {{".ko", NULL}, {".ko.xz", "xz"}, {".ko.zst", "zstd"}, {".ko.gz", "gzip"}};

static bool ends_with(const char *text, size_t size, const char *ending)
{
    return size > strlen(ending) && strncmp(text + size - strlen(ending), ending, strlen(ending)) == 0;
}

static const struct packing *packing_of(const char *path, size_t size)
{
    for (size_t i = 0; i < ARRAY_COUNT(packings); i++)
        if (ends_with(path, size, packings[i].ending))
            return &packings[i];
    return NULL;
}

/* Is this path the file of the driver of that name? '-' and '_' are one. */
static bool is_file_of(const char *path, size_t size, const char *name)
{
    const struct packing *p = packing_of(path, size);
    const char *base = memrchr(path, '/', size);
    size_t length;

    base = base ? base + 1 : path;
    length = p ? (size_t)(path + size - base) - strlen(p->ending) : 0;
    if (!p || length != strlen(name))
        return false;
    for (size_t i = 0; i < length; i++)
        if (base[i] != name[i] && !(strchr("-_", base[i]) && strchr("-_", name[i])))
            return false;
    return true;
}

static int read_list(const struct rescue_modules *m, const char *list, struct buf *out, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("/lib/modules/%s/%s", m->release, list);

    return file_read(path, LIST_LIMIT, out, e);
}

static int keep(struct rescue_modules *m, const char *path, size_t size, struct err *e)
{
    for (int i = 0; i < m->count; i++)
        if (strlen(m->paths[i]) == size && memcmp(m->paths[i], path, size) == 0)
            return 0;
    if (m->count == RESCUE_MODULES_MOST || size >= sizeof m->paths[0])
        return err_set(e, ERR_LIMIT, "a rescue takes at most %d drivers", RESCUE_MODULES_MOST);
    memcpy(m->paths[m->count], path, size);
    m->paths[m->count++][size] = '\0';
    return 0;
}

/* "PATH: NEEDED NEEDED …" (modules.dep(5)): what is needed stands in the reverse order of loading. */
static int keep_line(struct rescue_modules *m, const char *line, size_t path_size, struct err *e)
{
    const char *needed = line + path_size + 1, *end = needed + strcspn(needed, "\n");

    while (end > needed) {
        const char *at;

        for (; end > needed && end[-1] == ' '; end--)
            ;
        for (at = end; at > needed && at[-1] != ' '; at--)
            ;
        if (end > at && keep(m, at, (size_t)(end - at), e) < 0)
            return -1;
        end = at;
    }
    return keep(m, line, path_size, e);
}

static int is_built_in(const struct rescue_modules *m, const char *name, struct err *e)
{
    CLEANUP(buf_release) struct buf list = {0};

    if (read_list(m, "modules.builtin", &list, e) < 0)
        return -1;
    for (const char *line = list.data; line && *line; line += strcspn(line, "\n"), line += *line != '\0')
        if (is_file_of(line, strcspn(line, "\n"), name))
            return 1;
    return 0;
}

int rescue_modules_add(struct rescue_modules *m, const char *name, struct err *e)
{
    CLEANUP(buf_release) struct buf list = {0};
    int built_in;

    if (read_list(m, "modules.dep", &list, e) < 0)
        return err_wrap(e, "which drivers the kernel has");
    for (const char *line = list.data; line && *line; line += strcspn(line, "\n"), line += *line != '\0') {
        size_t size = strcspn(line, ":\n");

        if (line[size] == ':' && is_file_of(line, size, name))
            return keep_line(m, line, size, e);
    }
    built_in = is_built_in(m, name, e);
    return built_in == 0 ? err_set(e, ERR_NOT_FOUND, "the driver %s is not in /lib/modules/%s, and the kernel has it not built in", name, m->release)
                         : built_in < 0 ? -1 : 0;
}

/* The folder of a device in /sys has driver/module where the driver is a module (or built in, with parameters). */
static int add_driver(struct rescue_modules *m, const char *folder, struct err *e)
{
    CLEANUP(free_ptr) char *link = xasprintf("%s/driver/module", folder);
    char module[PATH_MAX], *name;
    ssize_t size = readlink(link, module, sizeof module - 1);

    if (size < 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : err_errno(e, errno, "%s", link);
    module[size] = '\0';
    name = strrchr(module, '/');
    return rescue_modules_add(m, name ? name + 1 : module, e);
}

/* The device first, then what it hangs on; loaded in any order each finds the other. */
int rescue_modules_of(struct rescue_modules *m, const char *device, struct err *e)
{
    char path[PATH_MAX], *slash;

    if (!realpath(device, path))
        return err_errno(e, errno, "%s", device);
    while (strncmp(path, "/sys/devices/", strlen("/sys/devices/")) == 0 && (slash = strrchr(path, '/'))) {
        if (add_driver(m, path, e) < 0)
            return -1;
        *slash = '\0';
    }
    return 0;
}

int rescue_modules_read(const struct rescue_modules *m, int i, struct buf *out, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("/lib/modules/%s/%s", m->release, m->paths[i]);
    const struct packing *p = packing_of(path, strlen(path));

    MUST(p);
    out->limit_bytes = MODULE_LIMIT;
    if (!p->program)
        return file_read(path, MODULE_LIMIT, out, e);
    return proc_must(&(struct proc_options){.argv = (const char *const[]){p->program, "-dc", path, NULL}, .timeout_ms = UNPACK_MS}, out, e) < 0
               ? err_wrap(e, "unpacking %s", path) : 0;
}
