/* report_svg: the wave's timeline, drawn. */
#include "workflow/report_html.h"

#include "base/clock.h"

#include <string.h>

#define LEFT 140
#define WIDTH 820
#define LANE 26
#define BAR 16
#define TOP 30
#define LANES_MOST 200
#define TICKS 6

struct scale {
    int64_t from_us, to_us;
};

static int64_t time_of(const json_t *object, const char *member, int64_t otherwise)
{
    int64_t at;

    return clock_parse(json_get_string(object, member, ""), &at, NULL) < 0 ? otherwise : at;
}

static double at_x(const struct scale *s, int64_t at_us)
{
    double share = (double)(at_us - s->from_us) / (double)(s->to_us - s->from_us);

    return LEFT + WIDTH * (share < 0 ? 0 : share > 1 ? 1 : share);
}

/* Time that passed waiting for a person, a window or a hold is drawn pale. */
static void bar(struct buf *out, const struct scale *s, const json_t *task, int lane, const char *phase)
{
    int64_t started = time_of(task, "started", 0), finished = time_of(task, "finished", s->to_us);
    double x, width;

    if (!started)
        return;
    x = at_x(s, started);
    width = at_x(s, finished) - x;
    buf_printf(out, "<rect class=\"%s%s\" x=%.1f y=%d width=%.1f height=%d rx=2><title>", phase,
               json_get_string(task, "step", NULL) ? "" : " idle", x, TOP + lane * LANE + (LANE - BAR) / 2, width < 2 ? 2.0 : width, BAR);
    html_text(out, json_get_string(task, "title", ""));
    buf_puts(out, ": ");
    html_text(out, json_get_string(task, "started", ""));
    buf_printf(out, ", %.1f s</title></rect>", (double)(finished - started) / US_PER_S);
}

static void lane_name(struct buf *out, int lane, const char *name)
{
    int y = TOP + lane * LANE;

    buf_printf(out, "<line class=grid x1=%d x2=%d y1=%d y2=%d /><text x=%d y=%d text-anchor=end>", LEFT, LEFT + WIDTH, y + LANE, y + LANE,
               LEFT - 10, y + LANE / 2 + 4);
    html_text(out, name);
    buf_puts(out, "</text>");
}

static void lane_bars(struct buf *out, const struct scale *s, const json_t *r, int lane, const char *server)
{
    size_t i, k;
    json_t *task, *back;

    json_array_foreach(json_object_get(r, "tasks"), i, task)
        if (strcmp(json_get_string(task, "server", ""), server) == 0)
            bar(out, s, task, lane, json_get_string(task, "phase", "build"));
    json_array_foreach(json_object_get(r, "ways_back"), i, back)
        if (strcmp(json_get_string(back, "server", ""), server) == 0)
            json_array_foreach(json_object_get(back, "tasks"), k, task)
                bar(out, s, task, lane, "back");
}

static void ticks(struct buf *out, const struct scale *s, int height)
{
    bool days = s->to_us - s->from_us > 2 * 86400 * US_PER_S;

    for (int i = 0; i <= TICKS; i++) {
        int64_t at = s->from_us + (s->to_us - s->from_us) / TICKS * i;
        char text[CLOCK_TEXT_SIZE];
        int x = LEFT + WIDTH * i / TICKS;

        clock_format(at, text);
        buf_printf(out, "<line class=grid x1=%d x2=%d y1=%d y2=%d /><text class=soft x=%d y=%d text-anchor=%s>%.*s</text>", x, x, TOP - 6,
                   height, x, TOP - 12, i == 0 ? "start" : i == TICKS ? "end" : "middle", days ? 10 : 8, days ? text : text + 11);
    }
}

static void legend(struct buf *out, int y)
{
    static const char *const phases[] = {"build", "validate", "cutover", "post", "back"};
    static const char *const names[] = {"build", "validate", "cutover", "after", "way back"};

    for (int i = 0; i < 5; i++)
        buf_printf(out, "<rect class=%s x=%d y=%d width=12 height=12 rx=2 /><text class=soft x=%d y=%d>%s</text>", phases[i], LEFT + i * 110, y,
                   LEFT + i * 110 + 18, y + 10, names[i]);
    buf_printf(out, "<text class=soft x=%d y=%d>pale: waiting</text>", LEFT + 5 * 110, y + 10);
}

void report_svg(struct buf *out, const json_t *r)
{
    struct scale s = {time_of(r, "started", 0), time_of(r, "finished", 0)};
    const json_t *servers = json_object_get(r, "servers");
    int lanes = 1 + (int)json_array_size(servers), height;
    size_t i;
    json_t *server;

    if (s.to_us <= s.from_us)
        s.to_us = s.from_us + US_PER_S;
    if (lanes > LANES_MOST)
        lanes = LANES_MOST;
    height = TOP + lanes * LANE;
    buf_printf(out, "<svg viewBox=\"0 0 %d %d\" width=%d role=img aria-labelledby=svgt><title id=svgt>Timeline of the wave: each server's tasks"
                    " from its start to its end; the table below has the stages in figures</title>",
               LEFT + WIDTH + 20, height + 30, LEFT + WIDTH + 20);
    ticks(out, &s, height);
    lane_name(out, 0, "wave");
    lane_bars(out, &s, r, 0, "");
    json_array_foreach(servers, i, server) {
        if ((int)i + 1 >= lanes)
            break;
        lane_name(out, (int)i + 1, json_get_string(server, "name", "?"));
        lane_bars(out, &s, r, (int)i + 1, json_get_string(server, "name", "?"));
    }
    legend(out, height + 10);
    buf_puts(out, "</svg>");
}
