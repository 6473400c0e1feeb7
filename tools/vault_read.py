#!/usr/bin/python3
"""vault_read: an independent reader of the vault's format (docs/formats/vault.md), from the segments alone: it uses no index and shares
no code with Slipway. For the day on which nothing else is left, and as the suite's oracle.

Checks every sum that the format has. Damage is told on stderr, and read on behind: it costs the disks that need what is damaged, and nothing else.

usage: vault_read.py [--key-file FILE] VAULT points                     lists recovery points of which all is there
       vault_read.py [--key-file FILE] VAULT sums                       the SHA-256 of each of their disks: POINT DISK SUM
       vault_read.py [--key-file FILE] VAULT read POINT DISK > IMAGE    writes a disk as a raw image (sparse where the output can seek)
"""
import ctypes
import ctypes.util
import functools
import hashlib
import hmac
import json
import pathlib
import struct
import sys
import typing

CHUNK, PAGE, FANOUT, NODE, RAW_LIMIT, HEAD = 65536, 4096, 64, 2048, 1 << 20, 64
ZERO, UNKNOWN, ALL = bytes(32), b"\xff" * 32, 0xffff
KINDS = {1: "chunk", 2: "node", 3: "point", 4: "grave", 5: "group"}


def library(name, known):
    try:
        return ctypes.CDLL(known)
    except OSError:
        return ctypes.CDLL(ctypes.util.find_library(name) or known)


zstd, xxhash = library("zstd", "libzstd.so.1"), library("xxhash", "libxxhash.so.0")
zstd.ZSTD_decompress.restype = ctypes.c_size_t
zstd.ZSTD_decompress.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
xxhash.XXH3_64bits.restype = ctypes.c_uint64
xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


class Refused(Exception):
    pass


class Damaged(Refused):
    """One record is; the others may be whole."""


def tell(text):
    print(f"vault_read: {text}", file=sys.stderr)


def sums_up(head):
    """A header of which the sum holds."""
    return xxhash.XXH3_64bits(head, 56) == struct.unpack_from("<Q", head, 56)[0]


class Aes:
    """AES-256 out of libcrypto."""

    def __init__(self):
        self.lib = library("crypto", "libcrypto.so.3")
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
            raise Damaged("its sealed bytes do not open")
        return plain


def unpack(codec, raw_size, stored):
    if codec == 0 and len(stored) == raw_size:
        return stored
    out = ctypes.create_string_buffer(raw_size)
    if codec != 1 or zstd.ZSTD_decompress(out, raw_size, stored, len(stored)) != raw_size:
        raise Damaged("its bytes do not unpack")
    return out.raw


class Record(typing.NamedTuple):
    """Where it lies (`at` is its header's), and what its header says."""
    path: pathlib.Path
    at: int
    kind: int
    codec: int
    raw_size: int
    stored_size: int
    own: int = ALL  # the pages that it holds itself
    parts: tuple = ()  # (name, mask) of the others
    pages_at: int = 0  # where in the stored bytes its pages begin
    packing: int = 0  # their codec

    def span(self):
        return HEAD + (self.stored_size + 7) // 8 * 8

    def divided(self, stored):
        """The same, with what a chunk's record of codec 2 or 3 says of its pages."""
        if self.codec == 2:
            (own, packing), at, nothing = struct.unpack_from("<HB", stored, 32), 40, stored[35:40]
            parts = [(stored[:32], ~own & ALL)] if own != ALL else []
        else:
            (own, count, packing), nothing = struct.unpack_from("<HBB", stored), stored[4:8]
            at = 8 + 34 * count
            if count > 15 or at >= len(stored):
                raise Damaged("it says more parts than it has")
            parts = [(stored[i:i + 32], struct.unpack_from("<H", stored, i + 32)[0]) for i in range(8, at, 34)]
        seen = own
        for _, mask in parts:
            if mask == 0 or seen & mask:
                raise Damaged("it names a page twice, or a part without one")
            seen |= mask
        if own == 0 or any(nothing):
            raise Damaged("it holds no page itself, or is of another kind")
        return self._replace(own=own, parts=tuple(parts), pages_at=at, packing=packing)


def as_point(about):
    """KeyError, TypeError or ValueError where it lacks what a point has."""
    for name, kind in (("id", str), ("server", str), ("consistency", str), ("sequence", int)):
        if not isinstance(about[name], kind):
            raise TypeError(f"{name} is of another kind")
    for disk in about["disks"]:
        if not isinstance(disk["id"], str) or disk["size_bytes"] <= 0 or len(bytes.fromhex(disk["root"])) != len(ZERO):
            raise ValueError("a disk is not what it must be")
    return about


