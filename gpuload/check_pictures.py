"""The part of the validator that decodes."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpuload.cores import usable_cores
from gpuload.errors import GpuloadError
from gpuload.findings import Finding, Folder, first_line
from gpuload.index.load import load_index
from gpuload.pipeline.direct import DirectReader

DECODE_S = 20.0
"""Spent on decoding unless the caller says how long: small datasets are decoded as a whole in it."""
PARTS = 8
"""Of a file's keyframe windows, one part is looked at in every file before the next one is."""

Report = Callable[[int, int], object]
"""Called with the pictures looked at so far and all that there are, by one thread at a time."""


@dataclass(slots=True)
class Looked:
    """What decoding one file has shown so far."""

    path: Path
    frames: int
    """That the file has."""
    decoded: int = 0
    """Looked at, the lost ones among them."""
    lost: int = 0
    windows: int = 0
    """That they are lost in."""
    first: str = ""
    """Why the first of them is lost."""
    unreadable: str = ""

    @property
    def settled(self) -> int:
        """Frames that are accounted for."""
        return self.frames if self.unreadable else self.decoded


@dataclass(slots=True)
class Until:
    """When to stop."""

    deadline: float

    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline


def check_pictures(
    folder: Folder, files: Sequence[tuple[Path, int]], *, seconds: float, report: Report
) -> Iterator[Finding]:
    """Decodes as training does: what is refused there is refused here. A part of every file's keyframe windows, then
    the next part, until all are decoded or ``seconds`` have gone by; ``files``: paths and numbers of frames."""
    looked = [Looked(path, frames) for path, frames in files]
    total, until = sum(frames for _, frames in files), Until(time.monotonic() + seconds)
    done, lock, own, readers = 0, threading.Lock(), threading.local(), ExitStack()

    def look(task: tuple[int, int]) -> None:
        nonlocal done
        if until.is_over():
            return
        if not hasattr(own, "reader"):
            with lock:
                own.reader = readers.enter_context(closing(DirectReader()))
        found = looked[task[0]]
        before = found.settled
        look_at(found, own.reader, part=task[1], until=until)
        with lock:
            done += found.settled - before
            report(done, total)

    report(0, total)
    order = np.random.default_rng(0).permutation(len(looked)).tolist()
    if total and seconds > 0:
        with readers, ThreadPoolExecutor(usable_cores(), "gpuload-check") as pool:  # PyAV decodes without Python's lock
            try:
                for part in range(PARTS):  # a file is never with two threads
                    if until.is_over():
                        break
                    for _ in pool.map(look, [(number, part) for number in order]):
                        pass
            except BaseException:  # Ctrl-C: the pool waits for what its threads do
                until.deadline = -math.inf
                raise
    for found in looked:
        if found.unreadable:
            yield folder.error(found.path, found.unreadable, "fetch the file again")
        elif found.windows:
            of = f"{found.frames} pictures"
            if found.decoded < found.frames:
                of = f"{found.decoded} pictures that were decoded (the file has {found.frames})"
            windows = f"{found.windows} keyframe window{'s' * (found.windows > 1)}"
            text = f"{found.lost} of {of} cannot be decoded, in {windows}; the first: "
            cause = found.first.removeprefix(f"{found.path.absolute()}: ")
            yield folder.error(found.path, text + cause, "fetch or encode the file again")


def look_at(found: Looked, reader: DirectReader, *, part: int, until: Until) -> None:
    """Decodes one of ``PARTS`` parts of a file, as far as there is time."""
    if found.unreadable:
        return
    try:
        index = load_index(str(found.path))
        for frames, lost, cause in reader.windows(index, part=part, parts=PARTS):
            found.decoded += frames
            if cause is not None:
                # its advice is to run this check
                found.first = found.first or first_line(cause).partition("; run ")[0]
                found.lost, found.windows = found.lost + lost, found.windows + 1
            if until.is_over():
                return
    except (GpuloadError, OSError) as error:
        found.unreadable = first_line(error)
