"""Planes and slots in the device's memory, with guards around them, and a launch over them."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from gpuload_kernels.convert import launch
from gpuload_kernels.forms import Source, Target

GUARD = 0xA5


@dataclass
class Job:
    """One picture for one slot."""

    planes: tuple[npt.NDArray[np.generic], ...]
    crop: tuple[int, int] = (0, 0)
    flip: bool = False
    padding: int = 0
    """Bytes of noise after each row, so that strides are larger than the width."""
    offset: int = 0
    """Bytes before each plane, so that addresses are not aligned."""
    buffers: list[torch.Tensor] = field(default_factory=list)

    def entry(self, device: torch.device, slot: int) -> list[int]:
        """A row of the pointer table."""
        addresses, strides = [0, 0, 0], [0, 0, 0]
        for number, plane in enumerate(self.planes):
            rows = np.ascontiguousarray(plane).view(np.uint8)
            padded = np.full((len(rows), rows.shape[1] + self.padding), 0x5A, np.uint8)
            padded[:, : rows.shape[1]] = rows
            buffer = torch.cat([torch.zeros(self.offset, dtype=torch.uint8), torch.from_numpy(padded).flatten()])
            self.buffers.append(buffer.to(device))
            assert self.buffers[-1].data_ptr() % 16 == 0, "planes must be aligned unless a job says otherwise"
            addresses[number] = self.buffers[-1].data_ptr() + self.offset
            strides[number] = padded.shape[1]
        return [*addresses, *strides, slot, *self.crop, int(self.flip)]


def run(
    device: torch.device, source: Source, target: Target, jobs: list[Job], *, gap: int = 64, offset: int = 0
) -> list[torch.Tensor]:
    """Converts, and checks that nothing but the slots was written; the slots on the CPU. They begin ``offset`` bytes
    behind multiples of 16."""
    size = int(np.prod(target.shape)) * target.dtype.itemsize
    step = -(-(size + gap) // 16) * 16
    memory = torch.full((gap // 16 * 16 + offset + step * len(jobs),), GUARD, dtype=torch.uint8, device=device)
    starts = [gap // 16 * 16 + offset + step * number for number in range(len(jobs))]
    table = torch.tensor(
        [job.entry(device, memory.data_ptr() + start) for job, start in zip(jobs, starts, strict=True)]
    )
    launch(table.to(device), source=source, target=target)
    memory = memory.cpu()
    slots = []
    for start in starts:
        slots.append(memory[start : start + size].clone().view(target.dtype).reshape(target.shape))
        memory[start : start + size] = GUARD
    assert (memory == GUARD).all(), "the kernel wrote outside of its slots"
    return slots


def convert_one(device: torch.device, source: Source, target: Target, job: Job) -> npt.NDArray[np.float64]:
    """One picture, as float64 ``[3, H, W]``."""
    (slot,) = run(device, source, target, [job])
    values = slot.to(torch.float64)
    return (values if target.layout == "chw" else values.permute(2, 0, 1)).numpy()
