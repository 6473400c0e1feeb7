# agent: what push_agent does on a source machine, in few calls. Arguments: PHASE, then
#   look                      prints "arch<TAB>MACHINE", and "sha256<TAB>HEX" of the agent that is there
#   configure SERVER CONFIG   writes the configuration where it is another; prints "version<TAB>…", "config<TAB>changed|same" and
#                             "enrolled", or "csr" and then the agent's certificate request
#   start RESTART             installs the service, starts it (RESTART=yes: anew), waits until it runs; prints "uuid<TAB>…",
#                             "status<TAB>…"
#   remove                    stops and removes it
# Each may be run again.
main() {
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin; export PATH
LC_ALL=C; export LC_ALL
agent=/usr/local/sbin/slipway-agent
folder=/etc/slipway-agent
unit=/etc/systemd/system/slipway-agent.service
say() { printf '%s\t%s\n' "$1" "$2"; }

look() {
    mkdir -p /usr/local/sbin || exit 1
    say arch "$(uname -m)"
    sum=$(sha256sum $agent 2>/dev/null)
    say sha256 "${sum%% *}"
}

configure() { # SERVER CONFIG
    version=$($agent --version) || { echo "the agent does not run here" >&2; exit 1; }
    say version "$version"
    mkdir -p $folder && chmod 700 $folder || exit 1
    if [ "$(cat $folder/config.json 2>/dev/null)" = "$2" ]; then say config same
    else
        (umask 077; printf %s "$2" >$folder/config.json.new) && mv $folder/config.json.new $folder/config.json || exit 1
        say config changed
    fi
    if [ -s $folder/cert.pem ] && [ -s $folder/ca.pem ] && [ -s $folder/key.pem ]; then echo enrolled
    else
        echo csr
        $agent csr --server "$1" || exit 1
    fi
}

start() { # RESTART
    uuid=
    [ -r /sys/class/dmi/id/product_uuid ] && read -r uuid </sys/class/dmi/id/product_uuid
    case $uuid in *[!0-9a-fA-F-]*) uuid= ;; esac
    say uuid "$uuid"
    # The copy boots from the same disks and would find this service on them: it must not come up there and speak for the source.
    condition=
    [ -z "$uuid" ] || condition="ExecCondition=/bin/sh -c '[ \"\$(cat /sys/class/dmi/id/product_uuid)\" = \"$uuid\" ]'"
    $agent unit | while IFS= read -r line; do
        printf '%s\n' "$line"
        if [ "$line" = '[Service]' ] && [ -n "$condition" ]; then printf '%s\n' "$condition"; fi
    done >$unit.new && mv $unit.new $unit || exit 1
    systemctl enable -q --no-reload slipway-agent || exit 1
    systemctl daemon-reload
    if [ "$1" = yes ]; then systemctl restart slipway-agent; else systemctl start slipway-agent; fi || exit 1
    tries=0
    until status=$($agent status 2>/dev/null); do
        tries=$((tries + 1))
        if [ $tries -gt 60 ]; then
            { echo "the agent did not come up; its last words:"; journalctl -q -u slipway-agent -n 5 -o cat --no-pager; } >&2
            exit 1
        fi
        sleep 1
    done
    say status "$(printf %s "$status" | tr '\t\n' '  ')"
}

remove() {
    systemctl disable -q --no-reload --now slipway-agent 2>/dev/null
    [ ! -x $agent ] || $agent uninstall
    rm -f $agent $unit
    rm -rf /sys/fs/bpf/slipway-agent
    systemctl daemon-reload
}

case $1 in
look) look ;;
configure) configure "$2" "$3" ;;
start) start "$2" ;;
remove) remove ;;
*) exit 2 ;;
esac
}
main "$@" </dev/null
