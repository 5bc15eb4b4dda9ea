"""The index of an MP4 or MOV file, read from its tables: a few kilobytes, whatever the size of the video."""

import logging
import math
import os
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from gpuload.errors import VideoError
from gpuload.index.chroma import chroma_location
from gpuload.index.keyframes import decodable_leading, hidden_at_start, point_of, real_keyframes
from gpuload.index.mp4_boxes import (
    MAX_PACKETS,
    Box,
    Ints,
    Packets,
    child,
    children,
    damaged,
    is_wide,
    repeat_to,
    required,
    table,
    top_level_boxes,
    unpack,
    untold,
)
from gpuload.index.mp4_edits import Edit, Edited, apply_edits, time_offset
from gpuload.index.mp4_entry import SELF_CONTAINED, Entry, ask_decoder, ask_ffmpeg, ask_for_track, read_entries
from gpuload.index.mp4_fragments import read_defaults, read_fragment
from gpuload.index.nal import CODECS, HELD_BACK
from gpuload.index.picture_size import HEAD_BYTES, coded_size
from gpuload.index.reorder import LOOKED_AT, is_reordered, read_ranges
from gpuload.index.video import DISCARD, KEYFRAME, VideoIndex, frame_tables

logger = logging.getLogger(__name__)

_MOST_OFFSET = 1 << 28
"""Ticks: FFmpeg ignores tables with larger ones."""
_MAX_EDITS = 1000


@dataclass(frozen=True, slots=True)
class _Track:
    stream: int
    """Its place among all tracks."""
    number: int
    time_scale: int
    rotation: int
    entries: tuple[Entry, ...]
    edits: tuple[Edit, ...]
    packets: Packets
    shift: int
    has_ctts: bool


