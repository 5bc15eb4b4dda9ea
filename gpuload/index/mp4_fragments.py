"""Fragmented MP4: the packets that ``moof`` boxes add to a track."""

from dataclasses import dataclass, replace

import numpy as np

from gpuload.index.mp4_boxes import (
    Box,
    Packets,
    child,
    children,
    damaged,
    is_wide,
    required,
    table,
    unpack,
)

_NOT_A_KEYFRAME = 0x01010000  # depends on others, or is no sync sample: FFmpeg looks at both
_COLUMNS = ((0x100, "duration"), (0x200, "size"), (0x400, "flags"), (0x800, "ctts"))


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a packet is when its ``trun`` does not say (``trex``, overridden by ``tfhd``)."""

    entry: int = 1
    duration: int = 0
    size: int = 0
    flags: int = 0


def read_defaults(moov: memoryview, track: int, path: str) -> Defaults | None:
    """``trex`` of a track; None: the file says nothing of fragments."""
    mvex = child(moov, b"mvex", path=path)
    if mvex is None:
        return None
    for box in children(mvex, path):
        if box.kind == b"trex":
            number, *values = unpack("5I", box.body, 4, path)
            if number == track:
                return Defaults(*values)
    return Defaults()


def read_fragment(
    moof: Box, track: int, defaults: Defaults, dts: int, *, room: int, room_bytes: int, path: str
) -> tuple[list[Packets], int]:
    """Packets of ``track`` in one ``moof``, and the dts that follows. ``dts`` is where the track stands so far.

    Raises:
        VideoError: there are more packets than ``room``, or than ``room_bytes``, the file's size, can hold.
    """
    runs: list[Packets] = []
    implicit = moof.start
    for traf in children(moof.body, path):
        if traf.kind != b"traf":
            continue
        tfhd = required(traf.body, b"tfhd", path=path)
        flags, number = unpack("II", tfhd, 0, path)
        own, base, offset = defaults, implicit, 8
        if flags & 0x1:
            base, offset = unpack("Q", tfhd, offset, path)[0], offset + 8
        elif flags & 0x20000:
            base = moof.start
        for bit, name in ((0x2, "entry"), (0x8, "duration"), (0x10, "size"), (0x20, "flags")):
            if flags & bit:
                own = replace(own, **{name: unpack("I", tfhd, offset, path)[0]})
                offset += 4
        mine = number == track
        tfdt = child(traf.body, b"tfdt", path=path)
        if mine and tfdt is not None:
            dts = unpack("q" if is_wide(tfdt) else "I", tfdt, 4, path)[0]
        end = base
        for trun in children(traf.body, path):
            if trun.kind != b"trun":
                continue
            if not mine:
                end = _end_of_run(trun.body, own, base, end, path=path)
                continue
            run, end, dts = _read_run(trun.body, own, base, end, dts, room=room, room_bytes=room_bytes, path=path)
            room -= len(run.pos)
            runs.append(run)
        implicit = end
    return runs, dts


def _end_of_run(body: memoryview, defaults: Defaults, base: int, start: int, *, path: str) -> int:
    """Where the bytes of another track's run end."""
    flags, count, start, offset, names = _head_of_run(body, base, start, path)
    if "size" not in names:
        return start + count * defaults.size
    offset += 4 * bool(flags & 0x4)
    rows = table(body, ">u4", columns=len(names), offset=offset, rows=count, path=path)
    return start + int(rows[:, names.index("size")].sum())


def _head_of_run(body: memoryview, base: int, start: int, path: str) -> tuple[int, int, int, int, list[str]]:
    """Flags, packets, where their bytes begin, where the head goes on, and the columns of the table behind it."""
    flags, count = unpack("II", body, 0, path)
    offset = 8
    if flags & 0x1:
        start, offset = base + unpack("i", body, offset, path)[0], offset + 4
    return flags, count, start, offset, [name for bit, name in _COLUMNS if flags & bit]


def _read_run(
    body: memoryview, defaults: Defaults, base: int, start: int, dts: int, *, room: int, room_bytes: int, path: str
) -> tuple[Packets, int, int]:
    flags, count, start, offset, names = _head_of_run(body, base, start, path)
    first_flags = unpack("I", body, offset, path)[0] if flags & 0x4 else None
    offset += 4 if flags & 0x4 else 0
    held = 0 if "size" in names else count * defaults.size
    if count > min(room, room_bytes) or held > room_bytes:
        raise damaged(path, f"a fragment says that it has {count} packets")
    rows = table(body, ">u4", columns=len(names), offset=offset, rows=count, path=path)
    column = {name: rows[:, i] for i, name in enumerate(names)}
    duration = column.get("duration", np.full(count, defaults.duration, np.int64))
    size = column.get("size", np.full(count, defaults.size, np.int64))
    sample_flags = column.get("flags", np.full(count, defaults.flags, np.int64)).copy()
    if first_flags is not None and count:
        sample_flags[0] = first_flags
    ctts = column.get("ctts", np.zeros(count, np.int64))
    # version 0 says unsigned, and writers put negative offsets there all the same: FFmpeg reads both as signed
    ctts = ctts.astype(np.uint32).view(np.int32).astype(np.int64)
    packets = Packets(
        pos=start + np.cumsum(size) - size,
        size=size,
        dts=dts + np.cumsum(duration) - duration,
        ctts=ctts,
        is_key=sample_flags & _NOT_A_KEYFRAME == 0,
        entry=np.full(count, max(defaults.entry, 1) - 1, np.int64),
    )
    return packets, start + int(size.sum()), dts + int(duration.sum())
