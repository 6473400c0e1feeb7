#!/bin/sh
# The guest's first process. A scenario is one run of "changes" (changes.c): each of its lines is told as "NAME: LINE", and its end as "NAME exit STATUS".
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /run; mount -t tmpfs tmp /tmp
while read -r module; do insmod "/modules/$module"; done </modules/order
mount -t tracefs trace /sys/kernel/tracing
! grep -q slipway.without_types /proc/cmdline || mount -t tmpfs hidden /sys/kernel/btf

scenario() { # NAME DISKS COMMAND
    changes $2 -- "$3" >/run/out 2>&1
    status=$?
    while read -r line; do echo "$1: $line"; done </run/out
    echo "$1 exit $status"
}
agent() { slipway-agent facts 2>&1 | tr -d '\n'; echo; }

echo "kernel $(uname -r) $(uname -m)"
. /bin/scenarios
[ ! -e /bin/more ] || . /bin/more
echo finished
echo o >/proc/sysrq-trigger
sleep 60
