/* netbox: NetBox's REST API (its versions 3 and 4): virtual machines and devices, a journal entry beside the record, token authentication.
 * https://docs.netbox.dev/en/stable/integrations/rest-api/ */
#include "base/http.h"
#include "cmdb/dialect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_LIMIT 100 /* journal entries a page, newest first; more pages are followed */
#define PAGES_MOST 50

struct netbox {
    struct http_client *client;
    char *url;            /* without a slash at the end */
    char *authorization;  /* "Authorization: Token …" */
    char *retired_status;
};

static const struct {
    const char *path, *object_type;
} tables[] = {{"virtualization/virtual-machines", "virtualization.virtualmachine"}, {"dcim/devices", "dcim.device"}};

static void close_netbox(void *held)
{
    struct netbox *n = held;

    http_close(&n->client);
    free(n->url);
    if (n->authorization)
        explicit_bzero(n->authorization, strlen(n->authorization));
    free(n->authorization);
    free(n->retired_status);
    free(n);
}

static void *open_netbox(const json_t *settings, const char *token, struct err *e)
{
    struct http_options options = {.ca_file = json_get_string(settings, "ca_file", NULL)};
    const char *url;
    struct netbox *n;

    if (json_need_string(settings, "url", &url, e) < 0)
        return NULL;
    if (strncmp(url, "https://", 8) != 0 && strncmp(url, "http://", 7) != 0) {
        err_set(e, ERR_INVALID, "the url \"%s\" does not begin with https:// or http://", url);
        return NULL;
    }
    if (!*token) {
        err_set(e, ERR_INVALID, "NetBox wants a token: make a credential of it and name it in token_credential");
        return NULL;
    }
    n = xcalloc(1, sizeof *n);
    n->url = xstrdup(url);
    while (*n->url && n->url[strlen(n->url) - 1] == '/')
        n->url[strlen(n->url) - 1] = '\0';
    n->authorization = xasprintf("Authorization: Token %s", token);
    n->retired_status = xstrdup(json_get_string(settings, "retired_status", "decommissioning"));
    if (http_open(&options, &n->client, e) < 0) {
        close_netbox(n);
        return NULL;
    }
    return n;
}

/* NetBox tells its faults as {"detail":…} or {"field":["…"]}: the start of the body is the best words that there are. */
static int refused(const struct http_response *answer, const char *method, const char *path, struct err *e)
{
    enum err_kind kind = answer->status == 401 || answer->status == 403 ? ERR_DENIED
                         : answer->status == 404                       ? ERR_NOT_FOUND
                         : answer->status == 429 || answer->status >= 500 ? ERR_UNREACHABLE
                                                                          : ERR_PROTOCOL;

    return err_set(e, kind, "NetBox answered %s %s with %d: %.300s", method, path, answer->status, answer->body.data ? answer->body.data : "");
}

static int ask(struct netbox *n, const char *method, const char *path, const json_t *body, json_t **out, struct err *e)
{
    CLEANUP(free_ptr) char *url = xasprintf("%s%s", n->url, path);
    CLEANUP(free_ptr) char *text = body ? json_text(body) : NULL;
    CLEANUP(http_response_release) struct http_response answer = {0};
    const char *headers[] = {n->authorization, "Accept: application/json", NULL};
    struct http_request request = {.method = method, .url = url, .headers = headers, .content_type = body ? "application/json" : NULL,
                                   .body = text, .body_bytes = text ? strlen(text) : 0};

    if (http_do(n->client, &request, &answer, e) < 0)
        return -1;
    if (answer.status < 200 || answer.status > 299)
        return refused(&answer, method, path, e);
    if (json_read(answer.body.data ? answer.body.data : "", answer.body.size_bytes, out, e) < 0)
        return err_wrap(e, "NetBox's answer to %s %s", method, path);
    return 0;
}

