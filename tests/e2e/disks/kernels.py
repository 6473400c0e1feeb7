"""Kernels of other suites than this machine's: unpacked into a folder of their own (~/.cache/slipway-kernels), by this machine's own package sources; its packages and lists of packages stay as they are."""
import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "demo.d"))
from world_parts.images import apt_sources  # pylint: disable=wrong-import-position


def fetch(suite):
    """The folder with the newest cloud kernel of that suite ("bullseye"), as Tree wants it."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "slipway-kernels"
    folder = cache / suite
    if (folder / "lib/modules").is_dir():
        return folder
    lists = cache / f"{suite}.lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    sources = cache / f"{suite}.list"
    main = [line for line in apt_sources().splitlines() if re.search(r"\sbookworm\s", line)]
    sources.write_text("".join(re.sub(r"\sbookworm\s", f" {suite} ", line) + "\n" for line in main))
    apt = ["-q", "-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={lists}", "-o", "Dir::State::status=/dev/null", "-o", "APT::Sandbox::User=root"]
    subprocess.run(["apt-get", *apt, "update"], check=True, stdout=subprocess.DEVNULL)
    names = subprocess.run(["apt-cache", *apt, "search", "--names-only", r"^linux-image-[0-9].*-cloud-amd64$"], check=True, capture_output=True, text=True).stdout.split("\n")
    packages = sorted((line.split(" ")[0] for line in names if line), key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    if not packages:
        raise SystemExit(f"{suite} has no cloud kernel")
    subprocess.run(["apt-get", *apt, "download", packages[-1]], check=True, cwd=cache, stdout=subprocess.DEVNULL)
    new = cache / f"{suite}.new"
    subprocess.run(["dpkg", "-x", next(cache.glob(f"{packages[-1]}_*.deb")), new], check=True)
    subprocess.run(["depmod", "-b", new, next((new / "lib/modules").iterdir()).name], check=True)
    new.rename(folder)
    return folder
