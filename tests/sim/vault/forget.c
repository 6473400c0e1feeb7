#include "forget_disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define NAMELESS ".nameless-" /* what was flushed of a file whose name was not */

struct forget f = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *grown(void *list, size_t count, size_t size)
{
    if ((count & (count + 1)) == 0) /* at 0, 1, 3, 7 …: room for twice as many */
        list = realloc(list, 2 * (count + 1) * size);
    if (!list)
        abort();
    return list;
}

uint64_t forget_draw(uint64_t bound)
{
    f.state ^= f.state << 13;
    f.state ^= f.state >> 7;
    f.state ^= f.state << 17;
    return (f.state >> 16) % bound;
}

_Noreturn void forget_blind(const char *what, const char *name)
{
    printf("# forget: %s: %s\n", what, name);
    fflush(stdout);
    syscall(SYS_exit_group, FORGET_BLIND);
    abort();
}

/* ---- what is on the disk ---- */

struct node *add_node(ino_t ino, bool folder)
{
    struct node *n = calloc(1, sizeof *n);

    if (!n)
        abort();
    *n = (struct node){.ino = ino, .folder = folder};
    f.nodes = grown(f.nodes, f.node_count, sizeof *f.nodes);
    return f.nodes[f.node_count++] = n;
}

struct node *node_of(ino_t ino)
{
    for (size_t i = f.node_count; i-- > 0;)
        if (f.nodes[i]->ino == ino && !f.nodes[i]->gone)
            return f.nodes[i];
    return NULL;
}

struct node *node_at(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 ? node_of(st.st_ino) : NULL;
}

struct node *folder_of(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');

    if (!slash || (size_t)snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path) >= sizeof folder)
        return NULL;
    return node_at(folder);
}

static const char *name_of(const char *path) { return strrchr(path, '/') ? strrchr(path, '/') + 1 : path; }

static void set_name(char to[static NAME_SIZE], const char *from)
{
    if ((size_t)snprintf(to, NAME_SIZE, "%s", from) >= NAME_SIZE)
        forget_blind("a name is too long", from);
}

static void put_entry(struct node *folder, const char *name, struct node *node)
{
    for (size_t i = 0; i < folder->entry_count; i++)
        if (strcmp(folder->entries[i].name, name) == 0) {
            if (node)
                folder->entries[i].node = node;
            else
                folder->entries[i] = folder->entries[--folder->entry_count];
            return;
        }
    if (!node)
        return;
    folder->entries = grown(folder->entries, folder->entry_count, sizeof *folder->entries);
    set_name(folder->entries[folder->entry_count].name, name);
    folder->entries[folder->entry_count++].node = node;
}

static void apply_naming(const struct naming *n)
{
    if (n->from)
        put_entry(n->from, n->from_name, NULL);
    if (n->to)
        put_entry(n->to, n->to_name, n->node);
}

static void resize(struct node *n, uint64_t size)
{
    n->bytes = realloc(n->bytes, size + 1);
    if (!n->bytes)
        abort();
    if (size > n->size)
        memset(n->bytes + n->size, 0, size - n->size);
    n->size = size;
}

static void lay(struct node *n, const struct change *c, uint64_t from, uint64_t to)
{
    if (n->size < c->offset + to)
        resize(n, c->offset + to);
    memcpy(n->bytes + c->offset + from, c->bytes + from, to - from);
}

static void apply(struct node *n, const struct change *c)
{
    if (c->bytes)
        lay(n, c, 0, c->size);
    else
        resize(n, c->size);
}

static void forget_changes(struct node *n)
{
    for (size_t i = 0; i < n->change_count; i++)
        free(n->changes[i].bytes);
    n->change_count = 0;
}

/* Any of the sectors. */
static void tear(struct node *n, const struct change *c)
{
    unsigned most = (unsigned[]){0, 1, 4, 7}[forget_draw(4)];

    f.count->torn++;
    if (forget_draw(2) && n->size < c->offset + c->size)
        resize(n, c->offset + c->size);
    for (uint64_t at = 0; at < c->size;) {
        uint64_t next = ((c->offset + at) / SECTOR + 1) * SECTOR - c->offset;

        next = next < c->size ? next : c->size;
        if (forget_draw(8) < most)
            lay(n, c, at, next);
        at = next;
    }
}

