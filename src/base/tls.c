#include "base/tls.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/tcp.h> /* glibc's lacks tcpi_busy_time */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <unistd.h>

#define TLS_SERIAL_BYTES 32 /* RFC 5280 has at most 20 */
#define TLS_PEM_LIMIT (256u << 10)

struct tls_context {
    SSL_CTX *ssl;
    enum tls_side side;
};

/* The descriptor never blocks; the lock is held for OpenSSL's calls only, never while waiting in poll(2), so that one thread
 * reads while another writes. */
struct tls_stream {
    pthread_mutex_t lock;
    SSL *ssl;
    int fd;
    atomic_bool cut;
    char peer_name[TLS_NAME_SIZE];
    char peer_serial[2 * TLS_SERIAL_BYTES + 1];
};

static int fail(struct err *e, enum err_kind kind, const char *what)
{
    unsigned long code = ERR_peek_error();
    char reason[256] = "no reason given";

    if (code)
        ERR_error_string_n(code, reason, sizeof reason);
    ERR_clear_error();
    return err_set(e, kind, "%s: %s", what, reason);
}

static X509 *read_certificate(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);

    BIO_free(bio);
    return certificate;
}

static int add_ca(SSL_CTX *ssl, const char *ca_pem, struct err *e)
{
    BIO *bio = BIO_new_mem_buf(ca_pem, -1);
    X509_STORE *store = SSL_CTX_get_cert_store(ssl);
    X509 *ca;
    int added = 0;

    while ((ca = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        added += X509_STORE_add_cert(store, ca) == 1;
        X509_free(ca);
    }
    BIO_free(bio);
    ERR_clear_error(); /* the end of the file is reported as an error */
    if (!added)
        return err_set(e, ERR_INVALID, "the CA's PEM text holds no certificate");
    return 0;
}

static int use_identity(SSL_CTX *ssl, const char *certificate_pem, const char *key_pem, struct err *e)
{
    X509 *certificate = read_certificate(certificate_pem);
    BIO *bio = BIO_new_mem_buf(key_pem, -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    int result = 0;

    BIO_free(bio);
    if (!certificate)
        result = fail(e, ERR_INVALID, "the certificate's PEM text can't be read");
    else if (!key)
        result = fail(e, ERR_INVALID, "the key's PEM text can't be read");
    else if (SSL_CTX_use_certificate(ssl, certificate) != 1 || SSL_CTX_use_PrivateKey(ssl, key) != 1)
        result = fail(e, ERR_INVALID, "key and certificate don't fit each other");
    X509_free(certificate);
    EVP_PKEY_free(key);
    return result;
}

static bool read_name(const X509 *certificate, char name[static TLS_NAME_SIZE])
{
    const X509_NAME *subject = certificate ? X509_get_subject_name(certificate) : NULL;
    int size = subject ? X509_NAME_get_text_by_NID((X509_NAME *)subject, NID_commonName, name, TLS_NAME_SIZE) : -1;

    /* A NUL inside would hide what follows it. */
    return size > 0 && strlen(name) == (size_t)size && size < TLS_NAME_SIZE - 1;
}

static bool read_serial(const X509 *certificate, char serial[static 2 * TLS_SERIAL_BYTES + 1])
{
    BIGNUM *number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), NULL);
    unsigned char bytes[TLS_SERIAL_BYTES];
    int size = number && BN_num_bytes(number) <= TLS_SERIAL_BYTES ? BN_bn2bin(number, bytes) : -1;

    BN_free(number);
    if (size > 0)
        hash_hex(bytes, (size_t)size, serial);
    return size > 0;
}

/* OpenSSL has held the signatures of this certificate, and of those above it, before it looks at its time. */
static int note_stale(int holds, X509_STORE_CTX *check)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(check, SSL_get_ex_data_X509_STORE_CTX_idx());
    int why = X509_STORE_CTX_get_error(check);
    char *stale = SSL_get_app_data(ssl);

    if (!holds && stale && X509_STORE_CTX_get_error_depth(check) == 0 && (why == X509_V_ERR_CERT_HAS_EXPIRED || why == X509_V_ERR_CERT_NOT_YET_VALID) &&
        !read_name(X509_STORE_CTX_get_current_cert(check), stale))
        *stale = '\0';
    return holds;
}

/* A processor without instructions for AES seals with ChaCha20 several times as fast: under emulation without them 218 MB/s, and 38 with AES-256-GCM. */
static bool seals_aes_fast(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#elif defined(__aarch64__)
    return (getauxval(AT_HWCAP) & HWCAP_AES) != 0;
#else
    return true;
#endif
}

