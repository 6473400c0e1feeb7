/* action: what an operator asks for by name of wave or server; each refused, and remembered as refused, where the state doesn't allow it. */
#include "workflow/engine.h"

#include <stdlib.h>
#include <string.h>

int refuse(struct workflow *w, const char *what, const char *wave, const char *server, const char *actor, struct err *why)
{
    CLEANUP(change_release) struct change c = {0};
    CLEANUP(json_free) json_t *data = json_pack("{s:s, s:s}", "what", what, "reason", why->message);
    CLEANUP(free_ptr) char *text = json_text(data);

    /* The refusal stands even where it can't be written down. */
    if (change_begin(w, actor, &c, NULL) == 0
        && event_add(c.tx,
                     &(struct event){.actor = actor, .kind = "refused", .wave = wave, .entity = server ? "server" : "wave",
                                     .entity_id = server ? server : wave ? wave : "", .data = text},
                     c.now_us, NULL) == 0)
        change_commit(&c, NULL);
    return -1;
}

/* The server's wave run: the newest that has tasks of it. */
static int run_of_server(struct change *c, const char *server, struct run *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    const json_t *found;
    int rc;

    if (change_server(c, server, &found, e) < 0
        || store_query(c->tx, &rows, e,
                       "SELECT r.id FROM run r WHERE r.template = 'wave_migration' AND EXISTS (SELECT 1 FROM task t WHERE t.run = r.id AND"
                       " t.server = $1) ORDER BY r.number DESC LIMIT 1",
                       "s", server) < 0
        || (rc = store_next(rows, e)) < 0)
        return -1;
    if (rc == 0)
        return err_set(e, ERR_WRONG_STATE, "server %s is in no wave that was started", server);
    rc = run_load(c->tx, c->arena, store_text(rows, 0), out, e);
    return rc <= 0 ? -1 : 0;
}

int action_task(struct change *c, const char *server, const char *name, struct run *r, struct task *out, struct err *e)
{
    int rc;

    if (run_of_server(c, server, r, e) < 0 || (rc = task_find(c->tx, c->arena, r->id, server, name, out, e)) < 0)
        return -1;
    if (rc == 0)
        return err_set(e, ERR_WRONG_STATE, "server %s was not taken back: its cutover is its wave's (slipway wave cutover %s)", server,
                       r->wave);
    return 0;
}

/* ---- The wave ---- */

/* Which server keeps the wave from its window, and where it stands. */
static int not_ready(struct change *c, const struct run *r, struct err *e)
{
    struct task *list;
    int count = task_list_all(c->tx, c->arena, r->id, &list, e), missing = 0;
    const struct task *first = NULL, *stands = NULL;

    for (int i = 0; i < count; i++)
        if (strcmp(list[i].plan->name, "terminate_test") == 0 && !task_done(&list[i])) {
            missing++;
            if (!first)
                first = &list[i];
        }
    for (int i = 0; first && i < count && !stands; i++)
        if (list[i].server && strcmp(list[i].server, first->server) == 0 && !task_done(&list[i]))
            stands = &list[i];
    if (count < 0)
        return -1;
    if (!stands)
        return err_set(e, ERR_WRONG_STATE, "wave %s is not at its cutover yet", r->wave);
    return err_set(e, ERR_WRONG_STATE, "%d server%s of wave %s not ready for cutover: %s stands at \"%s\" (%s)", missing,
                   missing == 1 ? " is" : "s are", r->wave, first->server, stands->plan->title, task_state_name(stands->state));
}

static int cutover_wave(struct change *c, const char *wave, struct err *e)
{
    const struct fleet_wave *found;
    struct obstacle o;
    struct task go;
    struct run r;
    int rc;

    if (change_wave(c, wave, &found, e) < 0 || (rc = run_newest(c->tx, c->arena, wave, &r, e)) < 0)
        return -1;
    if (rc == 0 || strcmp(r.state, "RUNNING") != 0)
        return err_set(e, ERR_WRONG_STATE, "wave %s does not run: start it first", wave);
    if ((rc = settle_window(c, wave, &o, e)) < 0)
        return -1;
    if (rc == 0)
        return err_set(e, ERR_WRONG_STATE, "outside the cutover window: wave %s waits for %s", wave, o.what);
    if (settle(c, r.id, NULL, e) < 0 || task_find(c->tx, c->arena, r.id, NULL, "go_no_go", &go, e) <= 0)
        return -1;
    if (go.state == TASK_PENDING)
        return not_ready(c, &r, e);
    return people_approve(c, &go, "asked for the cutover", e);
}

