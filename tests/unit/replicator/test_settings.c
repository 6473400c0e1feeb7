/* How servers are to be replicated: what is said is taken or refused as a whole, kept over restarts, and becomes limits by calendar; a week
 * is lived in a second. */
#include "base/file.h"
#include "replicator/private.h"
#include "tap.h"

#include <unistd.h>

#define MBIT 125000
#define MINUTE_US (60 * US_PER_S)

static int64_t now_us;
static int64_t read_now(void *user) { (void)user; return now_us; }
static const struct clock made_up = {.now_us = read_now};

static void begin(struct replicator *r, const char *folder)
{
    *r = (struct replicator){.options = {.point_interval_us = 5 * US_PER_S}, .clock = &made_up};
    MUST(pthread_mutex_init(&r->lock, NULL) == 0 && pthread_mutex_init(&r->settings_lock, NULL) == 0 && pthread_mutex_init(&r->fleet_lock, NULL) == 0);
    r->settings_path = xasprintf("%s/settings.json", folder);
}

static void end(struct replicator *r)
{
    peers_free(r);
    free(r->settings_path);
    pthread_mutex_destroy(&r->lock);
    settings_free(r);
    pthread_mutex_destroy(&r->settings_lock);
    pthread_mutex_destroy(&r->fleet_lock);
}

static void say(struct replicator *r, const char *text)
{
    CLEANUP(json_free) json_t *answer = NULL;
    struct err e = {0};

    ok(json_read(text, strlen(text), &answer, &e) == 0 && settings_take(r, answer, &e) == 0, "it is said: %.100s %s", text, e.message);
}

/* Its agent is there, and has that much to send. */
static struct peer *with_agent(struct replicator *r, const char *server, int64_t backlog_bytes)
{
    struct peer *p = peer_find(r, server, true);

    p->session = (struct session *)(uintptr_t)1; /* never looked into: nothing is told before a STATUS has come */
    p->detached = false;
    p->has_status = true;
    p->status.backlog_bytes = backlog_bytes;
    p->active_us = 0;
    return p;
}

/* limits_apply without the telling: there is nobody at the other end. */
static void reckon(struct replicator *r)
{
    struct peer *p = peer_find(r, "asks", true);

    (void)limits_greeting(p);
}

/* Where db01 of the group Shop is; NULL: nothing is said of the group. */
static void is_group(struct replicator *r, const char *at, const char *what)
{
    CLEANUP(json_free) json_t *groups = settings_groups(r);

    is_str(json_get_string(json_object_get(groups, "Shop"), "db01", "nowhere"), at ? at : "nowhere", "%s", what);
}

static void taken_or_refused(const char *folder)
{
    struct replicator r;
    struct peer *p;
    struct vault_ladder ladder;
    struct vault_rung rungs[LADDER_RUNGS_MAX];
    CLEANUP(json_free) json_t *shown = NULL;

    begin(&r, folder);
    p = peer_find(&r, "web01", true);
    is_int(settings_point_interval_us(p), 5 * US_PER_S, "where nothing was said the replicator's own interval holds");
    settings_ladder(p, rungs, &ladder);
    ok(ladder.rungs == vault_ladder_default.rungs, "and the vault's ladder");
    say(&r, "{\"unknown\":[],\"servers\":{\"web01\":{\"point_interval_s\":60,\"retention\":\"1h all, 2h 1m\",\"read_rate\":\"50MB/s\",\"copy_rate\":\"2MB/s\",\"cpu_percent\":30,\"group_points\":\"Shop\"},"
            "\"ghost\":{\"point_interval_s\":1}},\"groups\":{\"Shop\":{\"web01\":\"r1\",\"db01\":\"r2\"}}}");
    is_group(&r, "r2", "it is said who else is of its group, and where");
    settings_ladder(p, rungs, &ladder);
    ok(settings_point_interval_us(p) == 60 * US_PER_S && ladder.rung_count == 2 && ladder.rungs[1].step_us == MINUTE_US && ladder.keep_last == 3 &&
           strcmp(p->settings.group, "Shop") == 0 && p->settings.copy_bytes_per_s == 2000000,
       "then what was said does");
    say(&r, "{\"servers\":{\"web01\":{\"point_interval_s\":0,\"retention\":\"1h\",\"color\":\"red\",\"bandwidth\":\"fast\",\"time_zone\":\"Mars/Utopia\","
            "\"read_rate\":7,\"copy_rate\":\"quick\",\"group_points\":true,\"shared\":{\"site\":{\"bandwidth\":\"slow\"}}}}}");
    ok(settings_point_interval_us(p) == 60 * US_PER_S && p->settings.cpu_percent == 30, "what can't be read changes nothing");
    shown = settings_json(p);
    for (const char *const *word = (const char *const[]){"point_interval_s is no whole number", "retention: rung 1", "color is not known", "bandwidth: part 1",
                                                         "time_zone: there is no time zone Mars/Utopia", "read_rate is no text", "copy_rate: ", "group_points is no text", "shared site: bandwidth", NULL};
         *word; word++)
        ok(strstr(json_get_string(json_object_get(shown, "error"), "message", ""), *word) != NULL, "the status names the fault: %s", *word);
    say(&r, "{\"servers\":{\"web01\":{\"point_interval_s\":60,\"retention\":\"1h all, 2h 1m\",\"read_rate\":\"50MB/s\",\"copy_rate\":\"2MB/s\",\"cpu_percent\":30,\"group_points\":\"Shop\"}},\"groups\":{\"Shop\":[\"web01\"]}}");
    ok(!p->settings_trouble.kind, "and no longer once it is taken back");
    is_group(&r, NULL, "who is of a group is not gone by where it can't be read");
    say(&r, "{\"unknown\":[\"web01\"]}");
    is_int(settings_point_interval_us(p), 60 * US_PER_S, "a server that an answer doesn't name keeps its settings");
    say(&r, "{\"groups\":{\"Shop\":{\"web01\":\"r1\",\"db01\":\"r3\"}}}");
    end(&r);
}

