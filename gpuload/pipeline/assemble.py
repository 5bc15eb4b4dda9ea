"""A batch on its way, and where its slots lie in memory."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuload.device.arena import Place
from gpuload.errors import GpuloadError
from gpuload.pipeline.handle import WorkerHandle
from gpuload.sources.base import SampleSource


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
    source: SampleSource, batch_size: int
) -> tuple[list[int], npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Where fields lie in a batch buffer.

    Returns ``(field offsets, [S] offset of row 0 of each slot column, [S] bytes from row to row, total bytes)``.
    """
    offsets: list[int] = []
    columns: list[int] = []
    rows: list[int] = []
    total = 0
    for f in source.video_fields:
        offsets.append(total)
        columns += [total + t * f.frame_bytes for t in range(f.num_offsets)]
        rows += [f.num_offsets * f.frame_bytes] * f.num_offsets
        total += -(-batch_size * f.num_offsets * f.frame_bytes // 64) * 64
    return offsets, np.array(columns, np.int64), np.array(rows, np.int64), total
