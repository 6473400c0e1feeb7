#include "api/copying.h"
#include "api/known.h"
#include "api/placing.h"
#include "api/routes.h"

#include "base/clock.h"
#include "inventory/placement.h"
#include "inventory/second_copy.h"
#include "plan/place.h"

#include <stdlib.h>
#include <string.h>

#define LIVING_US (15 * US_PER_S) /* a replicator reports every second or two */
#define OWN_NAME "embedded"       /* what serve calls its own */
#define ROOM_PERCENT 50
#define WHY_LIMIT_BYTES 900

void known_release(struct known *k)
{
    json_free(&k->items);
    json_free(&k->settings);
    json_free(&k->replication);
    free(k->candidates);
}

static const char *own_name(const json_t *settings) { return json_get_string(settings, "name", OWN_NAME); }

/* replication may be NULL: not wanted. */
static int read_settings(struct store_tx *tx, json_t **out, json_t **replication, struct err *e)
{
    CLEANUP(json_free) json_t *all = NULL;
    int64_t version;

    if (settings_read(tx, &all, &version, e) < 0)
        return -1;
    *out = json_incref(json_object_get(all, "replicator"));
    if (!*out)
        *out = json_object();
    if (replication)
        *replication = json_incref(json_object_get(all, "replication"));
    return 0;
}

/* ---- what they have been given ---- */

void known_add(json_t *item, const char *name, int64_t more)
{
    json_object_set_new(item, name, json_integer(json_get_int(item, name, 0) + more));
}

/* One placed server: its disks are to come, but for what is copied where it is to be. */
static void count_server(json_t *items, const char *wanted, bool moving, bool there, const char *document, int64_t disk_bytes)
{
    CLEANUP(json_free) json_t *r = document ? json_loads(document, 0, NULL) : NULL;
    int64_t total = json_get_int(r, "bytes_total", 0), to_come;
    json_t *item = json_find(items, "name", wanted);

    if (!item)
        return;
    total = total > 0 ? total : disk_bytes;
    to_come = there ? total - json_get_int(r, "bytes_done", 0) : total;
    known_add(item, moving ? "moving_in" : "servers", 1);
    known_add(item, "to_come_bytes", to_come > 0 ? to_come : 0);
    if (there && json_get_int(r, "churn_bytes_per_s", 0) > 0)
        known_add(item, "churn_bytes_per_s", json_get_int(r, "churn_bytes_per_s", 0));
}

static int count_servers(struct store_tx *tx, json_t *items, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e,
                         "SELECT p.replicator, COALESCE(p.target, ''), p.seen_at, r.document,"
                         " CAST(COALESCE((SELECT SUM(d.size_bytes) FROM disk d WHERE d.server = p.server), 0) AS BIGINT) FROM placement p"
                         " JOIN server s ON s.name = p.server LEFT JOIN server_replication r ON r.server = p.server"
                         " WHERE s.lifecycle NOT IN ('DISCONNECTED', 'ARCHIVED')", "");

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        bool moving = *store_text(rows, 1) != '\0';
        const char *wanted = store_text(rows, moving ? 1 : 0);

        count_server(items, wanted, moving, strcmp(store_text(rows, 2), wanted) == 0, store_is_null(rows, 3) ? NULL : store_text(rows, 3), store_int(rows, 4));
    }
    return rc < 0 ? -1 : 0;
}

static int mark_drained(struct store_tx *tx, json_t *items, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, "SELECT name FROM replicator_drained", "");

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        json_t *item = json_find(items, "name", store_text(rows, 0));

        if (item)
            json_object_set_new(item, "drained", json_true());
    }
    return rc < 0 ? -1 : 0;
}

bool known_is_living(const json_t *item)
{
    const char *at = json_get_string(item, "status_at", NULL);
    int64_t at_us;

    return strcmp(json_get_string(item, "state", ""), "revoked") != 0 && at && clock_parse(at, &at_us, NULL) == 0 && clock_now_us() - at_us < LIVING_US;
}

