/* vault_program: `slipway vault`: somebody wants to know what a vault holds and whether it is whole. A vault at rest is opened here; one that
 * a replicator has open is asked for over the replicator's control socket: one process at a time has a vault. */
#include "base/options.h"
#include "replicator/reach.h"
#include "replicator/replicator.h"
#include "vault/vault.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CALL_TIMEOUT_MS (INT64_C(7) * 86400 * 1000) /* it says how far it is; who does not want to wait ends the program */

struct options {
    const char *folder, *new_key_file;
    struct reach_needs needs;
    int64_t live_percent, work_memory_mib; /* work_memory_mib 0: the vault's own */
    bool json, seal_anew, new_key;
};

static const struct option_row option_rows[] = {
    {"vault", OPTION_TEXT, offsetof(struct options, folder), "FOLDER", "the vault's folder, or the replicator's, or the factory's data folder", true},
    {"vault-key-file", OPTION_TEXT, offsetof(struct options, needs.key_file), "FILE", "its key, where no replicator has it open and it lies in no factory's data folder (SLIPWAY_VAULT_KEY_FILE)", false},
    {"s3-credentials-file", OPTION_TEXT, offsetof(struct options, needs.bucket.credentials_file), "FILE", "where no replicator has it open and segments lie in a bucket: lines aws_access_key_id = … and aws_secret_access_key = …", false},
    {"s3-url", OPTION_TEXT, offsetof(struct options, needs.bucket.url), "URL", "the store (as vault.json says)", false},
    {"s3-bucket", OPTION_TEXT, offsetof(struct options, needs.bucket.bucket), "NAME", "its bucket (as vault.json says)", false},
    {"s3-prefix", OPTION_TEXT, offsetof(struct options, needs.bucket.prefix), "WORDS", "what all keys begin with (as vault.json says)", false},
    {"s3-region", OPTION_TEXT, offsetof(struct options, needs.bucket.region), "NAME", "the store's region (us-east-1)", false},
    {"s3-ca", OPTION_TEXT, offsetof(struct options, needs.bucket.ca_file), "FILE", "PEM of the store's CA (the system's)", false},
    {"work-memory-mib", OPTION_NUMBER, offsetof(struct options, work_memory_mib), "MIB", "memory that it takes at most, where no replicator has the vault open (512)", false},
    {"live", OPTION_NUMBER, offsetof(struct options, live_percent), "PERCENT", "compact: out of segments of which less than this is in use (80)", false},
    {"seal-anew", OPTION_FLAG, offsetof(struct options, seal_anew), NULL, "compact: and out of those that are not encrypted, or under an older data key", false},
    {"new-key-file", OPTION_TEXT, offsetof(struct options, new_key_file), "FILE", "rotate: the key that opens the vault from now on, instead of the one before", false},
    {"new-key", OPTION_FLAG, offsetof(struct options, new_key), NULL, "rotate: the same, where the factory keeps the vault's key: it makes a new one", false},
    {"json", OPTION_FLAG, offsetof(struct options, json), NULL, "print the answer as JSON (also: -o json)", false},
};
static const struct option_table option_table = {
    "slipway vault", "stat|check|scrub|compact|rotate --vault FOLDER",
    "stat     what it holds and takes, how much of that is in use, encryption, and how many damaged chunks are known\n"
    "check    every recovery point's map is whole, every record lies inside its segment; reads no chunk\n"
    "scrub    reads and checks everything that is stored, and names the recovery points that use what is damaged; what a source\n"
    "         still has is asked for again at its next session\n"
    "compact  gives back what nothing uses, and copies what lives out of sparse segments\n"
    "rotate   a new data key for all that is written from now on\n\n"
    "Where a replicator has the vault open it does the work, beside its own; else the vault is opened here, and no replicator can\n"
    "start on it meanwhile; nothing is written to its bucket then. Ends with 14 where damage was found.", option_rows, ARRAY_COUNT(option_rows)};

