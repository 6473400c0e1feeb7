/* watch: the factory's live events, read as the server-sent events that the console reads. A lost connection is made
 * again, from the last event's id on, so that nothing is missed. */
#include "base/clock.h"
#include "cli/cli_private.h"

#include <errno.h>
#include <string.h>

#define LIMIT_EVENT_BYTES (1u << 20)
#define AGAIN_AFTER_US (2 * US_PER_S)

struct watch {
    struct cli_call *call;
    struct buf line, data;
    char kind[128], id[64], last_id[64];
    bool replication, closed;
};

static void show_replication(FILE *out, const json_t *event)
{
    static const struct {
        const char *title, *path;
        enum cli_format format;
    } figures[] = {{"", "state", CLI_TEXT}, {"backlog ", "backlog_bytes", CLI_BYTES}, {"churn ", "churn_bytes_per_s", CLI_RATE},
                   {"rate ", "rate_bytes_per_s", CLI_RATE}, {"lag ", "lag_ms", CLI_MS}, {"caught up in ", "", CLI_ETA},
                   {"newest point's age ", "newest_point_age_ms", CLI_MS}};
    const json_t *cause = json_object_get(event, "cause");

    cli_show_clean(out, json_get_string(event, "server", "?"));
    for (size_t i = 0; i < ARRAY_COUNT(figures); i++) {
        CLEANUP(buf_release) struct buf text = {0};

        cli_show_value(&text, event, figures[i].path, figures[i].format);
        fprintf(out, "  %s", figures[i].title);
        cli_show_clean(out, text.data ? text.data : "-");
    }
    if (json_is_object(cause)) {
        fputs("\n    why: ", out);
        cli_show_clean(out, json_get_string(cause, "text", "?"));
        fputs("\n    do:  ", out);
        cli_show_clean(out, json_get_string(cause, "advice", "?"));
    }
    fputc('\n', out);
}

/* What an event says of itself: changes of fields as "state: CONTINUOUS → BACKLOG", else its data as they are. */
static void show_details(FILE *out, const json_t *data)
{
    json_t *fields = json_object_get(data, "fields"), *change;
    CLEANUP(buf_release) struct buf text = {0};
    const char *name;

    if (!json_is_object(fields))
        cli_show_value(&text, data, "", CLI_TEXT);
    else
        json_object_foreach (fields, name, change) {
            buf_printf(&text, "%s%s: ", text.size_bytes ? ", " : "", name);
            cli_show_value(&text, change, "before", CLI_TEXT);
            buf_puts(&text, " → ");
            cli_show_value(&text, change, "after", CLI_TEXT);
        }
    cli_show_clean(out, text.data ? text.data : "");
}

static void show_event(struct watch *w)
{
    CLEANUP(json_free) json_t *event = NULL;
    FILE *out = w->call->out;

    if (json_read(w->data.data, w->data.size_bytes, &event, NULL) < 0)
        return;
    if (w->call->json) {
        CLEANUP(json_free) json_t *line = json_pack("{s:s,s:O}", "event", w->kind, "data", event);
        CLEANUP(free_ptr) char *text = line ? json_text(line) : NULL;

        fprintf(out, "%s\n", text ? text : "");
    } else if (strcmp(w->kind, "replication") == 0) {
        show_replication(out, event);
    } else {
        fprintf(out, "%.19s  ", json_get_string(event, "at", "-"));
        cli_show_clean(out, json_get_string(event, "kind", w->kind));
        fputs("  ", out);
        cli_show_clean(out, json_get_string(event, "entity_id", ""));
        fputs("  ", out);
        show_details(out, json_object_get(event, "data"));
        fputs("  by ", out);
        cli_show_clean(out, json_get_string(event, "actor", "?"));
        fputc('\n', out);
    }
    if (fflush(out) != 0)
        w->closed = true; /* whoever read us went away */
}

/* WHATWG HTML 9.2.6: "field: value", an empty line ends an event, a line that begins with ':' is a comment. */
static void take_line(struct watch *w)
{
    char *text = w->line.data ? w->line.data : (char[]){""}, *colon = strchr(text, ':');
    const char *value = colon ? colon + 1 + (colon[1] == ' ') : "";

    if (!*text) {
        if (w->data.size_bytes && (w->replication || strcmp(w->kind, "replication") != 0))
            show_event(w);
        if (*w->id)
            memcpy(w->last_id, w->id, sizeof w->last_id);
        buf_release(&w->data);
        w->kind[0] = '\0';
        return;
    }
    if (!colon || colon == text)
        return;
    *colon = '\0';
    if (strcmp(text, "data") == 0) {
        if (w->data.size_bytes)
            buf_puts(&w->data, "\n");
        buf_puts(&w->data, value);
    } else if (strcmp(text, "event") == 0) {
        snprintf(w->kind, sizeof w->kind, "%s", value);
    } else if (strcmp(text, "id") == 0) {
        snprintf(w->id, sizeof w->id, "%s", value);
    }
}

static int on_bytes(void *user, const char *bytes, size_t size)
{
    struct watch *w = user;

    while (size && !w->closed) {
        const char *end = memchr(bytes, '\n', size);
        size_t count = end ? (size_t)(end - bytes) : size;

        if (buf_add(&w->line, bytes, count) < 0 || w->data.over)
            return -1;
        bytes += count;
        size -= count;
        if (!end)
            break;
        if (w->line.size_bytes && w->line.data[w->line.size_bytes - 1] == '\r')
            w->line.data[--w->line.size_bytes] = '\0';
        take_line(w);
        buf_release(&w->line);
        bytes++;
        size--;
    }
    return w->closed ? -1 : 0;
}

int cli_run_watch(struct cli_call *call, struct err *e)
{
    struct watch w = {.call = call, .replication = cli_has(call, "replication")};
    CLEANUP(free_ptr) char *path = cli_path(call, "/v1/events?wave={wave}");
    const char *since = cli_value(call, "since");

    buf_init(&w.line, LIMIT_EVENT_BYTES);
    buf_init(&w.data, LIMIT_EVENT_BYTES);
    snprintf(w.last_id, sizeof w.last_id, "%s", since ? since : "");
    for (;;) {
        struct err failed = {0};
        int done = cli_stream(call, path, *w.last_id ? w.last_id : NULL, on_bytes, &w, &failed);

        buf_release(&w.line);
        buf_release(&w.data);
        w.kind[0] = '\0';
        if (w.closed)
            return 0;
        if (done < 0 && failed.kind != ERR_UNREACHABLE && failed.kind != ERR_TIMEOUT) {
            if (e)
                *e = failed;
            return -1;
        }
        if (done < 0)
            fprintf(stderr, "slipway watch: %s: trying again\n", failed.message);
        clock_sleep_us(AGAIN_AFTER_US);
    }
}