static struct place_candidate candidate_of(const json_t *item)
{
    const json_t *vault = json_object_get(item, "vault");

    return (struct place_candidate){
        .name = json_get_string(item, "name", ""), .living = known_is_living(item), .draining = json_get_bool(item, "drained", false),
        .addressed = json_get_string(item, "address", NULL) && json_get_int(item, "port", 0) > 0,
        .server_count = (int)(json_get_int(item, "servers", 0) + json_get_int(item, "moving_in", 0)), .free_bytes = json_get_int(vault, "free_bytes", -1),
        .total_bytes = json_get_int(vault, "total_bytes", 0), .to_come_bytes = json_get_int(item, "to_come_bytes", 0),
        .churn_bytes_per_s = json_get_int(item, "churn_bytes_per_s", 0), .write_bytes_per_s = json_get_int(vault, "write_bytes_per_s", 0)};
}

/* All but its figures. */
static int address(struct store_tx *tx, const json_t *settings, json_t *items, struct err *e)
{
    json_t *item;
    size_t i;

    json_array_foreach(items, i, item) {
        json_object_update_new(item, json_pack("{s:b, s:b, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "drained", 0, "living", known_is_living(item), "servers", 0, "moving_in", 0,
                                               "copies", 0, "copies_stalled", 0, "copies_lag_ms", 0, "to_come_bytes", 0, "churn_bytes_per_s", 0));
        if (strcmp(json_get_string(item, "name", ""), own_name(settings)) == 0 && json_get_string(settings, "address", NULL)) {
            json_object_set(item, "address", json_object_get(settings, "address"));
            json_object_set(item, "port", json_object_get(settings, "port"));
        }
    }
    return mark_drained(tx, items, e);
}

static int count(struct store_tx *tx, const json_t *settings, json_t *items, struct err *e)
{
    int percent = (int)json_get_int(settings, "room_percent", ROOM_PERCENT);
    json_t *item;
    size_t i;

    if (count_servers(tx, items, e) < 0 || copying_count(tx, items, e) < 0)
        return -1;
    json_array_foreach(items, i, item) {
        struct place_candidate c = candidate_of(item);

        json_object_set_new(item, "full_percent", c.free_bytes < 0 ? json_null() : json_integer(place_fullness(&c, 0, percent)));
        json_object_set_new(item, "busy_percent", json_integer(place_business(&c)));
    }
    return 0;
}

int placing_describe(struct store_tx *tx, json_t *items, struct err *e)
{
    CLEANUP(json_free) json_t *settings = NULL;

    return read_settings(tx, &settings, NULL, e) < 0 || address(tx, settings, items, e) < 0 ? -1 : count(tx, settings, items, e);
}

int known_look(struct api *a, struct store_tx *tx, struct known *k, struct err *e)
{
    if (k->items)
        return 0;
    return read_settings(tx, &k->settings, &k->replication, e) < 0 || replicators_list(a, tx, &k->items, e) < 0 ? -1 : address(tx, k->settings, k->items, e);
}

int known_load(struct api *a, struct store_tx *tx, struct known *k, struct err *e)
{
    json_t *item;
    size_t i;

    if (k->is_counted)
        return 0;
    if (known_look(a, tx, k, e) < 0 || count(tx, k->settings, k->items, e) < 0)
        return -1;
    k->is_counted = true;
    k->room_percent = (int)json_get_int(k->settings, "room_percent", ROOM_PERCENT);
    k->candidates = xcalloc(json_array_size(k->items) + 1, sizeof *k->candidates);
    json_array_foreach(k->items, i, item)
        if (strcmp(json_get_string(item, "state", ""), "revoked") != 0)
            k->candidates[k->count++] = candidate_of(item);
    return 0;
}

