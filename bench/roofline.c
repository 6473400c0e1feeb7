/* roofline DEVICE: what this machine can do at all with the bytes of a disk, each stage alone on all its cores: reading it around the page cache, and
 * hashing, compressing (as the agent does) and encrypting what is not zero. Prints {"read_s","sha256_s","zstd_s","aes_gcm_s","used_bytes"}: seconds for
 * the whole disk; those but the first from a sample of at most 256 MiB. */
#include "base/clock.h"
#include "base/hash.h"
#include "base/zip.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 65536
#define READ_BYTES (1 << 20)
#define SAMPLE_CHUNKS 4096
#define TAKE_US (1 * US_PER_S) /* each stage, over and over */
#define CORES_MAX 64
#define RECORD 16384 /* of TLS */

static struct {
    int fd;
    long cores;
    atomic_llong next_offset, used_bytes;
    uint8_t *sample; /* SAMPLE_CHUNKS of the disk, not zero */
    atomic_int sample_count;
    atomic_llong done_bytes, packed_bytes;
} all;

static bool is_zero(const uint8_t *chunk) { return chunk[0] == 0 && memcmp(chunk, chunk + 1, CHUNK - 1) == 0; }

static void *read_all(void *unused)
{
    uint8_t *buffer;

    MUST(posix_memalign((void **)&buffer, 4096, READ_BYTES) == 0);
    for (;;) {
        ssize_t got = pread(all.fd, buffer, READ_BYTES, atomic_fetch_add(&all.next_offset, READ_BYTES));

        if (got <= 0)
            break;
        for (ssize_t at = 0; at + CHUNK <= got; at += CHUNK) {
            int place;

            if (is_zero(buffer + at))
                continue;
            /* Every twentieth: from all over a disk of the size that is measured. */
            if (atomic_fetch_add(&all.used_bytes, CHUNK) / CHUNK % 20 == 0 && (place = atomic_fetch_add(&all.sample_count, 1)) < SAMPLE_CHUNKS)
                memcpy(all.sample + (size_t)place * CHUNK, buffer + at, CHUNK);
        }
    }
    free(buffer);
    return unused;
}

/* A stage over one chunk of the sample; state is the thread's own. Returns the bytes that came out. */
struct stage {
    void *(*begin)(void);
    size_t (*chunk)(void *state, const uint8_t *bytes, uint8_t *out);
};

static void *no_state(void) { return NULL; }

static size_t sha256(void *state, const uint8_t *bytes, uint8_t *out)
{
    (void)state;
    hash_sha256(bytes, CHUNK, out);
    return CHUNK;
}

static void *new_zip(void) { return zip_new(1); /* agent/pipeline.c */ }

static size_t pack(void *state, const uint8_t *bytes, uint8_t *out)
{
    size_t packed = zip_pack(state, bytes, CHUNK, out);

    return packed ? packed : CHUNK;
}

static void *new_cipher(void)
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    static const uint8_t key[32];

    MUST(c && EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, NULL) == 1);
    return c;
}

static size_t encrypt(void *state, const uint8_t *bytes, uint8_t *out)
{
    static const uint8_t nonce[12];
    int size;

    for (int at = 0; at < CHUNK; at += RECORD)
        MUST(EVP_EncryptInit_ex(state, NULL, NULL, NULL, nonce) == 1 && EVP_EncryptUpdate(state, out + at, &size, bytes + at, RECORD) == 1 &&
             EVP_EncryptFinal_ex(state, out + at, &size) == 1);
    return CHUNK;
}

static void *go_through(void *user)
{
    const struct stage *s = user;
    void *state = s->begin();
    int64_t end_us = clock_monotonic_us() + TAKE_US;
    uint8_t *out = xmalloc(CHUNK);

    while (clock_monotonic_us() < end_us)
        for (int i = 0; i < all.sample_count && i < SAMPLE_CHUNKS && clock_monotonic_us() < end_us; i++) {
            atomic_fetch_add(&all.packed_bytes, (long long)s->chunk(state, all.sample + (size_t)i * CHUNK, out));
            atomic_fetch_add(&all.done_bytes, CHUNK);
        }
    free(out);
    return NULL; /* the process ends with its states */
}

/* Seconds for all cores at once. */
static double on_all_cores(void *(*work)(void *), void *user)
{
    pthread_t threads[CORES_MAX];
    int64_t begin_us = clock_monotonic_us();

    for (long i = 0; i < all.cores; i++)
        MUST(pthread_create(&threads[i], NULL, work, user) == 0);
    for (long i = 0; i < all.cores; i++)
        pthread_join(threads[i], NULL);
    return (double)(clock_monotonic_us() - begin_us) / US_PER_S;
}

/* Seconds for so many bytes through a stage. */
static double through(struct stage s, double bytes)
{
    double seconds;

    atomic_store(&all.done_bytes, 0);
    atomic_store(&all.packed_bytes, 0);
    seconds = on_all_cores(go_through, &s);
    return bytes * seconds / (double)all.done_bytes;
}

int main(int argc, char **argv)
{
    double read_s, sha256_s, zstd_s, aes_s, used, share;

    all.fd = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECT | O_CLOEXEC) : -1;
    if (all.fd < 0) {
        fprintf(stderr, "roofline: %s\n", argc == 2 ? strerror(errno) : "usage: roofline DEVICE");
        return 2;
    }
    all.cores = sysconf(_SC_NPROCESSORS_ONLN) < CORES_MAX ? sysconf(_SC_NPROCESSORS_ONLN) : CORES_MAX;
    all.sample = xmalloc((size_t)SAMPLE_CHUNKS * CHUNK);
    read_s = on_all_cores(read_all, NULL);
    if (!all.sample_count) {
        fprintf(stderr, "roofline: there is nothing on the disk\n");
        return 1;
    }
    used = (double)all.used_bytes;
    sha256_s = through((struct stage){no_state, sha256}, used);
    zstd_s = through((struct stage){new_zip, pack}, used);
    share = (double)all.packed_bytes / (double)all.done_bytes;
    aes_s = through((struct stage){new_cipher, encrypt}, used * share);
    printf("{\"read_s\":%.3f,\"sha256_s\":%.3f,\"zstd_s\":%.3f,\"aes_gcm_s\":%.3f,\"used_bytes\":%.0f}\n", read_s, sha256_s, zstd_s, aes_s, used);
    return 0;
}
