/* A tracepoint's format file: refused, or each place is within what is read. */
#include "track/format.h"

#include "base/mem.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct track_format f = {.id = -7};
    struct err e = {0};

    if (format_parse((const char *)bytes, size, &f, &e) < 0) {
        MUST(e.kind == ERR_PROTOCOL && f.id == -7);
        return 0;
    }
    MUST(f.id > 0 && f.dev_at >= 0 && f.dev_at <= 252 && f.sector_at >= 0 && f.sector_at <= 248);
    MUST(f.count_at >= 0 && f.count_at <= 252 && f.operation_at >= 0 && f.operation_at <= 252);
    return 0;
}
