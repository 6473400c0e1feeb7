/* doctor: the tasks of phase 1 (process.md), line by line: whether each holds, what was seen, and what to do where it doesn't. Every line
 * fails closed: what can't be seen does not hold. What needs a machine's hands (a probe on the target, a look from the source network)
 * was done by the newest run of its template (POST /v1/probes); its evidence is repeated here with its age. */
#include "api/api.h"
#include "api/children.h"
#include "api/clocks.h"
#include "base/clock.h"

#include <string.h>
#include <sys/timex.h>

#define SKEW_MOST_US (2 * US_PER_S)
#define SEEN_WITHIN_US (60 * US_PER_S)
#define STATUS_WITHIN_US (15 * US_PER_S)
#define BACKUP_MAX_AGE_S 86400
#define PROBE_MAX_AGE_US (7 * 86400 * US_PER_S)
#define VAULT_ROOM_LEAST_BYTES (INT64_C(1) << 30)
#define VAULT_SPEED_LEAST_BYTES_PER_S (INT64_C(5) << 20)

struct exam {
    struct api *api;
    struct store_tx *tx;
    json_t *checks, *settings;
    int64_t now_us;
    bool passed;
};

__attribute__((format(printf, 7, 8))) static void line(struct exam *x, const char *phase, const char *name, const char *title, bool passed,
                                                       const char *advice, const char *format, ...)
{
    char evidence[1024];
    json_t *text;
    va_list args;

    va_start(args, format);
    vsnprintf(evidence, sizeof evidence, format, args);
    va_end(args);
    x->passed &= passed;
    text = json_string(evidence); /* NULL: not UTF-8 */
    json_array_append_new(x->checks, json_pack("{s:s, s:s, s:s, s:b, s:o, s:s?}", "phase", phase, "name", name, "title", title, "passed", passed,
                                               "evidence", text ? text : json_string("(what was seen is not UTF-8)"), "advice",
                                               passed ? NULL : advice));
}

/* --- deploy the factory --- */

static void check_api(struct exam *x)
{
    char since[CLOCK_TEXT_SIZE], why[200] = "";
    bool up = !x->api->children || children_up(x->api->children, why, sizeof why);

    line(x, "deploy", "api", "The API answers", true, NULL, "%s answers, since %s", x->api->url, clock_format(x->api->started_us, since));
    line(x, "deploy", "processes", "The factory's own runner and replicator run", up, "read the log of slipway serve", "%s",
         up ? x->api->children ? "all are running" : "none were asked for" : why);
}

static void check_store(struct exam *x)
{
    struct err e = {0};
    bool writable = api_can_write(x->api, &e) == 0;

    line(x, "deploy", "store", "The store is writable", writable, "look at the disk that holds the data folder: full, read-only, or failing",
         "%s", writable ? "a transaction was committed to disk just now" : e.message);
}

static void check_backup(struct exam *x)
{
    int64_t max_age_s = json_get_int(json_object_get(x->settings, "backup"), "max_age_s", BACKUP_MAX_AGE_S), at_us = 0, age_s;
    char at[CLOCK_TEXT_SIZE];
    struct err e = {0};
    int found = store_one_int(x->tx, &at_us, &e, "SELECT MAX(at_us) FROM backup", "");

    if (found <= 0 || !at_us) {
        line(x, "deploy", "backup", "The store is backed up", false, "make one now, and regularly: slipway backup", "%s",
             found < 0 ? e.message : "there is no backup");
        return;
    }
    age_s = (x->now_us - at_us) / US_PER_S;
    line(x, "deploy", "backup", "The store is backed up", age_s <= max_age_s, "make one now, and regularly: slipway backup",
         "the newest backup is of %s, %lld s ago (at most %lld s are allowed)", clock_format(at_us, at), (long long)age_s, (long long)max_age_s);
}

