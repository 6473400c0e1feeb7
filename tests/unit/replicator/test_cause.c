/* What is wrong with a server's replication, and what to do about it, over made-up facts. */
#include "replicator/cause.h"
#include "base/clock.h"
#include "tap.h"

#define NOW_US INT64_C(1800000000000000)
#define MIB (1 << 20)

static struct err trouble, point_trouble;
static struct wire_status status;

/* All is well. */
static struct cause_facts fresh(void)
{
    trouble = point_trouble = (struct err){0};
    status = (struct wire_status){.state = "CONTINUOUS", .tracker = "ebpf", .bytes_total = 96 * MIB, .rate_bytes_per_s = 1000000};
    return (struct cause_facts){.now_us = NOW_US, .connected = true, .since_us = NOW_US - 3600 * US_PER_S, .rivals = {"192.0.2.5", "192.0.2.9"}, .paused_by = "",
                                .trouble = &trouble, .status = &status, .point_trouble = &point_trouble, .newest_at_us = NOW_US - US_PER_S, .point_interval_us = 5 * US_PER_S};
}

/* It is the cause of that kind, says those words, and what to do. */
static void is_cause(const struct cause_facts *f, const char *kind, const char *severity, const char *words)
{
    CLEANUP(json_free) json_t *cause = cause_json(f);

    is_str(json_get_string(cause, "kind", "none"), kind, "%s", kind);
    is_str(json_get_string(cause, "severity", ""), severity, "%s", severity);
    ok(strstr(json_get_string(cause, "text", ""), words), "\"%s\" says \"%s\"", json_get_string(cause, "text", ""), words);
    ok(strlen(json_get_string(cause, "advice", "")) > 20, "and what to do: %s", json_get_string(cause, "advice", ""));
}

static void test_well(void)
{
    struct cause_facts f = fresh();
    CLEANUP(json_free) json_t *none = cause_json(&f), *syncing = NULL;

    ok(json_is_null(none), "all is well: no cause");
    snprintf(status.state, sizeof status.state, "INITIAL_SYNC");
    status.eta_ms = 60000;
    syncing = cause_json(&f);
    ok(json_is_null(syncing), "nor where the first sync goes on");
    ok(!cause_bottleneck(&f), "nothing holds it up");
}

static void test_links(void)
{
    struct cause_facts f = fresh();

    f.refused = "192.0.2.7";
    is_cause(&f, "clone_refused", "warning", "is refused, from 192.0.2.7: the one that is connected, from 192.0.2.9, came first");
    f.refused = NULL;
    f.connected = false;
    is_cause(&f, "agent_away", "error", "since 2027-01-15T07:00:00Z");
    err_set(&trouble, ERR_UNAUTHENTICATED, "the certificate of agent:web01 was revoked: by anna");
    f.turned_away = &trouble;
    is_cause(&f, "certificate_refused", "error", "turned away: the certificate of agent:web01 was revoked: by anna");
    f.turned_away = NULL;
    err_clear(&trouble);
    err_set(&trouble, ERR_LIMIT, "the disks have grown: set memory_bound_mib higher");
    f.stands = &trouble;
    is_cause(&f, "agent_stands", "error", "is there, and can't replicate: the disks have grown: set memory_bound_mib higher");
    f.stands = NULL;
    err_clear(&trouble);
    f.moved_to = "staging2";
    is_cause(&f, "agent_away", "error", "since 2027-01-15T07:00:00Z");
    f.since_us = NOW_US - US_PER_S;
    is_cause(&f, "moving", "info", "goes to the replicator staging2");
    f = fresh();
    f.connected = false;
    f.stopped = true;
    is_cause(&f, "agent_stopped", "error", "was stopped on the source, at 2027-01-15T07:00:00Z");
    f.takeovers = 3;
    is_cause(&f, "same_name", "error", "192.0.2.5 and 192.0.2.9, 3 times");
    f.detached = true;
    is_cause(&f, "detached", "info", "ended on purpose");
    f = fresh();
    f.takeovers = 1;
    ok(json_is_null(cause_json(&f)), "one takeover is none");
    status.unreadable_bytes = 512;
    snprintf(status.unreadable, sizeof status.unreadable, "512 B of the source can't be read: disk sda, sectors 9");
    is_cause(&f, "sectors_unreadable", "error", "disk sda, sectors 9; zero bytes stand there");
}

