#include "base/options.h"
#include "tap.h"

struct wanted {
    const char *folder, *name;
    bool quiet, hidden;
    int64_t limit, every_us;
    struct option_list labels;
};

static const struct option_row rows[] = {
    {"folder", OPTION_TEXT, offsetof(struct wanted, folder), "DIR", "where it is", true},
    {"name", OPTION_TEXT, offsetof(struct wanted, name), "NAME", "what it is called", false},
    {"quiet", OPTION_FLAG, offsetof(struct wanted, quiet), NULL, "say nothing", false},
    {"hidden", OPTION_FLAG, offsetof(struct wanted, hidden), NULL, NULL, false},
    {"limit", OPTION_NUMBER, offsetof(struct wanted, limit), "N", "how many", false},
    {"every", OPTION_DURATION, offsetof(struct wanted, every_us), "DURATION", "how often", false},
    {"label", OPTION_LIST, offsetof(struct wanted, labels), "LABEL", "may be given several times", false},
};
static const struct option_table table = {"slipway try", "--folder DIR [OPTIONS]", "It tries.", rows, ARRAY_COUNT(rows)};

/* argv is not const by C's tradition; nothing changes the words. */
#define WORDS(...) (char **)(uintptr_t)(const char *[]){"try", __VA_ARGS__}
#define READ(into, ...) options_read(&table, ARRAY_COUNT(((const char *[]){"try", __VA_ARGS__})), WORDS(__VA_ARGS__), into, &e)

static struct err e;

static void test_values(void)
{
    struct wanted w = {.name = "n1", .limit = 7};

    is_int(READ(&w, "--folder", "/srv", "--quiet", "--limit=12", "--every", "250ms", "--label", "a", "--label=b=c"), 0, "options are read");
    ok(strcmp(w.folder, "/srv") == 0 && w.quiet && !w.hidden && w.limit == 12 && w.every_us == 250000, "each to its place");
    ok(w.labels.count == 2 && strcmp(w.labels.values[1], "b=c") == 0, "a list keeps all, and only the first = parts");
    is_str(w.name, "n1", "what is not given stays");
    is_int(READ(&w, "--folder", "/a", "--folder", "", "--name", "--quiet"), 0, "the last one counts");
    ok(!*w.folder && strcmp(w.name, "--quiet") == 0, "a value may be empty, and look like an option");
    is_int(options_need(&table, &w, &e), -1, "an empty one is missing where it is needed");
    is_str(e.message, "--folder is missing (`slipway try --help` tells more)", "by name");
    is_int(READ(&w, "--folder=/b", "--hidden"), 0, "what the usage doesn't show is read");
    ok(w.hidden && options_need(&table, &w, &e) == 0, "and nothing is missing");
    is_int(options_read(&table, 1, WORDS(NULL), &w, &e), 0, "no options are fine");
}

static void test_refusals(void)
{
    static const struct {
        const char *word, *value, *says;
    } wrong[] = {
        {"--fold", "/srv", "there is no option --fold (`slipway try --help` lists them)"}, /* not an abbreviation */
        {"--", NULL, "there is no option -- (`slipway try --help` lists them)"},
        {"--=x", NULL, "there is no option -- (`slipway try --help` lists them)"},
        {"-q", NULL, "\"-q\" is not expected (`slipway try --help` tells more)"},
        {"srv", NULL, "\"srv\" is not expected (`slipway try --help` tells more)"},
        {"", NULL, "\"\" is not expected (`slipway try --help` tells more)"},
        {"--folder", NULL, "--folder needs a value: DIR"},
        {"--quiet=1", NULL, "--quiet takes no value"},
        {"--limit", "12a", "--limit: \"12a\" is no number"},
        {"--limit", "", "--limit: \"\" is no number"},
        {"--limit", "-1", "--limit: \"-1\" is no number"},
        {"--limit", "9223372036854775808", "--limit: \"9223372036854775808\" is no number"},
    };
    struct wanted w = {0};
    const char *many[1 + 2 * (OPTION_LIST_MOST + 1)] = {"try"};

    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        err_clear(&e);
        ok(options_read(&table, wrong[i].value ? 3 : 2, WORDS(wrong[i].word, wrong[i].value), &w, &e) == -1 && e.kind == ERR_INVALID,
           "refused: %s %s", wrong[i].word, wrong[i].value ? wrong[i].value : "");
        is_str(e.message, wrong[i].says, "in words");
    }
    is_int(READ(&w, "--every", "5"), -1, "a duration has a unit");
    ok(strncmp(e.message, "--every: ", 9) == 0, "%s", e.message);
    for (int i = 0; i <= OPTION_LIST_MOST; i++) {
        many[1 + 2 * i] = "--label";
        many[2 + 2 * i] = "x";
    }
    is_int(options_read(&table, ARRAY_COUNT(many), (char **)(uintptr_t)many, &w, &e), -1, "a list has an end");
    ok(e.kind == ERR_LIMIT && w.labels.count == OPTION_LIST_MOST, "%s", e.message);
}

static void test_help(void)
{
    struct wanted w = {0};
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    MUST(out);
    is_int(READ(&w, "--quiet", "--help", "--nonsense"), 1, "help is asked for, whatever follows");
    options_usage(&table, out);
    fclose(out);
    is_str(text, "usage: slipway try --folder DIR [OPTIONS]\n\nIt tries.\n\n"
                 "  --folder DIR      where it is\n  --name NAME       what it is called\n  --quiet           say nothing\n"
                 "  --limit N         how many\n  --every DURATION  how often\n  --label LABEL     may be given several times\n"
                 "  --help            this text\n", "the usage is made of the table");
    free(text);
}

static void test_begin(void)
{
    struct wanted w = {0};
    int status = -1;

    ok(options_begin(&table, 2, WORDS("--quiet"), &w, &status), "a program goes on");
    ok(!options_begin(&table, 2, WORDS("--loud"), &w, &status), "or does not");
    is_int(status, err_meaning(ERR_INVALID)->exit_code, "with the status of bad input");
}

int main(void)
{
    test_values();
    test_refusals();
    test_help();
    test_begin();
    return tap_done();
}