int known_read(struct store_tx *tx, const char *server, char **document, int64_t *disk_bytes, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e,
                         "SELECT r.document, CAST(COALESCE((SELECT SUM(d.size_bytes) FROM disk d WHERE d.server = s.name), 0) AS BIGINT) FROM server s"
                         " LEFT JOIN server_replication r ON r.server = s.name WHERE s.name = $1", "s", server);

    if (rc < 0 || (rc = store_next(rows, e)) < 0)
        return -1;
    *document = rc ? xstrdup(store_text(rows, 0)) : NULL;
    *disk_bytes = rc ? store_int(rows, 1) : 0;
    return 0;
}

void known_changed(struct known *k, const char *name)
{
    for (int i = 0; i < k->count; i++)
        if (strcmp(k->candidates[i].name, name) == 0)
            k->candidates[i] = candidate_of(json_find(k->items, "name", name));
}

static char *label_beside(const json_t *settings, const char *name)
{
    return strcmp(name, own_name(settings)) == 0 ? xstrdup("") : xasprintf("replicator:%s", name);
}

static int disk_bytes(struct store_tx *tx, const char *server, int64_t *out, struct err *e)
{
    return store_one_int(tx, out, e, "SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM disk WHERE server = $1", "s", server) < 0 ? -1 : 0;
}

/* How many of the server's group are to be at each of the candidates. */
static int count_group(struct store_tx *tx, const struct known *k, const char *server, struct place_candidate *list, int count, struct err *e)
{
    CLEANUP(json_free) json_t *members = NULL;
    const char *member;
    json_t *at;

    if (inventory_replication_group(tx, server, k->replication, &members, e) < 0)
        return -1;
    json_object_foreach(members, member, at)
        for (int i = 0; i < count; i++)
            list[i].group_count += strcmp(member, server) != 0 && strcmp(list[i].name, json_string_value(at)) == 0;
    return 0;
}

int known_choose(struct store_tx *tx, const struct known *k, const char *server, const char *only, const char *but, const char **name, char **why, struct err *e)
{
    CLEANUP(free_ptr) struct place_candidate *list = xcalloc((size_t)k->count + 1, sizeof *list);
    CLEANUP(buf_release) struct buf words = {0};
    int64_t need = 0;
    int count = 0, best;

    buf_init(&words, WHY_LIMIT_BYTES);
    for (int i = 0; i < k->count; i++)
        if ((!only || strcmp(k->candidates[i].name, only) == 0) && (!but || strcmp(k->candidates[i].name, but) != 0))
            list[count++] = k->candidates[i];
    if (only && !count)
        return err_set(e, ERR_NOT_FOUND, "there is no other replicator %.128s", only);
    if (disk_bytes(tx, server, &need, e) < 0 || count_group(tx, k, server, list, count, e) < 0)
        return -1;
    best = place_choose(list, count, need, k->room_percent, &words, only ? NULL : e);
    if (best < 0)
        return only ? err_set(e, ERR_WRONG_STATE, "it can't take %.128s: %s", server, words.data) : -1;
    *name = list[best].name;
    *why = xstrdup(words.data);
    return 0;
}

/* ---- a task's document ---- */

static void set_replicator(const struct api *a, const struct known *k, json_t *settings, const json_t *item, const char *why)
{
    const char *name = json_get_string(item, "name", ""), *told = json_get_string(item, "control_socket", NULL), *set = json_get_string(k->settings, "control", NULL);
    json_t *r = json_deep_copy(k->settings);
    bool own = strcmp(name, own_name(k->settings)) == 0;

    json_object_del(r, "address"); /* the factory's own; this one's is what the item says */
    json_object_del(r, "port");
    json_object_set_new(r, "name", json_string(name));
    json_object_set(r, "address", json_object_get(item, "address"));
    json_object_set(r, "port", json_object_get(item, "port"));
    if (own && set)
        json_object_set_new(r, "control_socket", json_string(set));
    else
        json_object_set_new(r, "control_socket", told && !own ? json_string(told) : json_sprintf("%s/replicator/control.sock", a->data_dir));
    json_object_set_new(r, "why", json_string(why));
    json_object_set_new(settings, "replicator", r);
}

