/* chain FILE... : numbers that depend on each other over several disks: n goes to the first file, and when it is there, to the next, and when it is in
 * all of them, n + 1 goes to the first. So at any instant each file's number is that of the one before it, or one less; and the first one's is that of the last, or one
 * more. Every write is direct and synchronous, in place.
 *
 * chain --rest FILE... : and all stand still now and then. Ends when its input does; says how many numbers it wrote. */
#include "base/clock.h"
#include "base/mem.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096
#define FILES_MAX 8
#define LOOK_EVERY 64 /* writes between two looks at the input */

static const char magic[16] = "slipway-chain-1";

static bool input_ended(void)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    char byte;

    return poll(&p, 1, 0) > 0 && read(STDIN_FILENO, &byte, 1) <= 0;
}

int main(int argc, char **argv)
{
    bool rests = argc > 1 && strcmp(argv[1], "--rest") == 0;
    int fds[FILES_MAX], count = argc - 1 - rests;
    uint64_t n = 0, state = (uint64_t)clock_now_us();
    static _Alignas(BLOCK) uint8_t block[BLOCK];

    MUST(count >= 2 && count <= FILES_MAX);
    memcpy(block, magic, sizeof magic);
    for (int i = 0; i < count; i++) {
        fds[i] = open(argv[1 + rests + i], O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
        MUST(fds[i] >= 0);
    }
    printf("ready\n");
    fflush(stdout);
    do {
        for (int k = 0; k < LOOK_EVERY; k++) {
            n++;
            memcpy(block + sizeof magic, &n, sizeof n);
            for (int i = 0; i < count; i++)
                MUST(pwrite(fds[i], block, BLOCK, 0) == BLOCK);
        }
        state = state * 6364136223846793005u + 1442695040888963407u;
        if (rests && state >> 61 == 0)
            clock_sleep_us((int64_t)(50 + (state >> 40) % 250) * US_PER_MS);
    } while (!input_ended());
    printf("%llu\n", (unsigned long long)n);
    return 0;
}
