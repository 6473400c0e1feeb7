/* factory: for steps that ask the factory themselves, with their runner's certificate. */
#pragma once

#include "base/http.h"
#include "steps/step.h"

struct factory {
    struct http_client *client;
    const char *url; /* "https://…", borrowed from the document */
};
/* ERR_WRONG_STATE where the step was not started by a runner (`--try`). */
int factory_open(const struct step *s, struct factory *out, struct err *e);
void factory_close(struct factory *f); /* for CLEANUP; on zeros, too */
/* GET or POST of url + path; see http_json. */
int factory_json(const struct factory *f, const char *method, const char *path, const json_t *body, json_t **out, struct err *e);
/* GET of a file, kept at `to`. */
int factory_download(const struct factory *f, const char *path, size_t limit_bytes, const char *to, int64_t *size_bytes, struct err *e);
