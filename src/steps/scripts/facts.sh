# facts: what a source machine is. Reads only. Arguments: REPLICATOR_ADDRESS REPLICATOR_PORT PARKING_ADDRESS SERVICES(blanks between) PROXY.
# Prints lines of fields with tabs between; steps/facts.c knows them. POSIX sh, /proc, /sys and what every Linux has; few processes, for
# a source may be busy.
# The shell reads this from its stdin: it must have it whole before anything runs.
main() {
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
LC_ALL=C; export LC_ALL
replicator=$1 port=$2 parking=$3 services=$4 proxy=${5#http://}
tab='	'
newline='
'
say() {
    line=
    for field; do
        case $field in *"$tab"* | *"$newline"*) field=$(printf %s "$field" | tr '\t\n' '  ') ;; esac
        line=$line$tab$field
    done
    printf '%s\n' "${line#?}"
}
has() { command -v "$1" >/dev/null 2>&1; }
get() { value=; [ -r "$1" ] && read -r value 2>/dev/null <"$1"; return 0; } # the first line, without blanks around, into $value
told() { get "$2"; say "$1" "$value"; }

now=$(date +%s.%N); say now "${now%N}"
say uid "$(id -u)"
told hostname /proc/sys/kernel/hostname
get /proc/sys/kernel/osrelease; kernel=$value
say kernel "$kernel"
say arch "$(uname -m)"
if [ -r /etc/os-release ]; then
    # shellcheck disable=SC1091
    . /etc/os-release
    say os "$PRETTY_NAME"
    say os_id "$ID ${VERSION_ID:-}"
fi
if [ -d /sys/firmware/efi ]; then say boot uefi; else say boot bios; fi
say cpu_count "$(grep -c '^processor' /proc/cpuinfo)"
while read -r key value _; do
    case $key in MemTotal: | MemAvailable: | SwapTotal:) say "$key" "$value" ;; esac
done </proc/meminfo
virtual=
has systemd-detect-virt && virtual=$(systemd-detect-virt 2>/dev/null)
get /sys/class/dmi/id/product_name
say virtual "${virtual:-$value}"
told machine_uuid /sys/class/dmi/id/product_uuid
[ -d /run/systemd/system ] && say systemd yes
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
    for holder in "/sys/block/$1"/holders/* "/sys/block/$1/$1"*/holders/*; do [ -e "$holder" ] && return 0; done
    grep -q "^/dev/$1[p0-9]* " /proc/mounts /proc/swaps 2>/dev/null
}
# What dm-multipath joins is one disk, and its ways are none (as src/agent/disks.c has it).
multipath() { get "/sys/block/$1/dm/uuid"; case $value in mpath-*) return 0 ;; esac; return 1; }
way() {
    for holder in "/sys/block/$1"/holders/dm-*; do multipath "${holder##*/}" && return 0; done
    return 1
}
for path in /sys/block/*; do
    disk=${path##*/}
    case $disk in loop* | ram* | zram* | sr* | fd* | nbd* | md* | mtdblock* | drbd* | rbd_* | zd* | bcache*) continue ;; esac
    case $disk in dm-*) multipath "$disk" || continue ;; esac
    way "$disk" && continue
    get "$path/removable"; [ "$value" = 1 ] && continue
    get "$path/hidden"; case $value in '' | 0) ;; *) continue ;; esac
    get "$path/size"; size=$value
    [ "${size:-0}" -gt 0 ] || continue
    used=; in_use "$disk" && used=yes
    get "$path/queue/rotational"; rotational=$value
    case $disk in dm-*) for slave in "$path"/slaves/*; do path=$slave; break; done ;; esac
    say disk "$disk" "$size" "$used" "$rotational" "$(readlink -f "$path")"
    found=
    for source in wwid/wwid wwid/device/wwid serial/serial serial/device/serial; do
        get "$path/${source#*/}"
        if [ -n "$value" ]; then say id "${source%%/*}" "$value"; found=1; break; fi
    done
    [ -n "$found" ] || table_id "$disk"
done
while read -r _ _ device _ target options rest; do
    rest=${rest#*- }
    case $rest in
    *' /dev/'*) source=${rest#* }; say mount "${source%% *}" "$target" "${rest%% *}" "$device" "$options" ;;
    esac
done </proc/self/mountinfo
while read -r swap kind size _; do [ "$swap" = Filename ] || say swap "$swap" "$kind" "$size"; done </proc/swaps
targets=
for target in /etc /usr/local/sbin /run; do [ ! -d $target ] || targets="$targets $target"; done
# shellcheck disable=SC2086
if free=$(df -Pk $targets 2>/dev/null); then # a line for each, in their order; where one fails, nothing is known of any
    printf '%s\n' "$free" | {
        read -r _
        for target in $targets; do read -r _ _ _ free _ && say free "$target" "$free"; done
    }
fi
for kind in $(lsblk -nro TYPE,FSTYPE 2>/dev/null | tr ' ' '\n' | sort -u); do say layout "$kind"; done

# Network
for family in tcp tcp6; do
    [ -r /proc/net/$family ] && while read -r _ local _ state _; do [ "$state" = 0A ] && say $family "$local"; done </proc/net/$family
done
# A bridge of which no port leads out of this machine is made here, for containers or guests, and is in the copy by itself: no interface of it. (A neighbour
# that has one like it answers for its address: the copy's door would not open.)
inner() {
    [ -d "$1/bridge" ] || return 1
    case "$routes " in *" dev ${1##*/} "*) return 1 ;; esac
    for member in "$1"/brif/*; do
        for lead in "/sys/class/net/${member##*/}/device" "/sys/class/net/${member##*/}"/lower_*; do [ ! -e "$lead" ] || return 1; done
    done
    return 0
}
routes=$(ip -o route show default 2>/dev/null | tr '\n' ' ')
for path in /sys/class/net/*; do
    get "$path/type"; [ "$value" = 1 ] || continue
    inner "$path" && continue
    get "$path/address"; mac=$value
    get "$path/operstate"
    say nic "${path##*/}" "$mac" "$value"