static int read_record(const json_t *held, const char *kind, struct cmdb_record *out, struct err *e)
{
    struct cmdb_record read = {0};
    const json_t *status = json_object_get(held, "status");
    int64_t id;

    if (json_need_int(held, "id", &id, e) < 0)
        return err_wrap(e, "NetBox's record");
    snprintf(read.id, sizeof read.id, "%" PRId64, id);
    if (cmdb_copy(read.kind, kind, "kind", e) < 0 || cmdb_copy(read.name, json_get_string(held, "name", NULL), "name", e) < 0 ||
        cmdb_copy(read.status, json_get_string(status, "value", NULL), "status", e) < 0)
        return -1;
    *out = read;
    return 0;
}

static int check(void *held, struct buf *evidence, struct err *e)
{
    CLEANUP(json_free) json_t *status = NULL, *machines = NULL;
    int64_t count;

    if (ask(held, "GET", "/api/status/", NULL, &status, e) < 0 || ask(held, "GET", "/api/virtualization/virtual-machines/?limit=1", NULL, &machines, e) < 0 ||
        json_need_int(machines, "count", &count, e) < 0)
        return -1;
    return buf_printf(evidence, "NetBox %s lets us in; it holds %" PRId64 " virtual machines", json_get_string(status, "netbox-version", "of an unknown version"), count);
}

/* Records of that name in one table: their count, the first in out. */
static int64_t find_in(struct netbox *n, const char *kind, const char *name, struct cmdb_record *out, struct err *e)
{
    CLEANUP(free_ptr) char *escaped = http_escape(name), *path = xasprintf("/api/%s/?name=%s&limit=2", kind, escaped);
    CLEANUP(json_free) json_t *answer = NULL;
    json_t *results;
    int64_t count;

    if (ask(n, "GET", path, NULL, &answer, e) < 0 || json_need_int(answer, "count", &count, e) < 0 || json_need_array(answer, "results", &results, e) < 0)
        return -1;
    if (count < 0 || (count > 0) != (json_array_size(results) > 0))
        return err_set(e, ERR_PROTOCOL, "NetBox counts %" PRId64 " records and lists %zu", count, json_array_size(results));
    if (count > 0 && read_record(json_array_get(results, 0), kind, out, e) < 0)
        return -1;
    return count;
}

static int find_by_id(struct netbox *n, const char *id, struct cmdb_record *out, struct err *e)
{
    const char *slash = strrchr(id, '/'), *number = slash ? slash + 1 : id;

    if (!*number || strspn(number, "0123456789") != strlen(number))
        return err_set(e, ERR_INVALID, "\"%s\" is not an id of NetBox's; write it as 101 (a virtual machine) or dcim/devices/7", id);
    for (size_t i = 0; i < ARRAY_COUNT(tables); i++) {
        CLEANUP(free_ptr) char *path = xasprintf("/api/%s/%s/", tables[i].path, number);
        CLEANUP(json_free) json_t *answer = NULL;

        /* A bare number is a virtual machine's. */
        if (slash ? strncmp(id, tables[i].path, (size_t)(slash - id)) != 0 || tables[i].path[slash - id] : i > 0)
            continue;
        return ask(n, "GET", path, NULL, &answer, e) < 0 ? -1 : read_record(answer, tables[i].path, out, e);
    }
    return err_set(e, ERR_INVALID, "\"%s\" names no table of NetBox's that is known here", id);
}

static int find(void *held, const char *name, const char *id, struct cmdb_record *out, struct err *e)
{
    int64_t total = 0;

    if (id && *id)
        return find_by_id(held, id, out, e);
    for (size_t i = 0; i < ARRAY_COUNT(tables); i++) {
        int64_t count = find_in(held, tables[i].path, name, out, e);

        if (count < 0)
            return -1;
        total += count;
    }
    if (total == 0)
        return err_set(e, ERR_NOT_FOUND, "no virtual machine and no device is called \"%s\"; set the attribute cmdb_id", name);
    if (total > 1)
        return err_set(e, ERR_CONFLICT, "%" PRId64 " records are called \"%s\"; set the attribute cmdb_id to the right one", total, name);
    return 0;
}

