#include "bench.h"

static const char good[] = "correct horse battery";

static void users_have_rules(void)
{
    CLEANUP(json_free) json_t *list = NULL;
    struct store_tx *tx;
    struct err e = {0};
    int64_t count = -1;

    tx = bench_begin(STORE_READ);
    identity_user_count(tx, &count, NULL);
    store_rollback(&tx);
    is_int(count, 0, "nobody at first");
    is_int(identity_user_add(bench_identity, "anna", good, ROLE_OPERATOR, true, "factory", &e), 0, "the first user: %s", e.message);
    is_int(identity_user_add(bench_identity, "anna", good, ROLE_VIEWER, false, "user:anna", &e), -1, "the same name again");
    is_int(e.kind, ERR_CONFLICT, "%s", e.message);
    is_int(identity_user_add(bench_identity, "Bad Name", good, ROLE_VIEWER, false, "user:anna", &e), -1, "a bad name: %s", e.message);
    is_int(identity_user_add(bench_identity, "bob", "short", ROLE_VIEWER, false, "user:anna", &e), -1, "a short password: %s", e.message);
    is_int(identity_user_add(bench_identity, "bob", good, ROLE_VIEWER, false, "user:anna", &e), 0, "a viewer");
    is_int(identity_user_remove(bench_identity, "anna", "user:anna", &e), -1, "the last admin stays");
    is_int(e.kind, ERR_WRONG_STATE, "%s", e.message);
    is_int(identity_user_remove(bench_identity, "carl", "user:anna", &e), -1, "nobody is removed");
    is_int(e.kind, ERR_NOT_FOUND, "%s", e.message);
    tx = bench_begin(STORE_READ);
    is_int(identity_users_json(tx, &list, &e), 0, "the list");
    store_rollback(&tx);
    is_int((int)json_array_size(list), 2, "has both");
    ok(!json_object_get(json_array_get(list, 0), "password"), "without passwords");
}

static void sessions_live_and_end(void)
{
    struct identity_session session;
    struct actor actor;
    struct err e = {0};
    char forged[IDENTITY_TOKEN_SIZE];

    is_int(identity_login(bench_identity, "anna", good, "192.0.2.7", &session, &e), 0, "signs in: %s", e.message);
    is_str(session.actor.text, "user:anna", "as herself");
    ok(session.actor.admin && session.actor.role == ROLE_OPERATOR && session.actor.by_session, "with her rights");
    is_int(identity_session(bench_identity, session.token, &actor, &e), 0, "the cookie is known");
    is_str(actor.csrf, session.actor.csrf, "with the same CSRF token");
    ok(!strstr(session.token, actor.csrf), "which isn't the cookie");
    is_int(identity_csrf_check(&actor, actor.csrf, &e), 0, "a change with it");
    is_int(identity_csrf_check(&actor, NULL, &e), -1, "and one without");
    is_int(e.kind, ERR_DENIED, "%s", e.message);
    memcpy(forged, session.token, sizeof forged);
    forged[10] ^= 1;
    is_int(identity_session(bench_identity, forged, &actor, &e), -1, "another token");
    is_int(e.kind, ERR_UNAUTHENTICATED, "%s", e.message);
    for (int hours = 0; hours < 24; hours += 6) {
        bench_now_us += INT64_C(6) * 3600 * US_PER_S;
        is_int(identity_session(bench_identity, session.token, &actor, &e), 0, "one in use lives on (%d h)", hours + 6);
    }
    bench_now_us += INT64_C(9) * 3600 * US_PER_S;
    is_int(identity_session(bench_identity, session.token, &actor, &e), -1, "an idle one ends");
    ok(e.kind == ERR_UNAUTHENTICATED && strstr(e.message, "expired"), "%s", e.message);
    identity_login(bench_identity, "anna", good, "192.0.2.7", &session, &e);
    is_int(identity_logout(bench_identity, session.token, &e), 0, "signs out");
    is_int(identity_session(bench_identity, session.token, &actor, &e), -1, "and is out: %s", e.message);
    identity_login(bench_identity, "bob", good, NULL, &session, &e);
    is_int(identity_password_set(bench_identity, "bob", "another long one", "user:bob", &e), 0, "a new password");
    is_int(identity_session(bench_identity, session.token, &actor, &e), -1, "ends his sessions");
    is_int(identity_login(bench_identity, "bob", good, NULL, &session, &e), -1, "the old one is none any more");
}

