/* What a proxy answers, and what people write as a proxy's address. */
#include "base/mem.h"
#include "base/proxy.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    CLEANUP(free_ptr) char *text = xcalloc(1, size + 1);
    size_t taken = size;
    struct proxy p = {0};
    struct err e = {0};
    int result;

    memcpy(text, bytes, size);
    result = proxy_answer(text, &taken, &e);
    MUST(result >= -1 && result <= 1);
    MUST((result < 0) == (e.kind != ERR_NONE));
    MUST(taken <= size && (result != 1 || memcmp(text + taken - 4, "\r\n\r\n", 4) == 0));
    err_clear(&e);
    if (proxy_parse(text, &p, &e) == 0)
        MUST(p.port >= 1 && p.port <= 65535 && *p.address);
    else
        MUST(e.kind == ERR_INVALID && !p.port);
    return 0;
}