/* What becomes of a file's changes that were not flushed. */
void forget_settle(struct node *n)
{
    unsigned kept = (unsigned[]){0, 10, 50, 90, 100}[forget_draw(5)], torn = forget_draw(2) ? 30 : 0;

    for (size_t i = 0; i < n->change_count; i++) {
        const struct change *c = &n->changes[i];

        if (c->durable || forget_draw(100) < kept) {
            f.count->kept += !c->durable;
            apply(n, c);
        } else if (c->bytes && forget_draw(100) < torn) {
            tear(n, c);
        } else {
            f.count->lost++;
        }
    }
    forget_changes(n);
}

void forget_flush(struct node *n)
{
    for (size_t i = 0; i < n->change_count; i++)
        apply(n, &n->changes[i]);
    forget_changes(n);
    if (!n->folder)
        return;
    for (size_t i = 0; i < f.naming_count;) {
        struct naming *t = &f.namings[i];

        if (t->from != n && t->to != n) {
            i++;
            continue;
        }
        apply_naming(t);
        memmove(t, t + 1, (--f.naming_count - i) * sizeof *t);
    }
}

void forget_read_anew(int fd, struct node *n)
{
    char path[64];
    int file;

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd); /* fd may be open for reading only */
    file = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_TRUNC);
    for (uint64_t at = 0; at < n->size;) {
        ssize_t put = syscall(SYS_pwrite64, file, n->bytes + at, n->size - at, at);

        if (put <= 0)
            abort();
        at += (uint64_t)put;
    }
    syscall(SYS_close, file);
    n->unlike = false;
}

/* ---- held against the real folder ---- */

static uint8_t *read_file(const char *path, uint64_t *size)
{
    struct stat st = {0};
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY);
    uint8_t *bytes;

    if (fd < 0 || fstat(fd, &st) < 0 || !(bytes = malloc((size_t)st.st_size + 1)))
        abort();
    *size = (uint64_t)st.st_size;
    for (uint64_t at = 0; at < *size;) {
        ssize_t got = pread(fd, bytes + at, *size - at, (off_t)at);

        if (got <= 0)
            abort();
        at += (uint64_t)got;
    }
    syscall(SYS_close, fd);
    return bytes;
}

static void compare_file(const char *path, const struct node *n)
{
    struct node whole = {0};
    uint64_t size;
    uint8_t *bytes = read_file(path, &size);

    resize(&whole, n->size);
    memcpy(whole.bytes, n->bytes ? n->bytes : whole.bytes, n->size);
    for (size_t i = 0; i < n->change_count; i++)
        apply(&whole, &n->changes[i]);
    if (whole.size != size || memcmp(whole.bytes, bytes, size) != 0)
        forget_blind("changed by a way that is not followed", path);
    free(whole.bytes);
    free(bytes);
}

static void compare_folder(const char *path, struct node *n)
{
    size_t held = n->entry_count, found = 0;
    struct entry *before = malloc((held + 1) * sizeof *before);
    struct dirent *d;
    DIR *dir = opendir(path);
    char below[PATH_MAX];

    if (!dir || !before)
        abort();
    if (held)
        memcpy(before, n->entries, held * sizeof *before);
    for (size_t i = 0; i < f.naming_count; i++) {
        const struct naming *t = &f.namings[i];

        if (t->from == n)
            put_entry(n, t->from_name, NULL);
        if (t->to == n)
            put_entry(n, t->to_name, t->node);
    }
    while ((d = readdir(dir))) {
        struct node *node = NULL;

        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        snprintf(below, sizeof below, "%s/%s", path, d->d_name);
        for (size_t i = 0; i < n->entry_count; i++)
            if (strcmp(n->entries[i].name, d->d_name) == 0)
                node = n->entries[i].node;
        if (!node || node->ino != d->d_ino)
            forget_blind("a name that was not followed", below);
        found++;
        if (node->folder)
            compare_folder(below, node);
        else if (!node->unlike && !strstr(d->d_name, "lock")) /* LMDB's is mapped, and made anew by the first that opens it */
            compare_file(below, node);
    }
    closedir(dir);
    if (found != n->entry_count)
        forget_blind("names went by a way that is not followed", path);
    n->entry_count = held;
    if (held)
        memcpy(n->entries, before, held * sizeof *before);
    free(before);
}