def parse_mp4(path: str | Path) -> VideoIndex:
    """The video track of an MP4 or MOV file, fragmented or not. Of the media only a few packets are looked at.

    Times, order and discarded packets are what FFmpeg reports, edit list included; of several video tracks it is the
    one that FFmpeg finds best.

    Raises:
        VideoError: there is no such file or track, it is encrypted, or its tables are damaged or point beyond its end.
        Untold: only FFmpeg can say what it makes of these tables.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            boxes = list(top_level_boxes(file, size_bytes, path))
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror or error}") from error
    moov = next((box.body for box in boxes if box.kind == b"moov"), None)
    if moov is None:
        raise damaged(path, "no 'moov' box, which holds the tables (the recording may not have been finished)")
    try:
        is_lazy = any(box.kind == b"sidx" for box in boxes)
        return _build_index(moov, [box for box in boxes if box.kind == b"moof"], size_bytes, path, is_lazy=is_lazy)
    except OverflowError as error:  # a 64-bit count in a damaged box that numpy cannot hold
        raise damaged(path, f"a number in the tables is out of range ({error})") from error


def _build_index(
    moov: memoryview, fragments: list[Box], size_bytes: int, path: str, *, is_lazy: bool = False
) -> VideoIndex:
    """``is_lazy``: FFmpeg reads fragments when it comes to them, because an index (``sidx``) says where they are."""
    track = _read_track(moov, size_bytes, path)
    edited = apply_edits(track.packets, track.edits, shift=track.shift, has_ctts=track.has_ctts, path=path)
    packets = _take(track.packets, edited.packet)
    cts = packets.dts + packets.ctts
    if fragments:
        added = _read_fragments(moov, fragments, track, size_bytes, path)
        shift = max(track.shift, int(-added.ctts.min(initial=0)))
        if is_lazy and shift != track.shift:
            begin = _read_fragments(moov, fragments[:1], track, size_bytes, path)
            if shift != max(track.shift, int(-begin.ctts.min(initial=0))):
                raise untold(path, "times that later fragments move", len(track.entries))
        offset = time_offset(track.edits)
        dts, media = added.dts - offset, added.dts + added.ctts
        count = len(added.pos)
        edited = Edited(
            packet=edited.packet,
            dts=np.concatenate([edited.dts, dts]),
            pts=np.concatenate([edited.pts, dts + shift + added.ctts]),  # FFmpeg moves pts here, not dts
            is_discarded=np.concatenate([edited.is_discarded, np.zeros(count, bool)]),
        )
        cts, packets = np.concatenate([cts, media]), _join([packets, added])
    if (packets.size == 0).any():  # FFmpeg's decoders get none of these
        filled = np.flatnonzero(packets.size)
        packets, cts = _take(packets, filled), cts[filled]
        edited = Edited(*(getattr(edited, one.name)[filled] for one in fields(Edited)))
    if not len(packets.pos):
        raise damaged(path, "the video track has no packets")
    _check_ranges(packets, size_bytes, len(track.entries), path)
    entry = track.entries[0]
    used = {track.entries[i].codec for i in np.unique(packets.entry)}
    if len(used) > 1:
        raise VideoError(f"{path}: packets of several codecs in one track ({', '.join(sorted(used))}); re-encode it")
    configurations = tuple(one.extradata for one in track.entries)
    is_key = real_keyframes(path, entry.codec or "", configurations, packets)
    if entry.codec in CODECS and (np.diff(cts) > 0).all():
        first = zip(packets.pos[:LOOKED_AT].tolist(), packets.size[:LOOKED_AT].tolist(), strict=True)
        if is_reordered(entry.codec, entry.extradata, read_ranges(path, first)):
            raise untold(path, "no times of reordered pictures", len(track.entries))
    flags = (is_key * KEYFRAME | edited.is_discarded * DISCARD).astype(np.uint8)
    head = _first_bytes(path, packets)
    if is_key[0] and entry.codec == "h264" and point_of("h264", entry.extradata, head).kind in HELD_BACK:
        flags[hidden_at_start(path)] |= DISCARD
    # Leading pictures are told by media time: an edit list gives the packets that it discards arbitrary times.
    alone = decodable_leading(path, entry.codec or "", configurations, replace(packets, is_key=is_key), cts)
    frame_packet, frame_start = frame_tables(cts, flags, path, alone=alone)
    order = np.lexsort((frame_packet, edited.pts[frame_packet]))  # edits may give two the same time: as they come
    codec, pixel_format = entry.codec, entry.pixel_format
    if not codec or not pixel_format:
        codec, pixel_format = ask_ffmpeg(path)
    width, height = entry.width, entry.height
    tag, coded_bits = "", 0
    is_told = codec in SELF_CONTAINED and coded_size(codec, entry.extradata, head) == (width, height)
    if not is_told and (told := ask_decoder(path)):
        width, height = told.width, told.height
        tag, coded_bits = ("", 0) if codec in SELF_CONTAINED else (told.tag, told.coded_bits)
    return VideoIndex(
        path=path,
        stream=track.stream,
        codec=codec,
        width=width,
        height=height,
        pixel_format=pixel_format,
        rotation=track.rotation,
        color=entry.color,
        tag=tag,
        coded_bits=coded_bits,
        chroma_location=chroma_location(codec, entry.extradata),
        time_base=Fraction(1, track.time_scale),
        extradata=configurations,
        contiguous=True,
        pos=packets.pos,
        size=packets.size.astype(np.int32),
        pts=edited.pts,
        dts=edited.dts,
        flags=flags,
        entry=packets.entry.astype(np.uint8),
        frame_packet=frame_packet[order],
        frame_start=frame_start[order],
    )


def _first_bytes(path: str, packets: Packets) -> bytes:
    first = int(packets.pos[0]), min(int(packets.size[0]), HEAD_BYTES)
    return next(iter(read_ranges(path, [first])), b"")


def _read_track(moov: memoryview, size_bytes: int, path: str) -> _Track:
    mvhd = required(moov, b"mvhd", path=path)
    movie_scale = unpack("I", mvhd, 20 if is_wide(mvhd) else 12, path)[0]
    stream, trak = _video_track(moov, path)
    mdhd = required(trak, b"mdia", b"mdhd", path=path)
    scale = unpack("I", mdhd, 20 if is_wide(mdhd) else 12, path)[0] or 1
    tkhd = required(trak, b"tkhd", path=path)
    stbl = required(trak, b"mdia", b"minf", b"stbl", path=path)
    entries = read_entries(required(stbl, b"stsd", path=path), path)
    packets, shift, has_ctts = _read_tables(stbl, size_bytes, len(entries), path)
    return _Track(
        stream=stream,
        number=_track_number(trak, path),
        time_scale=scale,
        rotation=_rotation(
            unpack("9i", tkhd, 52 if is_wide(tkhd) else 40, path),
            unpack("9i", mvhd, 48 if is_wide(mvhd) else 36, path),
            path,
        ),
        entries=entries,
        edits=_read_edits(child(trak, b"edts", b"elst", path=path), scale, movie_scale, path),
        packets=packets,
        shift=shift,
        has_ctts=has_ctts,
    )


def _video_track(moov: memoryview, path: str) -> tuple[int, memoryview]:
    """Its place among all tracks, and its box."""
    tracks = list(enumerate(box.body for box in children(moov, path) if box.kind == b"trak"))
    handlers = [child(trak, b"mdia", b"hdlr", path=path) for _, trak in tracks]
    videos = [
        track
        for track, handler in zip(tracks, handlers, strict=True)
        if handler is not None and bytes(handler[8:12]) == b"vide"
    ]
    if not videos:
        raise VideoError(f"{path}: no video track in it; give a file that has one")
    if len(videos) == 1:
        return videos[0]
    best = ask_for_track(path)
    return next((track for track in videos if _track_number(track[1], path) == best), videos[0])


def _track_number(trak: memoryview, path: str) -> int:
    tkhd = required(trak, b"tkhd", path=path)
    number: int = unpack("I", tkhd, 20 if is_wide(tkhd) else 12, path)[0]
    return number


def _read_tables(stbl: memoryview, size_bytes: int, descriptions: int, path: str) -> tuple[Packets, int, bool]:
    boxes = {box.kind: box.body for box in reversed(children(stbl, path))}
    for kind in (b"stts", b"stsc"):
        if kind not in boxes:
            raise damaged(path, f"table {kind.decode()!r} is missing")
    size = _read_sizes(boxes, size_bytes, path)
    n = len(size)
    stts = _rows(boxes[b"stts"], ">u4", 2, path)
    delta = stts[:, 1].astype(np.uint32).view(np.int32).astype(np.int64)  # FFmpeg: a negative duration is a mistake
    if (delta < 0).any():
        raise untold(path, "negative durations", descriptions)  # FFmpeg takes what it corrects out of later ones
    duration = repeat_to(delta, stts[:, 0], n, name="stts", path=path)
    ctts, shift = np.zeros(n, np.int64), 0
    has_ctts = n > 0 and b"ctts" in boxes and unpack("I", boxes[b"ctts"], 4, path)[0] > 0
    if has_ctts:
        rows = _rows(boxes[b"ctts"], ">u4", 2, path)
        offset = rows[:, 1].astype(np.uint32).view(np.int32).astype(np.int64)
        if rows[:, 0].sum() < n or (np.abs(offset) > _MOST_OFFSET).any():
            raise untold(path, "no or no possible times of some pictures", descriptions)
        ctts = repeat_to(offset, rows[:, 0], n, name="ctts", path=path)
        shift = int(-offset[:-2].min(initial=0))  # FFmpeg leaves the last two rows out: some writers fill them wrongly
    is_key = np.ones(n, bool)
    if b"stss" in boxes and len(stss := _rows(boxes[b"stss"], ">u4", 1, path)[:, 0]):
        is_key[:] = False
        stss = stss - (stss[0] > 0)  # FFmpeg: a table that begins with 0 counts from 0
        is_key[stss[(stss >= 0) & (stss < n)]] = True
    pos, entry = _read_positions(boxes, size, path)
    return Packets(pos, size, np.cumsum(duration) - duration, ctts, is_key, entry), shift, has_ctts


def _read_sizes(boxes: dict[bytes, memoryview], size_bytes: int, path: str) -> Ints:
    if b"stsz" in boxes:
        body = boxes[b"stsz"]
        same, n = unpack("II", body, 4, path)
        if n > MAX_PACKETS or same * n > size_bytes:
            raise damaged(path, f"{n} packets of {same or 'any'} bytes are said to be in {size_bytes} bytes")
        if same:
            return np.full(n, same, np.int64)
        return table(body, ">u4", columns=1, offset=12, rows=n, path=path)[:, 0]
    if b"stz2" not in boxes:
        raise damaged(path, "table 'stsz' is missing")
    body = boxes[b"stz2"]
    bits, n = unpack("II", body, 4, path)
    bits &= 0xFF
    if bits not in (4, 8, 16):
        raise damaged(path, f"packet sizes of {bits} bits")
    if bits == 4:
        pairs = table(body, ">u1", columns=1, offset=12, rows=(n + 1) // 2, path=path)
        return np.concatenate([pairs >> 4, pairs & 15], axis=1).reshape(-1)[:n]
    return table(body, f">u{bits // 8}", columns=1, offset=12, rows=n, path=path)[:, 0]


def _read_positions(boxes: dict[bytes, memoryview], size: Ints, path: str) -> tuple[Ints, Ints]:
    n = len(size)
    if not n:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if b"co64" in boxes:
        chunks = _rows(boxes[b"co64"], ">i8", 1, path)[:, 0]
    elif b"stco" in boxes:
        chunks = _rows(boxes[b"stco"], ">u4", 1, path)[:, 0]
    else:
        raise damaged(path, "table 'stco' is missing")
    stsc = _rows(boxes[b"stsc"], ">u4", 3, path)
    if not len(stsc) or stsc[0, 0] != 1 or (np.diff(stsc[:, 0]) <= 0).any() or (stsc[:, 1] < 1).any():
        raise damaged(path, "table 'stsc' is not in order")
    runs = np.diff(np.append(np.minimum(stsc[:, 0] - 1, len(chunks)), len(chunks)))
    per_chunk, entry = np.repeat(stsc[:, 1], runs), np.repeat(np.maximum(stsc[:, 2], 1) - 1, runs)
    ends = np.cumsum(np.minimum(per_chunk, n))
    if not len(ends) or ends[-1] < n:
        raise damaged(path, f"its chunks hold {ends[-1] if len(ends) else 0} of {n} packets")
    counts = np.diff(np.minimum(ends, n), prepend=0)
    before = np.cumsum(size) - size
    first = np.minimum(np.cumsum(counts) - counts, n - 1)
    return np.repeat(chunks - before[first], counts) + before, np.repeat(entry, counts)


def _rows(body: memoryview, dtype: str, columns: int, path: str) -> Ints:
    return table(body, dtype, columns=columns, offset=8, rows=unpack("I", body, 4, path)[0], path=path)


def _read_edits(body: memoryview | None, scale: int, movie_scale: int, path: str) -> tuple[Edit, ...]:
    if body is None or not movie_scale:
        return ()
    wide = is_wide(body)
    count = unpack("I", body, 4, path)[0]
    if count > _MAX_EDITS:
        raise damaged(path, f"an edit list of {count} lines (at most {_MAX_EDITS} are supported)")
    edits = []
    for i in range(count):
        duration, start = unpack("Qq", body, 8 + 20 * i, path) if wide else unpack("Ii", body, 8 + 12 * i, path)
        ticks = (2 * duration * scale + movie_scale) // (2 * movie_scale)
        edits.append(Edit(start, ticks if ticks + start < 1 << 62 else 0))
    return tuple(edits)


def _read_fragments(moov: memoryview, fragments: list[Box], track: _Track, size_bytes: int, path: str) -> Packets:
    defaults = read_defaults(moov, track.number, path)
    if defaults is None:
        return _take(track.packets, np.empty(0, np.int64))
    dts, runs, room = 0, [], MAX_PACKETS
    if len(track.packets.dts):
        dts = int(track.packets.dts[-1] + (track.packets.dts[-1] - track.packets.dts[-2:][0]))
    for moof in fragments:
        before = dts
        more, dts = read_fragment(moof, track.number, defaults, dts, room=room, room_bytes=size_bytes, path=path)
        if any(len(run.dts) and run.dts[0] < before for run in more[:1]):
            raise untold(path, "fragments that overlap in time", len(track.entries))  # FFmpeg discards what comes again
        room -= sum(len(run.pos) for run in more)
        runs.extend(more)
    added = _join([_take(track.packets, np.empty(0, np.int64)), *runs])
    beyond = np.flatnonzero((added.pos < 0) | (added.pos + added.size > size_bytes))
    # Fragments are there so that a recording that ends in the middle is not lost. What lies beyond the end elsewhere is
    # another damage, which would shift the numbers of all frames behind it.
    if len(beyond) and beyond[0] == len(added.pos) - len(beyond):
        logger.warning("%s: its last %d packets were not written and are left out", path, len(beyond))
        return _take(added, np.arange(beyond[0]))
    return added


def _join(parts: list[Packets]) -> Packets:
    return Packets(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Packets)))


def _take(packets: Packets, numbers: Ints) -> Packets:
    return Packets(*(getattr(packets, one.name)[numbers] for one in fields(Packets)))


def _check_ranges(packets: Packets, size_bytes: int, entries: int, path: str) -> None:
    bad = (packets.pos < 0) | (packets.size < 0) | (packets.size > 1 << 30) | (packets.pos + packets.size > size_bytes)
    if bad.any():
        i = int(np.argmax(bad))
        where = f"bytes {packets.pos[i]} to {packets.pos[i] + packets.size[i]}"
        raise damaged(path, f"packet {i} should be {where}, the file has {size_bytes} (truncated?)")
    if packets.entry.max(initial=0) >= min(entries, 256):
        raise damaged(path, f"a packet refers to description {packets.entry.max()}, there are {entries}")


def _rotation(track: tuple[int, ...], movie: tuple[int, ...], path: str) -> int:
    """Degrees counter-clockwise, a multiple of 90, of a track's matrix within the movie's."""
    a, b = (track[0] * movie[i] + track[1] * movie[3 + i] for i in (0, 1))
    c, d = (track[3] * movie[i] + track[4] * movie[3 + i] for i in (0, 1))
    if a * d - b * c < 0:
        raise VideoError(
            f"{path}: is to be shown mirrored (its display matrix says so); re-encode it as it is to be seen"
        )
    return round(-math.degrees(math.atan2(b, a)) / 90) * 90 % 360
