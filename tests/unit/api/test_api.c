/* The API over its rooms, in one process: every route's access, sessions, versions, faults, enrolment, a task from claim to finish. */
#include "served.h"

/* --- access, by the table --- */

/* The template with every {…} replaced. */
static void path_of(const struct http_route *r, char path[300])
{
    size_t size = 0;

    for (const char *at = r->path; *at; at++)
        if (*at == '{') {
            size += (size_t)sprintf(path + size, "none");
            at = strchr(at, '}');
        } else {
            path[size++] = *at;
        }
    path[size] = '\0';
}

static bool for_people(const struct http_route *r)
{
    return r->access >= ACCESS_VIEWER && r->access <= ACCESS_ADMIN;
}

static void test_access_of(const struct http_route *r)
{
    const char *method = httpd_method_names[r->method], *body = r->input == INPUT_JSON ? "{}" : NULL;
    char path[300];

    path_of(r, path);
    if (r->access == ACCESS_PUBLIC)
        return;
    is_int(status_as("slip_nobody", method, path, body), 401, "%s %s: a token that is none", method, path);
    struct answer a = ask_json(method, path, body ? body : "");
    ok(a.status == 401 && answer_has(&a, "\"kind\":\"unauthenticated\""), "%s %s: nobody", method, path);
    answer_release(&a);
    if (r->access == ACCESS_OPERATOR)
        is_int(status_as(viewer, method, path, body), 403, "%s %s: a viewer", method, path);
    if (r->access == ACCESS_ADMIN)
        is_int(status_as(operator, method, path, body), 403, "%s %s: an operator who is no admin", method, path);
    if (r->access == ACCESS_READER) {
        is_int(status_as(viewer, method, path, body), 404, "%s %s: a viewer may look", method, path);
        is_int(status_as_peer("runner-dc1", method, path, body), 404, "%s %s: and so may a runner", method, path);
        is_int(status_as_peer("replicator-r1", method, path, body), 403, "%s %s: a replicator's certificate", method, path);
        return;
    }
    if (for_people(r))
        is_int(status_as_peer("runner-dc1", method, path, body), 403, "%s %s: a runner's certificate", method, path);
    else
        is_int(status_as(admin, method, path, body), 401, "%s %s: a person's token", method, path);
    if (r->access == ACCESS_RUNNER) {
        is_int(status_as_peer("replicator-r1", method, path, body), 403, "%s %s: a replicator's certificate", method, path);
        is_int(status_as_peer("agent-web01", method, path, body), 403, "%s %s: an agent's certificate", method, path);
    }
    if (r->access == ACCESS_REPLICATOR)
        is_int(status_as_peer("runner-dc1", method, path, body), 403, "%s %s: a runner's certificate", method, path);
}

/* --- the document --- */

static void check_refs(const json_t *node, const json_t *schemas, int *broken)
{
    const char *name;
    json_t *member;
    size_t i;

    if (json_is_array(node))
        json_array_foreach(node, i, member)
            check_refs(member, schemas, broken);
    json_object_foreach((json_t *)(uintptr_t)node, name, member) {
        if (strcmp(name, "$ref") == 0)
            *broken += !json_object_get(schemas, strrchr(json_string_value(member), '/') + 1);
        check_refs(member, schemas, broken);
    }
}

static void test_openapi(void)
{
    struct answer a = ask("GET", "/openapi.json");
    CLEANUP(json_free) json_t *document = json_of(&a), *ids = json_object();
    json_t *paths = json_object_get(document, "paths"), *operations, *operation;
    size_t listed = 0, missing = 0;
    const char *path, *method;
    int broken = 0;

    is_str(json_get_string(document, "openapi", ""), "3.1.0", "OpenAPI 3.1");
    for (size_t i = 0; i < api_route_count; i++) {
        char lower[8] = "";

        for (size_t k = 0; httpd_method_names[api_routes[i].method][k]; k++)
            lower[k] = (char)(httpd_method_names[api_routes[i].method][k] | 0x20);
        missing += !json_object_get(json_object_get(paths, api_routes[i].path), lower);
    }
    json_object_foreach(paths, path, operations)
        json_object_foreach(operations, method, operation) {
            listed++;
            json_object_set_new(ids, json_get_string(operation, "operationId", ""), json_true());
        }
    ok(missing == 0 && listed == api_route_count, "it has every route and no other (%zu)", listed);
    is_int(json_object_size(ids), listed, "operation ids are unique");
    check_refs(document, json_object_get(json_object_get(document, "components"), "schemas"), &broken);
    is_int(broken, 0, "its references lead somewhere");
}

/* --- sessions --- */

static void test_sessions(void)
{
    struct answer a = ask_json("POST", "/v1/enrol", "{\"token\":\"guess\",\"csr_pem\":\"x\"}");
    CLEANUP(free_ptr) char *cookie = NULL, *csrf = NULL;
    CLEANUP(json_free) json_t *session = NULL;

    is_int(a.status, 401, "a guessed enrolment token");
    answer_release(&a);
    a = ask_json("POST", "/v1/sessions", "{\"name\":\"olga\",\"password\":\"wrong horse\"}");
    ok(a.status == 401 && !strstr(a.body.data, "olga"), "a wrong password");
    answer_release(&a);
    a = ask_json("POST", "/v1/sessions", "{\"name\":\"olga\",\"password\":\"correct horse\"}");
    is_int(a.status, 201, "signs in");
    ok(strstr(answer_header(&a, "Set-Cookie"), "; HttpOnly; Secure; SameSite=Strict"), "with a cookie that scripts and other sites can't use");
    cookie = xasprintf("Cookie: theme=dark; %.*s", (int)strcspn(answer_header(&a, "Set-Cookie"), ";"), answer_header(&a, "Set-Cookie"));
    session = json_of(&a);
    csrf = xasprintf("X-CSRF-Token: %s", json_get_string(session, "csrf", ""));
    a = ask_with(&(struct question){.method = "GET", .path = "/v1/me", .headers = {cookie}});
    ok(a.status == 200 && answer_has(&a, "\"name\":\"olga\",\"role\":\"operator\",\"admin\":false,\"csrf\":\""), "who am I");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "POST", .path = "/v1/waves", .body = "{\"name\":\"x\"}", .headers = {cookie, "Content-Type: application/json"}});
    is_int(a.status, 403, "a change by cookie needs the CSRF token");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "POST", .path = "/v1/waves", .body = "{\"name\":\"by-cookie\"}", .headers = {cookie, csrf, "Content-Type: application/json"}});
    is_int(a.status, 201, "and is made with it");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "DELETE", .path = "/v1/sessions/current", .headers = {cookie, csrf}});
    is_int(a.status, 204, "signs out");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "GET", .path = "/v1/me", .headers = {cookie}});
    is_int(a.status, 401, "and is out");
    answer_release(&a);
}

