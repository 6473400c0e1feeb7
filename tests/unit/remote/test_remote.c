#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/net.h"
#include "base/proc.h"
#include "remote/remote.h"
#include "tap.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* What sshd_world.sh told. */
static char folder[] = "/tmp/slipway-remote-XXXXXX";
static int port_main, port_changed, port_interactive;
static char key_main[REMOTE_HOST_KEY_SIZE], key_other[REMOTE_HOST_KEY_SIZE];
static FILE *world_in;
static pid_t world;

static bool start_world(const char *script)
{
    int in[2], out[2];
    char line[256] = "";

    if (!mkdtemp(folder) || pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || (world = fork()) < 0)
        exit(99);
    if (world == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        execl(script, script, folder, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    world_in = fdopen(in[1], "w");
    CLEANUP(close_file) FILE *told = fdopen(out[0], "r");
    while (fgets(line, sizeof line, told) && strcmp(line, "ready\n") != 0) {
        sscanf(line, "main=%d", &port_main);
        sscanf(line, "changed=%d", &port_changed);
        sscanf(line, "interactive=%d", &port_interactive);
        sscanf(line, "key_main=%63s", key_main);
        sscanf(line, "key_other=%63s", key_other);
    }
    return strcmp(line, "ready\n") == 0;
}

static char *file_text(const char *name)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s", folder, name);
    struct buf text = {0};

    if (file_read(path, 100000, &text, NULL) < 0)
        exit(98);
    return buf_take(&text);
}

static struct remote_options as(const char *user, const char *key, const char *password)
{
    return (struct remote_options){.address = "127.0.0.1", .port = port_main, .user = user, .private_key = key, .password = password,
                                   .host_key = key_main, .timeout_ms = 60000};
}

static void logs_in(void)
{
    CLEANUP(free_ptr) char *key = file_text("user_key"), *rsa = file_text("rsa_key");
    const struct {
        const char *name, *user, *key, *password;
        bool interactive;
    } ways[] = {{"an ed25519 key", "root", key, NULL, false}, {"an RSA key in PEM", "bert", rsa, NULL, false},
                {"a password", "anna", NULL, "correct horse", false}, {"a password that is asked for", "anna", NULL, "correct horse", true},
                {"a key, though a password is there, too", "bert", key, "wrong", false}};

    for (size_t i = 0; i < ARRAY_COUNT(ways); i++) {
        CLEANUP(remote_close) struct remote *r = NULL;
        CLEANUP(buf_release) struct buf out = {0};
        struct remote_options o = as(ways[i].user, ways[i].key, ways[i].password);
        struct err e = {0};

        o.port = ways[i].interactive ? port_interactive : port_main;
        if (!ok(remote_open(&o, &r, &e) == 0, "logs in with %s: %s", ways[i].name, e.message))
            continue;
        is_str(remote_host_key(r), key_main, "its host key");
        is_int(remote_must(r, "id -un", &out, 60000, &e), 0, "runs a command: %s", e.message);
        out.data[strcspn(out.data, "\n")] = '\0';
        is_str(out.data, ways[i].user, "as that user");
    }
}

static void refusals(void)
{
    CLEANUP(free_ptr) char *stranger = file_text("stranger_key"), *locked = file_text("locked_key"), *key = file_text("user_key");
    const struct {
        const char *name, *user, *key, *password;
        int *port;
        const char *host_key;
        enum err_kind kind;
        const char *words;
    } cases[] = {
        {"a key that is not allowed", "root", stranger, NULL, &port_main, key_main, ERR_UNAUTHENTICATED, "refused the login with this key"},
        {"a wrong password", "anna", NULL, "wrong", &port_main, key_main, ERR_UNAUTHENTICATED, "password"},
        {"a wrong password that is asked for", "anna", NULL, "wrong", &port_interactive, key_main, ERR_UNAUTHENTICATED, "password"},
        {"no credential", "anna", NULL, NULL, &port_main, key_main, ERR_UNAUTHENTICATED, "nothing"},
        {"a key with a passphrase", "root", locked, NULL, &port_main, key_main, ERR_INVALID, "without a passphrase"},
        {"text that is no key", "root", "-----BEGIN", NULL, &port_main, key_main, ERR_INVALID, "can't be read"},
        {"a changed host key", "root", key, NULL, &port_changed, key_main, ERR_DENIED, "changed host key"},
        {"an unknown host key", "root", key, NULL, &port_main, NULL, ERR_DENIED, "not known yet"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct remote_options o = as(cases[i].user, cases[i].key, cases[i].password);
        struct remote *r = (struct remote *)&o; /* anything: must stay */
        struct err e = {0};

        o.port = *cases[i].port;
        o.host_key = cases[i].host_key;
        is_int(remote_open(&o, &r, &e), -1, "%s is refused", cases[i].name);
        is_str(err_meaning(e.kind)->name, err_meaning(cases[i].kind)->name, "by its kind");
        ok(strstr(e.message, cases[i].words), "in words: %s", e.message);
        ok(r == (struct remote *)&o, "the output is untouched");
        if (cases[i].kind == ERR_DENIED && cases[i].host_key)
            ok(strstr(e.message, key_main) && strstr(e.message, key_other), "with both fingerprints");
    }
}

/* A password must never have gone out to a machine whose key is not the pinned one. */
static void host_keys(void)
{
    CLEANUP(free_ptr) char *key = file_text("user_key"), *log_before = file_text("log_changed"), *log_after = NULL;
    CLEANUP(remote_close) struct remote *r = NULL;
    struct remote_options o = as("anna", NULL, "correct horse");
    char seen[REMOTE_HOST_KEY_SIZE] = "";
    struct err e = {0};

    o.port = port_changed;
    is_int(remote_open(&o, &r, &e), -1, "a changed key ends it");
    log_after = file_text("log_changed");
    ok(!strstr(log_after + strlen(log_before), "assword") && !strstr(log_after + strlen(log_before), "Accepted"), "before any login");
    o.port = port_main;
    o.host_key = NULL;
    is_int(remote_scan(&o, seen, &e), 0, "a scan reads the key");
    is_str(seen, key_main, "without logging in");
    o = as("root", key, NULL);
    o.host_key = NULL;
    o.accept_unknown = true;
    is_int(remote_open(&o, &r, &e), 0, "an unknown key is taken where that is allowed");
    is_str(remote_host_key(r), key_main, "and told");
    remote_close(&r);
    o.port = port_changed;
    o.host_key = key_main;
    is_int(remote_open(&o, &r, &e), -1, "but never a changed one");
}

static void commands(void)
{
    CLEANUP(free_ptr) char *key = file_text("user_key");
    CLEANUP(remote_close) struct remote *r = NULL;
    CLEANUP(buf_release) struct buf out = {0}, err = {0}, small = {0};
    struct remote_options o = as("root", key, NULL);
    static char much[3 << 20];
    struct err e = {0};
    int status = -1;

    is_int(remote_open(&o, &r, &e), 0, "open: %s", e.message);
    is_int(remote_run(r, "cat; echo no >&2; exit 7", "stdin\n", 6, &out, &err, &status, 60000, &e), 0, "a command that fails is no error");
    is_int(status, 7, "its exit status");
    is_str(out.data, "stdin\n", "its stdin and stdout");
    is_str(err.data, "no\n", "its stderr");
    is_int(remote_must(r, "echo because >&2; exit 3", NULL, 60000, &e), -1, "remote_must wants success");
    ok(strstr(e.message, "because"), "and says why: %s", e.message);
    is_int(remote_run(r, "exec sh -c 'kill -KILL $$'", NULL, 0, NULL, NULL, &status, 60000, &e), 0, "a command that is killed: %s", e.message);
    is_int(status, 128 + 9, "gives 128 and the signal");
    memset(much, 'x', sizeof much);
    buf_release(&out);
    is_int(remote_run(r, "cat", much, sizeof much, &out, NULL, &status, 90000, &e), 0, "3 MiB in and out: %s", e.message);
    ok(out.size_bytes == sizeof much && memcmp(out.data, much, sizeof much) == 0, "come back whole");
    is_int(remote_run(r, "exit 4", much, sizeof much, NULL, NULL, &status, 60000, &e), 0, "a command that reads nothing");
    is_int(status, 4, "holds nobody");
    int64_t begin = clock_monotonic_us();
    status = -1;
    is_int(remote_run(r, "sleep 60", NULL, 0, NULL, NULL, &status, 700, &e), -1, "a command that hangs");
    is_int(e.kind, ERR_TIMEOUT, "is timed out: %s", e.message);
    ok(clock_monotonic_us() - begin < 20 * US_PER_S && status == -1, "in time");
    buf_init(&small, 100000);
    is_int(remote_run(r, "yes", NULL, 0, &small, NULL, &status, 60000, &e), -1, "a command that never stops talking");
    is_int(e.kind, ERR_LIMIT, "is over a limit");
    is_int(remote_run(r, "true", NULL, 0, NULL, NULL, &status, 60000, &e), 0, "the connection lives: %s", e.message);
    is_int(status, 0, "and works");
    clock_sleep_us(5000000); /* timeout(1) there, and its grace */
    buf_release(&out);
    is_int(remote_run(r, "pgrep -x yes; pgrep -fx 'sleep 60'; true", NULL, 0, &out, NULL, &status, 60000, &e), 0, "what was given up");
    ok(!out.data || !*out.data, "is gone there, too: %s", out.data ? out.data : "");
    is_int(remote_run(r, "sleep 20 & exit 5", NULL, 0, NULL, NULL, &status, 60000, &e), 0, "a daemon left behind: %s", e.message);
    is_int(status, 5, "holds nobody either");
    buf_release(&out);
    is_int(remote_run(r, "(sleep 3; echo late) & exit 6", NULL, 0, &out, NULL, &status, 60000, &e), 0, "output that comes after the exit status: %s", e.message);
    ok(status == 6 && out.data && strcmp(out.data, "late\n") == 0, "is waited for");
    is_int(remote_run(r, "echo begun; sleep 20 & exit 0", NULL, 0, &out, NULL, &status, 5000, &e), -1, "where its end does not come");
    is_int(e.kind, ERR_TIMEOUT, "what was read is not taken for all: %s", e.message);
}

static void root_rights(void)
{
    CLEANUP(free_ptr) char *key = file_text("user_key");
    const struct {
        const char *user, *password, *sudo_password;
        enum remote_sudo sudo;
        int result;
        enum err_kind kind;
    } cases[] = {{"root", NULL, NULL, REMOTE_SUDO_NONE, 0, ERR_NONE},
                 {"bert", NULL, NULL, REMOTE_SUDO_NOPASSWD, 0, ERR_NONE},
                 {"anna", "correct horse", NULL, REMOTE_SUDO_PASSWORD, 0, ERR_NONE},
                 {"bert", NULL, "unneeded", REMOTE_SUDO_PASSWORD, 0, ERR_NONE},
                 {"anna", "correct horse", NULL, REMOTE_SUDO_NOPASSWD, -1, ERR_DENIED},
                 {"anna", "correct horse", "wrong", REMOTE_SUDO_PASSWORD, -1, ERR_DENIED},
                 {"carl", NULL, NULL, REMOTE_SUDO_NOPASSWD, -1, ERR_DENIED},
                 {"anna", "correct horse", NULL, REMOTE_SUDO_NONE, -1, ERR_DENIED}};

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        CLEANUP(remote_close) struct remote *r = NULL;
        CLEANUP(buf_release) struct buf out = {0};
        struct remote_options o = as(cases[i].user, cases[i].password ? NULL : key, cases[i].password);
        struct err e = {0};
        int status = -1;

        o.sudo = cases[i].sudo;
        o.sudo_password = cases[i].sudo_password;
        is_int(remote_open(&o, &r, &e), 0, "%s: open: %s", cases[i].user, e.message);
        for (int again = 0; again < 2; again++) {
            buf_release(&out);
            is_int(remote_run_root(r, "id -u; cat; echo it\\'s", "input\n", 6, &out, NULL, &status, 60000, &e), cases[i].result,
                   "%s: as root: %s", cases[i].user, e.message);
            if (cases[i].result == 0)
                is_str(out.data, "0\ninput\nit's\n", "the command saw its input, and no password");
            else
                is_int(e.kind, cases[i].kind, "refused: %s", e.message);
        }
    }
}

static void files(void)
{
    CLEANUP(remote_close) struct remote *r = NULL;
    CLEANUP(buf_release) struct buf out = {0}, read_back = {0};
    CLEANUP(free_ptr) char *path = xasprintf("%s/it's a file", folder), *quoted = remote_quote(path);
    CLEANUP(free_ptr) char *stat = xasprintf("stat -c '%%U %%a' %s; ls %s.* 2>/dev/null; true", quoted, quoted), *none = xasprintf("%s/none/file", folder);
    struct remote_options o = as("anna", NULL, "correct horse");
    static char bytes[1200000];
    struct err e = {0};

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i * 31 >> 3);
    o.sudo = REMOTE_SUDO_PASSWORD;
    is_int(remote_open(&o, &r, &e), 0, "open: %s", e.message);
    is_int(remote_put_root(r, path, bytes, sizeof bytes, 0750, 60000, &e), 0, "a file is put: %s", e.message);
    is_int(remote_must_root(r, stat, NULL, 0, &out, 60000, &e), 0, "and is there");
    is_str(out.data, "root 750\n", "root's, with its mode, and nothing beside it");
    is_int(file_read(path, sizeof bytes, &read_back, &e), 0, "read back");
    ok(read_back.size_bytes == sizeof bytes && memcmp(read_back.data, bytes, sizeof bytes) == 0, "every byte of it");
    is_int(remote_put_root(r, path, "", 0, 0600, 60000, &e), 0, "an empty one over it: %s", e.message);
    is_int(remote_put_root(r, none, "x", 1, 0600, 60000, &e), -1, "none in a folder that is missing");
    ok(strstr(e.message, "can't write"), "which is said: %s", e.message);
}

