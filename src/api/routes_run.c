/* Runs, tasks, evidence for people; claims and reports of runners: over workflow/. */
#include "api/api.h"
#include "api/clocks.h"
#include "api/routes.h"
#include "base/clock.h"

#include <string.h>

#define CLAIM_WAIT_MS_MAX 60000
#define CLAIM_LABELS_MAX 64
#define CLAIM_STEPS_MAX 256

/* --- people --- */

int route_runs(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t limit = 100;
    json_t *answer = NULL;

    if (call_query_int(c, "limit", 1, LIMIT_PAGE_ITEMS, &limit, e) < 0 || api_read(c, &tx, e) < 0 ||
        workflow_runs_json(tx, call_query(c, "wave"), (int)limit, call_query(c, "page"), &answer, e) < 0)
        return -1;
    return reply_json(c, 200, answer);
}

int route_run(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    json_t *run = NULL;
    int found;

    if (api_read(c, &tx, e) < 0)
        return -1;
    found = workflow_run_json(tx, call_param(c, "id"), true, &run, e);
    return api_reply_found(c, found, run, "run", call_param(c, "id"), e);
}

int route_run_cancel(struct http_call *c, struct err *e)
{
    return workflow_cancel_run(api_of(c)->workflow, call_param(c, "id"), c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

int route_task(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    json_t *task = NULL;
    int found;

    if (api_read(c, &tx, e) < 0)
        return -1;
    found = workflow_task_json(tx, call_param(c, "id"), true, &task, e);
    return api_reply_found(c, found, task, "task", call_param(c, "id"), e);
}

int route_task_decide(struct http_call *c, struct err *e)
{
    const char *decision;

    if (json_need_string(c->body, "decision", &decision, e) < 0)
        return -1;
    if (strcmp(decision, "approve") != 0 && strcmp(decision, "reject") != 0)
        return err_set(e, ERR_INVALID, "\"decision\" must be \"approve\" or \"reject\"");
    return workflow_decide(api_of(c)->workflow, call_param(c, "id"), decision[0] == 'a', json_get_string(c->body, "note", NULL), c->who.text, e) < 0 ?
        -1 : reply_empty(c, 204);
}

int route_task_retry(struct http_call *c, struct err *e)
{
    return workflow_retry(api_of(c)->workflow, call_param(c, "id"), c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

int route_task_cancel(struct http_call *c, struct err *e)
{
    return workflow_cancel_task(api_of(c)->workflow, call_param(c, "id"), c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

int route_task_skip(struct http_call *c, struct err *e)
{
    const char *reason;

    if (json_need_string(c->body, "reason", &reason, e) < 0)
        return -1;
    return workflow_skip(api_of(c)->workflow, call_param(c, "id"), reason, c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

/* Media types that a browser may show; whatever else a runner sent is for downloading. */
static bool shows_safely(const char *media_type)
{
    static const char *const safe[] = {"image/png", "image/jpeg", "text/plain", "application/json"};

    for (size_t i = 0; i < ARRAY_COUNT(safe); i++)
        if (strncmp(media_type, safe[i], strlen(safe[i])) == 0 && strchr("; ", media_type[strlen(safe[i])]))
            return true;
    return false;
}

int route_artifact(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(free_ptr) char *media_type = NULL;
    void *bytes = NULL;
    size_t size = 0;
    int found;

    if (api_read(c, &tx, e) < 0)
        return -1;
    found = workflow_artifact_read(tx, call_param(c, "id"), call_param(c, "name"), &media_type, &bytes, &size, e);
    if (found <= 0)
        return api_reply_found(c, found, NULL, "artifact", call_param(c, "name"), e);
    reply_header(c, "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox");
    if (!shows_safely(media_type))
        reply_header(c, "Content-Disposition", "attachment");
    return reply_bytes(c, 200, arena_strdup(c->arena, media_type), bytes, size);
}

/* The runs that doctor reads: a probe machine on the target, launched and removed; the source network and the replicator reached from there. */
int route_probe(struct http_call *c, struct err *e)
{
    char run[WORKFLOW_ID_SIZE], source_run[WORKFLOW_ID_SIZE];

    if (workflow_start_probe(api_of(c)->workflow, NULL, c->who.text, run, e) < 0 ||
        workflow_start_source_probe(api_of(c)->workflow, c->who.text, source_run, e) < 0)
        return -1;
    return reply_json(c, 202, json_pack("{s:s, s:s}", "run", run, "source_run", source_run));
}

/* --- runners --- */

static int read_texts(const json_t *body, const char *name, const char **texts, int most, int *count, struct err *e)
{
    json_t *list;
    size_t index;
    json_t *text;

    if (json_need_array(body, name, &list, e) < 0)
        return -1;
    if (json_array_size(list) > (size_t)most)
        return err_set(e, ERR_LIMIT, "\"%s\" may have at most %d texts", name, most);
    *count = 0;
    json_array_foreach(list, index, text) {
        if (!json_is_string(text))
            return err_set(e, ERR_INVALID, "\"%s\" must be a list of texts", name);
        texts[(*count)++] = json_string_value(text);
    }
    return 0;
}

/* A runner may offer fewer labels than it was enrolled with, never others. */
static int check_labels(const struct actor *who, const char *const *labels, int count, struct err *e)
{
    for (int i = 0; i < count; i++) {
        bool has = false;

        for (int k = 0; k < who->label_count; k++)
            has |= strcmp(labels[i], who->labels[k]) == 0;
        if (!has)
            return err_set(e, ERR_DENIED, "the runner %s was not enrolled with the label \"%.100s\": enrol it again with that", who->name, labels[i]);
    }
    return 0;
}

/* What its clock says, for doctor. */
static void note_clock(struct http_call *c)
{
    const char *text = json_get_string(c->body, "clock", NULL);
    int64_t told_us;

    if (text && clock_parse(text, &told_us, NULL) == 0)
        clocks_tell(api_of(c)->clocks, c->who.name, told_us, clock_now_us());
}

/* A long poll: 204 when there was nothing within wait_ms. */
int route_claim(struct http_call *c, struct err *e)
{
    const char *labels[CLAIM_LABELS_MAX], *steps[CLAIM_STEPS_MAX];
    struct workflow_offer offer = {.runner = c->who.name, .labels = labels, .steps = steps};
    int64_t wait_ms = json_get_int(c->body, "wait_ms", 0);
    json_t *document = NULL;
    int claimed;

    /* It was parked: its certificate may have been revoked since, and a task's document has credentials. */
    if (c->poll_until_us && identity_peer(api_of(c)->identity, c->who.text, c->who.serial, &c->who, e) < 0)
        return -1;
    if (read_texts(c->body, "labels", labels, CLAIM_LABELS_MAX, &offer.label_count, e) < 0 ||
        read_texts(c->body, "steps", steps, CLAIM_STEPS_MAX, &offer.step_count, e) < 0 ||
        check_labels(&c->who, labels, offer.label_count, e) < 0)
        return -1;
    if (call_peer_left(c)) /* a task given now would be lost until its lease runs out */
        return reply_empty(c, 204);
    if (!c->poll_until_us) {
        if (identity_seen(api_of(c)->identity, &c->who, e) < 0)
            return -1;
        note_clock(c);
        c->poll_until_us = clock_monotonic_us() + (wait_ms < 0 ? 0 : wait_ms > CLAIM_WAIT_MS_MAX ? CLAIM_WAIT_MS_MAX : wait_ms) * US_PER_MS;
    }
    if (call_is_last(c)) /* the factory is stopping */
        return reply_empty(c, 204);
    claimed = workflow_claim(api_of(c)->workflow, &offer, &document, e);
    if (claimed < 0)
        return -1;
    if (claimed)
        return reply_json(c, 200, document);
    return c->time_is_up || clock_monotonic_us() >= c->poll_until_us ? reply_empty(c, 204) : call_park(c, c->poll_until_us);
}

int route_attempt_report(struct http_call *c, struct err *e)
{
    json_t *answer = NULL;

    if (workflow_report(api_of(c)->workflow, c->who.name, call_param(c, "id"), c->body, &answer, e) < 0)
        return -1;
    identity_seen(api_of(c)->identity, &c->who, NULL); /* what counts is that the report was kept */
    return reply_json(c, 200, answer);
}

int route_attempt_artifact(struct http_call *c, struct err *e)
{
    const char *media_type = call_header(c, "Content-Type");
    int64_t fence = -1;

    if (call_query_int(c, "fence", 0, INT64_MAX, &fence, e) < 0)
        return -1;
    if (fence < 0)
        return err_set(e, ERR_INVALID, "the parameter \"fence\" is missing");
    if (workflow_artifact(api_of(c)->workflow, c->who.name, call_param(c, "id"), fence, call_param(c, "name"),
                          media_type ? media_type : "application/octet-stream", c->bytes.data ? c->bytes.data : "", c->bytes.size_bytes, e) < 0)
        return -1;
    return reply_empty(c, 204);
}

int route_attempt_finish(struct http_call *c, struct err *e)
{
    return workflow_finish(api_of(c)->workflow, c->who.name, call_param(c, "id"), c->body, e) < 0 ? -1 : reply_empty(c, 204);
}
