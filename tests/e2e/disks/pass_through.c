/* pass_through DEVICE write|unmap: gives a SCSI disk a command past the block layer (SG_IO), as sg3-utils do: WRITE(10) of 8 sectors of random bytes at sector 2048; or UNMAP of these. Of a whole SCSI disk or its
 * /dev/sg. Static: a guest's initramfs is all that it needs. */
#include <fcntl.h>
#include <scsi/sg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <unistd.h>

#define SECTOR 2048
#define COUNT 8

int main(int argc, char **argv)
{
    unsigned char write[10] = {0x2a, [4] = SECTOR >> 8, [8] = COUNT}, unmap[10] = {0x42, [8] = 24}, sense[64];
    unsigned char range[24] = {[1] = 22, [3] = 16, [14] = SECTOR >> 8, [19] = COUNT}, data[COUNT * 512];
    struct sg_io_hdr command = {.interface_id = 'S', .dxfer_direction = SG_DXFER_TO_DEV, .cmd_len = 10, .mx_sb_len = sizeof sense, .sbp = sense, .timeout = 20000};
    int fd = argc == 3 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1, is_unmap = argc == 3 && strcmp(argv[2], "unmap") == 0;

    if (fd < 0 || getrandom(data, sizeof data, 0) != sizeof data) {
        perror("usage: pass_through DEVICE write|unmap");
        return 2;
    }
    command.cmdp = is_unmap ? unmap : write;
    command.dxferp = is_unmap ? range : data;
    command.dxfer_len = is_unmap ? sizeof range : sizeof data;
    if (ioctl(fd, SG_IO, &command) < 0 || command.status || command.host_status || command.driver_status) {
        printf("SG_IO failed: status %d, host %d, driver %d\n", command.status, command.host_status, command.driver_status);
        return 1;
    }
    close(fd);
    return 0;
}