static int descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int count = 0;

    while (readdir(d))
        count++;
    closedir(d);
    return count;
}

static void through_others(void)
{
    CLEANUP(free_ptr) char *key = file_text("user_key");
    CLEANUP(remote_close) struct remote *r = NULL;
    CLEANUP(buf_release) struct buf out = {0};
    struct remote_options jump = as("bert", key, NULL), o = as("root", key, NULL);
    static char much[2 << 20];
    struct err e = {0};
    int status, before = descriptors();

    o.port = port_changed;
    o.host_key = key_other;
    o.jump = &jump;
    is_int(remote_open(&o, &r, &e), 0, "through a jump host: %s", e.message);
    is_str(remote_host_key(r), key_other, "to the machine behind it");
    memset(much, 'y', sizeof much);
    is_int(remote_run(r, "cat", much, sizeof much, &out, NULL, &status, 90000, &e), 0, "2 MiB there and back: %s", e.message);
    ok(out.size_bytes == sizeof much && memcmp(out.data, much, sizeof much) == 0, "whole");
    remote_close(&r);
    is_int(descriptors(), before, "nothing stays open");
    jump.host_key = key_other;
    is_int(remote_open(&o, &r, &e), -1, "a jump host whose key changed");
    ok(e.kind == ERR_DENIED && strstr(e.message, "jump host"), "is denied: %s", e.message);
    jump.host_key = key_main;
    o.port = 1;
    is_int(remote_open(&o, &r, &e), -1, "a port that is closed behind it");
    is_int(e.kind, ERR_UNREACHABLE, "is unreachable: %s", e.message);
    is_int(remote_answers(&o, &e), 1, "but the machine answers: it refuses");
    o.address = "255.255.255.255"; /* no network says that it leads there */
    o.timeout_ms = 2000;
    is_int(remote_answers(&o, &e), 0, "one that is nowhere does not: %s", e.message);
    jump.host_key = key_other;
    is_int(remote_answers(&o, &e), -1, "and where the jump host is another one nobody can tell: %s", e.message);
    is_int(descriptors(), before, "nothing stays open");

    o = as("root", key, NULL);
    o.fd = net_connect("127.0.0.1", port_main, NULL, 5000, &e);
    o.address = "203.0.113.9"; /* only a name now */
    is_int(remote_open(&o, &r, &e), 0, "over a socket that is given: %s", e.message);
    remote_close(&r);
    o.host_key = key_other;
    o.fd = net_connect("127.0.0.1", port_main, NULL, 5000, &e);
    is_int(remote_open(&o, &r, &e), -1, "refused over one");
    is_int(descriptors(), before, "it is closed in any case");
}

