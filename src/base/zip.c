#include "base/zip.h"

#include <zstd.h>

struct zip {
    ZSTD_CCtx *packing;
    ZSTD_DCtx *unpacking;
    int level;
};

struct zip *zip_new(int level)
{
    struct zip *z = xcalloc(1, sizeof *z);

    z->level = level;
    z->packing = ZSTD_createCCtx();
    z->unpacking = ZSTD_createDCtx();
    MUST(z->packing && z->unpacking);
    return z;
}

void zip_free(struct zip **z)
{
    if (!*z)
        return;
    ZSTD_freeCCtx((*z)->packing);
    ZSTD_freeDCtx((*z)->unpacking);
    free_ptr(z);
}

size_t zip_pack(struct zip *z, const void *bytes, size_t size, void *out)
{
    /* A capacity below the block's own size makes zstd give up early on what doesn't compress. */
    size_t capacity = size - size / 32;
    size_t packed = capacity ? ZSTD_compressCCtx(z->packing, out, capacity, bytes, size, z->level) : 0;

    return ZSTD_isError(packed) ? 0 : packed;
}

int zip_unpack(struct zip *z, const void *packed, size_t packed_size, void *out, size_t raw_size, struct err *e)
{
    size_t raw = ZSTD_decompressDCtx(z->unpacking, out, raw_size, packed, packed_size);

    if (ZSTD_isError(raw))
        return err_set(e, ERR_CORRUPT, "a compressed block can't be unpacked: %s", ZSTD_getErrorName(raw));
    if (raw != raw_size)
        return err_set(e, ERR_CORRUPT, "a compressed block gave %zu bytes where %zu were expected", raw, raw_size);
    return 0;
}
