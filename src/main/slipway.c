/* slipway: the factory and its client, one binary with subcommands. Argument parsing and wiring, nothing else. */
#include "api/serve.h"
#include "base/log.h"
#include "cli/cli.h"
#include "replicator/replicator.h"
#include "steps/runner.h"

#include <stdio.h>
#include <string.h>

/* The programs; what the command line client does is in its own table. */
static const struct cli_command commands[] = {
    {"serve", "the factory: API, console, workflow and database, with a runner and a replicator beside it", serve_main},
    {"restore", "put a backup in a data folder's place", restore_main},
    {"replicator", "take blocks from agents, keep the vault, serve recovery points", replicator_main},
    {"vault", "look at a vault and care for it: what it holds, whether it is whole, space, keys", vault_main},
    {"runner", "carry out tasks beside the source machines or the target", runner_main},
    {NULL, NULL, NULL},
};

static void usage(FILE *out)
{
    fputs("usage: slipway COMMAND [ARGUMENTS]\n\nThe programs:\n", out);
    for (const struct cli_command *c = commands; c->name; c++)
        fprintf(out, "  %-12s %s\n", c->name, c->summary);
    fputs("\nThe client of a day's work:\n", out);
    for (const struct cli_command *c = cli_commands; c->name; c++)
        fprintf(out, "  %-12s %s\n", c->name, c->summary);
    fputs("\n`slipway COMMAND --help` tells more.\n", out);
}

static int run_of(const struct cli_command *table, int argc, char **argv, int *status)
{
    for (const struct cli_command *c = table; c->name; c++)
        if (strcmp(argv[0], c->name) == 0) {
            *status = c->run(argc, argv);
            return 1;
        }
    return 0;
}

int main(int argc, char **argv)
{
    int status;

    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    if (cli_knows(argc - 1, argv + 1) && run_of(cli_commands, argc - 1, argv + 1, &status))
        return status;
    if (run_of(commands, argc - 1, argv + 1, &status))
        return status;
    fprintf(stderr, "slipway: there is no command \"%s\"; `slipway --help` lists them\n", argv[1]);
    return 2;
}
