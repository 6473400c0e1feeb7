/* The command line against the factory's own routes: every path that a row sends to is there, with its method and its
 * query. */
#include "api/api.h"
#include "api/httpd.h"
#include "cli/cli_private.h"
#include "tap.h"

/* Where two paths are the same but for what stands in braces. */
static bool same_path(const char *row, const char *route)
{
    while (*row && *route && *row != '?') {
        if (*row == '{' && *route == '{') {
            row += strcspn(row, "}");
            route += strcspn(route, "}");
        } else if (*row != *route) {
            return false;
        }
        row++;
        route++;
    }
    return !*route && (!*row || *row == '?');
}

static bool is_listed(const char *list, const char *name, size_t size)
{
    for (const char *at = list; at && *at; at += strcspn(at, ","), at += *at == ',')
        if (strcspn(at, ",") == size && memcmp(at, name, size) == 0)
            return true;
    return false;
}

static const struct http_route *find(const char *method, const char *path)
{
    for (size_t i = 0; i < api_route_count; i++)
        if (strcmp(httpd_method_names[api_routes[i].method], method) == 0 && same_path(path, api_routes[i].path))
            return &api_routes[i];
    return NULL;
}

static void holds(const char *method, const char *path)
{
    const struct http_route *route = find(method, path);
    const char *query = strchr(path, '?');

    ok(route, "%s %s is a route", method, path);
    for (const char *at = query ? query + 1 : ""; route && *at; at += strcspn(at, "&"), at += *at == '&')
        ok(is_listed(route->query, at, strcspn(at, "=")), "%s takes %.*s", path, (int)strcspn(at, "="), at);
    if (route && is_listed(route->query, "limit", strlen("limit"))) /* what is more than one answer holds is asked for so */
        ok(is_listed(route->query, "page", strlen("page")), "%s takes page", path);
}

int main(void)
{
    /* What the rows with a run of their own send. */
    static const char *const others[][2] = {{"POST", "/v1/sessions"},
                                            {"DELETE", "/v1/sessions/current"},
                                            {"POST", "/v1/tokens"},
                                            {"DELETE", "/v1/tokens/{0}"},
                                            {"POST", "/v1/imports?dry_run={x}&create_waves={x}"},
                                            {"GET", "/v1/exports?wave={x}"},
                                            {"PATCH", "/v1/waves/{0}"},
                                            {"PUT", "/v1/waves/{0}/window"},
                                            {"PUT", "/v1/waves/{0}/measurements/{1}"},
                                            {"PATCH", "/v1/servers/{0}"},
                                            {"GET", "/v1/tasks/{0}/artifacts/{1}"},
                                            {"GET", "/v1/waves/{0}/report"},
                                            {"GET", "/v1/waves/{0}/report.html"},
                                            {"GET", "/v1/servers?q={x}&wave={x}"},
                                            {"GET", "/v1/settings"},
                                            {"PUT", "/v1/settings"},
                                            {"POST", "/v1/credentials"},
                                            {"POST", "/v1/probes"},
                                            {"GET", "/v1/runs/{0}"},
                                            {"GET", "/v1/doctor"},
                                            {"GET", "/v1/events?wave={x}"}};

    for (const struct cli_verb *v = cli_verbs; v->command; v++)
        if (v->path)
            holds(v->method, v->path);
    for (size_t i = 0; i < ARRAY_COUNT(others); i++)
        holds(others[i][0], others[i][1]);
    return tap_done();
}
