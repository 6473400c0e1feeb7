#include "bench.h"

#include "base/enrol.h"

static char *csr_for(const char *name)
{
    CLEANUP(secret_release) struct secret key = {0};
    char *csr = NULL;

    MUST(enrol_csr(name, &key, &csr, NULL) == 0);
    return csr;
}

static void make_token(enum actor_kind kind, const char *name, int64_t ttl_us, char token[static IDENTITY_TOKEN_SIZE])
{
    static const char *const labels[] = {"source:dc1", "target"};
    struct store_tx *tx = bench_begin(STORE_WRITE);
    int64_t expires_us;
    struct err e = {0};

    is_int(identity_enrolment_make(bench_identity, tx, kind, name, labels, 2, ttl_us, "user:anna", token, &expires_us, &e), 0,
           "a token for %s %s", name, e.message);
    store_commit(&tx, NULL);
}

static int enrol_with(const char *token, const char *csr, char **certificate, struct actor *who, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = bench_begin(STORE_WRITE);

    if (identity_enrol(bench_identity, tx, token, csr, certificate, who, e) < 0)
        return -1;
    return store_commit(&tx, e);
}

static void a_token_works_once(void)
{
    CLEANUP(free_ptr) char *csr = csr_for("admin:everything");
    CLEANUP(free_ptr) char *certificate = NULL;
    CLEANUP(free_ptr) char *other = NULL;
    char token[IDENTITY_TOKEN_SIZE];
    struct actor who;
    struct err e = {0};

    make_token(ACTOR_RUNNER, "dc1", 0, token);
    is_int(enrol_with(token, "not a request", &certificate, &who, &e), -1, "a request that is none");
    is_int(e.kind, ERR_INVALID, "%s", e.message);
    is_int(enrol_with(token, csr, &certificate, &who, &e), 0, "does not spend it: %s", e.message);
    is_str(who.text, "runner:dc1", "the token says who it is, not the request");
    is_int(enrol_with(token, csr, &other, &who, &e), -1, "it works once");
    ok(e.kind == ERR_UNAUTHENTICATED && strstr(e.message, "used before"), "%s", e.message);
    is_int(enrol_with("enrol_nonsense", csr, &other, &who, &e), -1, "an unknown one");
    ok(e.kind == ERR_UNAUTHENTICATED && strstr(e.message, "unknown"), "%s", e.message);
    make_token(ACTOR_RUNNER, "dc2", 60 * US_PER_S, token);
    bench_now_us += 61 * US_PER_S;
    is_int(enrol_with(token, csr, &other, &who, &e), -1, "after its time");
    ok(e.kind == ERR_UNAUTHENTICATED && strstr(e.message, "expired"), "%s", e.message);
    is_int(identity_certificate(bench_identity, certificate, &who, &e), 0, "the certificate is known: %s", e.message);
    is_str(who.text, "runner:dc1", "as the runner's");
    ok(who.label_count == 2 && strcmp(who.labels[0], "source:dc1") == 0, "with its labels");
    is_int(identity_need(&who, ACTOR_RUNNER, NULL, &e), 0, "a runner it is");
    is_int(identity_need(&who, ACTOR_REPLICATOR, NULL, &e), -1, "a replicator it isn't");
    is_int(e.kind, ERR_DENIED, "%s", e.message);
    is_int(identity_need(&who, ACTOR_RUNNER, "dc2", &e), -1, "nor another runner: %s", e.message);
}

/* What replicators are told: so many certificates of agents and replicators, *version from then on. */
static void is_told(int count, char **version)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *said = NULL, *again = NULL;
    struct err e = {0};

    MUST(store_begin(bench_store, STORE_READ, &tx, NULL) == 0);
    is_int(identity_revoked_json(bench_identity, tx, *version, &said, &e), 0, "what was revoked: %s", e.message);
    is_int(json_object_size(json_object_get(said, "certificates")), count, "%d are told", count);
    free(*version);
    *version = xstrdup(json_get_string(said, "version", "none"));
    ok(identity_revoked_json(bench_identity, tx, *version, &again, &e) == 0 && !again, "and nothing to who knows that (%s)", *version);
}

static void certificates_end(void)
{
    CLEANUP(free_ptr) char *version = xstrdup("");
    CLEANUP(free_ptr) char *csr = csr_for("x");
    CLEANUP(free_ptr) char *first = NULL;
    CLEANUP(free_ptr) char *second = NULL;
    char token[IDENTITY_TOKEN_SIZE];
    struct actor who;
    struct err e = {0};

    make_token(ACTOR_AGENT, "web01", 0, token);
    enrol_with(token, csr, &first, &who, &e);
    make_token(ACTOR_AGENT, "web01", 0, token);
    is_int(enrol_with(token, csr, &second, &who, &e), 0, "the same server enrols again: %s", e.message);
    is_int(identity_certificate(bench_identity, first, &who, &e), -1, "its first certificate ends");
    ok(e.kind == ERR_UNAUTHENTICATED && strstr(e.message, "revoked"), "%s", e.message);
    is_int(identity_certificate(bench_identity, second, &who, &e), 0, "the second holds");
    is_told(1, &version);
    bench_now_us += INT64_C(731) * 86400 * US_PER_S;
    is_int(identity_certificate(bench_identity, second, &who, &e), -1, "for two years");
    ok(e.kind == ERR_UNAUTHENTICATED && strstr(e.message, "expired"), "%s", e.message);
    is_told(0, &version);
    bench_now_us -= INT64_C(731) * 86400 * US_PER_S;
    is_int(identity_revoke(bench_identity, ACTOR_AGENT, "web01", "user:anna", &e), 0, "revoked by hand");
    is_int(identity_certificate(bench_identity, second, &who, &e), -1, "it ends: %s", e.message);
    is_told(2, &version);
    is_int(identity_revoke(bench_identity, ACTOR_AGENT, "web02", "user:anna", &e), -1, "one that isn't there: %s", e.message);
    is_int(identity_certificate(bench_identity, "rubbish", &who, &e), -1, "rubbish: %s", e.message);
    is_int(identity_peer(bench_identity, "agent:web01", "00DEADBEEF", &who, &e), -1, "an unknown number: %s", e.message);
}

