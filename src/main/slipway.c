/* slipway: the factory and its client, one binary with subcommands. Argument parsing and wiring, nothing else. */
#include "base/log.h"
#include "steps/runner.h"

#include <stdio.h>
#include <string.h>

struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns the exit code */
};

static const struct command commands[] = {
    {"runner", "carry out tasks beside the source machines or the target", runner_main},
    {NULL, NULL, NULL},
};

static void usage(FILE *out)
{
    fputs("usage: slipway COMMAND [ARGUMENTS]\n\n", out);
    for (const struct command *c = commands; c->name; c++)
        fprintf(out, "  %-12s %s\n", c->name, c->summary);
    fputs("\n`slipway COMMAND --help` tells more.\n", out);
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    for (const struct command *c = commands; c->name; c++)
        if (strcmp(argv[1], c->name) == 0)
            return c->run(argc - 1, argv + 1);
    fprintf(stderr, "slipway: there is no command \"%s\"; `slipway --help` lists them\n", argv[1]);
    return 2;
}
