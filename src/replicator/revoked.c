/* revoked: certificates that are not to be taken any more, as the factory last said it. That holds until there is another word: over restarts, and while
 * the factory is down. Whose time is over TLS itself refuses. */
#include "base/file.h"
#include "base/log.h"
#include "replicator/private.h"
#include "replicator/session.h"

#include <string.h>

static bool is_agents(const char *name) { return strncmp(name, "agent:", 6) == 0; }

int revoked_check(struct replicator *r, const struct wire_conn *conn, struct err *e)
{
    CLEANUP(free_ptr) char *why = NULL;
    const char *said;

    pthread_mutex_lock(&r->revoked_lock);
    said = json_get_string(json_object_get(r->revoked_said, "certificates"), wire_conn_serial(conn), NULL);
    why = said ? xstrdup(said) : NULL;
    pthread_mutex_unlock(&r->revoked_lock);
    return why ? err_set(e, ERR_UNAUTHENTICATED, "the certificate of %s was revoked: %s", wire_conn_peer(conn), why) : 0;
}

void revoked_note(struct replicator *r, const char *name, const struct err *why)
{
    struct peer *p = is_agents(name) ? peer_find(r, name + strlen("agent:"), false) : NULL;

    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->turned_away = *why;
    p->turned_away_us = clock_now_us();
    pthread_mutex_unlock(&p->lock);
}

/* What is connected with such a certificate is so no longer. */
static void end_sessions(struct replicator *r)
{
    for (struct peer *p = peers_first(r); p; p = p->next) {
        struct err why = {0};

        pthread_mutex_lock(&p->lock);
        if (p->session && revoked_check(r, session_conn(p->session), &why) < 0) {
            p->turned_away = why;
            p->turned_away_us = clock_now_us();
            session_give_way(p->session);
        }
        if (p->copying && revoked_check(r, session_conn(p->copying), &why) < 0)
            session_give_way(p->copying);
        pthread_mutex_unlock(&p->lock);
        if (why.kind)
            log_err(&why, "%s: the connection ends", p->server);
    }
}

static int take(struct replicator *r, const json_t *said, struct err *e)
{
    CLEANUP(free_ptr) char *text = json_text(said);
    int result = file_write(r->revoked_path, text, strlen(text), 0600, e);

    pthread_mutex_lock(&r->revoked_lock);
    json_free(&r->revoked_said);
    r->revoked_said = json_deep_copy(said);
    if (result < 0)
        json_object_del(r->revoked_said, "version"); /* it holds, and is asked for again until it is kept */
    pthread_mutex_unlock(&r->revoked_lock);
    return result < 0 ? err_wrap(e, "keeping the list of revoked certificates") : 0;
}

int revoked_take(struct replicator *r, const json_t *answer, struct err *e)
{
    const json_t *said = json_object_get(answer, "revoked"); /* absent: nothing new */
    int result = json_is_object(said) ? take(r, said, e) : 0;

    end_sessions(r); /* also where nothing is new: one may have been let in just before the last word, and taken its place after it */
    return result;
}

json_t *revoked_version(struct replicator *r)
{
    json_t *version;

    pthread_mutex_lock(&r->revoked_lock);
    version = json_string(json_get_string(r->revoked_said, "version", ""));
    pthread_mutex_unlock(&r->revoked_lock);
    return version;
}

int revoked_load(struct replicator *r, struct err *e)
{
    if (!file_exists(r->revoked_path))
        return 0;
    if (json_read_file(r->revoked_path, &r->revoked_said, e) < 0)
        return err_wrap(e, "the list of revoked certificates: mend or remove the file, the factory says it again");
    return 0;
}
