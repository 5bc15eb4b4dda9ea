"""Batch memory: shared with the decode processes, the caller's while any tensor of it lives, then used again."""

import mmap
import os
import signal
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CHUNK_BYTES = 64 << 20
"""Small batches share one mapping: a mapping costs a file descriptor for as long as it lives."""
MOST_SHARING = 64
"""Buffers in one mapping: tiny ones need no 64 MB."""
MAX_IDLE = 4
"""Buffers kept warm; the memory of further idle ones goes back to the system."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """One shared mapping."""

    number: int
    fd: int
    num_bytes: int
    memory: mmap.mmap


@dataclass(frozen=True, slots=True)
class Place:
    """Where a buffer lies."""

    chunk: int
    offset: int


class BatchPool:
    """Buffers in shared memory. ``take`` from one thread at a time; buffers may die in any.

    ``pin``: called with each new mapping, so that a GPU can copy from it; what it returns is called before the mapping
    goes. Pinned memory never goes back to the system before that.
    """

    def __init__(self, *, pin: Callable[[mmap.mmap], Callable[[], None]] | None = None) -> None:
        self.chunks: list[Chunk] = []
        self._pin = pin
        self._unpin: list[Callable[[], None]] = []
        self._shelves: dict[int, _Shelf] = {}

    def take(self, num_bytes: int) -> tuple[Place, npt.NDArray[np.uint8]]:
        """A buffer, uint8 ``[num_bytes]``. It returns to the pool when the array and all that views it are gone."""
        size = _rounded(num_bytes)
        shelf = self._shelves.setdefault(size, _Shelf(deque(), deque()))
        try:
            place = shelf.idle.pop()
        except IndexError:
            if not shelf.empty:
                self._grow(size, shelf)
            place = shelf.empty.pop()
        memory = self.chunks[place.chunk].memory
        array: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8, num_bytes, place.offset)
        keep = self._pin is not None
        weakref.finalize(array, _give_back, shelf, place, memory, size, keep, os.getpid()).atexit = False
        return place, array

    def _grow(self, size: int, shelf: "_Shelf") -> None:
        count = max(1, min(CHUNK_BYTES // size, MOST_SHARING))
        fd = _shared_file(count * size)
        number = len(self.chunks)
        try:
            chunk = Chunk(number, fd, count * size, mmap.mmap(fd, count * size))
            if self._pin is not None:
                self._unpin.append(self._pin(chunk.memory))
        except BaseException:  # no room to map it, or none to lock it
            os.close(fd)
            raise
        self.chunks.append(chunk)
        shelf.empty.extend(Place(number, i * size) for i in range(count))

    def close(self) -> None:
        """Closes the descriptors. Memory that a caller still views stays until the last view is gone."""
        for unpin in self._unpin:
            unpin()
        self._unpin.clear()
        for chunk in self.chunks:
            os.close(chunk.fd)
        self.chunks.clear()
        self._shelves.clear()


@dataclass(frozen=True, slots=True)
class _Shelf:
    """Buffers of one size."""

    idle: deque[Place]  # append and pop are atomic: a finalizer may run inside any call
    empty: deque[Place]


def _rounded(num_bytes: int) -> int:
    """Whole pages, at most an eighth more than asked for, so that few sizes serve all batches of a loader."""
    step = max(mmap.PAGESIZE, 1 << max(num_bytes.bit_length() - 4, 0))
    return -(-max(num_bytes, 1) // step) * step


def _shared_file(num_bytes: int) -> int:
    # memfd where there is one: /dev/shm is 64 MB in a default container.
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("gpuload")
    else:
        fd, path = tempfile.mkstemp()
        os.unlink(path)
    try:
        os.ftruncate(fd, num_bytes)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _give_back(shelf: _Shelf, place: Place, memory: mmap.mmap, num_bytes: int, keep: bool, owner: int) -> None:
    if os.getpid() != owner:  # a fork dropped its copy of the array: the memory is its parent's, who may still use it
        return
    try:
        if keep or len(shelf.idle) < MAX_IDLE or not hasattr(mmap, "MADV_REMOVE"):
            shelf.idle.append(place)
            return
        try:
            memory.madvise(mmap.MADV_REMOVE, place.offset, num_bytes)
        finally:
            shelf.empty.append(place)
    except KeyboardInterrupt:  # Python drops what a finalizer raises; sent by another thread it comes after this
        main = threading.main_thread().ident
        threading.Thread(target=signal.pthread_kill, args=(main, signal.SIGINT), daemon=True).start()
