#!/usr/bin/python3
"""vault_read: an independent reader of the vault's format (docs/formats/vault.md), from the segments alone: it uses no index and shares
no code with Slipway. For the day on which nothing else is left, and as the suite's oracle.

usage: vault_read.py VAULT points                     lists recovery points
       vault_read.py VAULT read POINT DISK > IMAGE    writes a disk as a raw image (sparse where the output can seek)
"""
import ctypes
import ctypes.util
import hashlib
import json
import pathlib
import struct
import sys

CHUNK, PAGE, FANOUT, NODE, RAW_LIMIT = 65536, 4096, 64, 2048, 1 << 20
ZERO, UNKNOWN = bytes(32), b"\xff" * 32
KINDS = {1: "chunk", 2: "node", 3: "point", 4: "grave", 5: "group"}
zstd = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
zstd.ZSTD_decompress.restype = ctypes.c_size_t
zstd.ZSTD_decompress.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]


class Refused(Exception):
    pass


def unpack(codec, raw_size, stored):
    if codec == 0:
        return stored
    out = ctypes.create_string_buffer(raw_size)
    got = zstd.ZSTD_decompress(out, raw_size, stored, len(stored))
    if got != raw_size:
        raise Refused("a payload does not decompress")
    return out.raw


class Vault:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        about = json.loads((self.folder / "vault.json").read_text())
        if about.get("format") != "slipway-vault" or about.get("version") != 1:
            raise Refused("not a vault of version 1")
        self.id = bytes.fromhex(about["id"])
        self.places, self.points, self.graves, self.grouped = {}, {}, set(), set()
        for path in sorted((self.folder / "segments").glob("[0-9]" * 10 + ".seg")):
            self.walk(path)

    def walk(self, path):
        data = path.read_bytes()
        if len(data) < 64:
            return
        magic, version, flags, number = struct.unpack_from("<8sIIQ", data)
        if magic != b"SLIPSEG1" or version != 1 or flags or number != int(path.stem) or data[32:48] != self.id:
            raise Refused(f"{path}: not a segment of this vault that can be read")
        at = 64
        while at + 64 <= len(data) and data[at:at + 4] == b"SREC":
            version, kind, codec, flags, raw_size, stored_size = struct.unpack_from("<4BII", data, at + 4)
            if version != 1 or kind not in KINDS or codec > 2 or flags:
                raise Refused(f"{path}: a record from a later version at {at}")
            if not 0 < stored_size <= raw_size <= RAW_LIMIT or at + 64 + stored_size > len(data):
                break  # a torn tail
            name = data[at + 16:at + 48]
            self.places[name] = (path, at + 64, codec, raw_size, stored_size)
            if kind in (3, 4, 5):
                self.document(kind, name)
            at += 64 + (stored_size + 7) // 8 * 8

    def document(self, kind, name):
        try:
            raw = self.get(name)
        except Refused:
            return
        if kind == 4:
            self.graves.add(raw[:32])
            return
        about = json.loads(raw)
        if kind == 5 and about.get("format") == "slipway-group" and about.get("version") == 1:
            self.grouped |= {(bytes.fromhex(p["document"]), about["id"]) for p in about["points"]}
        elif kind == 3 and about.get("format") == "slipway-point" and about.get("version") == 1:
            self.points[name] = about

    def get(self, name):
        if name not in self.places:
            raise Refused(f"{name.hex()} is missing")
        path, at, codec, raw_size, stored_size = self.places[name]
        with open(path, "rb") as f:
            f.seek(at)
            stored = f.read(stored_size)
        raw = self.delta(stored) if codec == 2 else unpack(codec, raw_size, stored)
        if hashlib.sha256(raw).digest() != name:
            raise Refused(f"{path}: the bytes of {name.hex()} do not match their name")
        return raw

    def delta(self, stored):
        base, (mask, codec) = stored[:32], struct.unpack_from("<HB", stored, 32)
        if self.places.get(base, (0, 0, 2))[2] == 2:
            raise Refused(f"the base {base.hex()} is missing, or a delta itself")
        pages, raw = unpack(codec, mask.bit_count() * PAGE, stored[40:]), bytearray(self.get(base))
        for at, page in enumerate(page for page in range(CHUNK // PAGE) if mask >> page & 1):
            raw[page * PAGE:(page + 1) * PAGE] = pages[at * PAGE:(at + 1) * PAGE]
        return bytes(raw)

    def living(self):
        return sorted((p for name, p in self.points.items() if name not in self.graves and
                       ("group" not in p or (name, p["group"]) in self.grouped)), key=lambda p: p["sequence"])

    def chunks(self, name, level, first, count):
        """Numbers and content of the chunks that are not zero."""
        if name == ZERO:
            return
        node = self.get(name)
        if len(node) != NODE:
            raise Refused("a node of another size")
        for i in range(FANOUT):
            child, at = node[32 * i:32 * i + 32], first + i * FANOUT ** level
            if child == UNKNOWN:
                raise Refused("an unknown chunk in a stored map")
            if child == ZERO or at >= count:
                continue
            if level:
                yield from self.chunks(child, level - 1, at, count)
            else:
                yield at, self.get(child)

    def read(self, point_id, disk_id, out):
        point = next((p for p in self.living() if p["id"] == point_id), None)
        disk = next((d for d in point["disks"] if d["id"] == disk_id), None) if point else None
        if not disk:
            raise Refused("there is no such point or disk")
        size = disk["size_bytes"]
        count, depth = -(-size // CHUNK), 1
        while FANOUT ** depth < count:
            depth += 1
        written = 0
        for number, content in self.chunks(bytes.fromhex(disk["root"]), depth - 1, 0, count):
            written = skip(out, written, number * CHUNK)
            content = content[:size - number * CHUNK]
            out.write(content)
            written += len(content)
        skip(out, written, size)
        if out.seekable():
            out.truncate(size)


def skip(out, at, to):
    if out.seekable():
        out.seek(to)
    else:
        while at < to:
            out.write(bytes(min(CHUNK, to - at)))
            at += min(CHUNK, to - at)
    return to


def main():
    if len(sys.argv) == 3 and sys.argv[2] == "points":
        for point in Vault(sys.argv[1]).living():
            print(point["id"], point["server"], point["consistency"], *(f"{d['id']}={d['size_bytes']}" for d in point["disks"]))
    elif len(sys.argv) == 5 and sys.argv[2] == "read":
        Vault(sys.argv[1]).read(sys.argv[3], sys.argv[4], sys.stdout.buffer)
    else:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Refused, OSError, ValueError, KeyError) as reason:
        print(f"vault_read: {reason}", file=sys.stderr)
        sys.exit(1)
