/* http: an HTTPS client over libcurl, for the runner, the replicator, the command line, CMDBs and clouds. One client holds the
 * connections that it made (they are used again) and is for one thread at a time; make one for each thread.
 *
 * A request that got an answer succeeded, whatever its status; the caller looks at response.status, or takes http_json, for
 * which every status but 2xx is an error with the kind and the words of the RFC 9457 problem. Redirects are not followed: a
 * token must not travel to where an answer points. The environment's proxy variables are not read; a proxy is named in options. */
#pragma once

#include "base/json.h"

struct http_client;

struct http_options {
    const char *ca_file;          /* PEM: only what it signed is trusted. NULL: the system's certificates */
    const char *certificate_file; /* PEM: our own, with key_file; NULL: none */
    const char *key_file;
    const char *proxy;            /* "http://proxy:3128"; NULL: none */
    int connect_timeout_ms;       /* 0: 10,000 */
};

struct http_request {
    const char *method;           /* "GET" … */
    const char *url;
    const char *const *headers;   /* "Name: value" …, NULL at the end; NULL: none */
    const char *content_type;     /* NULL: no body's type is sent */
    const void *body;
    size_t body_bytes;
    bool once;                    /* over a new connection: over one that was used before, and ends without an answer, libcurl sends the request again by itself */
    int timeout_ms;               /* of the whole exchange; 0: 30,000; -1: none (event streams) */
    int stall_s;                  /* ended with ERR_TIMEOUT where nothing moves for so long; 0: no such limit */
    size_t limit_bytes;           /* of the answer's body, ERR_LIMIT over it; 0: LIMIT_JSON_BYTES */
    /* Where given, the body goes here as it comes and not into the response; -1 ends the exchange with ERR_CANCELLED. */
    int (*on_body)(void *user, const char *bytes, size_t size);
    bool (*cancelled)(void *user); /* asked about once a second; true ends the exchange with ERR_CANCELLED */
    void *user;
};

struct http_response {
    int status;
    struct buf headers;           /* lines "name: value\n" as they came, of the last answer */
    struct buf body;
};

int http_open(const struct http_options *options, struct http_client **out, struct err *e);
void http_close(struct http_client **client);          /* for CLEANUP */
/* ERR_UNREACHABLE, ERR_TIMEOUT, ERR_DENIED (the other end's certificate is not trusted), ERR_LIMIT, ERR_CANCELLED, ERR_PROTOCOL. */
int http_do(struct http_client *client, const struct http_request *request, struct http_response *response, struct err *e);
void http_response_release(struct http_response *response); /* for CLEANUP; on zeros, too */
/* A header's value by its name in any case, trimmed, copied into out; false where it is missing or does not fit. */
bool http_header(const struct http_response *response, const char *name, char *out, size_t size);
/* -1 with the kind, the detail and the first faults of the problem document (or the status, where it is none). */
int http_problem(const struct http_response *response, struct err *e);

/* A JSON exchange: body may be NULL. *out (may be NULL; NULL is stored for an empty 2xx answer) is the caller's. Takes the method,
 * headers, timeout and the rest from `request`, whose body is set here. status gets the answer's (0: none came); may be NULL. */
int http_json(struct http_client *client, const struct http_request *request, const json_t *body, json_t **out, int *status,
              struct err *e);

/* Percent-encodes one path segment or query value (RFC 3986 2.3); the caller frees. */
char *http_escape(const char *text);
/* Asks the server at url (https) for its certificates, trusting none, and gives the PEM of the one whose SHA-256 is the given
 * fingerprint ("SHA256:" and hexadecimal digits, colons allowed): the first step of pinning a CA. ERR_DENIED where none matches. */
int http_pin(const char *url, const char *fingerprint, char **ca_pem, struct err *e);