/* Runs `act` in a transaction; remembers a refusal. */
static int action(struct workflow *w, const char *what, const char *wave, const char *server, const char *actor,
                  int (*act)(struct change *c, const char *name, struct err *e), struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    CLEANUP(free_ptr) char *of_wave = xstrdup(wave);
    struct err why = {0};

    if (change_begin(w, actor, &c, &why) == 0 && act(&c, server ? server : wave, &why) == 0 && change_commit(&c, &why) == 0)
        return 0;
    if (server && c.tx && why.kind == ERR_WRONG_STATE) {
        const json_t *found;

        if (change_server(&c, server, &found, NULL) == 0)
            of_wave = xstrdup(json_get_string(found, "wave", NULL));
    }
    change_release(&c);
    if (why.kind == ERR_WRONG_STATE)
        refuse(w, what, of_wave, server, actor, &why);
    if (e)
        *e = why;
    return -1;
}

int workflow_cutover_wave(struct workflow *w, const char *wave, const char *actor, struct err *e)
{
    return action(w, "cutover", wave, NULL, actor, cutover_wave, e);
}

/* ---- A server ---- */

static int cutover_server(struct change *c, const char *server, struct err *e)
{
    struct task again;
    struct obstacle o;
    struct run r;
    int open;

    if (action_task(c, server, "cut_over_again", &r, &again, e) < 0 || (open = settle_window(c, r.wave, &o, e)) < 0)
        return -1;
    if (!open)
        return err_set(e, ERR_WRONG_STATE, "outside the cutover window: server %s waits for %s", server, o.what);
    return people_approve(c, &again, "asked for the cutover", e);
}

int workflow_server_cutover(struct workflow *w, const char *server, const char *actor, struct err *e)
{
    return action(w, "cutover", NULL, server, actor, cutover_server, e);
}

static int open_server(struct change *c, const char *server, struct err *e)
{
    struct task door;
    struct run r;

    return action_task(c, server, "door", &r, &door, e) < 0 ? -1 : people_approve(c, &door, "asked for the door to open", e);
}

int workflow_server_open(struct workflow *w, const char *server, const char *actor, struct err *e)
{
    return action(w, "open", NULL, server, actor, open_server, e);
}

static int finalize_server(struct change *c, const char *server, struct err *e)
{
    struct task finalize, acceptance;
    struct run r;

    if (action_task(c, server, "acceptance", &r, &acceptance, e) < 0 || action_task(c, server, "finalize", &r, &finalize, e) < 0)
        return -1;
    if (!task_done(&acceptance))
        return err_set(e, ERR_WRONG_STATE, "server %s can't be finalized before it was accepted: \"%s\" is %s", server,
                       acceptance.plan->title, task_state_name(acceptance.state));
    return people_approve(c, &finalize, "asked for finalize", e);
}

int workflow_server_finalize(struct workflow *w, const char *server, const char *actor, struct err *e)
{
    return action(w, "finalize", NULL, server, actor, finalize_server, e);
}

static int decommission_server(struct change *c, const char *server, struct err *e)
{
    struct task finalize, hold, decommission;
    char until[CLOCK_TEXT_SIZE];
    struct run r;

    if (action_task(c, server, "finalize", &r, &finalize, e) < 0 || action_task(c, server, "hold", &r, &hold, e) < 0
        || action_task(c, server, "decommission", &r, &decommission, e) < 0)
        return -1;
    if (!task_done(&finalize))
        return err_set(e, ERR_WRONG_STATE, "server %s can't be decommissioned before it is finalized: \"%s\" is %s", server,
                       finalize.plan->title, task_state_name(finalize.state));
    if (hold.state == TASK_WAITING && settle_task(c, &hold, e) < 0)
        return -1;
    if (!task_done(&hold))
        return err_set(e, ERR_WRONG_STATE, "server %s can't be decommissioned before its hold period ends%s%s", server,
                       hold.wait_until_us ? " at " : "", hold.wait_until_us ? clock_format(hold.wait_until_us, until) : "");
    if (decommission.state == TASK_FAILED)
        return err_set(e, ERR_WRONG_STATE, "decommissioning server %s failed: %s; retry its task", server,
                       decommission.error_message ? decommission.error_message : "no reason was given");
    return settle(c, r.id, server, e);
}

int workflow_server_decommission(struct workflow *w, const char *server, const char *actor, struct err *e)
{
    return action(w, "decommission", NULL, server, actor, decommission_server, e);
}
