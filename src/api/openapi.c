/* The OpenAPI 3.1 document, from the table of routes and the table of schemas. */
#include "api/api.h"
#include "api/schemas.h"

#include <ctype.h>
#include <string.h>

/* --- schemas: "name:type" with ! for a member that is always there and ? for one that may be null --- */

static json_t *ref(const char *name)
{
    return json_pack("{s:o}", "$ref", json_sprintf("#/components/schemas/%s", name));
}

static json_t *type_schema(const char *type, size_t length)
{
    static const char *const plain[] = {"string", "integer", "number", "boolean", "object"};
    char name[64];

    MUST(length < sizeof name);
    memcpy(name, type, length);
    name[length] = '\0';
    if (name[0] == '[') {
        name[length - 1] = '\0';
        return json_pack("{s:s, s:o}", "type", "array", "items", type_schema(name + 1, length - 2));
    }
    for (size_t i = 0; i < ARRAY_COUNT(plain); i++)
        if (strcmp(name, plain[i]) == 0)
            return json_pack("{s:s}", "type", plain[i]);
    if (strcmp(name, "time") == 0)
        return json_pack("{s:s, s:s}", "type", "string", "format", "date-time");
    if (strcmp(name, "any") == 0)
        return json_object();
    MUST(schema_find(name));
    return ref(name);
}

static void add_member(const char *text, size_t length, json_t *properties, json_t *required)
{
    const char *colon = memchr(text, ':', length);
    char name[64], last = text[length - 1];
    json_t *schema;

    MUST(colon && (size_t)(colon - text) < sizeof name);
    memcpy(name, text, (size_t)(colon - text));
    name[colon - text] = '\0';
    if (last == '!' || last == '?')
        length--;
    schema = type_schema(colon + 1, (size_t)(text + length - colon - 1));
    if (last == '?')
        schema = json_pack("{s:[o, {s:s}]}", "anyOf", schema, "type", "null");
    if (last == '!')
        json_array_append_new(required, json_string(name));
    json_object_set_new(properties, name, schema);
}

static json_t *object_schema(const char *members)
{
    json_t *properties = json_object(), *required = json_array(), *schema;

    for (const char *at = members; *at;) {
        size_t length = strcspn(at, " ");

        add_member(at, length, properties, required);
        at += length;
        at += strspn(at, " ");
    }
    schema = json_pack("{s:s, s:o}", "type", "object", "properties", properties);
    if (json_array_size(required))
        json_object_set(schema, "required", required);
    json_decref(required);
    return schema;
}

/* --- operations --- */

/* "route_wave_start" can't be had from a pointer: "postV1WavesWaveStart" is as good, and unique. */
static json_t *operation_id(const struct http_route *r)
{
    char id[200];
    size_t size = 0;
    bool upper = true;

    for (const char *at = httpd_method_names[r->method]; *at; at++)
        id[size++] = (char)tolower((unsigned char)*at);
    for (const char *at = r->path; *at && size < sizeof id - 1; at++) {
        if (!isalnum((unsigned char)*at)) {
            upper = true;
            continue;
        }
        id[size++] = upper ? (char)toupper((unsigned char)*at) : *at;
        upper = false;
    }
    return json_stringn(id, size);
}

static json_t *parameters(const struct http_route *r)
{
    json_t *list = json_array();

    for (const char *open = strchr(r->path, '{'); open; open = strchr(open + 1, '{'))
        json_array_append_new(list, json_pack("{s:s%, s:s, s:b, s:{s:s}}", "name", open + 1, strcspn(open + 1, "}"), "in", "path", "required", 1,
                                              "schema", "type", "string"));
    for (const char *at = r->query; at && *at;) {
        size_t length = strcspn(at, ",");

        json_array_append_new(list, json_pack("{s:s%, s:s, s:b, s:{s:s}}", "name", at, length, "in", "query", "required", 0, "schema", "type",
                                              "string"));
        at += length + (at[length] == ',');
    }
    return list;
}

/* A name with a slash is a media type, else a schema of JSON. */
static json_t *content(const char *name)
{
    if (strchr(name, '/'))
        return json_pack("{s:{s:{s:s}}}", name, "schema", "type", "string");
    return json_pack("{s:{s:o}}", "application/json", "schema", ref(name));
}

static json_t *responses(const struct http_route *r)
{
    int status = r->status ? r->status : r->gives ? 200 : 204;
    char code[4];
    json_t *all = json_object(), *good = json_pack("{s:s}", "description", r->summary);

    if (r->gives)
        json_object_set_new(good, "content", content(r->gives));
    snprintf(code, sizeof code, "%d", status);
    json_object_set_new(all, code, good);
    if (strcmp(r->path, "/v1/runner/claim") == 0)
        json_object_set_new(all, "204", json_pack("{s:s}", "description", "Nothing to do now"));
    json_object_set_new(all, "default", json_pack("{s:s, s:{s:{s:o}}}", "description", "A problem (RFC 9457)", "content",
                                                  "application/problem+json", "schema", ref("Problem")));
    return all;
}

static json_t *security(enum http_access access)
{
    if (access == ACCESS_PUBLIC)
        return json_array();
    if (access == ACCESS_RUNNER || access == ACCESS_REPLICATOR)
        return json_pack("[{s:[]}]", "certificate");
    if (access == ACCESS_READER)
        return json_pack("[{s:[]}, {s:[]}, {s:[]}]", "bearer", "session", "certificate");
    return json_pack("[{s:[]}, {s:[]}]", "bearer", "session");
}

static json_t *operation(const struct http_route *r)
{
    json_t *o = json_pack("{s:o, s:s, s:o, s:o, s:o, s:s}", "operationId", operation_id(r), "summary", r->summary, "parameters", parameters(r),
                          "responses", responses(r), "security", security(r->access), "x-access", httpd_access_names[r->access]);

    if (r->takes)
        json_object_set_new(o, "requestBody", json_pack("{s:b, s:o}", "required", 1, "content", content(r->takes)));
    return o;
}

static json_t *paths(const struct http_route *routes, size_t count)
{
    json_t *all = json_object();

    for (size_t i = 0; i < count; i++) {
        const char *name = httpd_method_names[routes[i].method];
        json_t *path = json_object_get(all, routes[i].path);
        char method[8];
        size_t k = 0;

        if (!path) {
            path = json_object();
            json_object_set_new(all, routes[i].path, path);
        }
        for (; name[k]; k++)
            method[k] = (char)tolower((unsigned char)name[k]);
        method[k] = '\0';
        json_object_set_new(path, method, operation(&routes[i]));
    }
    return all;
}

json_t *openapi_document(const struct http_route *routes, size_t count)
{
    json_t *schemas = json_object();

    for (const struct schema *s = schema_table; s->name; s++)
        json_object_set_new(schemas, s->name, object_schema(s->members));
    return json_pack("{s:s, s:{s:s, s:s, s:s}, s:o, s:{s:o, s:{s:{s:s, s:s}, s:{s:s, s:s, s:s}, s:{s:s}}}}", "openapi", "3.1.0", "info", "title",
                     "Slipway", "version", "1", "summary", "A cloud migration factory", "paths", paths(routes, count), "components",
                     "schemas", schemas, "securitySchemes", "bearer", "type", "http", "scheme", "bearer", "session", "type", "apiKey", "in",
                     "cookie", "name", API_COOKIE, "certificate", "type", "mutualTLS");
}
