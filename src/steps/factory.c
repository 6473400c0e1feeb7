#include "steps/factory.h"
#include "base/file.h"

int factory_open(const struct step *s, struct factory *out, struct err *e)
{
    const char *ca, *certificate, *key, *url = step_string(s, "runner.factory_url", NULL);
    struct factory f = {.url = url};

    if (!url)
        return err_set(e, ERR_WRONG_STATE, "this step asks the factory and was not started by a runner that knows one");
    if (step_need_string(s, "runner.ca_file", &ca, e) < 0 || step_need_string(s, "runner.certificate_file", &certificate, e) < 0 ||
        step_need_string(s, "runner.key_file", &key, e) < 0)
        return -1;
    if (http_open(&(struct http_options){.ca_file = ca, .certificate_file = certificate, .key_file = key,
                                         .proxy = step_string(s, "runner.proxy", NULL)}, &f.client, e) < 0)
        return -1;
    *out = f;
    return 0;
}

void factory_close(struct factory *f) { http_close(&f->client); }

int factory_json(const struct factory *f, const char *method, const char *path, const json_t *body, json_t **out, struct err *e)
{
    CLEANUP(free_ptr) char *url = xasprintf("%s%s", f->url, path);
    struct http_request request = {.method = method, .url = url};

    return http_json(f->client, &request, body, out, NULL, e);
}

int factory_download(const struct factory *f, const char *path, size_t limit_bytes, const char *to, int64_t *size_bytes, struct err *e)
{
    CLEANUP(free_ptr) char *url = xasprintf("%s%s", f->url, path);
    CLEANUP(http_response_release) struct http_response answer = {0};
    struct http_request request = {.method = "GET", .url = url, .limit_bytes = limit_bytes};

    if (http_do(f->client, &request, &answer, e) < 0)
        return -1;
    if (answer.status != 200) {
        http_problem(&answer, e);
        return err_wrap(e, "GET %s", url);
    }
    if (answer.body.size_bytes == 0)
        return err_set(e, ERR_PROTOCOL, "the factory gave nothing for %s", path);
    *size_bytes = (int64_t)answer.body.size_bytes;
    return file_write(to, answer.body.data, answer.body.size_bytes, 0600, e);
}
