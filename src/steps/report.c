/* report: the wave's report, kept as artifacts of its last task, so that it stays as it was then. */
#include "base/limits.h"
#include "steps/factory.h"

#include <string.h>

static int keep(struct step *s, const struct factory *f, const char *wave, const char *path_end, const char *name, const char *media_type,
                struct err *e)
{
    CLEANUP(free_ptr) char *escaped = http_escape(wave), *path = xasprintf("/v1/waves/%s/%s", escaped, path_end);
    CLEANUP(free_ptr) char *file = xasprintf("%s/%s", step_scratch_dir(s), name);
    int64_t size_bytes = 0;

    if (factory_download(f, path, LIMIT_ARTIFACT_BYTES, file, &size_bytes, e) < 0 || step_artifact(s, name, media_type, file, e) < 0)
        return err_wrap(e, "can't keep %s", name);
    step_evidence(s, name, true, "%lld bytes kept", (long long)size_bytes);
    return 0;
}

/* What the report says of the wave is read back from the file that was kept. */
static int read_result(struct step *s, struct err *e)
{
    CLEANUP(free_ptr) char *file = xasprintf("%s/report.json", step_scratch_dir(s));
    CLEANUP(json_free) json_t *report = NULL;
    const char *result;

    if (json_read_file(file, &report, e) < 0 || json_need_string(report, "result", &result, e) < 0)
        return err_wrap(e, "the wave's report");
    step_evidence(s, "the wave's result", true, "%s", result);
    step_result(s, "result", json_string(result));
    return 0;
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(factory_close) struct factory f = {0};
    const char *wave;

    if (step_need_string(s, "wave.name", &wave, e) < 0 || factory_open(s, &f, e) < 0 ||
        keep(s, &f, wave, "report", "report.json", "application/json", e) < 0 || read_result(s, e) < 0)
        return -1;
    return keep(s, &f, wave, "report.html", "report.html", "text/html", e);
}

const struct step_api step_report = {
    .name = "report", .title = "The wave's report", .place = STEP_AT_FACTORY, .timeout_ms = 300000, .attempts = 5, .run = run};
