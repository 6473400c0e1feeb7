/* The report: passed only when everything holds, and whatever is missing or wrong is named. */
#include "base/limits.h"
#include "workflow/report.h"
#include "world.h"

static void seen(struct world *x, const char *server, int64_t age_ms)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *replication =
        json_pack("{s:i, s:i, s:i, s:I}", "bytes_read", 1000, "bytes_sent", 600, "bytes_stored", 500, "newest_point_age_ms",
                  (json_int_t)age_ms);
    struct err e = {0};

    world_need(store_begin(x->store, STORE_WRITE, &tx, &e), &e);
    world_need(workflow_replication_seen(tx, server, replication, x->wall_us, &e), &e);
    world_need(store_commit(&tx, &e), &e);
}

static void measure(struct world *x, const char *name, json_t *value)
{
    CLEANUP(json_free) json_t *held = value;
    struct err e = {0};

    world_need(workflow_measure(x->w, "w1", name, held, "user:probe", &e), &e);
}

static json_t *report(struct world *x)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    json_t *made = NULL;
    struct err e = {0};

    world_need(store_begin(x->store, STORE_READ, &tx, &e), &e);
    world_need(report_json(tx, "w1", x->wall_us, &made, &e), &e);
    return made;
}

static bool has_reason(const json_t *made, const char *part)
{
    size_t i;
    json_t *one;

    json_array_foreach(json_object_get(made, "reasons"), i, one)
        if (strstr(json_string_value(one), part))
            return true;
    return false;
}

/* A wave of db01 and web01 that went well, up to before its report. */
static void good_wave(struct world *x)
{
    struct err e = {0};

    world_open(x);
    world_wave(x, "w1", "{\"hold_s\":5,\"right_size_after_s\":1}");
    world_server(x, "w1", "db01", "{}");
    world_server(x, "w1", "web01", "{}");
    world_need(workflow_start_wave(x->w, "w1", "user:anna", x->run, &e), &e);
    is_int(workflow_cutover_wave(x->w, "w1", "user:anna", &e), -1, "refused before the window");
    world_work(x, NULL);
    world_decide(x, x->run, "db01", "sign_off", true, "user:bob");
    world_decide(x, x->run, "web01", "sign_off", true, "user:bob");
    world_work(x, NULL);
    world_window(x, "w1", x->wall_us, x->wall_us + 3600 * US_PER_S);
    world_pass(x, 1);
    world_need(workflow_cutover_wave(x->w, "w1", "user:anna", &e), &e);
    world_work(x, NULL);
    world_decide(x, x->run, "db01", "acceptance", true, "user:bob");
    world_decide(x, x->run, "web01", "acceptance", true, "user:bob");
    world_need(workflow_server_finalize(x->w, "db01", "user:anna", &e), &e);
    world_need(workflow_server_finalize(x->w, "web01", "user:anna", &e), &e);
    for (int i = 0; i < 99; i++)
        seen(x, "db01", 1000);
    seen(x, "db01", 9000);
    seen(x, "web01", 1000);
    measure(x, "probe", json_pack("{s:{s:{s:i, s:i, s:i}, s:{s:i, s:i, s:i}}}", "servers", "db01", "downtime_ms", 41000, "probes_total", 900,
                                  "probes_failed", 80, "web01", "downtime_ms", 31000, "probes_total", 900, "probes_failed", 60));
    measure(x, "rows", json_pack("{s:i, s:i, s:i, s:i}", "acknowledged", 5000, "present", 5000, "missing", 0, "torn", 0));
}

static void to_the_end(struct world *x)
{
    world_work(x, NULL);
    world_pass(x, 10);
    json_decref(world_work(x, "report"));
}

static void test_passed(void)
{
    CLEANUP(json_free) json_t *made = NULL;
    const json_t *db, *ages;
    struct world x;

    good_wave(&x);
    made = report(&x);
    is_str(json_get_string(made, "result", ""), "failed", "an unfinished wave is no success");
    json_free(&made);
    to_the_end(&x);
    made = report(&x);
    is_str(json_get_string(made, "result", ""), "passed", "a whole wave is one");
    is_int(json_array_size(json_object_get(made, "reasons")), 0, "for no reason against it");
    if (json_array_size(json_object_get(made, "reasons")))
        printf("# %s\n", json_string_value(json_array_get(json_object_get(made, "reasons"), 0)));
    is_str(json_get_string(made, "accelerator", ""), "tcg", "accelerator");
    db = json_array_get(json_object_get(made, "servers"), 0);
    is_str(json_get_string(db, "name", ""), "db01", "servers by name");
    is_int(json_get_int(db, "downtime_ms", 0), 41000, "downtime as it was seen outside");
    is_int(json_get_int(json_array_get(json_object_get(db, "disks"), 0), "bytes_compared", 0), 4096, "bytes compared");
    is_int(json_array_size(json_object_get(db, "boot_checks")), 2, "a check of each boot");
    ages = json_object_get(json_object_get(made, "replication"), "newest_point_age_ms");
    ok(json_get_int(ages, "p50", 0) > 910 && json_get_int(ages, "p50", 0) < 1095, "the median age is right within a bucket: %lld",
       (long long)json_get_int(ages, "p50", 0));
    is_int(json_get_int(ages, "max", 0), 9000, "the greatest is exact");
    is_int(json_get_int(json_object_get(made, "replication"), "bytes_sent", 0), 1200, "bytes of all servers");
    is_int(json_array_size(json_object_get(made, "stages")), 4, "four stages");
    is_int(json_array_size(json_object_get(made, "refusals")), 1, "the refusal is there");
    is_int(json_array_size(json_object_get(made, "pictures")), 2, "a picture of each");
    world_close(&x);
}

