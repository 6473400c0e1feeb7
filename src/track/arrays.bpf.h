/* The arrays of the tracker's programs. */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

/* flags: BPF_F_MMAPABLE (from 5.5 on), or 0. */
#define ARRAY(name, type_of_value, count, flags) \
    struct { \
        __uint(type, BPF_MAP_TYPE_ARRAY); \
        __uint(max_entries, count); \
        __uint(map_flags, flags); \
        __type(key, __u32); \
        __type(value, type_of_value); \
    } name SEC(".maps")
