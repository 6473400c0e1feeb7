# home: what the way home does on a launched machine, over the target's own way into its network. Everything of it lies in memory (a tmpfs at
# /run/slipway-home, for /run itself may be noexec): nothing of the agent's is in the points of the machine's disks. Arguments: PHASE, then
#   look                      prints "arch<TAB>MACHINE", and "sha256<TAB>HEX" of the agent that is there
#   disks                     prints "disks<TAB>JSON": what the agent finds
#   configure NAME CONFIG     writes the configuration where it is another; prints "version<TAB>…", "config<TAB>changed|same" and "enrolled", or "csr" and
#                             then the agent's certificate request
#   start RESTART             makes the service, starts it (RESTART=yes: anew), waits until it runs; prints "status<TAB>…"
#   still SERVICES            stops the services (blanks between), and what would start them again
#   resume SERVICES           starts them again, in the reverse order; then the agent goes, and its folder
# Each may be run again. still and resume print "ok NAME<TAB>TEXT" and "not ok NAME<TAB>TEXT".
# The shell reads this from its stdin: it must have it whole before anything runs.
main() {
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
LC_ALL=C; export LC_ALL
set -f
folder=/run/slipway-home
agent=$folder/slipway-agent
unit=/run/systemd/system/slipway-home.service
failed=0
say() { printf '%s\t%s\n' "$1" "$2"; }
ok() { printf 'ok %s\t%s\n' "$1" "$2"; }
bad() { printf 'not ok %s\t%s\n' "$1" "$2"; failed=1; }
mounted() { grep -q " $folder tmpfs " /proc/mounts; }

look() {
    mkdir -p $folder && chmod 700 $folder || exit 1
    mounted || mount -t tmpfs -o mode=700,nosuid,nodev,size=64m slipway-home $folder || exit 1
    say arch "$(uname -m)"
    sum=$(sha256sum $agent 2>/dev/null)
    say sha256 "${sum%% *}"
}

disks() {
    found=$($agent facts) || exit 1
    say disks "$found"
}

configure() { # NAME CONFIG
    version=$($agent --version) || { echo "the agent does not run here" >&2; exit 1; }
    say version "$version"
    if [ "$(cat $folder/config.json 2>/dev/null)" = "$2" ]; then say config same
    else
        (umask 077; printf %s "$2" >$folder/config.json.new) && mv $folder/config.json.new $folder/config.json || exit 1
        say config changed
    fi
    if [ -s $folder/cert.pem ] && [ -s $folder/ca.pem ] && [ -s $folder/key.pem ]; then echo enrolled
    else
        echo csr
        $agent csr --server "$1" --folder $folder || exit 1
    fi
}

start() { # RESTART
    mkdir -p "${unit%/*}" && $agent unit --folder $folder >$unit.new && mv $unit.new $unit || exit 1
    systemctl daemon-reload
    if [ "$1" = yes ]; then systemctl restart slipway-home; else systemctl start slipway-home; fi || exit 1
    tries=0
    until status=$($agent status --folder $folder 2>/dev/null); do
        tries=$((tries + 1))
        if [ $tries -gt 60 ]; then
            { echo "the agent did not come up; its last words:"; journalctl -q -u slipway-home -n 5 -o cat --no-pager; } >&2
            exit 1
        fi
        sleep 1
    done
    say status "$(printf %s "$status" | tr '\t\n' '  ')"
}

still() { # SERVICES
    mounted || { bad "agent" "$folder is not there: this machine was booted anew since its agent was pushed"; return; }
    for s in $1; do
        for trigger in $(systemctl show -p TriggeredBy "$s" | cut -d= -f2-); do
            systemctl stop "$trigger" && echo "$trigger" >>$folder/triggers
        done
        systemctl stop "$s" || { bad "service $s" "can't be stopped"; continue; }
        active=$(systemctl is-active "$s")
        case $active in inactive | failed) ok "service $s" "$active" ;; *) bad "service $s" "still $active" ;; esac
    done
    sync
    [ $failed = 1 ] || ok "services" "off: ${1:-none are named}"
}

resume() { # SERVICES
    reversed=
    for s in $1; do reversed="$s $reversed"; done
    for s in $reversed $(cat $folder/triggers 2>/dev/null); do
        systemctl start "$s" || { bad "service $s" "does not start"; continue; }
        ok "service $s" "$(systemctl is-active "$s")"
    done
    [ $failed = 0 ] || return
    systemctl stop slipway-home 2>/dev/null
    [ ! -s $folder/config.json ] || $agent forget --folder $folder 2>/dev/null
    rm -f $unit
    ! mounted || umount $folder || umount -l $folder
    rmdir $folder 2>/dev/null
    rm -rf /run/slipway-agent
    systemctl daemon-reload
    if [ -e $folder ] || [ -e $unit ]; then bad "agent" "still there: $folder"; else ok "agent" "gone from the launched machine"; fi
}

case $1 in
look) look ;;
disks) disks ;;
configure) configure "$2" "$3" ;;
start) start "$2" ;;
still) still "$2" ;;
resume) resume "$2" ;;
*) exit 2 ;;
esac
exit $failed
}
main "$@" </dev/null