static void guessing_is_slowed_down(void)
{
    struct identity_session session;
    struct err e = {0}, unknown = {0};

    identity_login(bench_identity, "nobody", "wrong password", "198.51.100.1", &session, &unknown);
    for (int n = 0; n < 5; n++) {
        is_int(identity_login(bench_identity, "anna", "wrong password", "198.51.100.1", &session, &e), -1, "failure %d", n + 1);
        is_int(e.kind, ERR_UNAUTHENTICATED, "is not told from an unknown name");
        is_str(e.message, unknown.message, "by its words");
    }
    is_int(identity_login(bench_identity, "anna", good, "198.51.100.1", &session, &e), -1, "then even the right one waits");
    is_int(e.kind, ERR_LIMIT, "%s", e.message);
    is_int(identity_login(bench_identity, "anna", good, "192.0.2.7", &session, &e), 0, "but not from elsewhere");
    bench_now_us += 31 * US_PER_S;
    is_int(identity_login(bench_identity, "anna", "wrong again", "198.51.100.1", &session, &e), -1, "one more try after the wait");
    bench_now_us += 31 * US_PER_S;
    is_int(identity_login(bench_identity, "anna", good, "198.51.100.1", &session, &e), -1, "doubles it");
    bench_now_us += 31 * US_PER_S;
    is_int(identity_login(bench_identity, "anna", good, "198.51.100.1", &session, &e), 0, "then she is in: %s", e.message);
}

static void api_tokens(void)
{
    CLEANUP(json_free) json_t *list = NULL;
    struct identity_session session;
    struct identity_token token, brief;
    struct store_tx *tx;
    struct actor actor;
    struct err e = {0};
    const char *id;

    identity_login(bench_identity, "anna", good, NULL, &session, &e);
    is_int(identity_token_make(bench_identity, &session.actor, "ci", 0, &token, &e), 0, "a token: %s", e.message);
    ok(strncmp(token.text, "slip_", 5) == 0, "begins with slip_");
    is_int(identity_token_make(bench_identity, &session.actor, "ci", 0, &brief, &e), -1, "its name is taken");
    is_int(e.kind, ERR_CONFLICT, "%s", e.message);
    is_int(identity_token_make(bench_identity, &session.actor, "brief", 60 * US_PER_S, &brief, &e), 0, "one for a minute");
    is_int(identity_token(bench_identity, token.text, &actor, &e), 0, "it is anna's");
    ok(strcmp(actor.text, "user:anna") == 0 && !actor.by_session && !*actor.csrf, "and needs no CSRF token");
    bench_now_us += 61 * US_PER_S;
    is_int(identity_token(bench_identity, brief.text, &actor, &e), -1, "after a minute");
    ok(e.kind == ERR_UNAUTHENTICATED && strstr(e.message, "expired"), "%s", e.message);
    is_int(identity_token(bench_identity, "slip_nonsense", &actor, &e), -1, "an unknown one");
    ok(e.kind == ERR_UNAUTHENTICATED && strstr(e.message, "unknown"), "%s", e.message);
    is_int(identity_token(bench_identity, session.token, &actor, &e), -1, "a session is no token: %s", e.message);
    is_int(identity_session(bench_identity, token.text, &actor, &e), -1, "and the other way round");
    tx = bench_begin(STORE_READ);
    is_int(identity_tokens_json(tx, "anna", &list, &e), 0, "the list");
    store_rollback(&tx);
    is_int((int)json_array_size(list), 2, "has both");
    id = json_get_string(json_array_get(list, 1), "id", "");
    is_int(identity_token_remove(bench_identity, id, "bob", "user:bob", &e), -1, "bob does not remove hers");
    is_int(identity_token_remove(bench_identity, id, "anna", "user:anna", &e), 0, "she does");
    is_int(identity_token(bench_identity, token.text, &actor, &e), -1, "and it is none any more: %s", e.message);
}