/* Where the server is, or is going: it must answer before an agent is sent there. */
static int need_living(const struct known *k, const char *server, const char *name, json_t **item, struct err *e)
{
    *item = json_find(k->items, "name", name);
    if (*item && known_is_living(*item))
        return 0;
    return err_set(e, ERR_UNREACHABLE, "%.128s replicates to %.128s, which does not report: bring that replicator back, or give the server to another (slipway server move %.128s --to NAME)",
                   server, name, server);
}

static int place(struct api *a, struct store_tx *tx, const struct known *k, const struct workflow_claimed *what, json_t *settings, bool keep, struct err *e)
{
    CLEANUP(free_ptr) char *why = NULL, *beside = NULL;
    struct inventory_by by = {"factory", clock_now_us()};
    const char *name;

    if (known_choose(tx, k, what->server, NULL, NULL, &name, &why, e) < 0)
        return -1;
    beside = label_beside(k->settings, name);
    if (keep && placement_set(tx, what->server, name, beside, why, &by, e) < 0)
        return -1;
    set_replicator(a, k, settings, json_find(k->items, "name", name), why);
    return 0;
}

int placing_complete(struct api *a, struct store_tx *tx, const struct workflow_claimed *what, json_t *settings, struct err *e)
{
    CLEANUP(known_release) struct known k = {0};
    CLEANUP(json_free) json_t *said = NULL;
    bool pushes = strcmp(what->step, "push_agent") == 0, looks = strcmp(what->step, "prerequisites") == 0;
    struct placement p;
    const char *name;
    json_t *item;
    int found = what->server ? placement_get(tx, what->server, &p, e) : 0;

    if (found < 0 || (found && placement_json(tx, what->server, &said, e) < 0))
        return -1;
    if (!found && !pushes && !looks)
        return 0; /* of no server, or one that is nowhere yet: the factory's own, as the settings say */
    if ((found ? known_look : known_load)(a, tx, &k, e) < 0)
        return -1;
    if (!found) /* prerequisites only look at what would be chosen, and say themselves what is missing */
        return place(a, tx, &k, what, settings, pushes, pushes ? e : NULL) < 0 && pushes ? -1 : 0;
    name = pushes || looks ? placement_wanted(&p) : p.replicator;
    if (pushes && need_living(&k, what->server, name, &item, e) < 0)
        return -1;
    item = json_find(k.items, "name", name);
    if (!item)
        return err_set(e, ERR_UNREACHABLE, "%.128s replicates to %.128s, which is not enrolled", what->server, name);
    set_replicator(a, &k, settings, item, json_get_string(said, "why", ""));
    return 0;
}

/* ---- what replicators report ---- */

int placing_beside(struct store_tx *tx, const char *replicator, char **out, struct err *e)
{
    CLEANUP(json_free) json_t *settings = NULL;

    if (read_settings(tx, &settings, NULL, e) < 0)
        return -1;
    *out = label_beside(settings, replicator);
    return 0;
}

int placing_seen(struct store_tx *tx, const char *replicator, const char *beside, const json_t *said, const struct inventory_by *by, struct err *e)
{
    struct placement_report r = {.server = json_get_string(said, "server", ""), .replicator = replicator, .beside = beside, .connected = json_get_bool(said, "connected", false),
                                 .pointed = json_get_bool(said, "pointed", false)};

    return placement_seen(tx, &r, by, e);
}

