/* agent: the end of replication on the source machine: reads whole disks, follows their changes, sends them to a replicator, and
 * takes recovery points. docs/agent.md tells how; wire/wire.h what is said. The entry points of `slipway-agent`.
 *
 * It writes nothing on the source's disks but its folder's few files at enrolment, and lines to stderr. */
#pragma once

#include "agent/config.h"

#include <stdatomic.h>

#define AGENT_VERSION "0.1.0"
#define AGENT_RUNTIME_DIR "/run/slipway-agent" /* a tmpfs: stays writable while the disks' filesystems are frozen */

/* Runs until *stop (thaws, says BYE, 0), or until the replicator detaches it (0), or until it can't go on (-1). Logs. */
int agent_run(const struct agent_config *c, const atomic_bool *stop, struct err *e);

/* Makes folder/key.pem (0600) where there is none, and a certificate request for agent:SERVER. The caller releases *csr_pem. */
int agent_csr(const char *folder, const char *server, struct buf *csr_pem, struct err *e);
/* pem: the agent's certificate, then the CA's. Both are checked against the key, then written to folder/cert.pem and folder/ca.pem. */
int agent_install_certificate(const char *folder, const char *pem, struct err *e);
/* Ends the tracker that an agent left there for the next one. 0 where there is none, too. */
int agent_forget_tracker(const char *tracker_dir, struct err *e);
/* Thaws what an agent that was killed left frozen (AGENT_RUNTIME_DIR/frozen names it). The count of filesystems thawed. */
int agent_thaw_left(const char *runtime_dir);
/* The same, and runs the owner's program that was to run after it. Logs. No agent may run. */
void agent_let_go(const struct agent_config *c);
