#include "fleet.h"

static void waves_are_made_and_changed(void)
{
    CLEANUP(json_free) json_t *faults = json_array();
    CLEANUP(json_free) json_t *wave = NULL;
    CLEANUP(json_free) json_t *patch = quoted("{'title':'First wave','settings':{'hold_s':'30','network':null}}");
    CLEANUP(json_free) json_t *bad = quoted("{'title':7,'settings':{'hold':3},'stage':'done'}");
    CLEANUP(free_ptr) char *event = NULL;
    struct err e = {0};

    is_int(make_wave("{'name':'w1','settings':{'hold_s':60,'network':'dc1','host_keys':'accept-first'}}", NULL, &e), 0, "a wave: %s", e.message);
    is_int(make_wave("{'name':'w1'}", NULL, &e), -1, "the same name");
    is_int(e.kind, ERR_CONFLICT, "%s", e.message);
    is_int(make_wave("{'name':'../x','settings':{'hold_s':-1},'color':1}", faults, &e), -1, "a bad one");
    is_int((int)json_array_size(faults), 3, "every fault is told: %s", e.message);
    is_int(IN_TX(inventory_wave_update(tx, "w1", 2, patch, &fleet_by, NULL, &e)), -1, "another version");
    is_int(e.kind, ERR_CONFLICT, "%s", e.message);
    is_int(IN_TX(inventory_wave_update(tx, "w1", 1, patch, &fleet_by, NULL, &e)), 0, "the right one: %s", e.message);
    event = last_event();
    is_str(event, "user:anna wave.updated w1 w1 {\"fields\":{\"title\":{\"before\":\"w1\",\"after\":\"First wave\"},\"settings\":{\"before\":"
                  "{\"hold_s\":60,\"network\":\"dc1\",\"host_keys\":\"accept-first\"},\"after\":{\"hold_s\":30,\"host_keys\":\"accept-first\"}}},"
                  "\"version\":2}", "who changed what, and what it was");
    is_int(IN_TX(inventory_wave_update(tx, "w1", 0, bad, &fleet_by, faults, &e)), -1, "bad members: %s", e.message);
    is_int((int)json_array_size(faults), 6, "three more faults");
    wave = get_wave("w1");
    is_str(text_at(wave, "title"), "First wave", "the title");
    is_str(text_at(wave, "stage"), "build", "the stage");
    is_str(text_at(wave, "version"), "2", "the version");
    ok(json_is_null(json_object_get(wave, "window")) && json_is_null(json_object_get(wave, "run")), "no window, no run");
    ok(!get_wave("w9"), "a wave that isn't there");
    is_int(IN_TX(inventory_wave_update(tx, "w9", 0, patch, &fleet_by, NULL, &e)), -1, "is not changed");
    is_int(e.kind, ERR_NOT_FOUND, "%s", e.message);
}

static int set_window(const char *json, json_t *faults, struct err *e)
{
    CLEANUP(json_free) json_t *body = quoted(json);

    return IN_TX(inventory_wave_set_window(tx, "w1", INVENTORY_ANY_VERSION, body, &fleet_by, faults, e));
}

static void windows_are_checked(void)
{
    CLEANUP(json_free) json_t *faults = json_array();
    CLEANUP(json_free) json_t *wave = NULL;
    struct store_tx *tx;
    struct err e = {0};
    int64_t opens_us = 0, closes_us = 0, before = event_count();
    json_t *settings = NULL;

    is_int(set_window("{'opens':'2027-02-01T20:00:00+01:00','closes':'2027-02-01T23:00:00+01:00','time_zone':'UTC'}", NULL, &e), 0,
           "a window: %s", e.message);
    is_int(set_window("{'opens':'2027-02-01T20:00:00+01:00','closes':'2027-02-01T23:00:00+01:00','time_zone':'UTC'}", NULL, &e), 0, "again");
    is_int(event_count(), before + 1, "writes one event");
    is_int(set_window("{'opens':'2027-02-01T20:00:00Z','closes':'2027-02-01T19:00:00Z'}", faults, &e), -1, "closing first: %s", e.message);
    is_int(set_window("{'opens':'2020-02-01T20:00:00Z','closes':'2020-02-01T21:00:00Z'}", faults, &e), -1, "over: %s", e.message);
    is_int(set_window("{'opens':'tomorrow','time_zone':'../etc'}", faults, &e), -1, "nonsense: %s", e.message);
    is_int((int)json_array_size(faults), 5, "with every fault");
    wave = get_wave("w1");
    is_str(text_at(wave, "window.opens"), "2027-02-01T19:00:00.000Z", "it is kept in UTC");
    tx = fleet_begin(STORE_READ);
    is_int(inventory_wave_window(tx, "w1", &opens_us, &closes_us, &settings, &e), 1, "for the workflow");
    store_rollback(&tx);
    is_int(closes_us - opens_us, INT64_C(3) * 3600 * US_PER_S, "three hours");
    is_int(json_get_int(settings, "hold_s", 0), 30, "with the settings");
    json_decref(settings);
}

