#include "api/api.h"

#include "base/clock.h"

#include <string.h>

/* --- who calls --- */

static const char *bearer(const struct http_call *c)
{
    const char *header = call_header(c, "Authorization");

    return header && strncasecmp(header, "Bearer ", 7) == 0 ? header + 7 + strspn(header + 7, " ") : NULL;
}

static int by_certificate(struct http_call *c, enum actor_kind kind, struct err *e)
{
    const char *pem = NULL;
    int shown = call_certificate(c, &pem, e);

    if (shown < 0)
        return -1;
    if (!shown)
        return err_set(e, ERR_UNAUTHENTICATED, "%s is for a %s with the certificate that it got when it enrolled", c->route->path,
                       actor_kind_name(kind));
    return identity_certificate(api_of(c)->identity, pem, &c->who, e) < 0 ? -1 : identity_need(&c->who, kind, NULL, e);
}

static int by_token_or_session(struct http_call *c, struct err *e)
{
    struct identity *i = api_of(c)->identity;
    const char *token = bearer(c), *cookie = token ? NULL : call_cookie(c, API_COOKIE), *pem = NULL;

    if (token)
        return identity_token(i, token, &c->who, e);
    if (cookie && *cookie) {
        if (identity_session(i, cookie, &c->who, e) < 0)
            return -1;
        return c->route->method == HTTP_GET ? 0 : identity_csrf_check(&c->who, call_header(c, "X-CSRF-Token"), e);
    }
    if (call_certificate(c, &pem, NULL) > 0)
        return err_set(e, ERR_DENIED, "%s is for people and their scripts: a certificate does not open it", c->route->path);
    return err_set(e, ERR_UNAUTHENTICATED, "sign in first (POST /v1/sessions), or send Authorization: Bearer TOKEN");
}

int api_authorise(struct http_call *c, struct err *e)
{
    enum http_access access = c->route->access;
    const char *pem = NULL;

    if (access == ACCESS_PUBLIC)
        return 0;
    if (access == ACCESS_RUNNER || access == ACCESS_REPLICATOR)
        return by_certificate(c, access == ACCESS_RUNNER ? ACTOR_RUNNER : ACTOR_REPLICATOR, e);
    if (access == ACCESS_READER && call_certificate(c, &pem, NULL) > 0)
        return by_certificate(c, ACTOR_RUNNER, e);
    if (by_token_or_session(c, e) < 0)
        return -1;
    if (c->who.kind != ACTOR_USER || c->who.role == ROLE_NONE)
        return err_set(e, ERR_DENIED, "%s is for people and their scripts", c->route->path);
    if (access == ACCESS_OPERATOR && c->who.role != ROLE_OPERATOR)
        return err_set(e, ERR_DENIED, "%s may look but not change: this needs an operator", c->who.name);
    if (access == ACCESS_ADMIN && !c->who.admin)
        return err_set(e, ERR_DENIED, "%s is no admin: this needs one", c->who.name);
    return 0;
}

/* --- what handlers share --- */

int api_read(const struct http_call *c, struct store_tx **tx, struct err *e)
{
    return store_begin(api_of(c)->store, STORE_READ, tx, e);
}

int api_write(const struct http_call *c, struct store_tx **tx, struct err *e)
{
    return store_begin(api_of(c)->store, STORE_WRITE, tx, e);
}

struct inventory_by api_by(const struct http_call *c)
{
    return (struct inventory_by){c->who.text, clock_now_us()};
}

json_t *api_faults(struct http_call *c)
{
    if (!c->faults)
        c->faults = json_array();
    return c->faults;
}

int api_failed(struct http_call *c, struct err *e)
{
    if (json_array_size(c->faults) > 0)
        c->problem_status = 422;
    else
        json_free(&c->faults);
    /* Somebody was quicker: RFC 9110 13.1.1. */
    if (e->kind == ERR_CONFLICT && call_header(c, "If-Match"))
        c->problem_status = 412;
    return -1;
}

int api_reply_found(struct http_call *c, int found, json_t *object, const char *what, const char *name, struct err *e)
{
    int64_t version;

    if (found < 0)
        return -1;
    if (!found)
        return err_set(e, ERR_NOT_FOUND, "there is no %s \"%s\"", what, name);
    version = json_get_int(object, "version", 0);
    if (version)
        reply_etag(c, version);
    return reply_json(c, 200, object);
}

int api_reply_items(struct http_call *c, int result, json_t **items)
{
    if (result < 0)
        return -1;
    reply_json(c, 200, json_pack("{s:o, s:n}", "items", *items, "next"));
    *items = NULL;
    return 0;
}

int api_list_query(const struct http_call *c, struct inventory_list *list, struct err *e)
{
    int64_t limit = 0;

    if (call_query_int(c, "limit", 1, LIMIT_PAGE_ITEMS, &limit, e) < 0)
        return -1;
    *list = (struct inventory_list){.limit = (int)limit, .page = call_query(c, "page"), .sort = call_query(c, "sort"),
                                    .q = call_query(c, "q")};
    return 0;
}