/* ---- the cut ---- */

static void choose_namings(void)
{
    unsigned way = (unsigned)forget_draw(4), first = (unsigned)forget_draw(f.naming_count + 1);

    for (size_t i = 0; i < f.naming_count; i++) {
        f.namings[i].chosen = way == 1 || (way == 2 && i < first) || (way == 3 && forget_draw(2));
        f.count->names_lost += !f.namings[i].chosen;
        if (f.namings[i].chosen)
            apply_naming(&f.namings[i]);
    }
}

static void write_file(const char *path, const struct node *n)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL, 0600);

    for (uint64_t at = 0; at < n->size;) {
        ssize_t put = syscall(SYS_pwrite64, fd, n->bytes + at, n->size - at, at);

        if (put <= 0)
            abort();
        at += (uint64_t)put;
    }
    syscall(SYS_close, fd);
}

/* As the list of a killed process has it. */
static int kind_of(const struct node *n) { return n->folder ? 1 : n->unlike ? 2 : 0; }

/* What the disk holds, as a folder; list (may be NULL): which file is which. */
static void write_out(const char *path, struct node *n, FILE *list)
{
    char below[PATH_MAX];

    if (syscall(SYS_mkdirat, AT_FDCWD, path, 0700) < 0)
        abort();
    for (size_t i = 0; i < n->entry_count; i++) {
        struct node *node = n->entries[i].node;

        snprintf(below, sizeof below, "%s/%s", path, n->entries[i].name);
        node->named = true;
        if (list)
            fprintf(list, "%llu %d %s\n", (unsigned long long)(node->gone ? 0 : node->ino), kind_of(node), below);
        if (node->folder)
            write_out(below, node, list);
        else
            write_file(below, node);
    }
}

static void remove_tree(const char *path)
{
    char below[PATH_MAX];
    struct dirent *d;
    DIR *dir = opendir(path);

    while (dir && (d = readdir(dir))) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        snprintf(below, sizeof below, "%s/%s", path, d->d_name);
        if (d->d_type == DT_DIR)
            remove_tree(below);
        else
            syscall(SYS_unlinkat, AT_FDCWD, below, 0);
    }
    if (dir)
        closedir(dir);
    syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

static char disk_path[PATH_MAX], nodes_path[PATH_MAX];

static _Noreturn void cut_locked(void)
{
    char after[PATH_MAX];

    compare_folder(f.root, f.nodes[0]);
    for (size_t i = 0; i < f.node_count; i++)
        forget_settle(f.nodes[i]);
    choose_namings();
    snprintf(after, sizeof after, "%s.after", f.root);
    write_out(after, f.nodes[0], NULL);
    remove_tree(f.root);
    remove_tree(disk_path);
    if (syscall(SYS_renameat, AT_FDCWD, after, AT_FDCWD, f.root) < 0)
        abort();
    fflush(stdout);
    syscall(SYS_exit_group, FORGET_CUT);
    abort();
}

