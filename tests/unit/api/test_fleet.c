/* What several replicators are told of one another's servers: who is of a group whose points are taken together, and how much of a shared limit is whose. */
#include "served.h"

/* The answer to a replicator's report of these servers, whose agents it has. */
static json_t *report(const char *peer, const char *more, const char *const *servers)
{
    CLEANUP(json_free) json_t *body = json_pack("{s:[], s:{s:I, s:I}, s:s, s:i}", "servers", "vault", "free_bytes", (json_int_t)1 << 40, "total_bytes", (json_int_t)1 << 40,
                                                "address", "192.0.2.9", "port", 8444),
                              *shares = more ? json_loads(more, 0, NULL) : NULL;
    CLEANUP(free_ptr) char *text = NULL;
    struct answer a;

    for (; *servers; servers++)
        json_array_append_new(json_object_get(body, "servers"), json_pack("{s:s, s:s, s:b}", "server", *servers, "state", "CONTINUOUS", "connected", 1));
    json_object_update(body, shares);
    text = json_text(body);
    a = as_peer(peer, "POST", "/v1/replicator/status", text);
    is_int(a.status, 200, "%s reports: %s", peer, a.body.data);
    return json_of(&a);
}

#define SERVERS(...) (const char *const[]){__VA_ARGS__, NULL}

static void told_group(const char *peer, const char *const *servers, const char *group, const char *expected)
{
    CLEANUP(json_free) json_t *answer = report(peer, NULL, servers);
    CLEANUP(free_ptr) char *told = json_text(json_object_get(json_object_get(answer, "groups"), group));

    is_str(told, expected, "which is told who is of %s, and where", group);
}

static void set_server(const char *server, const char *patch)
{
    CLEANUP(free_ptr) char *path = xasprintf("/v1/servers/%s", server);

    is_int(status_as(operator, "PATCH", path, patch), 200, "%s: %s", server, patch);
}

static void test_groups(void)
{
    CLEANUP(json_free) json_t *answer = NULL;

    is_int(status_as(operator, "PUT", "/v1/settings", "{\"replication\":{\"group_points\":\"application\"}}"), 200, "points are taken by application");
    answer = report("replicator-r1", NULL, SERVERS("web01", "app01"));
    json_decref(report("replicator-r2", NULL, SERVERS("db01", "alone")));
    told_group("replicator-r1", SERVERS("web01", "app01"), "Shop", "{\"app01\":\"r1\",\"db01\":\"r2\",\"web01\":\"r1\"}");
    told_group("replicator-r2", SERVERS("db01", "alone"), "Shop", "{\"app01\":\"r1\",\"db01\":\"r2\",\"web01\":\"r1\"}");
    json_free(&answer);
    answer = report("replicator-r2", NULL, SERVERS("db01", "alone"));
    is_int((int)json_object_size(json_object_get(answer, "groups")), 1, "of no other group, for nobody's application is none");
    ok(!json_object_get(json_object_get(json_object_get(answer, "servers"), "db01"), "group_members"), "and not with the server's own settings, which an older replicator would refuse");
    set_server("app01", "{\"attributes\":{\"group_points\":\"none\"}}");
    told_group("replicator-r1", SERVERS("web01", "app01"), "Shop", "{\"db01\":\"r2\",\"web01\":\"r1\"}");
    set_server("app01", "{\"attributes\":{\"group_points\":null}}");
    is_int(status_as(operator, "POST", "/v1/servers/db01/move", "{\"to\":\"r1\"}"), 202, "one of them is moved");
    told_group("replicator-r1", SERVERS("web01", "app01"), "Shop", "{\"app01\":\"r1\",\"db01\":\"r1\",\"web01\":\"r1\"}");
    is_int(status_as(operator, "POST", "/v1/servers/db01/move", "{\"to\":\"r2\"}"), 202, "and stays");
}

/* Where a move goes when nobody says where to: its application's others count more than room. */
static void test_placing(void)
{
    struct answer a;

    json_decref(report("replicator-r3", NULL, SERVERS("empty")));
    json_decref(report("replicator-r1", NULL, SERVERS("web01", "app01")));
    a = as(operator, "POST", "/v1/servers/db01/move", "{}");
    ok(a.status == 202 && answer_has(&a, "\"to\":\"r1\""), "the server goes to where its application's others are, though another has fewer: %s", a.body.data);
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/db01", NULL);
    ok(answer_has(&a, "r1: 2 servers, 2 of its application, "), "which is said: %s", a.body.data);
    answer_release(&a);
    is_int(status_as(operator, "POST", "/v1/servers/db01/move", "{\"to\":\"r2\"}"), 202, "it stays");
    set_server("db01", "{\"attributes\":{\"group_points\":\"none\"}}");
    a = as(operator, "POST", "/v1/servers/db01/move", "{}");
    ok(a.status == 202 && answer_has(&a, "\"to\":\"r3\""), "with points of its own it goes to who has the fewest: %s", a.body.data);
    answer_release(&a);
    set_server("db01", "{\"attributes\":{\"group_points\":null}}");
    is_int(status_as(operator, "POST", "/v1/servers/db01/move", "{\"to\":\"r2\"}"), 202, "it stays");
    a = as(operator, "POST", "/v1/replicators/r1/drain", "{}");
    ok(a.status == 202 && answer_has(&a, "{\"server\":\"app01\",\"to\":\"r2\"") && answer_has(&a, "{\"server\":\"web01\",\"to\":\"r2\""),
       "a drained replicator's servers go where the rest of the application is: %s", a.body.data);
    answer_release(&a);
}