int tls_context_new(enum tls_side side, const char *certificate_pem, const char *key_pem, const char *ca_pem, struct tls_context **out,
                    struct err *e)
{
    CLEANUP(tls_context_free) struct tls_context *c = xcalloc(1, sizeof *c);

    c->side = side;
    c->ssl = SSL_CTX_new(side == TLS_CLIENT ? TLS_client_method() : TLS_server_method());
    if (!c->ssl)
        return fail(e, ERR_INTERNAL, "can't make a TLS context");
    SSL_CTX_set_min_proto_version(c->ssl, TLS1_3_VERSION);
    if (side == TLS_CLIENT && !seals_aes_fast()) /* the server goes by the client's order */
        SSL_CTX_set_ciphersuites(c->ssl, "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256");
    SSL_CTX_set_verify(c->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, note_stale);
    SSL_CTX_set_mode(c->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* Identity is proven anew each time, and frames have their own lengths, so that a cut end can't pass for a whole one. */
    SSL_CTX_set_session_cache_mode(c->ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(c->ssl, 0);
    SSL_CTX_set_options(c->ssl, SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_read_ahead(c->ssl, 1);
    if (add_ca(c->ssl, ca_pem, e) < 0 || use_identity(c->ssl, certificate_pem, key_pem, e) < 0)
        return -1;
    *out = c;
    c = NULL;
    return 0;
}

static void release_wiped(struct buf *b)
{
    if (b->data)
        explicit_bzero(b->data, b->size_bytes);
    buf_release(b);
}

int tls_context_open(enum tls_side side, const char *certificate_path, const char *key_path, const char *ca_path,
                     struct tls_context **out, struct err *e)
{
    CLEANUP(buf_release) struct buf certificate = {0}, ca = {0};
    CLEANUP(release_wiped) struct buf key = {0};

    if (file_read(certificate_path, TLS_PEM_LIMIT, &certificate, e) < 0 || file_read(key_path, TLS_PEM_LIMIT, &key, e) < 0 ||
        file_read(ca_path, TLS_PEM_LIMIT, &ca, e) < 0)
        return -1;
    if (tls_context_new(side, certificate.data, key.data, ca.data, out, e) < 0)
        return err_wrap(e, "with %s, %s and %s", certificate_path, key_path, ca_path);
    return 0;
}

void tls_context_free(struct tls_context **c)
{
    if (!*c)
        return;
    SSL_CTX_free((*c)->ssl);
    free_ptr(c);
}

/* Waits for the descriptor: 1 ready, 0 the time is over, -1. deadline_us < 0: no limit. */
static int wait_for(struct tls_stream *s, short events, int64_t deadline_us, struct err *e)
{
    struct pollfd p = {.fd = s->fd, .events = events};
    int64_t left_us = deadline_us - clock_monotonic_us();
    int wait_ms = deadline_us < 0 ? -1 : left_us <= 0 ? 0 : (int)((left_us + 999) / 1000);
    int got = poll(&p, 1, wait_ms);

    if (atomic_load(&s->cut))
        return err_set(e, ERR_UNREACHABLE, "the connection was cut");
    if (got < 0 && errno != EINTR)
        return err_errno(e, errno, "can't wait for the connection");
    if (got == 0)
        return err_set(e, ERR_TIMEOUT, "nothing moved on the connection within its time limit");
    return 0;
}

/* What a failed OpenSSL call means: 0 try again after waiting, -1 over. */
static int after_failure(struct tls_stream *s, int ssl_error, int error_number, int64_t deadline_us, struct err *e)
{
    switch (ssl_error) {
    case SSL_ERROR_WANT_READ: return wait_for(s, POLLIN, deadline_us, e);
    case SSL_ERROR_WANT_WRITE: return wait_for(s, POLLOUT, deadline_us, e);
    case SSL_ERROR_ZERO_RETURN: return err_set(e, ERR_UNREACHABLE, "the other end closed the connection");
    case SSL_ERROR_SYSCALL:
        ERR_clear_error();
        if (error_number)
            return err_errno(e, error_number, "the connection failed");
        return err_set(e, ERR_UNREACHABLE, "the other end closed the connection");
    default: return fail(e, ERR_UNREACHABLE, "the TLS connection failed");
    }
}

static int64_t deadline_after(int timeout_ms) { return timeout_ms < 0 ? -1 : clock_monotonic_us() + timeout_ms * US_PER_MS; }

static int shake_hands(struct tls_stream *s, enum tls_side side, int64_t deadline_us, struct err *e)
{
    for (;;) {
        int done, error_number, reason;
        long verdict;

        ERR_clear_error();
        errno = 0;
        done = side == TLS_CLIENT ? SSL_connect(s->ssl) : SSL_accept(s->ssl);
        error_number = errno;

        if (done == 1)
            return 0;
        reason = SSL_get_error(s->ssl, done);
        verdict = SSL_get_verify_result(s->ssl);
        if (reason == SSL_ERROR_SSL && verdict != X509_V_OK) {
            ERR_clear_error();
            return err_set(e, ERR_UNAUTHENTICATED, "the other end's certificate is refused: %s (check the CA, and both clocks)",
                           X509_verify_cert_error_string(verdict));
        }
        if (after_failure(s, reason, reason == SSL_ERROR_SYSCALL ? error_number : 0, deadline_us, e) < 0)
            return -1;
    }
}

static int read_peer(struct tls_stream *s, const char *peer_prefix, struct err *e)
{
    const X509 *peer = SSL_get0_peer_certificate(s->ssl);

    if (!read_name(peer, s->peer_name) || !read_serial(peer, s->peer_serial))
        return err_set(e, ERR_UNAUTHENTICATED, "the other end's certificate has no usable common name, or no number");
    if (strncmp(s->peer_name, peer_prefix, strlen(peer_prefix)) != 0)
        return err_set(e, ERR_DENIED, "the other end is \"%s\" where \"%s…\" was expected", s->peer_name, peer_prefix);
    return 0;
}

int tls_open(const struct tls_context *c, int fd, const char *peer_prefix, int timeout_ms, struct tls_stream **out, struct err *e)
{
    char stale[TLS_NAME_SIZE];

    return tls_open_telling(c, fd, peer_prefix, timeout_ms, stale, out, e);
}

int tls_open_telling(const struct tls_context *c, int fd, const char *peer_prefix, int timeout_ms, char stale[static TLS_NAME_SIZE],
                     struct tls_stream **out, struct err *e)
{
    CLEANUP(tls_close) struct tls_stream *s = xcalloc(1, sizeof *s);

    *stale = '\0';
    pthread_mutex_init(&s->lock, NULL);
    s->fd = fd;
    s->ssl = SSL_new(c->ssl);
    MUST(s->ssl != NULL);
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0 || SSL_set_fd(s->ssl, fd) != 1)
        return err_errno(e, errno, "can't use the connection");
    SSL_set_app_data(s->ssl, stale);
    if (shake_hands(s, c->side, deadline_after(timeout_ms), e) < 0)
        return *stale ? err_wrap(e, "TLS handshake with %s", stale) : err_wrap(e, "TLS handshake");
    SSL_set_app_data(s->ssl, NULL);
    if (read_peer(s, peer_prefix, e) < 0)
        return -1;
    *out = s;
    s = NULL;
    return 0;
}

void tls_close(struct tls_stream **s)
{
    if (!*s)
        return;
    if (!atomic_load(&(*s)->cut) && SSL_is_init_finished((*s)->ssl))
        SSL_shutdown((*s)->ssl);
    SSL_free((*s)->ssl);
    ERR_clear_error();
    if ((*s)->fd >= 0)
        close((*s)->fd);
    pthread_mutex_destroy(&(*s)->lock);
    free_ptr(s);
}

const char *tls_peer_name(const struct tls_stream *s) { return s->peer_name; }
const char *tls_cipher(const struct tls_stream *s) { return SSL_get_cipher_name(s->ssl); }
const char *tls_peer_serial(const struct tls_stream *s) { return s->peer_serial; }

int64_t tls_read(struct tls_stream *s, void *bytes, size_t size, int timeout_ms, struct err *e)
{
    int64_t deadline_us = deadline_after(timeout_ms);

    for (;;) {
        int got, reason, error_number;

        pthread_mutex_lock(&s->lock);
        ERR_clear_error();
        errno = 0;
        got = SSL_read(s->ssl, bytes, size > INT_MAX ? INT_MAX : (int)size);
        error_number = errno;
        reason = got > 0 ? SSL_ERROR_NONE : SSL_get_error(s->ssl, got);
        pthread_mutex_unlock(&s->lock);
        if (got > 0)
            return got;
        if (reason == SSL_ERROR_ZERO_RETURN)
            return 0;
        if (after_failure(s, reason, error_number, deadline_us, e) < 0)
            return -1;
    }
}

int tls_read_all(struct tls_stream *s, void *bytes, size_t size, int timeout_ms, struct err *e)
{
    for (size_t done = 0; done < size;) {
        int64_t got = tls_read(s, (char *)bytes + done, size - done, timeout_ms, e);

        if (got < 0)
            return -1;
        if (got == 0)
            return done == 0 ? 0 : err_set(e, ERR_UNREACHABLE, "the connection ended after %zu of %zu bytes", done, size);
        done += (size_t)got;
    }
    return 1;
}

/* Lock held, after a write failed: the other end may have said why before it closed (an alert: this end's certificate is refused, say), and only reading tells. In TLS 1.3 the one that
 * dials has long shaken hands by then. Its words are in OpenSSL's queue. */
static bool closed_with_a_word(struct tls_stream *s, int error_number)
{
    char byte;
    int got;

    if (error_number != EPIPE && error_number != ECONNRESET)
        return false;
    ERR_clear_error();
    got = SSL_peek(s->ssl, &byte, 1);
    return got <= 0 && SSL_get_error(s->ssl, got) == SSL_ERROR_SSL;
}

int tls_write_all(struct tls_stream *s, const void *bytes, size_t size, int timeout_ms, struct err *e)
{
    for (size_t done = 0; done < size;) {
        int64_t deadline_us = deadline_after(timeout_ms);
        int put, reason, error_number;
        bool said;

        pthread_mutex_lock(&s->lock);
        ERR_clear_error();
        errno = 0;
        put = SSL_write(s->ssl, (const char *)bytes + done, size - done > INT_MAX ? INT_MAX : (int)(size - done));
        error_number = errno;
        reason = put > 0 ? SSL_ERROR_NONE : SSL_get_error(s->ssl, put);
        said = reason == SSL_ERROR_SYSCALL && closed_with_a_word(s, error_number);
        pthread_mutex_unlock(&s->lock);
        if (said)
            return fail(e, ERR_UNREACHABLE, "the TLS connection failed");
        if (put > 0)
            done += (size_t)put;
        else if (after_failure(s, reason, error_number, deadline_us, e) < 0)
            return -1;
    }
    return 0;
}

bool tls_has_room(const struct tls_stream *s)
{
    struct pollfd p = {.fd = s->fd, .events = POLLOUT};

    return poll(&p, 1, 0) > 0;
}

void tls_cut(struct tls_stream *s)
{
    atomic_store(&s->cut, true);
    shutdown(s->fd, SHUT_RDWR);
}

bool tls_flow(const struct tls_stream *s, struct tls_flow *out)
{
    struct tcp_info told = {0};
    socklen_t size = sizeof told;

    if (getsockopt(s->fd, IPPROTO_TCP, TCP_INFO, &told, &size) < 0 || size < offsetof(struct tcp_info, tcpi_sndbuf_limited) + sizeof told.tcpi_sndbuf_limited)
        return false;
    *out = (struct tls_flow){.busy_us = (int64_t)told.tcpi_busy_time, .held_us = (int64_t)(told.tcpi_rwnd_limited + told.tcpi_sndbuf_limited), .rtt_us = told.tcpi_rtt};
    return true;
}

bool tls_is_stranded(const struct tls_stream *s)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } own = {0};
    CLEANUP(close_fd) int probe = -1;
    socklen_t size = sizeof own;

