"""What a loader and its decode workers say to each other: plain values, so that a worker may be another process."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from gpuload.decode.base import Stream
from gpuload.device.arena import Chunk
from gpuload.errors import GpuloadError
from gpuload.picture import DevicePicture, PictureForm
from gpuload.store.cache import Lease, release_all

Fill = tuple[int, int, int, int]
"""(picture, field, byte offset in the batch's buffer, view as ``draw_views`` packs it)."""
Found = PictureForm | DevicePicture | GpuloadError
"""What became of a staged picture: its planes were written, in this form; it lies in device memory; or it is lost,
which ``Done.errors`` says too."""
STAGED = -1
"""Instead of a field: the picture's planes go there as they are, once, and a device makes the slots of them."""


class DecodeTask(NamedTuple):  # not a dataclass: those are pickled in Python
    """Feed these packets once; the pictures named are wanted, each for so many fills."""

    stream: int
    first: int
    """Number of the first packet in its file."""
    sizes: list[int]
    """Bytes of each packet."""
    begins: list[int]
    """Where each begins in ``data``."""
    entries: tuple[int, ...]
    data: bytes
    packets: list[int]
    """Packet numbers of the wanted pictures."""
    pictures: list[int]
    """Their names in fills."""
    uses: list[int]
    pts: Sequence[int] = ()
    """Of each packet, for backends that need a container."""
    leading: int = 0
    """See ``Run.leading``."""
    field: int = STAGED
    """Field that all the pictures go to; ``STAGED`` if there is more than one, or a device makes the slots."""


class Unit(NamedTuple):
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
    frames_fallen_back: int = 0
    """Of them, those that PyAV decoded because the worker's own library would not."""
    pixels_decoded: dict[tuple[str, int], int] = field(default_factory=dict)
    """By codec and bits of a sample."""
    busy_s: float = 0.0
    is_measured: bool = True
    """``busy_s`` is what such work takes; not where something was decoded twice, to be compared."""
    kept_bytes: int = 0
    """Pictures that the worker holds for later batches."""
    errors: list[GpuloadError] = field(default_factory=list)
    found: list[tuple[int, Found]] = field(default_factory=list)
    """Of staged pictures: (picture, what became of it)."""

    def lose(self, picture: int, error: GpuloadError) -> None:
        """A staged picture, which later batches that show it do not ask for again."""
        self.errors.append(error)
        self.found.append((picture, error))


class PendingUnit(NamedTuple):
    """What a loader remembers of a unit that a worker has."""

    batch: int
    cost: float
    leases: list[Lease]
    runs: int


class DecodeWorker(Protocol):
    """Decodes units one after the other, in a process or a thread of its own."""

    backend: str
    on_device: bool
    """Its pictures lie in device memory; else they cross in a staging buffer, or it writes the slots itself."""
    needs_pts: bool
    """Its tasks carry the presentation time of each packet."""
    streams: set[int]
    """Files that it has met."""
    alive: bool
    epitaph: str
    """Why it is not alive, where nobody asked it to end."""
    fault: GpuloadError | None
    """Why it could not even begin: another one in its place could not either."""
    load: float
    """Estimated work that was given and not yet done."""
    pending: list[PendingUnit]
    """Units that it works on, oldest first."""

    def submit(self, unit: Unit) -> None:
        """Gives a unit, which waits for its batch's buffer."""
        ...

    def go(self, batch: int, chunk: Chunk, offset: int) -> None:
        """Starts the units of a batch; its buffer is at ``offset`` of ``chunk``."""
        ...

    def forget(self) -> None:
        """Drops kept pictures and what waits for a buffer."""
        ...

    def end(self) -> None:
        """Asks it to end; ``close`` waits for that."""
        ...

    def close(self, *, spent_s: float = 0.0) -> None:
        """Ends it, with so much patience less. Idempotent."""
        ...


ENDING_PATIENCE_S = 5.0
"""How long garbage collection waits for a loader's end."""


def join(thread: threading.Thread, timeout_s: float | None = None) -> None:
    """Waits for a thread's end. Garbage collection may close a loader in any thread, and none can wait for itself."""
    if thread is not threading.current_thread():
        thread.join(timeout_s)


def end_apart(close: Callable[[], None], *, waits: bool) -> None:
    """Closes a loader in another thread, and waits briefly: the caller may hold a lock that its threads need."""
    thread = threading.Thread(target=close, name="close-gpuload", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads: the interpreter ends
        if waits:
            close()
    else:
        if waits:
            thread.join(ENDING_PATIENCE_S)


def release(pending: Iterable[PendingUnit]) -> None:
    """Gives back the bytes of units that are done, or that nobody does any more."""
    release_all(lease for unit in pending for lease in unit.leases)


def is_in_use_here(lock: threading.Condition) -> bool:
    """Whether the code that runs now (garbage collection, a signal handler) interrupted one of a loader's own threads,
    or one that holds its lock: to close the loader here would be to wait for oneself."""
    if threading.current_thread().name.startswith("gpuload-"):
        return True
    try:
        lock.notify(0)
    except RuntimeError:  # this thread does not hold it
        return False
    return True
