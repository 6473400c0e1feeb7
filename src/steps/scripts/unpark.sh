# unpark: a parked source takes its addresses and services back. Arguments: PHASE PARKING_CIDR.
#   take-back  addresses, routes, network managers
#   serve      run over the own address: swap, then services in the reverse order of their stop; when all of them run, the parking address and
#              the notes in /run/slipway-park go
#   all        take-back, swap, services: what the watchdog does
# Each phase may be run again. Prints "ok NAME<TAB>TEXT" and "not ok NAME<TAB>TEXT".
# The shell reads this from its stdin: it must have it whole before anything runs.
main() {
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
LC_ALL=C; export LC_ALL
set -f
phase=$1 parking=$2
state=/run/slipway-park
failed=0
ok() { printf 'ok %s\t%s\n' "$1" "$2"; }
bad() { printf 'not ok %s\t%s\n' "$1" "$2"; failed=1; }
has() { command -v "$1" >/dev/null 2>&1; }

# Neighbours hold the copy's place in their tables: an ARP request carries our own address and is heard by all.
announce() { # CIDR NIC GATEWAY
    case $1 in *:*) return ;; esac
    if has arping && arping -q -U -c 2 -w 2 -I "$2" "${1%/*}" 2>/dev/null; then return; fi
    to=${3:-$1}
    ip neigh del "${to%/*}" dev "$2" 2>/dev/null
    has ping && ping -q -c 1 -W 1 -I "${1%/*}" "${to%/*}" >/dev/null 2>&1
}

macs() {
    for file in $(ls $state 2>/dev/null | grep '^mac\.'); do
        n=${file#mac.} mac=$(cat "$state/$file")
        [ "$(cat "/sys/class/net/$n/address" 2>/dev/null)" = "$mac" ] || ip link set dev "$n" address "$mac" || bad "hardware address" "$n can't have $mac again"
    done
}

addresses() {
    while read -r nic cidr; do
        [ -n "$cidr" ] || continue
        ip -o addr show dev "$nic" to "${cidr%/*}" | grep -q . || ip addr add "$cidr" dev "$nic" || bad address "$cidr can't be added to $nic"
    done <$state/addresses
    while read -r route; do [ -n "$route" ] && ip route replace $route 2>/dev/null; done <$state/routes
    while read -r route; do [ -n "$route" ] && ip route replace $route 2>/dev/null; done <$state/more_routes
    rm -f $state/left
    gateway=$(ip -o route show default | sed -n 's/.* via \([^ ]*\).*/\1/p' | head -n 1)
    while read -r nic cidr; do [ -n "$cidr" ] && announce "$cidr" "$nic" "$gateway"; done <$state/addresses
}

told() {
    gateway=$(ip -o route show default | sed -n 's/.* via \([^ ]*\).*/\1/p' | head -n 1)
    [ $failed = 0 ] && ok address "$(tr '\n' ' ' <$state/addresses)is here again and announced; default by ${gateway:-no gateway}"
}

# A network manager that starts clears what it did not set, a moment later: the session that this runs in may stand on the parking address.
keep_parking() {
    nic=$(cat $state/nic)
    (
        tries=0
        while [ $tries -lt 40 ] && [ -e $state/nic ]; do
            ip -o addr show to "${parking%/*}" | grep -q . || ip addr add "$parking" dev "$nic"
            tries=$((tries + 1))
            sleep 0.5 || sleep 1
        done
    ) >/dev/null 2>&1 </dev/null &
    echo $! >$state/keeper
}

managers() {
    for pid in $(cat $state/dhclients 2>/dev/null); do kill -CONT "$pid" 2>/dev/null; done
    for m in $(cat $state/managers 2>/dev/null); do systemctl start "$m" || bad "network manager" "$m does not start"; done
}

swaps() {
    while read -r name _; do
        [ -n "$name" ] || continue
        grep -q "^$name " /proc/swaps || swapon "$name" 2>/dev/null || bad swap "$name can't be taken"
    done <$state/swaps
    ok swap "$(sed 1d /proc/swaps | wc -l) areas on"
}

services() {
    for s in $(sed -n '1!G;h;$p' $state/services) $(cat $state/triggers 2>/dev/null); do
        systemctl start "$s" || { bad "service $s" "does not start"; continue; }
        ok "service $s" "$(systemctl is-active "$s")"
    done
}

was_parked() { [ -s $state/nic ] || { ok parking "nothing was parked here"; exit 0; }; }

take_back() {
    was_parked
    rm -f $state/leaving # no `leave` that was cut off goes on
    ln -s take-back $state/decided 2>/dev/null # no watchdog any more
    macs
    addresses
    keep_parking
    managers
    addresses # a manager that starts may clear what it did not set
    told
}

serve() {
    was_parked
    [ ! -e $state/left ] || { bad services "not started: this machine is still parked"; return; }
    swaps
    services
}

tidy() {
    nic=$(cat $state/nic)
    if [ -s $state/keeper ] && kill "$(cat $state/keeper)" 2>/dev/null; then sleep 1; fi
    ip addr del "$parking" dev "$nic" 2>/dev/null
    rm -rf $state
    if ip -o addr show to "${parking%/*}" | grep -q .; then bad parking "$parking is still here"; else ok parking "$parking given up"; fi
}

case $phase in
take-back) take_back ;;
serve)
    serve
    [ $failed != 0 ] || tidy
    ;;
all)
    take_back
    serve
    rm -f $state/decided
    ln -s taken-back $state/decided
    ;;
*) exit 2 ;;
esac
exit $failed
}
main "$@" </dev/null
