#include "target/probe_disk.h"
#include "base/file.h"

#include <string.h>

/* 16-bit code at 0x7c00, as the BIOS loads it. Addresses of the q35 machine: serial port 0x3f8, ACPI's PM1a registers: status 0x600
 * (bit 8: the power button was pressed), enable 0x602, control 0x604 (bit 13: go to sleep; type 0 is S5, off). */
static const unsigned char boot_code[] = {
    0xfa,                         /*       cli                                     */
    0x31, 0xc0,                   /*       xor  ax, ax                             */
    0x8e, 0xd8,                   /*       mov  ds, ax                             */
    0x8e, 0xc0,                   /*       mov  es, ax                             */
    0x8e, 0xd0,                   /*       mov  ss, ax                             */
    0xbc, 0x00, 0x7c,             /*       mov  sp, 0x7c00                         */
    0xfb,                         /*       sti                                     */
    0xea, 0x12, 0x7c, 0x00, 0x00, /*       jmp  0:next                             */
    0xba, 0xf9, 0x03,             /* next: mov  dx, 0x3f9   no serial interrupts   */
    0x30, 0xc0,                   /*       xor  al, al                             */
    0xee,                         /*       out  dx, al                             */
    0xbe, 0x52, 0x7c,             /*       mov  si, text                           */
    0xac,                         /* put:  lodsb                                   */
    0x84, 0xc0,                   /*       test al, al                             */
    0x74, 0x18,                   /*       jz   done                               */
    0x88, 0xc3,                   /*       mov  bl, al                             */
    0xba, 0xfd, 0x03,             /*       mov  dx, 0x3fd                          */
    0xec,                         /* busy: in   al, dx                             */
    0xa8, 0x20,                   /*       test al, 0x20    transmitter is empty   */
    0x74, 0xfb,                   /*       jz   busy                               */
    0x88, 0xd8,                   /*       mov  al, bl                             */
    0xba, 0xf8, 0x03,             /*       mov  dx, 0x3f8                          */
    0xee,                         /*       out  dx, al                             */
    0xb4, 0x0e,                   /*       mov  ah, 0x0e    and on the screen      */
    0x31, 0xdb,                   /*       xor  bx, bx                             */
    0xcd, 0x10,                   /*       int  0x10                               */
    0xeb, 0xe3,                   /*       jmp  put                                */
    0xba, 0x02, 0x06,             /* done: mov  dx, 0x602   power button enabled   */
    0xb8, 0x00, 0x01,             /*       mov  ax, 0x100                          */
    0xef,                         /*       out  dx, ax                             */
    0xf4,                         /* poll: hlt              until the next tick    */
    0xba, 0x00, 0x06,             /*       mov  dx, 0x600                          */
    0xed,                         /*       in   ax, dx                             */
    0xf6, 0xc4, 0x01,             /*       test ah, 1                              */
    0x74, 0xf6,                   /*       jz   poll                               */
    0xba, 0x04, 0x06,             /*       mov  dx, 0x604                          */
    0xb8, 0x00, 0x20,             /*       mov  ax, 0x2000                         */
    0xef,                         /*       out  dx, ax                             */
    0xeb, 0xed,                   /*       jmp  poll                               */
};
static const char boot_text[] = PROBE_TEXT "\r\n";

int probe_disk_write(const char *path, struct err *e)
{
    CLEANUP(free_ptr) unsigned char *disk = xcalloc(1, PROBE_DISK_BYTES);

    MUST(sizeof boot_code == 0x52 && sizeof boot_code + sizeof boot_text <= 510);
    memcpy(disk, boot_code, sizeof boot_code);
    memcpy(disk + sizeof boot_code, boot_text, sizeof boot_text);
    disk[510] = 0x55;
    disk[511] = 0xaa;
    return file_write(path, disk, PROBE_DISK_BYTES, 0600, e);
}
