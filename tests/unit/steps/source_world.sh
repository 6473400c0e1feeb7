#!/bin/sh
# source_world FOLDER COMMAND…: runs COMMAND beside a make-believe source machine: a network namespace with a real sshd at 192.0.2.11, of
# which systemctl, swapoff, poweroff and the agent are small scripts that write down what they were asked (FOLDER/asked). All of it lives
# in mount, PID and network namespaces that end with the command; nothing outside is touched.
set -eu
folder=$1
own=$(readlink /proc/self/ns/mnt)
[ "${SOURCE_WORLD:-}" ] || exec env SOURCE_WORLD="$own" unshare --mount --propagation private --pid --net --fork --kill-child --mount-proc "$0" "$@"
[ "$own" != "$SOURCE_WORLD" ] || { echo "not in namespaces of its own" >&2; exit 1; }
here=$(dirname "$(readlink -f "$0")")
shift
awk '$1 ~ "^/dev/loop" {print $2}' /proc/self/mounts | xargs -r umount -l # other tests' disks, which they want for themselves when they unmount them
chmod 0755 "$folder"
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log # sshd notes logins there
mkdir -p /run/sshd /run/systemd/system "$folder/units"
# /etc and /usr may be written to, and what is written is in FOLDER.
for part in etc usr; do
    mkdir -p "$folder/upper-$part" "$folder/work-$part"
    mount -t overlay overlay -o "lowerdir=/$part,upperdir=$folder/upper-$part,workdir=$folder/work-$part" "/$part"
done
: >"$folder/asked"
echo "$folder" >/run/fake-folder
printf '#!/bin/sh\necho "$0 $*" >>%s/asked\n' "$folder" >"$folder/nothing"
# sync: another file system of this machine may be frozen by somebody else's test.
for name in swapoff swapon poweroff reboot shutdown sync; do
    rm -f "/usr/bin/$name" "/usr/sbin/$name"
    install -m 0755 "$folder/nothing" "/usr/sbin/$name"
done
rm -f /usr/bin/systemctl /usr/local/sbin/slipway-agent
install -m 0755 "$here/fake_systemctl.sh" /usr/bin/systemctl
install -m 0755 "$here/fake_agent.sh" "$folder/agent"
cmp -s "$here/fake_systemctl.sh" "$(command -v systemctl)" && cmp -s "$folder/nothing" "$(command -v poweroff)" || { echo "a real systemctl is in the way" >&2; exit 1; }
echo 'Filename Type Size Used Priority' >"$folder/swaps"
mount --bind "$folder/swaps" /proc/swaps
users=$(grep -E '^(sshd|nobody):' /etc/passwd)
printf 'root:x:0:0:root:%s:/bin/sh\nmover:x:4711:4711:mover:%s:/bin/sh\n%s\n' "$folder" "$folder" "$users" >/etc/passwd
printf 'root:*:19000:0:99999:7:::\nmover:%s:19000:0:99999:7:::\n' "$(openssl passwd -6 'horse battery')" >/etc/shadow
echo 'root ALL=(ALL) ALL' >/etc/sudoers
rm -rf /etc/sudoers.d
mkdir -p /etc/systemd/system

ip link set lo up
ip netns add source
ip link add run0 type veth peer name eth0 netns source
ip addr add 192.0.2.1/24 dev run0 && ip link set run0 up
ip -n source link set lo up
ip -n source addr add 192.0.2.11/24 dev eth0 && ip -n source link set eth0 up && ip -n source route add default via 192.0.2.1

ssh-keygen -q -t ed25519 -N '' -f "$folder/user_key"
ssh-keygen -q -t ed25519 -N '' -f "$folder/stranger_key"
ssh-keygen -q -t ed25519 -N '' -f "$folder/host_key"
printf '%s\n' 'Port 22' "HostKey $folder/host_key" 'PidFile none' 'StrictModes no' "AuthorizedKeysFile $folder/user_key.pub" \
    'PermitRootLogin yes' 'UsePAM no' 'MaxStartups 100' >"$folder/sshd_config"
: >"$folder/sshd.log"
ip netns exec source /usr/sbin/sshd -D -E "$folder/sshd.log" -f "$folder/sshd_config" &
ip netns exec source python3 -c '
import socket
held = [socket.create_server(("0.0.0.0", 80))]
while True:
    held[0].accept()[0].close()' &
echo $! >"$folder/web.pid"
status=0
"$@" || status=$?
exit $status
