/* What QEMU says, in two pieces: the first byte tells where the cut is. Whatever comes is either taken as an object of a known kind or
 * refused; what is taken shortens what is left. */
#include "target/qmp.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Takes all that is whole; false when the stream is broken. */
static bool drain(struct buf *in)
{
    for (;;) {
        CLEANUP(json_free) json_t *message = NULL;
        enum qmp_kind kind = QMP_EVENT;
        size_t before = in->size_bytes;
        struct err e = {0};
        int taken = qmp_take(in, &message, &kind, &e);

        MUST(taken >= -1 && taken <= 1);
        MUST((taken == 1) == json_is_object(message));
        MUST(taken != -1 || (e.kind == ERR_PROTOCOL && e.message[0] && !message));
        MUST(taken == 0 || in->size_bytes < before || in->over);
        if (taken != 1)
            return taken == 0;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    CLEANUP(buf_release) struct buf in = {.limit_bytes = QMP_LINE_LIMIT_BYTES};
    size_t cut;

    if (size < 1)
        return 0;
    cut = bytes[0] < size ? bytes[0] : size - 1;
    buf_add(&in, bytes + 1, cut);
    if (drain(&in)) {
        buf_add(&in, bytes + 1 + cut, size - 1 - cut);
        drain(&in);
    }
    return 0;
}
