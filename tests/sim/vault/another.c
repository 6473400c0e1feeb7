/* The vault by another's eyes: what tools/vault_read.py finds in the segments alone, against the model. */
#include "base/file.h"
#include "base/hash.h"
#include "lives.h"

#include <sys/wait.h>

static void sum_disk(const struct disk_model *d, const int chunks[static CHUNKS_MOST], char hex[static HASH_SHA256_HEX_SIZE])
{
    CLEANUP(free_ptr) uint8_t *bytes = xmalloc((size_t)d->chunk_count * CHUNK);
    uint8_t digest[HASH_SHA256_SIZE];

    for (int c = 0; c < d->chunk_count; c++)
        content_bytes(chunks[c], bytes + (size_t)c * CHUNK);
    hash_sha256(bytes, d->size_bytes, digest);
    hash_hex(digest, sizeof digest, hex);
}

static bool holds(const struct point_model *p, const char *disk, const char *sum)
{
    for (int d = 0; d < DISKS; d++) {
        char hex[HASH_SHA256_HEX_SIZE];

        if (m->disks[d].server != p->server || strcmp(m->disks[d].id, disk) != 0)
            continue;
        sum_disk(&m->disks[d], p->chunks[d], hex);
        return strcmp(hex, sum) == 0;
    }
    return false;
}

/* One disk of a point that it has. One that nobody was told of must be one that was asked for; at_rest: of those there are none. */
static void take(const char *id, const char *disk, const char *sum, bool at_rest)
{
    struct point_model *known = find_point(id);
    bool may = known && known->standing != GONE && holds(known, disk, sum);

    for (int i = 0; i < m->point_count && !known && !at_rest && !may; i++)
        may = m->points[i].standing == ASKED && holds(&m->points[i], disk, sum);
    if (MUST_HOLD(may, "another reader has point %s, disk %s, as %s", id, disk, sum) && known)
        known->disks_seen++;
}

static void write_key(const char *path, const struct vault_key *key)
{
    char hex[2 * VAULT_KEY_SIZE + 1];

    hash_hex(key->bytes, VAULT_KEY_SIZE, hex);
    MUST(file_write(path, hex, strlen(hex), 0600, NULL) == 0);
}

/* False: this key does not open it. */
static bool read_with(const char *reader, const char *dir, const struct vault_key *key, bool at_rest)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s.key", dir), *option = key ? xasprintf("--key-file %s", path) : xstrdup("");
    CLEANUP(free_ptr) char *command = xasprintf("python3 '%s' %s %s sums 2> %s.told", reader, option, dir, dir), *another = xasprintf("grep -q 'key does not open' %s.told", dir);
    char id[VAULT_POINT_ID_SIZE], disk[16], sum[HASH_SHA256_HEX_SIZE];
    FILE *out;
    int status;

    MUST(sizeof id == 64 && sizeof sum == 65); /* as the line is read */
    if (key)
        write_key(path, key);
    out = popen(command, "re");
    MUST(out);
    while (fscanf(out, "%63s %15s %64s", id, disk, sum) == 3)
        take(id, disk, sum, at_rest);
    status = pclose(out);
    if (status && key && system(another) == 0)
        return false;
    MUST_HOLD(WIFEXITED(status) && WEXITSTATUS(status) == 0, "another reader ended with status %x: %s.told", (unsigned)status, dir);
    return true;
}

void look_by_another(const char *reader, const char *dir, bool at_rest)
{
    bool opened = false;

    for (int i = 0; i < m->point_count; i++)
        m->points[i].disks_seen = 0;
    for (size_t i = 0; i < m->key_count && !opened; i++)
        opened = read_with(reader, dir, &m->keys[i], at_rest);
    if (!m->key_count)
        opened = read_with(reader, dir, NULL, at_rest);
    MUST_HOLD(opened, "no key opens it for another reader");
    for (int i = 0; i < m->point_count; i++) {
        const struct point_model *p = &m->points[i];
        int disks = 0;

        for (int d = 0; d < DISKS; d++)
            disks += m->disks[d].server == p->server;
        MUST_HOLD(p->standing != THERE || p->disks_seen == disks, "point %s: another reader has %d of %d disks", p->id, p->disks_seen, disks);
        m->read_by_another += p->standing == THERE;
    }
}