static void test_missing(void)
{
    struct missing_disk disks[] = {{"wwid:gone", INT64_C(2) << 30, NOW_US - 7200 * US_PER_S, true}, {"gpt:0123", INT64_C(10) << 30, NOW_US - US_PER_S, false},
                                   {"mbr:4567", INT64_C(1) << 30, NOW_US - 3600 * US_PER_S, false}};
    struct missing missing = {3, disks};
    struct cause_facts f = fresh();

    f.missing = &missing;
    snprintf(status.note_kind, sizeof status.note_kind, "disks_changed");
    is_cause(&f, "disk_missing", "error", "not there any more: gpt:0123 (10.0 GiB), mbr:4567 (1.0 GiB), since 2027-01-15T07:00:00Z");
    disks[1].accepted = disks[2].accepted = true;
    is_cause(&f, "disks_changed", "warning", "");
}

static void test_troubles(void)
{
    struct cause_facts f = fresh();

    err_set(&trouble, ERR_NO_SPACE, "12 MiB are left: make room on it");
    is_cause(&f, "replicator_full", "error", "12 MiB are left");
    err_set(&trouble, ERR_IO, "it is sick");
    is_cause(&f, "replicator_trouble", "error", "it is sick");
    f.connected = false;
    is_cause(&f, "replicator_trouble", "error", "it is sick"); /* by that its agent was sent away */
    f = fresh();
    snprintf(status.error_kind, sizeof status.error_kind, "%s", err_meaning(ERR_IO)->name);
    snprintf(status.error, sizeof status.error, "disk sdb: can't read at 65536");
    is_cause(&f, "source_unreadable", "error", "disk sdb: can't read at 65536");
    f.connected = false;
    f.since_us = NOW_US - US_PER_S;
    is_cause(&f, "source_unreadable", "error", "disk sdb"); /* its agent starts over */
    f.since_us = NOW_US - 60 * US_PER_S;
    is_cause(&f, "agent_away", "error", "is not connected");
    f = fresh();
    snprintf(status.error_kind, sizeof status.error_kind, "not_found");
    snprintf(status.error, sizeof status.error, "there is no disk sdb");
    is_cause(&f, "agent_trouble", "error", "there is no disk sdb");
}

static void test_orders(void)
{
    struct cause_facts f = fresh();

    f.paused = true;
    is_cause(&f, "paused", "warning", "replication is paused");
    f.paused_by = "anna";
    f.paused_us = NOW_US - 60 * US_PER_S;
    status.backlog_bytes = 300 * MIB;
    is_cause(&f, "paused", "warning", "paused by anna, since 2027-01-15T07:59:00Z; 300 MiB of changes wait");
    f = fresh();
    status.held = true;
    is_cause(&f, "held", "info", "held still");
}

static void test_behind(void)
{
    static const struct {
        const char *bottleneck, *kind, *words;
        bool busy;
    } rows[] = {
        {"limit", "limit_too_low", "12.0 Mbit/s are written anew, 8.0 Mbit/s get across, held up by the limit of 7.2 Mbit/s", false},
        {"link", "link_too_slow", "held up by the link, not by the limit of 7.2 Mbit/s", false},
        {"link", "replicator_too_slow", "by the replicator", true},
        {"replicator", "replicator_too_slow", "by the replicator", false},
        {"source", "source_too_slow", "reading the source's disks", true},
        {"", "link_too_slow", "12.0 Mbit/s", false},
    };

    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct cause_facts f = fresh();

        snprintf(status.state, sizeof status.state, i % 2 ? "BACKLOG" : "INITIAL_SYNC");
        status.eta_ms = -2;
        status.backlog_bytes = 1 << 30;
        status.churn_bytes_per_s = 1500000;
        status.limit_bytes_per_s = 900000;
        snprintf(status.bottleneck, sizeof status.bottleneck, "%s", rows[i].bottleneck);
        f.busy = rows[i].busy;
        is_cause(&f, rows[i].kind, "error", rows[i].words);
        if (strcmp(rows[i].kind, "source_too_slow") != 0)
            continue;
        status.backoff_bytes_per_s = 5 << 20;
        status.source_latency_us = 9000;
        status.source_latency_without_us = 700;
        is_cause(&f, rows[i].kind, "error", "for an I/O of the source's own takes 9000 us, and 700 us without it");
    }
}