/* Right is a clock that the kernel says is held by NTP, or that agrees with others' clocks. A disagreement is wrong in any case. */
static void check_clock(struct exam *x)
{
    struct timex state = {0};
    bool synchronised = adjtimex(&state) != TIME_ERROR && !(state.status & STA_UNSYNC);
    char worst[LIMIT_NAME_BYTES + 1];
    int64_t skew_us = 0;
    int count = clocks_worst(x->api->clocks, x->now_us - SEEN_WITHIN_US, worst, sizeof worst, &skew_us);
    bool agrees = skew_us <= SKEW_MOST_US && skew_us >= -SKEW_MOST_US;
    const char *kernel = synchronised ? "the kernel holds it by NTP" : "the kernel does not say that NTP holds it";

    if (count)
        line(x, "deploy", "clock", "The clock is right", agrees, "set both clocks by NTP", "%s; %d runner%s compared, the furthest, %s, %lld ms away", kernel,
             count, count > 1 ? "s" : "", worst, (long long)(skew_us / US_PER_MS));
    else
        line(x, "deploy", "clock", "The clock is right", synchronised, "start an NTP service on this machine, or start a runner to compare with", "%s; "
             "no runner's clock to compare with", kernel);
}

/* One line for each sort of which some end soon. */
static bool check_ending(struct exam *x, const char *kind, const char *title, const char *advice, const json_t *ending)
{
    char names[700] = "";
    size_t i, used = 0;
    int count = 0;
    bool left_out = false;
    json_t *one;

    json_array_foreach(ending, i, one) {
        const char *name = json_get_string(one, "name", "?"), *at = json_get_string(one, "expires", "?");

        if (strcmp(json_get_string(one, "kind", ""), kind) != 0)
            continue;
        count++;
        if (used + strlen(name) + strlen(at) + 4 >= sizeof names)
            left_out = true;
        else
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%s %.10s", used ? ", " : "", name, at);
    }
    if (count)
        line(x, "deploy", "certificates", title, false, advice, "%d %s certificate%s end%s within 30 days, or did: %s%s", count, kind, count > 1 ? "s" : "",
             count > 1 ? "" : "s", names, left_out ? " and others" : "");
    return count > 0;
}

/* Who holds one that has ended is refused: agents turn silent, the console is not believed. */
static void check_certificates(struct exam *x)
{
    static const char title[] = "No certificate ends within 30 days";
    static const struct {
        const char *kind, *advice;
    } kinds[] = {
        {"agent", "push each agent again, which gives it another one: slipway server push SERVER"},
        {"replicator", "make a token (slipway enrol replicator NAME), stop it, remove replicator/identity in its --data, and start it with the token;"
                       " the factory's own, embedded, gets another one when slipway serve is started again; one that is gone: slipway replicator revoke NAME"},
        {"runner", "make a token (slipway enrol runner NAME, with its labels), stop it, remove the folder identity in its --state, and start it with the token;"
                   " the factory's own, embedded, gets another one when slipway serve is started again; one that is gone: slipway runner revoke NAME"},
    };
    CLEANUP(json_free) json_t *ending = NULL;
    char api[CLOCK_TEXT_SIZE], ca[CLOCK_TEXT_SIZE];
    int64_t until_us = x->now_us + IDENTITY_RENEW_US, api_us, ca_us;
    struct err e = {0};
    bool any = false;

    if (identity_ending_json(x->tx, until_us, &ending, &e) < 0 || identity_own_ends(x->api->identity, &api_us, &ca_us, &e) < 0) {
        line(x, "deploy", "certificates", title, false, "look at the log of slipway serve", "%s", e.message);
        return;
    }
    clock_format(api_us, api);
    clock_format(ca_us, ca);
    for (size_t k = 0; k < ARRAY_COUNT(kinds); k++)
        any |= check_ending(x, kinds[k].kind, title, kinds[k].advice, ending);
    if (api_us <= until_us)
        line(x, "deploy", "certificates", title, false, "start slipway serve again: it makes another one then", "the API's own ends %s", api);
    if (ca_us <= until_us)
        line(x, "deploy", "certificates", title, false,
             "nothing renews it: begin a new factory before that day, and enrol runners, replicators and agents there", "the factory's CA ends %s", ca);
    if (!any && api_us > until_us && ca_us > until_us)
        line(x, "deploy", "certificates", title, true, NULL, "none of runners, replicators or agents; the API's ends %s, the CA's %s", api, ca);
}

/* --- runs of probes --- */

