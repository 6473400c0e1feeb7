#!/bin/sh
# slipway-agent, as far as the steps know it.
folder=$(cat /run/fake-folder)
keep=/etc/slipway-agent
echo "slipway-agent $*" >>"$folder/asked"
case $1 in
--version) echo "slipway-agent 0.0.test" ;;
csr)
    [ -s $keep/key.pem ] || (umask 077; openssl ecparam -name prime256v1 -genkey -noout -out $keep/key.pem)
    openssl req -new -key $keep/key.pem -subj "/CN=agent:$3" ;;
install-cert) cat >"$folder/pem" && awk '/BEGIN/ { n++ } { print > ("'$keep'/" (n == 1 ? "cert.pem" : "ca.pem")) }' "$folder/pem" ;;
status) [ "$(cat "$folder/units/slipway-agent" 2>/dev/null)" = active ] && echo '{"state":"INITIAL_SYNC"}' ;;
unit) printf '[Unit]\nDescription=test\n\n[Service]\nExecStart=%s run\n' "$0" ;;
uninstall) rm -rf $keep "$0" ;;
facts) echo '{"disks":[{"id":"serial:x","name":"vda","size_bytes":4096}],"mounts":[]}' ;;
forget) ;;
rescue-image)
    [ ! -e "$folder/no-rescue" ] || { echo "no driver of eth0" >&2; exit 8; }
    echo image >"$5"
    echo "{\"point\":\"$3\",\"modules\":[]}" ;;
rescue-start)
    [ "$(cat "$folder/units/slipway-agent")" = inactive ] && [ -s "$3" ] || { echo "stop it first" >&2; exit 7; }
    [ ! -e "$folder/no-kexec" ] || { echo "this kernel starts no other one" >&2; exit 16; }
    echo "the machine leaves its system in two seconds"
    touch "$folder/left" ;;
*) exit 2 ;;
esac