/* As `prerequisites` finds it. */
static void set_disk(const char *server, int64_t size_bytes)
{
    CLEANUP(json_free) json_t *facts = json_pack("{s:[{s:s, s:s, s:I}]}", "disks", "id", "d1", "name", "vda", "size_bytes", (json_int_t)size_bytes);
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct inventory_by by = {"test", clock_now_us()};
    struct err e = {0};

    MUST(store_begin(data.store, STORE_WRITE, &tx, &e) == 0 && inventory_server_set_facts(tx, server, facts, &by, &e) == 0 && store_commit(&tx, &e) == 0);
}

/* Three servers, of which two replicators of 1 TiB have room for one each: what is given to one counts when the next one's place is chosen. */
static void test_room(void)
{
    static const char *const big[] = {"big01", "big02", "big03"};
    CLEANUP(json_free) json_t *drained = NULL;
    json_t *moving;
    struct answer a;

    for (size_t i = 0; i < ARRAY_COUNT(big); i++) {
        CLEANUP(free_ptr) char *body = xasprintf("{\"name\":\"%s\",\"wave\":\"w1\",\"address\":\"192.0.2.1\",\"attributes\":{\"copy_to\":\"any\"}}", big[i]);

        is_int(status_as(operator, "POST", "/v1/servers", body), 201, "the server %s", big[i]);
        set_disk(big[i], INT64_C(3) << 39);
    }
    json_decref(report("replicator-r1", NULL, SERVERS("big01", "big02", "big03")));
    a = as(viewer, "GET", "/v1/replicators", NULL);
    ok(answer_has(&a, "\"name\":\"r2\"") && answer_has(&a, "\"copies\":1") && !answer_has(&a, "\"copies\":2"), "the second copies of two have a place: %s", a.body.data);
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/big03", NULL);
    ok(answer_has(&a, "\"copy\":{\"replicator\":null,\"why\":\"no replicator can take it"), "and that of the third has none: %s", a.body.data);
    answer_release(&a);
    for (size_t i = 0; i < ARRAY_COUNT(big); i++)
        set_server(big[i], "{\"attributes\":{\"copy_to\":null}}");
    json_decref(report("replicator-r1", NULL, SERVERS("big01", "big02", "big03")));
    a = as(operator, "POST", "/v1/replicators/r1/drain", "{}");
    is_int(a.status, 202, "their replicator is drained: %s", a.body.data);
    drained = json_of(&a);
    moving = json_object_get(drained, "moving");
    ok(json_find(moving, "server", "big01") && json_find(moving, "server", "big02") && !json_find(moving, "server", "big03"), "two of them go");
    ok(strcmp(json_get_string(json_find(moving, "server", "big01"), "to", "?"), json_get_string(json_find(moving, "server", "big02"), "to", "?")) != 0, "not to the same one");
    ok(strstr(json_get_string(json_find(json_object_get(drained, "staying"), "server", "big03"), "reason", ""), "lacks room"), "and the third stays, for neither has room for two");
}

/* More servers than a page of a list has. */
static void test_metrics(void)
{
    CLEANUP(buf_release) struct buf csv = {0};
    struct answer a;

    buf_puts(&csv, "wave,server,address\n");
    for (int i = 0; i < LIMIT_PAGE_ITEMS + 20; i++)
        buf_printf(&csv, "w1,many%03d,192.0.2.1\n", i);
    is_int(status_as(operator, "POST", "/v1/imports", csv.data), 200, "many servers");
    json_decref(report("replicator-r3", NULL, SERVERS("many519")));
    a = as(viewer, "GET", "/metrics", NULL);
    ok(answer_has(&a, "slipway_replication_state{server=\"many519\",state=\"CONTINUOUS\""), "the last of them has figures, too");
    answer_release(&a);
}

static void run_sql(const char *sql)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct err e = {0};

    MUST(store_begin(data.store, STORE_WRITE, &tx, &e) == 0 && store_run(tx, &e, sql, "") >= 0 && store_commit(&tx, &e) == 0);
}

