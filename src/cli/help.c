/* Help and shell completion, made from the table of verbs. */
#include "cli/cli_private.h"
#include "inventory/rule.h"

#include <string.h>

const char *cli_summary(const char *command)
{
    for (const struct cli_summary *s = cli_summaries; s->command; s++)
        if (strcmp(s->command, command) == 0)
            return s->summary;
    for (const struct cli_verb *v = cli_verbs; v->command; v++)
        if (strcmp(v->command, command) == 0)
            return v->summary;
    return NULL;
}

static void show_options(FILE *out, const struct cli_option *options)
{
    for (const struct cli_option *o = options; o && o->name; o++) {
        CLEANUP(free_ptr)
        char *left =
            xasprintf("--%s%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "", o->many ? " ..." : "");

        fprintf(out, "  %-28s %s\n", left, o->help);
    }
}

static void show_names(FILE *out, const struct rule *rules)
{
    fputs("\nNAME is one of:\n", out);
    for (; rules->name; rules++)
        fprintf(out, "  %-28s %s%s%s\n", rules->name, rules->title, rules->hint ? ": " : "", rules->hint ? rules->hint : "");
}

static void show_verbs(FILE *out, const char *command)
{
    for (const struct cli_verb *v = cli_verbs; v->command; v++)
        if (strcmp(v->command, command) == 0 && v->verb) {
            CLEANUP(free_ptr)
            char *left = xasprintf("%s%s%s", v->verb, v->arguments ? " " : "", v->arguments ? v->arguments : "");

            fprintf(out, "  %-36s %s\n", left, v->summary);
        }
}

static bool has_verbs(const char *command)
{
    for (const struct cli_verb *v = cli_verbs; v->command; v++)
        if (strcmp(v->command, command) == 0 && v->verb)
            return true;
    return false;
}

void cli_help(FILE *out, const struct cli_verb *verb)
{
    fprintf(out, "usage: slipway %s%s%s%s%s%s\n\n%s\n", verb->command, verb->verb ? " " : "",
            verb->verb ? verb->verb : "", verb->arguments ? " " : "", verb->arguments ? verb->arguments : "",
            " [OPTIONS]", verb->summary);
    if (verb->assigns)
        show_names(out, verb->assigns);
    if (!verb->verb && has_verbs(verb->command)) {
        fputs("\nVerbs:\n", out);
        show_verbs(out, verb->command);
    }
    if (verb->options)
        fputs("\nOptions:\n", out);
    show_options(out, verb->options);
    fputs("\nOptions of every command:\n", out);
    show_options(out, cli_common_options);
    fprintf(out, "\nExample:\n  slipway %s\n", verb->example);
}

void cli_help_command(FILE *out, const char *command)
{
    fprintf(out, "usage: slipway %s VERB [OPTIONS]\n\n%s\n\n", command, cli_summary(command));
    show_verbs(out, command);
    fprintf(out, "\n`slipway %s VERB --help` tells more.\n", command);
}

/* The words that may follow, as lines of a shell `case`: "" → commands, "wave" → verbs, "wave show" → options. */
static void completion_cases(FILE *out)
{
    fputs("    '') list='serve runner replicator", out);
    for (const struct cli_command *c = cli_commands; c->name; c++)
        if (strcmp(c->name, "runner") != 0 && strcmp(c->name, "replicator") != 0)
            fprintf(out, " %s", c->name);
    fputs("' ;;\n", out);
    for (const struct cli_command *c = cli_commands; c->name; c++) {
        fprintf(out, "    '%s') list='", c->name);
        for (const struct cli_verb *v = cli_verbs; v->command; v++)
            if (strcmp(v->command, c->name) == 0 && v->verb)
                fprintf(out, "%s ", v->verb);
        fputs("--help' ;;\n", out);
    }
}

static void completion_options(FILE *out)
{
    for (const struct cli_verb *v = cli_verbs; v->command; v++) {
        fprintf(out, "    '%s%s%s') list='", v->command, v->verb ? " " : "", v->verb ? v->verb : "");
        for (const struct cli_option *o = v->options; o && o->name; o++)
            fprintf(out, "--%s ", o->name);
        for (const struct cli_option *o = cli_common_options; o->name; o++)
            fprintf(out, "--%s ", o->name);
        fputs("' ;;\n", out);
    }
}

int cli_completion(FILE *out, const char *shell, struct err *e)
{
    bool is_bash = strcmp(shell, "bash") == 0;

    if (!is_bash && strcmp(shell, "zsh") != 0)
        return err_set(e, ERR_INVALID, "completion is there for bash and zsh, not for \"%s\"", shell);
    fprintf(out, "%s# Made by `slipway completion %s`.\n_slipway_words() {\n    local list\n    case \"$1\" in\n",
            is_bash ? "" : "#compdef slipway\n", shell);
    completion_cases(out);
    fputs(
        "    *) list= ;;\n    esac\n    printf '%s' \"$list\"\n}\n_slipway_options() {\n    local list\n    case \"$1\" in\n",
        out);
    completion_options(out);
    fputs("    *) list= ;;\n    esac\n    printf '%s' \"$list\"\n}\n", out);
    if (is_bash)
        fputs(
            "_slipway() {\n"
            "    local word=\"${COMP_WORDS[COMP_CWORD]}\" before=\"${COMP_WORDS[*]:1:COMP_CWORD-1}\" command=\"${COMP_WORDS[1]}\" found\n"
            "    if [[ $word == -* ]]; then\n"
            "        found=\"$(_slipway_options \"$command ${COMP_WORDS[2]}\")\"\n"
            "        [[ -n $found ]] || found=\"$(_slipway_options \"$command\")\"\n"
            "    elif (( COMP_CWORD <= 2 )); then\n"
            "        found=\"$(_slipway_words \"$before\")\"\n"
            "    fi\n"
            "    COMPREPLY=($(compgen -W \"$found\" -- \"$word\"))\n"
            "}\n"
            "complete -o default -F _slipway slipway\n",
            out);
    else
        fputs("_slipway() {\n"
              "    local found\n"
              "    if [[ ${words[CURRENT]} == -* ]]; then\n"
              "        found=\"$(_slipway_options \"${words[2]} ${words[3]}\")\"\n"
              "        [[ -n $found ]] || found=\"$(_slipway_options \"${words[2]}\")\"\n"
              "    elif (( CURRENT <= 3 )); then\n"
              "        found=\"$(_slipway_words \"${(j: :)words[2,CURRENT-1]}\")\"\n"
              "    else\n"
              "        _files\n"
              "        return\n"
              "    fi\n"
              "    compadd -- ${=found}\n"
              "}\n"
              "compdef _slipway slipway\n",
              out);
    return 0;
}

int cli_run_completion(struct cli_call *call, struct err *e) { return cli_completion(call->out, call->words[0], e); }
