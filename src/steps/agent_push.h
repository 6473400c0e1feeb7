/* agent_push: what the steps share that bring an agent to a machine: the program, its settings, its identity. */
#pragma once

#include "remote/remote.h"
#include "steps/step.h"

/* The text after "KEY<TAB>" on a line of its own, or ""; the caller frees. */
char *agent_push_told(const struct buf *out, const char *key);
/* The program of the machine's architecture at `path` there, unless it is that one already: by the script's phase `look` (its lines "arch", "sha256"). */
int agent_push_program(struct step *s, struct remote *r, const char *script, const char *path, struct err *e);
/* Its settings, under that name, from the task document; the caller's. NULL: e says what is missing. */
json_t *agent_push_config(const struct step *s, const char *name, struct err *e);
/* The factory signs the request, with the document's one-time token; `command` there takes certificate and CA from its stdin. */
int agent_push_identity(struct step *s, struct remote *r, const char *csr, const char *command, struct err *e);
