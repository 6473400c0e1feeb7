/* bytes: numbers in the byte order of a format, at any address: little-endian for our own formats, big-endian for NBD and
 * for keys that must sort. The compiler makes one instruction of each. */
#pragma once

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define BYTES_ORDER(order, bits)                                                           \
    static inline void put_##order##bits(void *at, uint##bits##_t value)                   \
    {                                                                                      \
        value = hto##order##bits(value);                                                   \
        memcpy(at, &value, sizeof value);                                                  \
    }                                                                                      \
    static inline uint##bits##_t get_##order##bits(const void *at)                         \
    {                                                                                      \
        uint##bits##_t value;                                                              \
                                                                                           \
        memcpy(&value, at, sizeof value);                                                  \
        return order##bits##toh(value);                                                    \
    }

BYTES_ORDER(le, 16)
BYTES_ORDER(le, 32)
BYTES_ORDER(le, 64)
BYTES_ORDER(be, 16)
BYTES_ORDER(be, 32)
BYTES_ORDER(be, 64)

#undef BYTES_ORDER
