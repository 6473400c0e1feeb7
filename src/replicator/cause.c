#include "replicator/cause.h"

#include "base/clock.h"
#include "base/words.h"

#include <stdlib.h>
#include <string.h>

#define TAKEOVERS_LEAST 2
#define ETA_NEVER (-2)
#define COPY_STALLED_US (20 * US_PER_S) /* a cut link, a restart: it goes on by itself before that */
#define COPY_BEHIND_US (120 * US_PER_S)
#define POINT_LONG_US (600 * US_PER_S)
#define POINTS_MISSED 3 /* where they come less often, so many must be missing */
#define MOVE_US (60 * US_PER_S) /* an agent that was told to go elsewhere is on its way that long */
#define AGENT_GONE_LEAST_US (5 * US_PER_S) /* an agent that starts over is away for a moment: its last word stands meanwhile */

/* ---- what holds ---- */

static bool agent_says(const struct cause_facts *f, const char *error_kind)
{
    const char *said = f->status->error_kind;

    return said[0] && (!error_kind || strcmp(said, error_kind) == 0) && (f->connected || f->now_us - f->since_us < AGENT_GONE_LEAST_US);
}

static bool is_detached(const struct cause_facts *f) { return f->detached; }
static bool has_rivals(const struct cause_facts *f) { return f->takeovers >= TAKEOVERS_LEAST; }
static bool was_refused(const struct cause_facts *f) { return f->connected && f->refused; }
static bool was_turned_away(const struct cause_facts *f) { return !f->connected && f->turned_away; }
static bool stands(const struct cause_facts *f) { return !f->connected && f->stands; }
static bool is_unreadable(const struct cause_facts *f) { return agent_says(f, err_meaning(ERR_IO)->name); }
static bool is_moving(const struct cause_facts *f) { return !f->connected && !f->stopped && f->moved_to && *f->moved_to && f->now_us - f->since_us < MOVE_US; }
static bool is_stopped(const struct cause_facts *f) { return !f->connected && f->stopped; }
static bool is_away(const struct cause_facts *f) { return !f->connected && f->trouble->kind == ERR_NONE; } /* by our own trouble it is sent away */
static bool is_full(const struct cause_facts *f) { return f->trouble->kind == ERR_NO_SPACE; }
static bool has_trouble(const struct cause_facts *f) { return f->trouble->kind != ERR_NONE; }
static bool has_agent_trouble(const struct cause_facts *f) { return agent_says(f, NULL); }
static bool lacks_sectors(const struct cause_facts *f) { return f->status->unreadable_bytes > 0; }
static bool lacks_disks(const struct cause_facts *f) { return missing_count(f->missing) > 0; }
static bool is_paused(const struct cause_facts *f) { return f->paused; }
static bool is_paused_by_calendar(const struct cause_facts *f) { return f->paused_by_calendar; }
static bool settings_are_refused(const struct cause_facts *f) { return f->settings_trouble && f->settings_trouble->kind != ERR_NONE; }
static bool is_held(const struct cause_facts *f) { return f->status->held; }
static bool is_never(const struct cause_facts *f) { return f->status->eta_ms == ETA_NEVER; }
static bool is_behind(const struct cause_facts *f) { return strcmp(f->status->state, "BACKLOG") == 0; }

static bool held_up_by(const struct cause_facts *f, const char *what)
{
    const char *found = cause_bottleneck(f);

    return is_never(f) && found && strcmp(found, what) == 0;
}

static bool is_limited(const struct cause_facts *f) { return held_up_by(f, "limit"); }
static bool source_is_slow(const struct cause_facts *f) { return held_up_by(f, "source"); }
static bool replicator_is_slow(const struct cause_facts *f) { return held_up_by(f, "replicator"); }

static bool noted(const struct cause_facts *f, const char *kind) { return strcmp(f->status->note_kind, kind) == 0; }
static bool marks_were_lost(const struct cause_facts *f) { return noted(f, "marks_lost"); }
static bool state_was_lost(const struct cause_facts *f) { return noted(f, "state_lost"); }
static bool agent_was_restarted(const struct cause_facts *f) { return noted(f, "agent_restarted"); }
static bool disks_changed(const struct cause_facts *f) { return noted(f, "disks_changed"); }