static void servers_are_made_and_changed(void)
{
    CLEANUP(json_free) json_t *faults = json_array();
    CLEANUP(json_free) json_t *server = NULL;
    CLEANUP(free_ptr) char *event = NULL;
    struct err e = {0};

    is_int(make_server("{'name':'db01','wave':'w1','application':'Shop','owner':'Anna','address':'192.0.2.11','attributes':{'cpu':2,"
                       "'services':'postgresql'}}", NULL, &e), 0, "a server: %s", e.message);
    is_int(make_server("{'name':'web01','wave':'w1','address':'192.0.2.12','attributes':{'after':'db01'}}", NULL, &e), 0, "another: %s", e.message);
    is_int(make_server("{'name':'db01','wave':'w1','address':'192.0.2.11'}", NULL, &e), -1, "the same name");
    is_int(e.kind, ERR_CONFLICT, "%s", e.message);
    is_int(make_server("{'wave':'w 1','attributes':{'cpu':0,'colour':'red'},'port':0}", faults, &e), -1, "a bad one: %s", e.message);
    is_int((int)json_array_size(faults), 6, "every fault is told");
    is_int(make_server("{'name':'x','wave':'w7','address':'192.0.2.1'}", NULL, &e), -1, "an unknown wave: %s", e.message);
    is_int(change_server("db01", 1, "{'attributes':{'cpu':4,'services':null},'port':2222}", NULL, &e), 0, "a change: %s", e.message);
    event = last_event();
    is_str(event, "user:anna server.updated w1 db01 {\"fields\":{\"port\":{\"before\":22,\"after\":2222},\"services\":{\"before\":\"postgresql\","
                  "\"after\":null},\"cpu\":{\"before\":2,\"after\":4}},\"version\":2}", "and its event");
    is_int(change_server("db01", 1, "{'port':22}", NULL, &e), -1, "from the old version");
    is_int(e.kind, ERR_CONFLICT, "%s", e.message);
    is_int(change_server("db01", 2, "{'attributes':{'after':'web01'}}", NULL, &e), -1, "a circle");
    is_int(e.kind, ERR_INVALID, "%s", e.message);
    is_int(change_server("db01", 2, "{'attributes':{'after':'db01'}}", NULL, &e), -1, "of one: %s", e.message);
    is_int(change_server("db01", 2, "{'attributes':{'after':'db07'}}", NULL, &e), -1, "after nobody: %s", e.message);
    is_int(change_server("db01", 2, "{'name':'db02'}", NULL, &e), -1, "another name: %s", e.message);
    is_int(change_server("db77", 2, "{'port':22}", NULL, &e), -1, "a server that isn't there");
    is_int(e.kind, ERR_NOT_FOUND, "%s", e.message);
    server = get_server("db01");
    is_str(text_at(server, "attributes.cpu"), "4", "cpu");
    is_str(text_at(server, "lifecycle"), "NOT_READY", "its life begins");
    is_str(text_at(server, "version"), "2", "version");
    ok(json_is_null(json_object_get(server, "facts")) && json_is_null(json_object_get(server, "instance"))
           && json_is_null(json_object_get(server, "replication")) && json_array_size(json_object_get(server, "disks")) == 0, "nothing known yet");
}

static void life_goes_by_its_table(void)
{
    static const char *const way[] = {"READY_FOR_TEST", "TESTING", "READY_FOR_CUTOVER", "CUTTING_OVER", "READY_FOR_CUTOVER", "CUTTING_OVER",
                                      "CUTOVER", "DISCONNECTED", "ARCHIVED"};
    struct err e = {0};
    int64_t before = event_count();

    is_int(IN_TX(inventory_server_move(tx, "web01", NULL, "CUTOVER", &fleet_by, &e)), -1, "no leap to the end");
    is_int(e.kind, ERR_WRONG_STATE, "%s", e.message);
    is_int(IN_TX(inventory_server_move(tx, "web01", "TESTING", "READY_FOR_TEST", &fleet_by, &e)), -1, "not from where it isn't: %s", e.message);
    is_int(IN_TX(inventory_server_move(tx, "web99", NULL, "READY_FOR_TEST", &fleet_by, &e)), -1, "not a server that isn't there");
    is_int(e.kind, ERR_NOT_FOUND, "%s", e.message);
    for (size_t i = 0; i < ARRAY_COUNT(way); i++)
        is_int(IN_TX(inventory_server_move(tx, "web01", NULL, way[i], &fleet_by, &e)), 0, "to %s", way[i]);
    is_int(IN_TX(inventory_server_move(tx, "web01", NULL, "ARCHIVED", &fleet_by, &e)), 0, "there already");
    is_int(event_count(), before + (int)ARRAY_COUNT(way), "an event for each move");
    is_int(IN_TX(inventory_server_move(tx, "web01", NULL, "TESTING", &fleet_by, &e)), -1, "the end is the end: %s", e.message);
}

