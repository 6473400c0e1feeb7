#include "base/file.h"
#include "base/limits.h"
#include "steps/runner_private.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct finishes {
    char *folder;
    pthread_mutex_t delivering; /* one postman at a time; keeping needs no lock: each file is written whole, by its own name */
};

int finishes_open(const char *state_dir, struct finishes **out, struct err *e)
{
    struct finishes *f = xcalloc(1, sizeof *f);

    f->folder = xasprintf("%s/finishes", state_dir);
    pthread_mutex_init(&f->delivering, NULL);
    if (file_make_dirs(f->folder, 0700, e) < 0) {
        finishes_close(&f);
        return -1;
    }
    *out = f;
    return 0;
}

void finishes_close(struct finishes **held)
{
    if (!*held)
        return;
    free((*held)->folder);
    pthread_mutex_destroy(&(*held)->delivering);
    free(*held);
    *held = NULL;
}

/* An attempt's id comes from the factory and becomes a file's name. */
static bool is_plain_id(const char *text)
{
    size_t size = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");

    return size > 0 && size <= LIMIT_NAME_BYTES && text[size] == '\0';
}

int finishes_keep(struct finishes *f, const char *attempt, const json_t *body, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s.json", f->folder, attempt);
    CLEANUP(free_ptr) char *text = json_text(body);

    if (!is_plain_id(attempt))
        return err_set(e, ERR_PROTOCOL, "\"%s\" can't be an attempt's id", attempt);
    return file_write(path, text, strlen(text), 0600, e);
}

int runner_post(struct http_client *client, const char *factory_url, const char *attempt, const char *verb, const json_t *body,
                json_t **answer, int *status, struct err *e)
{
    CLEANUP(free_ptr) char *id = http_escape(attempt);
    CLEANUP(free_ptr) char *url = xasprintf("%s/v1/runner/attempts/%s/%s", factory_url, id, verb);
    struct http_request request = {.method = "POST", .url = url, .timeout_ms = 15000};

    return http_json(client, &request, body, answer, status, e);
}

/* A factory that says 4xx has heard us and won't think again (but for 401, 403: our certificate may be renewed; 408, 429: busy). */
static bool is_final(int status)
{
    return status >= 400 && status < 500 && status != 401 && status != 403 && status != 408 && status != 429;
}

static int deliver_one(struct finishes *f, const char *name, struct http_client *client, const char *factory_url, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s", f->folder, name);
    CLEANUP(json_free) json_t *kept = NULL;
    const char *attempt;
    json_t *report;
    int status = 0;

    if (json_read_file(path, &kept, e) < 0 || json_need_string(kept, "attempt", &attempt, e) < 0)
        return err_wrap(e, "the unreported finish %s", path);
    report = json_object_get(kept, "report");
    if (report) {
        if (runner_post(client, factory_url, attempt, "report", report, NULL, &status, e) < 0 && !is_final(status))
            return -1;
        json_object_del(kept, "report"); /* told once, even if we are killed before the finish is */
        if (finishes_keep(f, attempt, kept, e) < 0)
            return -1;
    }
    if (runner_post(client, factory_url, attempt, "finish", json_object_get(kept, "finish"), NULL, &status, e) < 0 && !is_final(status))
        return -1;
    unlink(path);
    return 0;
}

int finishes_deliver(struct finishes *f, struct http_client *client, const char *factory_url, struct err *e)
{
    struct dirent **names = NULL;
    int result = 0, count;

    pthread_mutex_lock(&f->delivering);
    count = scandir(f->folder, &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        size_t size = strlen(names[i]->d_name);
        struct err one = {0};

        if (size > 5 && strcmp(names[i]->d_name + size - 5, ".json") == 0 &&
            deliver_one(f, names[i]->d_name, client, factory_url, &one) < 0 && result == 0) {
            result = -1;
            if (e)
                *e = one;
        }
        free(names[i]);
    }
    free(names);
    pthread_mutex_unlock(&f->delivering);
    return result;
}
