/* The tracepoint's format file, as kernels print it, and as none does. */
#include "track/format.h"
#include "tap.h"

#include "base/mem.h"

#include <string.h>

#define COMMON                                                             \
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n" \
    "\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n" \
    "\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n" \
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
#define HEAD "name: block_rq_complete\nID: 1021\nformat:\n" COMMON
#define DEV "\tfield:dev_t dev;\toffset:8;\tsize:4;\tsigned:0;\n"
#define SECTOR "\tfield:sector_t sector;\toffset:16;\tsize:8;\tsigned:0;\n"
#define COUNT "\tfield:unsigned int nr_sector;\toffset:24;\tsize:4;\tsigned:0;\n"
#define ERROR "\tfield:int error;\toffset:28;\tsize:4;\tsigned:1;\n"
#define OLD_RWBS "\tfield:char rwbs[8];\toffset:32;\tsize:8;\tsigned:1;\n"
#define NEW_RWBS "\tfield:unsigned short ioprio;\toffset:32;\tsize:2;\tsigned:0;\n\tfield:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;\n"
#define TAIL "\tfield:__data_loc char[] cmd;\toffset:40;\tsize:4;\tsigned:1;\n\nprint fmt: \"%d,%d %s\", ((unsigned int) ((REC->dev) >> 20)), REC->rwbs\n"

static void taken(const char *what, const char *text, int operation_at)
{
    struct track_format f;
    struct err e = {0};

    ok(format_parse(text, strlen(text), &f, &e) == 0 && f.id == 1021 && f.dev_at == 8 && f.sector_at == 16 && f.count_at == 24 && f.operation_at == operation_at, "%s: %s", what,
       e.message[0] ? e.message : "taken");
}

static void refused(const char *what, const char *text)
{
    struct track_format f = {.id = 77};
    struct err e = {0};

    ok(format_parse(text, strlen(text), &f, &e) < 0 && e.kind == ERR_PROTOCOL && f.id == 77, "%s is refused: %s", what, e.message);
}

int main(void)
{
    char *large = xcalloc(1, 20001);
    struct track_format f;
    struct err e = {0};

    taken("a kernel of 2018 to 2023", HEAD DEV SECTOR COUNT ERROR OLD_RWBS TAIL, 32);
    taken("one of 2025", HEAD DEV SECTOR COUNT ERROR NEW_RWBS TAIL, 34);
    taken("without its end", HEAD DEV SECTOR COUNT OLD_RWBS, 32);
    taken("in another order", HEAD OLD_RWBS COUNT SECTOR DEV TAIL, 32);
    refused("nothing", "");
    refused("another tracepoint's", "name: block_rq_issue\nID: 1021\nformat:\n" COMMON DEV SECTOR COUNT ERROR OLD_RWBS TAIL);
    refused("one without a number", "name: block_rq_complete\nformat:\n" DEV SECTOR COUNT ERROR OLD_RWBS TAIL);
    refused("one with no number", "name: block_rq_complete\nID: x\nformat:\n" DEV SECTOR COUNT ERROR OLD_RWBS TAIL);
    refused("the number 0", "name: block_rq_complete\nID: 0\nformat:\n" DEV SECTOR COUNT ERROR OLD_RWBS TAIL);
    refused("one without a disk", HEAD SECTOR COUNT ERROR OLD_RWBS TAIL);
    refused("one without a sector", HEAD DEV COUNT ERROR OLD_RWBS TAIL);
    refused("one without a length", HEAD DEV SECTOR ERROR OLD_RWBS TAIL);
    refused("one without an operation", HEAD DEV SECTOR COUNT ERROR TAIL);
    refused("fields after its end", HEAD DEV SECTOR COUNT ERROR TAIL OLD_RWBS);
    refused("a field that is there twice", HEAD DEV DEV SECTOR COUNT ERROR OLD_RWBS TAIL);
    refused("a sector of 32 bits", HEAD DEV "\tfield:sector_t sector;\toffset:16;\tsize:4;\tsigned:0;\n" COUNT ERROR OLD_RWBS TAIL);
    refused("an operation that is a number", HEAD DEV SECTOR COUNT "\tfield:int rwbs;\toffset:32;\tsize:8;\tsigned:1;\n" TAIL);
    refused("a disk that is an array", HEAD "\tfield:dev_t dev[1];\toffset:8;\tsize:4;\tsigned:0;\n" SECTOR COUNT OLD_RWBS TAIL);
    refused("a place beyond what we read", HEAD "\tfield:dev_t dev;\toffset:253;\tsize:4;\tsigned:0;\n" SECTOR COUNT OLD_RWBS TAIL);
    refused("a place below 0", HEAD "\tfield:dev_t dev;\toffset:-8;\tsize:4;\tsigned:0;\n" SECTOR COUNT OLD_RWBS TAIL);
    refused("a place that is no number", HEAD "\tfield:dev_t dev;\toffset:8x;\tsize:4;\tsigned:0;\n" SECTOR COUNT OLD_RWBS TAIL);
    refused("a place beyond all numbers", HEAD "\tfield:dev_t dev;\toffset:99999999999999999999;\tsize:4;\tsigned:0;\n" SECTOR COUNT OLD_RWBS TAIL);
    memset(large, '\n', 20000);
    refused("more than such a file holds", large);
    ok(format_parse("name: block_rq_complete\0", 24, &f, &e) < 0, "a zero byte is refused: %s", e.message);
    free(large);
    return tap_done();
}
