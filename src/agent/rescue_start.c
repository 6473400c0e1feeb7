/* rescue_start: the kernel anew, with an image, in the place of the running system: kexec_file_load(2), which needs no other program. */
#include "agent/rescue_parts.h"

#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#define LEAVE_US (2 * US_PER_S) /* for the answer over the network */
#define REMOUNT_US (3 * US_PER_S)

/* Of this kernel's command line, what belongs to the machine and not to the system on its disks. */
static char *command_line(void)
{
    static const char *const kept[] = {"console=", "earlycon", "earlyprintk", "acpi", "noacpi", "pci=", "noapic", "nolapic", "iommu", "intel_iommu", "amd_iommu",
                                       "mitigations=", "nopti", "clocksource=", "tsc=", "nomodeset"};
    CLEANUP(buf_release) struct buf now = {0}, out = {0};
    char *rest = NULL;

    if (file_read("/proc/cmdline", 8192, &now, NULL) == 0 && now.data)
        for (char *word = strtok_r(now.data, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
            for (size_t i = 0; i < ARRAY_COUNT(kept); i++)
                if (strncmp(word, kept[i], strlen(kept[i])) == 0) {
                    buf_printf(&out, "%s ", word);
                    break;
                }
    buf_puts(&out, "panic=0"); /* a rescue that can't go on stays */
    return buf_take(&out);
}

char *rescue_kernel(const struct rescue_order *order, struct err *e)
{
    static const char *const names[] = {"vmlinuz", "vmlinux", "Image", "kernel"};
    struct utsname kernel;

    if (order->kernel)
        return xstrdup(order->kernel);
    MUST(uname(&kernel) == 0);
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        CLEANUP(free_ptr) char *path = xasprintf("/boot/%s-%s", names[i], kernel.release);

        if (file_exists(path))
            return xstrdup(path);
    }
    err_set(e, ERR_NOT_FOUND, "/boot has no kernel %s, which is the one that runs: name one of the same release with --kernel", kernel.release);
    return NULL;
}

static int load(int kernel, int image, const char *words, unsigned long flags)
{
    return (int)syscall(SYS_kexec_file_load, kernel, image, words ? strlen(words) + 1 : 0UL, words, flags);
}

int rescue_load(const char *kernel, const char *image, bool try_only, struct err *e)
{
    CLEANUP(close_fd) int kernel_fd = open(kernel, O_RDONLY | O_CLOEXEC), image_fd = open(image, O_RDONLY | O_CLOEXEC);
    CLEANUP(free_ptr) char *words = command_line();

    if (kernel_fd < 0 || image_fd < 0)
        return err_errno(e, errno, "%s", kernel_fd < 0 ? kernel : image);
    if (load(kernel_fd, image_fd, words, 0) < 0) {
        if (errno == ENOSYS || errno == EPERM)
            return err_set(e, ERR_UNSUPPORTED, "this kernel starts no other one (kexec_file_load: %s): use a rescue medium", strerror(errno));
        return err_errno(e, errno, "this kernel does not take %s", kernel);
    }
    if (try_only && load(-1, -1, NULL, KEXEC_FILE_UNLOAD) < 0)
        return err_errno(e, errno, "can't take the kernel out of memory again");
    return 0;
}

static void tell_kernel(const char *file, const char *words)
{
    int fd = open(file, O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        (void)!write(fd, words, strlen(words));
        close(fd);
    }
}

/* In a process of its own, locked in memory: its session and its filesystem go away under it. */
static _Noreturn void leave(void)
{
    clock_sleep_us(LEAVE_US);
    sync();
    tell_kernel("/proc/sysrq-trigger", "u"); /* all filesystems read-only: their journals are done */
    clock_sleep_us(REMOUNT_US);
    syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
    tell_kernel("/dev/kmsg", "slipway-agent: the kernel does not leave for the rescue; nothing was restored; filesystems are read-only until this machine is reset\n");
    _exit(1);
}

int rescue_start(const struct rescue_order *order, struct err *e)
{
    CLEANUP(free_ptr) char *kernel = rescue_kernel(order, e);
    pid_t child;

    if (!kernel || rescue_load(kernel, order->image, false, e) < 0)
        return -1;
    child = fork();
    if (child < 0)
        return err_errno(e, errno, "can't start a process");
    if (child == 0) {
        setsid();
        mlockall(MCL_CURRENT | MCL_FUTURE);
        for (int fd = 0; fd < 3; fd++) {
            int nothing = open("/dev/null", O_RDWR);

            dup2(nothing, fd);
            close(nothing > 2 ? nothing : -1);
        }
        leave();
    }
    return 0;
}