static void kept(const char *folder)
{
    struct replicator r;
    struct err e = {0};

    begin(&r, folder);
    ok(peer_find(&r, "web01", true) && settings_load(&r, &e) == 0, "after a restart, with no factory: %s", e.message);
    is_int(settings_point_interval_us(peer_find(&r, "web01", false)), 60 * US_PER_S, "the last good word holds");
    is_group(&r, "r3", "also of who is of its group");
    ok(!peer_find(&r, "ghost", false), "and what was said of a server that isn't here was passed over");
    ok(file_write(r.settings_path, "{", 1, 0600, &e) == 0 && settings_load(&r, &e) < 0 && strstr(e.message, "remove the file"),
       "a file that is none is no reason to forget limits in silence: %s", e.message);
    unlink(r.settings_path);
    end(&r);
}

static void a_week(const char *folder)
{
    struct replicator r;
    struct peer *p;
    int wrong = 0, pauses = 0, working = 0;

    begin(&r, folder);
    p = with_agent(&r, "web01", 1);
    say(&r, "{\"servers\":{\"web01\":{\"bandwidth\":\"100Mbit/s; mon-fri 08:00-18:00 20Mbit/s; sun pause\",\"time_zone\":\"Europe/Berlin\"}}}");
    clock_parse("2026-11-22T23:00:00Z", &now_us, NULL); /* Monday begins in Berlin */
    for (int minute = 0; minute < 7 * 1440; minute++, now_us += MINUTE_US) {
        int day = minute / 1440, of_day = minute % 1440;
        bool works = day < 5 && of_day >= 8 * 60 && of_day < 18 * 60;

        reckon(&r);
        wrong += p->calendar_pause != (day == 6) || p->limit.value != (day == 6 ? 0 : works ? 20 * MBIT : 100 * MBIT);
        pauses += p->calendar_pause;
        working += p->limit.value == 20 * MBIT;
    }
    is_int(wrong, 0, "each minute of the week its agent's limit is the calendar's");
    ok(pauses == 1440 && working == 5 * 600, "with the pause and the working hours in it");
    r.options.limit_bytes_per_s = 50 * MBIT;
    reckon(&r);
    is_int(p->limit.value, 50 * MBIT, "the replicator's own limit holds besides");
    end(&r);
}

static void share_out(void)
{
    int64_t equal[] = {0, 0, 0, 0}, some[] = {100, 0, 2000, 300, 0}, enough[] = {100, 200}, tiny[] = {0, 0, 0};

    limits_share_out(1000, equal, 4);
    ok(equal[0] == 250 && equal[3] == 250, "four that ask for all get a quarter each");
    limits_share_out(2000, some, 5);
    ok(some[0] == 100 && some[3] == 300 && some[1] == 533 && some[2] == 533 && some[4] == 533, "what some don't want goes to the others");
    limits_share_out(1000, enough, 2);
    ok(enough[0] == 100 && enough[1] == 200, "nobody gets more than is asked for");
    limits_share_out(2, tiny, 3);
    ok(tiny[0] == 1 && tiny[2] == 1, "nobody gets 0, which is no limit");
}

#define SITE "\"site\":{\"bandwidth\":\"80Mbit/s; sun pause\"}"
#define WAVE "\"wave:w1\":{\"bandwidth\":\"40Mbit/s\"}"