static void facts_bring_disks(void)
{
    CLEANUP(json_free) json_t *facts = quoted("{'os':'Debian 12','cpu_count':2,'disks':[{'id':'vda-1','name':'/dev/vda','size_bytes':1073741824,"
                                              "'in_use':true},{'id':'vdb-2','name':'/dev/vdb','size_bytes':4096}]}");
    CLEANUP(json_free) json_t *twice = quoted("{'disks':[{'id':'a','name':'a','size_bytes':1},{'id':'a','name':'b','size_bytes':1}]}");
    CLEANUP(json_free) json_t *server = NULL;
    struct err e = {0};
    int64_t before = event_count();

    is_int(IN_TX(inventory_server_set_facts(tx, "db01", facts, &fleet_by, &e)), 0, "facts: %s", e.message);
    is_int(IN_TX(inventory_server_set_facts(tx, "db01", facts, &fleet_by, &e)), 0, "the same again");
    is_int(event_count(), before + 1, "one event");
    is_int(IN_TX(inventory_server_set_facts(tx, "db01", twice, &fleet_by, &e)), -1, "two disks of one id: %s", e.message);
    server = get_server("db01");
    is_int((int)json_array_size(json_object_get(server, "disks")), 2, "its disks");
    is_str(text_at(json_array_get(json_object_get(server, "disks"), 0), "id"), "vda-1", "in order");
    is_str(text_at(server, "facts.os"), "Debian 12", "and all facts");
    is_str(text_at(server, "version"), "2", "the version stays");
}

static void instances_come_and_go(void)
{
    CLEANUP(json_free) json_t *instance = quoted("{'name':'db01-test','kind':'test','door':'isolated','state':'RUNNING'}");
    CLEANUP(json_free) json_t *bad = quoted("{'name':'db01-test','kind':'prod','door':'isolated','state':'RUNNING'}");
    CLEANUP(json_free) json_t *server = NULL;
    CLEANUP(free_ptr) char *event = NULL;
    struct err e = {0};

    is_int(IN_TX(inventory_server_set_instance(tx, "db01", instance, &fleet_by, &e)), 0, "an instance: %s", e.message);
    is_int(IN_TX(inventory_server_set_instance(tx, "db01", bad, &fleet_by, &e)), -1, "no other kind: %s", e.message);
    server = get_server("db01");
    is_str(text_at(server, "instance.door"), "isolated", "its door");
    is_int(IN_TX(inventory_server_set_instance(tx, "db01", NULL, &fleet_by, &e)), 0, "it goes");
    event = last_event();
    ok(strstr(event, "server.instance w1 db01 {\"fields\":{\"instance\":{\"before\":{\"name\":\"db01-test\"") && strstr(event, "\"after\":null"),
       "its event says what it was");
}

static void host_keys_are_pinned(void)
{
    static const char key[] = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    struct err e = {0};
    struct store_tx *tx_read;
    char *pinned = NULL;

    is_int(IN_TX(inventory_server_set_host_key(tx, "db01", "MD5:aa", &fleet_by, &e)), -1, "not a fingerprint: %s", e.message);
    is_int(IN_TX(inventory_server_set_host_key(tx, "db01", key, &fleet_by, &e)), 0, "pinned: %s", e.message);
    tx_read = fleet_begin(STORE_READ);
    is_int(inventory_host_key(tx_read, "db01", &pinned, &e), 1, "for SSH");
    is_str(pinned, key, "it is that one");
    is_int(inventory_host_key(tx_read, "db99", &pinned, &e), 0, "no server, no key");
    store_rollback(&tx_read);
    free(pinned);
}

static int report(const char *json, struct err *e)
{
    CLEANUP(json_free) json_t *replication = quoted(json);

    return IN_TX(inventory_server_set_replication(tx, "db01", replication, &fleet_by, e));
}

