"""A batch on its way, and where its slots lie in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuload.device.arena import Place
from gpuload.errors import GpuloadError
from gpuload.pipeline.handle import WorkerHandle
from gpuload.transform import SlotForm


@dataclass(slots=True, eq=False)
class Batch:
    """A batch on its way."""

    number: int
    samples: npt.NDArray[np.int64]
    place: Place | None = None
    buffer: npt.NDArray[np.uint8] | None = None
    sent_to: list[WorkerHandle] = field(default_factory=list)
    """Workers that wait for its buffer."""
    columns: dict[str, Any] = field(default_factory=dict)
    waiting: int = 1
    """Units not yet done, and one for the feeder."""
    error: GpuloadError | None = None


def layout(
    forms: Sequence[SlotForm], num_offsets: Sequence[int], batch_size: int
) -> tuple[list[int], npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Where fields lie in a batch buffer, each ``[B, T, …]`` of its form's slots, T being its ``num_offsets``.

    Returns ``(field offsets, [S] offset of row 0 of each slot column, [S] bytes from row to row, total bytes)``.
    """
    offsets: list[int] = []
    columns: list[int] = []
    rows: list[int] = []
    total = 0
    for form, count in zip(forms, num_offsets, strict=True):
        offsets.append(total)
        columns += [total + t * form.slot_bytes for t in range(count)]
        rows += [count * form.slot_bytes] * count
        total += -(-batch_size * count * form.slot_bytes // 64) * 64
    return offsets, np.array(columns, np.int64), np.array(rows, np.int64), total
