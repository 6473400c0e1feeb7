# Any guest. One NVMe disk has XFS, vda has ext4, both empty; the other NVMe disk is blank. Newer kernels number them as they happen to come.
for try in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/vda ] && [ -e /dev/nvme1n1 ] && break; sleep 1; done
xfs=nvme0n1 blank=nvme1n1
grep -q nvme-0 /sys/block/$xfs/device/serial || { xfs=nvme1n1; blank=nvme0n1; }
echo "ranges $(cat /sys/block/$xfs/queue/max_discard_segments)"

# Many files apart from each other go, and XFS discards what they held at once: requests of many ranges.
mount -o discard /dev/$xfs /mnt
i=0; while [ $i -lt 60 ]; do dd if=/dev/urandom of=/mnt/f$i bs=64k count=1 2>/dev/null; i=$((i + 1)); done
sync
echo 1 >/sys/kernel/tracing/events/block/block_rq_issue/enable
scenario nvme_online_discard $xfs 'i=0; while [ $i -lt 60 ]; do rm /mnt/f$i; i=$((i + 2)); done; sync; umount /mnt'
echo 0 >/sys/kernel/tracing/events/block/block_rq_issue/enable
echo "discards $(grep -c ': 259,[0-9]* D' /sys/kernel/tracing/trace)"

mount /dev/$xfs /mnt
scenario nvme_trim $xfs 'rm /mnt/f1* /mnt/f3*; sync; fstrim /mnt; umount /mnt'
scenario nvme_discard_all $xfs "dd if=/dev/zero of=/dev/$xfs bs=1M count=1 2>/dev/null; blkdiscard /dev/$xfs" # which asks first where it finds a filesystem
mount /dev/vda /mnt
scenario virtio vda 'random /mnt/a 8; sync; rm /mnt/a; sync; fstrim /mnt; umount /mnt; random /dev/vda 1 40'
