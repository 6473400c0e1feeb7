# copy: takes the source's agent off a copy, where it must not speak in the source's name. Runs on a launched copy only, over the target's own way
# into its closed network. May be run again. Prints "ok NAME<TAB>TEXT" and "not ok NAME<TAB>TEXT".
# The shell reads this from its stdin: it must have it whole before anything runs.
main() {
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
LC_ALL=C; export LC_ALL
agent=/usr/local/sbin/slipway-agent
failed=0
ok() { printf 'ok %s\t%s\n' "$1" "$2"; }
bad() { printf 'not ok %s\t%s\n' "$1" "$2"; failed=1; }

# Its clients wait for this machine, and it may still be booting: nothing is asked of systemd that can be done without it. Without its file the
# unit is gone at the next boot.
systemctl stop slipway-agent 2>/dev/null
rm -f $agent /etc/systemd/system/slipway-agent.service /etc/systemd/system/*.wants/slipway-agent.service
rm -rf /etc/slipway-agent /run/slipway-agent
systemctl -q is-failed slipway-agent 2>/dev/null && systemctl reset-failed slipway-agent
left=
for path in $agent /etc/slipway-agent /run/slipway-agent /etc/systemd/system/slipway-agent.service; do [ -e $path ] && left="$left $path"; done
if [ -z "$left" ]; then ok "agent on the copy" "its files are absent"; else bad "agent on the copy" "still there:$left"; fi
pids=$(find /proc -maxdepth 2 -name exe -lname '*slipway-agent*' 2>/dev/null | tr '\n' ' ')
if ! find /proc/self -maxdepth 0 >/dev/null 2>&1; then bad "agent's process on the copy" "find does not work here: nothing is proven"
elif [ -z "$pids" ]; then ok "agent's process on the copy" "absent"
else bad "agent's process on the copy" "still runs: $pids"; fi
exit $failed
}
main "$@" </dev/null
