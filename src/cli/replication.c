/* replication: do the servers' copies keep up? Worst first, with why and what to do; an exit status for a monitor. */
#include "cli/cli_private.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BEHIND_EXIT_CODE 7 /* as of doctor's: it is not as it should be */

static const struct {
    const char *severity, *colour;
} ranks[] = {{"", ""}, {"info", ""}, {"warning", "\x1b[33m"}, {"error", "\x1b[31m"}};

/* The worse, the higher: an index into ranks. A severity that nobody knows is as bad as can be. */
static size_t rank_of(const json_t *server)
{
    const json_t *cause = json_object_get(json_object_get(server, "replication"), "cause");
    const char *severity = json_get_string(cause, "severity", json_is_object(cause) ? "error" : "");
    size_t rank = 0;

    while (rank + 1 < ARRAY_COUNT(ranks) && strcmp(ranks[rank].severity, severity) != 0)
        rank++;
    return rank;
}

static int worse_first(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    size_t rank_x = rank_of(x), rank_y = rank_of(y);
    int64_t lag_x = json_get_int(json_object_get(x, "replication"), "lag_ms", 0), lag_y = json_get_int(json_object_get(y, "replication"), "lag_ms", 0);

    if (rank_x != rank_y)
        return rank_x < rank_y ? 1 : -1;
    if (lag_x != lag_y)
        return lag_x < lag_y ? 1 : -1;
    return strcmp(json_get_string(x, "name", ""), json_get_string(y, "name", ""));
}

/* Those whose replication has begun, worst first. */
static json_t *begun(const json_t *servers)
{
    size_t count = 0, index;
    json_t **list = xcalloc(json_array_size(servers) + 1, sizeof *list), *server, *sorted = json_array();

    json_array_foreach ((json_t *)(uintptr_t)servers, index, server)
        if (json_is_object(json_object_get(server, "replication")))
            list[count++] = server;
    qsort(list, count, sizeof *list, worse_first);
    for (size_t i = 0; i < count; i++)
        json_array_append(sorted, list[i]);
    free(list);
    return sorted;
}

static bool is_coloured(FILE *out)
{
    const char *terminal = getenv("TERM");

    return isatty(fileno(out)) && !getenv("NO_COLOR") && terminal && strcmp(terminal, "dumb") != 0;
}

static void begin_row(FILE *out, const json_t *server)
{
    if (is_coloured(out))
        fputs(ranks[rank_of(server)].colour, out);
}

static void end_row(FILE *out, const json_t *server)
{
    const json_t *cause = json_object_get(json_object_get(server, "replication"), "cause");

    if (is_coloured(out) && *ranks[rank_of(server)].colour)
        fputs("\x1b[0m", out);
    if (!json_is_object(cause))
        return;
    fputs("    why:  ", out);
    cli_show_clean(out, json_get_string(cause, "text", "no cause is given"));
    fputs("\n    do:   ", out);
    cli_show_clean(out, json_get_string(cause, "advice", "nothing is advised"));
    fputc('\n', out);
}

int cli_run_replication(struct cli_call *call, struct err *e)
{
    CLEANUP(free_ptr) char *path = cli_path(call, "/v1/servers?wave={wave}"), *wave = cli_has(call, "wave") ? cli_path(call, "/v1/waves/{wave}") : NULL;
    CLEANUP(json_free) json_t *answer = NULL, *servers = NULL;
    const struct cli_row_hooks hooks = {begin_row, end_row};
    bool keeps_up;

    if (cli_list(call, path, &answer, e) < 0)
        return -1;
    servers = begun(json_object_get(answer, "items"));
    if (!json_array_size(servers) && wave && cli_request(call, "GET", wave, NULL, NULL, NULL, e) < 0) /* one that is not there keeps nothing up */
        return -1;
    keeps_up = !json_array_size(servers) || rank_of(json_array_get(servers, 0)) + 1 < ARRAY_COUNT(ranks);
    if (call->json) {
        CLEANUP(json_free) json_t *all = json_pack("{s:b, s:O}", "keeps_up", keeps_up, "servers", servers);

        cli_show_json(call->out, all);
    } else {
        cli_show_rows(call->out, servers, call->verb->columns, &hooks);
    }
    if (!keeps_up && !cli_has(call, "no-fail"))
        call->exit_code = BEHIND_EXIT_CODE;
    return 0;
}

/* A wave's own line, and below it how its servers stand. */
int cli_run_wave_show(struct cli_call *call, struct err *e)
{
    CLEANUP(free_ptr) char *path = cli_path(call, "/v1/waves/{0}"), *servers_path = cli_path(call, "/v1/servers?wave={0}");
    CLEANUP(json_free) json_t *wave = NULL, *answer = NULL, *servers = NULL;
    const struct cli_row_hooks hooks = {begin_row, end_row};

    if (cli_request(call, "GET", path, NULL, NULL, &wave, e) < 0)
        return -1;
    cli_show_answer(call, wave);
    if (call->json)
        return 0;
    if (cli_list(call, servers_path, &answer, e) < 0)
        return -1;
    servers = begun(json_object_get(answer, "items"));
    if (!json_array_size(servers))
        return 0;
    fputs("\nReplication\n", call->out);
    cli_show_rows(call->out, servers, cli_replication_columns, &hooks);
    return 0;
}