static void test_tokens(void)
{
    struct answer a = as(viewer, "POST", "/v1/tokens", "{\"name\":\"short\",\"expires_in\":1}");
    CLEANUP(json_free) json_t *made = json_of(&a), *lasting = NULL;
    CLEANUP(free_ptr) char *listed = NULL, *gone = NULL;
    char own[IDENTITY_TOKEN_SIZE];

    snprintf(own, sizeof own, "%s", json_get_string(made, "token", ""));
    is_int(status_as(own, "GET", "/v1/me", NULL), 200, "a token of one's own");
    a = as(viewer, "GET", "/v1/tokens", NULL);
    listed = xasprintf("\"id\":\"%s\"", json_get_string(made, "id", "none"));
    ok(strlen(json_get_string(made, "id", "")) == 16 && answer_has(&a, listed) && answer_has(&a, json_get_string(made, "expires", "never")),
       "is told with the id and the end that the list has: %s", listed);
    answer_release(&a);
    is_int(status_as(own, "POST", "/v1/waves", "{\"name\":\"x\"}"), 403, "has its owner's rights");
    clock_sleep_us(1200 * US_PER_MS);
    a = as(own, "GET", "/v1/me", NULL);
    ok(a.status == 401 && answer_has(&a, "expired"), "an expired token, and it says so");
    answer_release(&a);
    a = as(viewer, "POST", "/v1/tokens", "{\"name\":\"lasting\"}");
    lasting = json_of(&a);
    gone = xasprintf("/v1/tokens/%s", json_get_string(lasting, "id", "none"));
    ok(json_is_null(json_object_get(lasting, "expires")) && status_as(viewer, "DELETE", gone, NULL) == 204 &&
       status_as(json_get_string(lasting, "token", ""), "GET", "/v1/me", NULL) == 401, "its id removes it");
    is_int(status_as(viewer, "POST", "/v1/tokens", "{\"name\":\"x\",\"expires_in\":\"soon\"}"), 400, "a time that is none");
    is_int(status_as(viewer, "PUT", "/v1/users/olga/password", "{\"password\":\"another horse\"}"), 403, "somebody else's password");
    a = as(admin, "POST", "/v1/users", "{\"name\":\"new\",\"role\":\"king\"}");
    ok(a.status == 422 && answer_has(&a, "\"field\":\"role\"") && answer_has(&a, "\"field\":\"password\""), "every fault of a new user");
    answer_release(&a);
}

/* --- inventory --- */

static void test_waves(void)
{
    struct answer a = as(operator, "POST", "/v1/waves", "{\"name\":\"w1\",\"title\":\"First\"}");
    CLEANUP(free_ptr) char *token = xasprintf("Authorization: Bearer %s", operator);

    is_int(a.status, 201, "a wave");
    is_str(answer_header(&a, "ETag"), "\"1\"", "with its version as ETag");
    ok(answer_has(&a, "\"run\":null") && answer_has(&a, "\"stage\":\"build\""), "and what the workflow knows of it");
    answer_release(&a);
    is_int(status_as(operator, "POST", "/v1/waves", "{\"name\":\"w1\"}"), 409, "twice");
    a = ask_with(&(struct question){.method = "PATCH", .path = "/v1/waves/w1", .body = "{\"title\":\"Second\"}",
                                    .headers = {token, "Content-Type: application/json", "If-Match: \"1\""}});
    ok(a.status == 200 && strcmp(answer_header(&a, "ETag"), "\"2\"") == 0 && answer_has(&a, "Second"), "changed where nobody was quicker");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "PATCH", .path = "/v1/waves/w1", .body = "{\"title\":\"Third\"}",
                                    .headers = {token, "Content-Type: application/json", "If-Match: \"1\""}});
    is_int(a.status, 412, "refused where somebody was");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/waves/w1", NULL);
    ok(answer_has(&a, "Second"), "and nothing was changed");
    answer_release(&a);
    a = as(operator, "PUT", "/v1/waves/w1/window", "{\"opens\":\"yesterday\",\"time_zone\":\"Mars/Olympus\"}");
    ok(a.status == 422 && answer_has(&a, "\"faults\":["), "a window that is none, with its faults");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/waves/nothing", NULL);
    ok(a.status == 404 && answer_has(&a, "no wave"), "a wave that isn't there");
    answer_release(&a);
    is_int(status_as(viewer, "GET", "/v1/waves?limit=0", NULL), 400, "a limit out of range");
    is_int(status_as(viewer, "GET", "/v1/waves?sort=colour", NULL), 400, "a sort that is none");
}