int doctor_last_run(struct store_tx *tx, const char *template, json_t **out, struct err *e)
{
    CLEANUP(json_free) json_t *runs = NULL;
    json_t *run, *task;
    size_t i, k;

    if (workflow_runs_json(tx, NULL, LIMIT_PAGE_ITEMS, NULL, &runs, e) < 0)
        return -1;
    json_array_foreach(json_object_get(runs, "items"), i, run) {
        CLEANUP(json_free) json_t *whole = NULL;

        if (strcmp(json_get_string(run, "template", ""), template) != 0)
            continue;
        if (workflow_run_json(tx, json_get_string(run, "id", ""), true, &whole, e) <= 0)
            return -1;
        json_array_foreach(json_object_get(whole, "tasks"), k, task) {
            CLEANUP(json_free) json_t *full = NULL;

            if (workflow_task_json(tx, json_get_string(task, "id", ""), true, &full, e) <= 0)
                return -1;
            json_object_update(task, full);
        }
        *out = json_incref(whole);
        return 0;
    }
    return 0;
}

/* The evidence of a probe's task: one line each, so that the reader sees what was looked at. */
static void evidence_lines(struct exam *x, const json_t *task, const char *phase, const char *name, const char *advice, bool believed)
{
    const json_t *evidence = json_object_get(task, "evidence");
    json_t *one;
    size_t i;

    json_array_foreach(evidence, i, one) {
        bool passed = json_get_bool(one, "passed", false) && believed;
        char own[80];

        snprintf(own, sizeof own, "%s.%zu", name, i + 1);
        line(x, phase, own, json_get_string(one, "name", "?"), passed, advice, "%s",
             json_get_string(one, "text", json_get_string(one, "evidence", "no evidence")));
    }
}

static void check_probe(struct exam *x, const char *template, const char *phase, const char *title, const char *advice)
{
    CLEANUP(json_free) json_t *run = NULL;
    struct err e = {0};
    const json_t *task;
    const char *state, *finished, *words;
    int64_t finished_us = 0;
    bool fresh, good;

    if (doctor_last_run(x->tx, template, &run, &e) < 0 || !run) {
        line(x, phase, template, title, false, advice, "%s", e.kind ? e.message : "it was never tried");
        return;
    }
    task = json_array_get(json_object_get(run, "tasks"), 0);
    state = json_get_string(task, "state", "unknown");
    finished = json_get_string(task, "finished", NULL);
    fresh = finished && clock_parse(finished, &finished_us, &e) == 0 && x->now_us - finished_us < PROBE_MAX_AGE_US;
    good = strcmp(state, "SUCCEEDED") == 0 && fresh && json_array_size(json_object_get(task, "evidence")) > 0;
    words = json_get_string(json_object_get(task, "error"), "message", "");
    line(x, phase, template, title, good, advice, "the run %s: %s%s%s%s%s", json_get_string(run, "id", "?"), state, finished ? ", finished " : "",
         finished ? finished : "", *words ? ": " : "", words);
    if (finished)
        evidence_lines(x, task, phase, template, advice, fresh);
}

/* --- build a runner, set up replication --- */

static bool seen_within(const json_t *peer, const char *member, int64_t now_us, int64_t limit_us, int64_t *age_us)
{
    int64_t at_us;
    const char *at = json_get_string(peer, member, NULL);

    if (!at || clock_parse(at, &at_us, NULL) < 0)
        return false;
    *age_us = now_us - at_us;
    return *age_us <= limit_us;
}

static bool has_label(const json_t *peer, const char *prefix)
{
    json_t *one;
    size_t i;

    json_array_foreach(json_object_get(peer, "labels"), i, one)
        if (json_is_string(one) && strncmp(json_string_value(one), prefix, strlen(prefix)) == 0)
            return true;
    return false;
}

static bool has_exactly(const json_t *peer, const char *label)
{
    json_t *one;
    size_t i;

    json_array_foreach(json_object_get(peer, "labels"), i, one)
        if (json_is_string(one) && strcmp(json_string_value(one), label) == 0)
            return true;
    return false;
}

