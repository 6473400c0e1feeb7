/* served: the API over its rooms, served in one process, with users and whoever has a certificate. */
#pragma once

#include "api/api.h"
#include "api/backup.h"
#include "api/clocks.h"
#include "api/setup.h"
#include "ask.h"
#include "base/clock.h"
#include "base/enrol.h"
#include "base/file.h"
#include "tap.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

static char folder[] = "/tmp/slipway-api-XXXXXX";
static struct data data = {.lock_fd = -1};
static struct api api;
static char admin[IDENTITY_TOKEN_SIZE], operator[IDENTITY_TOKEN_SIZE], viewer[IDENTITY_TOKEN_SIZE];

static void on_events(void *user)
{
    struct httpd_server *server = __atomic_load_n((struct httpd_server **)user, __ATOMIC_ACQUIRE);

    if (server)
        httpd_wake(server);
}

static void start(void)
{
    struct workflow_settings settings = {.complete = api_complete_document, .user = &api};
    CLEANUP(free_ptr) char *certificate = NULL, *path = NULL;
    CLEANUP(secret_release) struct secret key = {0};
    struct httpd_server *server;
    struct err e = {0};

    MUST(mkdtemp(folder));
    path = xasprintf("%s/data", folder);
    MUST(data_lock(path, &data, &e) == 0 && data_open(&data, &e) == 0);
    api = (struct api){.store = data.store, .identity = data.identity, .data_dir = data.path, .url = "https://factory.example:8443",
                       .started_us = clock_now_us(), .clocks = clocks_new()};
    pthread_mutex_init(&api.backup_lock, NULL);
    settings.store = data.store;
    MUST(workflow_open(&settings, &api.workflow, &e) == 0);
    MUST(sse_start(data.store, on_events, &api.httpd, &api.sse, &e) == 0);
    MUST(identity_server_certificate(data.identity, NULL, 0, &certificate, &key, &e) == 0);
    MUST(httpd_start(&(struct httpd_options){.address = "127.0.0.1:0", .key_pem = key.bytes, .certificate_pem = certificate,
                                             .ca_pem = identity_ca_pem(data.identity), .routes = api_routes, .route_count = api_route_count,
                                             .otherwise = &api_console_route, .authorise = api_authorise, .context = &api},
                     &server, &e) == 0);
    __atomic_store_n(&api.httpd, server, __ATOMIC_RELEASE);
    ask_port = httpd_port(server);
    snprintf(ask_ca, sizeof ask_ca, "%s/ca.pem", data.path);
}

static void stop(void)
{
    CLEANUP(free_ptr) char *command = xasprintf("rm -rf %s", folder);

    sse_stop(api.sse);
    httpd_stop(&api.httpd);
    sse_free(&api.sse);
    workflow_close(&api.workflow);
    clocks_free(&api.clocks);
    data_close(&data);
    MUST(system(command) == 0);
}

static void make_user(const char *name, enum actor_role role, bool admins, char token[static IDENTITY_TOKEN_SIZE])
{
    struct actor who = {.kind = ACTOR_USER, .role = role, .admin = admins};
    struct identity_token made;
    struct err e = {0};

    snprintf(who.name, sizeof who.name, "%s", name);
    snprintf(who.text, sizeof who.text, "user:%s", name);
    MUST(identity_user_add(data.identity, name, "correct horse", role, admins, "test", &e) == 0);
    MUST(identity_token_make(data.identity, &who, "test", 0, &made, &e) == 0);
    memcpy(token, made.text, sizeof made.text);
}

static struct answer as(const char *token, const char *method, const char *path, const char *body)
{
    CLEANUP(free_ptr) char *header = xasprintf("Authorization: Bearer %s", token);

    return ask_with(&(struct question){.method = method, .path = path, .body = body, .headers = {"Content-Type: application/json", header}});
}

/* The status of a request whose body doesn't matter. */
__attribute__((unused)) static long status_as(const char *token, const char *method, const char *path, const char *body)
{
    struct answer a = as(token, method, path, body);
    long status = a.status;

    answer_release(&a);
    return status;
}

__attribute__((unused)) static json_t *json_of(struct answer *a)
{
    json_t *found = NULL;
    struct err e = {0};

    if (json_read(a->body.data, a->body.size_bytes, &found, &e) < 0)
        printf("# not JSON: %s: %.200s\n", e.message, a->body.data);
    answer_release(a);
    return found ? found : json_object();
}

/* A certificate of that kind and name in folder/NAME.pem and .key. */
__attribute__((unused)) static void enrol_as(const char *kind, const char *name, const char *labels)
{
    CLEANUP(free_ptr) char *body = xasprintf("{\"kind\":\"%s\",\"name\":\"%s\",\"labels\":%s}", kind, name, labels), *csr = NULL;
    CLEANUP(free_ptr) char *certificate_path = xasprintf("%s/%s-%s.pem", folder, kind, name), *key_path = xasprintf("%s/%s-%s.key", folder, kind, name);
    CLEANUP(secret_release) struct secret key = {0};
    CLEANUP(json_free) json_t *made = NULL, *asked = NULL, *given = NULL;
    CLEANUP(free_ptr) char *text = NULL;
    struct answer a = as(operator, "POST", "/v1/enrolments", body);
    const char *pem;
    struct err e = {0};

    is_int(a.status, 201, "an operator makes a token for the %s %s", kind, name);
    made = json_of(&a);
    MUST(enrol_csr("anything", &key, &csr, &e) == 0);
    asked = json_pack("{s:O, s:s}", "token", json_object_get(made, "token"), "csr_pem", csr);
    text = json_text(asked);
    a = ask_json("POST", "/v1/enrol", text);
    is_int(a.status, 201, "the token buys a certificate");
    given = json_of(&a);
    is_str(json_get_string(given, "name", ""), name, "with the name of the token, whatever the request said");
    pem = json_get_string(given, "certificate_pem", "");
    MUST(file_write(certificate_path, pem, strlen(pem), 0600, &e) == 0 && file_write(key_path, key.bytes, key.size_bytes, 0600, &e) == 0);
    a = ask_json("POST", "/v1/enrol", text);
    is_int(a.status, 401, "once");
    answer_release(&a);
}

__attribute__((unused)) static struct answer as_peer(const char *peer, const char *method, const char *path, const char *body)
{
    CLEANUP(free_ptr) char *certificate = xasprintf("%s/%s.pem", folder, peer), *key = xasprintf("%s/%s.key", folder, peer);

    return ask_with(&(struct question){.method = method, .path = path, .body = body, .headers = {"Content-Type: application/json"},
                                       .certificate = certificate, .key = key});
}

__attribute__((unused)) static long status_as_peer(const char *peer, const char *method, const char *path, const char *body)
{
    struct answer a = as_peer(peer, method, path, body);
    long status = a.status;

    answer_release(&a);
    return status;
}
