/* control: a step's conversation with the replicator that it stands beside, over its control socket (docs/architecture.md, "The
 * replicator's control socket"): a JSON line asks, any number of progress lines and one answer come back. */
#pragma once

#include "steps/step.h"

/* Asks `request` (an object with "verb"; its reference is taken) and waits for the answer, at most timeout_ms. Progress lines become
 * the step's progress under `note` (NULL: they are passed over). *answer is the whole "ok" object; the caller frees; may be NULL.
 * ERR_UNREACHABLE: no replicator listens; ERR_TIMEOUT; ERR_CANCELLED when the step was; else the kind and words of its refusal. */
int control_ask(struct step *s, json_t *request, int timeout_ms, const char *note, json_t **answer, struct err *e);

/* The same for what needs the server's agent: where it is not connected (it was restarted, its link was cut, the replicator was), it is waited
 * for, up to five minutes, before that is an error. The request must be one that may be asked again. */
int control_ask_agent(struct step *s, json_t *request, int timeout_ms, const char *note, json_t **answer, struct err *e);

/* Gate: the point (its object as the replicator gives it) holds all of its source. Where the source could not be read somewhere it is refused
 * (ERR_WRONG_STATE), unless the server's attribute accept_unreadable says why it may pass: then evidence says so. */
int control_point_whole(struct step *s, const json_t *point, struct err *e);

/* Gate: all disks that the server had are there (its replication object), or a person has accepted that they are gone. An object that does not say so is refused, too. */
int control_disks_there(struct step *s, const json_t *server, struct err *e);

/* The replication object of the step's server, from the verb "status": a borrowed member of *answer, which the caller frees.
 * ERR_NOT_FOUND where the replicator doesn't know the server: missing is never fine. */
int control_server(struct step *s, json_t **answer, json_t **server, struct err *e);
int control_server_named(struct step *s, const char *name, json_t **answer, json_t **server, struct err *e); /* of another one */
/* Waits, with progress, until that server's agent has sent its disks whole and goes on continuously (initial_sync.c). The object as in control_server. */
int control_wait_continuous(struct step *s, const char *name, json_t **answer, json_t **server, struct err *e);
