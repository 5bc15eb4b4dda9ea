"""Scaled conversion against torch's antialiased interpolation in float64."""

import numpy as np
import pytest
import torch
from gpuload_kernels import reference
from gpuload_kernels.forms import Layout, Source, Target

from tests.kernels.exact import Components, noise, shaped
from tests.kernels.slots import Job, convert_one, run

CLOSE = 1e-3  # of white; weights and colours are half floats
SIZES = [(11, 17), (7, 40), (53, 19), (50, 71), (3, 3), (1, 1), (22, 90)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["nv12", "yuv420p10le", "rgb24", "gray"])
def test_any_scale_is_antialiased_bilinear(name: str, size: tuple[int, int], device: torch.device) -> None:
    picture = noise(name, 34, 22)
    source, target = Source(name, 34, 22, 1), Target(*size, torch.float32)
    exact = shaped(picture.rgb(matrix=1), size=size) / 255
    assert np.abs(convert_one(device, source, target, Job(picture.planes())) - exact).max() <= CLOSE
    planes = [torch.from_numpy(plane.view(np.int16 if plane.itemsize == 2 else np.uint8)) for plane in picture.planes()]
    assert np.abs(reference.convert(planes, source, target).numpy() - exact).max() <= 1e-6


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("layout", ["chw", "hwc"])
def test_windows_are_resized_as_if_the_rest_were_not_there(
    layout: Layout, rotation: int, flip: bool, device: torch.device
) -> None:
    picture = noise("nv12", 45, 33)
    source = Source("nv12", 45, 33, rotation=rotation, chroma_location=2)
    target = Target(12, 25, torch.float32, layout, crop_height=27, crop_width=21)
    draw = np.random.default_rng(rotation + flip)
    height, width = source.rotated_size
    crop = int(draw.integers(0, height - 26)), int(draw.integers(0, width - 20))
    got = convert_one(device, source, target, Job(picture.planes(), crop=crop, flip=flip))
    exact = shaped(picture.rgb(location=2), rotation=rotation, crop=(*crop, 27, 21), size=(12, 25), flip=flip) / 255
    assert np.abs(got - exact).max() <= CLOSE


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("name", "location"), [("nv12", 1), ("nv12", 2), ("p010le", 3), ("yuv420p", 5)])
def test_windows_of_aligned_planes(name: str, location: int, flip: bool, device: torch.device) -> None:
    picture = noise(name, 160, 50)
    source = Source(name, 160, 50, chroma_location=location)
    target = Target(19, 40, torch.float32, crop_height=41, crop_width=149)
    jobs = [Job(picture.planes(), crop=crop, flip=flip) for crop in ((0, 8), (3, 5))]
    for job, slot in zip(jobs, run(device, source, target, jobs), strict=True):
        exact = shaped(picture.rgb(location=location), crop=(*job.crop, 41, 149), size=(19, 40), flip=flip) / 255
        assert np.abs(slot.numpy() - exact).max() <= CLOSE


def test_a_large_reduction_takes_many_steps(device: torch.device) -> None:
    picture = noise("nv12", 301, 130)
    got = convert_one(device, Source("nv12", 301, 130), Target(7, 9, torch.float32), Job(picture.planes()))
    assert np.abs(got - shaped(picture.rgb(), size=(7, 9)) / 255).max() <= CLOSE


def test_outputs_larger_than_a_tile_join_without_a_seam(device: torch.device) -> None:
    picture = noise("yuv420p", 60, 50)
    got = convert_one(device, Source("yuv420p", 60, 50), Target(37, 70, torch.float32), Job(picture.planes()))
    assert np.abs(got - shaped(picture.rgb(), size=(37, 70)) / 255).max() <= CLOSE


@pytest.mark.parametrize(("rows", "out_rows"), [(35, 17), (135, 68)])
def test_the_last_pixel_of_a_support_counts_though_a_step_ends_before_it(
    rows: int, out_rows: int, device: torch.device
) -> None:
    # Tiles are 16 x 32 outputs, steps 16 x 64 pixels: the first tile's support ends with row 33 or 32, column 64.
    picture = noise("gray", 67, rows)
    got = convert_one(device, Source("gray", 67, rows), Target(out_rows, 33, torch.float32), Job(picture.planes()))
    assert np.abs(got - shaped(picture.rgb(), size=(out_rows, 33)) / 255).max() <= CLOSE


@pytest.mark.parametrize("code", [0, 16, 77, 128, 201, 255])
def test_a_flat_picture_keeps_its_value(code: int, device: torch.device) -> None:
    flat = Components("gray", (np.full((90, 70), code),))
    for size in ((11, 13), (100, 90)):
        got = convert_one(device, Source("gray", 70, 90), Target(*size, torch.float32), Job(flat.planes()))
        assert np.abs(got - code / 255).max() <= 1e-4


def test_colours_are_clamped_before_they_are_mixed(device: torch.device) -> None:
    # Columns of 16 - 16 and 16 + 32 around black: clamped first, their mean is 18.63, not 9.3.
    columns = np.tile([0, 48], (16, 16))
    picture = Components("yuv444p", (columns, np.full_like(columns, 128), np.full_like(columns, 128)))
    got = convert_one(device, Source("yuv444p", 32, 16), Target(16, 4, torch.float32), Job(picture.planes()))
    assert np.abs(255 * got[:, :, 1:-1] - 32 * 255 / 219 / 2).max() <= 0.3


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(torch.uint8, 0.5 / 255 + CLOSE), (torch.float16, 2**-12 + CLOSE), (torch.bfloat16, 2**-8 + CLOSE)],
)
def test_several_slots_of_every_dtype(dtype: torch.dtype, bound: float, device: torch.device) -> None:
    pictures = [noise("nv12", 47, 29, seed=seed) for seed in range(2)]
    jobs = [Job(picture.planes(), crop=(3 * n, 5 * n), flip=n == 1, padding=18) for n, picture in enumerate(pictures)]
    target = Target(15, 15, dtype, crop_height=26, crop_width=42)
    slots = run(device, Source("nv12", 47, 29), target, jobs, gap=40)
    for n, (picture, slot) in enumerate(zip(pictures, slots, strict=True)):
        exact = shaped(picture.rgb(), crop=(3 * n, 5 * n, 26, 42), size=(15, 15), flip=n == 1) / 255
        got = slot.to(torch.float64).numpy() / (255 if dtype == torch.uint8 else 1)
        assert np.abs(got - exact).max() <= bound
