# park: a source gives its addresses up and moves to its parking address. Arguments: PHASE PRIMARY PARKING_CIDR SERVICES(blanks between).
#   prepare   writes down in /run/slipway-park (memory, not a disk) what is there, and adds the parking address beside
#   leave     run over the parking address: services stopped, swap off, addresses given up, those of the hardware, too. A watchdog takes
#             all of it back unless `confirm` comes within a minute: a machine that can't be reached any more must not stay without its
#             address. Whether it was left or taken back is decided once ($state/decided), by whoever comes first
#   confirm   run over the parking address, after
# Each phase may be run again after any interruption. Prints "ok NAME<TAB>TEXT" and "not ok NAME<TAB>TEXT"; the exit status is 0 when
# nothing stands in the way. The clients' way to this machine changes in `leave` only.
# The shell reads this from its stdin: it must have it whole before anything runs.
main() {
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
LC_ALL=C; export LC_ALL
set -f
umask 077
phase=$1 primary=$2 parking=$3 services=$4
state=/run/slipway-park
failed=0
ok() { printf 'ok %s\t%s\n' "$1" "$2"; }
bad() { printf 'not ok %s\t%s\n' "$1" "$2"; failed=1; }
# Interfaces of hardware, and the one of the primary address whatever it is; and what lies on these: VLANs, bonds, bridges. (Those of containers lie on none.)
leads_out() { # starts no program: a machine with containers has hundreds
    [ ! -e "/sys/class/net/$1/device" ] && [ "$1" != "$primary_nic" ] || return 0
    set +f; set -- "/sys/class/net/$1"/lower_*; set -f
    for lower; do [ -e "$lower" ] && leads_out "${lower##*/lower_}" && return 0; done
    return 1
}
nics() { primary_nic=$(cat $state/nic 2>/dev/null); ls /sys/class/net | while read -r n; do leads_out "$n" && echo "$n"; done | sort -u; }
others() { # the global addresses that are not the parking one, as "NIC CIDR"
    for n in $(nics); do
        ip -o addr show dev "$n" scope global | while read -r _ nic _ cidr _; do [ "${cidr%/*}" = "${parking%/*}" ] || echo "$nic $cidr"; done
    done
}

# Adds to a list what it lacks. An attempt that was cut off may have taken away already what is missing now: what was written down stays.
keep() { : >>"$1"; while read -r line; do grep -qxF -e "$line" "$1" || echo "$line" >>"$1"; done; }

prepare() {
    mkdir -p $state
    nic=$(ip -o addr show to "$primary" | while read -r _ n _; do echo "$n"; break; done)
    if [ -s $state/left ]; then ok "address" "given up before"; nic=$(cat $state/nic)
    elif [ -z "$nic" ]; then bad "address" "$primary is on no interface here"; return
    else
        echo "$nic" >$state/nic
        others | keep $state/addresses
        ip -o route show default | keep $state/routes
        for n in $(nics); do ip -o route show dev "$n" | grep -v -e '^default' -e ' proto kernel ' | sed "s/\$/ dev $n/"; done | keep $state/more_routes
        [ -e $state/swaps ] || sed 1d /proc/swaps >$state/swaps
        [ -e $state/services ] || for s in $services; do systemctl -q is-active "$s" && echo "$s"; done >$state/services
    fi
    ip addr show to "${parking%/*}" dev "$nic" | grep -q . || ip addr add "$parking" dev "$nic" || { bad "parking address" "can't be added to $nic"; return; }
    ok "parking address" "$parking on $nic"
}

# A `leave` whose attempt was cut off goes on until it prints something. Once another one has begun, or the source was taken back (unpark.sh), it must not.
newest() {
    [ "$(cat $state/leaving 2>/dev/null)" != "$own" ] || return 0
    bad parking "broken off: the source was taken back, or another attempt has begun"
    return 1
}

stop_services() {
    for s in $services; do
        # What would start it again by itself
        for trigger in $(systemctl show -p TriggeredBy "$s" | cut -d= -f2-); do
            systemctl stop "$trigger" && echo "$trigger" >>$state/triggers
        done
        systemctl stop "$s" || { bad "service $s" "can't be stopped"; continue; }
        active=$(systemctl is-active "$s")
        case $active in inactive | failed) ok "service $s" "$active" ;; *) bad "service $s" "still $active" ;; esac
    done
}

swap_off() {
    timeout 300 swapoff -a
    left=$(sed 1d /proc/swaps)
    if [ -z "$left" ]; then ok swap "off ($(wc -l <$state/swaps) areas before)"; else bad swap "still on: $left"; fi
}

