/* source: what the steps at a source machine share: reaching it as the task document says, and running the scripts there. */
#pragma once

#include "remote/remote.h"
#include "steps/step.h"

enum source_at {
    SOURCE_SERVING, /* at server.address: it serves, or should */
    SOURCE_PARKED,  /* at its parking address: its own is the copy's now, and must not be touched */
};

/* Opens the connection with the task's credential. The host key must be the pinned one: of the credential, or that which
 * `prerequisites` pinned. accept_unknown: a key that is not known is taken (the caller keeps remote_host_key). */
int source_open(const struct step *s, enum source_at where, bool accept_unknown, struct remote **out, struct err *e);
/* Whether a machine answers at the address (NULL: the parking address), seen from where the source is reached: 1: it does, a refusal, too; 0: nothing
 * came back, *why says how; -1: that could not be asked, or the address is the runner's own. */
int source_answers(const struct step *s, const char *address, int timeout_ms, struct err *why);
/* The same login over a connection that stands already (taken over in any case), to a copy: it must show the source's pinned host key. */
int source_open_fd(const struct step *s, int fd, const char *address, struct remote **out, struct err *e);
/* The attribute parking_address without its prefix into out; ERR_INVALID where there is none or it is no CIDR of IPv4. */
int source_parking(const struct step *s, char *out, size_t size, const char **cidr, struct err *e);
/* The attribute services, with blanks between, each checked to be a unit's name; the caller frees. */
int source_services(const struct step *s, char **out, struct err *e);

/* Runs one of steps/scripts with arguments as root. out may be NULL. Anything but exit status 0 is an error with what it said. */
int source_script(struct remote *r, const char *script, const char *const *arguments, struct buf *out, int timeout_ms, struct err *e);
/* The outcome lines of a script ("ok NAME<TAB>TEXT", "not ok NAME<TAB>TEXT") as evidence; the count that did not hold. */
int source_evidence(struct step *s, const char *text);
/* Both: 0 where all lines hold, and there is one; else what did not is the error. out: what was said; NULL. */
int source_phase(struct step *s, struct remote *r, const char *script, const char *const *arguments, int timeout_ms, struct buf *out, struct err *e);
/* Takes back what quiesce did, wherever the source is: the work of restore_source (which has it), and quiesce's undo. */
int source_take_back(struct step *s, struct err *e);