class Vault:
    def __init__(self, folder, key_file=None):
        self.folder = pathlib.Path(folder)
        about = json.loads((self.folder / "vault.json").read_text())
        if about.get("format") != "slipway-vault" or about.get("version") not in (1, 2, 3):
            raise Refused("not a vault of version 1 to 3")
        self.id = bytes.fromhex(about["id"])
        self.keys = Keys(about["sealed"], self.id, key_file) if about.get("sealed") else None
        self.records, self.hurt, self.whole_nodes = {}, {}, set()  # by name; hurt: where a damaged one lies
        self.points, self.graves, self.grouped = {}, set(), set()
        for path in sorted((self.folder / "segments").glob("[0-9]" * 10 + ".seg")):
            self.walk(path, path.read_bytes())
        for path in sorted((self.folder / "segments").glob("[0-9]" * 10 + ".maps")):
            if not path.with_suffix(".seg").exists():
                tell(f"segment {int(path.stem)} lies in the bucket alone: what is in it is missing here")

    # ---- one segment ----

    def walk(self, path, data):
        number, at, count = int(path.stem), HEAD, 0
        if len(data) < HEAD:
            tell(f"segment {number} has {len(data)} bytes, fewer than its header")
            return
        self.header(path, data)
        while True:
            taken = self.record(path, data, at)
            if isinstance(taken, int):
                at += taken
                count += 1
                continue
            if self.trailer(number, data, at, count) or at == len(data):
                return
            following = self.next_record(path, data, at + 8)
            end = following or len(data) - HEAD
            if not following and (end < at or not self.trailer(number, data, end, count)):
                end = len(data)
            tell(f"segment {number} is damaged from byte {at} to {end}: {taken}")
            if not following:
                return
            at = following

    def header(self, path, data):
        magic, version, flags, number = struct.unpack_from("<8sIIQ", data)
        if magic != b"SLIPSEG1" or not sums_up(data[:HEAD]):
            tell(f"the header of segment {int(path.stem)} is damaged")
        elif version != 1 or flags > 1:
            raise Refused(f"{path}: of a later version")
        elif number != int(path.stem) or data[32:48] != self.id:
            raise Refused(f"{path}: of another vault, or of another name")

    @staticmethod
    def trailer(number, data, at, count):
        """There is one; it must say how many records there are."""
        if data[at:at + 8] != b"SLIPEND1" or len(data) < at + HEAD or not sums_up(data[at:at + HEAD]) or struct.unpack_from("<Q", data, at + 24)[0] != at:
            return False
        (said,) = struct.unpack_from("<Q", data, at + 16)
        if said != count:
            tell(f"segment {number}: its trailer says {said} records, {count} are whole")
        if len(data) > at + HEAD:
            tell(f"segment {number}: {len(data) - at - HEAD} bytes lie behind its trailer")
        return True

    def next_record(self, path, data, at):
        """Where the next header begins that holds; 0: there is none."""
        while (at := data.find(b"SREC", at)) >= 0:
            if at % 8 == 0 and isinstance(self.head(path, data, at), Record):
                return at
            at += 1
        return 0

    @staticmethod
    def head(path, data, at):
        """What a record's header says; a text: what is wrong with it."""
        head = data[at:at + HEAD]
        if len(head) < HEAD or head[:4] != b"SREC":
            return "no record begins there"
        if not sums_up(head):
            return "the header of a record is damaged"
        version, kind, codec, flags, raw_size, stored_size = struct.unpack_from("<4BII", head, 4)
        if version != 1 or kind not in KINDS or codec > 3 or flags > 1:
            raise Refused(f"{path}: a record of a later version at byte {at}")
        plain = stored_size - 32 * flags
        if not 0 < plain <= raw_size <= RAW_LIMIT or (codec == 0 and plain != raw_size) or (codec > 1 and (kind != 1 or raw_size != CHUNK or plain <= (40, 8)[codec - 2])):
            return f"a record says {raw_size} raw and {stored_size} stored bytes"
        return Record(path, at, kind, codec, raw_size, stored_size)

    def record(self, path, data, at):
        """Takes in the record at that place: its size there; a text: why none is whole."""
        found = self.head(path, data, at)
        if isinstance(found, str):
            return found
        name, payload = data[at + 16:at + 48], data[at + HEAD:at + HEAD + found.stored_size]
        what = f"{KINDS[found.kind]} {name.hex()}"
        wrong = f"{what} reaches beyond the file" if at + found.span() > len(data) else ""
        if not wrong and xxhash.XXH3_64bits(payload, len(payload)) != struct.unpack_from("<Q", data, at + 48)[0]:
            wrong = f"the stored bytes of {what} do not match their sum"
        if wrong:
            self.hurt[name] = f"segment {int(path.stem)}, byte {at}"
            return wrong
        try:
            plain = self.plain(found, data[at:at + HEAD], payload)
            self.records[name] = found.divided(plain) if found.codec > 1 else found
            if found.kind > 2:
                self.document(name, unpack(found.codec, found.raw_size, plain))
        except Damaged as reason:
            self.hurt[name] = f"segment {int(path.stem)}, byte {at}"
            tell(f"segment {int(path.stem)}, byte {at}: {what}: {reason}")
        return found.span()

    def document(self, name, raw):
        record = self.records[name]
        if hashlib.sha256(raw).digest() != name:
            raise Damaged("its bytes do not match its name")
        try:
            if record.kind == 4:
                self.graves.add(raw[:32])
                return
            about = json.loads(raw)
            if record.kind == 5 and about["format"] == "slipway-group" and about["version"] == 1:
                self.grouped |= {(bytes.fromhex(p["document"]), about["id"]) for p in about["points"]}
            elif record.kind == 3 and about["format"] == "slipway-point" and about["version"] == 1:
                self.points[name] = as_point(about)
            else:
                tell(f"{KINDS[record.kind]} {name.hex()} is of a later version")
        except (ValueError, KeyError, TypeError) as reason:
            tell(f"{KINDS[record.kind]} {name.hex()} is not what the format says: {reason}")

    # ---- records by their names ----

    def plain(self, record, head, stored):
        if not head[7]:
            return stored
        if not self.keys:
            raise Refused(f"segment {int(record.path.stem)} has sealed records, and vault.json has no keys")
        return self.keys.open(int(record.path.stem), head, stored)

    def missing(self, name):
        return Refused(f"{name.hex()} is missing" + (f" (damaged: {self.hurt[name]})" if name in self.hurt else ""))

    def stored(self, name):
        if name not in self.records:
            raise self.missing(name)
        record = self.records[name]
        with open(record.path, "rb") as f:
            f.seek(record.at)
            head, stored = f.read(HEAD), f.read(record.stored_size)
        return record, self.plain(record, head, stored)

    def get(self, name):
        record, stored = self.stored(name)
        try:
            if record.codec < 2:
                raw = unpack(record.codec, record.raw_size, stored)
            else:
                pages = self.own_pages(record, stored)
                for part, mask in record.parts:
                    others = self.own_pages(*self.stored(part))
                    pages.update({page: others[page] for page in range(16) if mask >> page & 1})
                raw = b"".join(pages[page] for page in range(16))
        except KeyError as lacking:
            raise Damaged(f"{name.hex()} lacks page {lacking}, or a part of it does") from None
        except Damaged as reason:
            raise Damaged(f"segment {int(record.path.stem)}, byte {record.at}: {name.hex()}: {reason}") from None
        digest = hashlib.sha256(raw).digest()
        if (self.keys.name(digest) if self.keys else digest) != name:
            raise Damaged(f"segment {int(record.path.stem)}, byte {record.at}: the bytes of {name.hex()} do not match their name")
        return raw

    @staticmethod
    def own_pages(record, stored):
        numbers = [page for page in range(CHUNK // PAGE) if record.own >> page & 1]
        raw = unpack(record.packing, len(numbers) * PAGE, stored[record.pages_at:]) if record.codec > 1 else unpack(record.codec, record.raw_size, stored)
        return {page: raw[i * PAGE:(i + 1) * PAGE] for i, page in enumerate(numbers)}

    def must_be_there(self, name):
        """A chunk: its record, and the parts that it is made of."""
        record = self.records.get(name)
        if not record:
            raise self.missing(name)
        have = record.own
        for part, mask in record.parts:
            if part not in self.records:
                raise Refused(f"{name.hex()} has a part that is not there: {self.missing(part)}")
            have |= mask & self.records[part].own
        if have != ALL:
            raise Refused(f"of {name.hex()} only those pages are there that others need")

    # ---- points ----

    def living(self):
        """Points whose document counts, the oldest first; whether all that they need is there is another question."""
        for name, point in sorted(self.points.items(), key=lambda item: item[1]["sequence"]):
            if name in self.graves:
                continue
            if "group" in point and not point.get("copied") and (name, point["group"]) not in self.grouped:
                tell(f"recovery point {point['id']} of {point['server']} is left out: the document of its group {point['group']} is not there")
                continue
            yield point

    def usable(self):
        for point in self.living():
            try:
                for disk in point["disks"]:
                    self.disk_is_there(disk)
                yield point
            except Refused as reason:
                tell(f"recovery point {point['id']} of {point['server']} is left out: disk {disk['id']}: {reason}")

    def disk_is_there(self, disk):
        for _, name in self.chunks(disk, True):
            self.must_be_there(name)

    def chunks(self, disk, once=False):
        """Numbers and names of the chunks that are not zero; once: not below nodes of which all was said to be there."""
        count, depth = -(-disk["size_bytes"] // CHUNK), 1
        while FANOUT ** depth < count:
            depth += 1
        return self.below(bytes.fromhex(disk["root"]), depth - 1, 0, count, once)

    def below(self, name, level, first, count, once):
        if name == ZERO or (once and (name, level) in self.whole_nodes):
            return
        node = self.get(name)
        if len(node) != NODE:
            raise Damaged(f"{name.hex()} is a node of another size")
        for i in range(FANOUT):
            child, at = node[32 * i:32 * i + 32], first + i * FANOUT ** level
            if child == UNKNOWN:
                raise Damaged(f"{name.hex()} has an unknown chunk in it")
            if child == ZERO or at >= count:
                continue
            if level:
                yield from self.below(child, level - 1, at, count, once)
            else:
                yield at, child
        if once:  # whoever asked for the next one found these
            self.whole_nodes.add((name, level))

    def read(self, disk, out):
        """The whole disk, or nothing where not all of it is there."""
        size, written = disk["size_bytes"], 0
        self.disk_is_there(disk)
        for number, name in self.chunks(disk):
            written = skip(out, written, number * CHUNK)
            content = self.get(name)[:size - number * CHUNK]
            out.write(content)
            written += len(content)
        skip(out, written, size)
        if out.seekable():
            out.truncate(size)

    def find(self, point_id, disk_id):
        for point in self.living():
            for disk in point["disks"]:
                if (point["id"], disk["id"]) == (point_id, disk_id):
                    return disk
        raise Refused("there is no such point or disk")


class Sum:
    """Where a disk goes of which the SHA-256 is wanted."""

    def __init__(self):
        self.digest = hashlib.sha256()
        self.write = self.digest.update

    @staticmethod
    def seekable():
        return False


def skip(out, at, to):
    if out.seekable():
        out.seek(to)
    else:
        while at < to:
            out.write(bytes(min(CHUNK, to - at)))
            at += min(CHUNK, to - at)
    return to


def list_points(vault):
    for point in vault.usable():
        print(point["id"], point["server"], point["consistency"], *(f"{d['id']}={d['size_bytes']}" for d in point["disks"]),
              *([f"unreadable={point['unreadable']['bytes']}"] if "unreadable" in point else []))
    return 0


def list_sums(vault):
    """1 where a disk could not be read."""
    status = 0
    vault.get = functools.lru_cache(1024)(vault.get)  # points have most of their chunks from the ones before
    for point in vault.usable():
        for disk in point["disks"]:
            out = Sum()
            try:
                vault.read(disk, out)
                print(point["id"], disk["id"], out.digest.hexdigest())
            except Refused as reason:
                tell(f"recovery point {point['id']}, disk {disk['id']}: {reason}")
                status = 1
    return status


def main():
    words, key_file = sys.argv[1:], None
    if len(words) > 1 and words[0] == "--key-file":
        key_file, words = words[1], words[2:]
    if len(words) == 2 and words[1] in ("points", "sums"):
        return (list_points if words[1] == "points" else list_sums)(Vault(words[0], key_file))
    if len(words) == 4 and words[1] == "read":
        vault = Vault(words[0], key_file)
        vault.read(vault.find(words[2], words[3]), sys.stdout.buffer)
        return 0
    print(__doc__.strip(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Refused, OSError, ValueError, KeyError) as reason:
        tell(reason)
        sys.exit(1)
