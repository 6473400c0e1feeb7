/* The table of the command line against itself: each row must be whole, and each example must parse to its own row.
 * */
#include "cli/cli_private.h"
#include "tap.h"

#define WORDS 32

/* Splits an example as a shell would, as far as examples go: spaces and single quotes. Ends at a redirection. */
static int split(char *text, char **words)
{
    int count = 0;

    for (char *at = text; *at;) {
        at += strspn(at, " ");
        if (!*at || *at == '>')
            break;
        if (*at == '\'') {
            words[count++] = ++at;
            at += strcspn(at, "'");
        } else {
            words[count++] = at;
            at += strcspn(at, " ");
        }
        if (*at)
            *at++ = '\0';
    }
    return count;
}

static void examples_parse(const struct cli_verb *v, const char *name)
{
    CLEANUP(free_ptr) char *text = xstrdup(v->example);
    struct cli_call call = {.in = stdin, .out = stdout};
    struct err e = {0};
    char *words[WORDS];
    int count = split(text, words), named = 0;

    ok(cli_find(count, words, &named, &e) == v, "%s: its example names it (%s)", name, e.message);
    is_int(cli_parse(v, count - named, words + named, &call, &e), 0, "%s: its example parses (%s)", name, e.message);
    if (v->path) {
        CLEANUP(free_ptr) char *path = cli_path(&call, v->path);

        ok(strncmp(path, "/v1/", 4) == 0 && !strchr(path, '{'), "%s: its example makes the path %s", name, path);
    }
}

static bool is_known(const struct cli_verb *v, const char *from)
{
    for (const struct cli_option *o = v->options; o && o->name; o++)
        if (strcmp(o->name, from) == 0)
            return true;
    return from[0] == '=' || (from[0] >= '0' && from[0] <= '9' && v->arguments);
}

/* Every {name} of the path and every field's source is there. */
static bool sources_are_known(const struct cli_verb *v)
{
    for (const char *at = v->path; at && (at = strchr(at, '{')); at++) {
        char name[64] = "";

        memcpy(name, at + 1, strcspn(at + 1, "}"));
        if (!is_known(v, name))
            return false;
    }
    for (const struct cli_field *f = v->fields; f && f->name; f++)
        if (!is_known(v, f->from))
            return false;
    return true;
}

static void help_tells_all(const struct cli_verb *v, const char *name)
{
    CLEANUP(free_ptr) char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    bool options = true;

    cli_help(out, v);
    fclose(out);
    for (const struct cli_option *o = v->options; o && o->name; o++)
        options = options && strstr(text, o->name) && strstr(text, o->help);
    ok(options && strstr(text, v->summary) && strstr(text, v->example),
       "%s: --help has its summary, options and example", name);
}

static void rows_are_whole(void)
{
    for (const struct cli_verb *v = cli_verbs; v->command; v++) {
        CLEANUP(free_ptr) char *name = xasprintf("%s%s%s", v->command, v->verb ? " " : "", v->verb ? v->verb : "");

        if (!ok(v->summary && v->example, "%s: has a summary and an example", name))
            continue;
        ok(!!v->run != !!(v->method && v->path), "%s: is a simple exchange or has a run of its own", name);
        ok(!v->asks || is_known(v, "yes"), "%s: what asks can be told --yes", name);
        ok(sources_are_known(v), "%s: what it sends comes from what it takes", name);
        for (const struct cli_option *o = v->options; o && o->name; o++)
            for (const struct cli_option *c = cli_common_options; c->name; c++)
                ok(strcmp(o->name, c->name) != 0, "%s: --%s is not also an option of every command", name, o->name);
        help_tells_all(v, name);
        examples_parse(v, name);
    }
}

static void commands_match_verbs(void)
{
    for (const struct cli_command *c = cli_commands; c->name; c++)
        ok(cli_summary(c->name) && c->run, "%s: the command has verbs", c->name);
    for (const struct cli_verb *v = cli_verbs; v->command; v++) {
        int found = 0;

        for (const struct cli_command *c = cli_commands; c->name; c++)
            found += strcmp(c->name, v->command) == 0;
        is_int(found, 1, "%s %s: is in `slipway --help` once", v->command, v->verb ? v->verb : "");
    }
}

static bool knows(int argc, const char *const *argv) { return cli_knows(argc, (char **)(uintptr_t)argv); }

static void programs_are_left_alone(void)
{
    ok(knows(2, (const char *[]){"runner", "list"}), "`slipway runner list` is the client's");
    ok(!knows(2, (const char *[]){"runner", "--factory"}), "`slipway runner --factory` is the program's");
    ok(!knows(1, (const char *[]){"replicator"}), "`slipway replicator` is the program's");
    ok(!knows(1, (const char *[]){"serve"}), "`slipway serve` is the program's");
}

static void completion_knows_everything(void)
{
    for (int i = 0; i < 2; i++) {
        CLEANUP(free_ptr) char *text = NULL;
        size_t size = 0;
        FILE *out = open_memstream(&text, &size);
        struct err e = {0};
        bool all = true;

        is_int(cli_completion(out, i ? "zsh" : "bash", &e), 0, "completion for %s", i ? "zsh" : "bash");
        fclose(out);
        for (const struct cli_verb *v = cli_verbs; v->command; v++)
            all = all && strstr(text, v->verb ? v->verb : v->command);
        ok(all, "it has every command and verb");
    }
    struct err e = {0};

    is_int(cli_completion(stdout, "tcsh", &e), -1, "another shell is refused");
    ok(strstr(e.message, "tcsh"), "and named: %s", e.message);
}

/* bash itself completes "slipway server b" to "back". */
static void bash_completes(void)
{
    char line[64] = "", path[] = "/tmp/slipway-completion-XXXXXX";
    FILE *script = fdopen(mkstemp(path), "w"), *answer;
    CLEANUP(free_ptr)
    char *command =
        xasprintf("bash -c '. %s; COMP_WORDS=(slipway server b); COMP_CWORD=2; _slipway; echo ${COMPREPLY[0]};"
                  " COMP_WORDS=(slipway window set w --op); COMP_CWORD=4; _slipway; echo ${COMPREPLY[0]}'",
                  path);

    is_int(cli_completion(script, "bash", NULL), 0, "the script is written");
    fclose(script);
    answer = popen(command, "r");
    ok(fgets(line, sizeof line, answer) && strcmp(line, "back\n") == 0, "bash completes a verb: %s", line);
    ok(fgets(line, sizeof line, answer) && strcmp(line, "--opens\n") == 0, "and an option: %s", line);
    pclose(answer);
    remove(path);
}

int main(void)
{
    rows_are_whole();
    commands_match_verbs();
    programs_are_left_alone();
    completion_knows_everything();
    bash_completes();
    return tap_done();
}
