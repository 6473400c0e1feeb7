/* Against the demo's NetBox on loopback and a program of an owner's: what holds, and every way in which it must fail closed. */
#include "base/file.h"
#include "cmdb/cmdb.h"
#include "tap.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/slipway-cmdb-XXXXXX";
static const struct cmdb_note note = {.mark = "Retired by Slipway, run r1", .text = "Disk a: the same."};

static pid_t start_server(const char *script, int *port, int *hold)
{
    int in[2], out[2];
    pid_t pid;
    char text[16] = "";

    if (pipe(in) < 0 || pipe(out) < 0)
        return -1;
    pid = fork();
    if (pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        close(in[1]);
        close(out[0]);
        execl("/usr/bin/python3", "python3", script, folder, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    for (size_t i = 0; i + 1 < sizeof text && read(out[0], text + i, 1) == 1 && text[i] != '\n'; i++)
        text[i + 1] = '\0';
    close(out[0]);
    *port = atoi(text);
    *hold = in[1];
    return pid;
}

static struct cmdb *netbox(int port, const char *token)
{
    CLEANUP(json_free) json_t *settings = json_object();
    CLEANUP(free_ptr) char *url = xasprintf("http://127.0.0.1:%d/", port);
    struct cmdb *c = NULL;
    struct err e = {0};

    json_object_set_new(settings, "kind", json_string("netbox"));
    json_object_set_new(settings, "url", json_string(url));
    ok(cmdb_open(settings, token, &c, &e) == 0, "NetBox opens %s", e.message);
    return c;
}

static void finds_and_retires(int port)
{
    CLEANUP(cmdb_close) struct cmdb *c = netbox(port, "sesame");
    CLEANUP(buf_release) struct buf evidence = {0}, state = {0};
    CLEANUP(free_ptr) char *path = xasprintf("%s/cmdb.json", folder);
    struct cmdb_record record, after;
    struct err e = {0};

    is_int(cmdb_check(c, &evidence, &e), 0, "it answers: %s", evidence.data ? evidence.data : e.message);
    is_int(cmdb_find(c, "db01", NULL, &record, &e), 0, "db01 is found by name %s", e.message);
    is_str(record.status, "active", "as active");
    is_int(cmdb_retire(c, &record, &note, &after, &e), 0, "it is retired %s", e.message);
    is_str(after.status, "decommissioning", "and says so");
    is_int(cmdb_retire(c, &after, &note, &after, &e), 0, "retiring it again is fine");
    is_int(file_read(path, 1 << 20, &state, &e), 0, "what NetBox holds");
    ok(strstr(state.data, note.text), "has the evidence");
    ok(!strstr(strstr(state.data, note.text) + 1, note.text), "once");
    is_int(cmdb_find(c, "db01", record.id, &after, &e), 0, "it is found by its id, too, still there");
    is_int(cmdb_find(c, "dc-router", NULL, &record, &e), 0, "a device is found");
    is_str(record.kind, "dcim/devices", "as a device");
    is_int(cmdb_find(c, "dc-router", "dcim/devices/7", &record, &e), 0, "and by its table and id");
}

static void fails_closed(int port)
{
    CLEANUP(cmdb_close) struct cmdb *c = netbox(port, "sesame"), *stranger = netbox(port, "wrong"), *nobody = netbox(1, "sesame");
    CLEANUP(buf_release) struct buf evidence = {0};
    struct cmdb_record record = {.id = "untouched"};
    struct err e = {0};

    is_int(cmdb_find(c, "web99", NULL, &record, &e), -1, "a record that isn't there");
    is_int(e.kind, ERR_NOT_FOUND, "is not found");
    is_int(cmdb_find(c, "twins", NULL, &record, &e), -1, "a name that two records have");
    is_int(e.kind, ERR_CONFLICT, "is a conflict");
    is_int(cmdb_find(c, "broken-1", NULL, &record, &e), -1, "a server error");
    is_int(e.kind, ERR_UNREACHABLE, "is not an empty list");
    is_int(cmdb_find(c, "web01", "7777", &record, &e), -1, "an id that isn't there");
    is_int(cmdb_find(c, "db01", "102", &record, &e), -1, "an id of another machine");
    is_int(e.kind, ERR_CONFLICT, "is a conflict: %s", e.message);
    is_int(cmdb_find(c, "web01", "../status", &record, &e), -1, "an id that is a path");
    is_int(cmdb_check(stranger, &evidence, &e), -1, "a wrong token");
    is_int(e.kind, ERR_DENIED, "is denied: %s", e.message);
    is_int(cmdb_check(nobody, &evidence, &e), -1, "nobody listens");
    is_int(e.kind, ERR_UNREACHABLE, "unreachable");
    is_str(record.id, "untouched", "and nothing was written to the output");
}

static struct cmdb *program(const char *how)
{
    CLEANUP(free_ptr) char *script = xasprintf("%s/tests/unit/cmdb/program.py", getenv("SOURCE_ROOT"));
    CLEANUP(json_free) json_t *settings = json_pack("{s:s, s:[s,s,s]}", "kind", "program", "command", "/usr/bin/python3", script, how);
    struct cmdb *c = NULL;
    struct err e = {0};

    ok(cmdb_open(settings, "sesame", &c, &e) == 0, "the program opens %s", e.message);
    return c;
}

static void programs(void)
{
    static const struct {
        const char *how;
        enum err_kind kind;
    } bad[] = {{"short", ERR_PROTOCOL}, {"error", ERR_UNREACHABLE}, {"exits", ERR_IO}};
    CLEANUP(cmdb_close) struct cmdb *good = program("good"), *keeps = program("keeps");
    struct cmdb_record record, after;
    struct err e = {0};

    is_int(cmdb_find(good, "db01", NULL, &record, &e), 0, "a program finds a record %s", e.message);
    is_int(cmdb_retire(good, &record, &note, &after, &e), 0, "and retires it %s", e.message);
    is_int(cmdb_retire(keeps, &record, &note, &after, &e), -1, "one that leaves it active has failed");
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        CLEANUP(cmdb_close) struct cmdb *c = program(bad[i].how);

        is_int(cmdb_find(c, "db01", NULL, &record, &e), -1, "a program that is %s", bad[i].how);
        is_int(e.kind, bad[i].kind, "fails: %s", e.message);
    }
}

static void settings_are_checked(void)
{
    static const char *const bad[] = {"{}", "{\"kind\":\"excel\"}", "{\"kind\":\"netbox\"}", "{\"kind\":\"netbox\",\"url\":\"ftp://x\"}",
                                      "{\"kind\":\"program\",\"command\":[]}", "{\"kind\":\"program\",\"command\":[\"sh\"]}", "{\"kind\":\"program\",\"command\":[\"/bin/sh\",3]}"};

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        CLEANUP(json_free) json_t *settings = NULL;
        CLEANUP(cmdb_close) struct cmdb *c = NULL;
        struct err e = {0};

        ok(json_read(bad[i], strlen(bad[i]), &settings, &e) == 0 && cmdb_open(settings, "t", &c, &e) < 0 && !c, "%s is refused: %s", bad[i], e.message);
    }
}

int main(void)
{
    CLEANUP(free_ptr) char *script = xasprintf("%s/tests/unit/cmdb/netbox_server.py", getenv("SOURCE_ROOT"));
    CLEANUP(free_ptr) char *state = NULL;
    int port = 0, hold = -1;
    pid_t server;

    if (!mkdtemp(folder))
        return 1;
    state = xasprintf("%s/cmdb.json", folder);
    server = start_server(script, &port, &hold);
    if (ok(server > 0 && port > 0, "the test's NetBox is up")) {
        finds_and_retires(port);
        fails_closed(port);
    }
    programs();
    settings_are_checked();
    close(hold);
    kill(server, SIGTERM);
    waitpid(server, NULL, 0);
    unlink(state);
    ok(rmdir(folder) == 0, "nothing else was left behind");
    return tap_done();
}
