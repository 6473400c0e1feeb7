# rescue: what the way home does on the source: it looks whether the machine can restore its own disks, leaves its system for that, and is looked at when it has
# booted what came home (docs/agent.md, "Rescue"). Arguments: PHASE, then
#   check POINT      makes the image of the point for a try, and throws it away; prints "about<TAB>JSON"
#   leave POINT      makes it, stops the agent, and leaves this system in two seconds; prints "about<TAB>JSON"
#   serve SERVICES   on the restored system: starts the services (blanks between) that don't run yet
# check and leave run on a parked source only: the machine that has the address now is the copy. Prints "ok NAME<TAB>TEXT" and "not ok NAME<TAB>TEXT".
# The shell reads this from its stdin: it must have it whole before anything runs.
main() {
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
LC_ALL=C; export LC_ALL
set -f
agent=/usr/local/sbin/slipway-agent
image=/run/slipway-agent/rescue.img
state=/run/slipway-park
failed=0
ok() { printf 'ok %s\t%s\n' "$1" "$2"; }
bad() { printf 'not ok %s\t%s\n' "$1" "$2"; failed=1; }
say() { printf '%s\t%s\n' "$1" "$2"; }

parked() {
    if [ -s $state/left ]; then ok "parked source" "its own address is given up"; return 0; fi
    bad "parked source" "this machine is not parked: it may be the copy, and nothing was done"
    return 1
}

make() { # POINT
    mkdir -p "${image%/*}"
    about=$($agent rescue-image --point "$1" --image $image 2>$image.why) || { bad "rescue" "$(tail -n 1 $image.why)"; rm -f $image $image.why; return 1; }
    rm -f $image.why
    say about "$about"
}

check() { # POINT
    parked && make "$1" || return
    rm -f $image
    ok "rescue" "this machine can leave its system and restore its disks; the image was made, taken by the kernel, and thrown away"
}

leave() { # POINT
    parked && make "$1" || return
    systemctl stop slipway-agent || { bad "agent" "can't be stopped"; return; }
    if why=$($agent rescue-start --image $image 2>&1); then ok "rescue" "$why"
    else
        bad "rescue" "$why"
        rm -f $image
        systemctl start slipway-agent # as it was
    fi
}

serve() { # SERVICES
    [ ! -e $state ] || { bad "restored system" "this machine is parked: it was not booted from what came home"; return; }
    ok "restored system" "up since $(uptime -s 2>/dev/null || cut -d. -f1 /proc/uptime)"
    for s in $1; do
        systemctl start "$s" || { bad "service $s" "does not start"; continue; }
        ok "service $s" "$(systemctl is-active "$s")"
    done
}

case $1 in
check) check "$2" ;;
leave) leave "$2" ;;
serve) serve "$2" ;;
*) exit 2 ;;
esac
exit $failed
}
main "$@" </dev/null
