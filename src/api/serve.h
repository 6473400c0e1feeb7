/* serve: `slipway serve` and `slipway restore`. */
#pragma once

struct err;

/* argv[0] is "serve". Runs until SIGTERM or SIGINT; returns the exit code. */
int serve_main(int argc, char **argv);
/* argv[0] is "restore". Puts a backup in a data folder's place; what was there is kept beside it. */
int restore_main(int argc, char **argv);
/* After data_lock, before data_open: a restore that was cut short is finished. ERR_WRONG_STATE, saying what to do, where a database was and is
 * none: nobody begins an empty factory beside the old one. */
int restore_settle(const char *data, struct err *e);
