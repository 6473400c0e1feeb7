#include "steps/boot_check.h"
#include "tap.h"

static void one(const char *text, bool is_http, const char *host, int port, const char *path, const char *wanted)
{
    struct boot_owner_check c;
    const char *at = text;

    is_int(boot_owner_next(&at, &c, NULL), 1, "\"%s\" is a check", text);
    ok(c.is_http == is_http && strcmp(c.text, wanted) == 0, "of its kind, and wants \"%s\"", c.text);
    if (is_http)
        ok(strcmp(c.host, host) == 0 && c.port == port && strcmp(c.path, path) == 0, "at %s:%d%s", c.host, c.port, c.path);
}

int main(void)
{
    static const char *const wrong[] = {"https://h/ contains x", "http://h/", "http:// contains x", "http://h:0/ contains x", "http://h:x/ contains x", "http://h/ contains ",
                                        "http://h/a b contains x", "command", "command  ", "ping h", "http://h:99999/ contains x", "http://h?x contains y"};
    static const char answer[] = "HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody";
    struct boot_owner_check c;
    const char *body;
    const char *list = " http://a/ contains x ; command true;; ";

    one("http://192.0.2.11:80/ contains web01", true, "192.0.2.11", 80, "/", "web01");
    one("http://h contains two words ", true, "h", 80, "/", "two words");
    one("http://h:8080/a?b=c contains contains x", true, "h", 8080, "/a?b=c", "contains x");
    one("command systemctl is-active nginx", false, NULL, 0, NULL, "systemctl is-active nginx");
    is_int(boot_owner_next(&list, &c, NULL), 1, "a list's first");
    is_int(boot_owner_next(&list, &c, NULL), 1, "its second");
    is_str(c.text, "true", "is the command");
    is_int(boot_owner_next(&list, &c, NULL), 0, "and its end");
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        struct err e = {0};
        const char *at = wrong[i];

        ok(boot_owner_next(&at, &c, &e) < 0 && e.kind == ERR_INVALID, "\"%s\" is refused", wrong[i]);
    }
    is_int(boot_http_status(answer, sizeof answer - 1, &body), 200, "an answer's status");
    is_str(body, "body", "and its body");
    is_int(boot_http_status(answer, 20, &body), 0, "half a head is no answer");
    is_int(boot_http_status("SSH-2.0-OpenSSH_9.2\r\n\r\n", 23, &body), 0, "nor is another protocol");
    is_int(boot_http_status("", 0, &body), 0, "nor nothing");
    return tap_done();
}
