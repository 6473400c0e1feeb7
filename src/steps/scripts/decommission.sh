# decommission: the agent goes and is proven gone, services and what would give the old address back are switched off for good. Arguments:
# PARKING_CIDR SERVICES(blanks between). Runs on a parked source only: the machine that has the address now is the copy. May be run again.
# Prints "ok NAME<TAB>TEXT" and "not ok NAME<TAB>TEXT".
# The shell reads this from its stdin: it must have it whole before anything runs.
main() {
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
LC_ALL=C; export LC_ALL
set -f
parking=$1 services=$2
state=/run/slipway-park
agent=/usr/local/sbin/slipway-agent
tracker=/sys/fs/bpf/slipway-agent # it would go on following writes without its agent
failed=0
ok() { printf 'ok %s\t%s\n' "$1" "$2"; }
bad() { printf 'not ok %s\t%s\n' "$1" "$2"; failed=1; }

[ -s $state/left ] || { bad "parked source" "this machine is not parked: it may be the copy, and nothing was done"; exit 1; }
ok "parked source" "at $parking"

# --no-reload: systemd reads all its units again for each, which takes seconds on a slow machine. Once is enough.
systemctl disable -q --no-reload --now slipway-agent 2>/dev/null
[ ! -x $agent ] || $agent uninstall 2>/dev/null
rm -f $agent /etc/systemd/system/slipway-agent.service
rm -rf /etc/slipway-agent /run/slipway-agent $tracker
systemctl daemon-reload
systemctl reset-failed slipway-agent 2>/dev/null
left=
for path in $agent /etc/slipway-agent /run/slipway-agent /etc/systemd/system/slipway-agent.service; do [ -e $path ] && left="$left $path"; done
if [ -z "$left" ]; then ok "agent's files" "absent"; else bad "agent's files" "still there:$left"; fi
if [ -e $tracker ]; then bad "agent's tracker" "still in the kernel: $tracker"; else ok "agent's tracker" "absent"; fi
load=$(systemctl show -p LoadState slipway-agent | cut -d= -f2)
if [ "$load" = not-found ]; then ok "agent's unit" "absent"; else bad "agent's unit" "$load"; fi
left=$(find /proc -maxdepth 2 -name exe -lname '*slipway-agent*' 2>/dev/null | tr '\n' ' ')
if ! find /proc/self -maxdepth 0 >/dev/null 2>&1; then bad "agent's process" "find does not work here: nothing is proven"
elif [ -z "$left" ]; then ok "agent's process" "absent"; else bad "agent's process" "still runs: $left"; fi

for s in $services; do
    systemctl disable -q --no-reload --now "$s" 2>/dev/null
    enabled=$(systemctl is-enabled "$s" 2>/dev/null) active=$(systemctl is-active "$s")
    case $enabled/$active in
    enabled*/* | */active | */activating) bad "service $s" "$enabled, $active" ;;
    *) ok "service $s" "${enabled:-not a unit file}, $active" ;;
    esac
done
# Switched on again by mistake, it must not come up with the address that is the copy's now.
for m in $(cat $state/managers 2>/dev/null); do systemctl disable -q --no-reload "$m" 2>/dev/null && ok "network manager $m" "disabled"; done
sync
exit $failed
}
main "$@" </dev/null
