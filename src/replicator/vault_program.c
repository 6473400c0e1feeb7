/* vault_program: `slipway vault`: somebody wants to know what a vault holds and whether it is whole. A vault at rest is opened here; one that
 * a replicator has open is asked for over the replicator's control socket: one process at a time has a vault. */
#include "base/options.h"
#include "replicator/reach.h"
#include "replicator/replicator.h"
#include "vault/vault.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#define CALL_TIMEOUT_MS (INT64_C(7) * 86400 * 1000) /* it says how far it is; who does not want to wait ends the program */

struct options {
    const char *folder;
    bool json;
};

static const struct option_row option_rows[] = {
    {"vault", OPTION_TEXT, offsetof(struct options, folder), "FOLDER", "the vault's folder, or the replicator's, or the factory's data folder", true},
    {"json", OPTION_FLAG, offsetof(struct options, json), NULL, "print the answer as JSON", false},
};
static const struct option_table option_table = {
    "slipway vault", "stat|check|scrub --vault FOLDER",
    "stat   what it holds, and how many damaged chunks are known\n"
    "check  every recovery point's map is whole, every record lies inside its segment; reads no chunk\n"
    "scrub  reads and checks everything that is stored, and names the recovery points that use what is damaged\n\n"
    "Where a replicator has the vault open it does the work, beside its own; else the vault is opened here, and no replicator can\n"
    "start on it meanwhile. Ends with 14 where damage was found.", option_rows, ARRAY_COUNT(option_rows)};

/* One look, on an open vault; the answer is that of the control socket's verb. */
static int look_stat(struct vault *v, vault_progress *progress, json_t **answer, struct err *e)
{
    struct vault_stat s;

    (void)progress;
    if (vault_stat(v, &s, e) < 0)
        return -1;
    *answer = json_pack("{s:o}", "vault", vault_stat_json(&s));
    return 0;
}

static int look_check(struct vault *v, vault_progress *progress, json_t **answer, struct err *e)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};

    (void)progress;
    if (vault_check(v, &report, e) < 0)
        return -1;
    *answer = vault_report_json(&report);
    return 0;
}

static int look_scrub(struct vault *v, vault_progress *progress, json_t **answer, struct err *e)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};

    if (vault_scrub(v, progress, NULL, &report, e) < 0)
        return -1;
    *answer = vault_report_json(&report);
    return 0;
}

/* Each tells what the answer says; true: damage was found. */
static bool tell_stat(const json_t *answer)
{
    const json_t *s = json_object_get(answer, "vault");
    long long damaged = json_get_int(s, "chunks_damaged", 0);

    printf("holds    %lld chunks of %lld disks, %lld recovery points\n", (long long)json_get_int(s, "chunks", 0),
           (long long)json_get_int(s, "disks", 0), (long long)json_get_int(s, "points", 0));
    printf("takes    %lld MiB in %lld segments for %lld MiB of distinct data\n", (long long)json_get_int(s, "stored_bytes", 0) >> 20,
           (long long)json_get_int(s, "segments", 0), (long long)json_get_int(s, "raw_bytes", 0) >> 20);
    printf("room     %lld MiB free of %lld\n", (long long)json_get_int(s, "free_bytes", 0) >> 20, (long long)json_get_int(s, "total_bytes", 0) >> 20);
    printf("damaged  %lld chunks are known (scrub looks for more)\n", damaged);
    return damaged > 0;
}

static bool tell_report(const json_t *answer)
{
    const json_t *findings = json_object_get(answer, "findings"), *finding;
    long long count = json_get_int(answer, "finding_count", 0);
    size_t i;

    json_array_foreach(findings, i, finding)
        printf("%s: %s\n", json_get_string(finding, "kind", "?"), json_get_string(finding, "text", ""));
    if ((size_t)count > json_array_size(findings))
        printf("… and %lld more\n", count - (long long)json_array_size(findings));
    printf("%lld looked at, %lld MiB read, %lld finding%s\n", (long long)json_get_int(answer, "looked_at", 0),
           (long long)json_get_int(answer, "bytes", 0) >> 20, count, count == 1 ? "" : "s");
    return count > 0;
}

static const struct look {
    const char *name, *verb; /* verb: the control socket's */
    int (*look)(struct vault *v, vault_progress *progress, json_t **answer, struct err *e);
    bool (*tell)(const json_t *answer);
} looks[] = {
    {"stat", "status", look_stat, tell_stat},
    {"check", "check", look_check, tell_report},
    {"scrub", "scrub", look_scrub, tell_report},
};

/* ---- */

static void show(int64_t done, int64_t total, const char *unit, void *user)
{
    (void)user;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%lld of %lld %s \r", (long long)done, (long long)total, unit);
}

static int beat(uint64_t done, uint64_t total, void *user)
{
    show((int64_t)done, (int64_t)total, "records", user);
    return 0;
}

static int ask_replicator(const struct look *l, const char *vault, json_t **answer, struct err *e)
{
    CLEANUP(free_ptr) char *socket = reach_control_path(vault);
    CLEANUP(json_free) json_t *request = json_pack("{s:s}", "verb", l->verb);
    struct replicator_call call = {.socket_path = socket, .timeout_ms = CALL_TIMEOUT_MS, .progress = show};

    if (replicator_call(&call, request, answer, e) == 0)
        return 0;
    return e->kind == ERR_UNREACHABLE
               ? err_wrap(e, "the vault %s is open in another process: wait until it is done, or stop it", vault) : -1;
}

static int look_at(const struct look *l, const char *folder, json_t **answer, struct err *e)
{
    /* Looking takes no room: a full vault can be looked at. */
    const struct vault_options options = {.guard_bytes = 1};
    CLEANUP(free_ptr) char *path = NULL;
    CLEANUP(vault_close) struct vault *v = NULL;

    if (reach_find_vault(folder, &path, e) < 0)
        return -1;
    if (vault_open(path, &options, &v, e) == 0)
        return l->look(v, beat, answer, e);
    if (e->kind != ERR_CONFLICT)
        return -1;
    err_clear(e);
    return ask_replicator(l, path, answer, e);
}

int vault_main(int argc, char **argv)
{
    CLEANUP(json_free) json_t *answer = NULL;
    CLEANUP(free_ptr) char *text = NULL;
    const struct look *l = NULL;
    struct options o = {0};
    struct err e = {0};
    bool damaged;
    int status;

    for (size_t i = 0; argc > 1 && i < ARRAY_COUNT(looks); i++)
        if (strcmp(argv[1], looks[i].name) == 0)
            l = &looks[i];
    if (!options_begin(&option_table, l ? argc - 1 : argc, l ? argv + 1 : argv, &o, &status))
        return status;
    if (!l) {
        err_set(&e, ERR_INVALID, "say stat, check or scrub (`slipway vault --help` tells more)");
        return options_refuse(&option_table, &e);
    }
    signal(SIGPIPE, SIG_IGN);
    if (options_need(&option_table, &o, &e) < 0 || look_at(l, o.folder, &answer, &e) < 0)
        return options_refuse(&option_table, &e);
    if (o.json) {
        text = json_text(answer);
        puts(text);
        damaged = json_get_int(answer, "finding_count", 0) > 0 || json_get_int(json_object_get(answer, "vault"), "chunks_damaged", 0) > 0;
    } else {
        damaged = l->tell(answer);
    }
    if (fflush(stdout) != 0)
        return err_meaning(ERR_IO)->exit_code;
    return damaged ? err_meaning(ERR_CORRUPT)->exit_code : 0;
}