static void shared(const char *folder)
{
    struct replicator r;
    struct peer *p[4], *fresh;

    begin(&r, folder);
    clock_parse("2026-11-23T12:00:00Z", &now_us, NULL);
    p[0] = with_agent(&r, "a", 1), p[1] = with_agent(&r, "b", 1), p[2] = with_agent(&r, "c", 1), p[3] = with_agent(&r, "d", 0);
    say(&r, "{\"servers\":{\"a\":{\"shared\":{" WAVE "," SITE "}},\"b\":{\"bandwidth\":\"8Mbit/s\",\"shared\":{" WAVE "," SITE "}},"
            "\"c\":{\"shared\":{" SITE "}},\"d\":{\"shared\":{" SITE "}}}}");
    reckon(&r);
    is_int(p[1]->limit.value, 8 * MBIT, "a server's own limit holds within those that it shares");
    is_int(p[0]->limit.value, 32 * MBIT, "the rest of the wave's is another's");
    is_int(p[2]->limit.value, 40 * MBIT, "the rest of the site's is that of a server of another wave");
    ok(p[3]->limit.value > 0 && p[3]->limit.value <= 80 * MBIT / 4 + 1, "one that has nothing to send takes nothing, and would begin with its share");
    with_agent(&r, "b", 0), with_agent(&r, "c", 0);
    reckon(&r);
    is_int(p[0]->limit.value, 40 * MBIT, "alone, a server has all of its wave's");
    fresh = with_agent(&r, "new", 1);
    reckon(&r);
    ok(fresh->limit.value == 40 * MBIT && p[0]->limit.value == 40 * MBIT, "one of whom nothing was said yet shares the site's");
    p[0]->paused = true;
    reckon(&r);
    is_int(fresh->limit.value, 80 * MBIT, "one that is paused has no share");
    now_us += 6 * 1440 * MINUTE_US;
    reckon(&r);
    ok(p[0]->calendar_pause && p[2]->calendar_pause && fresh->calendar_pause, "when the site pauses all do");
    end(&r);
}

/* What is reported to the factory of the limit of that key. */
static void is_share(struct replicator *r, const char *key, const char *expected, const char *what)
{
    CLEANUP(json_free) json_t *all = limits_shares(r);
    CLEANUP(free_ptr) char *text = json_text(json_object_get(all, key));

    is_str(text, expected, "%s", what);
}

#define AB "\"servers\":{\"a\":{\"shared\":{" WAVE "," SITE "}},\"b\":{\"shared\":{" SITE "}},\"c\":{\"shared\":{" SITE "}}}"

/* Other replicators have servers that share the limits, too. */
static void parts(const char *folder)
{
    struct replicator r;
    struct peer *a, *b;
    struct err e = {0};

    begin(&r, folder);
    clock_parse("2026-11-23T12:00:00Z", &now_us, NULL);
    a = with_agent(&r, "a", 1), b = with_agent(&r, "b", 1);
    peer_find(&r, "c", true);
    say(&r, "{" AB "}");
    is_share(&r, "site", "{\"active\":2,\"idle\":0,\"part\":1000000}", "where no part is said all of a limit is for the servers here");
    say(&r, "{" AB ",\"parts\":{\"site\":250000,\"wave:w1\":100000}}");
    reckon(&r);
    ok(a->limit.value == 4 * MBIT && b->limit.value == 16 * MBIT, "of a part no more than that is given out, and what a wave's part leaves goes to others");
    with_agent(&r, "b", 0);
    is_share(&r, "site", "{\"active\":1,\"idle\":1,\"part\":250000}", "the factory is told who has something to send, who only may, and the part gone by");
    is_share(&r, "wave:w1", "{\"active\":1,\"idle\":0,\"part\":100000}", "of each limit");
    say(&r, "{" AB ",\"parts\":{\"site\":240000,\"wave:w1\":1000000}}");
    reckon(&r);
    is_int(a->limit.value, 80 * MBIT * 24 / 100, "the site's part bounds a wave that has all of its own");
    say(&r, "{" AB ",\"parts\":{\"site\":0}}");
    reckon(&r);
    ok(a->limit.value == 1 && b->limit.value == 1, "no part is no leave to send what one likes");
    say(&r, "{" AB ",\"parts\":{\"site\":2000000}}");
    reckon(&r);
    is_int(a->limit.value, 40 * MBIT, "what is no part is passed over");
    say(&r, "{" AB ",\"parts\":{\"site\":500000}}");
    end(&r);
    begin(&r, folder);
    a = with_agent(&r, "a", 0), b = with_agent(&r, "b", 1);
    ok(settings_load(&r, &e) == 0, "after a restart, with no factory: %s", e.message);
    reckon(&r);
    is_int(b->limit.value, 40 * MBIT, "the last part holds");
    end(&r);
}

int main(void)
{
    char folder[] = "/tmp/slipway-settings.XXXXXX";

    if (!mkdtemp(folder))
        return 1;
    taken_or_refused(folder);
    kept(folder);
    a_week(folder);
    share_out();
    shared(folder);
    parts(folder);
    for (const char *const *name = (const char *const[]){"settings.json", NULL}; *name; name++) {
        CLEANUP(free_ptr) char *path = xasprintf("%s/%s", folder, *name);

        unlink(path);
    }
    rmdir(folder);
    return tap_done();
}
