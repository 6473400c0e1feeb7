/* report_html: the report as one page that a manager reads: no scripts, nothing loaded from elsewhere. Everything that came from outside
 * is escaped; pictures are data: URIs of PNG or JPEG only. The timeline is drawn in report_svg.c. */
#include "workflow/report.h"
#include "workflow/report_html.h"

#include "base/clock.h"

#include <string.h>

void html_text(struct buf *out, const char *text)
{
    for (const char *at = text ? text : ""; *at; at++)
        switch (*at) {
        case '&': buf_puts(out, "&amp;"); break;
        case '<': buf_puts(out, "&lt;"); break;
        case '>': buf_puts(out, "&gt;"); break;
        case '"': buf_puts(out, "&quot;"); break;
        case '\'': buf_puts(out, "&#39;"); break;
        default: buf_add(out, at, 1);
        }
}

static const char style[] =
    ":root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--paper:#fff;--card:#f6f8fa;--line:#d0d7de;--good:#116329;--good-bg:#dafbe1;"
    "--bad:#a40e26;--bad-bg:#ffebe9;--wait:#7d4e00;--build:#0969da;--validate:#8250df;--cutover:#bc4c00;--post:#1a7f37;--back:#cf222e}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa4af;--paper:#0d1117;--card:#161b22;--line:#30363d;--good:#56d364;"
    "--good-bg:#12261e;--bad:#ff8f87;--bad-bg:#2d1418;--wait:#e3b341;--build:#58a6ff;--validate:#bc8cff;--cutover:#f0883e;--post:#3fb950;"
    "--back:#ff7b72}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',"
    "sans-serif}main{max-width:70rem;margin:0 auto;padding:2rem 1.25rem 4rem}h1{font-size:1.9rem;line-height:1.2;margin:0 0 .25rem}"
    "h2{font-size:1.3rem;margin:2.5rem 0 .75rem;padding-bottom:.25rem;border-bottom:1px solid var(--line)}h3{font-size:1.1rem;margin:0 "
    "0 .5rem}h4{font-size:1rem;margin:1.25rem 0 .25rem}.soft{color:var(--soft)}.badge{display:inline-block;padding:.1rem .7rem;"
    "border-radius:1rem;font-weight:600}.good{color:var(--good)}.bad{color:var(--bad)}td>.good,td>.bad{white-space:nowrap}.badge.good{background:var(--good-bg)}"
    ".badge.bad{background:var(--bad-bg)}.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.75rem;"
    "margin:1.25rem 0;padding:0}.figures div{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem 1rem}"
    ".figures dt{color:var(--soft);font-size:.85rem}.figures dd{margin:0;font-size:1.35rem;font-weight:600}.card{border:1px solid "
    "var(--line);border-radius:.5rem;padding:1rem 1.25rem;margin:1rem 0}.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;"
    "font-size:.93rem}th,td{text-align:left;padding:.4rem .75rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}"
    "th{color:var(--soft);font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}code{font:.85em ui-monospace,"
    "SFMono-Regular,Menlo,monospace;overflow-wrap:anywhere}pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font:.85em "
    "ui-monospace,monospace}figure{margin:1rem 0 0;display:inline-block;max-width:100%}img{max-width:100%;height:auto;border:1px solid "
    "var(--line);border-radius:.25rem}figcaption{color:var(--soft);font-size:.85rem}details{margin:.35rem 0;border:1px solid var(--line);"
    "border-radius:.35rem;padding:.4rem .75rem}summary{cursor:pointer}ul{margin:.25rem 0;padding-left:1.25rem}svg text{fill:var(--ink);"
    "font:12px system-ui,sans-serif}svg .grid{stroke:var(--line)}svg .soft{fill:var(--soft)}.build{fill:var(--build)}.validate{fill:"
    "var(--validate)}.cutover{fill:var(--cutover)}.post{fill:var(--post)}.back{fill:var(--back)}.idle{fill-opacity:.25}"
    "@media print{details{break-inside:avoid}}";

/* ---- Words ---- */

static void html_duration(struct buf *out, int64_t ms)
{
    if (ms < 0)
        buf_puts(out, "–");
    else if (ms < 10000)
        buf_printf(out, "%lld.%lld s", (long long)(ms / 1000), (long long)(ms % 1000 / 100));
    else if (ms < 120000)
        buf_printf(out, "%lld s", (long long)(ms / 1000));
    else if (ms < 7200000)
        buf_printf(out, "%lld min %lld s", (long long)(ms / 60000), (long long)(ms / 1000 % 60));
    else
        buf_printf(out, "%lld h %lld min", (long long)(ms / 3600000), (long long)(ms / 60000 % 60));
}