int placing_orders(struct api *a, struct store_tx *tx, const char *replicator, const json_t *servers, json_t **out, struct err *e)
{
    CLEANUP(known_release) struct known k = {0};
    CLEANUP(json_free) json_t *places = json_object();
    json_t *said;
    size_t i;

    json_array_foreach(servers, i, said) {
        const char *server = json_get_string(said, "server", "");
        struct placement p;
        const json_t *item;
        int found = placement_get(tx, server, &p, e);

        if (found < 0 || (found && strcmp(placement_wanted(&p), replicator) != 0 && known_look(a, tx, &k, e) < 0))
            return -1;
        if (!found || strcmp(placement_wanted(&p), replicator) == 0)
            continue;
        item = json_find(k.items, "name", placement_wanted(&p));
        if (item && known_is_living(item) && json_object_get(item, "address"))
            json_object_set_new(places, server, json_pack("{s:s, s:O, s:O}", "replicator", placement_wanted(&p), "address", json_object_get(item, "address"), "port",
                                                          json_object_get(item, "port")));
    }
    *out = json_incref(places);
    return 0;
}

/* ---- moving ---- */

/* No step may be at work on the source or its copy; what says what is not done while it is cut over. */
static int check_idle(struct store_tx *tx, const char *server, const char *what, bool *has_instance, struct err *e)
{
    static const char *const early[] = {"NOT_READY", "READY_FOR_TEST", "TESTING", "READY_FOR_CUTOVER"};
    CLEANUP(store_rows_free) struct store_rows *rows = NULL, *tasks = NULL;
    bool is_early = false;
    int found = store_query(tx, &rows, e, "SELECT lifecycle, instance FROM server WHERE name = $1", "s", server);

    if (found < 0 || (found = store_next(rows, e)) < 0)
        return -1;
    if (!found)
        return err_set(e, ERR_NOT_FOUND, "there is no server %.128s", server);
    for (size_t i = 0; i < ARRAY_COUNT(early); i++)
        is_early |= strcmp(store_text(rows, 0), early[i]) == 0;
    if (!is_early)
        return err_set(e, ERR_WRONG_STATE, "%.128s is %s: only servers that are not being cut over are %s", server, store_text(rows, 0), what);
    *has_instance = !store_is_null(rows, 1);
    if (store_query(tx, &tasks, e, "SELECT t.id, t.name FROM task t JOIN run r ON r.id = t.run WHERE t.server = $1 AND t.state = 'RUNNING' AND r.template <> 'push_again'",
                    "s", server) < 0 || (found = store_next(tasks, e)) < 0)
        return -1;
    return found ? err_set(e, ERR_WRONG_STATE, "%s of %.128s is at work (task %s): wait for it, or cancel it", store_text(tasks, 1), server, store_text(tasks, 0)) : 0;
}

/* Nor may a machine run from it: that one reads the points where they are. */
static int check_movable(struct store_tx *tx, const char *server, struct err *e)
{
    bool has_instance;

    if (check_idle(tx, server, "moved", &has_instance, e) < 0)
        return -1;
    return has_instance ? err_set(e, ERR_WRONG_STATE, "a machine runs from a point of %.128s: terminate its test first", server) : 0;
}

/* A server is on its way there: whoever is chosen for the next one must have room for both. */
static int count_move(struct store_tx *tx, struct known *k, const char *server, const char *to, struct err *e)
{
    CLEANUP(free_ptr) char *document = NULL;
    int64_t bytes;

    if (known_read(tx, server, &document, &bytes, e) < 0)
        return -1;
    count_server(k->items, to, true, false, document, bytes);
    known_changed(k, to);
    return 0;
}

