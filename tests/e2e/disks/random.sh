#!/bin/sh
# random FILE MIB [AT]
exec dd if=/dev/urandom of="$1" bs=1M count="$2" seek="${3:-0}" conv=notrunc 2>/dev/null
