/* What `slipway login` keeps, and how it makes its first requests: without a token. */
#pragma once

#include "cli/cli_private.h"

struct cli_kept {
    char *url, *token, *token_id, *ca_file; /* NULL where nothing was kept */
};
void cli_kept_release(struct cli_kept *kept); /* for CLEANUP; wipes the token */
/* Reads the credentials file; a file that is missing is fine. ERR_DENIED where others may read it. */
int cli_kept_read(struct cli_kept *out, struct err *e);
int cli_kept_write(const struct cli_kept *kept, struct err *e);
int cli_kept_remove(struct err *e);
/* $XDG_CONFIG_HOME/slipway/NAME; the caller frees. ERR_INVALID where neither that nor HOME is set. */
int cli_kept_path(const char *name, char **out, struct err *e);

/* The client, and "https://HOST:PORT" without a slash at its end. */
int cli_link_open(struct cli_call *call, struct http_client **client, const char **url, struct err *e);
