/* Figures as a person reads them. */
#include "base/words.h"
#include "tap.h"

static void is_words(void (*say)(struct buf *out, double value), double value, const char *wanted)
{
    CLEANUP(buf_release) struct buf out = {0};

    say(&out, value);
    is_str(out.data, wanted, "%s", wanted);
}

int main(void)
{
    is_words(words_bytes, 0, "0 B");
    is_words(words_bytes, 1023, "1023 B");
    is_words(words_bytes, 1536, "1.5 KiB");
    is_words(words_bytes, 104857600, "100 MiB");
    is_words(words_bytes, 1e18, "888 PiB");
    is_words(words_rate, 0, "0 bit/s");
    is_words(words_rate, 1048576, "8.4 Mbit/s");
    is_words(words_rate, 125000000, "1.0 Gbit/s");
    is_words(words_duration, 850, "850 ms");
    is_words(words_duration, 12500, "12.5 s");
    is_words(words_duration, 2700000, "45 min");
    is_words(words_duration, 11520000, "3.2 h");
    is_words(words_duration, 1036800000, "12.0 days");
    return tap_done();
}
