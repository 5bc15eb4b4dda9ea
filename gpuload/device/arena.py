"""Batch memory: shared with the decode processes, the caller's while any tensor of it lives, then used again."""

import mmap
import os
import tempfile
import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CHUNK_BYTES = 64 << 20
"""Small batches share one mapping: a mapping costs a file descriptor for as long as it lives."""
ALIGNMENT = 64
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
    """Buffers of equal size in shared memory. ``take`` from one thread; buffers may die in any."""

    def __init__(self, buffer_bytes: int) -> None:
        self._buffer_bytes = -(-max(buffer_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.chunks: list[Chunk] = []
        self._idle: deque[Place] = deque()  # append and pop are atomic: a finalizer may run inside any call
        self._empty: deque[Place] = deque()

    def take(self) -> tuple[Place, npt.NDArray[np.uint8]]:
        """A buffer, uint8 ``[buffer_bytes]``. It returns to the pool when the array and all that views it are gone."""
        try:
            place = self._idle.pop()
        except IndexError:
            if not self._empty:
                self._grow()
            place = self._empty.pop()
        chunk = self.chunks[place.chunk]
        array: npt.NDArray[np.uint8] = np.frombuffer(chunk.memory, np.uint8, self._buffer_bytes, place.offset)
        weakref.finalize(
            array, _give_back, self._idle, self._empty, place, chunk.memory, self._buffer_bytes
        ).atexit = False
        return place, array

    def _grow(self) -> None:
        count = max(1, CHUNK_BYTES // self._buffer_bytes)
        num_bytes = count * self._buffer_bytes
        fd = _shared_file(num_bytes)
        number = len(self.chunks)
        self.chunks.append(Chunk(number, fd, num_bytes, mmap.mmap(fd, num_bytes)))
        self._empty.extend(Place(number, i * self._buffer_bytes) for i in range(count))

    def close(self) -> None:
        """Closes the descriptors. Memory that a caller still views stays until the last view is gone."""
        for chunk in self.chunks:
            os.close(chunk.fd)
        self.chunks.clear()
        self._idle.clear()
        self._empty.clear()


def _shared_file(num_bytes: int) -> int:
    # memfd where there is one: /dev/shm is 64 MB in a default container.
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("gpuload")
    else:
        fd, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(fd, num_bytes)
    return fd


def _give_back(idle: "deque[Place]", empty: "deque[Place]", place: Place, memory: mmap.mmap, num_bytes: int) -> None:
    if len(idle) < MAX_IDLE or not hasattr(mmap, "MADV_REMOVE"):
        idle.append(place)
    else:
        memory.madvise(mmap.MADV_REMOVE, place.offset, num_bytes)
        empty.append(place)
