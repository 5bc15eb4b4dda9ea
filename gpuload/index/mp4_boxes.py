"""Boxes of an ISO base media file (MP4, MOV): finding them, and reading their tables without trusting a count."""

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from gpuload.errors import VideoError

logger = logging.getLogger(__name__)

DAMAGED = "; the file is damaged or incomplete: "
"""Between what is wrong with a file and what to do."""

MAX_PACKETS = 1 << 24
"""155 hours at 30 frames a second: a table that asks for more is damaged."""
_MAX_METADATA_BYTES = 1 << 30
_MAX_TOP_LEVEL_BOXES = 1 << 20

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Box:
    """One box: its payload and where it lies in the file."""

    kind: bytes
    start: int
    """Offset of the box's header in the file; -1 for a box inside another."""
    body: memoryview


@dataclass(frozen=True, slots=True)
class Packets:
    """Packets of one track as the tables tell them, before the edit list. All arrays have the same length."""

    pos: Ints
    size: Ints
    dts: Ints
    """Ticks, the sum of the durations before."""
    ctts: Ints
    """Composition offset: ``dts + ctts`` is the time of presentation in the media."""
    is_key: npt.NDArray[np.bool_]
    entry: Ints


class Untold(Exception):
    """The tables leave open what FFmpeg would make of them: it has to be asked."""


def untold(path: str, what: str, descriptions: int) -> Exception:
    """``Untold``; but FFmpeg's packets do not tell which of several sample descriptions they belong to."""
    return Untold(what) if descriptions < 2 else damaged(path, f"{what}, and {descriptions} sample descriptions")


def damaged(path: str, what: str) -> VideoError:
    """The error for a table that cannot be true."""
    return VideoError(f"{path}: {what}{DAMAGED}fetch or write it again, or re-mux it")


def top_level_boxes(file: BinaryIO, size_bytes: int, path: str) -> Iterator[Box]:
    """``moov`` and ``moof`` boxes of a file, and ``sidx`` without its body; everything else is skipped by a seek.

    Raises:
        VideoError: a box's size is impossible, or reaches beyond the end of the file.
    """
    offset = total = 0
    for _ in range(_MAX_TOP_LEVEL_BOXES):
        if size_bytes - offset < 8:
            return
        file.seek(offset)
        header = file.read(16)
        size, kind = struct.unpack_from(">I4s", header)
        head = 8
        if size == 1 and len(header) == 16:
            size, head = struct.unpack_from(">Q", header, 8)[0], 16
        elif size == 0:
            size = size_bytes - offset
        if size < head and total:
            return  # behind the tables FFmpeg takes anything for the end
        if size < head:
            raise damaged(path, f"box {kind!r} at byte {offset} has the impossible size {size}")
        if kind == b"sidx":
            yield Box(kind, offset, memoryview(b""))
        elif kind in (b"moov", b"moof"):
            if offset + size > size_bytes:
                if kind == b"moof" and total:
                    logger.warning("%s: its last fragment was not finished and is left out", path)
                    return
                raise damaged(path, f"box {kind!r} at byte {offset} needs {size} bytes, the file ends at {size_bytes}")
            total += size
            if total > _MAX_METADATA_BYTES:
                raise damaged(path, f"more than {_MAX_METADATA_BYTES} bytes of tables")
            file.seek(offset + head)
            yield Box(kind, offset, memoryview(file.read(size - head)))
        offset += size
    raise damaged(path, f"more than {_MAX_TOP_LEVEL_BOXES} boxes")


def children(body: memoryview, path: str) -> list[Box]:
    """Boxes inside a box, in order.

    Raises:
        VideoError: a child is smaller than its head.
    """
    found: list[Box] = []
    offset = 0
    while len(body) - offset >= 8:
        size, kind = struct.unpack_from(">I4s", body, offset)
        head = 8
        if size == 1 and len(body) - offset >= 16:
            size, head = struct.unpack_from(">Q", body, offset + 8)[0], 16
        elif size == 0:
            if kind == b"\0\0\0\0":
                break  # QuickTime ends some atoms with four zero bytes
            size = len(body) - offset
        if size < head:
            raise damaged(path, f"box {kind!r} has the impossible size {size}")
        size = min(size, len(body) - offset)  # as FFmpeg: what a table lacks then is told when it is read
        found.append(Box(kind, -1, body[offset + head : offset + size]))
        offset += size
    return found


def child(body: memoryview, *kinds: bytes, path: str) -> memoryview | None:
    """Payload of the first box that is reached by descending through ``kinds``, or None."""
    found: memoryview | None = body
    for kind in kinds:
        if found is None:
            return None
        found = next((box.body for box in children(found, path) if box.kind == kind), None)
    return found


def required(body: memoryview, *kinds: bytes, path: str) -> memoryview:
    """As :func:`child`.

    Raises:
        VideoError: there is none.
    """
    found = child(body, *kinds, path=path)
    if found is None:
        raise damaged(path, f"box {kinds[-1].decode('latin1')!r} is missing")
    return found


def unpack(layout: str, body: memoryview, offset: int, path: str) -> tuple[int, ...]:
    """Big-endian integers at ``offset``.

    Raises:
        VideoError: the box is too short.
    """
    try:
        return struct.unpack_from(">" + layout, body, offset)
    except struct.error:
        raise damaged(path, f"a box of {len(body)} bytes is too short") from None


def is_wide(body: memoryview) -> bool:
    """Whether a full box is of version 1, whose times take 64 bits."""
    return len(body) > 0 and body[0] == 1


def table(body: memoryview, dtype: str, *, columns: int, offset: int, rows: int, path: str) -> Ints:
    """int64 ``[rows, columns]`` from big-endian ``dtype`` at ``offset``.

    Raises:
        VideoError: the box is shorter than ``rows`` says.
    """
    needed = rows * columns * np.dtype(dtype).itemsize
    if needed > len(body) - offset:
        raise damaged(path, f"a table of {rows} rows needs {needed} bytes, its box has {max(len(body) - offset, 0)}")
    return np.frombuffer(body, dtype, rows * columns, offset).reshape(rows, columns).astype(np.int64)


def repeat_to(values: Ints, counts: Ints, total: int, *, name: str, path: str) -> Ints:
    """int64 ``[total]``: ``values`` repeated; rows beyond ``total`` are ignored, and the last value fills a gap.

    Raises:
        VideoError: there is nothing to repeat.
    """
    if total == 0:
        return np.empty(0, np.int64)
    ends = np.minimum(np.cumsum(np.minimum(counts, total)), total)
    if not len(ends):
        raise damaged(path, f"table {name!r} is empty, {total} packets need it")
    out = np.repeat(values, np.diff(ends, prepend=0))
    return np.concatenate([out, np.full(total - len(out), values[-1], np.int64)])
