#!/bin/sh
# sshd_world FOLDER: real sshds on loopback with keys of this run's own. Everything that they look at in /etc and /run is mounted over in
# a mount namespace of their own, so that users with passwords and sudo rules exist for them alone. Prints "NAME=VALUE" lines, then
# "ready", and lives until stdin ends.
set -eu
folder=$1
case ${2:-} in
inside) ;;
*) exec unshare --mount --pid --fork --kill-child --mount-proc "$0" "$folder" inside ;;
esac
awk '$1 ~ "^/dev/loop" {print $2}' /proc/self/mounts | xargs -r umount -l # other tests' disks, which they want for themselves when they unmount them
cd "$folder" && chmod 0755 .
mount -t tmpfs tmpfs /run && mkdir -p /run/sshd /run/sudo
# Users: root (key), anna (password, sudo with password), bert (key, sudo without), carl (key, no sudo)
hash=$(openssl passwd -6 -salt slipway 'correct horse')
{ echo "root:x:0:0:root:$folder:/bin/sh"; for u in anna:7001 bert:7002 carl:7003; do echo "${u%:*}:x:${u#*:}:${u#*:}::/tmp:/bin/sh"; done
  grep -E '^(sshd|nobody|_apt):' /etc/passwd; } >passwd
{ echo 'root:*:19000:0:99999:7:::'; for u in anna bert carl; do echo "$u:$hash:19000:0:99999:7:::"; done; } >shadow
printf 'root ALL=(ALL) ALL\nanna ALL=(ALL) ALL\nbert ALL=(ALL) NOPASSWD: ALL\nDefaults !lecture\n' >sudoers
chmod 0440 sudoers; chmod 0640 shadow; chmod 0644 passwd
for file in passwd shadow sudoers; do mount --bind "$file" "/etc/$file"; done
ssh-keygen -q -t ed25519 -N '' -f user_key
ssh-keygen -q -t rsa -b 2048 -m PEM -N '' -f rsa_key
ssh-keygen -q -t ed25519 -N '' -f stranger_key
ssh-keygen -q -t ed25519 -N 'locked' -f locked_key
cat user_key.pub rsa_key.pub >authorized
for name in main other; do ssh-keygen -q -t ed25519 -N '' -f "host_$name"; done
base() { # NAME HOSTKEY MORE…: starts one, on a free port
    name=$1 key=$2; shift 2
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        port=$(awk -v seed="$$$(date +%N)" 'BEGIN { srand(seed); print int(20000 + rand() * 30000) }')
        { printf '%s\n' "$@" # sshd takes the first value of each
          printf 'Port %s\nListenAddress 127.0.0.1\nHostKey %s\nPidFile none\nStrictModes no\nAuthorizedKeysFile %s\nPermitRootLogin yes\nUsePAM no\nMaxStartups 100\nLogLevel VERBOSE\n' \
            "$port" "$folder/$key" "$folder/authorized"; } >"sshd_$name"
        /usr/sbin/sshd -D -e -f "$folder/sshd_$name" 2>"log_$name" &
        sleep 0.3
        kill -0 $! 2>/dev/null && break
    done
    kill -0 $! || { cat "log_$name" >&2; exit 1; }
    echo "$name=$port"
}
base main host_main
base changed host_other
base interactive host_main 'UsePAM yes' 'PasswordAuthentication no' 'KbdInteractiveAuthentication yes' 'PubkeyAuthentication no'
for name in main other; do echo "key_$name=$(ssh-keygen -lf "host_$name.pub" | cut -d' ' -f2)"; done
echo ready
cat >/dev/null
