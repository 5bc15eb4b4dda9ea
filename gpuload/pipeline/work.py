"""What a loader and its decode workers say to each other: plain values, so that a worker may be another process."""

from dataclasses import dataclass, field

from gpuload.decode.base import Stream

Fill = tuple[int, int, int, int]
"""(picture, field, byte offset in the batch's buffer, view as ``draw_views`` packs it)."""


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """Feed these packets once; the pictures named are wanted, each for so many fills."""

    stream: int
    first: int
    """Number of the first packet in its file."""
    sizes: list[int]
    """Bytes of each packet; they follow each other in ``data``."""
    begins: list[int]
    entries: tuple[int, ...]
    data: bytes
    packets: list[int]
    """Packet numbers of the wanted pictures."""
    pictures: list[int]
    """Their names in fills."""
    uses: list[int]


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of one batch for one worker: decode first, then fill. It waits for its ``Go``."""

    batch: int
    tasks: tuple[DecodeTask, ...]
    fills: tuple[Fill, ...]
    streams: dict[int, Stream]
    """Streams that the worker has not seen."""


@dataclass(frozen=True, slots=True)
class Go:
    """The batch has a buffer: what was sent for it can be done."""

    batch: int
    chunk: int
    offset: int


@dataclass(slots=True)
class Done:
    """What became of a unit."""

    batch: int
    frames_decoded: int = 0
    kept_bytes: int = 0
    """Pictures that the worker holds for later batches."""
    errors: list[str] = field(default_factory=list)
