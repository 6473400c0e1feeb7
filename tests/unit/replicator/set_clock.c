/* set_clock: for LD_PRELOAD: the wall clock of this process alone stands as many seconds from the real one as the file SET_CLOCK says. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *out)
{
    int result = (int)syscall(SYS_clock_gettime, id, out);
    const char *path = getenv("SET_CLOCK");
    char text[32] = "";
    int fd;

    if (result == 0 && id == CLOCK_REALTIME && path && (fd = open(path, O_RDONLY | O_CLOEXEC)) >= 0) {
        if (read(fd, text, sizeof text - 1) > 0)
            out->tv_sec += strtoll(text, NULL, 10);
        close(fd);
    }
    return result;
}
