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

struct zip_stream {
    ZSTD_CCtx *packing;   /* one of the two */
    ZSTD_DCtx *unpacking;
    bool open; /* unpacking: something was, and its end has not come */
};

#define WINDOW_LOG 21
_Static_assert(1u << WINDOW_LOG == ZIP_WINDOW_BYTES, "the window's size");

struct zip_stream *zip_stream_new(int level)
{
    struct zip_stream *s = xcalloc(1, sizeof *s);

    s->packing = ZSTD_createCCtx();
    MUST(s->packing && !ZSTD_isError(ZSTD_CCtx_setParameter(s->packing, ZSTD_c_compressionLevel, level)) &&
         !ZSTD_isError(ZSTD_CCtx_setParameter(s->packing, ZSTD_c_windowLog, WINDOW_LOG)));
    return s;
}

struct zip_stream *zip_stream_unpacker(void)
{
    struct zip_stream *s = xcalloc(1, sizeof *s);

    s->unpacking = ZSTD_createDCtx();
    MUST(s->unpacking && !ZSTD_isError(ZSTD_DCtx_setParameter(s->unpacking, ZSTD_d_windowLogMax, WINDOW_LOG)));
    return s;
}

void zip_stream_free(struct zip_stream **s)
{
    if (!*s)
        return;
    ZSTD_freeCCtx((*s)->packing);
    ZSTD_freeDCtx((*s)->unpacking);
    free_ptr(s);
}

void zip_stream_pack(struct zip_stream *s, const void *bytes, size_t size, bool last, struct buf *out)
{
    ZSTD_inBuffer in = {bytes, size, 0};
    uint8_t part[16384];
    size_t left;

    do {
        ZSTD_outBuffer packed = {part, sizeof part, 0};

        left = ZSTD_compressStream2(s->packing, &packed, &in, last ? ZSTD_e_end : ZSTD_e_flush);
        MUST(!ZSTD_isError(left) && buf_add(out, part, packed.pos) == 0); /* it fails for lack of memory only */
    } while (left);
}

/* zstd holds back what had no room. */
static bool has_more(struct zip_stream *s)
{
    uint8_t byte;
    ZSTD_outBuffer one = {&byte, 1, 0};
    ZSTD_inBuffer nothing = {NULL, 0, 0};

    return ZSTD_isError(ZSTD_decompressStream(s->unpacking, &one, &nothing)) || one.pos > 0;
}

int zip_stream_unpack(struct zip_stream *s, const void *packed, size_t packed_size, void *out, size_t raw_size, struct err *e)
{
    ZSTD_inBuffer in = {packed, packed_size, 0};
    ZSTD_outBuffer raw = {out, raw_size, 0};

    while (in.pos < in.size) {
        size_t at = in.pos, came = raw.pos, left = ZSTD_decompressStream(s->unpacking, &raw, &in);

        if (ZSTD_isError(left))
            return err_set(e, ERR_CORRUPT, "a compressed stream can't be unpacked: %s", ZSTD_getErrorName(left));
        s->open = left != 0;
        if (in.pos == at && raw.pos == came)
            break;
    }
    if (in.pos < in.size || (s->open && has_more(s)))
        return err_set(e, ERR_CORRUPT, "a compressed stream gives more than the %zu bytes that were expected", raw_size);
    if (raw.pos != raw_size)
        return err_set(e, ERR_CORRUPT, "a compressed stream gave %zu bytes where %zu were expected", raw.pos, raw_size);
    return 0;
}

bool zip_stream_ended(const struct zip_stream *s) { return !s->open; }
