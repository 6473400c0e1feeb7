/* The way through an HTTP proxy: what is taken as one, what it is asked, what it may answer. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/proxy.h"
#include "tap.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

static void names(void)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"https://192.0.2.1:3128", "in the clear"}, {"192.0.2.1:3128", "http://"},      {"http://192.0.2.1", "http://ADDRESS:PORT"},
        {"http://192.0.2.1:0", "1 to 65535"},       {"http://192.0.2.1:99999", "65535"}, {"http://192.0.2.1:80/x", "65535"},
        {"http://proxy.example:3128", "numeric"},   {"http://2001:db8::1:3128", "brackets"}, {"http://@192.0.2.1:1", "USER:PASSWORD"},
        {"http://user@192.0.2.1:1", "USER:PASSWORD"}, {"http://:3128", "http://ADDRESS:PORT"}, {"http://192.0.2.1:", "65535"},
    };
    struct proxy p = {.port = 7};
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        is_int(proxy_parse(bad[i].text, &p, &e), -1, "%s is refused", bad[i].text);
        ok(strstr(e.message, bad[i].says) != NULL, "in words: %s", e.message);
    }
    is_int(p.port, 7, "the output is untouched");
    is_int(proxy_parse("http://192.0.2.1:3128/", &p, &e), 0, "a proxy: %s", e.message);
    ok(strcmp(p.address, "192.0.2.1") == 0 && p.port == 3128 && !*p.login, "its address and port");
    is_int(proxy_parse("http://me:p@ss:word@[2001:db8::1]:80", &p, &e), 0, "IPv6, and a login: %s", e.message);
    ok(strcmp(p.address, "2001:db8::1") == 0 && p.port == 80 && strcmp(p.login, "me:p@ss:word") == 0, "whose password holds what it likes");
}

static void answers(void)
{
    static const struct {
        const char *text;
        int result;
        enum err_kind kind;
    } said[] = {
        {"HTTP/1.1 200 Connection established\r\n\r\n", 1, ERR_NONE}, {"HTTP/1.0 200 OK\r\nVia: 1.1 x\r\n\r\nTLS", 1, ERR_NONE},
        {"HTTP/1.1 200 OK\r\nVia", 0, ERR_NONE},                      {"HTTP/1.1 2", 0, ERR_NONE},
        {"HTTP/1.1 407 Who are you\r\n", -1, ERR_UNAUTHENTICATED},    {"HTTP/1.1 403 Forbidden\r\n\r\n", -1, ERR_DENIED},
        {"HTTP/1.1 503 No\r\n", -1, ERR_UNREACHABLE},                 {"SSH-2.0-OpenSSH_9.2\r\n", -1, ERR_PROTOCOL},
        {"HTTP/1.1 2x0 OK\r\n", -1, ERR_PROTOCOL},                    {"HTTP/1.1 099 OK\r\n", -1, ERR_PROTOCOL},
        {"HTTP/1.1 \r\n\r\n", -1, ERR_PROTOCOL},                      {"HTTP/1.1 301 Elsewhere\r\n\r\n", -1, ERR_UNREACHABLE},
    };
    char endless[PROXY_ANSWER_LIMIT];
    size_t size = sizeof endless;
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(said); i++) {
        err_clear(&e);
        size = strlen(said[i].text);
        is_int(proxy_answer(said[i].text, &size, &e), said[i].result, "answer %zu: %s", i, e.message);
        is_int(e.kind, said[i].kind, "as it is");
    }
    size = strlen(said[1].text);
    proxy_answer(said[1].text, &size, &e);
    is_int(size, strlen(said[1].text) - 3, "what follows the answer is not the proxy's");
    memset(endless, 'x', sizeof endless);
    memcpy(endless, "HTTP/1.1 200 OK\r\n", 17);
    size = sizeof endless;
    is_int(proxy_answer(endless, &size, &e), -1, "an answer without an end is not waited for: %s", e.message);
}

/* A proxy that says one thing, in two pieces, and then the first bytes of what it leads to. */
struct said {
    int listener;
    const char *first, *second;
    char asked[1024];
};

static void *speak(void *user)
{
    struct said *s = user;
    int fd = accept(s->listener, NULL, NULL);
    size_t held = 0;

    while (held < sizeof s->asked - 1 && !strstr(s->asked, "\r\n\r\n")) {
        ssize_t n = read(fd, s->asked + held, sizeof s->asked - 1 - held);

        if (n <= 0)
            break;
        held += (size_t)n;
        s->asked[held] = '\0';
    }
    if (write(fd, s->first, strlen(s->first)) > 0) {
        clock_sleep_us(50 * US_PER_MS);
        (void)!write(fd, s->second, strlen(s->second)); /* whoever heard enough is gone */
    }
    close(fd);
    return NULL;
}

static int through(struct said *s, const char *login, const char *to, struct err *e)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    struct proxy p = {.address = "127.0.0.1"};
    pthread_t thread;
    int fd;

    s->listener = socket(AF_INET, SOCK_STREAM, 0);
    MUST(bind(s->listener, (struct sockaddr *)&at, sizeof at) == 0 && listen(s->listener, 1) == 0 && getsockname(s->listener, (struct sockaddr *)&at, &size) == 0);
    p.port = ntohs(at.sin_port);
    snprintf(p.login, sizeof p.login, "%s", login);
    MUST(pthread_create(&thread, NULL, speak, s) == 0);
    fd = proxy_dial(&p, to, 7443, 5000, e);
    pthread_join(thread, NULL);
    close(s->listener);
    return fd;
}

static void dials(void)
{
    struct said open = {.first = "HTTP/1.1 200 Conn", .second = "ection established\r\nVia: x\r\n\r\nhello"}, shut = {.first = "HTTP/1.1 407 Hm\r\n", .second = "\r\n"},
                mute = {.first = "HTTP/1.1", .second = ""};
    char text[16] = "";
    struct err e = {0};
    int fd = through(&open, "user:secret", "192.0.2.10", &e);

    ok(fd >= 0, "the way is open: %s", e.message);
    is_int(recv(fd, text, sizeof text - 1, MSG_WAITALL), 5, "what comes behind the answer");
    is_str(text, "hello", "is the caller's, whole");
    close(fd);
    ok(strncmp(open.asked, "CONNECT 192.0.2.10:7443 HTTP/1.1\r\nHost: 192.0.2.10:7443\r\n", 57) == 0, "it was asked for the place");
    ok(strstr(open.asked, "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n") != NULL, "with the login (RFC 7617)");
    is_int(through(&shut, "", "2001:db8::9", &e), -1, "a proxy that wants a login");
    is_int(e.kind, ERR_UNAUTHENTICATED, "is told as such: %s", e.message);
    ok(strncmp(shut.asked, "CONNECT [2001:db8::9]:7443 HTTP/1.1\r\n", 37) == 0 && !strstr(shut.asked, "Authorization"), "IPv6 in brackets, no login where there is none");
    err_clear(&e);
    is_int(through(&mute, "", "192.0.2.10", &e), -1, "one that goes away in the midst");
    is_int(e.kind, ERR_UNREACHABLE, "leads nowhere: %s", e.message);
}

int main(void)
{
    names();
    answers();
    dials();
    return tap_done();
}