/* to NULL: the best one. *push: nobody can tell the agent on the wire, for the replicator that has it does not report. */
static int move_one(struct store_tx *tx, struct known *k, const char *server, const char *to, const struct inventory_by *by, const char **target, bool *push, struct err *e)
{
    CLEANUP(free_ptr) char *why = NULL;
    struct placement p = {0};
    const json_t *old, *item;
    int found = placement_get(tx, server, &p, e);

    if (found <= 0)
        return found < 0 ? -1 : err_set(e, ERR_WRONG_STATE, "%.128s replicates to nobody yet: it is placed when its agent is pushed", server);
    item = json_find(k->items, "name", to ? to : p.target);
    if (item && p.target[0] && (!to || strcmp(to, p.target) == 0)) {
        *target = json_get_string(item, "name", ""); /* it goes there already */
    } else if (item && to && strcmp(to, p.replicator) == 0) {
        *target = json_get_string(item, "name", ""); /* it stays, or comes back */
        why = xstrdup("a person's word");
    } else if (check_movable(tx, server, e) < 0 || known_choose(tx, k, server, to, p.replicator, target, &why, e) < 0 || count_move(tx, k, server, *target, e) < 0) {
        return -1;
    }
    old = json_find(k->items, "name", p.seen_at[0] ? p.seen_at : p.replicator);
    *push = strcmp(p.seen_at, *target) != 0 && !(old && known_is_living(old));
    return why ? placement_move(tx, server, *target, why, by, e) : 0;
}

/* Its replicator is lost, and a person says so: it is placed where its second copy is, whose points are what is launched from now on. */
static int take_copy(struct store_tx *tx, struct known *k, const char *server, const char *to, const struct inventory_by *by, const char **target, bool *push, struct err *e)
{
    CLEANUP(free_ptr) char *why = NULL, *point = NULL, *beside = NULL;
    struct placement p = {0};
    const json_t *old, *item;
    char name[LIMIT_NAME_BYTES + 1];
    int found = placement_get(tx, server, &p, e);

    if (found <= 0)
        return found < 0 ? -1 : err_set(e, ERR_WRONG_STATE, "%.128s replicates to nobody yet: it is placed when its agent is pushed", server);
    old = json_find(k->items, "name", p.replicator);
    if (old && known_is_living(old))
        return err_set(e, ERR_WRONG_STATE, "%.128s reports, so it is not lost: move the server while it runs (without --lost)", p.replicator);
    if (copying_last(tx, server, &p, to, name, &point, e) < 0 || check_movable(tx, server, e) < 0)
        return -1;
    item = json_find(k->items, "name", name);
    if (!item || !known_is_living(item))
        return err_set(e, ERR_UNREACHABLE, "%.128s has the second copy, and does not report: bring that replicator back first", name);
    *target = json_get_string(item, "name", "");
    why = xasprintf("%s was lost, and its second copy is here: the newest copied point was %s", p.replicator, point);
    beside = label_beside(k->settings, *target);
    *push = strcmp(p.seen_at, *target) != 0;
    return placement_set(tx, server, *target, beside, why, by, e) < 0 ? -1 : second_copy_end(tx, server, by, e);
}

/* The agent is pushed again, with its new replicator's address. After the transaction: a run is one of its own. */
static int push_again(struct api *a, const char *server, const char *actor, json_t *moving, struct err *e)
{
    char run[WORKFLOW_ID_SIZE];

    if (workflow_push_again(a->workflow, server, actor, run, e) < 0)
        return err_wrap(e, "%s", server);
    return json_object_set_new(moving, "run", json_string(run));
}

int route_server_move(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(known_release) struct known k = {0};
    CLEANUP(json_free) json_t *moving = NULL;
    struct inventory_by by = api_by(c);
    const char *server = call_param(c, "server"), *to = json_get_string(c->body, "to", NULL), *target;
    bool push = false, lost = json_get_bool(c->body, "lost", false);

    if (api_write(c, &tx, e) < 0 || known_load(api_of(c), tx, &k, e) < 0 || (lost ? take_copy : move_one)(tx, &k, server, to, &by, &target, &push, e) < 0 ||
        store_commit(&tx, e) < 0)
        return -1;
    moving = json_pack("{s:s, s:s, s:n}", "server", server, "to", target, "run");
    if (push && push_again(api_of(c), server, by.actor, moving, e) < 0)
        return -1;
    return reply_json(c, 202, json_incref(moving));
}

