"""The index of a file in any container that FFmpeg reads, by demuxing it once from start to end."""

import os
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from gpuload.errors import VideoError
from gpuload.index import frame_headers
from gpuload.index.chroma import chroma_location
from gpuload.index.keyframes import false_keyframes, hidden_at_start, point_of
from gpuload.index.mp4_entry import SELF_CONTAINED, told_by
from gpuload.index.nal import CODECS, HELD_BACK, Kind, is_decodable_leading, may_bring_sets
from gpuload.index.parameter_sets import ParameterSets
from gpuload.index.reorder import LOOKED_AT, is_reordered
from gpuload.index.video import DISCARD, KEYFRAME, Color, VideoIndex, frame_tables

_SEARCH_BYTES = 1024
"""How far behind a packet's position its payload is looked for: block headers and lacing tables are shorter."""
_VP8_SHOWN = 0x10
"""``show_frame`` in the first byte of a frame (RFC 6386 9.1)."""
_UNTIMED_FORMATS = frozenset({"avi"})
"""AVI stores no presentation times: FFmpeg counts packets, which is wrong as soon as there are B-frames."""


@dataclass(slots=True)
class _Seen:
    """What the packets said, one item each."""

    pos: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    entry: list[int] = field(default_factory=list)
    configurations: list[bytes] = field(default_factory=list)
    """What ``entry`` names: the codec's extradata, and what packets bring in its stead (FLV)."""
    contiguous: bool = True
    kinds: dict[int, Kind] = field(default_factory=dict)
    """Of keyframes of codecs whose packets tell."""
    alone: list[int] = field(default_factory=list)
    """Pictures of the first GOP that can be decoded though they are shown before its keyframe."""
    without_sets: list[int] = field(default_factory=list)
    """Keyframes that rely on parameter sets of packets before them."""
    first: VideoFrame | None = None
    """Picture that comes out first: containers may be wrong about its size."""


def demux_index(path: str | Path) -> VideoIndex:
    """The video stream of a file, of several the one that FFmpeg finds best; every packet is read once.

    ``contiguous`` is True only if each packet's payload was compared with the file's bytes. Where packets have no
    presentation time, the video is decoded once, and times count pictures at the stream's average rate.

    Raises:
        VideoError: FFmpeg cannot read it, it has no video, or not one picture can be decoded.
    """
    path = os.fspath(path)
    try:
        with av.open(path) as container:
            stream = _video_stream(container, path)
            number = stream.index  # now: what is closed tells nothing
            extradata = bytes(stream.codec_context.extradata or b"")
            told = stream.codec_context
            color = Color(told.color_primaries, told.color_trc, told.colorspace, told.color_range)
            with open(path, "rb") as file:
                seen = _demux(container, stream, file)
            if not seen.size:
                raise VideoError(f"{path}: the video stream has no packets; write the file again")
            if len(seen.configurations) > 256:
                raise VideoError(f"{path}: changes its codec's configuration more than 255 times; re-encode it")
            if seen.first is None:
                raise VideoError(f"{path}: FFmpeg could not decode one of its {len(seen.size)} packets; re-encode it")
            context = stream.codec_context
            codec, pixel_format = context.codec.canonical_name, context.pix_fmt
            tag, coded_bits = told_by(context) if codec not in SELF_CONTAINED else ("", 0)
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            time_base = stream.time_base or 1 / rate
            untimed = None in seen.pts or container.format.name in _UNTIMED_FORMATS
            if codec in CODECS and not untimed and context.has_b_frames and _is_ascending(seen.pts):
                untimed = _is_reordered(path, codec, extradata)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: FFmpeg cannot read it: {error}") from error
    if not pixel_format:
        raise VideoError(f"{path}: FFmpeg does not tell its pixel format; re-encode it")
    flags = np.array(seen.flags, np.uint8)
    flags[[*false_keyframes(seen.kinds, flags & KEYFRAME != 0), *seen.without_sets]] &= ~np.uint8(KEYFRAME)
    if codec == "h264" and flags[0] & KEYFRAME and seen.kinds.get(0) in HELD_BACK:
        flags[hidden_at_start(path)] |= DISCARD
    if untimed:
        pts, shown = _times_by_decoding(path, len(flags))
        if (np.diff(pts[shown]) > 0).all() and _is_ascending(seen.dts):  # with gaps where frames were dropped
            pts = dts = np.array(seen.dts, np.int64)
        else:
            time_base = 1 / rate
            dts = np.arange(len(pts)) - max(int((np.arange(len(pts)) - pts).max()), 0)
        flags = np.where(shown, flags & ~np.uint8(DISCARD), flags | DISCARD).astype(np.uint8)
    else:
        pts = np.array(seen.pts, np.int64)
        dts = _without_gaps(seen.dts, pts)
    keys = np.flatnonzero(flags & (KEYFRAME | DISCARD) == KEYFRAME)
    steps = np.diff(pts[keys])  # 0: two frames of one time, or a file of one GOP behind itself
    if (steps < 0).any() or ((steps == 0) & (dts[keys[1:]] < dts[keys[1:] - 1])).any():
        raise VideoError(f"{path}: its times begin anew in the middle (several files in one?); re-mux or re-encode it")
    frame_packet, frame_start = frame_tables(pts, flags, path, alone=seen.alone)
    return VideoIndex(
        path=path,
        stream=number,
        codec=codec,
        width=seen.first.width,
        height=seen.first.height,
        pixel_format=pixel_format,
        rotation=round(seen.first.rotation / 90) * 90 % 360,
        color=color,
        tag=tag,
        coded_bits=coded_bits,
        chroma_location=chroma_location(codec, extradata),
        time_base=time_base,
        extradata=tuple(seen.configurations),
        contiguous=seen.contiguous,
        pos=np.array(seen.pos, np.int64),
        size=np.array(seen.size, np.int32),
        pts=pts,
        dts=dts,
        flags=flags,
        entry=np.array(seen.entry, np.uint8),
        frame_packet=frame_packet,
        frame_start=frame_start,
    )


