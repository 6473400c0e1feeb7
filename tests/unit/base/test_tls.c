/* Mutual TLS over a socket pair, with certificates made here. */
#include "base/clock.h"
#include "base/tls.h"
#include "tap.h"
#include "testca.h"

#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

struct side {
    const struct tls_context *context;
    int fd;
    const char *prefix;
    struct tls_stream *stream;
    struct err e;
    int result;
};

/* As the kernel tells it. */
static bool has_aes(void)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[8192];
    bool found = false;

    while (file && !found && fgets(line, sizeof line, file))
        found = (strncmp(line, "flags", 5) == 0 && strstr(line, " aes ") && strstr(line, " pclmulqdq ")) || (strncmp(line, "Features", 8) == 0 && strstr(line, " aes "));
    if (file)
        fclose(file);
    return found;
}

static void *shake(void *user)
{
    struct side *s = user;

    s->result = tls_open(s->context, s->fd, s->prefix, 3000, &s->stream, &s->e);
    return NULL;
}

static void connect_both(struct side *client, struct side *server)
{
    pthread_t thread;
    int pair[2];

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    client->fd = pair[0];
    server->fd = pair[1];
    MUST(pthread_create(&thread, NULL, shake, server) == 0);
    shake(client);
    pthread_join(thread, NULL);
}

static void *echo(void *user)
{
    struct tls_stream *s = user;
    static char block[100000];
    int64_t got;

    while ((got = tls_read(s, block, sizeof block, 5000, NULL)) > 0)
        if (tls_write_all(s, block, (size_t)got, 5000, NULL) < 0)
            break;
    return NULL;
}

struct feed {
    struct tls_stream *stream;
    size_t total;
};

static void *feed_pattern(void *user)
{
    struct feed *f = user;
    uint8_t block[4096];

    for (size_t at = 0; at < f->total; at += sizeof block) {
        for (size_t i = 0; i < sizeof block; i++)
            block[i] = (uint8_t)((at + i) * 31 >> 3);
        if (tls_write_all(f->stream, block, sizeof block, 5000, NULL) < 0)
            break;
    }
    return NULL;
}

/* One thread writes while another reads on the same stream: 16 MiB there and back through an echo. */
static void test_both_ways(struct tls_stream *client, struct tls_stream *server)
{
    struct feed feed = {client, 16u << 20};
    pthread_t echoing, feeding;
    uint8_t got[4096];
    bool same = true;

    MUST(pthread_create(&echoing, NULL, echo, server) == 0 && pthread_create(&feeding, NULL, feed_pattern, &feed) == 0);
    for (size_t at = 0; same && at < feed.total; at += sizeof got) {
        same = tls_read_all(client, got, sizeof got, 5000, NULL) == 1;
        for (size_t i = 0; same && i < sizeof got; i++)
            same = got[i] == (uint8_t)((at + i) * 31 >> 3);
    }
    ok(same, "16 MiB go out and come back while both directions move");
    pthread_join(feeding, NULL);
    tls_cut(client);
    pthread_join(echoing, NULL);
}

struct listening {
    struct side side;
    int listener;
};

static void *accept_one(void *user)
{
    struct listening *l = user;

    l->side.fd = accept(l->listener, NULL, NULL);
    return shake(&l->side);
}

/* In a network namespace of its own: a connection whose address is taken away. */
static void test_stranded(const struct tls_context *agent, const struct tls_context *replicator)
{
    struct listening server = {.side = {.context = replicator, .prefix = "agent:"}};
    struct sockaddr_in any = {.sin_family = AF_INET};
    socklen_t size = sizeof any;
    struct tls_stream *client = NULL;
    pthread_t thread;
    struct err e = {0};

    if (unshare(CLONE_NEWNET) < 0 || system("ip link set lo up && ip addr add 192.0.2.1/32 dev lo && ip addr add 192.0.2.2/32 dev lo") != 0) {
        ok(1, "a stranded connection # SKIP needs root and ip(8)");
        return;
    }
    server.listener = socket(AF_INET, SOCK_STREAM, 0);
    MUST(bind(server.listener, (struct sockaddr *)&any, sizeof any) == 0 && listen(server.listener, 1) == 0 &&
         getsockname(server.listener, (struct sockaddr *)&any, &size) == 0);
    MUST(pthread_create(&thread, NULL, accept_one, &server) == 0);
    is_int(tls_open(agent, tls_dial("192.0.2.1", ntohs(any.sin_port), 3000, &e), "replicator:", 3000, &client, &e), 0, "connected: %s", e.message);
    pthread_join(thread, NULL);
    ok(!tls_is_stranded(client), "it stands on an address of this machine");
    MUST(system("ip addr del 192.0.2.2/32 dev lo") == 0);
    ok(!tls_is_stranded(client), "another address may go");
    MUST(system("ip addr del 192.0.2.1/32 dev lo") == 0);
    ok(tls_is_stranded(client), "its own may not");
    tls_close(&client);
    tls_close(&server.side.stream);
    close(server.listener);
}