/* One look, on an open vault; the answer is that of the control socket's verb. */
static int look_stat(struct vault *v, const struct options *o, vault_progress *progress, json_t **answer, struct err *e)
{
    struct vault_usage u;
    struct vault_stat s;

    (void)o;
    (void)progress;
    if (vault_stat(v, &s, e) < 0 || vault_usage(v, &u, e) < 0)
        return -1;
    *answer = json_pack("{s:o, s:o}", "vault", vault_stat_json(&s), "usage", vault_usage_json(&u));
    return 0;
}

static int look_check(struct vault *v, const struct options *o, vault_progress *progress, json_t **answer, struct err *e)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};

    (void)o;
    (void)progress;
    if (vault_check(v, &report, e) < 0)
        return -1;
    *answer = vault_report_json(&report);
    return 0;
}

static int look_scrub(struct vault *v, const struct options *o, vault_progress *progress, json_t **answer, struct err *e)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    int asked;

    (void)o;
    if (vault_scrub(v, progress, NULL, &report, e) < 0 || (asked = vault_forget_damaged(v, NULL, e)) < 0)
        return -1;
    *answer = vault_report_json(&report);
    return json_object_set_new(*answer, "asked_again", json_integer(asked));
}

static int look_compact(struct vault *v, const struct options *o, vault_progress *progress, json_t **answer, struct err *e)
{
    uint64_t freed = 0;

    (void)progress;
    if (vault_compact(v, (unsigned)o->live_percent, o->seal_anew, &freed, e) < 0)
        return -1;
    *answer = json_pack("{s:I}", "bytes_freed", (json_int_t)freed);
    return 0;
}

static int look_rotate(struct vault *v, const struct options *o, vault_progress *progress, json_t **answer, struct err *e)
{
    struct vault_key key;
    struct vault_stat s;
    int rotated;

    (void)progress;
    if (o->new_key)
        return err_set(e, ERR_WRONG_STATE, "a new key of the factory's goes through the replicator: start it, and ask again");
    if (o->new_key_file && vault_key_read(o->new_key_file, &key, e) < 0)
        return -1;
    rotated = vault_rotate(v, o->new_key_file ? &key : NULL, e);
    explicit_bzero(&key, sizeof key);
    if (rotated < 0 || vault_stat(v, &s, e) < 0)
        return -1;
    *answer = json_pack("{s:I, s:b}", "data_keys", (json_int_t)s.data_keys, "new_key", o->new_key_file != NULL);
    return 0;
}

/* ---- telling ---- */

static const char *size_text(double bytes, char text[static 32])
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t unit = 0;

    for (; bytes >= 1024 && unit + 1 < ARRAY_COUNT(units); unit++)
        bytes /= 1024;
    snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}

static double number(const json_t *j, const char *name) { return (double)json_get_int(j, name, 0); }
static double ratio(double of, double to) { return to > 0 ? of / to : 0; }

static void tell_encryption(const json_t *s)
{
    char plain[32];

    if (!json_is_true(json_object_get(s, "encrypted"))) {
        printf("sealed   no: it was never opened with a key\n");
        return;
    }
    printf("sealed   yes, under data key %.0f; names of chunks %s", number(s, "data_keys"),
           json_is_true(json_object_get(s, "names_hidden")) ? "are hidden" : "are not hidden: it was begun without a key");
    if (number(s, "plain_bytes") > 0)
        printf("; %s lie as they were before (compact --seal-anew moves them)", size_text(number(s, "plain_bytes"), plain));
    putchar('\n');
}

