#include "cli/cli.h"
#include "cli/cli_private.h"

#include <string.h>

static int fail(const char *command, const char *verb, const struct err *e)
{
    fprintf(stderr, "slipway %s%s%s: ", command, verb ? " " : "", verb ? verb : "");
    cli_show_clean(stderr, e->message);
    fputc('\n', stderr);
    return err_meaning(e->kind)->exit_code;
}

static bool is_help(const char *word) { return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0; }

/* It is nothing without a verb. */
static bool needs_verb(const char *command)
{
    for (const struct cli_verb *v = cli_verbs; v->command; v++)
        if (strcmp(v->command, command) == 0 && !v->verb)
            return false;
    return true;
}

static int run(int argc, char **argv)
{
    struct cli_call call = {.in = stdin, .out = stdout};
    const struct cli_verb *verb;
    struct err e = {0};
    int named = 0, status;

    if (argc > 1 && is_help(argv[1]) && needs_verb(argv[0])) {
        cli_help_command(stdout, argv[0]);
        return 0;
    }
    verb = cli_find(argc, argv, &named, &e);
    if (!verb)
        return fail(argv[0], NULL, &e);
    status = cli_parse(verb, argc - named, argv + named, &call, &e);
    if (status == 0 && call.help) {
        cli_help(stdout, verb);
        return 0;
    }
    if (status == 0)
        status = verb->run ? verb->run(&call, &e) : cli_simple(&call, &e);
    cli_link_free(&call.link);
    if (status == 0 && (fflush(stdout) != 0 || ferror(stdout))) /* a write before the last may have failed, and left nothing to flush */
        status = err_set(&e, ERR_IO, "the output could not be written");
    return status < 0 ? fail(verb->command, verb->verb, &e) : call.exit_code;
}

bool cli_knows(int argc, char **argv)
{
    bool is_program = strcmp(argv[0], "runner") == 0 || strcmp(argv[0], "replicator") == 0;
    bool found = false;

    for (const struct cli_verb *v = cli_verbs; v->command; v++) {
        if (strcmp(v->command, argv[0]) != 0)
            continue;
        found = !is_program || (argc > 1 && v->verb && strcmp(v->verb, argv[1]) == 0);
        if (found)
            break;
    }
    return found;
}

/* In the order of `slipway --help`. A test holds this list against the verbs. */
const struct cli_command cli_commands[] = {
    {"login", "sign in to a factory", run},
    {"logout", "forget the kept token", run},
    {"me", "who you are to the factory", run},
    {"doctor", "what holds, what doesn't, what to do", run},
    {"import", "servers from CSV", run},
    {"export", "servers as CSV", run},
    {"wave", "waves", run},
    {"window", "cutover windows", run},
    {"server", "source servers, and the way there and back", run},
    {"replication", "do the copies keep up? worst first, why, what to do", run},
    {"run", "runs of a wave's tasks", run},
    {"task", "single tasks: evidence, decisions, retries", run},
    {"report", "a wave's report", run},
    {"watch", "what happens, as it happens", run},
    {"audit", "who did what", run},
    {"point", "recovery points, on the vault's machine: as image files, over NBD, single files, compared with the source", run},
    {"target", "where machines are launched", run},
    {"runner", "list, revoke: enrolled runners", run},
    {"replicator", "list, drain, undrain, revoke: enrolled replicators", run},
    {"enrol", "one-time tokens for runners and replicators", run},
    {"user", "people", run},
    {"token", "API tokens", run},
    {"credential", "what opens source machines and services", run},
    {"settings", "the factory's settings", run},
    {"backup", "copy database and keys", run},
    {"completion", "completion for bash and zsh", run},
    {NULL, NULL, NULL},
};
