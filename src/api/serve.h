/* serve: `slipway serve` and `slipway restore`. */
#pragma once

/* argv[0] is "serve". Runs until SIGTERM or SIGINT; returns the exit code. */
int serve_main(int argc, char **argv);
/* argv[0] is "restore". Puts a backup in a data folder's place; what was there is kept beside it. */
int restore_main(int argc, char **argv);