static void another_factory_is_refused(void)
{
    CLEANUP(store_close) struct store *other_store = NULL;
    CLEANUP(identity_close) struct identity *other = NULL;
    CLEANUP(free_ptr) char *folder = xasprintf("%s/other", bench_folder);
    CLEANUP(free_ptr) char *csr = csr_for("x");
    CLEANUP(free_ptr) char *certificate = NULL;
    struct identity_settings settings = {.clock = &bench_clock, .folder = folder};
    char token[IDENTITY_TOKEN_SIZE];
    struct store_tx *tx = NULL;
    struct actor who;
    struct err e = {0};
    int64_t expires_us;

    MUST(store_open("sqlite::memory:", &other_store, NULL) == 0 && store_migrate(other_store, NULL) == 0);
    settings.store = other_store;
    is_int(identity_open(&settings, &other, &e), 0, "another factory: %s", e.message);
    MUST(store_begin(other_store, STORE_WRITE, &tx, NULL) == 0);
    identity_enrolment_make(other, tx, ACTOR_RUNNER, "dc1", NULL, 0, 0, "user:eve", token, &expires_us, NULL);
    is_int(identity_enrol(other, tx, token, csr, &certificate, &who, &e), 0, "signs for runner:dc1");
    store_commit(&tx, NULL);
    is_int(identity_certificate(bench_identity, certificate, &who, &e), -1, "which is nothing here");
    ok(e.kind == ERR_UNAUTHENTICATED && strstr(e.message, "did not sign"), "%s", e.message);
}

static void the_list_says_who_is_there(void)
{
    CLEANUP(json_free) json_t *list = NULL;
    struct actor who = {.kind = ACTOR_RUNNER, .name = "dc1"};
    struct store_tx *tx;
    struct err e = {0};

    for (int round = 0; round < 2; round++) {
        static const char *const states[] = {"never", "online"};

        tx = bench_begin(STORE_READ);
        is_int(identity_peers_json(bench_identity, tx, ACTOR_RUNNER, &list, &e), 0, "runners");
        store_rollback(&tx);
        is_int((int)json_array_size(list), 1, "one enrolled");
        is_str(json_get_string(json_array_get(list, 0), "state", ""), states[round], "its state");
        json_decref(list);
        list = NULL;
        is_int(identity_seen(bench_identity, &who, &e), 0, "it is heard of");
    }
}

static void wrong_wishes_are_told(void)
{
    CLEANUP(store_rollback) struct store_tx *tx = bench_begin(STORE_WRITE);
    static const char *const label[] = {"no label!"};
    char token[IDENTITY_TOKEN_SIZE];
    struct err e = {0};
    int64_t expires_us;

    is_int(identity_enrolment_make(bench_identity, tx, ACTOR_USER, "x", NULL, 0, 0, "user:a", token, &expires_us, &e), -1, "%s", "users don't enrol");
    is_int(identity_enrolment_make(bench_identity, tx, ACTOR_AGENT, "web01" COPY_SUFFIX, NULL, 0, 0, "user:a", token, &expires_us, &e), 0, "%s", "the machine that was launched for web01 has an agent of its own");
    is_int(identity_enrolment_make(bench_identity, tx, ACTOR_RUNNER, "web01" COPY_SUFFIX, NULL, 0, 0, "user:a", token, &expires_us, &e), -1, "%s", "and no runner");
    is_int(identity_enrolment_make(bench_identity, tx, ACTOR_AGENT, COPY_SUFFIX, NULL, 0, 0, "user:a", token, &expires_us, &e), -1, "%s", "nor is there one of nobody");
    is_int(identity_enrolment_make(bench_identity, tx, ACTOR_AGENT, "web01" COPY_SUFFIX COPY_SUFFIX, NULL, 0, 0, "user:a", token, &expires_us, &e), -1, "%s", "or of a copy");
    is_int(identity_enrolment_make(bench_identity, tx, ACTOR_AGENT, "a/b", NULL, 0, 0, "user:a", token, &expires_us, &e), -1, "a bad name: %s",
           e.message);
    is_int(identity_enrolment_make(bench_identity, tx, ACTOR_AGENT, "a2345678901234567890123456789012345678901234567890123456789", NULL, 0, 0, "user:a",
                                   token, &expires_us, &e), -1, "a name that no certificate holds: %s", e.message);
    is_int(identity_enrolment_make(bench_identity, tx, ACTOR_RUNNER, "x", label, 1, 0, "user:a", token, &expires_us, &e), -1, "a bad label: %s",
           e.message);
    is_int(identity_enrolment_make(bench_identity, tx, ACTOR_RUNNER, "x", NULL, 0, -5, "user:a", token, &expires_us, &e), -1, "a bad time: %s",
           e.message);
}

int main(void)
{
    bench_open();
    a_token_works_once();
    certificates_end();
    another_factory_is_refused();
    the_list_says_who_is_there();
    wrong_wishes_are_told();
    bench_close();
    return tap_done();
}
