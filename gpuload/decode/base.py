"""What every decode backend takes and gives: plain values that may cross to a helper process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import av

from gpuload.errors import DecodeError
from gpuload.index.nal import CODECS, EntryPoint, entry_of
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
    tag: str = ""
    """The container's name of the codec, where decoders depend on it."""
    coded_bits: int = 0
    """Bits of a pixel that the container tells decoders; 0: nothing depends on it."""
    in_order: bool = False
    """Its times say that packets are shown in their order."""


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
    leading: int = 0
    """Packets right behind the first that are shown before it and not wanted: they refer to what was before the run."""


class Decoder(Protocol):
    """One codec session a stream kind, kept between runs. Not thread-safe: one decoder per decode thread."""

    fell_back: bool
    """Of the last run, some was decoded by another decoder in this one's stead."""

    def decode(self, stream: Stream, run: Run) -> Iterator[tuple[int, av.VideoFrame | DevicePicture]]:
        """Yields ``(packet number, picture)`` of every wanted picture once, in presentation order:
        an ``av.VideoFrame`` of a backend on the CPU, a ``DevicePicture`` of one on a GPU.

        Raises:
            DecodeError: a wanted picture is damaged or never came out. The decoder stays usable.
        """
        ...

    def close(self) -> None: ...


def entry_point(stream: Stream, run: Run) -> EntryPoint | None:
    """What the first packet of a run says of itself; None: its codec is not one whose packets tell.

    Raises:
        DecodeError: decoding cannot begin there, whatever the container says.
    """
    if stream.codec not in CODECS:
        return None
    which = run.entries[0] if run.entries else 0
    entry = entry_of(stream.codec, stream.extradata[which] if stream.extradata else b"", run.packets[0])
    if run.first == 0:  # as whoever decodes the file from its beginning
        return entry
    how = {"gradual": "the picture is refreshed bit by bit", "none": "it refers to other pictures"}.get(entry.kind)
    if entry.kind == "intra" and len(run.packets) > 1:
        how = "nothing says that what follows does not refer to what came before"
    if how is not None:
        raise failed(stream, run.first, f"the file calls it a keyframe, but decoding cannot begin there: {how}")
    return entry


def failed(stream: Stream, packet: int, cause: str) -> DecodeError:
    """The error of one picture: which file, which packet, why, what to do."""
    return DecodeError(
        f"{stream.path}: packet {packet} ({stream.codec}): {cause}; "
        "run `gpuload check --deep` on the dataset, then fetch or encode the file again"
    )