static void replication_makes_events_of_changes_only(void)
{
    CLEANUP(json_free) json_t *server = NULL;
    CLEANUP(free_ptr) char *event = NULL;
    char text[CLOCK_TEXT_SIZE];
    CLEANUP(free_ptr) char *json = xasprintf("{'state':'CONTINUOUS','backlog_bytes':0,'newest_point_at':'%s','error':null}",
                                             clock_format(clock_now_us() - 5 * US_PER_S, text));
    struct err e = {0};
    int64_t before = event_count(), age;

    is_int(report("{'state':'INITIAL_SYNC','bytes_read':10}", &e), 1, "the first report: %s", e.message);
    is_int(report("{'state':'INITIAL_SYNC','bytes_read':20}", &e), 0, "progress is no event");
    is_int(report(json, &e), 1, "a new state is");
    is_int(report("{'state':'STALLED','error':'the link is down'}", &e), 1, "and an error");
    event = last_event();
    ok(strstr(event, "\"error\":{\"before\":null,\"after\":\"the link is down\"}"), "which it says");
    is_int(report(json, &e), 1, "its end, too");
    is_int(event_count(), before + 4, "four events in all");
    is_int(report("{'state':'STALLED','cause':{'kind':'agent_away','text':'a'}}", &e), 1, "a cause is an event");
    free_ptr(&event);
    event = last_event();
    ok(strstr(event, "\"cause\":{\"before\":null,\"after\":\"agent_away\"}"), "which it says: %s", event);
    is_int(report("{'state':'STALLED','cause':{'kind':'agent_away','text':'b'}}", &e), 0, "its figures are none");
    is_int(report(json, &e), 1, "its end is");
    is_int(event_count(), before + 6, "six events then");
    is_int(report("{'state':'FINE'}", &e), -1, "an unknown state is refused: %s", e.message);
    server = get_server("db01");
    age = json_get_int(json_object_get(server, "replication"), "newest_point_age_ms", -1);
    ok(age >= 5000 && age < 60000, "the newest point grows older (%lld ms)", (long long)age);
}

static void silence_is_no_state(void)
{
    CLEANUP(json_free) json_t *fresh = NULL, *old = NULL, *detached = NULL;
    int64_t kept_us = fleet_by.now_us;
    struct err e = {0};

    fleet_by.now_us = clock_now_us() - 5 * US_PER_S;
    is_int(report("{'state':'CONTINUOUS','eta_ms':0,'cause':null}", &e), 0, "reported five seconds ago");
    fresh = get_server("db01");
    is_str(json_get_string(json_object_get(fresh, "replication"), "state", ""), "CONTINUOUS", "is what it says");
    fleet_by.now_us = clock_now_us() - 40 * US_PER_S;
    is_int(report("{'state':'CONTINUOUS','eta_ms':0,'cause':null}", &e), 0, "reported forty seconds ago");
    old = get_server("db01");
    is_str(json_get_string(json_object_get(old, "replication"), "state", ""), "STALLED", "is no state of now");
    is_str(json_get_string(json_object_get(json_object_get(old, "replication"), "cause"), "kind", ""), "replicator_silent", "and says why");
    ok(json_is_null(json_object_get(json_object_get(old, "replication"), "eta_ms")), "with no ETA");
    is_int(report("{'state':'DISCONNECTED'}", &e), 1, "what is over");
    detached = get_server("db01");
    is_str(json_get_string(json_object_get(detached, "replication"), "state", ""), "DISCONNECTED", "stays over");
    fleet_by.now_us = kept_us;
}

static void started_waves_keep_their_servers(void)
{
    struct err e = {0};

    make_wave("{'name':'w2'}", NULL, &e);
    is_int(IN_TX(inventory_wave_set_stage(tx, "w1", "validate", "ok", "r1", &fleet_by, &e)), 0, "w1 runs: %s", e.message);
    is_int(IN_TX(inventory_wave_set_stage(tx, "w1", "testing", "ok", NULL, &fleet_by, &e)), -1, "in no stage of fantasy");
    is_int(change_server("db01", 0, "{'wave':'w2'}", NULL, &e), -1, "no server leaves it: %s", e.message);
    is_int(make_server("{'name':'late','wave':'w1','address':'192.0.2.99'}", NULL, &e), -1, "and none joins: %s", e.message);
    is_int(IN_TX(inventory_wave_set_stage(tx, "w1", "done", "ok", NULL, &fleet_by, &e)), 0, "when it is done");
    is_int(change_server("db01", 0, "{'wave':'w2'}", NULL, &e), 0, "they may: %s", e.message);
    is_int(change_server("db01", 0, "{'wave':'w1'}", NULL, &e), 0, "and back");
}