static bool is_rescanned(const struct cause_facts *f) { return strcmp(f->status->tracker, "rescan") == 0; }
static bool comes_by_itself(const struct cause_facts *f) { return !is_rescanned(f) || (f->rescan_freeze_us && f->rescan_points_us); }

/* Whatever the reason: what could be launched is older than anybody counts on. A source's clock that is wrong makes no point old; how old one is that is of
 * a time to come, for our clock was set back, nobody knows. */
static bool is_overdue(const struct cause_facts *f)
{
    int64_t every_us = is_rescanned(f) ? f->rescan_points_us + 2 * f->rescan_freeze_us : f->point_interval_us;
    int64_t limit_us = POINTS_MISSED * every_us > POINT_LONG_US ? POINTS_MISSED * every_us : POINT_LONG_US;

    return comes_by_itself(f) && llabs(f->now_us - (f->pointed_us > f->newest_at_us ? f->pointed_us : f->newest_at_us)) > limit_us;
}

static bool point_is_old(const struct cause_facts *f) { return f->newest_at_us && !f->status->held && is_overdue(f); }
static bool point_failed(const struct cause_facts *f) { return f->point_trouble->kind != ERR_NONE && f->point_trouble->kind != ERR_UNREACHABLE; }
static bool points_fail_long(const struct cause_facts *f) { return point_failed(f) && is_overdue(f); }
static bool rescanned_fails_long(const struct cause_facts *f) { return is_rescanned(f) && points_fail_long(f); }
static bool tracked_failed(const struct cause_facts *f) { return point_failed(f) && !is_rescanned(f); }
static bool has_few_points(const struct cause_facts *f) { return is_rescanned(f) && (!f->rescan_freeze_us || point_failed(f)); }
static bool is_apart(const struct cause_facts *f) { return f->group_trouble && f->group_trouble->kind != ERR_NONE; }
static bool is_copied(const struct cause_facts *f) { return f->copied_to && *f->copied_to; }
static bool copy_stands(const struct cause_facts *f)
{
    return is_copied(f) && f->copy_trouble && f->copy_trouble->kind != ERR_NONE && f->now_us - f->copy_trouble_us > COPY_STALLED_US;
}

static bool copy_is_behind(const struct cause_facts *f) { return is_copied(f) && f->copy_lag_us > COPY_BEHIND_US; }

/* ---- words ---- */

static void say_since(struct buf *out, const char *before, int64_t since_us)
{
    char text[CLOCK_TEXT_SIZE];

    if (since_us)
        buf_printf(out, "%s%.19sZ", before, clock_format(since_us, text));
}

static void say_agent_error(const struct cause_facts *f, struct buf *out) { buf_puts(out, f->status->error); }
static void say_trouble(const struct cause_facts *f, struct buf *out) { buf_puts(out, f->trouble->message); }
static void say_sectors(const struct cause_facts *f, struct buf *out)
{
    buf_printf(out, "%s; zero bytes stand there in the copy, all else is replicated, and the recovery points are marked", f->status->unreadable);
}

/* Since the first of them. */
static void say_missing(const struct cause_facts *f, struct buf *out)
{
    int64_t since_us = INT64_MAX;
    int told = 0, more = 0;

    buf_puts(out, "disks that it had are not there any more");
    for (int i = 0; i < f->missing->count; i++) {
        const struct missing_disk *d = &f->missing->disks[i];

        if (d->accepted)
            continue;
        since_us = d->since_us < since_us ? d->since_us : since_us;
        if (told == MISSING_TOLD) {
            more++;
            continue;
        }
        buf_printf(out, "%s%s (", told++ ? ", " : ": ", d->id);
        words_bytes(out, (double)d->size_bytes);
        buf_puts(out, ")");
    }
    if (more)
        buf_printf(out, " and %d more", more);
    say_since(out, ", since ", since_us);
    buf_puts(out, "; the recovery points since then are without them");
}

static void say_note(const struct cause_facts *f, struct buf *out) { buf_puts(out, f->status->note); }
static void say_detached(const struct cause_facts *f, struct buf *out)
{
    (void)f;
    buf_puts(out, "replication was ended on purpose");
}

static void say_rivals(const struct cause_facts *f, struct buf *out)
{
    buf_printf(out, "two agents use this server's name and take its connection from each other (%s and %s, %d times in the last minute)",
               f->rivals[0], f->rivals[1], f->takeovers);
}