static void tell_bucket(const json_t *b)
{
    const json_t *error = json_object_get(b, "error");
    char sent[32], waiting[32];

    if (!json_is_object(b))
        return;
    printf("away     in the %s", json_get_string(b, "at", "?"));
    if (json_get_bool(b, "open", false))
        printf(": %s in %.0f segments are there for certain, %s in %.0f wait to be sent", size_text(number(b, "uploaded_bytes"), sent), number(b, "uploaded_segments"),
               size_text(number(b, "waiting_bytes"), waiting), number(b, "waiting_segments"));
    else
        printf(", which was not opened with it: only what has a file here can be read");
    putchar('\n');
    if (number(b, "refused_segments") > 0)
        printf("         %.0f segments are damaged here and are not sent (scrub names what is missing)\n", number(b, "refused_segments"));
    if (number(b, "to_remove_segments") > 0)
        printf("         %.0f are to be removed there\n", number(b, "to_remove_segments"));
    if (json_get_bool(b, "pins_wait", false))
        printf("         what is pinned here is not known there yet\n");
    if (json_is_object(error))
        printf("         last try, %s: %s\n", json_get_string(b, "error_at", "?"), json_get_string(error, "message", "?"));
}

static void tell_points(const json_t *ages, double count)
{
    static const char *const rungs[VAULT_AGES] = {"of the last 10 minutes", "of the hour", "of the day", "of three days", "older"};
    const char *comma = ": ";

    printf("points   %.0f", count);
    for (size_t i = 0; i < VAULT_AGES; i++)
        if (json_integer_value(json_array_get(ages, i))) {
            printf("%s%lld %s", comma, (long long)json_integer_value(json_array_get(ages, i)), rungs[i]);
            comma = ", ";
        }
    putchar('\n');
}

/* Each tells what the answer says; true: damage was found. */
static bool tell_stat(const json_t *answer)
{
    const json_t *s = json_object_get(answer, "vault"), *u = json_object_get(answer, "usage");
    long long damaged = json_get_int(s, "chunks_damaged", 0);
    char a[32], b[32], c[32];

    printf("holds    %.0f chunks (%.0f whole, %.0f as changed pages) of %.0f disks\n", number(s, "chunks"), number(u, "chunks_whole"), number(u, "chunks_divided"), number(s, "disks"));
    tell_points(json_object_get(u, "points_by_age"), number(s, "points"));
    printf("takes    %s in %.0f segments: %s in use, %s not; and %s of index\n", size_text(number(s, "stored_bytes"), a), number(s, "segments"),
           size_text(number(u, "living_bytes"), b), size_text(number(s, "stored_bytes") - number(u, "living_bytes"), c), size_text(number(u, "index_bytes"), (char[32]){0}));
    printf("saves    %.2f by what disks have in common, %.2f by compression\n", ratio(number(u, "mapped_chunks"), number(u, "distinct_chunks")),
           ratio(number(u, "page_bytes"), number(u, "packed_bytes")));
    tell_encryption(s);
    tell_bucket(json_object_get(s, "bucket"));
    printf("room     %s free of %s\n", size_text(number(s, "free_bytes"), a), size_text(number(s, "total_bytes"), b));
    printf("memory   %s at most for giving space back, scrubbing, checking and counting, each\n", size_text(number(s, "work_memory_bytes"), a));
    printf("damaged  %lld chunks are known (scrub looks for more)\n", damaged);
    return damaged > 0;
}

static bool tell_compact(const json_t *answer)
{
    char freed[32];

    printf("%s given back\n", size_text(number(answer, "bytes_freed"), freed));
    return false;
}

static bool tell_rotate(const json_t *answer)
{
    printf("what is written from now on is sealed under data key %.0f\n", number(answer, "data_keys"));
    if (json_is_true(json_object_get(answer, "new_key")))
        puts(json_is_true(json_object_get(answer, "factory_keeps_key")) ? "the vault opens with the new key alone, which the factory keeps"
                                                                        : "the vault opens with the new key alone: give it to the replicator from its next start on, and keep a copy of it elsewhere");
    return false;
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
    if (json_get_int(answer, "asked_again", 0))
        printf("%lld places in the disks are asked for again of their sources, or their maps are made again with the next point\n", (long long)json_get_int(answer, "asked_again", 0));
    return count > 0;
}

