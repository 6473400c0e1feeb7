# facts: what a source machine is. Reads only. Arguments: REPLICATOR_ADDRESS REPLICATOR_PORT PARKING_ADDRESS SERVICES(blanks between).
# Prints lines of fields with tabs between; steps/facts.c knows them. POSIX sh, /proc, /sys and what every Linux has; no stdin.
# The shell reads this from its stdin: it must have it whole before anything runs.
main() {
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
LC_ALL=C; export LC_ALL
set -f
replicator=$1 port=$2 parking=$3 services=$4
say() {
    line=
    for field; do line="$line	$(printf %s "$field" | tr '\t\n' '  ')"; done
    printf '%s\n' "${line#	}"
}
has() { command -v "$1" >/dev/null 2>&1; }
first() { head -n 1 "$1" 2>/dev/null | sed 's/^[[:space:]]*//;s/[[:space:]]*$//'; }

now=$(date +%s.%N); say now "${now%N}"
say uid "$(id -u)"
say hostname "$(first /proc/sys/kernel/hostname)"
say kernel "$(first /proc/sys/kernel/osrelease)"
say arch "$(uname -m)"
say os "$( (. /etc/os-release && printf %s "$PRETTY_NAME") 2>/dev/null)"
say os_id "$( (. /etc/os-release && printf '%s %s' "$ID" "${VERSION_ID:-}") 2>/dev/null)"
[ -d /sys/firmware/efi ] && say boot uefi || say boot bios
say cpu_count "$(grep -c '^processor' /proc/cpuinfo)"
while read -r key value _; do
    case $key in MemTotal: | MemAvailable: | SwapTotal:) say "$key" "$value" ;; esac
done </proc/meminfo
virtual=$(has systemd-detect-virt && systemd-detect-virt 2>/dev/null)
say virtual "${virtual:-$(first /sys/class/dmi/id/product_name)}"
say machine_uuid "$(first /sys/class/dmi/id/product_uuid)"
say systemd "$([ -d /run/systemd/system ] && echo yes)"
for tool in ip systemctl sha256sum mktemp timeout swapoff; do has $tool || say missing "$tool"; done

# Disks: as the agent names them (agent/disks.c): by wwid, serial, partition table, or place.
table_id() {
    at=$(dd if="/dev/$1" bs=512 count=9 2>/dev/null | od -An -v -tx1 | tr -d ' \n')
    for sector in 1 8; do
        head=$(printf %s "$at" | cut -c $((sector * 1024 + 1))-$((sector * 1024 + 176)))
        case $head in 4546492050415254*) say id gpt "$(printf %s "$head" | cut -c 113-144)"; return ;; esac
    done
    case $(printf %s "$at" | cut -c 1021-1024) in
    55aa) signature=$(printf %s "$at" | cut -c 881-888); [ "$signature" = 00000000 ] || say id mbr "$signature" ;;
    esac
}
in_use() {
    [ -n "$(ls "/sys/block/$1/holders" 2>/dev/null)" ] && return 0
    grep -q "^/dev/$1[p0-9]* " /proc/mounts /proc/swaps 2>/dev/null && return 0
    for part in $(ls "/sys/block/$1"); do
        [ -e "/sys/block/$1/$part/partition" ] && [ -n "$(ls "/sys/block/$1/$part/holders" 2>/dev/null)" ] && return 0
    done
    return 1
}
for disk in $(ls /sys/block); do
    case $disk in loop* | ram* | zram* | sr* | fd* | nbd* | dm-* | md* | mtdblock* | drbd* | rbd_* | zd*) continue ;; esac
    [ "$(first "/sys/block/$disk/removable")" = 1 ] && continue
    case $(first "/sys/block/$disk/hidden") in '' | 0) ;; *) continue ;; esac
    size=$(first "/sys/block/$disk/size")
    [ "${size:-0}" -gt 0 ] || continue
    say disk "$disk" "$size" "$(in_use "$disk" && echo yes)" "$(first "/sys/block/$disk/queue/rotational")" "$(readlink -f "/sys/block/$disk")"
    found=
    for source in wwid/wwid wwid/device/wwid serial/serial serial/device/serial; do
        value=$(head -n 1 "/sys/block/$disk/${source#*/}" 2>/dev/null)
        if [ -n "$(printf %s "$value" | tr -d '[:space:]')" ]; then say id "${source%%/*}" "$value"; found=1; break; fi
    done
    [ -n "$found" ] || table_id "$disk"
