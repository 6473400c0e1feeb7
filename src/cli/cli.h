/* cli: the command line client of a day's work, over the factory's HTTPS API. It holds no logic of its own: what is
 * allowed and what follows is the factory's; this room parses words, sends one request or a few, and shows the
 * answer as a table or as JSON. `slipway point` alone is for the machine that holds a vault: it hands over to point/ and to
 * replicator/reach.h.
 *
 * Every command, verb, argument and option is a row of verbs.c; parsing, --help, shell completion and the tests read
 * the same rows.
 *
 * The factory's address: --url, else SLIPWAY_URL, else what `slipway login` kept. The token: SLIPWAY_TOKEN, else
 * what was kept, in $XDG_CONFIG_HOME/slipway/credentials (mode 0600). The factory's CA: --ca, else SLIPWAY_CA, else
 * what was kept, else the system's. */
#pragma once

#include <stdbool.h>

struct cli_command {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns the exit code */
};
extern const struct cli_command cli_commands[]; /* the end has name NULL */

/* Whether these words are for the command line client. `slipway runner list` is, `slipway runner --factory …` is
 * not. argv[0] is the command's name. */
bool cli_knows(int argc, char **argv);
