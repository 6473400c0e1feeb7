/* facts: reads what scripts/facts.sh printed on a source machine. The text comes from outside: whatever it is, it is either taken or
 * refused, and bounded. */
#pragma once

#include "base/json.h"

#define FACTS_LINES_MOST 4096
#define FACTS_LIST_MOST 512 /* of any one list */

/* facts: the object of docs/architecture.md, without clock_skew_ms. seen: the rest, for the checks:
 * {now_us,uid,memory_available_bytes,machine_uuid,systemd,missing:[…],free:{path:bytes},layout:[…],network_managers:[…],
 *  services:{unit:{load,active}},lockdown,tracefs,btf,bpf,selinux,secure_boot,agent,agent_active,replicator,parking,mount_options:{path:text}}.
 * ERR_PROTOCOL: not what the script prints, or cut off (its last line is "end"). The caller owns both. */
int facts_parse(const char *text, size_t size, json_t **facts, json_t **seen, struct err *e);
/* The interface of the facts that has the address (without its prefix), or NULL; borrowed. cidr: the address as it stands there. */
const json_t *facts_nic_of(const json_t *facts, const char *address, const char **cidr);
