/* What of a server's disks is missing, over made-up HELLOs. */
#include "replicator/missing.h"
#include "tap.h"

static struct missing missing;
static int64_t now_us;

/* A HELLO that names these disks (a letter each), where the copy had those: what is missing then, and whether that is said to differ. */
static void hello(const char *names, const char *copy, const char *wanted, bool differs, const char *what)
{
    struct wire_hello *h = xcalloc(1, sizeof *h);
    struct missing_disk had[8] = {0};
    char got[16] = "";
    int count = 0;
    bool said;

    for (; names[h->disk_count]; h->disk_count++)
        h->disks[h->disk_count].id[0] = names[h->disk_count];
    for (; copy[count]; count++) {
        had[count].id[0] = copy[count];
        had[count].size_bytes = 100 + copy[count];
    }
    said = missing_learn(&missing, h, had, count, ++now_us);
    for (int i = 0; i < missing.count; i++)
        if (!missing.disks[i].accepted)
            got[strlen(got)] = missing.disks[i].id[0];
    is_str(got, wanted, "%s: \"%s\" is missing", what, wanted);
    is_int(missing_count(&missing), (int)strlen(wanted), "and counted");
    is_int(said, differs, "which is %s", differs ? "another state" : "as before");
    free(h);
}

int main(void)
{
    json_t *kept, *told;

    hello("ab", "", "", false, "the first");
    hello("ab", "ab", "", false, "again");
    hello("a", "ab", "b", true, "one goes");
    hello("a", "a", "b", false, "nothing has it any more");
    ok(missing.disks[0].since_us == 3 && missing.disks[0].size_bytes == 100 + 'b', "since then, with its size");
    told = missing_json(&missing);
    ok(json_array_size(told) == 1 && json_get_int(json_array_get(told, 0), "size_bytes", 0) == 100 + 'b', "it is told");
    json_free(&told);
    kept = missing_kept(&missing);
    missing_release(&missing);
    missing_load(&missing, kept);
    json_free(&kept);
    hello("a", "a", "b", false, "after a restart");
    ok(missing.disks[0].since_us == 3, "since when is kept");
    hello("ab", "a", "", true, "it comes back");
    hello("c", "aab", "ab", true, "two go, of which one has a map and is in a point");
    is_int(missing_accept(&missing), 2, "a person accepts that");
    is_int(missing_accept(&missing), 0, "once");
    hello("c", "acb", "", false, "the newest point has them yet: the word holds");
    kept = missing_kept(&missing);
    missing_load(&missing, kept);
    json_free(&kept);
    hello("c", "ab", "", false, "over a restart, too");
    hello("cb", "ab", "", true, "one comes back");
    hello("c", "ab", "b", true, "and goes again: that is news");
    hello("c", "c", "b", true, "of the other nothing is left, and nothing is to be known");
    is_int(missing.count, 1, "of it");
    kept = json_pack("[s, {s:s}, {s:i}]", "no object", "id", "", "id", 7);
    missing_load(&missing, kept);
    json_free(&kept);
    is_int(missing.count, 0, "what was not kept by us is left out");
    missing_release(&missing);
    return tap_done();
}
