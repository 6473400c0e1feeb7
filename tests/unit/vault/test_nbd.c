/* The NBD server against the tools that people use: nbdinfo, nbdcopy, qemu-img; and its answers to what it must refuse. */
#include "base/bytes.h"
#include "vault/nbd.h"
#include "tap.h"
#include "vault/nbd_proto.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define DISK_BYTES (700 * (uint64_t)CHUNK + 1536) /* not a multiple of a chunk */

static char dir[64];

__attribute__((format(printf, 1, 2))) static int run(const char *format, ...)
{
    char command[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    fflush(stdout);
    return system(command);
}

static void fill(uint8_t bytes[static CHUNK], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i + 8 <= CHUNK; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

/* The same content as a file and as a recovery point. */
static void make_disk(struct vault *v, struct vault_point *out)
{
    char path[96];
    struct vault_disk d;
    struct vault_hash hash;
    struct err e = {0};
    uint8_t bytes[CHUNK];
    int fd;

    snprintf(path, sizeof path, "%s/source.raw", dir);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)DISK_BYTES) < 0)
        abort();
    vault_disk_open(v, "web01", "disk a+b", DISK_BYTES, &d, &e);
    vault_map_zero(v, &d, 0, d.chunk_count, &e);
    for (uint64_t i = 0; i < d.chunk_count; i += i % 100 < 60 ? 1 : 50) {
        fill(bytes, i + 1);
        if (i + 1 == d.chunk_count)
            memset(bytes + DISK_BYTES % CHUNK, 0, CHUNK - DISK_BYTES % CHUNK);
        if (pwrite(fd, bytes, i + 1 == d.chunk_count ? DISK_BYTES % CHUNK : CHUNK, (off_t)(i * CHUNK)) < 0)
            abort();
        vault_store(v, bytes, NULL, &hash, NULL, &e);
        vault_map(v, &d, i, &hash, &e);
    }
    close(fd);
    is_int(vault_point_commit(v, "web01", 0, "crash", 0, out, &e), 0, "a point: %s", e.message);
}

static int connect_raw(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct timeval limit = {.tv_sec = 10};

    snprintf(address.sun_path, sizeof address.sun_path, "%s/nbd.sock", dir);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? fd : -1;
}