static void test_servers(void)
{
    struct answer a = as(operator, "POST", "/v1/servers", "{\"name\":\"web01\",\"wave\":\"w1\",\"address\":\"192.0.2.11\"}");
    CLEANUP(json_free) json_t *list = NULL;

    is_int(a.status, 201, "a server");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers?wave=w1&limit=1", NULL);
    list = json_of(&a);
    is_int(json_array_size(json_object_get(list, "items")), 1, "listed by wave");
    a = as(operator, "POST", "/v1/servers", "{\"name\":\"we b\",\"wave\":\"none\",\"address\":\"\"}");
    ok(a.status == 422 && answer_has(&a, "\"faults\":["), "a server with faults");
    answer_release(&a);
    is_int(status_as(operator, "PATCH", "/v1/servers/web01", "{\"host_key\":\"SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}"), 200,
           "its host key is pinned");
    is_int(status_as(operator, "POST", "/v1/servers/web01/finalize", "{}"), 409, "finalize before its time");
    is_int(status_as(operator, "POST", "/v1/servers/web01/back", "{}"), 409, "back from nowhere");
    is_int(status_as(operator, "POST", "/v1/servers/web01/back", "{\"bring_changes\":true}"), 409, "nor with changes");
    is_int(status_as(operator, "POST", "/v1/servers/web01/back", "{\"bring_changes\":\"yes\"}"), 400, "which is yes or no");
    is_int(status_as(operator, "POST", "/v1/servers/web01/back", "{\"bring_changes\":true,\"confirm\":\"lose 1 minute of web01\"}"), 400, "changes are brought, or lost");
    is_int(status_as(operator, "POST", "/v1/servers/web01/stay", "{}"), 409, "nothing to call off");
    is_int(status_as(viewer, "POST", "/v1/servers/web01/stay", "{}"), 403, "not by everybody");
    is_int(status_as(operator, "POST", "/v1/waves/w1/cutover", "{}"), 409, "a cutover without a window");
}

static void test_settings(void)
{
    struct answer a = as(operator, "PUT", "/v1/settings", "{\"replicator\":{\"address\":\"192.0.2.1\",\"port\":8444},\"target\":{\"name\":\"local-qemu\"}}");
    CLEANUP(free_ptr) char *token = xasprintf("Authorization: Bearer %s", operator);

    ok(a.status == 200 && answer_has(&a, "\"port\":8444"), "settings are set");
    is_str(answer_header(&a, "ETag"), "\"2\"", "with a version");
    answer_release(&a);
    a = as(operator, "PUT", "/v1/settings", "{\"replicator\":{\"port\":99999},\"colour\":{}}");
    ok(a.status == 422 && answer_has(&a, "replicator.address") && answer_has(&a, "replicator.port") && answer_has(&a, "\"colour\""), "every fault is named");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "PUT", .path = "/v1/settings", .body = "{\"target\":null}",
                                    .headers = {token, "Content-Type: application/json", "If-Match: \"1\""}});
    is_int(a.status, 412, "refused where they were changed meanwhile");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/settings", NULL);
    ok(answer_has(&a, "local-qemu") && !answer_has(&a, "99999"), "and stay as they were");
    answer_release(&a);
}

static struct answer import(const char *query, const char *csv)
{
    CLEANUP(free_ptr) char *path = xasprintf("/v1/imports%s", query), *token = xasprintf("Authorization: Bearer %s", operator);

    return ask_with(&(struct question){.method = "POST", .path = path, .body = csv, .headers = {"Content-Type: text/csv", token}});
}

static void test_csv(void)
{
    static const char good[] = "wave,server,address\nw1,app01,192.0.2.21\nw1,app02,192.0.2.22\n";
    struct answer a = import("?dry_run=true", good);

    ok(a.status == 200 && answer_has(&a, "\"applied\":false") && answer_has(&a, "\"create\":2"), "an import is previewed");
    answer_release(&a);
    is_int(status_as(viewer, "GET", "/v1/servers/app01", NULL), 404, "and nothing was changed");
    a = import("", "wave,server,address\nw1,app01,192.0.2.21\nno-such-wave,app02,192.0.2.22\n");
    ok(a.status == 422 && answer_has(&a, "\"line\":3") && answer_has(&a, "no-such-wave"), "a fault names its line");
    answer_release(&a);
    is_int(status_as(viewer, "GET", "/v1/servers/app01", NULL), 404, "and nothing was changed by it");
    a = import("", good);
    ok(a.status == 200 && answer_has(&a, "\"applied\":true"), "an import is made");
    answer_release(&a);
    a = import("", "wave,server,address\nw1,\xff\xfe,192.0.2.23\n");
    ok(a.status == 422 || a.status == 400, "bytes that are not UTF-8 (%ld)", a.status);
    answer_release(&a);
    a = as(viewer, "GET", "/v1/exports?wave=w1", NULL);
    ok(a.status == 200 && answer_has(&a, "app02"), "and comes out again");
    answer_release(&a);
}

/* --- secrets --- */

static void test_credentials(void)
{
    struct answer a = as(operator, "POST", "/v1/credentials", "{\"name\":\"dc1\",\"kind\":\"ssh_password\",\"user\":\"root\",\"secret\":\"s3cr3t-word\"}");

    is_int(a.status, 201, "a credential is kept");
    ok(!answer_has(&a, "s3cr3t-word"), "and not told");
    answer_release(&a);
    a = as(operator, "GET", "/v1/credentials", NULL);
    ok(a.status == 200 && answer_has(&a, "\"dc1\"") && !answer_has(&a, "s3cr3t-word"), "nor listed");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/audit?limit=500", NULL);
    ok(a.status == 200 && answer_has(&a, "credential") && !answer_has(&a, "s3cr3t-word"), "nor in the audit trail");
    answer_release(&a);
    a = as(operator, "POST", "/v1/credentials", "{\"name\":\"dc2\",\"kind\":\"carrier_pigeon\"}");
    is_int(a.status, 422, "a credential with faults");
    answer_release(&a);
}

