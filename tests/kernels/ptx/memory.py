"""Global and shared memory of a simulated GPU, which refuse what a GPU would not do or what no kernel should do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]


class Fault(Exception):
    """An access or a branch that a kernel must not make."""


@dataclass(frozen=True, slots=True)
class Segment:
    """An allocation at the address ``base``."""

    name: str
    base: int
    data: Bytes
    readable: Flags
    """Which bytes may be read: a row's padding may not."""
    is_writable: bool = False
    """Every byte once."""


class GlobalMemory:
    """Segments with nothing between them.

    Addresses are int64 ``[threads]``, of threads that take part; data is uint8 ``[threads, bytes]``.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = sorted(segments, key=lambda segment: segment.base)
        sizes = np.array([len(segment.data) for segment in self._segments])
        self._bases = np.array([segment.base for segment in self._segments])
        self._ends = self._bases + sizes
        # All bytes lie in one array: an access by threads to different segments is then one indexing.
        self._starts = np.cumsum(sizes) - sizes
        self._data = np.concatenate([segment.data for segment in self._segments])
        self._readable = np.concatenate([segment.readable for segment in self._segments])
        self._writable = np.repeat([segment.is_writable for segment in self._segments], sizes)
        self._written = np.zeros(len(self._data), np.bool_)

    def read(self, addresses: Array, size: int) -> Bytes:
        """Copies.

        Raises:
            Fault: misaligned, out of bounds, or of bytes that may not be read.
        """
        places = self._places(addresses, size, "load")
        self._require(self._readable[places].all(1), addresses, f"load of {size} bytes that may not be read")
        return self._data[places]

    def write(self, addresses: Array, data: Bytes) -> None:
        """Stores.

        Raises:
            Fault: misaligned, out of bounds, of bytes that may not be written, or that were written before.
        """
        size = data.shape[1]
        places = self._places(addresses, size, "store")
        self._require(self._writable[places].all(1), addresses, f"store of {size} bytes that may not be written")
        self._require(~self._written[places].any(1), addresses, f"second store of {size} bytes")
        first = np.zeros(places.size, np.bool_)
        first[np.unique(places.ravel(), return_index=True)[1]] = True
        self._require(first.reshape(places.shape).all(1), addresses, f"store of {size} bytes by two threads")
        self._written[places] = True
        self._data[places] = data

    def content(self, name: str) -> tuple[Bytes, Flags]:
        """Bytes of a segment, and which of them were written."""
        (index,) = (number for number, segment in enumerate(self._segments) if segment.name == name)
        extent = slice(self._starts[index], self._starts[index] + len(self._segments[index].data))
        return self._data[extent].copy(), self._written[extent].copy()

    def _places(self, addresses: Array, size: int, verb: str) -> Array:
        """Indices ``[threads, size]`` into the array of all bytes."""
        self._require(addresses % size == 0, addresses, f"misaligned {verb} of {size} bytes")
        index = np.searchsorted(self._bases, addresses, side="right") - 1
        is_inside = (index >= 0) & (addresses + size <= self._ends[index])
        self._require(is_inside, addresses, f"{verb} of {size} bytes out of bounds")
        first = addresses - self._bases[index] + self._starts[index]
        places: Array = first[:, None] + np.arange(size)
        return places

    def _require(self, holds: Flags | np.bool_, addresses: Array, complaint: str) -> None:
        if holds.all():
            return
        address = int(addresses[~holds][0])
        near = min(self._segments, key=lambda segment: _distance(segment, address))
        raise Fault(f"{complaint} at {near.name}{address - near.base:+d} ({len(near.data)} bytes at {near.base:#x})")


class SharedMemory:
    """Shared memory of one block; takes addresses and data as ``GlobalMemory``.

    It holds arbitrary bytes at first. That no barrier is missing is not checked: threads run in lockstep.
    """

    def __init__(self, size: int, draw: np.random.Generator) -> None:
        self._data = draw.integers(0, 256, size, np.uint8)

    def read(self, addresses: Array, size: int) -> Bytes:
        """Copies.

        Raises:
            Fault: misaligned or out of bounds.
        """
        return self._data[self._places(addresses, size)]

    def write(self, addresses: Array, data: Bytes) -> None:
        """Stores.

        Raises:
            Fault: misaligned or out of bounds.
        """
        self._data[self._places(addresses, data.shape[1])] = data

    def _places(self, addresses: Array, size: int) -> Array:
        if (addresses % size != 0).any():
            raise Fault(f"misaligned access to {size} shared bytes at {addresses[addresses % size != 0][0]}")
        is_outside = (addresses < 0) | (addresses + size > len(self._data))
        if is_outside.any():
            raise Fault(f"access to {size} shared bytes at {addresses[is_outside][0]} of {len(self._data)}")
        places: Array = addresses[:, None] + np.arange(size)
        return places


def _distance(segment: Segment, address: int) -> int:
    return max(segment.base - address, address - segment.base - len(segment.data), 0)