static void list(const struct inventory_list *wanted, bool servers, const char *names, const char *next)
{
    CLEANUP(store_rollback) struct store_tx *tx = fleet_begin(STORE_READ);
    CLEANUP(json_free) json_t *out = NULL;
    CLEANUP(buf_release) struct buf got;
    struct err e = {0};
    json_t *item;
    size_t i;

    buf_init(&got, 0);
    is_int((servers ? inventory_servers_json : inventory_waves_json)(tx, wanted, &out, &e), 0, "a list: %s", e.message);
    json_array_foreach(json_object_get(out, "items"), i, item)
        buf_printf(&got, "%s ", json_get_string(item, "name", ""));
    is_str(got.data ? got.data : "", names, "has these");
    is_str(json_get_string(out, "next", NULL), next, "and goes on there");
}

static void lists_are_filtered_sorted_and_paged(void)
{
    struct store_tx *tx;
    json_t *out = NULL;
    struct err e = {0};

    make_server("{'name':'app01','wave':'w2','owner':'Zoe','address':'198.51.100.1'}", NULL, &e);
    make_server("{'name':'app02','wave':'w2','owner':'100%_sure','address':'198.51.100.2'}", NULL, &e);
    list(&(struct inventory_list){0}, true, "app01 app02 db01 web01 ", NULL);
    list(&(struct inventory_list){.limit = 3, .sort = "-name"}, true, "web01 db01 app02 ", "3");
    list(&(struct inventory_list){.limit = 3, .sort = "-name", .page = "3"}, true, "app01 ", NULL);
    list(&(struct inventory_list){.wave = "w1"}, true, "db01 web01 ", NULL);
    list(&(struct inventory_list){.q = "ZOE"}, true, "app01 ", NULL);
    list(&(struct inventory_list){.q = "0%_S"}, true, "app02 ", NULL);
    list(&(struct inventory_list){.q = "a_p"}, true, "", NULL);
    list(&(struct inventory_list){.lifecycle = "ARCHIVED"}, true, "web01 ", NULL);
    fleet_by.now_us = clock_now_us();
    is_int(report("{'state':'BACKLOG','cause':{'kind':'limit_too_low','severity':'error','text':'a','advice':'b'}}", &e), 1, "one that does not keep up: %s", e.message);
    list(&(struct inventory_list){.trouble = true}, true, "db01 ", NULL);
    list(&(struct inventory_list){.trouble = true, .wave = "w2"}, true, "", NULL);
    is_int(report("{'state':'BACKLOG','cause':{'kind':'held','severity':'info','text':'a','advice':'b'},'error':{'kind':'x','message':'\\'cause\\':{'}}", &e), 1, "one that does, with a word: %s", e.message);
    list(&(struct inventory_list){.trouble = true}, true, "", NULL);
    is_int(report("{'state':'CONTINUOUS','cause':null}", &e), 1, "one that does");
    list(&(struct inventory_list){.trouble = true}, true, "", NULL);
    fleet_by.now_us = clock_now_us() - 40 * US_PER_S;
    is_int(report("{'state':'CONTINUOUS','cause':null}", &e), 0, "one of which nothing was heard for a while");
    list(&(struct inventory_list){.trouble = true}, true, "db01 ", NULL);
    is_int(report("{'state':'DISCONNECTED','cause':null}", &e), 1, "one that is over");
    list(&(struct inventory_list){.trouble = true}, true, "", NULL);
    list(&(struct inventory_list){.sort = "-created"}, false, "w1 w2 ", NULL);
    tx = fleet_begin(STORE_READ);
    is_int(inventory_servers_json(tx, &(struct inventory_list){.sort = "name; DROP TABLE server"}, &out, &e), -1, "a sort that is none");
    is_int(e.kind, ERR_INVALID, "%s", e.message);
    is_int(inventory_servers_json(tx, &(struct inventory_list){.page = "-3"}, &out, &e), -1, "a page that is none: %s", e.message);
    is_int(inventory_applications_json(tx, &out, &e), 0, "applications");
    is_int(json_array_size(out), 1, "come with their servers");
    json_decref(out);
    store_rollback(&tx);
}

int main(void)
{
    fleet_open();
    waves_are_made_and_changed();
    windows_are_checked();
    servers_are_made_and_changed();
    life_goes_by_its_table();
    facts_bring_disks();
    instances_come_and_go();
    host_keys_are_pinned();
    replication_makes_events_of_changes_only();
    silence_is_no_state();
    started_waves_keep_their_servers();
    lists_are_filtered_sorted_and_paged();
    store_close(&fleet_store);
    return tap_done();
}