static void say_refused(const struct cause_facts *f, struct buf *out)
{
    buf_printf(out, "another machine's agent uses this server's name and is refused, from %s: the one that is connected, from %s, came first", f->refused, f->rivals[1]);
}

static void say_turned_away(const struct cause_facts *f, struct buf *out) { buf_printf(out, "its agent is turned away: %s", f->turned_away->message); }

static void say_stands(const struct cause_facts *f, struct buf *out) { buf_printf(out, "its agent is there, and can't replicate: %s", f->stands->message); }

static void say_stopped(const struct cause_facts *f, struct buf *out)
{
    buf_puts(out, "the agent was stopped on the source");
    say_since(out, ", at ", f->since_us);
}

static void say_away(const struct cause_facts *f, struct buf *out)
{
    buf_puts(out, "the agent is not connected");
    say_since(out, ", since ", f->since_us);
}

static void say_paused(const struct cause_facts *f, struct buf *out)
{
    buf_puts(out, "replication is paused");
    if (f->paused_by[0])
        buf_printf(out, " by %s", f->paused_by);
    say_since(out, ", since ", f->paused_us);
    if (f->connected && f->status->backlog_bytes) {
        buf_puts(out, "; ");
        words_bytes(out, (double)f->status->backlog_bytes);
        buf_puts(out, " of changes wait on the source");
    }
}

static void say_paused_by_calendar(const struct cause_facts *f, struct buf *out)
{
    buf_puts(out, "the calendar of its bandwidth, its wave's or the site's pauses it now");
    if (f->connected && f->status->backlog_bytes) {
        buf_puts(out, "; ");
        words_bytes(out, (double)f->status->backlog_bytes);
        buf_puts(out, " of changes wait on the source");
    }
}

static void say_settings(const struct cause_facts *f, struct buf *out)
{
    buf_printf(out, "what was set for its replication last can't be taken, so what held before goes on: %s", f->settings_trouble->message);
}

static void say_held(const struct cause_facts *f, struct buf *out)
{
    (void)f;
    buf_puts(out, "the source is held still at its newest point: its programs wait to write");
}

/* "12.0 Mbit/s are changed, 8.0 Mbit/s get there": what every cause of being behind begins with. */
static void say_race(const struct cause_facts *f, struct buf *out)
{
    const struct wire_status *s = f->status;

    words_bytes(out, (double)s->backlog_bytes);
    buf_puts(out, " of changes wait; ");
    if (s->churn_bytes_per_s >= 0)
        words_rate(out, (double)s->churn_bytes_per_s);
    else
        buf_puts(out, "an unknown amount");
    buf_puts(out, " are written anew, ");
    if (s->rate_bytes_per_s >= 0)
        words_rate(out, (double)s->rate_bytes_per_s);
    else
        buf_puts(out, "an unknown amount");
    buf_puts(out, " get across");
}

static void say_limit(const struct cause_facts *f, struct buf *out)
{
    if (!f->status->limit_bytes_per_s)
        return;
    buf_puts(out, " the limit of ");
    words_rate(out, (double)f->status->limit_bytes_per_s);
    buf_puts(out, f->status->limit_bytes_per_s == f->limit_said_bytes_per_s ? " (bandwidth, set in Slipway)"
                                                                            : " (bytes_per_s in the agent's own settings)");
}

static void say_limited_by(const struct cause_facts *f, struct buf *out)
{
    buf_puts(out, ", held up by");
    if (!f->status->limit_bytes_per_s)
        buf_puts(out, " a limit on reading the source's disks, or on its processors (read_bytes_per_s, cpu_percent)");
    say_limit(f, out);
}

static void say_limited(const struct cause_facts *f, struct buf *out)
{
    say_race(f, out);
    say_limited_by(f, out);
}

static void say_link(const struct cause_facts *f, struct buf *out)
{
    say_race(f, out);
    buf_puts(out, ", held up by the link");
    buf_puts(out, f->status->limit_bytes_per_s ? ", not by" : "; no limit is in force");
    say_limit(f, out);
}

static void say_back_off(const struct cause_facts *f, struct buf *out)
{
    buf_printf(out, ": the agent reads no more than ");
    words_rate(out, (double)f->status->backoff_bytes_per_s);
    buf_printf(out, ", for an I/O of the source's own takes %lld us, and %lld us without it", (long long)f->status->source_latency_us,
               (long long)f->status->source_latency_without_us);
}

