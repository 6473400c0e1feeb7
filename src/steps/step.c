#include "base/clock.h"
#include "base/limits.h"
#include "steps/step_run.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROGRESS_EVERY_US (250 * US_PER_MS)

struct step {
    json_t *document;
    char *scratch_dir, *state_dir;
    struct step_sink sink;
    pthread_mutex_t speaking; /* taken first: calls of the sink, and down to the next lock */
    int failed_count;         /* lines of evidence that did not hold */
    char first_failed[256];
    int64_t progress_us;      /* when progress was told last */
    pthread_mutex_t lock;     /* below; never held while the sink works */
    pthread_cond_t woken;
    json_t *results;
    bool cancelled;
};

struct step *step_new(json_t *document, const char *scratch_dir, const char *state_dir, const struct step_sink *sink)
{
    struct step *s = xcalloc(1, sizeof *s);
    pthread_condattr_t attributes;

    s->document = document;
    s->scratch_dir = xstrdup(scratch_dir);
    s->state_dir = xstrdup(state_dir);
    s->sink = *sink;
    s->results = json_object();
    s->progress_us = -PROGRESS_EVERY_US;
    pthread_mutex_init(&s->speaking, NULL);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&s->woken, &attributes);
    pthread_condattr_destroy(&attributes);
    return s;
}

void step_free(struct step **held)
{
    struct step *s = *held;

    if (!s)
        return;
    json_decref(s->document);
    json_decref(s->results);
    free(s->scratch_dir);
    free(s->state_dir);
    pthread_mutex_destroy(&s->speaking);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->woken);
    free(s);
    *held = NULL;
}

const struct step_api *step_find(const char *name)
{
    for (int i = 0; step_table[i]; i++)
        if (strcmp(step_table[i]->name, name) == 0)
            return step_table[i];
    return NULL;
}

int step_execute(struct step *s, struct err *e)
{
    const char *name;
    const struct step_api *api;

    if (step_need_string(s, "task.step", &name, e) < 0)
        return -1;
    api = step_find(name);
    if (!api)
        return err_set(e, ERR_UNSUPPORTED, "this runner has no step \"%s\": is it older than the factory?", name);
    if (json_get_bool(s->document, "undo", false))
        return api->undo ? api->undo(s, e) : 0;
    if (api->run(s, e) < 0)
        return -1;
    if (step_cancelled(s))
        return err_set(e, ERR_CANCELLED, "cancelled");
    if (s->failed_count > 0)
        return err_set(e, ERR_INTERNAL, "%s passed though %d of its checks did not hold, the first: %s", name, s->failed_count,
                       s->first_failed);
    return 0;
}

void step_cancel(struct step *s)
{
    pthread_mutex_lock(&s->lock);
    s->cancelled = true;
    pthread_cond_broadcast(&s->woken);
    pthread_mutex_unlock(&s->lock);
}

const json_t *step_results(const struct step *s) { return s->results; }
const json_t *step_document(const struct step *s) { return s->document; }
const char *step_scratch_dir(const struct step *s) { return s->scratch_dir; }
const char *step_state_dir(const struct step *s) { return s->state_dir; }

/* "server.disks.0.id": members by name, elements by number. */
const json_t *step_json(const struct step *s, const char *path)
{
    const json_t *at = s->document;

    while (at && *path) {
        size_t size = strcspn(path, ".");
        char name[256];

        if (size >= sizeof name)
            return NULL;
        memcpy(name, path, size);
        name[size] = '\0';
        if (json_is_array(at))
            at = name[strspn(name, "0123456789")] == '\0' ? json_array_get(at, strtoul(name, NULL, 10)) : NULL;
        else
            at = json_object_get(at, name);
        path += size + (path[size] == '.');
    }
    return at && !json_is_null(at) ? at : NULL;
}

const char *step_string(const struct step *s, const char *path, const char *otherwise)
{
    const json_t *found = step_json(s, path);

    return json_is_string(found) ? json_string_value(found) : otherwise;
}

/* A number, or a string that is one: attributes from a CSV file are strings. */
int64_t step_int(const struct step *s, const char *path, int64_t otherwise)
{
    const json_t *found = step_json(s, path);
    const char *text = json_string_value(found);
    char *end = NULL;
    long long value;

    if (json_is_integer(found))
        return json_integer_value(found);
    if (!text || !*text)
        return otherwise;
    value = strtoll(text, &end, 10);
    return *end ? otherwise : value;
}

int step_need_string(const struct step *s, const char *path, const char **out, struct err *e)
{
    const char *found = step_string(s, path, NULL);

    if (!found || !*found)
        return err_set(e, ERR_INVALID, "the task has no %s", path);
    *out = found;
    return 0;
}

