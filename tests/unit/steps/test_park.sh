#!/bin/bash
# Parking and coming back, by the scripts that run at a source, in namespaces of their own (network, mounts, processes): addresses, hardware
# addresses, and what a neighbour believes. Prints TAP. Usage: test_park.sh SOURCE_ROOT
[ "$(id -u)" = 0 ] || { echo "1..0 # SKIP needs root: namespaces"; exit 0; }
if [ "${2:-}" != inside ]; then exec unshare -m -n -p --fork --mount-proc "$0" "$1" inside; fi
awk '$5 ~ "^/tmp/slipway" { print $5 }' /proc/self/mountinfo | xargs -r umount -l # of tests beside this one: their file systems are in use for as long as we have them
scripts=$1/src/steps/scripts
count=0 failed=0
check() { # NAME COMMAND...
    name=$1; shift
    count=$((count + 1))
    if "$@" >/dev/null 2>&1; then echo "ok $count - $name"; return; fi
    failed=1
    echo "not ok $count - $name"
    { ip addr; ip -n peer neigh; } | sed 's/^/# /'
}
run() { script=$1; shift; sh -s -- "$@" <"$scripts/$script" | sed 's/^/# /'; return "${PIPESTATUS[0]}"; }
is() { [ "$1" = "$2" ]; }
mac() { cat /sys/class/net/eth0/address; }
believes() { ip -n peer neigh show "$1" | grep -q "lladdr $2 "; }
ask() { ip netns exec peer timeout 2 bash -c ": </dev/tcp/$1/9" 2>/dev/null; true; } # refused, but the neighbour learns who it is

mount -t tmpfs none /run && mount -t sysfs none /sys && mkdir -p /run/netns
ip link set lo up
ip link add eth0 type veth peer name peer0 && ip link set eth0 address 52:54:00:00:02:0b
ip netns add peer && ip link set peer0 netns peer && ip -n peer addr add 192.0.2.1/24 dev peer0 && ip -n peer link set peer0 up
ip addr add 192.0.2.11/24 dev eth0 && ip link set eth0 up && ip route add default via 192.0.2.1
ask 192.0.2.11
check "a neighbour knows the source" believes 192.0.2.11 52:54:00:00:02:0b
check "it is prepared" run park.sh prepare 192.0.2.11 192.0.2.211/24 ""
ask 192.0.2.211
check "its parking address answers" believes 192.0.2.211 52:54:00:00:02:0b
cp "$scripts/unpark.sh" /run/slipway-park/
check "it leaves" run park.sh leave 192.0.2.11 192.0.2.211/24 ""
check "it has another hardware address" is "$(mac)" 02:54:00:00:02:0b
check "the neighbour was told" believes 192.0.2.211 02:54:00:00:02:0b
check "its address is given up" is "$(ip -o -4 addr show dev eth0 | awk '{print $4}')" 192.0.2.211/24
check "it is confirmed" run park.sh confirm 192.0.2.11 192.0.2.211/24 ""
check "leaving again changes nothing" run park.sh leave 192.0.2.11 192.0.2.211/24 ""
check "nor its hardware address" is "$(mac)" 02:54:00:00:02:0b
check "it comes back" run unpark.sh take-back 192.0.2.211/24
check "with its hardware address" is "$(mac)" 52:54:00:00:02:0b
ask 192.0.2.11
check "and its own, as the neighbour sees" believes 192.0.2.11 52:54:00:00:02:0b
check "it serves, and the parking address goes" run unpark.sh serve 192.0.2.211/24
check "and is gone" is "$(ip -o -4 addr show dev eth0 | awk '{print $4}')" 192.0.2.11/24