static void say_source(const struct cause_facts *f, struct buf *out)
{
    say_race(f, out);
    buf_puts(out, ", held up by reading the source's disks, or by its processors");
    if (f->status->backoff_bytes_per_s)
        say_back_off(f, out);
}

static void say_replicator(const struct cause_facts *f, struct buf *out)
{
    say_race(f, out);
    buf_puts(out, ", held up by the replicator, which does not store faster");
}

static void say_behind(const struct cause_facts *f, struct buf *out)
{
    const char *found = cause_bottleneck(f);

    say_race(f, out);
    if (found && strcmp(found, "limit") == 0)
        say_limited_by(f, out);
    else if (found)
        buf_printf(out, ", held up by the %s", found);
    if (f->status->eta_ms >= 0) {
        buf_puts(out, "; it has caught up in ");
        words_duration(out, (double)f->status->eta_ms);
    }
}

static void say_moving(const struct cause_facts *f, struct buf *out)
{
    buf_printf(out, "its agent goes to the replicator %s, by order of the factory", f->moved_to);
}

static void say_point(const struct cause_facts *f, struct buf *out)
{
    buf_printf(out, "no recovery point could be taken: %s", f->point_trouble->message);
    say_since(out, "; the newest is of ", f->newest_at_us);
}

static void say_apart(const struct cause_facts *f, struct buf *out)
{
    buf_printf(out, "its points are its own now, not of one instant with the other servers of %s: %s", f->group, f->group_trouble->message);
}

static void say_copy_stands(const struct cause_facts *f, struct buf *out)
{
    buf_printf(out, "its second copy at %s does not go on: %s", f->copied_to, f->copy_trouble->message);
    say_since(out, ", since ", f->copy_trouble_us);
}

static void say_copy_behind(const struct cause_facts *f, struct buf *out)
{
    buf_printf(out, "the newest point of its second copy at %s is older than the newest one by ", f->copied_to);
    words_duration(out, (double)(f->copy_lag_us / US_PER_MS));
}

/* What is done, and when it is over. */
static void say_reading(const struct cause_facts *f, struct buf *out)
{
    const struct wire_status *s = f->status;

    buf_puts(out, *s->note_kind ? s->note : "not all of its disks has reached the replicator");
    buf_puts(out, "; ");
    words_bytes(out, (double)s->bytes_done);
    buf_puts(out, " of ");
    words_bytes(out, (double)s->bytes_total);
    buf_puts(out, " are read and compared");
    if (s->eta_ms < 0) {
        buf_puts(out, ", and nobody can say yet when it is over");
        return;
    }
    buf_puts(out, ", and it is over in ");
    words_duration(out, (double)s->eta_ms);
}

static void say_old(const struct cause_facts *f, struct buf *out)
{
    const char *state = f->status->state;

    say_since(out, "its newest recovery point is of ", f->newest_at_us);
    buf_puts(out, ", ");
    words_duration(out, (double)(llabs(f->now_us - f->newest_at_us) / US_PER_MS));
    buf_puts(out, f->now_us < f->newest_at_us ? " ahead of the replicator's clock, which was set back: " : " ago: ");
    if (is_behind(f))
        say_behind(f, out);
    else if (strcmp(state, "RESCAN") == 0 || strcmp(state, "INITIAL_SYNC") == 0)
        say_reading(f, out);
    else
        buf_puts(out, "none has come about since");
}

static void say_rescanned(const struct cause_facts *f, struct buf *out)
{
    buf_printf(out, "changes can't be followed on this source (%s), so all of its disks (", f->status->tracker_reason);
    words_bytes(out, (double)f->status->bytes_total);
    buf_printf(out, ") are read and compared every %lld s", (long long)f->status->rescan_interval_s);
    if (f->status->scan_ms) {
        buf_puts(out, ", which took ");
        words_duration(out, (double)f->status->scan_ms);
        buf_puts(out, " the last time");
    }
    buf_puts(out, "; a recovery point holds the source still for as long: ");
    if (!f->rescan_freeze_us)
        buf_puts(out, "none is taken but for a cutover");
    else if (comes_by_itself(f))
        buf_printf(out, "one is taken every %lld s", (long long)(f->rescan_points_us / US_PER_S));
    else
        buf_puts(out, "one is taken only where somebody asks for it");
    say_since(out, "; the newest is of ", f->newest_at_us);
    if (point_failed(f))
        buf_printf(out, "; the last that was wanted: %s", f->point_trouble->message);
}