/* --- runners --- */

static void *claim_thread(void *unused)
{
    struct answer *a = xcalloc(1, sizeof *a);

    (void)unused;
    *a = as_peer("runner-dc1", "POST", "/v1/runner/claim", "{\"labels\":[\"source:dc1\"],\"steps\":[\"source_probe\"],\"wait_ms\":15000}");
    return a;
}

static void finish(const json_t *document)
{
    CLEANUP(free_ptr) char *report = xasprintf("{\"fence\":%lld,\"evidence\":[{\"name\":\"source network\",\"passed\":true,\"evidence\":\"seen\"}]}",
                                               (long long)json_get_int(document, "fence", 0));
    CLEANUP(free_ptr) char *over = xasprintf("{\"fence\":%lld,\"outcome\":\"succeeded\",\"result\":{}}", (long long)json_get_int(document, "fence", 0));
    const char *attempt = json_get_string(document, "attempt", "?");
    char path[200];
    struct answer a;

    snprintf(path, sizeof path, "/v1/runner/attempts/%s/report", attempt);
    a = as_peer("runner-dc1", "POST", path, report);
    ok(a.status == 200 && answer_has(&a, "\"cancelled\":false"), "its report renews the lease");
    answer_release(&a);
    is_int(status_as_peer("runner-dc2", "POST", path, report), 403, "another runner's is refused");
    snprintf(path, sizeof path, "/v1/runner/attempts/%s/artifacts/look.txt?fence=%lld", attempt, (long long)json_get_int(document, "fence", 0));
    is_int(status_as_peer("runner-dc1", "PUT", path, "some bytes"), 204, "an artifact is kept");
    snprintf(path, sizeof path, "/v1/runner/attempts/%s/finish", attempt);
    is_int(status_as_peer("runner-dc1", "POST", path, over), 204, "it finishes");
    is_int(status_as_peer("runner-dc1", "POST", path, over), 204, "twice is fine");
}

static void test_runner(void)
{
    CLEANUP(json_free) json_t *document = NULL, *started = NULL;
    struct answer *claimed, a;
    pthread_t thread;
    int64_t from_us;
    char path[200];

    is_int(status_as_peer("runner-dc1", "POST", "/v1/runner/claim", "{\"labels\":[\"target\"],\"steps\":[],\"wait_ms\":0}"), 403,
           "a label that it was not enrolled with");
    is_int(status_as_peer("runner-dc1", "POST", "/v1/runner/claim", "{\"labels\":[\"source:dc1\"],\"steps\":[\"source_probe\"],\"wait_ms\":0}"), 204,
           "nothing to do");
    MUST(pthread_create(&thread, NULL, claim_thread, NULL) == 0);
    clock_sleep_us(300 * US_PER_MS);
    from_us = clock_monotonic_us();
    a = as(operator, "POST", "/v1/probes", "{}");
    is_int(a.status, 202, "a probe is asked for");
    started = json_of(&a);
    pthread_join(thread, (void **)&claimed);
    is_int(claimed->status, 200, "the waiting runner gets it");
    ok(clock_monotonic_us() - from_us < 2 * US_PER_S, "soon (%lld ms)", (long long)((clock_monotonic_us() - from_us) / US_PER_MS));
    document = json_of(claimed);
    free(claimed);
    is_str(json_get_string(json_object_get(document, "task"), "step", ""), "source_probe", "with its document");
    is_str(json_get_string(document, "api_url", ""), "https://factory.example:8443", "the factory's address");
    ok(json_get_int(json_object_get(json_object_get(document, "settings"), "replicator"), "port", 0) == 8444, "the factory's settings");
    ok(!json_object_get(document, "credential") || json_is_null(json_object_get(document, "credential")), "and no secret that it has no use for");
    finish(document);
    snprintf(path, sizeof path, "/v1/tasks/%s", json_get_string(json_object_get(document, "task"), "id", "?"));
    a = as(viewer, "GET", path, NULL);
    ok(a.status == 200 && answer_has(&a, "\"state\":\"SUCCEEDED\"") && answer_has(&a, "seen"), "the task has its evidence");
    answer_release(&a);
    snprintf(path, sizeof path, "/v1/tasks/%s/artifacts/look.txt", json_get_string(json_object_get(document, "task"), "id", "?"));
    a = as(viewer, "GET", path, NULL);
    ok(a.status == 200 && answer_has(&a, "some bytes") && strstr(answer_header(&a, "Content-Security-Policy"), "sandbox"), "and its artifact");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/doctor", NULL);
    ok(a.status == 200 && answer_has(&a, "\"passed\":false") && answer_has(&a, "\"evidence\":\"seen\""), "doctor repeats it, and fails for the rest");
    answer_release(&a);
}

static void let_end(int64_t later_us)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct err e = {0};

    MUST(store_begin(data.store, STORE_WRITE, &tx, &e) == 0 && store_run(tx, &e, "UPDATE certificate SET expires_us = expires_us + $1 WHERE kind IN ('runner', 'replicator')", "i", later_us) > 0 && store_commit(&tx, &e) == 0);
}

static void test_certificates_end(void)
{
    static const int64_t day_us = INT64_C(86400) * US_PER_S;
    struct answer a = as(viewer, "GET", "/v1/doctor", NULL);

    ok(answer_has(&a, "\"none of runners, replicators or agents; the API's ends 20"), "no certificate ends soon: %s", a.body.data);
    answer_release(&a);
    let_end(-705 * day_us); /* of 730 */
    a = as(viewer, "GET", "/v1/doctor", NULL);
    ok(answer_has(&a, "runner certificate") && answer_has(&a, "within 30 days, or did: dc1 20") && answer_has(&a, "replicator revoke NAME") && !answer_has(&a, "the API's ends"),
       "in its last thirty days each is named, with what to do: %s", a.body.data);
    answer_release(&a);
    let_end(705 * day_us);
}

