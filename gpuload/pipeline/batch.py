"""A batch on its way, and where its slots lie in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gpuload.device.arena import BatchPool, Place
from gpuload.device.kept import Staying
from gpuload.errors import GpuloadError
from gpuload.pipeline.work import DecodeWorker, Found
from gpuload.transform import SlotForm


@dataclass(slots=True, eq=False)
class Staged:
    """What fills the slots of one batch that is finished on a device. Arrays are ``[n, S]``, as the samples' slots."""

    picture: npt.NDArray[np.int64]
    """Names of the pictures; -1: no frame."""
    view: npt.NDArray[np.int64]
    room: int
    """Bytes of the staging buffer, if all of them were decoded in host memory."""
    num_bytes: int = 0
    """Of it that are used."""
    offset: dict[int, int] = field(default_factory=dict)
    """Where each picture that crosses with this batch lies in the staging buffer."""
    staying: list[Staying] = field(default_factory=list)
    """Those of them that later batches show."""
    found: dict[int, Found] = field(default_factory=dict)
    """What became of each picture that a worker was asked for."""


@dataclass(slots=True, eq=False)
class Batch:
    """A batch on its way."""

    number: int
    samples: npt.NDArray[np.int64]
    place: Place | None = None
    buffer: npt.NDArray[np.uint8] | None = None
    num_bytes: int = 0
    """Of the buffer that it needs."""
    sent_to: list[DecodeWorker] = field(default_factory=list)
    """Workers that wait for its buffer."""
    columns: dict[str, Any] = field(default_factory=dict)
    distinct: int = 0
    """Frames that no earlier batch of the epoch had."""
    waiting: int = 1
    """Countdown: units that are pending, 1 while it is planned, 1 if a device finishes it."""
    error: GpuloadError | None = None
    staged: Staged | None = None
    memory: torch.Tensor | None = None
    """uint8, all slots, where a device made them; None on the CPU, where they lie in ``buffer``."""
    ready: torch.cuda.Event | None = None
    """Reading waits for it."""

    def give_buffer(self, pool: BatchPool) -> None:
        """Takes a buffer and starts the units that were sent for it."""
        if self.place is None:
            self.place, self.buffer = pool.take(self.num_bytes)
        while self.sent_to:  # an interrupt in between leaves those that have not been told
            worker = self.sent_to[0]
            worker.go(self.number, pool.chunks[self.place.chunk], self.place.offset)
            self.sent_to = [other for other in self.sent_to if other is not worker]


class Layout:
    """Where the slots of a batch lie in its memory: fields behind each other, each ``[B, T, …]`` of its form's slots,
    T being its ``num_offsets``. Slot columns (S in all) are the offsets of all fields in order."""

    def __init__(self, forms: Sequence[SlotForm], num_offsets: Sequence[int], batch_size: int) -> None:
        self.field_of_column: npt.NDArray[np.int64] = np.repeat(np.arange(len(forms)), num_offsets)
        self.field_offsets: list[int] = []
        columns: list[int] = []
        rows: list[int] = []
        total = 0
        for form, count in zip(forms, num_offsets, strict=True):
            self.field_offsets.append(total)
            columns += [total + t * form.slot_bytes for t in range(count)]
            rows += [count * form.slot_bytes] * count
            total += -(-batch_size * count * form.slot_bytes // 64) * 64
        self.num_bytes = total
        self._columns, self._rows = np.array(columns, np.int64), np.array(rows, np.int64)

    @property
    def num_columns(self) -> int:
        """S."""
        return len(self.field_of_column)

    def places(self, count: int) -> npt.NDArray[np.int64]:
        """Byte offsets of the slots of ``count`` samples: ``[count, S]``."""
        places: npt.NDArray[np.int64] = self._columns + np.arange(count)[:, None] * self._rows
        return places
