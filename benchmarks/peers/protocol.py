"""What a peer's script is asked and what it answers; standard library and numpy only, for every environment.

A script gets the path of a JSON file, a ``Job``, and prints lines of JSON on stdout: ``{"event": "opened", …}``,
``{"event": "first_batch", …}``, and at the end ``{"event": "result", …}`` or ``{"event": "unavailable", "reason": …}``.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.peers.process import tree_usage


class Unavailable(Exception):
    """This peer cannot do this job, and that is no defect of the benchmark."""


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement, or with ``samples`` the delivery of these samples."""

    root: str
    cameras: tuple[str, ...]
    fps: float
    offsets: tuple[int, ...]
    """The window, in frames relative to the sample."""
    dtype: str = "uint8"
    size: tuple[int, int] | None = None
    """Height and width to resize to."""
    batch_size: int = 32
    step_s: float = 0.0
    seconds: float = 5.0
    warm_s: float = 2.0
    min_batches: int = 8
    work: str = ""
    """A folder that the peer may keep converted data in."""
    samples: tuple[int, ...] = ()
    out: str = ""
    """Where the frames of ``samples`` go: uint8 ``[samples, cameras, offsets, 3, H, W]`` as .npy."""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def frames_per_sample(self) -> int:
        return len(self.cameras) * len(self.offsets)

    @property
    def deltas(self) -> dict[str, list[float]]:
        """The window as LeRobot takes it."""
        return {camera: [offset / self.fps for offset in self.offsets] for camera in self.cameras}


class Peer(Protocol):
    """A loader that is open. Used by one thread."""

    def batches(self, epoch: int) -> Iterator[int]:
        """The frames in each batch of the epoch, as it comes. It may go on without end."""
        ...

    def counters(self) -> dict[str, float]:
        """Running totals since the start (``frames_decoded``, …), as far as the library tells.

        Called at both ends of a window: what a device has not finished is waited for here.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """Versions, and what the library chose by itself."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen between two looks at the clock."""

    seconds: float
    frames: int
    waits_s: list[float]
    counters: dict[str, float]
    usage: dict[str, float]
    whole_epochs: int


class Clocked:
    """Takes batches, times each wait, sleeps the simulated step."""

    def __init__(self, peer: Peer, step_s: float) -> None:
        self._peer, self._step_s = peer, step_s

    def window(self, batches: Iterator[int], until: Callable[[float, int], bool]) -> tuple[Window, bool]:
        """Batches until ``until(seconds, count)`` or the end; the second value says that they ended."""
        before, counters, waits, frames = tree_usage(), self._peer.counters(), list[float](), 0
        begin = time.perf_counter()
        ended = False
        while not until(time.perf_counter() - begin, len(waits)):
            asked = time.perf_counter()
            count = next(batches, None)
            if count is None:
                ended = True
                break
            waits.append(time.perf_counter() - asked)
            frames += count
            if self._step_s:
                time.sleep(self._step_s)
        totals = self._peer.counters()
        seconds = time.perf_counter() - begin
        after = tree_usage()
        spent = {key: after[key] - before[key] for key in before.keys() & after.keys()}
        return Window(seconds, frames, waits, {k: totals[k] - counters.get(k, 0.0) for k in totals}, spent, 0), ended


def emit(event: str, **content: Any) -> None:
    """One line of the protocol."""
    print(json.dumps({"event": event, **content}), flush=True)


def measure(job: Job, start: Callable[[Job], Peer]) -> dict[str, Any]:
    """Open, warm up, then time a window of ``job.seconds``.

    A loader whose epoch ends before that is timed over whole epochs instead, so that nothing that was made ready
    before the clock started, or is left over when it stops, counts for or against it.
    """
    begin = time.perf_counter()
    peer = start(job)
    opened_s = time.perf_counter() - begin
    emit("opened", seconds=opened_s)
    clocked = Clocked(peer, job.step_s)
    batches = peer.batches(0)
    first = next(batches, None)
    if first is None:
        raise Unavailable("an epoch of this dataset has no batch")
    first_batch_s = time.perf_counter() - begin
    emit("first_batch", seconds=first_batch_s, frames=first)
    least, multiple = job.min_batches, max(1, int(job.options.get("workers", 0)))
    warm, ended = clocked.window(batches, lambda s, n: s >= job.warm_s and n >= 2 * multiple)
    if not ended:  # workers hand batches over in turns: a whole number of turns
        seen, ended = clocked.window(batches, lambda s, n: s >= job.seconds and n >= least and n % multiple == 0)
    if ended:
        seen = whole_epochs(peer, clocked, job)
    facts = peer.facts()
    peer.close()
    delivered = max(seen.frames, 1)
    return {
        "frames_per_s": seen.frames / seen.seconds,
        "frames_delivered": seen.frames,
        "seconds": seen.seconds,
        "batches": len(seen.waits_s),
        "whole_epochs": seen.whole_epochs,
        "opened_s": opened_s,
        "first_batch_s": first_batch_s,
        "warm": {"frames_per_s": warm.frames / warm.seconds, "seconds": warm.seconds},
        "wait_p50_s": float(np.percentile(seen.waits_s, 50)),
        "wait_p95_s": float(np.percentile(seen.waits_s, 95)),
        "counters": seen.counters,
        "cpu_s_per_frame": seen.usage["cpu_s"] / delivered if "cpu_s" in seen.usage else None,
        "usage": seen.usage,
        "facts": facts,
    }


def whole_epochs(peer: Peer, clocked: Clocked, job: Job) -> Window:
    """Epochs 1, 2, … until ``job.seconds`` have gone by; making each epoch's iterator is part of it."""
    parts: list[Window] = []
    begin = time.perf_counter()
    for epoch in itertools.count(1):
        asked = time.perf_counter()
        part, _ = clocked.window(peer.batches(epoch), lambda seconds, count: False)
        parts.append(part)
        if not part.waits_s:
            raise Unavailable(f"epoch {epoch} has no batch after {time.perf_counter() - asked:.1f} s")
        if time.perf_counter() - begin >= job.seconds:
            break
    return Window(
        seconds=sum(part.seconds for part in parts),
        frames=sum(part.frames for part in parts),
        waits_s=[wait for part in parts for wait in part.waits_s],
        counters=total([part.counters for part in parts]),
        usage=total([part.usage for part in parts]),
        whole_epochs=len(parts),
    )


def total(parts: list[dict[str, float]]) -> dict[str, float]:
    """Sums by key."""
    return {key: sum(part.get(key, 0.0) for part in parts) for part in parts for key in part}


def run(start: Callable[[Job], Peer], fetch: Callable[[Job], npt.NDArray[np.uint8]]) -> None:
    """A script's ``main``: do the job whose path is the only argument."""
    content = json.loads(Path(sys.argv[1]).read_text())
    for name in ("cameras", "offsets", "samples"):
        content[name] = tuple(content.get(name, ()))
    job = Job(**content)
    try:
        if job.samples:
            frames = fetch(job)
            np.save(job.out, frames)
            emit("result", shape=list(frames.shape))
        else:
            emit("result", **measure(job, start))
    except Unavailable as error:
        emit("unavailable", reason=str(error))
