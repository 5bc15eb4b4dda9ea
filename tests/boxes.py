"""Edits the tables of an MP4 file whose ``moov`` comes last, so that media does not move."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts")


@dataclass
class Node:
    kind: bytes
    body: bytes = b""
    inner: "list[Node]" = field(default_factory=list)

    def find(self, *kinds: bytes) -> "Node":
        node = self
        for kind in kinds:
            node = next(one for one in node.inner if one.kind == kind)
        return node

    def to_bytes(self) -> bytes:
        content = b"".join(one.to_bytes() for one in self.inner) if self.kind in CONTAINERS else self.body
        return struct.pack(">I4s", 8 + len(content), self.kind) + content


def parse(data: bytes) -> list[Node]:
    nodes, offset = [], 0
    while offset < len(data):
        size, kind = struct.unpack_from(">I4s", data, offset)
        body = data[offset + 8 : offset + size]
        nodes.append(Node(kind, b"", parse(body)) if kind in CONTAINERS else Node(kind, body))
        offset += size
    return nodes


def split(path: Path) -> tuple[bytes, Node]:
    """``(everything before, moov)``."""
    data = path.read_bytes()
    begin = data.index(b"moov") - 4
    return data[:begin], parse(data[begin:])[0]


def stbl_of(moov: Node) -> Node:
    return moov.find(b"trak", b"mdia", b"minf", b"stbl")


def rows(node: Node, columns: int) -> list[tuple[int, ...]]:
    count = struct.unpack_from(">I", node.body, 4)[0]
    return [struct.unpack_from(f">{columns}I", node.body, 8 + 4 * columns * i) for i in range(count)]


def table(kind: bytes, values: list[tuple[int, ...]], form: str = "I") -> Node:
    body = struct.pack(">II", 0, len(values)) + b"".join(struct.pack(f">{len(v)}{form}", *v) for v in values)
    return Node(kind, body)


def sizes(node: Node) -> list[int]:
    same, count = struct.unpack_from(">II", node.body, 4)
    return [same] * count if same else list(struct.unpack_from(f">{count}I", node.body, 12))


def with_wide_offsets(path: Path) -> Path:
    """``stco`` as ``co64``."""
    before, moov = split(path)
    stbl = stbl_of(moov)
    old = stbl.find(b"stco")
    stbl.inner[stbl.inner.index(old)] = table(b"co64", rows(old, 1), "Q")
    return write(path.with_name("co64.mp4"), before, moov)


def with_compact_sizes(path: Path) -> Path:
    """``stsz`` as ``stz2`` of 16 bits."""
    before, moov = split(path)
    stbl = stbl_of(moov)
    old = stbl.find(b"stsz")
    values = sizes(old)
    body = struct.pack(">III", 0, 16, len(values)) + struct.pack(f">{len(values)}H", *values)
    stbl.inner[stbl.inner.index(old)] = Node(b"stz2", body)
    return write(path.with_name("stz2.mp4"), before, moov)


def joined(first: Path, second: Path) -> Path:
    """Both files' packets in one track of two sample descriptions, which share time scale and have no edit list."""
    before, moov = split(first)
    other, theirs = split(second)
    trak = moov.find(b"trak")
    trak.inner = [node for node in trak.inner if node.kind != b"edts"]
    mine, stbl = stbl_of(moov), stbl_of(theirs)
    count = len(sizes(mine.find(b"stsz")))
    offsets: list[tuple[int, ...]] = [(position + len(before),) for (position,) in rows(stbl.find(b"stco"), 1)]
    keyframes: list[tuple[int, ...]] = [(number + count,) for (number,) in rows(stbl.find(b"stss"), 1)]
    merged = {
        b"stsd": Node(
            b"stsd", struct.pack(">II", 0, 2) + mine.find(b"stsd").body[8:] + stbl.find(b"stsd").body[8:]
        ),
        b"stsz": Node(b"stsz", b""),
        b"stco": table(b"stco", rows(mine.find(b"stco"), 1) + offsets),
        b"stts": table(b"stts", rows(mine.find(b"stts"), 2) + rows(stbl.find(b"stts"), 2)),
        b"stss": table(b"stss", rows(mine.find(b"stss"), 1) + keyframes),
        b"ctts": table(b"ctts", rows(mine.find(b"ctts"), 2) + rows(stbl.find(b"ctts"), 2)),
    }  # fmt: skip
    both = sizes(mine.find(b"stsz")) + sizes(stbl.find(b"stsz"))
    merged[b"stsz"].body = struct.pack(">III", 0, 0, len(both)) + struct.pack(f">{len(both)}I", *both)
    chunks = len(rows(mine.find(b"stco"), 1))
    later: list[tuple[int, ...]] = [(chunk + chunks, per, 2) for chunk, per, _ in rows(stbl.find(b"stsc"), 3)]
    merged[b"stsc"] = table(b"stsc", rows(mine.find(b"stsc"), 3) + later)
    mine.inner = [merged.get(node.kind, node) for node in mine.inner if node.kind not in (b"sgpd", b"sbgp")]
    return write(first.with_name("joined.mp4"), before + other, moov)


def write(path: Path, before: bytes, moov: Node) -> Path:
    path.write_bytes(before + moov.to_bytes())
    return path