/* ---- the table ---- */

/* The first that holds is the cause. */
static const struct cause {
    const char *kind, *severity;
    bool (*holds)(const struct cause_facts *f);
    void (*say)(const struct cause_facts *f, struct buf *out);
    const char *advice;
} causes[] = {
    {"detached", "info", is_detached, say_detached,
     "nothing; to replicate it again, remove /etc/slipway-agent/detached on the source and start slipway-agent"},
    {"same_name", "error", has_rivals, say_rivals,
     "stop slipway-agent on the one that is not this server (a clone of its disks has its certificate, too), and push the agent there "
     "under a name of its own"},
    {"source_unreadable", "error", is_unreadable, say_agent_error,
     "look at that disk on the source (dmesg, smartctl -a); replication goes on by itself once it can be read. No point is made without it"},
    {"certificate_refused", "error", was_turned_away, say_turned_away,
     "push the agent again (slipway server push SERVER), which gives it another certificate; check both clocks where one is said to be out of its time. Where the "
     "certificate was revoked because it got into other hands, somebody may be using it"},
    {"moving", "info", is_moving, say_moving, "nothing: its points stay here until there is one at the other replicator, and after that for their retention"},
    {"agent_stands", "error", stands, say_stands,
     "do what that says, on the source or in the server's attributes (those come to it with slipway server push SERVER); the agent tries again by itself. Its log tells more: "
     "journalctl -u slipway-agent"},
    {"agent_stopped", "error", is_stopped, say_stopped,
     "start it on the source: systemctl start slipway-agent. After a reboot it starts by itself"},
    {"agent_away", "error", is_away, say_away,
     "check that the source runs, that slipway-agent.service is active there (journalctl -u slipway-agent), and that it reaches this "
     "replicator's address and port"},
    {"replicator_full", "error", is_full, say_trouble,
     "make room on the replicator's disk, or drop points and servers that are not needed; replication goes on by itself"},
    {"replicator_trouble", "error", has_trouble, say_trouble,
     "look at the replicator's log; replication goes on by itself once the reason is gone"},
    {"agent_trouble", "error", has_agent_trouble, say_agent_error,
     "look at the agent's log on the source: journalctl -u slipway-agent"},
    {"disk_missing", "error", lacks_disks, say_missing,
     "bring it back (lsblk and dmesg on the source say what became of it): points have it again then. Where it was meant to go, say so on the replicator's machine: slipway replication "
     "accept SERVER. Until then the server is neither verified nor cut over; the points from before have the disk, for their retention"},
    {"sectors_unreadable", "error", lacks_sectors, say_sectors,
     "look at that disk on the source (dmesg, smartctl -a), and write what lay there anew, or replace the disk: the mark goes once they can be read. Until then "
     "nothing is launched from such a point, unless the server's attribute accept_unreadable says why it may"},
    {"paused", "warning", is_paused, say_paused,
     "resume it when what it was paused for is over; changes are marked meanwhile, and nothing is lost"},
    {"calendar_pause", "info", is_paused_by_calendar, say_paused_by_calendar,
     "nothing, where that is as it was meant; `slipway server show` says which settings hold, and who set them"},
    {"limit_too_low", "error", is_limited, say_limited,
     "raise the limit above what is written, or lift it outside of business hours; else write less on the source, or it never catches up"},
    {"source_too_slow", "error", source_is_slow, say_source,
     "look at the load of the source's disks and processors (iostat -x, top); raise read_bytes_per_s where the agent has such a limit"},
    {"replicator_too_slow", "error", replicator_is_slow, say_replicator,
     "look at the load of the replicator's disk and processors; give it a faster disk, or bring fewer servers to it at a time"},
    {"link_too_slow", "error", is_never, say_link,
     "give it more bandwidth (another path, fewer servers at a time), or replicate and cut over outside of busy hours; else write less on "
     "the source"},
    {"no_point", "error", rescanned_fails_long, say_point,
     "the source stands still for a point for as long as reading all of its disks takes: set rescan_freeze_s to more than that, or quiet its writers; else look into the agent's log"},
    {"no_point", "error", points_fail_long, say_point,
     "where the source never rests, give a longer freeze_budget_ms, or quiet its writers for a moment; else look into the agent's log"},
    {"point_old", "error", point_is_old, say_old,
     "nothing, where the time fits: points come again by themselves once everything is there. Until then only that moment can be launched, and a cutover waits. More bandwidth, or a "
     "higher read_rate, makes it shorter; where nothing moves, look into the agent's log"},
    {"clone_refused", "warning", was_refused, say_refused,
     "stop slipway-agent on the one that is not this server (a clone of its disks has its certificate, too), and push the agent there under a name of its own. Where "
     "the wrong one is connected, stopping it is enough: the other one gets its place within 15 s"},
    {"catching_up", "warning", is_behind, say_behind,
     "nothing, where the time fits; more bandwidth, or less writing on the source, makes it shorter"},
    {"settings_refused", "warning", settings_are_refused, say_settings,
     "set it again so that this replicator can read it; a time zone must be known on its machine (tzdata)"},
    {"marks_lost", "warning", marks_were_lost, say_note,
     "nothing: what is equal is not sent again. Where it comes again and again, `slipway-agent facts` and the agent's log tell more"},
    {"state_lost", "warning", state_was_lost, say_note,
     "nothing: all is read and compared, and what is equal is not sent again; look into the replicator's log for what happened to its "
     "vault"},
    {"disks_changed", "warning", disks_changed, say_note,
     "nothing for replication: what is new is read, and points hold the disks as they are now. Check the launch settings where the machine's "
     "disks were meant to stay"},
    {"agent_restarted", "info", agent_was_restarted, say_note,
     "nothing: all is read and compared, and what is equal is not sent again"},
    {"point_failed", "warning", tracked_failed, say_point,
     "nothing yet: it is tried again; where it stays, give a longer freeze_budget_ms, or quiet the source's writers for a moment"},
    {"group_apart", "warning", is_apart, say_apart,
     "look at that server's own cause; once all of them can, their points are taken together again by themselves. Servers on several replicators "
     "are brought to one (slipway server move SERVER --to NAME). A server that is never to come takes group_points none, or is dropped"},
    {"copy_stalled", "warning", copy_stands, say_copy_stands,
     "look at that replicator: that it runs, can be reached from this one, and has room; the copy goes on by itself. Replication to this one is not touched by it"},
    {"copy_behind", "warning", copy_is_behind, say_copy_behind,
     "nothing, where it gets less; else raise copy_rate, give the two replicators a faster link or disk, or take points less often (point_interval_s): of those that "
     "come faster than they are copied, only the newest are"},
    {"held", "info", is_held, say_held,
     "nothing: it is let go after the comparison, by a thaw, or by the agent itself after its limit (30 minutes)"},
    {"not_tracked", "warning", has_few_points, say_rescanned,
     "say in the setting rescan_freeze_s for how long the source may stand still: then a point can be verified and launched, and rescan_points_s takes one by itself now and then. A "
     "cutover needs neither. A kernel from 4.18 on with BPF and tracefs, not locked down, follows changes, and its points cost nothing"},
    {"not_tracked", "info", is_rescanned, say_rescanned,
     "nothing, where that is as it was meant. A kernel from 4.18 on with BPF and tracefs, not locked down, follows changes, and its points cost nothing"},
};

const char *cause_bottleneck(const struct cause_facts *f)
{
    const char *said = f->status->bottleneck;

    if (!f->connected || !said[0])
        return NULL;
    /* What the agent takes for the link is our not reading from it, where we are busy all the time. */
    return f->busy && strcmp(said, "link") == 0 ? "replicator" : said;
}

json_t *cause_json(const struct cause_facts *f)
{
    CLEANUP(buf_release) struct buf text = {0};

    buf_init(&text, 2048);
    for (size_t i = 0; i < ARRAY_COUNT(causes); i++) {
        const struct cause *c = &causes[i];

        if (!c->holds(f))
            continue;
        c->say(f, &text);
        return json_pack("{s:s, s:s, s:s, s:s}", "kind", c->kind, "severity", c->severity, "text", text.data, "advice", c->advice);
    }
    return json_null();
}
