/* What an agent left frozen that was killed together with its freezer. */
#include "agent/agent.h"
#include "base/file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int agent_thaw_left(const char *runtime_dir)
{
    CLEANUP(free_ptr) char *marker = xasprintf("%s/frozen", runtime_dir);
    CLEANUP(buf_release) struct buf text = {0};
    int thawed = 0;

    if (file_read(marker, 65536, &text, NULL) < 0)
        return 0;
    for (char *rest = text.data, *path; (path = strsep(&rest, "\n"));) {
        CLEANUP(close_fd) int fd = *path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

        if (fd >= 0 && ioctl(fd, FITHAW, 0) == 0)
            thawed++;
    }
    unlink(marker);
    return thawed;
}