static const char *object_type(const struct cmdb_record *record)
{
    for (size_t i = 0; i < ARRAY_COUNT(tables); i++)
        if (strcmp(tables[i].path, record->kind) == 0)
            return tables[i].object_type;
    return NULL;
}

static bool is_ours(const json_t *entry, const struct cmdb_record *record, const char *type, const char *mark)
{
    char id[32];

    snprintf(id, sizeof id, "%" PRId64, json_get_int(entry, "assigned_object_id", -1));
    return strcmp(id, record->id) == 0 && strcmp(json_get_string(entry, "assigned_object_type", ""), type) == 0 &&
           strstr(json_get_string(entry, "comments", ""), mark);
}

/* 1: the journal has our mark, 0: it has not, -1. */
static int noted(struct netbox *n, const struct cmdb_record *record, const char *type, const char *mark, struct err *e)
{
    for (int page = 0; page < PAGES_MOST; page++) {
        CLEANUP(free_ptr) char *path = xasprintf("/api/extras/journal-entries/?assigned_object_id=%s&limit=%d&offset=%d", record->id, PAGE_LIMIT, page * PAGE_LIMIT);
        CLEANUP(json_free) json_t *answer = NULL;
        json_t *results, *entry;
        size_t i;

        if (ask(n, "GET", path, NULL, &answer, e) < 0 || json_need_array(answer, "results", &results, e) < 0)
            return -1;
        json_array_foreach(results, i, entry)
            if (is_ours(entry, record, type, mark))
                return 1;
        if (!json_is_string(json_object_get(answer, "next")))
            return 0;
    }
    return err_set(e, ERR_LIMIT, "the record has more than %d journal entries", PAGES_MOST * PAGE_LIMIT);
}

static int write_note(struct netbox *n, const struct cmdb_record *record, const struct cmdb_note *note, struct err *e)
{
    const char *type = object_type(record);
    CLEANUP(free_ptr) char *comments = xasprintf("%s\n\n%s", note->mark, note->text);
    CLEANUP(json_free) json_t *answer = NULL, *body = NULL;
    int there;

    if (!type)
        return err_set(e, ERR_INVALID, "the record is of the kind \"%s\", which is none of NetBox's", record->kind);
    there = noted(n, record, type, note->mark, e);
    if (there != 0)
        return there < 0 ? -1 : 0;
    body = json_pack("{s:s, s:I, s:s, s:s}", "assigned_object_type", type, "assigned_object_id", (json_int_t)strtoll(record->id, NULL, 10), "kind", "success", "comments", comments);
    if (ask(n, "POST", "/api/extras/journal-entries/", body, &answer, e) < 0)
        return -1;
    there = noted(n, record, type, note->mark, e);
    return there == 1 ? 0 : there < 0 ? -1 : err_set(e, ERR_PROTOCOL, "NetBox took the journal entry and does not show it");
}

static int retire(void *held, const struct cmdb_record *record, const struct cmdb_note *note, struct cmdb_record *out, struct err *e)
{
    struct netbox *n = held;
    CLEANUP(free_ptr) char *path = xasprintf("/api/%s/%s/", record->kind, record->id);
    CLEANUP(json_free) json_t *body = json_pack("{s:s}", "status", n->retired_status), *changed = NULL, *after = NULL;

    /* The evidence first: a record that is retired says why from the first moment. */
    if (write_note(n, record, note, e) < 0)
        return -1;
    if (strcmp(record->status, n->retired_status) != 0 && ask(n, "PATCH", path, body, &changed, e) < 0)
        return -1;
    if (ask(n, "GET", path, NULL, &after, e) < 0 || read_record(after, record->kind, out, e) < 0)
        return -1;
    if (strcmp(out->status, n->retired_status) != 0)
        return err_set(e, ERR_PROTOCOL, "NetBox still says \"%s\" where \"%s\" was set", out->status, n->retired_status);
    return 0;
}

const struct cmdb_dialect cmdb_netbox = {"netbox", open_netbox, close_netbox, check, find, retire};
