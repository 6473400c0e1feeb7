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
*) exit 2 ;;
esac