/* Each line says only what is true of what was told. */
static void test_replicator_tells_all(void)
{
    static const char status[] = "{\"servers\":[],\"vault\":{\"free_bytes\":5368709120,\"write_bytes_per_s\":41943040,\"chunks_damaged\":2}}";
    struct answer a = as_peer("replicator-r1", "POST", "/v1/replicator/status", status);

    answer_release(&a);
    a = as(viewer, "GET", "/v1/doctor", NULL);
    ok(answer_has(&a, "\"40 MiB/s were written and synced (at least 5 are needed)\"") && answer_has(&a, "\"2 damaged chunks are known\"") &&
       !answer_has(&a, "does not tell"), "doctor says the speed and the damage, and nothing of what was not told");
    answer_release(&a);
}

/* What holds is the server's before its wave's before the factory's; the replicator is told that, and people who says so. */
static void test_replication_settings(void)
{
    static const char status[] = "{\"servers\":[{\"server\":\"web01\",\"state\":\"CONTINUOUS\",\"lag_ms\":5}],\"vault\":{}}";
    struct answer a = as(operator, "PUT", "/v1/settings", "{\"replication\":{\"retention\":\"1h 2h, x all\",\"speed\":1,\"point_interval_s\":0}}");

    ok(a.status == 422 && answer_has(&a, "replication.retention") && answer_has(&a, "rung 2") && answer_has(&a, "replication.speed") &&
       answer_has(&a, "replication.point_interval_s"), "the factory's settings are checked, every one");
    answer_release(&a);
    a = as(operator, "PUT", "/v1/settings", "{\"replication\":{\"point_interval_s\":30,\"bandwidth\":\"9MB/s\",\"shared_bandwidth\":\"50MB/s\","
                                            "\"group_points\":\"application\",\"time_zone\":\"Europe/Berlin\"}}");
    is_int(a.status, 200, "good ones are taken");
    answer_release(&a);
    a = as(operator, "PUT", "/v1/settings", "{\"replication\":{\"retention\":\"1h all, 60d 1d\"}}");
    ok(a.status == 200 && answer_has(&a, "\"retention\":\"1h all, 60d 1d\"") && answer_has(&a, "\"bandwidth\":\"9MB/s\""), "whoever sets one loses no other: %s", a.body.data);
    answer_release(&a);
    a = as(operator, "PUT", "/v1/settings", "{\"replication\":{\"retention\":null}}");
    ok(a.status == 200 && !answer_has(&a, "retention") && answer_has(&a, "\"bandwidth\":\"9MB/s\""), "null removes it, and no other: %s", a.body.data);
    answer_release(&a);
    a = as(operator, "PATCH", "/v1/waves/w1", "{\"settings\":{\"bandwidth\":\"8MB/s; mon-fri 08:00-18:00 2MB/s\",\"shared_bandwidth\":\"20MB/s\"}}");
    is_int(a.status, 200, "and a wave's");
    answer_release(&a);
    a = as(operator, "PATCH", "/v1/servers/web01", "{\"application\":\"Shop\",\"attributes\":{\"bandwidth\":0,\"retention\":\"1h all\",\"cpu_percent\":40}}");
    is_int(a.status, 200, "and a server's");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/web01", NULL);
    ok(answer_has(&a, "\"bandwidth\":{\"value\":\"0\",\"source\":\"server\"}") && answer_has(&a, "\"retention\":{\"value\":\"1h all\",\"source\":\"server\"}") &&
       answer_has(&a, "\"point_interval_s\":{\"value\":30,\"source\":\"factory\"}") && answer_has(&a, "\"read_rate\":{\"value\":\"none\",\"source\":\"default\"}") &&
       answer_has(&a, "\"wave_bandwidth\":{\"value\":\"20MB/s\",\"source\":\"wave\"}") &&
       answer_has(&a, "\"site_bandwidth\":{\"value\":\"50MB/s\",\"source\":\"factory\"}"), "the server shows what holds, and who says so");
    answer_release(&a);
    a = as_peer("replicator-r1", "POST", "/v1/replicator/status", status);
    is_str(a.body.data, "{\"unknown\":[],\"parts\":{},\"servers\":{\"web01\":{\"bandwidth\":\"0\",\"cpu_percent\":40,\"group_points\":\"Shop\",\"point_interval_s\":30,\"retention\":\"1h all\","
                        "\"time_zone\":\"Europe/Berlin\",\"shared\":{\"wave:w1\":{\"bandwidth\":\"20MB/s\",\"time_zone\":\"Europe/Berlin\"},"
                        "\"site\":{\"bandwidth\":\"50MB/s\",\"time_zone\":\"Europe/Berlin\"}}}},\"groups\":{\"Shop\":{}},\"places\":{},\"copies\":{\"to\":{},\"from\":{}},\"revoked\":{\"version\":\"0-0\",\"certificates\":{}}}", "and the replicator is told it");
    answer_release(&a);
    a = as(operator, "PATCH", "/v1/servers/web01", "{\"attributes\":{\"group_points\":\"none\"}}");
    answer_release(&a);
    a = as_peer("replicator-r1", "POST", "/v1/replicator/status", status);
    ok(answer_has(&a, "\"cpu_percent\":40,\"point_interval_s\":30"), "and of no group where the server is to have points of its own");
    answer_release(&a);
    a = as(operator, "PATCH", "/v1/servers/web01", "{\"attributes\":{\"bandwidth\":null}}");
    ok(a.status == 200 && answer_has(&a, "\"bandwidth\":{\"value\":\"8MB/s; mon-fri 08:00-18:00 2MB/s\",\"source\":\"wave\"}"), "without the server's the wave's holds");
    answer_release(&a);
    a = as(operator, "PATCH", "/v1/waves/w1", "{\"settings\":{\"bandwidth\":null,\"shared_bandwidth\":null}}");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/web01", NULL);
    ok(answer_has(&a, "\"bandwidth\":{\"value\":\"9MB/s\",\"source\":\"factory\"}"), "and without that the factory's");
    answer_release(&a);
}

