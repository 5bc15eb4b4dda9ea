"""The VideoIndex: everything that decoding one picture needs to know, in arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpuload.errors import VideoError
from gpuload.units import seconds

KEYFRAME = 1
"""Packet flag: decoding can start here."""
DISCARD = 2
"""Packet flag: decoded when others need it, never shown (an edit list says so)."""


class Color(NamedTuple):
    """What the container says of colour, in the numbers of ISO/IEC 23091-2 (as FFmpeg's enums)."""

    primaries: int = 2
    """2: unspecified, as for the next two."""
    transfer: int = 2
    matrix: int = 2
    range: int = 0
    """0: unspecified, 1: limited, 2: full."""


@dataclass(frozen=True, slots=True, eq=False)
class VideoIndex:
    """Packets of one video stream in decode order and its frames in presentation order.

    A frame is a number ``0 <= i < num_frames`` in presentation order; a packet a number in decode order.
    38 bytes a frame. Immutable: safe to share between threads.
    """

    path: str
    stream: int
    """FFmpeg's number of the stream in its file."""
    codec: str
    """FFmpeg's codec name: ``h264``, ``hevc``, ``av1``, ``vp9``, …"""
    width: int
    """Pixels of the stored picture, before rotation."""
    height: int
    pixel_format: str
    """FFmpeg's name, ``yuv420p`` for instance."""
    rotation: int
    """Degrees counter-clockwise by which the stored picture is turned for display: 0, 90, 180 or 270."""
    color: Color
    """A decoder begins with it, and keeps it where the bitstream says nothing."""
    tag: str
    """The container's name of the codec (``ap4h``, ``XVID``), where it decides how decoders read; else empty."""
    coded_bits: int
    """Bits of a pixel that the container tells decoders, where they depend on it; else 0."""
    chroma_location: int
    """Where the codec configuration places chroma samples: FFmpeg's AVChromaLocation; 0: it does not say."""
    time_base: Fraction
    """Seconds per tick of ``pts`` and ``dts``."""
    extradata: tuple[bytes, ...]
    """Codec configuration, one per sample description."""
    contiguous: bool
    """True: packet ``i`` is the bytes ``[pos, pos + size)`` of the file. False: it must be demuxed by number."""
    pos: npt.NDArray[np.int64]
    size: npt.NDArray[np.int32]
    pts: npt.NDArray[np.int64]
    """Presentation time as FFmpeg reports it (edit list applied)."""
    dts: npt.NDArray[np.int64]
    flags: npt.NDArray[np.uint8]
    """KEYFRAME | DISCARD."""
    entry: npt.NDArray[np.uint8]
    """Which ``extradata`` a packet belongs to."""
    frame_packet: npt.NDArray[np.int32]
    """Packet that holds frame ``i``."""
    frame_start: npt.NDArray[np.int32]
    """Packet at which decoding starts for frame ``i``: its keyframe, or for a leading picture the keyframe before."""

    @property
    def num_frames(self) -> int:
        return len(self.frame_packet)

    @property
    def shown_size(self) -> tuple[int, int]:
        """Height and width in pixels as shown, after rotation."""
        return (self.width, self.height) if self.rotation % 180 else (self.height, self.width)

    @property
    def frame_pts(self) -> npt.NDArray[np.int64]:
        """int64 ``[num_frames]`` ticks, ascending."""
        return self.pts[self.frame_packet]

    @property
    def pts_s(self) -> npt.NDArray[np.float64]:
        """float64 ``[num_frames]`` seconds, ascending."""
        return seconds(self.frame_pts, self.time_base)

    @property
    def keyframes(self) -> npt.NDArray[np.int64]:
        """int64 packet numbers that decoding can start at."""
        return np.flatnonzero(self.flags & KEYFRAME)

    @property
    def gops(self) -> npt.NDArray[np.int64]:
        """int64 ``[num_gops, 2]``: packets ``[start, stop)`` of each GOP."""
        starts = self.keyframes
        return np.stack([starts, np.append(starts[1:], len(self.pos))], axis=1)


def frame_tables(
    pts: npt.NDArray[np.int64], flags: npt.NDArray[np.uint8], path: str, *, alone: Sequence[int] = ()
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """``(frame_packet, frame_start)`` of packets in decode order.

    Open GOPs are not joined: a picture starts at its own keyframe, unless it is shown before that keyframe (a leading
    picture), which may need the GOP before. Pictures that are shown before the first keyframe cannot be decoded and are
    left out, but those ``alone``, packets that refer to nothing before their keyframe.

    Raises:
        VideoError: there is no keyframe.
    """
    keys = np.flatnonzero(flags & KEYFRAME)
    if not len(keys):
        raise VideoError(f"{path}: no keyframe in {len(pts)} packets, so no picture can be decoded; re-encode the file")
    gop = np.searchsorted(keys, np.arange(len(pts)), side="right") - 1
    own = keys[np.maximum(gop, 0)]
    leading = (pts < pts[own]) & (gop > 0)
    start = np.where(leading, keys[np.maximum(gop - 1, 0)], own)
    lost = (gop == 0) & (pts < pts[own])
    lost[list(alone)] = False
    shown = (flags & DISCARD == 0) & (gop >= 0) & ~lost
    packets = np.flatnonzero(shown)
    order = packets[np.argsort(pts[packets], kind="stable")]
    return order.astype(np.int32), start[order].astype(np.int32)