static const struct look {
    const char *name; /* the control socket's verb, too */
    int (*look)(struct vault *v, const struct options *o, vault_progress *progress, json_t **answer, struct err *e);
    bool (*tell)(const json_t *answer);
} looks[] = {
    {"stat", look_stat, tell_stat},          {"check", look_check, tell_report},    {"scrub", look_scrub, tell_report},
    {"compact", look_compact, tell_compact}, {"rotate", look_rotate, tell_rotate},
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

static int ask_replicator(const struct look *l, const struct options *o, const char *vault, json_t **answer, struct err *e)
{
    CLEANUP(free_ptr) char *socket = reach_control_path(vault), *new_key = o->new_key_file ? realpath(o->new_key_file, NULL) : NULL;
    CLEANUP(json_free) json_t *request = json_pack("{s:s, s:I, s:b}", "verb", l->name, "live_percent", (json_int_t)o->live_percent, "seal_anew", o->seal_anew);
    struct replicator_call call = {.socket_path = socket, .timeout_ms = CALL_TIMEOUT_MS, .progress = show};

    if (o->new_key_file && !new_key)
        return err_errno(e, errno, "%s", o->new_key_file);
    if (new_key)
        json_object_set_new(request, "new_key_file", json_string(new_key));
    if (o->new_key)
        json_object_set_new(request, "new_key", json_true());
    if (replicator_call(&call, request, answer, e) == 0)
        return 0;
    return e->kind == ERR_UNREACHABLE
               ? err_wrap(e, "the vault %s is open in another process: wait until it is done, or stop it", vault) : -1;
}

static int look_at(const struct look *l, const struct options *o, json_t **answer, struct err *e)
{
    CLEANUP(free_ptr) char *path = NULL;
    CLEANUP(reach_options_release) struct reach_options with = {0};
    CLEANUP(vault_close) struct vault *v = NULL;
    struct reach_needs needs = o->needs;

    if (!needs.key_file)
        needs.key_file = getenv("SLIPWAY_VAULT_KEY_FILE");
    if (reach_find_vault(o->folder, &path, e) < 0 || reach_options_make(path, &needs, &with, e) < 0)
        return -1;
    with.options.work_memory_bytes = (size_t)o->work_memory_mib << 20;
    with.options.scrub_threads = (int)sysconf(_SC_NPROCESSORS_ONLN); /* nobody else is at work on it */
    if (vault_open(path, &with.options, &v, e) == 0) {
        reach_tell_anew(v);
        return l->look(v, o, beat, answer, e);
    }
    if (e->kind != ERR_CONFLICT)
        return -1;
    err_clear(e);
    return ask_replicator(l, o, path, answer, e);
}

/* `-o json`, as the client of a day's work has it. */
static void take_short_option(int *argc, char **argv)
{
    static char json[] = "--json";

    for (int i = 1; i + 1 < *argc; i++)
        if (strcmp(argv[i], "-o") == 0 && strcmp(argv[i + 1], "json") == 0) {
            argv[i] = json;
            memmove(argv + i + 1, argv + i + 2, (size_t)(*argc - i - 1) * sizeof *argv);
            --*argc;
        }
}

int vault_main(int argc, char **argv)
{
    CLEANUP(json_free) json_t *answer = NULL;
    CLEANUP(free_ptr) char *text = NULL;
    const struct look *l = NULL;
    struct options o = {.live_percent = VAULT_COMPACT_LIVE};
    struct err e = {0};
    bool damaged;
    int status;

    take_short_option(&argc, argv);
    for (size_t i = 0; argc > 1 && i < ARRAY_COUNT(looks); i++)
        if (strcmp(argv[1], looks[i].name) == 0)
            l = &looks[i];
    if (!options_begin(&option_table, l ? argc - 1 : argc, l ? argv + 1 : argv, &o, &status))
        return status;
    if (!l) {
        err_set(&e, ERR_INVALID, "say stat, check, scrub, compact or rotate (`slipway vault --help` tells more)");
        return options_refuse(&option_table, &e);
    }
    signal(SIGPIPE, SIG_IGN);
    if (options_need(&option_table, &o, &e) < 0 || look_at(l, &o, &answer, &e) < 0)
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
