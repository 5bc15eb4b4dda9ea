"""What every decode backend takes and gives: plain values that may cross to a helper process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import av

from gpuload.errors import DecodeError
from gpuload.index.video import Color
from gpuload.picture import DevicePicture


@dataclass(frozen=True, slots=True)
class Stream:
    """What a codec session and an error message need to know of one video file."""

    path: str
    codec: str
    extradata: tuple[bytes, ...]
    color: Color
    width: int
    height: int
    rotation: int
    """Degrees counter-clockwise for display."""
    pixel_format: str
    """FFmpeg's name, as the container has it; full-range twins (``yuvj420p``) are told by the pictures only."""
    chroma_location: int = 0
    """FFmpeg's AVChromaLocation; 0: unspecified."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive packets that are fed once, beginning with a keyframe, and the pictures wanted of them."""

    first: int
    """Number of the first packet in its file."""
    packets: Sequence[bytes | memoryview]
    entries: Sequence[int]
    """Which of ``Stream.extradata`` each packet belongs to; empty: all to the first."""
    wanted: frozenset[int]
    """Packet numbers whose pictures are wanted."""
    pts: Sequence[int] = ()
    """Presentation time of each packet, in any ticks: for backends that need a container around the packets."""


class Decoder(Protocol):
    """One codec session a stream kind, kept between runs. Not thread-safe: one decoder per decode thread."""

    def decode(self, stream: Stream, run: Run) -> Iterator[tuple[int, av.VideoFrame | DevicePicture]]:
        """Yields ``(packet number, picture)`` of every wanted picture once, in presentation order:
        an ``av.VideoFrame`` of a backend on the CPU, a ``DevicePicture`` of one on a GPU.

        Raises:
            DecodeError: a wanted picture is damaged or never came out. The decoder stays usable.
        """
        ...

    def close(self) -> None: ...


def failed(stream: Stream, packet: int, cause: str) -> DecodeError:
    """The error of one picture: which file, which packet, why, what to do."""
    return DecodeError(
        f"{stream.path}: packet {packet} ({stream.codec}): {cause}; "
        "run `gpuload check --deep` on the dataset, then fetch or encode the file again"
    )