# What lies on its interfaces is given up, too; and what an attempt that was cut off has taken away already is not forgotten by the next one.
# (A MAC-VLAN is there in more kernels than a VLAN; both lie on eth0.)
ip link add link eth0 name lan5 address 52:54:00:00:02:0c type macvlan && ip addr add 198.51.100.7/24 dev lan5 && ip link set lan5 up && ip addr add 192.0.2.12/24 dev eth0
ip link add containers0 type bridge && ip addr add 172.17.0.1/16 dev containers0 && ip link set containers0 up
global() { ip -o -4 addr show scope global | awk '{print $4}' | sort | tr '\n' ' '; }
check "a source with a VLAN is prepared" run park.sh prepare 192.0.2.11 192.0.2.211/24 ""
ip addr del 192.0.2.12/24 dev eth0
check "and again, after an attempt that was cut off" run park.sh prepare 192.0.2.11 192.0.2.211/24 ""
cp "$scripts/unpark.sh" /run/slipway-park/
check "it leaves" run park.sh leave 192.0.2.11 192.0.2.211/24 ""
check "its VLAN's address is given up, not that of its containers" is "$(global)" "172.17.0.1/16 192.0.2.211/24 "
check "its VLAN's hardware address, too" is "$(cat /sys/class/net/lan5/address)" 02:54:00:00:02:0c
check "it is confirmed" run park.sh confirm 192.0.2.11 192.0.2.211/24 ""
check "it comes back" run unpark.sh take-back 192.0.2.211/24
check "it serves" run unpark.sh serve 192.0.2.211/24
check "with all that it had" is "$(global)" "172.17.0.1/16 192.0.2.11/24 192.0.2.12/24 198.51.100.7/24 "
check "and their hardware addresses" is "$(mac) $(cat /sys/class/net/lan5/address)" "52:54:00:00:02:0b 52:54:00:00:02:0c"
ip link del lan5 && ip link del containers0 && ip addr del 192.0.2.12/24 dev eth0

# Programs that take their time: sync until somebody says go on, NetworkManager's stop for two seconds; the watchdog's minute is one.
programs=/run/programs
mkdir $programs && cp "$(command -v sleep)" $programs/real-sleep
cat >$programs/sync <<'END'
#!/bin/sh
touch /run/syncing
while [ -e /run/hold-sync ]; do /run/programs/real-sleep 0.1; done
END
cat >$programs/sleep <<'END'
#!/bin/sh
[ "$1" != 60 ] || set -- 1
exec /run/programs/real-sleep "$@"
END
cat >$programs/systemctl <<'END'
#!/bin/sh
echo "$*" >>/run/asked
case $* in
"-q is-active NetworkManager") [ -e /run/slow-manager ] ;;
"stop NetworkManager") exec /run/programs/real-sleep 2 ;;
*is-active*) exit 3 ;;
esac
END
cp "$(command -v ip)" $programs/real-ip
cat >$programs/ip <<'END'
#!/bin/sh
case "$*" in "addr del 192.0.2.11/"*) [ -s /run/slipway-park/left ] || touch /run/took-first ;; esac
exec /run/programs/real-ip "$@"
END
chmod +x $programs/*
for name in sync sleep systemctl ip; do mount --bind $programs/$name "$(command -v $name)"; done
own_address() { is "$(ip -o -4 addr show dev eth0 | awk '{print $4}' | sort | head -n 1)" 192.0.2.11/24; }
syncs() { for _ in $(seq 50); do [ -e /run/syncing ] && return; /run/programs/real-sleep 0.1; done; return 1; }
prepare() { run park.sh prepare 192.0.2.11 192.0.2.211/24 "" && cp "$scripts/unpark.sh" /run/slipway-park/; }

# An attempt that was cut off goes on for as long as it prints nothing: here its disks are slow.
prepare >/dev/null && touch /run/hold-sync
run park.sh leave 192.0.2.11 192.0.2.211/24 "" >/run/cut-off &
check "an attempt waits for its disks" syncs
check "the source is taken back meanwhile" run unpark.sh take-back 192.0.2.211/24
rm /run/hold-sync
wait $!
check "what was cut off does not give its address up behind it" own_address
check "and says why" grep -q "broken off" /run/cut-off
check "so it serves" run unpark.sh serve 192.0.2.211/24

# The watchdog bites while the source still leaves: nobody may say that it is parked.
prepare >/dev/null && touch /run/slow-manager && : >/run/asked
run park.sh leave 192.0.2.11 192.0.2.211/24 "" >/run/late
check "a source that took too long to leave has not left" grep -q "broken off" /run/late
check "nor is it confirmed" is "$(run park.sh confirm 192.0.2.11 192.0.2.211/24 "" | grep -c 'too late')" 1
check "it has its address" own_address
check "and its network manager" grep -qx "start NetworkManager" /run/asked
rm /run/slow-manager && ln -sfn watchdog /run/slipway-park/decided
(/run/programs/real-sleep 2; ln -sfn taken-back /run/slipway-park/decided) &
check "another attempt leaves, once the watchdog has come to its end" run park.sh leave 192.0.2.11 192.0.2.211/24 ""
check "it was written down as left before an address was taken" [ ! -e /run/took-first ]
check "and is confirmed" run park.sh confirm 192.0.2.11 192.0.2.211/24 ""
/run/programs/real-sleep 2
check "its watchdog does not bite any more" is "$(ip -o -4 addr show dev eth0 | awk '{print $4}')" 192.0.2.211/24
ip netns del peer
echo "1..$count"
exit $failed