static _Noreturn void kill_locked(void)
{
    FILE *list;

    compare_folder(f.root, f.nodes[0]);
    f.on = false;
    for (size_t i = 0; i < f.node_count; i++)
        for (size_t c = 0; c < f.nodes[i]->change_count; c++)
            /* What came after a flush that failed was written back by now: the rest of what is unlike never will be. */
            if (f.nodes[i]->changes[c].durable || f.nodes[i]->unlike)
                apply(f.nodes[i], &f.nodes[i]->changes[c]);
    remove_tree(disk_path);
    list = fopen(nodes_path, "w");
    if (!list)
        abort();
    write_out(disk_path, f.nodes[0], list);
    for (size_t i = 1; i < f.node_count; i++) {
        char path[PATH_MAX + 64];

        snprintf(path, sizeof path, "%s/" NAMELESS "%zu", disk_path, i);
        if (f.nodes[i]->named || f.nodes[i]->folder || f.nodes[i]->gone)
            continue;
        fprintf(list, "%llu %d %s\n", (unsigned long long)f.nodes[i]->ino, kind_of(f.nodes[i]), path);
        write_file(path, f.nodes[i]);
    }
    if (fclose(list) != 0)
        abort();
    fflush(stdout);
    syscall(SYS_exit_group, FORGET_KILLED);
    abort();
}

void forget_cut(void)
{
    pthread_mutex_lock(&f.lock);
    cut_locked();
}

void forget_fail(uint64_t after, uint64_t count, int fault)
{
    pthread_mutex_lock(&f.lock);
    f.plan.fault_from = f.count->operations + 1 + after;
    f.plan.fault_count = count;
    f.plan.fault = fault;
    pthread_mutex_unlock(&f.lock);
}

void forget_kill(void)
{
    pthread_mutex_lock(&f.lock);
    kill_locked();
}

bool forget_ends(enum forget_kind kind)
{
    return f.plan.cut_at && f.count->operations + 1 >= f.plan.cut_at && (!f.plan.at_through || kind == WRITE_THROUGH);
}

/* Counts an operation that the disk has in its queue by now; ends with the power. The errno of a fault, or 0. */
int forget_step(enum forget_kind kind)
{
    bool ends = forget_ends(kind);
    uint64_t at = ++f.count->operations;

    if (ends) {
        if (f.plan.killed)
            kill_locked();
        cut_locked();
    }
    if (at < f.plan.fault_from || at >= f.plan.fault_from + f.plan.fault_count || (kind == FLUSH && f.plan.fault != EIO))
        return 0;
    f.count->faults++;
    return f.plan.fault;
}

void add_change(struct node *n, const void *bytes, uint64_t offset, uint64_t size, bool durable)
{
    struct change c = {.offset = offset, .size = size, .durable = durable};

    if (bytes) {
        c.bytes = malloc(size + 1);
        if (!c.bytes)
            abort();
        memcpy(c.bytes, bytes, size);
    }
    n->changes = grown(n->changes, n->change_count, sizeof *n->changes);
    n->changes[n->change_count++] = c;
}

void add_naming(struct node *from, const char *from_path, struct node *to, const char *to_path, struct node *node)
{
    struct naming *t;

    f.namings = grown(f.namings, f.naming_count, sizeof *f.namings);
    t = &f.namings[f.naming_count++];
    *t = (struct naming){.from = from, .to = to, .node = node};
    set_name(t->from_name, from ? name_of(from_path) : "");
    set_name(t->to_name, to ? name_of(to_path) : "");
}

/* Calls visit for each name in the folder at path. */
static void each_name(const char *path, struct node *n, void visit(const char *below, const char *name, struct node *n))
{
    char below[PATH_MAX];
    struct dirent *d;
    DIR *dir = opendir(path);

    if (!dir)
        abort();
    while ((d = readdir(dir))) {
        snprintf(below, sizeof below, "%s/%s", path, d->d_name);
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
            visit(below, d->d_name, n);
    }
    closedir(dir);
}

static struct node *load_node(const char *path, ino_t ino, bool folder)
{
    struct node *n = add_node(ino, folder);

    n->gone = ino == 0;
    if (!folder)
        n->bytes = read_file(path, &n->size);
    return n;
}

static void load_name(const char *below, const char *name, struct node *n)
{
    struct stat st;

    if (lstat(below, &st) < 0)
        abort();
    put_entry(n, name, load_node(below, st.st_ino, S_ISDIR(st.st_mode)));
    if (S_ISDIR(st.st_mode))
        each_name(below, node_of(st.st_ino), load_name);
}