    if (getsockname(s->fd, &own.any, &size) < 0 || (own.any.sa_family != AF_INET && own.any.sa_family != AF_INET6))
        return false;
    if (own.any.sa_family == AF_INET)
        own.v4.sin_port = 0;
    else
        own.v6.sin6_port = 0;
    probe = socket(own.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return probe >= 0 && bind(probe, &own.any, size) < 0 && errno == EADDRNOTAVAIL;
}

static int connect_within(int fd, const struct sockaddr *to, socklen_t size, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int reason = 0;
    socklen_t reason_size = sizeof reason;

    if (connect(fd, to, size) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return errno;
    if (poll(&p, 1, timeout_ms) <= 0)
        return ETIMEDOUT;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &reason, &reason_size) < 0 ? errno : reason;
}

int tls_dial(const char *address, int port, int timeout_ms, struct err *e)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    bool is_v4 = inet_pton(AF_INET, address, &v4.sin_addr) == 1;
    int on = 1, reason, fd;

    if (port < 1 || port > 65535)
        return err_set(e, ERR_INVALID, "%d is no TCP port", port);
    if (!is_v4 && inet_pton(AF_INET6, address, &v6.sin6_addr) != 1)
        return err_set(e, ERR_INVALID, "\"%s\" is no IPv4 or IPv6 address", address);
    fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(e, errno, "can't make a socket");
    reason = is_v4 ? connect_within(fd, (struct sockaddr *)&v4, sizeof v4, timeout_ms)
                   : connect_within(fd, (struct sockaddr *)&v6, sizeof v6, timeout_ms);
    if (reason) {
        close(fd);
        err_errno(e, reason, "can't connect to %s port %d", address, port);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    return fd;
}
