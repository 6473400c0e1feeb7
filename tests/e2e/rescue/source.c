/* source: process 1 of a machine that is to leave for a rescue: drivers, network (its hardware address is another one, as a parked source's is), then the
 * agent's two commands as a person gives them. Says "source: …" on the console, and stays. */
#include "agent/rescue_parts.h"
#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void stay(const char *words)
{
    printf("source: %s\n", words);
    for (;;)
        pause();
}

static void make_machine(void)
{
    static const char *const mounts[][2] = {{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}};

    for (size_t i = 0; i < ARRAY_COUNT(mounts); i++) {
        mkdir(mounts[i][1], 0755);
        mount(mounts[i][0], mounts[i][1], mounts[i][0], 0, NULL);
    }
    setvbuf(stdout, NULL, _IONBF, 0);
}

/* /first/00.ko and on, until there is none. */
static void load_drivers(void)
{
    for (int i = 0;; i++) {
        CLEANUP(free_ptr) char *path = xasprintf("/first/%02d.ko", i);
        CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);

        if (fd < 0)
            return;
        if (syscall(SYS_finit_module, fd, "", 0) < 0)
            printf("source: %s: %m\n", path);
    }
}

static int run(const char *const *words)
{
    pid_t child = fork();
    int status = -1;

    if (child == 0) {
        execv(words[0], (char *const *)words);
        _exit(127);
    }
    waitpid(child, &status, 0);
    return status;
}

int main(int argc, char **argv)
{
    static const char *const leave[] = {"/slipway-agent", "rescue-start", "--kernel", "/vmlinuz", NULL};
    CLEANUP(buf_release) struct buf network = {0}, point = {0};
    struct rescue_net n;
    struct err e = {0};

    (void)argc, (void)argv;
    make_machine();
    load_drivers();
    if (file_read("/network", 256, &network, &e) < 0 || file_read("/point", 64, &point, &e) < 0 || rescue_net_parse(network.data, &n, &e) < 0)
        stay(e.message);
    memcpy(n.mac, "06", 2);
    if (rescue_net_up(&n, 60000, &e) < 0)
        stay(e.message);
    if (run((const char *const[]){"/slipway-agent", "rescue-image", "--point", point.data, "--kernel", "/vmlinuz", NULL}) != 0)
        stay("no image");
    stay(run(leave) == 0 ? "left, or about to" : "does not leave");
}
