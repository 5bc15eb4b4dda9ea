"""Planes that came from host memory, kept in device memory until the last batch that shows them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch

from gpuload.errors import DecodeError, GpuloadError
from gpuload.picture import PictureForm

SLAB_BYTES = 32 << 20
"""Pictures of one size share allocations of at least one picture: thousands of small ones would take Python's time."""


class Staying(NamedTuple):
    """A picture that crosses with one batch and is shown by later ones."""

    name: int
    offset: int
    """Where it lies among its batch's planes. Those of one size lie side by side, and follow each other in lists."""
    num_bytes: int
    batches: int
    """How many batches later the last one shows it."""


@dataclass(slots=True, eq=False)
class _Slab:
    memory: torch.Tensor
    """uint8 ``[places, bytes of a picture]``."""
    free: list[int]


class KeptPlanes:
    """Pictures in device memory by name, or why they are lost. Copies go to the stream that is current, and a place is
    used again by later ones: whatever reads a picture has to be given to the same stream. Not thread-safe."""

    def __init__(self, device: torch.device, slab_bytes: int = SLAB_BYTES) -> None:
        self._device, self._slab_bytes = device, slab_bytes
        self._slabs: dict[int, list[_Slab]] = defaultdict(list)
        self._place: dict[int, tuple[PictureForm, _Slab, int]] = {}
        self._lost: dict[int, GpuloadError] = {}
        self._until: dict[int, list[int]] = defaultdict(list)
        """Number of a batch -> pictures that no later one shows."""
        self.num_bytes = 0
        """Of the pictures; slabs that are not full take more. May be read from any thread."""

    def put(self, batch: int, planes: torch.Tensor, staying: Sequence[tuple[Staying, PictureForm]]) -> None:
        """Copies pictures out of the planes of a batch, uint8 ``[n]`` on the device; one that is known already is
        replaced."""
        for size, group in groupby(staying, lambda one: one[0].num_bytes):
            pictures = list(group)
            for picture, _ in pictures:
                self._drop(picture.name)
            begin = pictures[0][0].offset
            rows = planes[begin : pictures[-1][0].offset + size].view(-1, size)
            while pictures:
                slab = self._slab(size)
                places = slab.free[-len(pictures) :]
                copied, pictures = pictures[: len(places)], pictures[len(places) :]
                copy_rows(rows, [(picture.offset - begin) // size for picture, _ in copied], slab.memory, places)
                del slab.free[-len(places) :]  # not before: there may be no memory to copy with
                self.num_bytes += len(places) * size
                for place, (picture, form) in zip(places, copied, strict=True):
                    self._place[picture.name] = form, slab, place
                    self._until[batch + picture.batches].append(picture.name)

    def lose(self, batch: int, picture: Staying, error: GpuloadError) -> None:
        """Later batches get the error instead of a picture of this batch."""
        self._drop(picture.name)
        self._lost[picture.name] = error
        self._until[batch + picture.batches].append(picture.name)

    def __contains__(self, name: int) -> bool:
        return name in self._place or name in self._lost

    def find(self, name: int) -> tuple[PictureForm, int]:
        """Form and address of a picture.

        Raises:
            GpuloadError: why it is lost.
        """
        if name not in self._place:
            raise self._lost.get(name, DecodeError("a picture was lost with an earlier batch")).anew()
        form, slab, place = self._place[name]
        return form, slab.memory.data_ptr() + place * slab.memory.shape[1]

    def end(self, batch: int) -> None:
        """Drops what no batch after this one shows."""
        for number in [number for number in self._until if number <= batch]:
            for name in self._until.pop(number):
                self._drop(name)

    def clear(self) -> None:
        """Drops everything."""
        self._slabs.clear()
        self._place.clear()
        self._lost.clear()
        self._until.clear()
        self.num_bytes = 0

    def _slab(self, size: int) -> _Slab:
        """One with room for a picture at least."""
        slabs = self._slabs[size]
        for slab in slabs:
            if slab.free:
                return slab
        places = max(1, self._slab_bytes // size)
        slabs.append(_Slab(torch.empty((places, size), dtype=torch.uint8, device=self._device), list(range(places))))
        return slabs[-1]

    def _drop(self, name: int) -> None:
        self._lost.pop(name, None)
        if name not in self._place:
            return
        _, slab, place = self._place.pop(name)
        slab.free.append(place)
        size = slab.memory.shape[1]
        self.num_bytes -= size
        if len(slab.free) == len(slab.memory):
            self._slabs[size].remove(slab)


def copy_rows(source: torch.Tensor, from_rows: list[int], target: torch.Tensor, to_rows: list[int]) -> None:
    """``target[to_rows] = source[from_rows]`` on their device, which is not waited for."""
    reads, writes = (
        torch.tensor(rows, dtype=torch.int64).to(target.device, non_blocking=True) for rows in (from_rows, to_rows)
    )
    target.index_copy_(0, writes, source.index_select(0, reads))