int route_server_push(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *started = json_object();
    const char *server = call_param(c, "server");
    struct placement p;
    bool has_instance;
    int found;

    if (api_read(c, &tx, e) < 0 || check_idle(tx, server, "given their agent again", &has_instance, e) < 0 || (found = placement_get(tx, server, &p, e)) < 0)
        return -1;
    if (!found)
        return err_set(e, ERR_WRONG_STATE, "%.128s has no agent yet: its wave pushes it", server);
    store_rollback(&tx);
    return push_again(api_of(c), server, c->who.text, started, e) < 0 ? -1 : reply_json(c, 202, json_incref(started));
}

static int drain_servers(struct store_tx *tx, struct known *k, const char *name, const char *to, const struct inventory_by *by, json_t *moving, json_t *staying, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *servers = json_array();
    json_t *server;
    size_t i;
    int rc = store_query(tx, &rows, e, "SELECT p.server FROM placement p JOIN server s ON s.name = p.server WHERE p.replicator = $1"
                                       " AND s.lifecycle NOT IN ('DISCONNECTED', 'ARCHIVED') ORDER BY p.server", "s", name);

    while (rc >= 0 && (rc = store_next(rows, e)) > 0)
        json_array_append_new(servers, json_string(store_text(rows, 0)));
    if (rc < 0)
        return -1;
    json_array_foreach(servers, i, server) {
        const char *target = NULL;
        struct err why = {0};
        bool push = false;

        if (move_one(tx, k, json_string_value(server), to, by, &target, &push, &why) == 0)
            json_array_append_new(moving, json_pack("{s:O, s:s, s:b, s:n}", "server", server, "to", target, "push", push, "run"));
        else if (why.kind == ERR_WRONG_STATE || why.kind == ERR_NO_SPACE || why.kind == ERR_UNREACHABLE)
            json_array_append_new(staying, json_pack("{s:O, s:s}", "server", server, "reason", why.message));
        else
            return err_set(e, why.kind, "%s", why.message);
    }
    return 0;
}

int route_replicator_drain(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(known_release) struct known k = {0};
    CLEANUP(json_free) json_t *moving = json_array(), *staying = json_array();
    struct inventory_by by = api_by(c);
    const char *name = call_param(c, "name"), *to = json_get_string(c->body, "to", NULL);
    json_t *one;
    size_t i;

    if (api_write(c, &tx, e) < 0 ||
        store_run(tx, e, "INSERT INTO replicator_drained (name, actor, since_us) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING", "ssi", name, by.actor, by.now_us) < 0 ||
        known_load(api_of(c), tx, &k, e) < 0)
        return -1;
    if (!json_find(k.items, "name", name))
        return err_set(e, ERR_NOT_FOUND, "there is no replicator %.128s", name);
    if (event_add(tx, &(struct event){.actor = by.actor, .kind = "replicator.drained", .entity = "replicator", .entity_id = name}, by.now_us, e) < 0 ||
        drain_servers(tx, &k, name, to, &by, moving, staying, e) < 0 || store_commit(&tx, e) < 0)
        return -1;
    json_array_foreach(moving, i, one)
        if (json_get_bool(one, "push", false) && push_again(api_of(c), json_get_string(one, "server", ""), by.actor, one, e) < 0)
            return -1;
    return reply_json(c, 202, json_pack("{s:O, s:O}", "moving", moving, "staying", staying));
}

int route_replicator_undrain(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct inventory_by by = api_by(c);
    const char *name = call_param(c, "name");
    int64_t removed;

    if (api_write(c, &tx, e) < 0 || (removed = store_run(tx, e, "DELETE FROM replicator_drained WHERE name = $1", "s", name)) < 0)
        return -1;
    if (!removed)
        return err_set(e, ERR_NOT_FOUND, "the replicator %.128s is not drained", name);
    if (event_add(tx, &(struct event){.actor = by.actor, .kind = "replicator.undrained", .entity = "replicator", .entity_id = name}, by.now_us, e) < 0 || store_commit(&tx, e) < 0)
        return -1;
    return reply_empty(c, 204);
}