done
if has ip; then
    ip -o addr show scope global 2>/dev/null | while read -r _ nic family address _; do say address "$nic" "$family" "$address"; done
    ip -o route show default 2>/dev/null | while read -r line; do
        gateway='' nic=''
        case $line in *' via '*) gateway=${line#* via }; gateway=${gateway%% *} ;; esac
        case $line in *' dev '*) nic=${line#* dev }; nic=${nic%% *} ;; esac
        say route "$nic" "$gateway"
    done
fi

# Services
if has systemctl; then
    managers='systemd-networkd NetworkManager networking wicked dhcpcd'
    # shellcheck disable=SC2086
    systemctl is-active $managers 2>/dev/null | for manager in $managers; do
        read -r active && [ "$active" = active ] && say network_manager $manager
    done
    systemctl list-units --state=failed --plain --no-legend --no-pager 2>/dev/null | while read -r unit _; do say failed_unit "$unit"; done
    for service in $services; do
        load='' active=''
        systemctl show -p LoadState -p ActiveState "$service" 2>/dev/null | {
            while IFS='=' read -r name value; do
                case $name in LoadState) load=$value ;; ActiveState) active=$value ;; esac
            done
            say service "$service" "$load" "$active"
        }
    done
fi

# What an agent may do here
lockdown=
get /sys/kernel/security/lockdown
case $value in *\[*\]*) lockdown=${value#*\[}; lockdown=${lockdown%%\]*} ;; esac
say lockdown "$lockdown"
[ -r /sys/kernel/btf/vmlinux ] && say btf yes
bpf=unknown
if [ -r "/boot/config-$kernel" ]; then if grep -q '^CONFIG_BPF_SYSCALL=y' "/boot/config-$kernel"; then bpf=yes; else bpf=no; fi
elif [ -e /proc/sys/kernel/unprivileged_bpf_disabled ]; then bpf=yes; fi
say bpf $bpf
told selinux /sys/fs/selinux/enforce
[ -d /sys/firmware/efi/efivars ] &&
    say secure_boot "$(od -An -tu1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c 2>/dev/null | tr -d ' ')"
if [ -x /usr/local/sbin/slipway-agent ]; then
    say agent "$(/usr/local/sbin/slipway-agent --version 2>/dev/null)" "$(has systemctl && systemctl is-active slipway-agent 2>/dev/null)"
fi

# To the replicator, with whatever can open a connection here. It may be starting just now: a few tries.
try() { # COMMAND…: yes or no, by its exit status
    answer=no tries=4
    while [ $tries -gt 0 ]; do
        if timeout 8 "$@" >/dev/null 2>&1; then answer=yes; return; fi
        tries=$((tries - 1))
        [ $tries = 0 ] || sleep 3
    done
}
if [ -n "$replicator" ]; then
    # shellcheck disable=SC2016
    if [ -n "$proxy" ]; then
        proxy=${proxy%/}
        proxy_address=${proxy%:*}
        proxy_address=${proxy_address#[}
        # Whether it lets us through, and not only whether it is there: any 2xx.
        if has bash; then try bash -c 'exec 3<>"/dev/tcp/$2/$3" && printf "CONNECT %s:%s HTTP/1.1\r\nHost: %s:%s\r\n\r\n" "$0" "$1" "$0" "$1" >&3 &&
                IFS= read -r -t 7 -u 3 line && case $line in HTTP/1.?" 2"*) ;; *) exit 1 ;; esac' "$replicator" "$port" "${proxy_address%]}" "${proxy##*:}"
        elif has python3; then try python3 -c 'import http.client, sys
c = http.client.HTTPConnection(sys.argv[3], int(sys.argv[4]), timeout=8); c.set_tunnel(sys.argv[1], int(sys.argv[2])); c.connect()' \
                "$replicator" "$port" "${proxy_address%]}" "${proxy##*:}"
        else answer=unknown; fi
    elif has bash; then try bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$replicator" "$port"
    elif has nc; then try nc -z -w 8 "$replicator" "$port"
    elif has python3; then try python3 -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 8)' "$replicator" "$port"
    elif has perl; then try perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => $ARGV[1], Timeout => 8)' "$replicator" "$port"
    else answer=unknown; fi
    say replicator $answer
fi
if [ -n "$parking" ] && has ip; then
    if [ -n "$(ip -o addr show to "${parking%/*}" 2>/dev/null)" ]; then say parking own
    elif has ping && ping -c 1 -W 1 "${parking%/*}" >/dev/null 2>&1; then say parking taken
    else
        # Silence is no proof, and there may be no ping: whoever has the address answers ARP, which any packet asks for.
        asked=
        has ping && asked=1
        # shellcheck disable=SC2016
        has bash && bash -c 'echo >"/dev/udp/$0/9"' "${parking%/*}" 2>/dev/null && asked=1 && sleep 1
        if ip neigh show "${parking%/*}" 2>/dev/null | grep -q lladdr; then say parking taken
        elif [ -n "$asked" ]; then say parking free
        else say parking unknown; fi
    fi
fi
say end
}
main "$@" </dev/null