/* A second copy that nobody can keep: the server says why, and the replicator is told nothing. */
static void test_second_copy(void)
{
    static const char status[] = "{\"servers\":[{\"server\":\"web01\",\"state\":\"CONTINUOUS\",\"connected\":true,\"lag_ms\":5}],\"vault\":{\"free_bytes\":1000}}";
    struct answer a = as_peer("replicator-r1", "POST", "/v1/replicator/status", status);

    ok(answer_has(&a, "\"copies\":{\"to\":{},\"from\":{}}"), "nobody wants one");
    answer_release(&a);
    a = as(operator, "PATCH", "/v1/waves/w1", "{\"settings\":{\"copy_to\":\"r9\"}}");
    answer_release(&a);
    a = as_peer("replicator-r1", "POST", "/v1/replicator/status", status);
    ok(answer_has(&a, "\"copies\":{\"to\":{},\"from\":{}}") && !answer_has(&a, "copy_to"), "one that is not there gets none");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/web01", NULL);
    ok(answer_has(&a, "\"copy\":{\"replicator\":null,\"why\":\"there is no replicator r9, which is named in copy_to\"") &&
       answer_has(&a, "\"copy_to\":{\"value\":\"r9\",\"source\":\"wave\"}"), "which the server says");
    answer_release(&a);
    a = as(operator, "POST", "/v1/servers/web01/move", "{\"lost\":true}");
    ok(a.status == 409 && answer_has(&a, "it is not lost"), "a replicator that reports is not lost");
    answer_release(&a);
    a = as(operator, "PATCH", "/v1/waves/w1", "{\"settings\":{\"copy_to\":null}}");
    answer_release(&a);
    a = as_peer("replicator-r1", "POST", "/v1/replicator/status", status);
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/web01", NULL);
    ok(answer_has(&a, "\"copy\":null"), "without the wish there is nothing to say");
    answer_release(&a);
}

/* One server's part alone is not kept; the others' are. */
static void test_replicator_says_too_much(void)
{
    CLEANUP(free_ptr) char *word = xcalloc(9001, 1), *status = NULL;
    struct answer a;

    memset(word, 'x', 9000);
    is_int(status_as(operator, "POST", "/v1/servers", "{\"name\":\"db02\",\"wave\":\"w1\",\"address\":\"192.0.2.32\"}"), 201, "two servers");
    status = xasprintf("{\"servers\":[{\"server\":\"web01\",\"state\":\"CONTINUOUS\",\"connected\":true,\"note\":\"%s\"},{\"server\":\"db02\",\"state\":\"BACKLOG\","
                       "\"lag_ms\":77}],\"vault\":{}}", word);
    a = as_peer("replicator-r1", "POST", "/v1/replicator/status", status);
    is_int(a.status, 200, "a status with one server's replication of 9,000 bytes is taken");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/web01", NULL);
    ok(answer_has(&a, "\"kind\":\"report_too_long\"") && answer_has(&a, "bytes of this server's replication, and at most 8192 are kept") && !answer_has(&a, "xxxx"),
       "that server's is not kept, and says so");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/db02", NULL);
    ok(answer_has(&a, "\"state\":\"BACKLOG\"") && answer_has(&a, "\"lag_ms\":77"), "the other one's is");
    answer_release(&a);
}

/* Nor of another release's words: a state that is none here, or what names no server. */
static void test_replicator_says_what_nobody_knows(void)
{
    CLEANUP(free_ptr) char *word = xcalloc(8001, 1), *status = NULL;
    struct answer a = as_peer("replicator-r1", "POST", "/v1/replicator/status",
                              "{\"servers\":[{\"state\":\"CONTINUOUS\"},5,{\"server\":\"web01\",\"state\":\"LEVITATING\",\"connected\":true,\"lag_ms\":78,\"cause\":null},"
                              "{\"server\":\"db02\",\"state\":\"CONTINUOUS\",\"lag_ms\":79}],\"vault\":{}}");

    is_int(a.status, 200, "a status with a state that nobody knows is taken: %s", a.body.data);
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/web01", NULL);
    ok(answer_has(&a, "\"state\":\"UNKNOWN\"") && answer_has(&a, "\"kind\":\"state_unknown\",\"severity\":\"error\"") && answer_has(&a, "LEVITATING") && answer_has(&a, "\"lag_ms\":78"),
       "that server's is not known, and says so: %s", a.body.data);
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/db02", NULL);
    ok(answer_has(&a, "\"state\":\"CONTINUOUS\"") && answer_has(&a, "\"lag_ms\":79"), "the other one's is kept");
    answer_release(&a);
    memset(word, 'x', 8000);
    status = xasprintf("{\"servers\":[{\"server\":\"web01\",\"state\":\"LEVITATING\",\"note\":\"%s\"}],\"vault\":{}}", word);
    a = as_peer("replicator-r1", "POST", "/v1/replicator/status", status);
    is_int(a.status, 200, "so is one that is almost too long");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/web01", NULL);
    ok(answer_has(&a, "\"state\":\"UNKNOWN\"") && answer_has(&a, "report_too_long"), "and then is too long");
    answer_release(&a);
}

