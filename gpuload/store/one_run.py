"""A tiny MP4 around the packets of one run, for decoding libraries that take a container and no packets.

Written by hand, not by a muxer: all but the packet tables is made once a stream, so a run costs some 30 µs.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

from gpuload.index.nal import START_CODES
from gpuload.index.video import Color

_ENTRIES = {
    "h264": (b"avc1", b"avcC"),
    "hevc": (b"hvc1", b"hvcC"),
    "av1": (b"av01", b"av1C"),
    "vp9": (b"vp09", b"glbl"),
    "vp8": (b"vp08", b"glbl"),
    "mjpeg": (b"jpeg", b"glbl"),
}
"""Sample description and the box of its configuration. VP8 and VP9 go without theirs: it repeats what the bitstream
says, and forces a range upon streams that tell none; FFmpeg never asks for it. ``glbl`` is FFmpeg's own box."""
_AV1_CONFIGURATION = 0x81
"""First byte of ``av1C``: marker and version."""
_MAX_TICKS = 1 << 28
"""libavformat drops a table with larger composition offsets (mov.c)."""
_UNSPECIFIED = Color()
_MATRIX = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


class _Template(NamedTuple):
    """Everything up to the packet tables, which come last in every box that holds them."""

    head: bytes
    sizes: tuple[tuple[int, int], ...]
    """(offset of a box's size in ``head``, bytes of that box within ``head``), outermost first."""
    durations: tuple[int, ...]
    """Offsets of 32-bit durations."""


def unsupported(codec: str, extradata: bytes) -> str | None:
    """Why packets of such a stream cannot be put into an MP4 as they are; None: they can."""
    if codec not in _ENTRIES:
        return f"no MP4 sample description is known here for {codec}; known: {', '.join(_ENTRIES)}"
    if codec in ("h264", "hevc") and (len(extradata) < 7 or extradata.startswith(START_CODES)):
        return f"its {codec} packets are in Annex B form (start codes, as in TS or raw files), not in MP4 form"
    if codec == "av1" and extradata[:1] != bytes([_AV1_CONFIGURATION]):
        return "its AV1 configuration record is missing"
    return None


def one_run_mp4(
    packets: Sequence[bytes | memoryview],
    pts: Sequence[int],
    *,
    codec: str,
    extradata: bytes,
    width: int,
    height: int,
    color: Color,
    ticks_per_s: int,
) -> bytes:
    """An MP4 file of one track: ``packets`` in decode order, packet ``i`` shown at tick ``pts[i]``, only the first a
    keyframe. No edit list, no rotation. Decode times are the sorted presentation times, from 0.

    Raises:
        ValueError: ``unsupported``, no packets, or a time that is not within ±2**28 ticks.
    """
    if reason := unsupported(codec, extradata):
        raise ValueError(reason)
    if not packets or len(packets) != len(pts):
        raise ValueError(f"one time for each packet, at least one, got {len(packets)} packets and {len(pts)} times")
    shown = sorted(pts)
    if shown[0] <= -_MAX_TICKS or shown[-1] >= _MAX_TICKS:
        raise ValueError(f"times must be within 2**28 ticks, got {shown[0]} to {shown[-1]}; count from the run's start")
    template = _template(codec, extradata, width, height, color, ticks_per_s)
    steps = [later - earlier for earlier, later in pairwise(shown)]
    steps.append(steps[-1] if steps else 1)
    offsets = [time - (decoded - shown[0]) for time, decoded in zip(pts, shown, strict=True)]
    sizes = list(map(len, packets))
    count = len(sizes)
    tables = b"".join((
        _runs(b"stts", steps, version=0),
        _runs(b"ctts", offsets, version=1) if any(offsets) else b"",
        struct.pack(">I4s3I", 20, b"stss", 0, 1, 1),
        struct.pack(">I4s5I", 28, b"stsc", 0, 1, 1, count, 1),
        struct.pack(f">I4s3I{count}I", 20 + 4 * count, b"stsz", 0, 0, count, *sizes),
    ))  # fmt: skip
    moov_end = len(template.head) + len(tables) + 20
    head = bytearray(template.head)
    for offset, size in template.sizes:
        struct.pack_into(">I", head, offset, size + len(tables) + 20)
    for offset in template.durations:
        struct.pack_into(">I", head, offset, sum(steps))
    where = struct.pack(">I4s3I", 20, b"stco", 0, 1, moov_end + 8)
    return b"".join((head, tables, where, struct.pack(">I4s", 8 + sum(sizes), b"mdat"), *packets))


