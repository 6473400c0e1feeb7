/* Parsing of words, bodies and paths; how answers are shown. */
#include "cli/cli_private.h"
#include "tap.h"

#include <unistd.h>

static struct cli_call call;
static struct err e;

static int parse(int argc, const char *const *words)
{
    char **argv = (char **)(uintptr_t)words;
    const struct cli_verb *verb;
    int named = 0;

    call = (struct cli_call){.in = stdin, .out = stdout};
    e = (struct err){0};
    verb = cli_find(argc, argv, &named, &e);
    return verb ? cli_parse(verb, argc - named, argv + named, &call, &e) : -1;
}
#define PARSE(...) parse((int)ARRAY_COUNT(((const char *[]){__VA_ARGS__})), (const char *[]){__VA_ARGS__})

static void words_and_options(void)
{
    CLEANUP(free_ptr) char *path = NULL;

    is_int(PARSE("server", "list", "--wave", "a b/c", "--limit=5", "-o", "json"), 0, "options in both forms");
    ok(call.json, "-o json is taken");
    path = cli_path(&call, call.verb->path);
    is_str(path, "/v1/servers?wave=a%20b%2Fc&limit=5", "only what was given goes into the query, encoded");
    is_int(PARSE("task", "skip", "--", "t1", "--not-an-option"), 0, "-- ends the options");
    is_str(call.words[1], "--not-an-option", "and what follows is a word");
    is_int(PARSE("wave", "show"), -1, "a missing word is refused");
    ok(e.kind == ERR_INVALID && strstr(e.message, "slipway wave show WAVE"), "with the usage: %s", e.message);
    is_int(PARSE("wave", "show", "a", "b"), -1, "so is one too many");
    is_int(PARSE("wave", "show", "a", "--nonsense"), -1, "an unknown option is refused");
    ok(strstr(e.message, "--nonsense"), "and named: %s", e.message);
    is_int(PARSE("wave", "show", "a", "-x"), -1, "a short one, too");
    is_int(PARSE("server", "list", "--wave"), -1, "an option without its value is refused");
    is_int(PARSE("server", "list", "--wave", "a", "--wave", "b"), -1, "and one that is given twice");
    is_int(PARSE("doctor", "--no-fail=1"), -1, "a flag takes no value");
    is_int(PARSE("doctor", "-o", "xml"), -1, "an unknown format is refused");
    is_int(PARSE("doctor", "-o"), -1, "and a missing one");
    is_int(PARSE("wave", "destroy", "a"), -1, "an unknown verb is refused");
    ok(strstr(e.message, "cutover"), "and the known ones listed: %s", e.message);
    is_int(PARSE("wave", "show", "--help"), 0, "--help needs no words");
    ok(call.help, "and is seen");
}

static void bodies(void)
{
    CLEANUP(json_free) json_t *body = NULL, *set = json_object(), *bad = json_object();

    is_int(PARSE("enrol", "runner", "dc1", "--label", "a", "--label", "b", "--ttl", "60"), 0, "enrol");
    is_int(cli_body(&call, call.verb->fields, &body, &e), 0, "its body: %s", e.message);
    CLEANUP(free_ptr) char *text = json_text(body);
    is_str(text, "{\"kind\":\"runner\",\"name\":\"dc1\",\"labels\":[\"a\",\"b\"],\"ttl_s\":60}",
           "words, lists, numbers");
    is_int(PARSE("enrol", "runner", "dc1", "--ttl", "6x"), 0, "a number that is none");
    json_free(&body);
    is_int(cli_body(&call, call.verb->fields, &body, &e), -1, "is refused: %s", e.message);
    is_int(PARSE("wave", "set", "w", "hold_s=20", "name=20 s", "quoted=\"x\"", "gone=null", "list=[1]"), 0,
           "assignments");
    is_int(cli_assignments(&call, 1, set, &e), 0, "are read");
    CLEANUP(free_ptr) char *held = json_text(set);
    is_str(held, "{\"hold_s\":20,\"name\":\"20 s\",\"quoted\":\"\\\"x\\\"\",\"gone\":null,\"list\":[1]}",
           "JSON where it is JSON, text elsewhere");
    is_int(PARSE("wave", "set", "w", "nothing"), 0, "a word without =");
    is_int(cli_assignments(&call, 1, bad, &e), -1, "is refused: %s", e.message);
    is_int(PARSE("wave", "set", "w", "a=\xff"), 0, "bytes that are not UTF-8");
    is_int(cli_assignments(&call, 1, bad, &e), -1, "are refused: %s", e.message);
}