static void test_limit(void)
{
    struct cause_facts f = fresh();

    snprintf(status.state, sizeof status.state, "BACKLOG");
    snprintf(status.bottleneck, sizeof status.bottleneck, "limit");
    status.limit_bytes_per_s = 900000;
    status.eta_ms = 90000;
    status.churn_bytes_per_s = -1;
    is_cause(&f, "catching_up", "warning", "bytes_per_s in the agent's own settings); it has caught up in 90.0 s");
    is_cause(&f, "catching_up", "warning", "an unknown amount are written anew");
    f.limit_said_bytes_per_s = 900000;
    is_cause(&f, "catching_up", "warning", "set in Slipway");
    status.limit_bytes_per_s = 0;
    is_cause(&f, "catching_up", "warning", "held up by a limit on reading the source's disks, or on its processors (read_bytes_per_s, cpu_percent); it has caught up");
    is_str(cause_bottleneck(&f), "limit", "by the limit");
}

static void test_notes(void)
{
    static const char *const kinds[][2] = {{"marks_lost", "warning"}, {"state_lost", "warning"}, {"disks_changed", "warning"}, {"agent_restarted", "info"}};

    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        struct cause_facts f = fresh();

        snprintf(status.note_kind, sizeof status.note_kind, "%s", kinds[i][0]);
        snprintf(status.note, sizeof status.note, "disk sdb (10.0 GiB) has come");
        is_cause(&f, kinds[i][0], kinds[i][1], "disk sdb (10.0 GiB) has come");
    }
}

static void test_points(void)
{
    struct cause_facts f = fresh();

    err_set(&point_trouble, ERR_TIMEOUT, "no moment without a write came");
    is_cause(&f, "point_failed", "warning", "no moment without a write came; the newest is of 2027-01-15T07:59:59Z");
    f.newest_at_us = NOW_US - 3600 * US_PER_S;
    is_cause(&f, "no_point", "error", "the newest is of 2027-01-15T07:00:00Z");
    f.newest_at_us = 0;
    is_cause(&f, "no_point", "error", "no recovery point could be taken");
}

/* What could be launched is old: that is said as an error, whatever else there is to say, and why, and when it is over. */
static void test_old_points(void)
{
    static const struct {
        const char *state, *note_kind, *words;
        int64_t eta_ms;
    } rows[] = {
        {"RESCAN", "agent_restarted", "60 min ago: the agent started anew; 32.0 MiB of 96.0 MiB are read and compared, and it is over in 90.0 s", 90000},
        {"RESCAN", "marks_lost", "nobody can say yet when it is over", -1},
        {"INITIAL_SYNC", "", "not all of its disks has reached the replicator; 32.0 MiB of 96.0 MiB", 90000},
        {"BACKLOG", "", "it has caught up in 90.0 s", 90000},
        {"CONTINUOUS", "", "none has come about since", 0},
    };
    struct cause_facts f;
    CLEANUP(json_free) json_t *none = NULL;

    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        f = fresh();
        snprintf(status.state, sizeof status.state, "%s", rows[i].state);
        snprintf(status.note_kind, sizeof status.note_kind, "%s", rows[i].note_kind);
        snprintf(status.note, sizeof status.note, "the agent started anew");
        status.bytes_done = 32 * MIB;
        status.eta_ms = rows[i].eta_ms;
        f.newest_at_us = NOW_US - 3600 * US_PER_S;
        f.refused = "192.0.2.7";
        is_cause(&f, "point_old", "error", rows[i].words);
        f.pointed_us = NOW_US - US_PER_S; /* the source's clock is an hour behind */
        is_cause(&f, "clone_refused", "warning", "is refused");
    }
    f = fresh();
    f.newest_at_us = NOW_US - 601 * US_PER_S;
    is_cause(&f, "point_old", "error", "newest recovery point is of 2027-01-15T07:49:59Z");
    f.point_interval_us = 3600 * US_PER_S;
    none = cause_json(&f);
    ok(json_is_null(none), "where points come once an hour, one of ten minutes ago is fine");
    f.newest_at_us = NOW_US - 3 * 3601 * US_PER_S;
    is_cause(&f, "point_old", "error", "3.0 h ago");
    status.held = true;
    is_cause(&f, "held", "info", "held still"); /* at its cutover: it is to have no other */
    status.held = false;
    f.paused = true;
    is_cause(&f, "paused", "warning", "replication is paused");
    f = fresh();
    f.newest_at_us = f.pointed_us = NOW_US + 30 * 86400 * US_PER_S;
    is_cause(&f, "point_old", "error", "is of 2027-02-14T08:00:00Z, 30.0 days ahead of the replicator's clock, which was set back: none has come about since");
    f = fresh();
    f.newest_at_us = 0;
    snprintf(status.state, sizeof status.state, "INITIAL_SYNC");
    json_free(&none);
    none = cause_json(&f);
    ok(json_is_null(none), "a first sync has no point yet");
}