/* An old-style client: EXPORT_NAME, simple replies, and a write. */
static void raw_client(const char *point)
{
    uint8_t b[256], request[NBD_REQUEST_SIZE] = {0};
    char name[128];
    int fd = connect_raw();
    size_t size = (size_t)snprintf(name, sizeof name, "%s/disk a+b", point);

    ok(recv(fd, b, NBD_GREETING_SIZE, MSG_WAITALL) == NBD_GREETING_SIZE && memcmp(b, "NBDMAGICIHAVEOPT", 16) == 0, "greeting");
    put_be32(b, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
    put_be64(b + 4, NBD_OPTION_MAGIC);
    put_be32(b + 12, NBD_OPT_EXPORT_NAME);
    put_be32(b + 16, (uint32_t)size);
    memcpy(b + 20, name, size);
    ok(send(fd, b, 20 + size, 0) == (ssize_t)(20 + size) && recv(fd, b, 10, MSG_WAITALL) == 10, "EXPORT_NAME answers");
    is_int(get_be32(b + 4), (uint32_t)DISK_BYTES, "with the size");
    put_be32(request, NBD_REQUEST_MAGIC);
    put_be16(request + 6, NBD_CMD_WRITE);
    put_be64(request + 8, 77);
    put_be32(request + 24, 100);
    ok(send(fd, request, sizeof request, 0) == sizeof request && send(fd, b, 100, 0) == 100 && recv(fd, b, 16, MSG_WAITALL) == 16,
       "a write is answered");
    is_int(get_be32(b + 4), NBD_EPERM, "with EPERM");
    put_be16(request + 6, NBD_CMD_READ);
    put_be64(request + 16, DISK_BYTES - 10);
    ok(send(fd, request, sizeof request, 0) == sizeof request && recv(fd, b, 16, MSG_WAITALL) == 16, "a read past the end is answered");
    is_int(get_be32(b + 4), NBD_EINVAL, "with EINVAL");
    put_be16(request + 6, NBD_CMD_FLUSH);
    ok(send(fd, request, sizeof request, 0) == sizeof request && recv(fd, b, 16, MSG_WAITALL) == 16, "a flush is answered");
    is_int(get_be32(b + 4), 0, "with success");
    request[0] ^= 1;
    ok(send(fd, request, sizeof request, 0) == sizeof request && recv(fd, b, 1, MSG_WAITALL) == 0, "a wrong magic ends the connection");
    close(fd);
}

static void tools(const char *point)
{
    char uri[256];

    snprintf(uri, sizeof uri, "'nbd+unix:///%s/disk%%20a+b?socket=%s/nbd.sock'", point, dir);
    is_int(run("nbdinfo --size %s | grep -qx %llu", uri, (unsigned long long)DISK_BYTES), 0, "nbdinfo: size");
    is_int(run("nbdinfo --is read-only %s && nbdinfo --can multi-conn %s && nbdinfo --can structured-reply %s", uri, uri, uri), 0,
           "nbdinfo: read-only, multi-conn, structured replies");
    is_int(run("nbdinfo --list 'nbd+unix:///?socket=%s/nbd.sock' | grep -q 'export=\"%s/disk a+b\"'", dir, point), 0, "nbdinfo: list");
    is_int(run("nbdinfo --map %s | grep -q hole,zero", uri), 0, "nbdinfo: map shows holes");
    is_int(run("nbdcopy %s %s/copy.raw && cmp %s/copy.raw %s/source.raw", uri, dir, dir, dir), 0, "nbdcopy: the same bytes");
    is_int(run("nbdcopy --connections=4 --requests=64 %s - | cmp - %s/source.raw", uri, dir), 0, "nbdcopy: through a pipe");
    is_int(run("qemu-img compare -f raw -F raw %s %s/source.raw >/dev/null", uri, dir), 0, "qemu-img compare");
    is_int(run("qemu-img convert -f raw -O qcow2 %s %s/copy.qcow2 && qemu-img compare -f qcow2 -F raw %s/copy.qcow2 %s/source.raw >/dev/null",
               uri, dir, dir, dir), 0, "qemu-img convert");
    is_int(run("qemu-img create -q -f qcow2 -b %s -F raw %s/overlay.qcow2 && qemu-img compare -f qcow2 -F raw %s/overlay.qcow2 %s/source.raw "
               ">/dev/null", uri, dir, dir, dir), 0, "qemu-img: as backing file of an overlay");
    ok(run("nbdinfo --size 'nbd+unix:///%s/other?socket=%s/nbd.sock' 2>/dev/null", point, dir) != 0, "a disk that is none is refused");
    ok(run("nbdinfo --size 'nbd+unix:///nothing/vda?socket=%s/nbd.sock' 2>/dev/null", dir) != 0, "a point that is none is refused");
}

static void flip_every_segment(void)
{
    /* One byte deep inside the first chunk's payload; the server runs. */
    is_int(run("printf X | dd of=$(ls %s/vault/segments/*.seg | head -1) bs=1 seek=20000 conv=notrunc status=none", dir), 0, "a byte flips");
}

int main(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    CLEANUP(nbd_server_stop) struct nbd_server *server = NULL;
    const struct vault_options options = {.guard_bytes = 1 << 20, .cache_bytes = 1 << 20};
    char path[96];
    struct vault_point p;
    struct err e = {0};

    snprintf(dir, sizeof dir, "/tmp/vault-nbd.XXXXXX");
    if (!mkdtemp(dir))
        abort();
    snprintf(path, sizeof path, "%s/vault", dir);
    is_int(vault_open(path, &options, &v, &e), 0, "a vault");
    make_disk(v, &p);
    snprintf(path, sizeof path, "%s/nbd.sock", dir);
    is_int(nbd_server_start(v, path, &server, &e), 0, "the server: %s", e.message);
    ok(run("nbdinfo --size 'nbd+unix:///%s/disk%%20a+b?socket=%s' 2>/dev/null", p.id, path) != 0, "a point that is not exported is refused");
    is_int(vault_point_pin(v, p.id, VAULT_EXPORT_PIN, &e), 0, "exported");
    tools(p.id);
    raw_client(p.id);
    is_int(nbd_server_read_errors(server), 0, "no read failed so far");
    flip_every_segment();
    ok(run("nbdcopy 'nbd+unix:///%s/disk%%20a+b?socket=%s' null: 2>/dev/null", p.id, path) != 0, "a damaged chunk fails the copy");
    ok(nbd_server_read_errors(server) > 0, "and is counted");
    is_int(vault_point_usable(v, p.id, &e), -1, "and the point is not to be used: %s", e.message);
    ok(run("nbdinfo --size 'nbd+unix:///%s/disk%%20a+b?socket=%s' 2>/dev/null", p.id, path) != 0, "new connections are refused");
    nbd_server_stop(&server);
    vault_close(&v);
    run("rm -rf %s", dir);
    return tap_done();
}
