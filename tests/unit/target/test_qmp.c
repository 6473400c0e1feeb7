/* The client against a server of our own that answers as QEMU might, and as it should not. */
#include "base/clock.h"
#include "base/file.h"
#include "target/qmp.h"
#include "tap.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define GREETING "{\"QMP\": {\"version\": {}}}\r\n"
#define HELLO "{\"return\": {}, \"id\": 1}\r\n"

struct server {
    int fd;
    const char *greeting, *first, *second; /* what it says at once, after the first request, after the second; NULL: hangs up */
};

static void *serve(void *user)
{
    struct server *s = user;
    int fd = accept(s->fd, NULL, NULL);
    const char *answers[] = {s->greeting, s->first, s->second};
    char asked[4096];

    for (size_t i = 0; i < ARRAY_COUNT(answers) && answers[i]; i++) {
        if (i > 0 && read(fd, asked, sizeof asked) <= 0)
            break;
        fd_write_all(fd, answers[i], strlen(answers[i]), NULL);
    }
    if (answers[2])
        (void)!read(fd, asked, sizeof asked); /* until the client leaves */
    close(fd);
    return NULL;
}

/* Opens and calls "query-x"; the result's text, or the kind of the failure. The folder's path is longer than a socket's address. */
static char *converse(const char *greeting, const char *first, const char *second)
{
    char folder[400] = "/tmp/slipway-qmp-XXXXXX", deep[420], path[480], *text = NULL;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct server s = {socket(AF_UNIX, SOCK_STREAM, 0), greeting, first, second};
    CLEANUP(qmp_free) struct qmp *q = NULL;
    CLEANUP(json_free) json_t *result = NULL;
    struct err e = {0};
    pthread_t thread;

    MUST(mkdtemp(folder));
    snprintf(deep, sizeof deep, "%s/%0200d", folder, 0);
    MUST(file_make_dirs(deep, 0700, NULL) == 0 && chdir(deep) == 0);
    snprintf(address.sun_path, sizeof address.sun_path, "qmp.sock");
    MUST(bind(s.fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(s.fd, 1) == 0);
    pthread_create(&thread, NULL, serve, &s);
    if (qmp_open(deep, "qmp.sock", 1000, &q, &e) == 0 && qmp_call(q, "query-x", json_pack("{s:i}", "a", 1), 1000, &result, &e) == 0)
        text = json_text(result);
    qmp_free(&q);
    pthread_join(thread, NULL);
    close(s.fd);
    snprintf(path, sizeof path, "%s/qmp.sock", deep);
    unlink(path), rmdir(deep), rmdir(folder);
    return text ? text : xasprintf("%s", err_meaning(e.kind)->name);
}

#define LONG_LINE "{\"return\": \"%0*d\", \"id\": 2}\n"

int main(void)
{
    static const struct {
        const char *greeting, *first, *second, *wanted, *what;
    } table[] = {
        {GREETING, HELLO, "{\"return\": {\"x\": 1}, \"id\": 2}\r\n", "{\"x\":1}", "an answer"},
        {GREETING, "{\"event\": \"RESUME\"}\n" HELLO, "{\"event\": \"STOP\"}\r\n{\"return\": [], \"id\": 2}\n", "[]", "events in between"},
        {GREETING, HELLO, "{\"return\": 7, \"id\": 1}\n{\"return\": 8, \"id\": 2}\n", "8", "an answer that came too late"},
        {GREETING, HELLO, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 2}\n", "io", "a refusal"},
        {GREETING, HELLO, "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"no\"}, \"id\": 2}\n", "not_found", "no such device"},
        {GREETING, HELLO, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}, \"id\": 2}\n", "unsupported", "no such command"},
        {GREETING, HELLO, "{\"error\": 1, \"id\": 2}\n", "io", "a refusal without words"},
        {GREETING, HELLO, "{\"return\": {}, \"id\": 2", "timeout", "half a line"},
        {GREETING, HELLO, "{\"nothing\": 1}\n", "protocol", "an object of no kind"},
        {GREETING, HELLO, "[]\n", "protocol", "no object"},
        {GREETING, HELLO, "}\n", "protocol", "no JSON"},
        {GREETING, HELLO, NULL, "unreachable", "a connection that ends"},
        {GREETING, NULL, NULL, "unreachable", "a connection that ends early"},
        {"{\"return\": {}}\n", HELLO, NULL, "protocol", "a greeting that is none"},
        {"\r\n" GREETING, HELLO, "\n\n{\"return\": true, \"id\": 2}\n", "true", "empty lines"},
    };
    CLEANUP(buf_release) struct buf line = {.limit_bytes = QMP_LINE_LIMIT_BYTES};
    CLEANUP(free_ptr) char *much = xmalloc(QMP_LINE_LIMIT_BYTES + 1000);
    CLEANUP(json_free) json_t *out = NULL;
    enum qmp_kind kind;
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(table); i++) {
        CLEANUP(free_ptr) char *got = converse(table[i].greeting, table[i].first, table[i].second);

        is_str(got, table[i].wanted, "%s", table[i].what);
    }
    memset(much, 'x', QMP_LINE_LIMIT_BYTES + 1000);
    buf_add(&line, much, QMP_LINE_LIMIT_BYTES + 1000);
    ok(qmp_take(&line, &out, &kind, &e) < 0 && e.kind == ERR_PROTOCOL, "a line without end is refused, not held");
    is_int(qmp_open("/nonexistent", "qmp.sock", 100, &(struct qmp *){NULL}, NULL), -1, "a folder that isn't there");
    return tap_done();
}
