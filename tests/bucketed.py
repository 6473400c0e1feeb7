"""A replicator whose vault's full segments lie in an S3-compatible store: what every store is held to; for the tests of that. `sys.path` must hold tests/.

A store is an object with options (the replicator's), start(), kill() (as a machine that loses its power) and segments() (how many it holds)."""
import os
import shutil
import signal
import subprocess

from ends import free_port
from replicated import MIB, continuous
from tap import intact, ok


def options(world, url, bucket, access, secret, ca=None, cache_mib=1):
    """The replicator's, for a vault under the prefix site-a."""
    credentials = world.dir / "credentials"
    credentials.write_text(f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")
    return ["--s3-url", url, "--s3-bucket", bucket, "--s3-prefix", "site-a", "--s3-credentials-file", credentials, "--s3-cache-mib", cache_mib, "--s3-wait", "2s", *(["--s3-ca", ca] if ca else [])]


def bucket(world):
    return world.ask("status", server="web01")["vault"]["bucket"]


def files(world):
    return sorted(p.name for p in (world.dir / "replicator/vault/segments").glob("*.seg"))


def settled(world):
    b = bucket(world)
    return b["uploaded_segments"] and not b["waiting_segments"] and not b["to_remove_segments"] and not b["error"]


def full(world):
    """What is being filled counts as full from now on."""
    world.ask("compact", live_percent=1)


def sent_and_read(world, store):
    """A point, all of which lies in the store."""
    world.wait("the disk is copied", lambda: continuous(world))
    full(world)
    world.wait("full segments are in the bucket", lambda: settled(world) and store.segments() == bucket(world)["uploaded_segments"])
    world.wait("and their files go", lambda: "0000000001.seg" not in files(world))
    stat = subprocess.run([world.slipway_program, "vault", "stat", "--vault", world.dir / "replicator"], capture_output=True, text=True, check=False)
    ok("away     in the bucket vaults at http" in stat.stdout and "are there for certain" in stat.stdout, "`slipway vault stat` says so", stat)
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]["id"]
    compared = world.ask("compare", server="web01", point=point)["disks"][0]
    world.ask("thaw", server="web01")
    intact(compared["blocks_differing"] == 0 and compared["source_sha256"] == compared["target_sha256"], "a whole disk, read from there, is the source", compared)
    ok(world.ask("verify", point=point)["chunks"] > 0 and world.ask("scrub")["finding_count"] == 0, "verified, and scrubbed")
    return point


def away(world, store, point):
    """The store is killed, the replicator goes on, is killed, too, and starts without it."""
    store.kill()
    before = world.server()["newest_point"]
    (world.mounted / "late").write_bytes(os.urandom(4 * MIB))
    world.sync()
    world.wait("without the store the next point comes all the same", lambda: world.server()["newest_point"] != before and world.server()["state"] == "CONTINUOUS")
    full(world)
    world.wait("the status says what waits, and why", lambda: bucket(world)["waiting_segments"] and bucket(world)["error"])
    refused = world.refusal("verify", point=point)
    ok(refused.startswith("unreachable: ") and "bucket vaults" in refused, "what is there can't be verified meanwhile, and it says so", refused)
    world.kill("replicator")
    world.start_replicator(*store.options)
    world.wait("a replicator starts without its store", lambda: world.server()["state"] == "CONTINUOUS")
    store.start()
    world.wait("and sends when it is back", lambda: settled(world), 180)
    ok(world.ask("verify", point=point)["chunks"] > 0, "nothing was lost")


def second(world, store):
    """A copy of the replicator, on the same prefix, while the first one lives."""
    copy, before = world.dir / "second", store.segments()
    shutil.copytree(world.dir / "replicator", copy, ignore=shutil.ignore_patterns("*.sock"))
    changed = {world.dir / "replicator": copy, f"{world.address}:{world.port}": f"{world.address}:{free_port()}"}
    words = [changed.get(word, word) for word in world.replicator_words("--vault-key-file", world.vault_key, *store.options)]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=300)
    ok(done.returncode == 6 and f"folder {os.path.realpath(world.dir)}/replicator/vault) writes to the bucket" in done.stdout + done.stderr, "a second replicator on its prefix is refused, and told which is the first", done)
    ok(store.segments() >= before and world.ask("scrub")["finding_count"] == 0, "which goes on")
    shutil.rmtree(copy)


def at_rest(world, store, point):
    """The replicator has ended: whoever looks says how the store is reached."""
    world.kill("replicator", signal.SIGTERM)
    words = ["--vault", world.dir / "replicator"]
    away_words = [word for name, word in zip(store.options, store.options[1:]) if name in ("--s3-credentials-file", "--s3-ca") for word in (name, word)]
    without = run_words(world, "vault", "scrub", *words)
    ok(without.returncode and "open the vault with its bucket" in without.stderr, "a vault at rest says what it lacks", without)
    started = subprocess.run([str(word) for word in world.replicator_words("--vault-key-file", world.vault_key)], capture_output=True, text=True, check=False, timeout=300)
    ok(started.returncode and "open the vault with its bucket" in started.stdout + started.stderr, "and so does a replicator, which does not start without", started)
    scrub = run_words(world, "vault", "scrub", *words, *away_words)
    ok(scrub.returncode == 0 and "0 findings" in scrub.stdout, "and is scrubbed with it", scrub)
    export = run_words(world, "point", "export", point, "--format", "raw", "--to", world.dir / "exported", *words, *away_words)
    ok(export.returncode == 0, "a point is exported, and compared with itself", export)
    shutil.rmtree(world.dir / "exported", ignore_errors=True)


def run_words(world, *words):
    return subprocess.run([str(word) for word in (world.slipway_program, *words)], capture_output=True, text=True, check=False)
