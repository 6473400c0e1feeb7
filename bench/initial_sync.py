"""Initial sync of a disk half full of real files, over TLS on loopback, beside nbdcopy, qemu-img convert and rsync over ssh."""
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


def nbd_server(place, loop, name="nbdkit"):
    """The source disk as nbdkit serves it, TLS with a pre-shared key required."""
    key = place.dir / "keys.psk"
    key.write_text(f"bench:{secrets.token_hex(32)}\n")
    port = free_port()
    place.start(name, "nbdkit", "-f", "-r", "--tls=require", f"--tls-psk={key}", "-i", "127.0.0.1", "-p", port, "file", loop)
    uri = f"nbds://bench@127.0.0.1:{port}/?tls-psk-file={key}"
    wait_for("nbdkit", lambda: run("nbdinfo", "--size", uri), 20)
    return uri, port


def convert(place, port, to):
    """Seconds that qemu-img takes for a copy of what nbd_server serves."""
    return timed("qemu-img", "convert", "--object", f"tls-creds-psk,id=t,endpoint=client,username=bench,dir={place.dir}", "--image-opts",
                 f"driver=nbd,host=127.0.0.1,port={port},tls-creds=t", "-O", "raw", to)


def ssh_peer(place, loop):
    shell, host = place.sshd()
    seconds = timed("rsync", "-S", "--copy-devices", "-e", shell, loop, f"{host}:{place.dir}/rsync.raw")
    run("cmp", loop, place.dir / "rsync.raw")
    return seconds


def measure(build, quick):
    size_mib = 512 if quick else 10240
    with Place(build) as place:
        loop, _ = place.disk("source", size_mib)
        seconds, peers = ours(place, loop), {}
        run("dd", f"if={loop}", "of=/dev/null", "bs=1M")  # the peers read through the page cache: warm for all of them; we read around it
        uri, port = nbd_server(place, loop)
        peers["nbdcopy (TLS)"] = timed("nbdcopy", uri, place.dir / "nbdcopy.raw")
        run("cmp", loop, place.dir / "nbdcopy.raw")
        peers["qemu-img convert (TLS)"] = convert(place, port, place.dir / "convert.raw")
        run("cmp", loop, place.dir / "convert.raw")
        peers["rsync -S over ssh"] = ssh_peer(place, loop)
    yield {"what": f"initial sync of {size_mib} MiB, half full", "unit": "s", "ours": round(seconds, 2), "peers": {name: round(value, 2) for name, value in peers.items()},
           "goal": {"ratio_at_least": 1.0}, "how": "one run each, loopback; page cache warm for the peers, ours reads the device; ours until the first recovery point is synced to disk, "
                                                     "the peers' copies are not synced; every copy compared whole"}