/* One line for each kind of work: somebody who does it was heard of within a minute. */
static void check_runners(struct exam *x)
{
    static const struct {
        const char *label, *name, *title, *advice;
    } kinds[] = {
        {"source", "source", "A runner stands in the source network",
         "make a token (slipway enrol runner NAME --label source:NETWORK) and start slipway runner there"},
        {"target", "target", "A runner works on the target", "start slipway serve without --no-runner, or a runner with the label target"},
        {"replicator", "beside_replicator", "A runner stands beside the replicator", "start a runner with the label replicator beside it"},
    };
    CLEANUP(json_free) json_t *peers = NULL;
    struct err e = {0};
    json_t *peer;
    size_t i;

    if (identity_peers_json(x->api->identity, x->tx, ACTOR_RUNNER, &peers, &e) < 0)
        peers = json_array();
    for (size_t k = 0; k < ARRAY_COUNT(kinds); k++) {
        char names[300] = "";
        int64_t age_us;
        int online = 0;

        json_array_foreach(peers, i, peer) {
            if (!has_label(peer, kinds[k].label) || !seen_within(peer, "last_seen", x->now_us, SEEN_WITHIN_US, &age_us))
                continue;
            online++;
            snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s, heard of %lld s ago", *names ? "; " : "",
                     json_get_string(peer, "name", "?"), (long long)(age_us / US_PER_S));
        }
        line(x, "runner", kinds[k].name, kinds[k].title, online > 0, kinds[k].advice, "%s",
             online ? names : e.kind ? e.message : "no enrolled runner with that label was heard of in the last minute");
    }
}

static void check_vault(struct exam *x, const json_t *replicator)
{
    const json_t *vault = json_object_get(replicator, "vault");
    int64_t free_bytes = json_get_int(vault, "free_bytes", -1), damaged = json_get_int(vault, "chunks_damaged", -1);
    int64_t speed = json_get_int(vault, "write_bytes_per_s", -1);
    const char *name = json_get_string(replicator, "name", "?");

    if (free_bytes < 0)
        line(x, "replication", "vault_room", "The vault has room", false, "look at the replicator's log", "the replicator %s does not tell its vault's room", name);
    else
        line(x, "replication", "vault_room", "The vault has room", free_bytes >= VAULT_ROOM_LEAST_BYTES,
             "give the replicator's folder a larger disk, or drop staged data", "the vault of %s has %lld MiB free (at least %lld are needed)", name,
             (long long)(free_bytes >> 20), (long long)(VAULT_ROOM_LEAST_BYTES >> 20));
    if (speed <= 0) /* 0: its trial of the disk failed */
        line(x, "replication", "vault_speed", "The vault's disk is fast enough", false, "look at the replicator's log",
             "the replicator %s does not tell its disk's speed", name);
    else
        line(x, "replication", "vault_speed", "The vault's disk is fast enough", speed >= VAULT_SPEED_LEAST_BYTES_PER_S,
             "put the replicator's folder on a faster disk", "%lld MiB/s were written and synced (at least %lld are needed)",
             (long long)(speed >> 20), (long long)(VAULT_SPEED_LEAST_BYTES_PER_S >> 20));
    if (damaged < 0)
        line(x, "replication", "vault_sound", "The vault is sound", false, "look at the replicator's log",
             "the replicator %s does not tell whether its vault is damaged", name);
    else
        line(x, "replication", "vault_sound", "The vault is sound", damaged == 0,
             "a disk may be failing: look at the replicator's log before anything is launched", "%lld damaged chunks are known", (long long)damaged);
}

/* Only of one that has a bucket. */
static void check_bucket(struct exam *x, const json_t *replicator)
{
    const json_t *bucket = json_object_get(json_object_get(replicator, "vault"), "bucket"), *error = json_object_get(bucket, "error");

    if (json_is_object(bucket))
        line(x, "replication", "vault_bucket", "The vault's bucket takes what is full", !json_is_object(error),
             "mend the way to the store: what is full stays on this machine meanwhile, and fills its disk", "%s: %lld segments are there, %lld wait%s%s",
             json_get_string(bucket, "at", "?"), (long long)json_get_int(bucket, "uploaded_segments", 0), (long long)json_get_int(bucket, "waiting_segments", 0),
             json_is_object(error) ? ": " : "", json_get_string(error, "message", ""));
}