static bool yes(void *user) { return user != NULL; }

static void silence(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    CLEANUP(close_fd) int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CLEANUP(remote_close) struct remote *r = NULL;
    struct remote_options o = as("root", NULL, "x");
    int64_t begin = clock_monotonic_us();
    struct err e = {0};

    ok(bind(listener, (struct sockaddr *)&at, sizeof at) == 0 && listen(listener, 8) == 0 && getsockname(listener, (struct sockaddr *)&at, &size) == 0,
       "a server that never speaks");
    o.port = ntohs(at.sin_port);
    o.timeout_ms = 600;
    is_int(remote_open(&o, &r, &e), -1, "is given up");
    is_int(e.kind, ERR_TIMEOUT, "as a time-out: %s", e.message);
    ok(clock_monotonic_us() - begin < 20 * US_PER_S, "in time");
    o.timeout_ms = 60000;
    o.cancelled = yes;
    o.user_data = &e;
    is_int(remote_open(&o, &r, &e), -1, "and at once when cancelled");
    is_int(e.kind, ERR_CANCELLED, "which it says");
    close(listener);
    listener = -1;
    o.cancelled = NULL;
    is_int(remote_open(&o, &r, &e), -1, "a closed port");
    is_int(e.kind, ERR_UNREACHABLE, "is unreachable: %s", e.message);
}

int main(int argc, char **argv)
{
    const char *const remove[] = {"rm", "-rf", folder, NULL};

    if (geteuid() != 0) {
        printf("1..0 # SKIP sshd with users of its own needs root\n");
        return 0;
    }
    if (ok(argc > 1 && start_world(argv[1]), "the sshds are up")) {
        logs_in();
        refusals();
        host_keys();
        commands();
        root_rights();
        files();
        through_others();
        silence();
    }
    fclose(world_in);
    waitpid(world, NULL, 0);
    is_int(proc_must(&(struct proc_options){.argv = remove}, NULL, NULL), 0, "cleaned up");
    return tap_done();
}
