#!/usr/bin/python3
"""vault_read: an independent reader of the vault's format (docs/formats/vault.md), from the segments alone: it uses no index and shares
no code with Slipway. For the day on which nothing else is left, and as the suite's oracle.

usage: vault_read.py [--key-file FILE] VAULT points                     lists recovery points
       vault_read.py [--key-file FILE] VAULT read POINT DISK > IMAGE    writes a disk as a raw image (sparse where the output can seek)
"""
import ctypes
import ctypes.util
import hashlib
import hmac
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


class Aes:
    """AES-256 out of libcrypto."""

    def __init__(self):
        self.lib = ctypes.CDLL(ctypes.util.find_library("crypto") or "libcrypto.so.3")
        for name in ("EVP_CIPHER_CTX_new", "EVP_aes_256_gcm", "EVP_aes_256_ecb"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        self.context = ctypes.c_void_p(self.lib.EVP_CIPHER_CTX_new())

    def begin(self, cipher, key, nonce, encrypt):
        if self.lib.EVP_CipherInit_ex(self.context, ctypes.c_void_p(getattr(self.lib, cipher)()), None, key, nonce, encrypt) != 1:
            raise Refused("libcrypto does not start AES")

    def update(self, out, data):
        size = ctypes.c_int()
        return self.lib.EVP_CipherUpdate(self.context, out, ctypes.byref(size), data, len(data)) == 1

    def open(self, key, bound, sealed):
        """nonce, ciphertext, tag: the plain bytes, or None."""
        nonce, data, tag = sealed[:12], sealed[12:-16], sealed[-16:]
        out, rest = ctypes.create_string_buffer(len(data) or 1), ctypes.create_string_buffer(16)
        self.begin("EVP_aes_256_gcm", key, nonce, 0)
        self.lib.EVP_CIPHER_CTX_ctrl(self.context, 0x11, 16, ctypes.create_string_buffer(tag, 16))
        good = self.update(None, bound) and self.update(out, data) and self.lib.EVP_CipherFinal_ex(self.context, rest, ctypes.byref(ctypes.c_int())) == 1
        return out.raw[:len(data)] if good else None

    def encipher(self, key, data):
        out = ctypes.create_string_buffer(len(data) + 32)
        self.begin("EVP_aes_256_ecb", key, None, 1)
        self.lib.EVP_CIPHER_CTX_set_padding(self.context, 0)
        return out.raw[:len(data)] if self.update(out, data) else None


class Keys:
    def __init__(self, sealed, vault_id, key_file):
        if not key_file:
            raise Refused("the vault is encrypted: --key-file")
        self.aes, self.id, wrap = Aes(), vault_id, bytes.fromhex(pathlib.Path(key_file).read_text().split()[0])
        self.data = {number: self.unwrap(wrap, number, one["key"]) for number, one in enumerate(sealed["keys"], 1)}
        self.names = self.unwrap(wrap, 0, sealed["names"]) if sealed["names"] else None

    def unwrap(self, wrap, number, text):
        key = self.aes.open(wrap, b"slipway vault key   " + struct.pack("<I", number) + self.id, bytes.fromhex(text))
        if key is None:
            raise Refused("this key does not open the vault")
        return key

    def name(self, digest):
        return self.aes.encipher(self.names, digest) if self.names else digest

    def open(self, segment, header, stored):
        (number,) = struct.unpack_from("<I", stored)
        if number not in self.data:
            raise Refused(f"segment {segment} needs the data key {number}")
        key = hmac.new(self.data[number], b"slipway segment " + struct.pack("<I", segment) + self.id, "sha256").digest()
        plain = self.aes.open(key, header[:48], stored[4:])
        if plain is None:
            raise Refused(f"segment {segment}: a payload does not open")
        return plain


def unpack(codec, raw_size, stored):
    if codec == 0:
        return stored
    out = ctypes.create_string_buffer(raw_size)
    got = zstd.ZSTD_decompress(out, raw_size, stored, len(stored))
    if got != raw_size:
        raise Refused("a payload does not decompress")
    return out.raw


class Vault:
    def __init__(self, folder, key_file=None):
        self.folder = pathlib.Path(folder)
        about = json.loads((self.folder / "vault.json").read_text())
        if about.get("format") != "slipway-vault" or about.get("version") not in (1, 2, 3):
            raise Refused("not a vault of version 1 to 3")
        self.id = bytes.fromhex(about["id"])
        self.keys = Keys(about["sealed"], self.id, key_file) if about.get("sealed") else None
        self.places, self.points, self.graves, self.documents, self.grouped = {}, {}, set(), set(), set()
        for path in sorted((self.folder / "segments").glob("[0-9]" * 10 + ".seg")):
            self.walk(path)

    def walk(self, path):
        data = path.read_bytes()
        if len(data) < 64:
            return
        magic, version, flags, number = struct.unpack_from("<8sIIQ", data)
        if magic != b"SLIPSEG1" or version != 1 or flags > 1 or number != int(path.stem) or data[32:48] != self.id:
            raise Refused(f"{path}: not a segment of this vault that can be read")
        at = 64
        while at + 64 <= len(data) and data[at:at + 4] == b"SREC":
            version, kind, codec, flags, raw_size, stored_size = struct.unpack_from("<4BII", data, at + 4)
            if version != 1 or kind not in KINDS or codec > 3 or flags > 1:
                raise Refused(f"{path}: a record from a later version at {at}")
            if not 0 < stored_size - 32 * flags <= raw_size <= RAW_LIMIT or at + 64 + stored_size > len(data):
                break  # a torn tail
            name = data[at + 16:at + 48]
            self.places[name] = (path, at + 64, codec, raw_size, stored_size)
            if kind in (3, 4, 5):
                self.document(kind, name)
            at += 64 + (stored_size + 7) // 8 * 8

    def document(self, kind, name):
        self.documents.add(name)
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
        stored = self.stored(name)
        path, _, codec, raw_size, _ = self.places[name]
        if codec < 2:
            raw = unpack(codec, raw_size, stored)
        else:
            own, parts, pages = self.divided(codec, stored)
            for part, mask in parts.items():
                others = self.own_pages(part)
                pages.update({page: others[page] for page in range(16) if mask >> page & 1})
            raw = b"".join(pages[page] for page in range(16))
        if self.name(raw, name) != name:
            raise Refused(f"{path}: the bytes of {name.hex()} do not match their name")
        return raw

    def stored(self, name):
        if name not in self.places:
            raise Refused(f"{name.hex()} is missing")
        path, at, _, _, stored_size = self.places[name]
        with open(path, "rb") as f:
            f.seek(at - 64)
            header, stored = f.read(64), f.read(stored_size)
        return self.keys.open(int(path.stem), header, stored) if header[7] and self.keys else stored

    def name(self, raw, wanted):
        digest = hashlib.sha256(raw).digest()
        return self.keys.name(digest) if self.keys and wanted not in self.documents else digest

    @staticmethod
    def divided(codec, stored):
        """A chunk's record that holds some pages itself: their mask, the parts (name: mask) and the pages by number."""
        if codec == 2:
            (own, packing), at = struct.unpack_from("<HB", stored, 32), 40
            parts = {stored[:32]: ~own & 0xffff}
        else:
            own, count, packing = struct.unpack_from("<HBB", stored)
            at = 8 + 34 * count
            parts = {stored[i:i + 32]: struct.unpack_from("<H", stored, i + 32)[0] for i in range(8, at, 34)}
        numbers = [page for page in range(CHUNK // PAGE) if own >> page & 1]
        raw = unpack(packing, len(numbers) * PAGE, stored[at:])
        return own, parts, {page: raw[i * PAGE:(i + 1) * PAGE] for i, page in enumerate(numbers)}

    def own_pages(self, name):
        stored, (_, _, codec, raw_size, _) = self.stored(name), self.places[name]
        if codec > 1:
            return self.divided(codec, stored)[2]
        raw = unpack(codec, raw_size, stored)
        return {page: raw[page * PAGE:(page + 1) * PAGE] for page in range(CHUNK // PAGE)}

    def living(self):
        return sorted((p for name, p in self.points.items() if name not in self.graves and
                       ("group" not in p or p.get("copied") or (name, p["group"]) in self.grouped)), key=lambda p: p["sequence"])

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
    words, key_file = sys.argv[1:], None
    if len(words) > 1 and words[0] == "--key-file":
        key_file, words = words[1], words[2:]
    if len(words) == 2 and words[1] == "points":
        for point in Vault(words[0], key_file).living():
            print(point["id"], point["server"], point["consistency"], *(f"{d['id']}={d['size_bytes']}" for d in point["disks"]),
                  *([f"unreadable={point['unreadable']['bytes']}"] if "unreadable" in point else []))
    elif len(words) == 4 and words[1] == "read":
        Vault(words[0], key_file).read(words[2], words[3], sys.stdout.buffer)
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
