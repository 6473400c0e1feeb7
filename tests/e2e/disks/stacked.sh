# Disks on disks. The blank NVMe disk and vda: the halves of a RAID1; sda and sdb: one SCSI disk by two ways.
node() { # NAME: makes /dev/NAME of the device-mapper's device
    mknod "/dev/$1" b $(dmsetup info -c --noheadings -o major,minor --separator ' ' "$1")
}
mdadm --create /dev/md0 --run --metadata=1.2 --level=1 --raid-devices=2 --assume-clean /dev/$blank /dev/vda 2>&1 | grep -v started
dmsetup --noudevsync create vol --table "0 131072 linear /dev/md0 2048" && node vol
scenario raid_and_volume "$blank vda" 'mkfs.ext4 -q -F /dev/vol && mount -o discard /dev/vol /mnt && random /mnt/a 8 && sync && rm /mnt/a && sync && fstrim /mnt && umount /mnt; sync'
echo "agent with two ways: $(agent)"
dmsetup --noudevsync create mp --uuid mpath-test --table "0 $(cat /sys/block/sda/size) multipath 0 0 1 1 round-robin 0 2 1 8:0 1 8:16 1" && node mp
joined=$(basename "$(readlink -f "/sys/dev/block/$(dmsetup info -c --noheadings -o major,minor --separator : mp)")")
echo "joined $joined, queue $(ls "/sys/block/$joined" | grep -cx mq)"
before="$(cat /sys/block/sda/stat) / $(cat /sys/block/sdb/stat)"
scenario two_ways "$joined" 'i=0; while [ $i -lt 40 ]; do dd if=/dev/urandom of=/dev/mp bs=64k seek=$((i * 3)) count=1 oflag=direct 2>/dev/null; i=$((i + 1)); done; mkfs.ext4 -q -F /dev/mp && mount /dev/mp /mnt && random /mnt/a 8 && sync && rm /mnt/a && fstrim /mnt; umount /mnt'
for way in sda sdb; do set -- $(cat /sys/block/$way/stat); echo "way $way wrote $5"; done
# One of its ways alone does not tell of what the other wrote.
scenario one_way sda 'i=0; while [ $i -lt 40 ]; do dd if=/dev/urandom of=/dev/mp bs=64k seek=$((i * 3)) count=1 oflag=direct 2>/dev/null; i=$((i + 1)); done'
echo "agent with multipath: $(agent)"
# A SCSI disk by one way; and what goes past the block layer, to it and to its other name.
mkfs.ext4 -q -F /dev/sdc && mount -o discard /dev/sdc /mnt
scenario scsi sdc 'random /mnt/a 8; sync; rm /mnt/a; sync; fstrim /mnt; umount /mnt; random /dev/sdc 1 40; blkdiscard -f -o 50331648 -l 16777216 /dev/sdc'
generic=$(ls /sys/block/sdc/device/scsi_generic)
scenario pass_through_nothing sdc 'cat /sys/block/sdc/size'
scenario pass_through_write sdc 'pass_through /dev/sdc write'
scenario pass_through_generic sdc "pass_through /dev/$generic write"
scenario pass_through_unmap sdc 'pass_through /dev/sdc unmap'