static void html_bytes(struct buf *out, int64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;

    if (bytes < 0) {
        buf_puts(out, "–");
        return;
    }
    for (; value >= 1024 && unit + 1 < ARRAY_COUNT(units); unit++)
        value /= 1024;
    buf_printf(out, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

/* "2026-11-24T20:34:02.123Z" as "2026-11-24 20:34:02 UTC". */
static void html_time(struct buf *out, const char *rfc3339)
{
    if (!rfc3339 || strlen(rfc3339) < 19) {
        buf_puts(out, "–");
        return;
    }
    buf_puts(out, "<time datetime=\"");
    html_text(out, rfc3339);
    buf_printf(out, "\">%.10s %.8s UTC</time>", rfc3339, rfc3339 + 11);
}

static void figure(struct buf *out, const char *title, void (*write)(struct buf *, int64_t), int64_t value, const char *plain)
{
    buf_printf(out, "<div><dt>%s</dt><dd>", title);
    if (write)
        write(out, value);
    else
        html_text(out, plain);
    buf_puts(out, "</dd></div>");
}

static void verdict(struct buf *out, bool passed)
{
    buf_printf(out, "<span class=%s>%s</span>", passed ? "good" : "bad", passed ? "✓ holds" : "✗ does not hold");
}

/* Any JSON a step gave, for reading: text as it is, else compact JSON. */
static void html_value(struct buf *out, const json_t *value)
{
    CLEANUP(free_ptr) char *text = NULL;

    if (json_is_string(value)) {
        html_text(out, json_string_value(value));
        return;
    }
    text = json_text(value);
    buf_puts(out, "<code>");
    html_text(out, text);
    buf_puts(out, "</code>");
}

/* ---- The head ---- */

static int64_t worst_downtime(const json_t *servers)
{
    int64_t worst = -1;
    size_t i;
    json_t *server;

    json_array_foreach(servers, i, server) {
        int64_t one = json_get_int(server, "downtime_ms", -1);

        worst = one > worst ? one : worst;
    }
    return worst;
}

static int64_t total_size(const json_t *servers)
{
    int64_t total = 0;
    size_t i, k;
    json_t *server, *disk;

    json_array_foreach(servers, i, server)
        json_array_foreach(json_object_get(server, "disks"), k, disk)
            total += json_get_int(disk, "bytes_compared", 0);
    return total;
}

static void head(struct buf *out, const json_t *r)
{
    const json_t *wave = json_object_get(r, "wave"), *servers = json_object_get(r, "servers"), *rows = json_object_get(r, "rows");
    const char *title = json_get_string(wave, "title", NULL);
    bool passed = strcmp(json_get_string(r, "result", ""), "passed") == 0;
    char count[64];

    buf_puts(out, "<header><p class=soft>Slipway: migration report</p><h1>Wave ");
    html_text(out, json_get_string(wave, "name", "?"));
    buf_printf(out, " <span class=\"badge %s\">%s</span></h1><p class=soft>", passed ? "good" : "bad", passed ? "✓ passed" : "✗ failed");
    if (title && *title) {
        html_text(out, title);
        buf_puts(out, " · ");
    }
    html_time(out, json_get_string(r, "started", NULL));
    buf_puts(out, " to ");
    html_time(out, json_get_string(r, "finished", NULL));
    buf_puts(out, "</p></header><dl class=figures>");
    snprintf(count, sizeof count, "%zu", json_array_size(servers));
    figure(out, "Servers", NULL, 0, count);
    figure(out, "Longest downtime seen outside", html_duration, worst_downtime(servers), NULL);
    figure(out, "Compared, byte by byte", html_bytes, total_size(servers), NULL);
    if (json_is_object(rows)) {
        /* `present` counts rows, too, that are there and were never acknowledged. */
        int64_t acknowledged = json_get_int(rows, "acknowledged", -1);

        snprintf(count, sizeof count, "%lld of %lld", (long long)(acknowledged - json_get_int(rows, "missing", acknowledged)), (long long)acknowledged);
        figure(out, "Acknowledged rows present", NULL, 0, count);
    }
    buf_puts(out, "</dl>");
}

static void reasons(struct buf *out, const json_t *list)
{
    size_t i;
    json_t *one;

    if (!json_array_size(list))
        return;
    buf_puts(out, "<section aria-labelledby=why><h2 id=why>What does not hold</h2><ul>");
    json_array_foreach(list, i, one) {
        buf_puts(out, "<li class=bad>");
        html_text(out, json_string_value(one));
        buf_puts(out, "</li>");
    }
    buf_puts(out, "</ul></section>");
}

static void stages(struct buf *out, const json_t *r)
{
    size_t i;
    json_t *one;

    buf_puts(out, "<section aria-labelledby=time><h2 id=time>Timeline</h2><div class=wide>");
    report_svg(out, r);
    buf_puts(out, "</div><div class=wide><table><thead><tr><th scope=col>Stage</th><th scope=col>From</th><th scope=col>To</th>"
                  "<th scope=col class=n>Time</th></tr></thead><tbody>");
    json_array_foreach(json_object_get(r, "stages"), i, one) {
        buf_puts(out, "<tr><th scope=row>");
        html_text(out, json_get_string(one, "name", ""));
        buf_puts(out, "</th><td>");
        html_time(out, json_get_string(one, "started", NULL));
        buf_puts(out, "</td><td>");
        html_time(out, json_get_string(one, "finished", NULL));
        buf_puts(out, "</td><td class=n>");
        html_duration(out, json_get_int(one, "duration_ms", -1));
        buf_puts(out, "</td></tr>");
    }
    buf_puts(out, "</tbody></table></div></section>");
}

/* ---- Servers ---- */

static void disks(struct buf *out, const json_t *list)
{
    size_t i;
    json_t *d;

    buf_puts(out, "<h4>Disks: source and copy</h4><div class=wide><table><thead><tr><th scope=col>Disk</th><th scope=col class=n>Size</th>"
                  "<th scope=col class=n>Compared</th><th scope=col>SHA-256 of the source, and of the copy</th><th scope=col>Equal</th></tr>"
                  "</thead><tbody>");
    json_array_foreach(list, i, d) {
        const char *source = json_get_string(d, "source_sha256", "not computed"), *target = json_get_string(d, "target_sha256", "not computed");

        buf_puts(out, "<tr><th scope=row>");
        html_text(out, json_get_string(d, "id", "?"));
        buf_puts(out, "</th><td class=n>");
        html_bytes(out, json_get_int(d, "size_bytes", -1));
        buf_puts(out, "</td><td class=n>");
        html_bytes(out, json_get_int(d, "bytes_compared", -1));
        buf_puts(out, "</td><td><code>");
        html_text(out, source);
        buf_puts(out, "</code><br><code>");
        html_text(out, target);
        buf_puts(out, "</code></td><td>");
        verdict(out, strlen(source) == 64 && strcmp(source, target) == 0);
        buf_puts(out, "</td></tr>");
    }
    buf_puts(out, "</tbody></table></div>");
}

/* of_task NULL: all of them. */
static void checks(struct buf *out, const json_t *list, const char *of_task)
{
    size_t i;
    json_t *c;

    buf_puts(out, "<div class=wide><table><thead><tr><th scope=col>Check</th><th scope=col>Result</th><th scope=col>Evidence</th></tr>"
                  "</thead><tbody>");
    json_array_foreach(list, i, c) {
        if (of_task && strcmp(json_get_string(c, "task", ""), of_task) != 0)
            continue;
        buf_puts(out, "<tr><th scope=row>");
        html_text(out, json_get_string(c, "name", ""));
        buf_puts(out, "</th><td>");
        verdict(out, json_get_bool(c, "passed", false));
        buf_puts(out, "</td><td><pre>");
        html_text(out, json_get_string(c, "evidence", ""));
        buf_puts(out, "</pre></td></tr>");
    }
    buf_puts(out, "</tbody></table></div>");
}

static void pictures(struct buf *out, const json_t *list, const char *server)
{
    size_t i;
    json_t *p;

    json_array_foreach(list, i, p) {
        const char *data = json_get_string(p, "data", NULL);

        if (!data || strncmp(data, "data:image/", 11) != 0 || strcmp(json_get_string(p, "server", ""), server) != 0)
            continue;
        buf_puts(out, "<figure><img alt=\"Screen of ");
        html_text(out, server);
        buf_puts(out, ", ");
        html_text(out, json_get_string(p, "task", ""));
        buf_puts(out, "\" src=\"");
        html_text(out, data);
        buf_puts(out, "\"><figcaption>Screen, ");
        html_text(out, json_get_string(p, "task", ""));
        buf_puts(out, ", ");
        html_time(out, json_get_string(p, "at", NULL));
        buf_puts(out, "</figcaption></figure>");
    }
}

static void value_list(struct buf *out, const char *title, const json_t *value)
{
    size_t i;
    json_t *one;

    if (!value || json_is_null(value) || (json_is_array(value) && !json_array_size(value)))
        return;
    buf_printf(out, "<h4>%s</h4><ul>", title);
    if (!json_is_array(value)) {
        buf_puts(out, "<li>");
        html_value(out, value);
        buf_puts(out, "</li>");
    }
    json_array_foreach(value, i, one) {
        buf_puts(out, "<li>");
        html_value(out, one);
        buf_puts(out, "</li>");
    }
    buf_puts(out, "</ul>");
}

static void server_card(struct buf *out, const json_t *r, const json_t *s)
{
    static const struct {
        const char *task, *title;
    } tests[] = {{"boot_test", "Boot-up test of the test instance"}, {"verify_cutover", "Verification of the cutover instance"}};
    const char *name = json_get_string(s, "name", "?");

    buf_puts(out, "<article class=card><h3>");
    html_text(out, name);
    buf_puts(out, "</h3><p class=soft>");
    html_text(out, json_get_string(s, "application", ""));
    buf_puts(out, json_get_string(s, "owner", NULL) ? " · owner " : "");
    html_text(out, json_get_string(s, "owner", ""));
    buf_puts(out, " · ");
    html_text(out, json_get_string(s, "lifecycle", ""));
    buf_puts(out, "</p><dl class=figures>");
    figure(out, "Downtime seen outside", html_duration, json_get_int(s, "downtime_ms", -1), NULL);
    if (json_get_int(s, "probes_total", -1) >= 0) {
        char text[64];

        snprintf(text, sizeof text, "%lld of %lld", (long long)json_get_int(s, "probes_failed", -1),
                 (long long)json_get_int(s, "probes_total", -1));
        figure(out, "Probes that failed", NULL, 0, text);
    }
    if (json_get_int(s, "way_back_ms", -1) >= 0)
        figure(out, "Way back took", html_duration, json_get_int(s, "way_back_ms", -1), NULL);
    buf_puts(out, "</dl>");
    disks(out, json_object_get(s, "disks"));
    for (size_t i = 0; i < ARRAY_COUNT(tests); i++) {
        buf_printf(out, "<h4>%s</h4>", tests[i].title);
        checks(out, json_object_get(s, "boot_checks"), tests[i].task);
    }
    pictures(out, json_object_get(r, "pictures"), name);
    value_list(out, "Mended on the copy", json_object_get(s, "mends"));
    value_list(out, "Right size", json_object_get(s, "right_size"));
    buf_puts(out, "</article>");
}

static void servers(struct buf *out, const json_t *r)
{
    size_t i;
    json_t *s;

    buf_puts(out, "<section aria-labelledby=servers><h2 id=servers>Servers</h2>");
    json_array_foreach(json_object_get(r, "servers"), i, s)
        server_card(out, r, s);
    buf_puts(out, "</section>");
}

/* ---- Replication, refusals, tasks ---- */

static void replication(struct buf *out, const json_t *r)
{
    const json_t *x = json_object_get(r, "replication"), *ages = json_object_get(x, "newest_point_age_ms");

    buf_puts(out, "<section aria-labelledby=repl><h2 id=repl>Replication</h2><dl class=figures>");
    figure(out, "Read from the sources", html_bytes, json_get_int(x, "bytes_read", -1), NULL);
    figure(out, "Sent over the wire", html_bytes, json_get_int(x, "bytes_sent", -1), NULL);
    figure(out, "Stored", html_bytes, json_get_int(x, "bytes_stored", -1), NULL);
    figure(out, "Initial sync, a second", html_bytes, json_get_int(x, "rate_bytes_per_s", -1), NULL);
    figure(out, "Age of newest point, median", html_duration, json_get_int(ages, "p50", -1), NULL);
    figure(out, "… 99 of 100", html_duration, json_get_int(ages, "p99", -1), NULL);
    figure(out, "… at most", html_duration, json_get_int(ages, "max", -1), NULL);
    figure(out, "Accelerator", NULL, 0, json_get_string(r, "accelerator", "–"));
    buf_puts(out, "</dl></section>");
}

static void refusals(struct buf *out, const json_t *list)
{
    size_t i;
    json_t *one;

    if (!json_array_size(list))
        return;
    buf_puts(out, "<section aria-labelledby=ref><h2 id=ref>Asked for and refused</h2><div class=wide><table><thead><tr><th scope=col>When"
                  "</th><th scope=col>Who</th><th scope=col>What</th><th scope=col>Why not</th></tr></thead><tbody>");
    json_array_foreach(list, i, one) {
        buf_puts(out, "<tr><td>");
        html_time(out, json_get_string(one, "at", NULL));
        buf_puts(out, "</td><td>");
        html_text(out, json_get_string(one, "actor", ""));
        buf_puts(out, "</td><td>");
        html_text(out, json_get_string(one, "what", ""));
        buf_puts(out, " ");
        html_text(out, json_get_string(one, "server", ""));
        buf_puts(out, "</td><td>");
        html_text(out, json_get_string(one, "reason", ""));
        buf_puts(out, "</td></tr>");
    }
    buf_puts(out, "</tbody></table></div></section>");
}

static void task_details(struct buf *out, const json_t *t)
{
    const char *server = json_get_string(t, "server", NULL), *state = json_get_string(t, "state", "");
    bool good = strcmp(state, "SUCCEEDED") == 0;
    size_t i;
    json_t *d;

    buf_puts(out, "<details><summary>");
    html_text(out, json_get_string(t, "title", ""));
    if (server) {
        buf_puts(out, " · ");
        html_text(out, server);
    }
    buf_printf(out, " <span class=%s>", good ? "good" : "bad");
    html_text(out, state);
    buf_puts(out, "</span></summary><p class=soft>");
    html_time(out, json_get_string(t, "started", NULL));
    buf_puts(out, " to ");
    html_time(out, json_get_string(t, "finished", NULL));
    buf_puts(out, "</p>");
    if (json_get_string(t, "reason", NULL)) {
        buf_puts(out, "<p>Skipped: ");
        html_text(out, json_get_string(t, "reason", ""));
        buf_puts(out, "</p>");
    }
    json_array_foreach(json_object_get(t, "decisions"), i, d) {
        buf_puts(out, strcmp(json_get_string(d, "decision", ""), "approve") == 0 ? "<p>Approved by " : "<p>Rejected by ");
        html_text(out, json_get_string(d, "actor", ""));
        buf_puts(out, ", ");
        html_time(out, json_get_string(d, "at", NULL));
        buf_puts(out, json_get_string(d, "note", NULL) ? ": " : "");
        html_text(out, json_get_string(d, "note", ""));
        buf_puts(out, "</p>");
    }
    if (json_array_size(json_object_get(t, "evidence")))
        checks(out, json_object_get(t, "evidence"), NULL);
    buf_puts(out, "</details>");
}

static void tasks(struct buf *out, const json_t *r)
{
    size_t i, k;
    json_t *t, *back;

    buf_puts(out, "<section aria-labelledby=tasks><h2 id=tasks>Every task, with its evidence</h2>");
    json_array_foreach(json_object_get(r, "tasks"), i, t)
        task_details(out, t);
    json_array_foreach(json_object_get(r, "ways_back"), i, back) {
        buf_puts(out, "<h3>Way back of ");
        html_text(out, json_get_string(back, "server", "?"));
        buf_puts(out, "</h3>");
        json_array_foreach(json_object_get(back, "tasks"), k, t)
            task_details(out, t);
    }
    buf_puts(out, "</section>");
}

int report_html(const json_t *r, struct buf *out, struct err *e)
{
    buf_puts(out, "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\">"
                  "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"><title>"
                  "Wave ");
    html_text(out, json_get_string(json_object_get(r, "wave"), "name", "?"));
    buf_puts(out, " · Slipway</title><style>");
    buf_puts(out, style);
    buf_puts(out, "</style></head><body><main>");
    head(out, r);
    reasons(out, json_object_get(r, "reasons"));
    stages(out, r);
    servers(out, r);
    replication(out, r);
    refusals(out, json_object_get(r, "refusals"));
    tasks(out, r);
    buf_puts(out, "<footer class=soft><p>Made by Slipway, ");
    html_time(out, json_get_string(r, "generated", NULL));
    buf_puts(out, ", from its database; the same figures are in report.json.</p></footer></main></body></html>\n");
    return out->over ? err_set(e, ERR_LIMIT, "the report's page has more than %zu bytes", out->limit_bytes) : 0;
}