stop_managers() { # what would give the addresses back
    for m in systemd-networkd.socket systemd-networkd-varlink.socket systemd-networkd NetworkManager wicked dhcpcd; do
        newest || return 1
        systemctl -q is-active $m 2>/dev/null || continue
        grep -qx $m $state/managers 2>/dev/null || echo $m >>$state/managers
        systemctl stop $m 2>/dev/null || bad "network manager" "$m can't be stopped"
    done
    newest || return 1
    for pid in $(pgrep -x dhclient 2>/dev/null); do kill -STOP "$pid" && echo "$pid" >>$state/dhclients; done
}

give_up() {
    for n in $(nics); do [ -e /proc/sys/net/ipv4/conf/$n/promote_secondaries ] && echo 1 >/proc/sys/net/ipv4/conf/$n/promote_secondaries; done
    date +%s >$state/left # first: from here on what is here is less than what was written down
    others | while read -r nic cidr; do ip addr del "$cidr" dev "$nic" 2>/dev/null; done
    # Routes that stood on the addresses that are gone
    while read -r route; do
        set -- $route
        gateway= nic=
        while [ $# -gt 1 ]; do case $1 in via) gateway=$2 ;; dev) nic=$2 ;; esac; shift; done
        [ "$nic" = "$(cat $state/nic)" ] && [ -n "$gateway" ] || continue
        ip route replace default via "$gateway" dev "$nic" src "${parking%/*}" 2>/dev/null ||
            ip route replace default via "$gateway" dev "$nic" onlink
    done <$state/routes
    left=$(others)
    if [ -z "$left" ]; then ok address "$(tr '\n' ' ' <$state/addresses)given up; at $parking now"; else bad address "still has $left"; fi
}

# The copy keeps this machine's hardware addresses: two that have one on the same network would take each other's frames. A card that is a
# part of another device has that one's. arp_notify: the kernel tells the neighbours at once.
change_macs() {
    for n in $(nics); do # all are written down before one changes: a VLAN takes its card's
        [ -e "/sys/class/net/$n/master" ] || [ -s "$state/mac.$n" ] || cat "/sys/class/net/$n/address" >"$state/mac.$n"
    done
    for n in $(nics); do
        [ -e "/sys/class/net/$n/master" ] && continue
        mac=$(cat "$state/mac.$n")
        case $mac in 02:*) new=06${mac#??} ;; ??:??:??:??:??:??) new=02${mac#??} ;; *) continue ;; esac
        [ "$(cat "/sys/class/net/$n/address")" = "$new" ] && continue
        echo 1 >"/proc/sys/net/ipv4/conf/$n/arp_notify"
        if ip link set dev "$n" address "$new"; then ok "hardware address" "$n has $new, $mac is free for the copy"
        else bad "hardware address" "$mac of $n can't be given up while it is in use"; fi
    done
}

leave() {
    [ -s $state/nic ] || { bad "parking" "not prepared"; return; }
    # An earlier attempt's watchdog bites no more, for this one came over the parking address; where it is at it, it comes to its end first.
    ln -s leave $state/decided 2>/dev/null
    tries=0
    while [ "$(readlink $state/decided)" = watchdog ]; do
        tries=$((tries + 1))
        [ $tries -le 120 ] || { bad parking "its watchdog does not come to an end of taking it back"; return; }
        sleep 1
    done
    own=$(date +%s)-$$
    echo "$own" >$state/leaving
    stop_services
    swap_off
    [ $failed = 0 ] || return
    sync
    newest || return
    # Only the newest attempt's watchdog bites: one of an attempt that was cut off would take back what this one does.
    echo "$own" >$state/watch
    rm -f $state/decided
    setsid sh -c "sleep 60; [ \"\$(cat $state/watch)\" = $own ] && ln -s watchdog $state/decided && exec sh $state/unpark.sh all '$parking'" >/dev/null 2>&1 </dev/null &
    stop_managers || return
    give_up
    change_macs
}

confirm() {
    ln -s confirm $state/decided 2>/dev/null
    if [ "$(readlink $state/decided)" != confirm ]; then bad parked "too late: the source has taken its addresses and its services back by itself"; return; fi
    left=$(others)
    if [ -s $state/left ] && [ -z "$left" ]; then ok parked "at $parking since $(date -u -d "@$(cat $state/left)" +%H:%M:%S 2>/dev/null) UTC"
    else bad parked "not parked: ${left:-it did not leave}"; fi
}

$phase
exit $failed
}
main "$@" </dev/null
