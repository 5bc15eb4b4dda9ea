"""A run as MP4 files, for backends that take a container: one file for each sample description in it."""

from dataclasses import dataclass
from itertools import groupby

from gpuload.decode.base import Run, Stream
from gpuload.store.one_run import one_run_mp4

TICKS_PER_S = 30
"""Of the files written here. A picture's tick is its place in presentation order, whatever its time in the dataset:
small integers survive a library that tells times as float seconds."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Packets of a run that share a sample description, as a file of their own."""

    data: bytes
    """An MP4 whose picture number ``i``, in presentation order, is shown at tick ``i``."""
    shown: tuple[int, ...]
    """Packet number of each picture, in presentation order."""
    wanted: tuple[int, ...]
    """Places in ``shown`` that are wanted, ascending; at least one."""
    entry: int
    """Which of ``Stream.extradata`` it belongs to."""


def pieces_of(stream: Stream, run: Run) -> tuple[Piece, ...]:
    """The run's files in decode order, without packets behind the last wanted one of each.

    Raises:
        ValueError: the run has no ``pts``, or its packets cannot be put into an MP4 (``one_run.unsupported``).
    """
    if len(run.pts) != len(run.packets):
        raise ValueError(f"a backend that needs a container needs Run.pts, got {len(run.pts)} for {len(run.packets)}")
    entries = run.entries or [0] * len(run.packets)
    pieces = []
    for entry, group in groupby(range(len(run.packets)), key=lambda index: entries[index]):
        indices = list(group)
        needed = [index for index in indices if run.first + index in run.wanted]
        if not needed:
            continue
        chosen = range(indices[0], needed[-1] + 1)
        order = sorted(chosen, key=lambda index: run.pts[index])
        place = {index: rank for rank, index in enumerate(order)}
        data = one_run_mp4(
            run.packets[chosen.start : chosen.stop],
            [place[index] for index in chosen],
            codec=stream.codec,
            extradata=stream.extradata[entry] if stream.extradata else b"",
            width=stream.width,
            height=stream.height,
            color=stream.color,
            ticks_per_s=TICKS_PER_S,
        )
        shown = tuple(run.first + index for index in order)
        pieces.append(Piece(data, shown, tuple(sorted(place[index] for index in needed)), entry))
    return tuple(pieces)