/* Steps that touch a copy are a runner's beside its replicator: the factory's own has one without a name. */
static void check_beside(struct exam *x, const json_t *replicator)
{
    CLEANUP(json_free) json_t *peers = NULL;
    CLEANUP(free_ptr) char *label = xasprintf("replicator:%s", json_get_string(replicator, "name", "?"));
    const json_t *settings = json_object_get(x->settings, "replicator");
    bool found = strcmp(json_get_string(replicator, "name", "?"), json_get_string(settings, "name", "embedded")) == 0;
    int64_t age_us;
    json_t *peer;
    size_t i;

    if (found || json_get_int(replicator, "servers", 0) == 0)
        return;
    if (identity_peers_json(x->api->identity, x->tx, ACTOR_RUNNER, &peers, NULL) < 0)
        peers = json_array();
    json_array_foreach(peers, i, peer)
        found |= has_exactly(peer, label) && seen_within(peer, "last_seen", x->now_us, SEEN_WITHIN_US, &age_us);
    line(x, "replication", "runner_beside", "A runner stands beside each replicator that has servers", found,
         "start slipway runner on its machine, enrolled with that label and with target", "%s: %s", label, found ? "there is one" : "no runner with that label was heard of in the last minute");
}

/* Those that have servers must be there; of those that are, their vaults are looked at. */
static void check_each(struct exam *x, const json_t *list)
{
    json_t *one;
    size_t i;

    json_array_foreach(list, i, one) {
        int64_t servers = json_get_int(one, "servers", 0);

        if (json_get_bool(one, "living", false)) {
            check_vault(x, one);
            check_bucket(x, one);
            check_beside(x, one);
        } else if (servers) {
            line(x, "replication", "replicator_silent", "Every replicator that has servers reports", false,
                 "bring it back; where it is lost for good, give its servers to others: slipway replicator drain NAME", "%s has %lld servers and does not report",
                 json_get_string(one, "name", "?"), (long long)servers);
        }
    }
}

static void check_replicators(struct exam *x)
{
    CLEANUP(json_free) json_t *list = NULL;
    const json_t *found = NULL;
    struct err e = {0};
    int64_t age_us = 0;
    json_t *one;
    size_t i;

    if (replicators_json(x->api, x->tx, &list, &e) < 0)
        list = json_array();
    json_array_foreach(list, i, one)
        if (!found && seen_within(one, "status_at", x->now_us, STATUS_WITHIN_US, &age_us))
            found = one;
    if (found) {
        line(x, "replication", "replicator", "A replicator is up", true, NULL, "%s reported %lld ms ago", json_get_string(found, "name", "?"),
             (long long)(age_us / US_PER_MS));
        check_each(x, list);
        return;
    }
    line(x, "replication", "replicator", "A replicator is up", false,
         "start slipway serve without --no-replicator, or enrol and start slipway replicator", "%s",
         e.kind ? e.message : "no replicator reported within 15 s");
}

static void check_target_setting(struct exam *x)
{
    const char *name = json_get_string(json_object_get(x->settings, "target"), "name", NULL);

    line(x, "target", "target", "A target is chosen", name != NULL, "slipway settings set target '{\"name\":\"local-qemu\",\"settings\":{…}}'", "%s",
         name ? name : "the setting \"target\" is missing");
}

int doctor_json(struct api *a, json_t **out, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *settings = NULL, *checks = json_array();
    struct exam x = {.api = a, .checks = checks, .now_us = clock_now_us(), .passed = true};
    int64_t version;

    check_api(&x);
    check_store(&x); /* a write transaction of its own: before ours begins */
    if (store_begin(a->store, STORE_READ, &tx, e) < 0 || settings_read(tx, &settings, &version, e) < 0)
        return -1;
    x.tx = tx;
    x.settings = settings;
    check_backup(&x);
    check_clock(&x);
    check_certificates(&x);
    check_runners(&x);
    check_probe(&x, "source_probe", "runner", "The source network and the replicator are reached from the runner",
                "slipway target probe looks; then see the lines below");
    check_replicators(&x);
    check_target_setting(&x);
    check_probe(&x, "target_probe", "target", "A probe machine boots and is removed", "slipway target probe launches one; then see the lines below");
    *out = json_pack("{s:b, s:O}", "passed", x.passed, "checks", checks);
    return 0;
}