static void documents(void)
{
    CLEANUP(json_free) json_t *given = NULL, *nothing = NULL, *bad = NULL;

    is_int(cli_read_json(&call, "{\"a\":1}", &given, &e), 0, "JSON on the command line");
    is_int(json_get_int(given, "a", 0), 1, "is read");
    is_int(cli_read_json(&call, "null", &nothing, &e), 0, "null, too");
    ok(json_is_null(nothing), "as null");
    is_int(cli_read_json(&call, "{\"a\":", &bad, &e), -1, "broken JSON is refused: %s", e.message);
    is_int(cli_read_json(&call, "/nonexistent.json", &bad, &e), -1, "so is a file that is not there: %s", e.message);
}

static void secrets(void)
{
    char path[] = "/tmp/slipway-secret-XXXXXX";
    int fd = mkstemp(path);
    CLEANUP(secret_release) struct secret secret = {0};

    ok(write(fd, "p@ss word\r\n", 11) == 11, "a file with a secret");
    is_int(cli_read_secret(&call, path, &secret, &e), 0, "is read");
    is_str(secret.bytes, "p@ss word", "without its newline");
    ok(ftruncate(fd, 0) == 0, "an empty file");
    is_int(cli_read_secret(&call, path, &secret, &e), -1, "is refused: %s", e.message);
    close(fd);
    remove(path);
    is_int(cli_read_secret(&call, path, &secret, &e), -1, "so is one that is not there: %s", e.message);
    is_int(e.kind, ERR_NOT_FOUND, "with its kind");
}

static char *shown(const char *json, const struct cli_column *columns, bool table)
{
    CLEANUP(json_free) json_t *value = json_loads(json, JSON_DECODE_ANY, NULL);
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    MUST(value);
    if (table)
        cli_show_table(out, value, columns);
    else
        cli_show_object(out, value, columns);
    fclose(out);
    return text;
}

static void tables(void)
{
    static const struct cli_column columns[] = {{"NAME", "name", 0},
                                                {"SIZE", "d.size", CLI_BYTES},
                                                {"LAG", "lag", CLI_MS},
                                                {"OK", "ok", CLI_YES},
                                                {NULL, NULL, 0}};
    CLEANUP(free_ptr)
    char *text = shown(
        "[{\"name\":\"Zürich\",\"d\":{\"size\":1536},\"lag\":90000,\"ok\":true},{\"name\":\"a\\u001b[31m\\u009b\",\"lag\":7}]",
        columns, true);
    CLEANUP(free_ptr)
    char *none = shown("[]", columns, true), *one = shown("{\"name\":[\"x\",2],\"d\":null}", columns, false);

    is_str(text,
           "NAME     SIZE     LAG     OK\n"
           "Zürich   1.5 KiB  90.0 s  yes\n"
           "a?[31m?  -        7 ms    no\n",
           "columns line up, and a terminal's control bytes are not let through");
    is_str(none, "NAME  SIZE  LAG   OK\n(none)\n", "an empty table says so");
    is_str(one, "NAME  x, 2\nSIZE  -\nLAG   -\nOK    no\n", "an object, a line a column");
}

static void long_texts(void)
{
    static const struct cli_column columns[] = {{"T", "t", 0}, {NULL, NULL, 0}};
    CLEANUP(buf_release) struct buf json = {0};

    buf_puts(&json, "[{\"t\":\"");
    for (int i = 0; i < 300; i++)
        buf_puts(&json, "ü");
    buf_puts(&json, "\"}]");
    CLEANUP(free_ptr) char *text = shown(json.data, columns, true);
    CLEANUP(json_free) json_t *valid = json_string(text);
    ok(valid && strlen(text) < 250 && strstr(text, "…\n"), "a long text is cut at a whole character, and says so");
}

int main(void)
{
    words_and_options();
    bodies();
    documents();
    secrets();
    tables();
    long_texts();
    return tap_done();
}