static void credentials_go_in_and_come_out_for_steps_only(void)
{
    static const char key[] = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----\n";
    CLEANUP(json_free) json_t *body = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "name", "dc1", "kind", "ssh_key", "user", "migrate", "secret",
                                                key, "sudo", "password", "sudo_secret", "topsecret-sudo");
    CLEANUP(json_free) json_t *wrong = json_pack("{s:s, s:s, s:s, s:i}", "name", "", "kind", "ssh_key", "secret", "rubbish", "color", 3);
    CLEANUP(json_free) json_t *faults = json_array();
    CLEANUP(json_free) json_t *got = NULL;
    CLEANUP(json_free) json_t *list = NULL;
    CLEANUP(free_ptr) char *text = NULL;
    struct store_tx *tx = bench_begin(STORE_WRITE);
    struct err e = {0};

    is_int(identity_credential_put(bench_identity, tx, body, "user:anna", NULL, &e), 0, "stored: %s", e.message);
    is_int(identity_credential_put(bench_identity, tx, body, "user:anna", NULL, &e), 0, "and again");
    is_int(identity_credential_put(bench_identity, tx, wrong, "user:anna", faults, &e), -1, "a bad one");
    is_int((int)json_array_size(faults), 4, "tells every fault: %s", e.message);
    is_int(identity_credential(bench_identity, tx, "dc1", &got, &e), 0, "for a step: %s", e.message);
    is_str(json_get_string(got, "secret", ""), key, "the key");
    is_str(json_get_string(got, "sudo_secret", ""), "topsecret-sudo", "and sudo's password");
    is_int(identity_credentials_json(tx, &list, &e), 0, "the list");
    text = json_text(list);
    ok(!strstr(text, "topsecret") && !strstr(text, "BEGIN"), "has no secret");
    is_int(store_run(tx, &e, "UPDATE credential SET sudo_secret = secret", ""), 1, "sealed bytes moved to another column");
    json_decref(got);
    got = NULL;
    is_int(identity_credential(bench_identity, tx, "dc1", &got, &e), -1, "don't open");
    is_int(e.kind, ERR_CORRUPT, "%s", e.message);
    is_int(identity_credential_remove(bench_identity, tx, "dc1", "user:anna", &e), 0, "removed");
    is_int(identity_credential(bench_identity, tx, "dc1", &got, &e), -1, "gone");
    is_int(e.kind, ERR_NOT_FOUND, "%s", e.message);
    is_int(store_commit(&tx, &e), 0, "all of it holds");
}

static void events_hold_no_secret(void)
{
    CLEANUP(buf_release) struct buf events;

    buf_init(&events, 0);
    bench_events(&events);
    ok(strstr(events.data, "factory user.created user anna") && strstr(events.data, "user:anna credential.set credential dc1"),
       "who did what is there");
    ok(!strstr(events.data, good) && !strstr(events.data, "topsecret") && !strstr(events.data, "BEGIN") && !strstr(events.data, "sess_")
           && !strstr(events.data, "slip_"), "and no secret");
}

int main(void)
{
    bench_open();
    users_have_rules();
    sessions_live_and_end();
    guessing_is_slowed_down();
    api_tokens();
    credentials_go_in_and_come_out_for_steps_only();
    events_hold_no_secret();
    bench_close();
    return tap_done();
}
