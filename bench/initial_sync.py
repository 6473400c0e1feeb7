"""Initial sync of a disk half full of real files, over TLS on loopback, beside nbdcopy, qemu-img convert and rsync over ssh."""
import getpass
import secrets

from common import Place, free_port, run, timed, wait_for


def ours(place, loop):
    place.certificates("replicator:r1", "agent:web01")
    place.replicator()
    place.agent("web01", loop)
    seconds, state = place.synced("web01")
    place.ask("verify", point=state["newest_point"])
    place.stop("agent-web01")
    return seconds


def nbd_server(place, loop):
    """The source disk as nbdkit serves it, TLS with a pre-shared key required."""
    key = place.dir / "keys.psk"
    key.write_text(f"bench:{secrets.token_hex(32)}\n")
    port = free_port()
    place.start("nbdkit", "nbdkit", "-f", "-r", "--tls=require", f"--tls-psk={key}", "-i", "127.0.0.1", "-p", port, "file", loop)
    uri = f"nbds://bench@127.0.0.1:{port}/?tls-psk-file={key}"
    wait_for("nbdkit", lambda: run("nbdinfo", "--size", uri), 20)
    return uri, port


def ssh_peer(place, loop):
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place.dir / "host_key")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place.dir / "user_key")
    (place.dir / "authorized").write_text((place.dir / "user_key.pub").read_text())
    port = free_port()
    (place.dir / "sshd_config").write_text(f"Port {port}\nListenAddress 127.0.0.1\nHostKey {place.dir}/host_key\nAuthorizedKeysFile {place.dir}/authorized\n"
                                           "StrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\n")
    run("mkdir", "-p", "/run/sshd")
    place.start("sshd", "/usr/sbin/sshd", "-D", "-e", "-f", place.dir / "sshd_config")
    shell = f"ssh -p {port} -i {place.dir}/user_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    wait_for("sshd", lambda: run(*shell.split(), f"{getpass.getuser()}@127.0.0.1", "true") == "", 20)
    seconds = timed("rsync", "-S", "--copy-devices", "-e", shell, loop, f"{getpass.getuser()}@127.0.0.1:{place.dir}/rsync.raw")
    run("cmp", loop, place.dir / "rsync.raw")
    return seconds


def measure(build, quick):
    size_mib = 512 if quick else 10240
    with Place(build) as place:
        loop, _ = place.disk("source", size_mib)
        seconds, peers = ours(place, loop), {}
        uri, _ = nbd_server(place, loop)
        peers["nbdcopy (TLS)"] = timed("nbdcopy", uri, place.dir / "nbdcopy.raw")
        run("cmp", loop, place.dir / "nbdcopy.raw")
        peers["qemu-img convert (TLS)"] = timed("qemu-img", "convert", "--object", f"tls-creds-psk,id=t,endpoint=client,username=bench,dir={place.dir}", "--image-opts",
                                                f"driver=nbd,host=127.0.0.1,port={uri.split(':')[2].split('/')[0]},tls-creds=t", "-O", "raw", place.dir / "convert.raw")
        run("cmp", loop, place.dir / "convert.raw")
        peers["rsync -S over ssh"] = ssh_peer(place, loop)
    yield {"what": f"initial sync of {size_mib} MiB, half full", "unit": "s", "ours": round(seconds, 2), "peers": {name: round(value, 2) for name, value in peers.items()},
           "goal": {"ratio_at_least": 1.0}, "how": "one run each, loopback, page cache warm; ours until the first recovery point is committed to disk; every copy compared whole"}
