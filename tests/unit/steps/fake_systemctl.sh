#!/bin/sh
# What the steps ask of systemctl, over files: FOLDER/units/NAME holds "active" or "inactive", FOLDER/units/NAME.enabled is there or not.
folder=$(cat /run/fake-folder)
echo "systemctl $*" >>"$folder/asked"
verb= quiet= unit= units= wanted=
for word; do
    case $word in
    -q | --quiet) quiet=1 ;;
    -p | --now | --plain | --no-legend | --no-pager | --state=*) [ "$word" = --now ] && now=1; [ "$word" = -p ] && next=1 ;;
    *) if [ "${next:-}" ]; then wanted="$wanted $word"; next=; elif [ -z "$verb" ]; then verb=$word; else unit=$word units="$units $word"; fi ;;
    esac
done
file=$folder/units/$unit
state=$(cat "$file" 2>/dev/null)
case $verb in
is-active)
    active=1 # one of them is enough, as with the real one
    for name in $units; do
        state=$(cat "$folder/units/$name" 2>/dev/null)
        [ "$quiet" ] || echo "${state:-inactive}"
        [ "$state" != active ] || active=0
    done
    exit $active ;;
is-failed) exit 1 ;;
is-enabled) if [ -e "$file.enabled" ]; then echo enabled; elif [ -e "$file" ]; then echo disabled; exit 1; else exit 1; fi ;;
show)
    for property in $wanted; do
        case $property in
        LoadState) if [ -e "$file" ] || [ -e "/etc/systemd/system/$unit.service" ]; then echo LoadState=loaded; else echo LoadState=not-found; fi ;;
        ActiveState) echo "ActiveState=${state:-inactive}" ;;
        TriggeredBy) echo "TriggeredBy=$(cat "$file.triggers" 2>/dev/null)" ;;
        esac
    done ;;
start | restart)
    [ -e "$file.broken" ] && exit 1
    if [ "$unit" = slipway-agent ] && ! [ -s /etc/systemd/system/slipway-agent.service ]; then exit 5; fi
    echo active >"$file" ;;
stop) [ -e "$file.stuck" ] || echo inactive >"$file" ;;
enable) : >"$file.enabled" ;;
disable) rm -f "$file.enabled"; [ -z "${now:-}" ] || [ ! -e "$file" ] || echo inactive >"$file"; [ "$unit" != slipway-agent ] || rm -f "$file" ;;
poweroff)
    touch "$folder/off"
    ip link set eth0 down ;;
list-units) [ ! -e "$folder/failed" ] || cat "$folder/failed" ;;
esac