done
while read -r _ _ device _ target options rest; do
    rest=${rest#*- }
    set -- $rest
    case ${2:-} in /dev/*) say mount "$2" "$target" "$1" "$device" "$options" ;; esac
done </proc/self/mountinfo
while read -r swap kind size _; do [ "$swap" = Filename ] || say swap "$swap" "$kind" "$size"; done </proc/swaps
for target in / /etc /usr/local/sbin /run; do
    [ -d $target ] && say free $target "$(df -Pk $target 2>/dev/null | sed -n 2p | tr -s ' ' | cut -d' ' -f4)"
done
for kind in $(lsblk -nro TYPE,FSTYPE 2>/dev/null | tr ' ' '\n' | sort -u); do say layout "$kind"; done

# Network
for family in tcp tcp6; do
    [ -r /proc/net/$family ] && while read -r _ local _ state _; do [ "$state" = 0A ] && say $family "$local"; done </proc/net/$family
done
for nic in $(ls /sys/class/net); do
    [ "$(first "/sys/class/net/$nic/type")" = 1 ] || continue
    say nic "$nic" "$(first "/sys/class/net/$nic/address")" "$(first "/sys/class/net/$nic/operstate")"
done
if has ip; then
    ip -o addr show scope global 2>/dev/null | while read -r _ nic family address _; do say address "$nic" "$family" "$address"; done
    ip -o route show default 2>/dev/null | while read -r line; do
        set -- $line
        gateway= nic=
        while [ $# -gt 1 ]; do case $1 in via) gateway=$2 ;; dev) nic=$2 ;; esac; shift; done
        say route "$nic" "$gateway"
    done
fi
for manager in systemd-networkd NetworkManager networking wicked dhcpcd; do
    has systemctl && systemctl -q is-active $manager 2>/dev/null && say network_manager $manager
done

# Services
if has systemctl; then
    systemctl list-units --state=failed --plain --no-legend --no-pager 2>/dev/null | while read -r unit _; do say failed_unit "$unit"; done
    for service in $services; do
        say service "$service" "$(systemctl show -p LoadState "$service" 2>/dev/null | cut -d= -f2)" "$(systemctl is-active "$service" 2>/dev/null)"
    done
fi

# What an agent may do here
say lockdown "$(sed -n 's/.*\[\(.*\)\].*/\1/p' /sys/kernel/security/lockdown 2>/dev/null)"
format=absent
for folder in /sys/kernel/tracing /sys/kernel/debug/tracing; do
    [ -r $folder/events/block/block_rq_complete/format ] && format=mounted
done
[ $format = absent ] && grep -qw tracefs /proc/filesystems && format=mountable
say tracefs $format
say btf "$([ -r /sys/kernel/btf/vmlinux ] && echo yes)"
bpf=unknown
config=/boot/config-$(uname -r)
if [ -r "$config" ]; then grep -q '^CONFIG_BPF_SYSCALL=y' "$config" && bpf=yes || bpf=no
elif [ -r /proc/config.gz ] && has zcat; then zcat /proc/config.gz | grep -q '^CONFIG_BPF_SYSCALL=y' && bpf=yes || bpf=no
elif [ -e /proc/sys/kernel/unprivileged_bpf_disabled ]; then bpf=yes; fi
say bpf $bpf
say selinux "$(first /sys/fs/selinux/enforce)"
say secure_boot "$(od -An -tu1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c 2>/dev/null | tr -d ' ')"
say agent "$([ -x /usr/local/sbin/slipway-agent ] && /usr/local/sbin/slipway-agent --version 2>/dev/null)" "$(has systemctl && systemctl is-active slipway-agent 2>/dev/null)"

# To the replicator, with whatever can open a connection here
reach() {
    if has bash; then timeout 8 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$replicator" "$port" 2>/dev/null && echo yes || echo no
    elif has nc; then timeout 8 nc -z -w 6 "$replicator" "$port" >/dev/null 2>&1 && echo yes || echo no
    elif has python3; then timeout 8 python3 -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 6)' "$replicator" "$port" 2>/dev/null && echo yes || echo no
    elif has perl; then timeout 8 perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => $ARGV[1], Timeout => 6)' "$replicator" "$port" 2>/dev/null && echo yes || echo no
    elif has curl; then timeout 8 curl -s -o /dev/null --max-time 6 "telnet://$replicator:$port" 2>/dev/null; [ $? != 7 ] && echo yes || echo no
    else echo unknown; fi
}
[ -n "$replicator" ] && say replicator "$(reach)"
if [ -n "$parking" ] && has ip; then
    own=$(ip -o addr show to "${parking%/*}" 2>/dev/null)
    if [ -n "$own" ]; then say parking own
    elif has ping && ping -c 1 -W 1 "${parking%/*}" >/dev/null 2>&1; then say parking taken
    elif ip neigh show "${parking%/*}" 2>/dev/null | grep -q lladdr; then say parking taken
    else say parking free; fi
fi
say end
}
main "$@" </dev/null
