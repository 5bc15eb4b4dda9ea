"""Sample descriptions of an MP4 video track: which codec, which size, which configuration."""

import struct
from dataclasses import dataclass
from typing import NamedTuple

import av
from av.video.stream import VideoStream

from gpuload.errors import VideoError
from gpuload.index.mp4_boxes import Box, children, damaged, unpack
from gpuload.index.video import Color

_CODECS = {
    b"avc1": "h264", b"avc2": "h264", b"avc3": "h264", b"avc4": "h264",
    b"hvc1": "hevc", b"hev1": "hevc", b"dvh1": "hevc", b"dvhe": "hevc", b"hvc2": "hevc", b"hev2": "hevc",
    b"av01": "av1", b"dav1": "av1", b"vp09": "vp9", b"vp08": "vp8", b"vvc1": "vvc", b"vvi1": "vvc",
    b"jpeg": "mjpeg", b"mjpa": "mjpeg", b"mjpg": "mjpeg",
}  # fmt: skip
SELF_CONTAINED = frozenset({"h264", "hevc", "av1", "vp9", "vp8", "vvc"})
"""Codecs whose bitstreams say everything that decoders need."""
_CONFIGURATION = (b"avcC", b"hvcC", b"av1C", b"vvcC", b"glbl")
_CHROMA = {0: "gray", 1: "yuv420p", 2: "yuv422p", 3: "yuv444p"}
_ESDS_CODECS = {0x20: "mpeg4", 0x6C: "mjpeg", 0x6D: "png"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample description; ``codec`` and ``pixel_format`` are empty where the box does not tell."""

    codec: str
    width: int
    height: int
    extradata: bytes
    pixel_format: str
    color: Color


def read_entries(stsd: memoryview, path: str) -> tuple[Entry, ...]:
    """Every sample description of a video track, at least one.

    Raises:
        VideoError: there is none, or the track is encrypted.
    """
    found = tuple(_read_entry(box, path) for box in children(stsd[8:], path)[:256])
    if not found:
        raise damaged(path, "no sample description")
    return found


def ask_for_track(path: str) -> int:
    """Number of the video track that FFmpeg finds best: the default one, the one with most pictures or bits.

    Raises:
        VideoError: FFmpeg cannot tell.
    """
    try:
        with av.open(path) as container:
            stream = container.streams.best("video")
            if stream is not None:
                return stream.id
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: has several video tracks, and FFmpeg cannot open it: {error}") from error
    raise VideoError(f"{path}: has several video tracks, and FFmpeg sees none; re-encode it")


def ask_ffmpeg(path: str) -> tuple[str, str]:
    """``(codec, pixel_format)`` as FFmpeg finds them, by decoding the first picture if it must.

    Raises:
        VideoError: FFmpeg cannot tell either.
    """
    try:
        with av.open(path) as container:
            stream = container.streams.best("video")
            context = stream.codec_context if isinstance(stream, VideoStream) else None
            if context is not None and context.pix_fmt:  # None: FFmpeg has no decoder for it
                return context.codec.canonical_name, context.pix_fmt
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: FFmpeg cannot open it: {error}") from error
    raise VideoError(f"{path}: neither the file nor FFmpeg tells its codec and pixel format; re-encode it")


class Told(NamedTuple):
    """What FFmpeg's demuxer and decoder say of a video."""

    width: int
    height: int
    """Of the first picture."""
    tag: str
    coded_bits: int


def ask_decoder(path: str) -> Told | None:
    """By decoding the first picture; None: there is none to be had."""
    try:
        with av.open(path) as container:
            stream = container.streams.best("video")
            frame = next(container.decode(stream))
            assert isinstance(stream, VideoStream)
            assert isinstance(frame, av.VideoFrame)
            return Told(frame.width, frame.height, *told_by(stream.codec_context))
    except (av.FFmpegError, OSError, StopIteration):  # whoever decodes it will say so
        return None


def told_by(context: "av.VideoCodecContext") -> tuple[str, int]:
    """The container's name of the codec, empty where it is none of four characters, and the bits of a pixel."""
    tag = context.codec_tag
    return tag if tag.isascii() and tag.isprintable() else "", context.bits_per_coded_sample


def _read_entry(box: Box, path: str) -> Entry:
    if box.kind in (b"encv", b"drmi"):
        raise VideoError(f"{path}: the video is encrypted; decrypt it first")
    width, height = unpack("HH", box.body, 24, path)
    codec = _CODECS.get(box.kind, "")
    extradata, pixel_format, color = b"", "", Color()
    for inner in children(box.body[78:], path):
        body = bytes(inner.body)
        if inner.kind in _CONFIGURATION and not extradata:
            extradata = body
            pixel_format = _pixel_format(inner.kind, body)
        elif inner.kind == b"vpcC":
            pixel_format = _pixel_format(inner.kind, body)
            if len(body) >= 10:  # VP Codec ISO Media File Format Binding: depth 4 bits, chroma 3, full range 1
                color = Color(body[7], body[8], body[9], 1 + (body[6] & 1))
        elif inner.kind == b"colr" and body[:4] in (b"nclx", b"nclc") and len(body) >= 10:
            primaries, transfer, matrix = struct.unpack_from(">HHH", body, 4)
            known_range = body[:4] == b"nclx" and len(body) >= 11  # ISO/IEC 14496-12 12.1.5; nclc: QuickTime
            color = Color(primaries, transfer, matrix, 1 + (body[10] >> 7) if known_range else color.range)
        elif inner.kind == b"esds":
            codec, extradata = _read_esds(body)
    return Entry(codec, width, height, extradata, pixel_format, color)


def _pixel_format(kind: bytes, body: bytes) -> str:
    """FFmpeg's name, or empty: 4:4:4 may be RGB, and some profiles leave chroma and depth to the bitstream."""
    chroma, depth = 3, 8
    if kind == b"avcC" and len(body) >= 7:
        chroma = 1
        if body[1] not in (66, 77, 88):
            after = _end_of_parameter_sets(body)
            if len(body) < after + 3:
                return ""
            chroma = max(body[after] & 3, 1)  # FFmpeg's decoder adds grey chroma planes to monochrome H.264
            depth = 8 + (body[after + 1] & 7)
    elif kind == b"hvcC" and len(body) >= 19:
        chroma, depth = body[16] & 3, 8 + (body[17] & 7)
    elif kind == b"av1C" and len(body) >= 4:
        mono, x, y = body[2] >> 4 & 1, body[2] >> 3 & 1, body[2] >> 2 & 1
        chroma = 0 if mono else 1 if x and y else 2 if x else 3
        depth = (12 if body[2] & 0x20 else 10) if body[2] & 0x40 else 8
    elif kind == b"vpcC" and len(body) >= 7:
        chroma, depth = max(body[6] >> 1 & 7, 1), body[6] >> 4
    if chroma not in (0, 1, 2) or not 8 <= depth <= 16:
        return ""
    return _CHROMA[chroma] + ("" if depth == 8 else f"{depth}le")


def _end_of_parameter_sets(body: bytes) -> int:
    """Offset in an ``avcC`` behind its sequence and picture parameter sets; beyond its end if it is damaged."""
    offset = 5
    for mask in (0x1F, 0xFF):
        if offset >= len(body):
            return len(body)
        count, offset = body[offset] & mask, offset + 1
        for _ in range(count):
            if offset + 2 > len(body):
                return len(body)
            offset += 2 + struct.unpack_from(">H", body, offset)[0]
    return offset


def _read_esds(body: bytes) -> tuple[str, bytes]:
    """Codec and decoder configuration of an MPEG-4 elementary stream descriptor; empty where it does not tell."""
    codec, offset = "", 4
    while offset + 2 <= len(body):
        tag, length, offset = body[offset], 0, offset + 1
        for _ in range(4):
            if offset >= len(body):
                return codec, b""
            more, length, offset = body[offset] & 0x80, length << 7 | body[offset] & 0x7F, offset + 1
            if not more:
                break
        if tag == 3 and offset + 3 <= len(body):
            stream_flags = body[offset + 2]
            offset += 3 + (2 if stream_flags & 0x80 else 0) + (2 if stream_flags & 0x20 else 0)
        elif tag == 4 and offset < len(body):
            codec, offset = _ESDS_CODECS.get(body[offset], ""), offset + 13
        elif tag == 5:
            return codec, body[offset : offset + length]
        else:
            offset += length
    return codec, b""