/* How many bytes of a UTF-8 sequence start here (RFC 3629 4, overlong and surrogates left to the caller's table); 0: none does. */
static size_t utf8_length(const unsigned char *at, size_t left)
{
    size_t length = *at < 0x80 ? 1 : *at >= 0xc2 && *at < 0xe0 ? 2 : (*at & 0xf0) == 0xe0 ? 3 : *at >= 0xf0 && *at < 0xf5 ? 4 : 0;

    if (length == 0 || length > left)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    if ((*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] >= 0xa0) || (*at == 0xf0 && at[1] < 0x90) || (*at == 0xf4 && at[1] >= 0x90))
        return 0;
    return length;
}

json_t *step_text(const char *bytes, size_t size)
{
    CLEANUP(free_ptr) char *clean = xmalloc(size + 1);
    size_t at = 0;

    while (at < size) {
        size_t length = bytes[at] ? utf8_length((const unsigned char *)bytes + at, size - at) : 0;

        if (length)
            memcpy(clean + at, bytes + at, length);
        else
            clean[at] = '?';
        at += length ? length : 1;
    }
    json_t *text = json_stringn(clean, size);
    MUST(text);
    return text;
}

static json_t *format_text(const char *format, va_list args)
{
    char text[LIMIT_EVIDENCE_TEXT_BYTES];
    int size = vsnprintf(text, sizeof text, format, args);

    return step_text(text, size < 0 ? 0 : (size_t)size < sizeof text ? (size_t)size : sizeof text - 1);
}

static void say(struct step *s, json_t *line)
{
    MUST(line);
    s->sink.line(s->sink.user, line);
    json_decref(line);
}

void step_evidence(struct step *s, const char *name, bool passed, const char *format, ...)
{
    json_t *text;
    va_list args;

    va_start(args, format);
    text = format_text(format, args);
    va_end(args);
    pthread_mutex_lock(&s->speaking);
    if (!passed && s->failed_count++ == 0)
        snprintf(s->first_failed, sizeof s->first_failed, "%s: %s", name, json_string_value(text));
    say(s, json_pack("{s:{s:o, s:b, s:o}}", "evidence", "name", step_text(name, strlen(name)), "passed", passed, "evidence", text));
    pthread_mutex_unlock(&s->speaking);
}

void step_progress(struct step *s, int64_t done, int64_t total, const char *unit, const char *format, ...)
{
    int64_t now_us = clock_monotonic_us();
    json_t *note;
    va_list args;

    va_start(args, format);
    note = format_text(format, args);
    va_end(args);
    pthread_mutex_lock(&s->speaking);
    if (done < total && now_us - s->progress_us < PROGRESS_EVERY_US) {
        json_decref(note);
    } else {
        s->progress_us = now_us;
        say(s, json_pack("{s:{s:I, s:I, s:s, s:o}}", "progress", "done", (json_int_t)done, "total", (json_int_t)total, "unit", unit,
                         "note", note));
    }
    pthread_mutex_unlock(&s->speaking);
}

int step_artifact(struct step *s, const char *name, const char *media_type, const char *path, struct err *e)
{
    int result;

    pthread_mutex_lock(&s->speaking);
    result = s->sink.artifact ? s->sink.artifact(s->sink.user, name, media_type, path, e) : 0;
    pthread_mutex_unlock(&s->speaking);
    return result;
}

void step_result(struct step *s, const char *key, json_t *value)
{
    MUST(value);
    pthread_mutex_lock(&s->lock);
    json_object_set_new(s->results, key, value);
    pthread_mutex_unlock(&s->lock);
}

bool step_cancelled(const struct step *s)
{
    struct step *held = (struct step *)s; /* the lock is no part of what a caller sees as constant */
    bool cancelled;

    pthread_mutex_lock(&held->lock);
    cancelled = s->cancelled;
    pthread_mutex_unlock(&held->lock);
    return cancelled;
}

int step_sleep_ms(struct step *s, int64_t duration_ms, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + duration_ms * US_PER_MS;
    struct timespec until = {.tv_sec = until_us / US_PER_S, .tv_nsec = until_us % US_PER_S * 1000};
    bool cancelled;

    pthread_mutex_lock(&s->lock);
    while (!s->cancelled && clock_monotonic_us() < until_us)
        pthread_cond_timedwait(&s->woken, &s->lock, &until);
    cancelled = s->cancelled;
    pthread_mutex_unlock(&s->lock);
    return cancelled ? err_set(e, ERR_CANCELLED, "cancelled") : 0;
}