def _runs(kind: bytes, values: Sequence[int], *, version: int) -> bytes:
    """A table of (count, value) with equal neighbours joined; values are signed, as readers take them."""
    rows = [number for value, equal in groupby(values) for number in (len(list(equal)), value)]
    return struct.pack(f">I4sII{len(rows)}i", 16 + 4 * len(rows), kind, version << 24, len(rows) // 2, *rows)


@lru_cache(maxsize=64)  # a few hundred bytes each; a dataset has few kinds of streams
def _template(codec: str, extradata: bytes, width: int, height: int, color: Color, ticks_per_s: int) -> _Template:
    head = bytearray(_box(b"ftyp", b"isom\0\0\2\0isomiso2mp41"))
    opened: list[int] = []
    durations: list[int] = []

    def open_box(kind: bytes) -> None:
        opened.append(len(head))
        head.extend(struct.pack(">I4s", 0, kind))

    def timed(kind: bytes, before: bytes, after: bytes) -> None:
        durations.append(len(head) + 8 + len(before))
        head.extend(_box(kind, before + bytes(4) + after))

    open_box(b"moov")
    timed(
        b"mvhd",
        struct.pack(">4I", 0, 0, 0, ticks_per_s),
        struct.pack(">IH10x", 1 << 16, 1 << 8) + _MATRIX + bytes(24) + struct.pack(">I", 2),
    )
    open_box(b"trak")
    timed(
        b"tkhd",
        struct.pack(">5I", 3, 0, 0, 1, 0),  # enabled, in the movie
        bytes(16) + _MATRIX + struct.pack(">II", width << 16, height << 16),
    )
    open_box(b"mdia")
    timed(b"mdhd", struct.pack(">4I", 0, 0, 0, ticks_per_s), struct.pack(">HH", 0x55C4, 0))  # language: undetermined
    head += _box(b"hdlr", struct.pack(">II4s12xB", 0, 0, b"vide", 0))
    open_box(b"minf")
    head += _box(b"vmhd", struct.pack(">I8x", 1))
    head += _box(b"dinf", _box(b"dref", struct.pack(">II", 0, 1) + _box(b"url ", struct.pack(">I", 1))))
    open_box(b"stbl")
    entry, configuration = _ENTRIES[codec]
    inner = _box(configuration, extradata) if extradata else b""
    visual = struct.pack(
        ">6xH16xHHIIIH32xHh", 1, width, height, 72 << 16, 72 << 16, 0, 1, 24, -1
    )  # 72 dpi, one frame a sample, depth 24, no color table
    head += _box(b"stsd", struct.pack(">II", 0, 1) + _box(entry, visual + inner + _color_box(color)))
    return _Template(bytes(head), tuple((at, len(head) - at) for at in opened), tuple(durations))


def _color_box(color: Color) -> bytes:
    """``nclx`` says a range, QuickTime's ``nclc`` none; both in the numbers of ISO/IEC 23091-2."""
    if color == _UNSPECIFIED:
        return b""
    numbers = struct.pack(">HHH", color.primaries, color.transfer, color.matrix)
    if color.range:
        return _box(b"colr", b"nclx" + numbers + bytes([(color.range == 2) << 7]))
    return _box(b"colr", b"nclc" + numbers)


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body
