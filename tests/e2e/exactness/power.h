/* power: a disk with a cache that loses its power at a write that was named before. What was flushed by then is there; of each later write all, nothing
 * or its first sectors. Nothing is answered any more after that. What is discarded or zeroed without bytes passes it by. Any thread may call. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The power goes at the at-th write (from 1 on). image: the disk's file. seed: which writes are lost. */
void power_goes(int image, unsigned at, unsigned seed);

/* 0, or -1 with errno: EIO where the power has gone. Without power_goes it is a write. */
int power_write(int image, const uint8_t *bytes, size_t size, uint64_t offset);

/* As above; what was written is there from now on. */
int power_flush(void);

bool power_is_gone(void);