/* Each way to spoil the proof is named. */
static void test_failed(void)
{
    CLEANUP(json_free) json_t *made = NULL, *disks = NULL;
    struct world x;
    struct err e = {0};
    json_t *document;

    good_wave(&x);
    measure(&x, "rows", json_pack("{s:i, s:i, s:i, s:i}", "acknowledged", 5000, "present", 4998, "missing", 2, "torn", 0));
    to_the_end(&x);
    made = report(&x);
    is_str(json_get_string(made, "result", ""), "failed", "rows are missing");
    ok(has_reason(made, "2 acknowledged rows are missing"), "and named");
    world_close(&x);

    world_open(&x);
    world_wave(&x, "w1", "{}");
    world_server(&x, "w1", "db01", "{}");
    world_need(workflow_start_wave(x.w, "w1", "user:anna", x.run, &e), &e);
    document = world_work(&x, "boot_test");
    world_need(world_report(&x, document, "dc1", json_pack("{s:[{s:s, s:b, s:s}]}", "evidence", "name", "a login answers", "passed", 0,
                                                           "evidence", "no route"), &e), &e);
    world_finish(&x, document, "dc1", "failed", "protocol", NULL);
    json_decref(document);
    json_free(&made);
    made = report(&x);
    ok(has_reason(made, "a login answers"), "a check that did not pass is named");
    ok(has_reason(made, "no disk of db01 was compared"), "so is a comparison that was not made");
    ok(has_reason(made, "\"verify_cutover\" of db01 shows no evidence"), "so is a verification without evidence");
    ok(has_reason(made, "replication was heard of for 0 of 1"), "so is replication that nobody heard of");
    ok(has_reason(made, "is FAILED"), "so is a task that failed");
    world_close(&x);
}

static void spoil(struct world *x, const char *result, const char *wanted)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *made = NULL;
    struct err e = {0};

    world_need(store_begin(x->store, STORE_WRITE, &tx, &e), &e);
    world_need((int)store_run(tx, &e, "UPDATE task SET result = $1 WHERE name = 'compare' AND server = 'db01'", "s", result), &e);
    world_need(store_commit(&tx, &e), &e);
    made = report(x);
    ok(strcmp(json_get_string(made, "result", ""), "failed") == 0 && has_reason(made, wanted), "found: %s", wanted);
}

static void test_spoilt_comparison(void)
{
#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define DISK(size, compared, source, target) \
    "{\"disks\":[{\"id\":\"vda\",\"size_bytes\":" size ",\"bytes_compared\":" compared ",\"source_sha256\":\"" source \
    "\",\"target_sha256\":\"" target "\"}]}"
    CLEANUP(json_free) json_t *made = NULL;
    struct world x;

    good_wave(&x);
    to_the_end(&x);
    spoil(&x, DISK("9", "9", A, B), "the copy is not the source");
    spoil(&x, DISK("9", "8", A, A), "not every byte was compared");
    spoil(&x, DISK("0", "0", A, A), "not every byte was compared");
    spoil(&x, DISK("9", "9", A, ""), "a hash was not computed");
    spoil(&x, DISK("9", "9", "", ""), "a hash was not computed");
    spoil(&x, "{\"disks\":[]}", "no disk of db01 was compared");
    spoil(&x, "{}", "no disk of db01 was compared");
    world_close(&x);
}

static void test_page(void)
{
    CLEANUP(buf_release) struct buf page, small;
    CLEANUP(json_free) json_t *made = NULL;
    const char *keep = getenv("REPORT_PAGE");
    struct world x;
    struct err e = {0};

    buf_init(&page, 0);
    buf_init(&small, 5000);
    good_wave(&x);
    to_the_end(&x);
    made = report(&x);
    is_int(report_html(made, &page, &e), 0, "the page is written");
    ok(strstr(page.data, "✓ passed") != NULL, "it says how it went");
    ok(strstr(page.data, "a &lt;check&gt;") && !strstr(page.data, "a <check>"), "what came from outside is escaped");
    ok(strstr(page.data, "<svg") && strstr(page.data, "src=\"data:image/png;base64,iVBOR"), "timeline and pictures are in it");
    ok(!strstr(page.data, "<script") && !strstr(page.data, "http://") && !strstr(page.data, "https://"), "it loads and runs nothing");
    is_int(report_html(made, &small, &e), -1, "a page that does not fit is an error");
    is_int(e.kind, ERR_LIMIT, "of its limit");
    if (keep) {
        FILE *f = fopen(keep, "w");

        fwrite(page.data, 1, page.size_bytes, f);
        fclose(f);
    }
    world_close(&x);
}

static void test_nothing(void)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct err e = {0};
    struct world x;
    json_t *made;

    world_open(&x);
    world_wave(&x, "w1", "{}");
    world_need(store_begin(x.store, STORE_READ, &tx, &e), &e);
    is_int(report_json(tx, "w2", x.wall_us, &made, &e), -1, "no such wave");
    is_int(e.kind, ERR_NOT_FOUND, "is not found");
    is_int(report_json(tx, "w1", x.wall_us, &made, &e), -1, "a wave that never ran");
    is_int(e.kind, ERR_WRONG_STATE, "has no report: %s", e.message);
    store_rollback(&tx);
    world_close(&x);
}

int main(int count, char **arguments)
{
    world_url = count > 1 ? arguments[1] : NULL;
    test_passed();
    test_failed();
    test_spoilt_comparison();
    test_page();
    test_nothing();
    return tap_done();
}
