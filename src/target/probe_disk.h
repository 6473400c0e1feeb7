/* probe_disk: the smallest machine that proves that it ran: a disk whose boot sector prints PROBE_TEXT on the first serial port and on
 * the screen, then sleeps until the power button is pressed, and powers off (ACPI, as SeaBIOS sets it up on q35). */
#pragma once

#include "base/err.h"

#include <stdint.h>

#define PROBE_TEXT "slipway probe"
#define PROBE_DISK_BYTES INT64_C(1048576)

/* Makes the raw disk image (mode 0600), atomically. */
int probe_disk_write(const char *path, struct err *e);