/* ---- what a killed process left ---- */

/* As kill_locked has listed it: folders come before what lies in them. */
static void load_listed(FILE *list)
{
    struct {
        char path[PATH_MAX];
        struct node *node;
    } *folders = calloc(32, sizeof *folders);
    size_t folder_count = 1;
    char line[PATH_MAX + 32], path[PATH_MAX];
    unsigned long long ino;
    int kind;

    if (!folders)
        abort();
    snprintf(folders[0].path, sizeof folders[0].path, "%s", disk_path);
    folders[0].node = f.nodes[0];
    while (fgets(line, sizeof line, list) && sscanf(line, "%llu %d %[^\n]", &ino, &kind, path) == 3) {
        struct node *n = load_node(path, (ino_t)ino, kind == 1);

        n->unlike = kind == 2;
        for (size_t i = 0; i < folder_count && strncmp(name_of(path), NAMELESS, sizeof NAMELESS - 1) != 0; i++)
            if (strncmp(folders[i].path, path, (size_t)(name_of(path) - path - 1)) == 0 && folders[i].path[name_of(path) - path - 1] == '\0')
                put_entry(folders[i].node, name_of(path), n);
        if (n->folder && folder_count < 32) {
            snprintf(folders[folder_count].path, sizeof folders[0].path, "%s", path);
            folders[folder_count++].node = n;
        }
    }
    free(folders);
}

static struct node *entry_of(const struct node *folder, const char *name)
{
    for (size_t i = 0; i < folder->entry_count; i++)
        if (strcmp(folder->entries[i].name, name) == 0)
            return folder->entries[i].node;
    return NULL;
}

/* A name as it is read, against the disk. */
static void differ_name(const char *below, const char *name, struct node *folder)
{
    struct node *n;
    struct stat st;

    if (lstat(below, &st) < 0)
        abort();
    n = node_of(st.st_ino);
    if (!n)
        n = add_node(st.st_ino, S_ISDIR(st.st_mode));
    if (entry_of(folder, name) != n)
        add_naming(NULL, NULL, folder, below, n);
    if (n->folder) {
        each_name(below, n, differ_name);
    } else if (!n->unlike) {
        uint64_t size;
        uint8_t *bytes = read_file(below, &size);

        if (size != n->size || memcmp(bytes, n->bytes ? n->bytes : bytes, size) != 0) {
            add_change(n, NULL, 0, size, false);
            add_change(n, bytes, 0, size, false);
        }
        free(bytes);
    }
}

static void differ_gone(const char *path, struct node *folder)
{
    char below[PATH_MAX];
    struct stat st;

    for (size_t i = 0; i < folder->entry_count; i++) {
        snprintf(below, sizeof below, "%s/%s", path, folder->entries[i].name);
        if (lstat(below, &st) < 0)
            add_naming(folder, below, NULL, NULL, folder->entries[i].node);
        else if (folder->entries[i].node->folder && folder->entries[i].node->ino == st.st_ino)
            differ_gone(below, folder->entries[i].node);
    }
}

void forget_start(const char *folder, const struct forget_plan *plan, struct forget_count *counts)
{
    struct stat st;
    FILE *list;

    snprintf(f.root, sizeof f.root, "%s", folder);
    snprintf(disk_path, sizeof disk_path, "%s.disk", folder);
    snprintf(nodes_path, sizeof nodes_path, "%s.nodes", folder);
    f.plan = *plan;
    f.count = counts;
    f.state = plan->seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    if (stat(folder, &st) < 0)
        abort();
    add_node(st.st_ino, true);
    if (access(disk_path, F_OK) == 0 && (list = fopen(nodes_path, "r"))) {
        load_listed(list);
        fclose(list);
        each_name(folder, f.nodes[0], differ_name);
        differ_gone(folder, f.nodes[0]);
    } else {
        each_name(folder, f.nodes[0], load_name);
    }
    f.on = true;
}