static void test_pause(void)
{
    static const char status[] = "{\"servers\":[{\"server\":\"web01\",\"state\":\"CONTINUOUS\",\"lag_ms\":5,\"eta\":\"never\",\"rate_bytes_per_s\":0,\"churn_bytes_per_s\":7,"
        "\"cause\":{\"kind\":\"link_too_slow\",\"severity\":\"error\",\"text\":\"t\",\"advice\":\"a\"}}],\"vault\":{\"free_bytes\":5368709120}}";
    struct answer a;

    is_int(status_as(viewer, "POST", "/v1/servers/web01/pause", "{}"), 403, "whoever only looks does not pause");
    is_int(status_as(operator, "POST", "/v1/servers/ghost/pause", "{}"), 404, "a server that is not there is not paused");
    is_int(status_as(operator, "POST", "/v1/servers/web01/pause", "{}"), 204, "an operator pauses a server's replication");
    a = as_peer("replicator-r1", "POST", "/v1/replicator/status", status);
    ok(answer_has(&a, "\"order\":{\"paused\":true,\"by\":\"") && answer_has(&a, "\"at_us\":"), "its replicator is told, and by whom: %s", a.body.data);
    answer_release(&a);
    is_int(status_as(operator, "POST", "/v1/servers/web01/resume", "{}"), 204, "and lets it go on");
    a = as_peer("replicator-r1", "POST", "/v1/replicator/status", status);
    ok(answer_has(&a, "\"order\":{\"paused\":false"), "which it is told, too");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/audit?limit=500", NULL);
    ok(answer_has(&a, "\"server.resumed\""), "the trail knows of it");
    answer_release(&a);
}

static void test_replicator(void)
{
    static const char status[] = "{\"servers\":[{\"server\":\"web01\",\"state\":\"CONTINUOUS\",\"bytes_total\":1000,\"bytes_read\":1000,\"bytes_sent\":900,"
        "\"bytes_stored\":800,\"source_latency\":{\"now_us\":9,\"without_us\":310,\"with_us\":0,\"backoff_bytes_per_s\":0},\"backlog_bytes\":0,\"lag_ms\":5,\"eta_ms\":null,\"eta\":\"never\",\"rate_bytes_per_s\":0,\"churn_bytes_per_s\":7,\"newest_point\":null,\"newest_point_at\":null,"
        "\"error\":null,\"cause\":{\"kind\":\"link_too_slow\",\"severity\":\"error\",\"text\":\"t\",\"advice\":\"a\"},\"points\":[{\"id\":\"p2\",\"at\":\"2027-03-01T22:00:05.000Z\",\"consistency\":\"frozen\",\"freeze_ms\":12,\"group\":\"g1\",\"group_window_us\":321,\"disks\":[1,2,3]},"
        "{\"id\":\"p1\",\"at\":\"2027-03-01T22:00:00.000Z\",\"consistency\":\"crash\",\"freeze_ms\":0,\"group\":null,\"disks\":[]}]},{\"server\":\"ghost\",\"state\":\"CONTINUOUS\",\"connected\":true}],\"vault\":{\"free_bytes\":5368709120}}";
    struct answer a = as_peer("replicator-r1", "POST", "/v1/replicator/status", status);

    is_int(a.status, 200, "a replicator tells its state");
    is_str(a.body.data, "{\"unknown\":[\"ghost\"],\"parts\":{},\"servers\":{\"web01\":{}},\"groups\":{},\"places\":{},\"copies\":{\"to\":{},\"from\":{}},\"revoked\":{\"version\":\"0-0\",\"certificates\":{}}}", "and is told what isn't ours, and nothing where nothing is set");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers/web01", NULL);
    ok(answer_has(&a, "\"replication\":{\"state\":\"CONTINUOUS\""), "the server shows it");
    ok(answer_has(&a, "\"points\":[{\"id\":\"p2\",\"at\":\"2027-03-01T22:00:05.000Z\",\"consistency\":\"frozen\",\"freeze_ms\":12,\"group\":\"g1\",\"group_window_us\":321},{\"id\":\"p1\",") &&
       answer_has(&a, "\"group\":null,\"group_window_us\":null}]") && !answer_has(&a, "[1,2,3]"), "and the newest points, of each how it was taken: %s", a.body.data);
    answer_release(&a);
    a = as(viewer, "GET", "/v1/servers", NULL);
    ok(answer_has(&a, "\"replication\":{\"state\":\"CONTINUOUS\"") && !answer_has(&a, "\"p2\""), "which lists leave out");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/replicators", NULL);
    ok(answer_has(&a, "\"free_bytes\":5368709120") && answer_has(&a, "\"status_at\":\"20"), "and the replicator's vault");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/doctor", NULL);
    ok(answer_has(&a, "\"the vault of r1 has 5120 MiB free (at least 1024 are needed)\"") &&
       answer_has(&a, "\"the replicator r1 does not tell its disk's speed\"") &&
       answer_has(&a, "\"the replicator r1 does not tell whether its vault is damaged\""), "doctor says what it tells, and what it doesn't");
    answer_release(&a);
    test_replicator_tells_all();
    test_certificates_end();
    a = as(viewer, "GET", "/metrics", NULL);
    ok(answer_has(&a, "slipway_replication_state{server=\"web01\",state=\"CONTINUOUS\",cause=\"link_too_slow\",severity=\"error\"} 1") &&
       answer_has(&a, "slipway_replication_never{server=\"web01\"} 1") && answer_has(&a, "slipway_replication_churn_bytes_per_second{server=\"web01\"} 7.000") &&
       !answer_has(&a, "slipway_replication_eta_seconds{"), "states, causes and figures for Prometheus; what is not known is not there");
    ok(answer_has(&a, "slipway_source_latency_without_agent_seconds{server=\"web01\"} 0.000310\n") && answer_has(&a, "# TYPE slipway_source_latency_with_agent_seconds gauge") &&
       !answer_has(&a, "slipway_source_latency_with_agent_seconds{"), "what the agent costs its source; not where that is not known");
    ok(answer_has(&a, "slipway_replication_lag_seconds{server=\"web01\"} 0.005") && answer_has(&a, "slipway_tasks{state=\"READY\"} 1") &&
       answer_has(&a, "slipway_http_requests_total{method=\"POST\",route=\"/v1/replicator/status\",status=\"2xx\"} 2"), "numbers for Prometheus");
    answer_release(&a);
    test_replication_settings();
    test_second_copy();
    test_replicator_says_too_much();
    test_replicator_says_what_nobody_knows();
    test_pause();
}