int main(void)
{
    struct test_ca ca, other;
    struct err e = {0};
    CLEANUP(tls_context_free) struct tls_context *agent = NULL, *replicator = NULL, *stranger = NULL, *mixed = NULL;
    char *agent_pem[2], *replicator_pem[2], *stranger_pem[2];

    signal(SIGPIPE, SIG_IGN);
    test_ca_make(&ca);
    test_ca_make(&other);
    test_ca_sign(&ca, "agent:web01", agent_pem);
    test_ca_sign(&ca, "replicator:r1", replicator_pem);
    test_ca_sign(&other, "agent:web01", stranger_pem);
    is_int(tls_context_new(TLS_CLIENT, agent_pem[0], agent_pem[1], ca.pem, &agent, &e), 0, "a client's context");
    is_int(tls_context_new(TLS_SERVER, replicator_pem[0], replicator_pem[1], ca.pem, &replicator, &e), 0, "a server's context");
    is_int(tls_context_new(TLS_CLIENT, stranger_pem[0], stranger_pem[1], ca.pem, &stranger, &e), 0, "a stranger's context");
    is_int(tls_context_new(TLS_CLIENT, agent_pem[0], replicator_pem[1], ca.pem, &mixed, &e), -1, "another's key is refused");
    is_int(tls_context_new(TLS_CLIENT, "rubbish", agent_pem[1], ca.pem, &mixed, &e), -1, "rubbish is refused");
    {
        struct side client = {.context = agent, .prefix = "replicator:"}, server = {.context = replicator, .prefix = "agent:"};

        connect_both(&client, &server);
        ok(client.result == 0 && server.result == 0, "both shake hands: %s %s", client.e.message, server.e.message);
        ok(strspn(tls_peer_serial(server.stream), "0123456789abcdef") == strlen(tls_peer_serial(server.stream)) && *tls_peer_serial(server.stream),
           "the other end's certificate has a number: %s", tls_peer_serial(server.stream));
        is_str(tls_cipher(client.stream), has_aes() ? "TLS_AES_256_GCM_SHA384" : "TLS_CHACHA20_POLY1305_SHA256", "sealed with what this processor is quick at");
        is_str(tls_peer_name(client.stream), "replicator:r1", "the client knows the server's name");
        is_str(tls_peer_name(server.stream), "agent:web01", "the server knows the client's name");
        is_int(tls_read(client.stream, (char[4]){0}, 4, 50, &e), -1, "nothing to read");
        is_int(e.kind, ERR_TIMEOUT, "is a time-out");
        test_both_ways(client.stream, server.stream);
        tls_close(&client.stream);
        tls_close(&server.stream);
    }
    {
        struct side client = {.context = agent, .prefix = "runner:"}, server = {.context = replicator, .prefix = "agent:"};

        connect_both(&client, &server);
        is_int(client.e.kind, ERR_DENIED, "another role than expected is denied");
        tls_close(&server.stream);
    }
    {
        struct side client = {.context = stranger, .prefix = "replicator:"}, server = {.context = replicator, .prefix = "agent:"};

        connect_both(&client, &server);
        is_int(server.e.kind, ERR_UNAUTHENTICATED, "another CA's certificate is refused: %s", server.e.message);
        err_clear(&e);
        ok(client.result == 0 && tls_write_all(client.stream, "x", 1, 1000, &e) < 0 && strstr(e.message, "alert"),
           "whoever shows it has shaken hands before, and is told why where it writes: %s", e.message);
        tls_close(&client.stream);
    }
    test_stranded(agent, replicator);
    is_int(tls_dial("example", 1, 100, &e), -1, "a name is no address");
    is_int(tls_dial("127.0.0.1", 70000, 100, &e), -1, "70000 is no port");
    for (int i = 0; i < 2; i++) {
        free(agent_pem[i]);
        free(replicator_pem[i]);
        free(stranger_pem[i]);
    }
    test_ca_release(&ca);
    test_ca_release(&other);
    return tap_done();
}