/* Points that by design do not come are no error; those that were to come are. */
static void test_rescanned(void)
{
    struct cause_facts f = fresh();

    snprintf(status.tracker, sizeof status.tracker, "rescan");
    snprintf(status.tracker_reason, sizeof status.tracker_reason, "this kernel does not describe its types");
    status.rescan_interval_s = 300;
    f.newest_at_us = NOW_US - 3600 * US_PER_S;
    is_cause(&f, "not_tracked", "warning", "does not describe its types), so all of its disks (96.0 MiB) are read and compared every 300 s; a recovery point holds");
    status.scan_ms = 720000;
    is_cause(&f, "not_tracked", "warning", "which took 12 min the last time; a recovery point holds the source still for as long: none is taken but for a cutover; the newest is of 2027");
    err_set(&point_trouble, ERR_WRONG_STATE, "30 s are allowed");
    is_cause(&f, "not_tracked", "warning", "the last that was wanted: 30 s are allowed");
    f.rescan_freeze_us = 900 * US_PER_S;
    is_cause(&f, "not_tracked", "warning", "only where somebody asks for it; the newest is of 2027-01-15T07:00:00Z; the last that was wanted: 30 s");
    err_clear(&point_trouble);
    is_cause(&f, "not_tracked", "info", "one is taken only where somebody asks for it");
    f.rescan_points_us = 86400 * US_PER_S;
    is_cause(&f, "not_tracked", "info", "one is taken every 86400 s");
    f.newest_at_us = NOW_US - 4 * 86400 * US_PER_S;
    is_cause(&f, "point_old", "error", "none has come about since");
    err_set(&point_trouble, ERR_WRONG_STATE, "30 s are allowed");
    is_cause(&f, "no_point", "error", "no recovery point could be taken: 30 s are allowed");
    f.rescan_points_us = 0;
    is_cause(&f, "not_tracked", "warning", "30 s are allowed");
}

static void test_settings(void)
{
    struct cause_facts f = fresh();
    struct err refused = {0};

    f.paused_by_calendar = true;
    status.backlog_bytes = 3 << 20;
    is_cause(&f, "calendar_pause", "info", "pauses it now; 3.0 MiB of changes wait");
    f = fresh();
    err_set(&refused, ERR_INVALID, "time_zone: there is no time zone Mars/Utopia");
    f.settings_trouble = &refused;
    is_cause(&f, "settings_refused", "warning", "what held before goes on: time_zone: there is no time zone Mars/Utopia");
    f = fresh();
    f.group = "Shop";
    f.group_trouble = &refused;
    err_set(&refused, ERR_UNREACHABLE, "web01 is not connected");
    is_cause(&f, "group_apart", "warning", "not of one instant with the other servers of Shop: web01 is not connected");
}

static void test_copies(void)
{
    struct cause_facts f = fresh();
    struct err none = {0}, full = {0};
    CLEANUP(json_free) json_t *well = NULL, *brief = NULL;

    f.copied_to = "staging2";
    f.copy_trouble = &none;
    f.copy_lag_us = 3 * US_PER_S;
    well = cause_json(&f);
    ok(json_is_null(well), "a second copy that is some seconds behind is well");
    err_set(&full, ERR_NO_SPACE, "the disk is full");
    f.copy_trouble = &full;
    f.copy_trouble_us = NOW_US - 2 * US_PER_S;
    brief = cause_json(&f);
    ok(json_is_null(brief), "so is one that is cut off for a moment");
    f.copy_trouble_us = NOW_US - 60 * US_PER_S;
    is_cause(&f, "copy_stalled", "warning", "its second copy at staging2 does not go on: the disk is full, since 2027-01-15T07:59:00Z");
    f.copy_trouble = &none;
    f.copy_lag_us = 600 * US_PER_S;
    is_cause(&f, "copy_behind", "warning", "staging2 is older than the newest one by 10 min");
    f.copied_to = "";
    f.copy_trouble = &full;
    json_free(&well);
    well = cause_json(&f);
    ok(json_is_null(well), "where none is kept there is nothing to say");
}

int main(void)
{
    test_well();
    test_links();
    test_missing();
    test_troubles();
    test_orders();
    test_behind();
    test_limit();
    test_notes();
    test_points();
    test_old_points();
    test_rescanned();
    test_copies();
    test_settings();
    return tap_done();
}
