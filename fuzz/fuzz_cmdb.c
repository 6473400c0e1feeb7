/* The answer of a CMDB's program: JSON lines. */
#include "cmdb/cmdb.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    CLEANUP(json_free) json_t *record = NULL;
    struct err e = {0};

    if (cmdb_program_answer((const char *)bytes, size, &record, &e) < 0)
        MUST(!record && e.message[0]);
    return 0;
}
