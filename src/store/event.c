#include "store/event.h"

#include "base/limits.h"
#include "store/backend.h"

int event_add(struct store_tx *tx, const struct event *what, int64_t now_us, struct err *e)
{
    int64_t id;
    int rc;

    MUST(what->actor && what->kind && what->entity && what->entity_id);
    rc = store_one_int(tx, &id, e,
                       "INSERT INTO event (at_us, actor, kind, wave, entity, entity_id, data) VALUES ($1, $2, $3, $4, $5, $6, $7)"
                       " RETURNING id",
                       "issssss", now_us, what->actor, what->kind, what->wave, what->entity, what->entity_id,
                       what->data ? what->data : "{}");
    if (rc <= 0)
        return rc < 0 ? err_wrap(e, "writing the event %s", what->kind) : err_set(e, ERR_INTERNAL, "the event got no id");
    store_note_event(tx, id);
    return 0;
}

int event_read(struct store_tx *tx, int64_t after_id, const char *wave, int limit,
               int (*row)(void *user, const struct event *what), void *user, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int count = 0, rc;

    rc = wave ? store_query(tx, &rows, e,
                            "SELECT id, at_us, actor, kind, wave, entity, entity_id, data FROM event"
                            " WHERE wave = $1 AND id > $2 ORDER BY id LIMIT $3",
                            "sii", wave, after_id, (int64_t)limit)
              : store_query(tx, &rows, e,
                            "SELECT id, at_us, actor, kind, wave, entity, entity_id, data FROM event"
                            " WHERE id > $1 ORDER BY id LIMIT $2",
                            "ii", after_id, (int64_t)limit);
    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        struct event found = {store_int(rows, 0), store_int(rows, 1), store_text(rows, 2), store_text(rows, 3),
                              store_text(rows, 4), store_text(rows, 5), store_text(rows, 6), store_text(rows, 7)};

        count++;
        if (row(user, &found) != 0) /* the caller has enough */
            break;
    }
    return rc < 0 ? -1 : count;
}

int64_t event_last_id(struct store_tx *tx, struct err *e)
{
    int64_t id = 0;

    return store_one_int(tx, &id, e, "SELECT MAX(id) FROM event", "") < 0 ? -1 : id;
}

bool event_wait(struct store *s, int64_t after_id, int timeout_ms)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t last;

    if (store_event_passed(s, after_id, 0))
        return true;
    /* Another process may have written since; what this one commits from here on is signalled. */
    if (store_begin(s, STORE_READ, &tx, NULL) < 0 || (last = event_last_id(tx, NULL)) < 0)
        return store_event_passed(s, after_id, timeout_ms);
    store_rollback(&tx);
    store_event_seen(s, last);
    return store_event_passed(s, after_id, timeout_ms);
}
