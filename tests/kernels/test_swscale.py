"""How far the kernel is from swscale, which the loader uses on the CPU, on smooth content."""

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gpuload_kernels.forms import Source, Target

from tests.kernels.slots import Job, convert_one

WIDTH, HEIGHT = 128, 96


def smooth_frame(name: str) -> av.VideoFrame:
    """A picture of slow colour changes, as an encoder would give it: converted from RGB by swscale."""
    x, y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    rgb = np.stack([x, y, 0.5 + 0.4 * np.sin(3 * x + 2 * y)], axis=-1)
    pixels = (40 + 170 * rgb).astype(np.uint8)
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=name)


def planes_of(frame: av.VideoFrame, dtype: type[np.generic]) -> tuple[npt.NDArray[np.generic], ...]:
    planes = []
    for number, plane in enumerate(frame.planes):
        rows = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)
        planes.append(rows[:, : plane.width * (2 if len(frame.planes) == 2 and number == 1 else 1)])
    return tuple(planes)


# Measured with FFmpeg 8 (PyAV 18.1), in levels of 255, on these pictures: mean 1.2 to 1.7, max 5 wherever chroma is
# subsampled. swscale's fast paths truncate (its results are darker by 0.5 to 2 levels on average) and repeat chroma.
# 4:4:4 goes through its exact path: mean 0.005, max 1, which says that it is not the kernel that is off.
@pytest.mark.parametrize(
    ("name", "mean_bound", "max_bound"),
    [
        ("yuv420p", 1.7, 5),
        ("nv12", 1.7, 5),
        ("yuv422p", 1.7, 5),
        ("yuvj420p", 1.7, 5),
        ("yuv420p10le", 1.7, 5),
        ("p010le", 1.7, 5),
        ("yuv444p", 0.02, 1),
    ],
)
def test_swscale_differs_by_its_own_truncation(
    name: str, mean_bound: float, max_bound: float, device: torch.device
) -> None:
    frame = smooth_frame(name)
    theirs = frame.reformat(format="rgb24").to_ndarray().transpose(2, 0, 1).astype(np.float64)
    planes = planes_of(frame, np.uint16 if name.endswith("le") else np.uint8)
    ours = convert_one(device, Source(name, WIDTH, HEIGHT), Target(HEIGHT, WIDTH), Job(planes))
    error = np.abs(ours - theirs)
    assert error.mean() <= mean_bound
    assert error.max() <= max_bound
