/* The control socket's verbs for the care of the vault. Each fills *answer. */
#include "replicator/private.h"

#include <string.h>

static int record_beat(uint64_t done, uint64_t total, void *user) { return talk_progress(user, (int64_t)done, (int64_t)total, "records"); }

/* Damage is what was asked for: an answer, not a refusal. */
static int give_report(const struct vault_report *report, json_t *answer)
{
    CLEANUP(json_free) json_t *j = vault_report_json(report);

    return json_object_update(answer, j);
}

static int do_check(struct replicator *r, struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};

    (void)t, (void)q;
    return vault_check(r->vault, &report, e) < 0 ? -1 : give_report(&report, answer);
}

static int do_scrub(struct replicator *r, struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    int asked;

    (void)q;
    if (vault_scrub(r->vault, record_beat, t, &report, e) < 0)
        return -1;
    asked = care_repair(r, e);
    json_object_set_new(answer, "asked_again", json_integer(asked));
    return asked < 0 ? -1 : give_report(&report, answer);
}

static int do_stat(struct replicator *r, struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    struct vault_usage usage;
    struct vault_stat stat;

    (void)t, (void)q;
    if (vault_stat(r->vault, &stat, e) < 0 || vault_usage(r->vault, &usage, e) < 0)
        return -1;
    json_object_set_new(answer, "vault", vault_stat_json(&stat));
    return json_object_set_new(answer, "usage", vault_usage_json(&usage));
}

static int do_compact(struct replicator *r, struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    uint64_t freed = 0;
    int64_t live = json_get_int(q, "live_percent", VAULT_COMPACT_LIVE);

    (void)t;
    if (live < 0 || live > 100)
        return err_set(e, ERR_INVALID, "live_percent is 0 to 100");
    if (vault_compact(r->vault, (unsigned)live, json_is_true(json_object_get(q, "seal_anew")), &freed, e) < 0)
        return -1;
    return json_object_set_new(answer, "bytes_freed", json_integer((json_int_t)freed));
}

/* The newest of the factory's, which it has just made. Where the vault fails to take it, the one before opens it still: the factory keeps both. */
static int new_factory_key(struct replicator *r, struct vault_key *key, struct err *e)
{
    struct vault_key *keys = NULL;
    size_t count = 0;
    int made = factory_keys(r, true, &keys, &count, e);

    if (made == 0 && count)
        *key = keys[0];
    factory_keys_free(&keys, count);
    return made == 0 && !count ? err_set(e, ERR_INVALID, "the factory made no key") : made;
}

/* The file lies on our machine: whoever asks is on it, too. */
static int do_rotate(struct replicator *r, struct talk *t, const json_t *q, json_t *answer, struct err *e)
{
    const char *file = json_get_string(q, "new_key_file", NULL);
    bool new_key = file || json_is_true(json_object_get(q, "new_key")), kept = r->options.factory_keeps_key;
    struct vault_key key;
    struct vault_stat stat;
    int rotated;

    (void)t;
    if (new_key && kept != !file)
        return err_set(e, ERR_INVALID, kept ? "the factory keeps this vault's key: say --new-key, and no file" : "this vault's key lies in a file: say --new-key-file FILE");
    if (new_key && (file ? vault_key_read(file, &key, e) : new_factory_key(r, &key, e)) < 0)
        return -1;
    rotated = vault_rotate(r->vault, new_key ? &key : NULL, e);
    explicit_bzero(&key, sizeof key);
    if (rotated < 0 || vault_stat(r->vault, &stat, e) < 0)
        return -1;
    json_object_set_new(answer, "new_key", json_boolean(new_key));
    json_object_set_new(answer, "factory_keeps_key", json_boolean(kept));
    return json_object_set_new(answer, "data_keys", json_integer((json_int_t)stat.data_keys));
}

int care_verb(struct replicator *r, struct talk *t, const char *verb, const json_t *q, json_t *answer, struct err *e)
{
    static const struct {
        const char *verb;
        int (*run)(struct replicator *r, struct talk *t, const json_t *q, json_t *answer, struct err *e);
    } verbs[] = {{"check", do_check}, {"scrub", do_scrub}, {"stat", do_stat}, {"compact", do_compact}, {"rotate", do_rotate}};

    for (size_t i = 0; i < ARRAY_COUNT(verbs); i++)
        if (strcmp(verb, verbs[i].verb) == 0)
            return verbs[i].run(r, t, q, answer, e) < 0 ? -1 : 1;
    return 0;
}
