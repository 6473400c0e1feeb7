#include "base/err.h"
#include "base/mem.h"
#include "tap.h"

static void buffer_keeps_its_limit(void)
{
    CLEANUP(buf_release) struct buf b;

    buf_init(&b, 10);
    is_int(buf_puts(&b, "12345"), 0, "five bytes fit");
    is_int(buf_printf(&b, "%d", 678901), -1, "six more do not");
    ok(b.over, "and the buffer says so");
    is_int(b.size_bytes, 10, "it never passes its limit");
    is_str(b.data, "1234567890", "and stays terminated");
}

static void arena_gives_zeroed_aligned_memory(void)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    bool zero = true, aligned = true;

    for (size_t size = 1; size < 40000; size = size * 3 + 1) {
        unsigned char *held = arena_alloc(a, size);

        aligned = aligned && (uintptr_t)held % 16 == 0;
        for (size_t i = 0; i < size; i++)
            zero = zero && held[i] == 0;
        memset(held, 0xff, size);
    }
    ok(zero, "memory is zeroed");
    ok(aligned, "memory is aligned");
    is_str(arena_printf(a, "%s-%d", "disk", 7), "disk-7", "formatted text");
}

static void errors_wrap_outwards(void)
{
    struct err e = {0};

    is_int(err_set(&e, ERR_NOT_FOUND, "no server %s", "db01"), -1, "setting returns -1");
    err_wrap(&e, "launching %s", "w1");
    is_str(e.message, "launching w1: no server db01", "the wrap goes before");
    is_int(e.kind, ERR_NOT_FOUND, "and the kind stays");
    for (int kind = 0; kind < ERR_KIND_COUNT; kind++)
        ok(err_meaning((enum err_kind)kind)->name && err_kind_named(err_meaning((enum err_kind)kind)->name) == (enum err_kind)kind,
           "kind %d has a name that leads back", kind);
    ok(err_set(NULL, ERR_IO, "nobody listens") == -1, "a caller may not want the words");
}

int main(void)
{
    buffer_keeps_its_limit();
    arena_gives_zeroed_aligned_memory();
    errors_wrap_outwards();
    return tap_done();
}