def _video_stream(container: InputContainer, path: str) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise VideoError(f"{path}: no video stream in it; give a file that has one")
    if stream.codec_context is None:
        raise VideoError(f"{path}: FFmpeg has no decoder for its video; re-encode it")
    return stream


def _demux(container: InputContainer, stream: VideoStream, file: BinaryIO) -> _Seen:
    seen = _Seen()
    codec, extradata = stream.codec_context.codec.canonical_name, bytes(stream.codec_context.extradata or b"")
    sets = ParameterSets(codec, extradata) if codec in CODECS else None
    seen.configurations.append(extradata)
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.has_sidedata("new_extradata"):
            extradata = bytes(packet.get_sidedata("new_extradata"))
            sets = ParameterSets(codec, extradata) if codec in CODECS else None
            if extradata not in seen.configurations:
                seen.configurations.append(extradata)
        seen.entry.append(seen.configurations.index(extradata))
        if seen.first is None:
            seen.first = _picture(stream, packet)
        position = None
        if seen.contiguous:
            position = _find_payload(file, packet)
            seen.contiguous = position is not None
        fallback = packet.pos if packet.pos is not None else -1
        seen.pos.append(fallback if position is None else position)
        seen.size.append(packet.size)
        seen.pts.append(packet.pts)
        seen.dts.append(packet.dts)
        hidden = codec == "vp8" and not bytes(memoryview(packet)[:1])[0] & _VP8_SHOWN
        seen.flags.append(packet.is_keyframe * KEYFRAME | (packet.is_discard or hidden) * DISCARD)
        if codec not in (*CODECS, *frame_headers.CODECS):
            continue
        data = bytes(packet)
        if packet.is_keyframe:
            seen.kinds[len(seen.flags) - 1] = point_of(codec, extradata, data).kind
        if sets is None:
            continue
        if (packet.is_keyframe or may_bring_sets(codec, extradata, data)) and sets.misses(data) and packet.is_keyframe:
            seen.without_sets.append(len(seen.flags) - 1)
        if len(seen.kinds) == 1 and is_decodable_leading(codec, extradata, data):
            seen.alone.append(len(seen.flags) - 1)
    if seen.first is None and seen.size:
        seen.first = _picture(stream, None)
    return seen


def _is_ascending(times: list[int | None]) -> bool:
    return all(a is not None and b is not None and a < b for a, b in pairwise(times))


def _is_reordered(path: str, codec: str, extradata: bytes) -> bool:
    with av.open(path) as container:
        packets = (bytes(packet) for packet in container.demux(_video_stream(container, path)) if packet.size)
        return is_reordered(codec, extradata, islice(packets, LOOKED_AT))


def _picture(stream: VideoStream, packet: "Packet[VideoStream] | None") -> VideoFrame | None:
    """What comes out; None: nothing came yet. A stream cut in mid-GOP starts with errors."""
    try:
        return next(iter(stream.codec_context.decode(packet)), None)
    except av.FFmpegError:
        return None


def _find_payload(file: BinaryIO, packet: "Packet[VideoStream]") -> int | None:
    if packet.pos is None or packet.pos < 0:
        return None
    file.seek(packet.pos)
    found = file.read(packet.size + _SEARCH_BYTES).find(bytes(packet))
    return packet.pos + found if found >= 0 else None


def _times_by_decoding(path: str, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """int64 ``[count]`` rank of each packet's picture in presentation order, and whether it is shown at all."""
    shown: list[int] = []
    try:
        with av.open(path) as container:
            stream = _video_stream(container, path)
            context = stream.codec_context
            context.thread_type = "AUTO"
            number = 0
            for packet in container.demux(stream):
                if not packet.size and packet.dts is not None:
                    continue  # AVI's mark of a frame that was dropped; the end has no time
                if packet.size:
                    packet.pts = packet.dts = number
                    number += 1
                try:
                    frames = context.decode(packet if packet.size else None)
                except av.InvalidDataError:
                    continue  # a stream cut in mid-GOP: that picture is not shown
                shown.extend(frame.pts for frame in frames if frame.pts is not None)
                if not packet.size:
                    break
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: no presentation times, and FFmpeg cannot decode it: {error}") from error
    order = np.array(list(dict.fromkeys(shown)), np.int64)
    if not len(order) or order.min() < 0 or order.max() >= count:
        raise VideoError(f"{path}: no presentation times, and decoding does not give them; re-mux it into mp4 or mkv")
    is_shown = np.zeros(count, bool)
    is_shown[order] = True
    pts = np.zeros(count, np.int64)
    pts[order] = np.arange(len(order))
    shown_packets = np.flatnonzero(is_shown)
    following = np.minimum(np.searchsorted(shown_packets, np.arange(count)), len(shown_packets) - 1)
    return pts[shown_packets[following]], is_shown


def _without_gaps(dts: list[int | None], pts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64 decode times; Matroska's first ones are unknown and are counted back from the first that is known."""
    known = np.array([value is not None for value in dts])
    if not known.any():
        return np.arange(len(pts)) + int(pts.min()) - len(pts)
    where = np.flatnonzero(known)
    values = np.array([value for value in dts if value is not None], np.int64)
    steps = np.diff(values)
    step = max(int(steps[0]), 1) if len(steps) else 1
    before = np.searchsorted(where, np.arange(len(pts)), side="right") - 1
    early = values[0] - step * (where[0] - np.arange(len(pts)))
    return np.where(before < 0, early, values[np.maximum(before, 0)])
