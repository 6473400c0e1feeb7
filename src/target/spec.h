/* spec: what is asked for to be launched: checked, kept as JSON, read back. Used by providers. */
#pragma once

#include "target/target.h"

#define SPEC_NAME_LIMIT 40

/* An IPv4 address with its network: 192.0.2.11/24. */
struct spec_cidr {
    uint32_t address; /* host byte order */
    int prefix;
};

/* Where an export is. */
struct spec_nbd {
    char export_name[256];
    char socket_path[108]; /* "" where it is host and port */
    char host[256];
    int port;
};

int spec_cidr_parse(const char *text, struct spec_cidr *out, struct err *e);
int spec_address_parse(const char *text, uint32_t *out, struct err *e);
/* Whether the address lies in the network of cidr. */
bool spec_cidr_holds(const struct spec_cidr *cidr, uint32_t address);
/* nbd+unix:///NAME?socket=/path and nbd://host:port/NAME (the NBD URI specification); percent-encoding is undone. */
int spec_nbd_parse(const char *uri, struct spec_nbd *out, struct err *e);
/* Whether name is [a-z0-9-]{1,40}, starting with a letter or digit: it becomes part of paths. */
bool spec_name_is_good(const char *name);

/* Every fault of the spec, as lines (target_line) that did not pass; 0 where there is none. Returns their count. */
int spec_faults(const struct target_spec *spec, json_t *lines);
/* The same as one error: ERR_INVALID with all the faults. */
int spec_check(const struct target_spec *spec, struct err *e);

/* overlay_path is not kept: it is a way to launch, not what is launched. */
json_t *spec_to_json(const struct target_spec *spec);
/* Strings live in the arena. */
int spec_from_json(const json_t *j, struct arena *a, struct target_spec *out, struct err *e);
