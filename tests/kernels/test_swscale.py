"""How far the kernel is from swscale, which the loader uses on the CPU, on smooth content."""

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gpuload_kernels.forms import Source, Target

from gpuload.device.triton import DepthTables, convert_pictures
from gpuload.errors import DecodeError
from gpuload.picture import PictureForm
from gpuload.transform import slot_form
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


# 0 is RGB, which subsampled samples cannot be; in 4:4:4 NVDEC's planes are G, B, R then, and FFmpeg's are called gbrp.
@pytest.mark.parametrize(
    ("name", "matrix", "max_bound"),
    [*(("yuv420p", matrix, 6) for matrix in range(18)), *(("yuv444p", matrix, 2) for matrix in range(1, 18))],
)
def test_matrices_are_taken_or_refused_as_by_swscale(
    name: str, matrix: int, max_bound: float, device: torch.device
) -> None:
    frame = smooth_frame(name)
    frame.colorspace = matrix
    planes = [torch.from_numpy(plane.copy()).to(device) for plane in planes_of(frame, np.uint8)]
    slot = torch.zeros((3, HEIGHT, WIDTH), dtype=torch.uint8, device=device)
    addresses = [plane.data_ptr() for plane in planes]
    row = [*addresses, *(plane.stride(0) for plane in planes), slot.data_ptr(), 0, 0, 0]
    table = torch.tensor([row], dtype=torch.int64, device=device)
    form = PictureForm(name, WIDTH, HEIGHT, matrix=matrix, full_range=False, chroma_location=0)
    target = slot_form(None, key="camera", channels=3, height=HEIGHT, width=WIDTH, dtype="uint8")
    try:
        theirs = frame.to_ndarray(format="rgb24").transpose(2, 0, 1).astype(int)
    except OSError:
        with pytest.raises(DecodeError, match=f"matrix {matrix}"):
            convert_pictures(table, form, target, DepthTables(device))
    else:
        convert_pictures(table, form, target, DepthTables(device))
        assert np.abs(slot.cpu().numpy().astype(int) - theirs).max() <= max_bound