/* --- the factory --- */

static void *claims(void *user)
{
    *(long *)user = status_as_peer("runner-dc2", "POST", "/v1/runner/claim", "{\"labels\":[],\"steps\":[],\"wait_ms\":15000}");
    return NULL;
}

/* Of a runner that waits for a task while it is revoked. */
static void test_revoked_while_it_waits(void)
{
    struct http_numbers n = {0};
    int64_t until_us = clock_monotonic_us() + 10 * US_PER_S;
    long status = 0;
    pthread_t waits;

    MUST(pthread_create(&waits, NULL, claims, &status) == 0);
    for (; !n.parked && clock_monotonic_us() < until_us; clock_sleep_us(20 * US_PER_MS))
        httpd_read_numbers(api.httpd, &n);
    is_int(status_as(operator, "DELETE", "/v1/runners/dc2", NULL), 204, "a runner is revoked while it waits for a task");
    pthread_join(waits, NULL);
    is_int(status, 401, "and gets none any more");
}

static void test_factory(void)
{
    struct answer a = as(operator, "POST", "/v1/backups", "{}");
    CLEANUP(json_free) json_t *made = json_of(&a), *manifest = NULL;
    const char *path = json_get_string(made, "path", "/nowhere");
    CLEANUP(free_ptr) char *database = xasprintf("%s/%s", path, BACKUP_DATABASE);
    struct err e = {0};

    ok(backup_check(path, &manifest, &e) == 0, "a backup is made: %s", e.message);
    ok(truncate(database, 4096) == 0 && backup_check(path, &manifest, &e) < 0 && e.kind == ERR_CORRUPT, "a damaged one is found: %s", e.message);
    a = ask("GET", "/healthz");
    is_str(a.body.data, "{\"status\":\"ok\"}", "healthy");
    answer_release(&a);
    a = ask("GET", "/readyz");
    is_str(a.body.data, "{\"status\":\"ready\"}", "ready");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "GET", .path = "/waves/w1", .headers = {"Accept-Encoding: gzip, br"}});
    ok(a.status == 200 && strstr(answer_header(&a, "Content-Type"), "text/html") && strstr(answer_header(&a, "Content-Security-Policy"), "script-src 'self'"),
       "the console answers for its own paths");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "GET", .path = "/servers/web01.example.com", .headers = {"Accept-Encoding: gzip, br"}});
    ok(a.status == 200 && strstr(answer_header(&a, "Content-Type"), "text/html"), "also for a server whose name has dots");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "GET", .path = "/assets/index-0.js", .headers = {"Accept-Encoding: gzip, br"}});
    is_int(a.status, 404, "but not for a file of another build");
    answer_release(&a);
    is_int(status_as(viewer, "GET", "/v1/tasks/t999", NULL), 404, "a task that isn't there");
    a = as(viewer, "GET", "/v1/audit?limit=2", NULL);
    ok(a.status == 200 && answer_has(&a, "\"next\":\"2\""), "the audit trail in pages");
    answer_release(&a);
    a = as(viewer, "GET", "/v1/audit?limit=2&after=1&page=2", NULL);
    ok(a.status == 200 && answer_has(&a, "{\"items\":[{\"id\":3,") && answer_has(&a, "\"next\":\"4\""), "of which the next is had as of every list: %s", a.body.data);
    answer_release(&a);
    test_revoked_while_it_waits();
    is_int(status_as_peer("runner-dc2", "POST", "/v1/runner/claim", "{\"labels\":[],\"steps\":[],\"wait_ms\":0}"), 401, "and refused at once");
    is_int(status_as(viewer, "DELETE", "/v1/agents/web01", NULL), 403, "a viewer revokes nothing");
    is_int(status_as(operator, "DELETE", "/v1/agents/nobody", NULL), 404, "nor anybody one that never enrolled");
    is_int(status_as(operator, "POST", "/v1/servers/web01/push", "{}"), 202, "an agent is pushed again");
    is_int(status_as(operator, "POST", "/v1/servers/nobody/push", "{}"), 404, "nor one that isn't there");
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    curl_global_init(CURL_GLOBAL_ALL);
    start();
    make_user("anna", ROLE_OPERATOR, true, admin);
    make_user("olga", ROLE_OPERATOR, false, operator);
    make_user("vera", ROLE_VIEWER, false, viewer);
    enrol_as("runner", "dc1", "[\"source:dc1\"]");
    enrol_as("runner", "dc2", "[\"source:dc2\"]");
    enrol_as("replicator", "r1", "[]");
    enrol_as("agent", "web01", "[]");
    for (size_t i = 0; i < api_route_count; i++)
        test_access_of(&api_routes[i]);
    test_openapi();
    test_sessions();
    test_tokens();
    test_waves();
    test_servers();
    test_settings();
    test_csv();
    test_credentials();
    test_runner();
    test_replicator();
    test_factory();
    stop();
    curl_global_cleanup();
    return tap_done();
}