/* Who is to go where, and whose second copies lie where, is said without a look at what every server has: of one here the sizes of its disks have no sum, and whoever reads it fails. */
static void test_few_are_read(void)
{
    CLEANUP(json_free) json_t *answer = NULL;
    struct answer a;

    set_server("db01", "{\"attributes\":{\"copy_to\":\"r3\"}}");
    json_decref(report("replicator-r2", NULL, SERVERS("db01")));
    json_decref(report("replicator-r3", NULL, SERVERS("many519")));
    is_int(status_as(operator, "POST", "/v1/servers/many519/move", "{\"to\":\"r2\"}"), 202, "a server is to go to another replicator");
    run_sql("INSERT INTO disk (server, id, position, name, size_bytes) VALUES ('many519', 'a', 0, 'a', 9223372036854775807), ('many519', 'b', 1, 'b', 9223372036854775807)");
    a = as(viewer, "GET", "/v1/replicators", NULL);
    is_int(a.status, 500, "(nobody can read it)");
    answer_release(&a);
    answer = report("replicator-r2", NULL, SERVERS("db01"));
    ok(json_object_get(json_object_get(json_object_get(answer, "copies"), "to"), "db01"), "the first one is told where its second copies go");
    json_free(&answer);
    answer = report("replicator-r3", NULL, SERVERS("many519"));
    ok(json_object_get(json_object_get(answer, "places"), "many519") && json_object_get(json_object_get(json_object_get(answer, "copies"), "from"), "db01"), "the second one whose it takes, and who is to go");
    run_sql("DELETE FROM disk WHERE server = 'many519'");
    is_int(status_as(operator, "POST", "/v1/servers/many519/move", "{\"to\":\"r3\"}"), 202, "it stays");
    set_server("db01", "{\"attributes\":{\"copy_to\":null}}");
    json_decref(report("replicator-r2", NULL, SERVERS("db01")));
}

/* What a replicator goes by of the site's limit; -1: it was not told of any limit yet. */
struct sender {
    const char *peer, *server;
    int64_t part;
};

static void shares(struct sender *s, int active, int idle)
{
    CLEANUP(free_ptr) char *said = s->part < 0 ? NULL : xasprintf("{\"shares\":{\"site\":{\"active\":%d,\"idle\":%d,\"part\":%lld,\"given\":7}}}", active, idle, (long long)s->part);
    CLEANUP(json_free) json_t *answer = report(s->peer, said, SERVERS(s->server));

    s->part = json_get_int(json_object_get(answer, "parts"), "site", 1000000);
}

static void test_parts(void)
{
    struct sender r1 = {"replicator-r1", "web01", -1}, r2 = {"replicator-r2", "db01", -1}, r3 = {"replicator-r3", "empty", -1};
    struct answer a;

    shares(&r1, 0, 0);
    is_int(r1.part, 1000000, "who hears of the site's limit first has all of it");
    shares(&r1, 3, 0);
    is_int(r1.part, 1000000, "and while nobody else says that it has servers that share it");
    shares(&r2, 0, 0);
    is_int(r2.part, 0, "another one begins with nothing: all of it is held");
    shares(&r2, 1, 0), shares(&r1, 3, 0);
    ok(r1.part == 750000 && r2.part == 0, "the first one is told to hold less: by who has something to send");
    shares(&r2, 1, 0);
    is_int(r2.part, 0, "which is nobody's before it says that it does");
    shares(&r1, 3, 0), shares(&r2, 1, 0);
    is_int(r2.part, 250000, "then it is the other one's");
    shares(&r3, 0, 0);
    is_int(r3.part, 0, "one without servers of it has none, and takes none away");
    shares(&r1, 3, 0), shares(&r2, 1, 0);
    ok(r1.part == 750000 && r2.part == 250000, "(%lld, %lld)", (long long)r1.part, (long long)r2.part);
    shares(&r1, 3, 0), shares(&r2, 4, 0);
    is_int(r2.part, 250000, "one has more to send: it waits for the other");
    shares(&r1, 3, 0), shares(&r1, 3, 0), shares(&r2, 4, 0);
    ok(r1.part == 428571 && r2.part == 571428, "and then has more (%lld, %lld)", (long long)r1.part, (long long)r2.part);
    a = as(viewer, "GET", "/v1/replicators", NULL);
    ok(answer_has(&a, "\"shares\":{\"site\":{\"active\":3,\"idle\":0,\"part\":428571,\"given\":428571}}"), "the list of replicators shows it: %s", a.body.data);
    answer_release(&a);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    curl_global_init(CURL_GLOBAL_ALL);
    start();
    make_user("anna", ROLE_OPERATOR, true, admin);
    make_user("olga", ROLE_OPERATOR, false, operator);
    make_user("vera", ROLE_VIEWER, false, viewer);
    for (const char *const *name = SERVERS("r1", "r2", "r3"); *name; name++)
        enrol_as("replicator", *name, "[]");
    is_int(status_as(operator, "POST", "/v1/waves", "{\"name\":\"w1\"}"), 201, "a wave");
    for (const char *const *name = SERVERS("app01", "db01", "web01", "alone", "late01"); *name; name++) {
        bool shop = strcmp(*name, "alone") != 0;
        CLEANUP(free_ptr) char *body = xasprintf("{\"name\":\"%s\",\"wave\":\"w1\",\"address\":\"192.0.2.1\"%s}", *name, shop ? ",\"application\":\"Shop\"" : "");

        is_int(status_as(operator, "POST", "/v1/servers", body), 201, "the server %s%s", *name, strcmp(*name, "late01") == 0 ? ", whose agent was pushed to nobody yet" : "");
    }
    test_groups();
    test_parts();
    test_placing();
    test_room();
    test_metrics();
    test_few_are_read();
    stop();
    curl_global_cleanup();
    return tap_done();
}
