"""Unscaled conversion: every format, siting, matrix, rotation, crop, dtype and layout."""

import numpy as np
import pytest
import torch
from gpuload_kernels import reference
from gpuload_kernels.forms import Layout, Source, Target

from tests.kernels.exact import FORMATS, KR_KB, SITES, Components, Floats, noise, shaped
from tests.kernels.slots import Job, convert_one, run

ROUNDING = 0.5 + 1e-3  # of a level: to nearest, but for float32 rounding at ties
FLOAT32 = 2e-6


def reference_of(picture: Components, source: Source, target: Target) -> Floats:
    """The torch twin in float64."""
    planes = [torch.from_numpy(plane.view(np.int16 if plane.itemsize == 2 else np.uint8)) for plane in picture.planes()]
    slot = reference.convert(planes, source, target).to(torch.float64)
    return (slot if target.layout == "chw" else slot.permute(2, 0, 1)).numpy()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_as_its_components_say(name: str, device: torch.device) -> None:
    picture = noise(name, 33, 11)
    source, target = Source(name, 33, 11), Target(11, 33)
    exact = picture.rgb()
    assert np.abs(convert_one(device, source, target, Job(picture.planes())) - exact).max() <= ROUNDING
    in_floats = Target(11, 33, torch.float32)
    assert np.abs(reference_of(picture, source, in_floats) - exact / 255).max() <= 1e-7


@pytest.mark.parametrize("name", ["nv12", "nv21", "p010le", "yuv420p", "yuv422p10le", "yuv444p", "gray", "rgb24"])
@pytest.mark.parametrize(("width", "height"), [(160, 10), (32, 9)])
def test_aligned_planes_are_read_as_vectors_to_the_same_result(
    name: str, width: int, height: int, device: torch.device
) -> None:
    picture = noise(name, width, height)
    got = convert_one(device, Source(name, width, height), Target(height, width, torch.float32), Job(picture.planes()))
    assert np.abs(got - picture.rgb() / 255).max() <= FLOAT32


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("name", ["nv12", "p016le", "yuv422p10le"])
def test_any_window_of_aligned_planes(name: str, rotation: int, flip: bool, device: torch.device) -> None:
    # More rows than a program writes, and windows that begin and end everywhere within pairs and fours.
    picture = noise(name, 80, 70)
    source = Source(name, 80, 70, rotation=rotation, chroma_location=2)
    exact = shaped(picture.rgb(location=2), rotation=rotation)
    height, width = source.rotated_size
    target = Target(height - 9, width - 7, crop_height=height - 9, crop_width=width - 7)
    jobs = [Job(picture.planes(), crop=crop, flip=flip) for crop in ((0, 4), (1, 3), (8, 6))]
    for job, slot in zip(jobs, run(device, source, target, jobs), strict=True):
        expected = shaped(exact, crop=(*job.crop, height - 9, width - 7), flip=flip)
        assert np.abs(slot.numpy() - expected).max() <= ROUNDING


@pytest.mark.parametrize("offset", [0, 1])
def test_a_window_of_whole_tiles_may_begin_within_a_pair_and_a_four(offset: int, device: torch.device) -> None:
    picture = noise("nv12", 144, 66)  # programs write 64 x 128
    source, target = Source("nv12", 144, 66), Target(64, 128, crop_height=64, crop_width=128)
    for crop in ((1, 3), (2, 4)):
        (slot,) = run(device, source, target, [Job(picture.planes(), crop=crop)], offset=offset)
        assert np.abs(slot.numpy() - shaped(picture.rgb(), crop=(*crop, 64, 128))).max() <= ROUNDING


@pytest.mark.parametrize("location", [1, 2])
@pytest.mark.parametrize("name", ["nv12", "yuv422p10le"])
def test_an_odd_number_of_chroma_columns_in_aligned_rows(name: str, location: int, device: torch.device) -> None:
    picture = noise(name, 30, 8)
    planes = picture.planes()
    padded = tuple(np.pad(plane, ((0, 0), (0, 32 - plane.shape[1])), constant_values=7) for plane in planes)
    source = Source(name, 30, 8, chroma_location=location)
    got = convert_one(device, source, Target(8, 30, torch.float32), Job(padded))
    assert np.abs(got - picture.rgb(location=location) / 255).max() <= FLOAT32


@pytest.mark.parametrize("location", SITES)
@pytest.mark.parametrize("width", [32, 35])
@pytest.mark.parametrize("name", ["nv12", "yuv422p", "yuv440p"])
def test_chroma_lies_where_the_stream_says(name: str, width: int, location: int, device: torch.device) -> None:
    picture = noise(name, width, 9)
    source = Source(name, width, 9, chroma_location=location)
    got = convert_one(device, source, Target(9, width, torch.float32), Job(picture.planes()))
    exact = picture.rgb(location=location) / 255
    assert np.abs(got - exact).max() <= FLOAT32
    assert np.abs(reference_of(picture, source, Target(9, width, torch.float32)) - exact).max() <= 1e-7


@pytest.mark.parametrize(("location", "shift_x", "shift_y"), [(1, 0, -0.5), (2, -0.5, -0.5), (3, 0, 0), (5, 0, -1)])
def test_a_chroma_ramp_is_the_same_ramp_at_luma_positions(
    location: int, shift_x: float, shift_y: float, device: torch.device
) -> None:
    # V grows by 2 a chroma sample along x and 4 along y, so by 1 and 2 a luma sample: full range BT.709 red is
    # Y + 1.5748 (V - 128), and the ramp's origin lies where the first chroma sample does.
    width, height = 32, 12
    x, y = np.meshgrid(np.arange(width // 2), np.arange(height // 2))
    v = 100 + 2 * x + 4 * y
    picture = Components("nv12", (np.full((height, width), 120), np.full_like(v, 128), v))
    source = Source("nv12", width, height, 1, full_range=True, chroma_location=location)
    got = 255 * convert_one(device, source, Target(height, width, torch.float32), Job(picture.planes()))[0]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    ramp = 100 + 1 * (x + shift_x) + 2 * (y + shift_y)
    inside = np.s_[2:-2, 2:-2]
    assert np.abs(got - (120 + 1.5748 * (ramp - 128)))[inside].max() <= 1e-3


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [0, *KR_KB])
def test_every_matrix_inverts_its_forward_transform(matrix: int, full_range: bool, device: torch.device) -> None:
    for name in ("yuv444p", "p410le"):
        picture = noise(name, 33, 9)
        source = Source(name, 33, 9, matrix, full_range=full_range)
        got = convert_one(device, source, Target(9, 33, torch.float32), Job(picture.planes()))
        exact = picture.rgb(matrix=matrix, full_range=full_range) / 255
        assert np.abs(got - exact).max() <= FLOAT32
        assert np.abs(reference_of(picture, source, Target(9, 33, torch.float32)) - exact).max() <= 1e-7


def test_subsampled_matrix_0_is_bt709(device: torch.device) -> None:
    picture = noise("nv12", 32, 8)
    got = convert_one(device, Source("nv12", 32, 8, matrix=0), Target(8, 32, torch.float32), Job(picture.planes()))
    assert np.abs(got - picture.rgb(matrix=1) / 255).max() <= FLOAT32


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("layout", ["chw", "hwc"])
@pytest.mark.parametrize("name", ["nv12", "yuv420p10le"])
def test_rotation_comes_before_crop_and_crop_before_flip(
    name: str, layout: Layout, rotation: int, flip: bool, device: torch.device
) -> None:
    picture = noise(name, 34, 21)
    source = Source(name, 34, 21, rotation=rotation, chroma_location=2)
    target = Target(13, 17, torch.float32, layout, crop_height=13, crop_width=17)
    draw = np.random.default_rng(rotation)
    height, width = source.rotated_size
    for _ in range(2):
        top, left = int(draw.integers(0, height - 12)), int(draw.integers(0, width - 16))
        got = convert_one(device, source, target, Job(picture.planes(), crop=(top, left), flip=flip))
        exact = shaped(picture.rgb(location=2), rotation=rotation, crop=(top, left, 13, 17), flip=flip) / 255
        assert np.abs(got - exact).max() <= FLOAT32


@pytest.mark.parametrize("layout", ["chw", "hwc"])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, FLOAT32), (torch.float16, 2**-12), (torch.bfloat16, 2**-9)]
)
def test_floats_are_normalised_and_rounded_once(
    dtype: torch.dtype, bound: float, layout: Layout, device: torch.device
) -> None:
    if dtype == torch.bfloat16 and device.type == "cpu":
        bound *= 2  # Triton's interpreter truncates to bfloat16, where hardware rounds to nearest
    picture = noise("nv12", 32, 9)
    plain = convert_one(device, Source("nv12", 32, 9), Target(9, 32, dtype, layout), Job(picture.planes()))
    assert np.abs(plain - picture.rgb() / 255).max() <= bound + FLOAT32
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    target = Target(9, 32, dtype, layout, mean=mean, std=std)
    got = convert_one(device, Source("nv12", 32, 9), target, Job(picture.planes()))
    exact = (picture.rgb() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert (
        np.abs(got - exact).max() <= 4 * bound + 10 * FLOAT32
    )  # values reach beyond 2, where steps are 4 times as wide
    assert np.abs(reference_of(picture, Source("nv12", 32, 9), target) - exact).max() <= 4 * bound + 1e-6


def test_bytes_are_rounded_to_nearest_and_clamped(device: torch.device) -> None:
    ramp = np.arange(256).reshape(4, 64)
    gray = Components("gray10le", (ramp * 4 + 1,))
    assert np.array_equal(
        convert_one(device, Source("gray10le", 64, 4), Target(4, 64), Job(gray.planes()))[0],
        np.floor((ramp * 4 + 1) * 255 / 1023 + 0.5),
    )
    black_and_white = Components(
        "yuv444p", tuple(np.tile(row, (2, 1)) for row in ([0, 255, 0, 255], [0, 0, 255, 255], [255, 0, 0, 255]))
    )
    exact = black_and_white.rgb()
    assert (exact.min(), exact.max()) == (0, 255)
    got = convert_one(device, Source("yuv444p", 4, 2), Target(2, 4), Job(black_and_white.planes()))
    assert np.abs(got - exact).max() <= ROUNDING


@pytest.mark.parametrize("padding", [0, 8, 64])
@pytest.mark.parametrize("offset", [0, 4])
def test_one_launch_fills_many_slots_and_nothing_else(padding: int, offset: int, device: torch.device) -> None:
    pictures = [noise("p010le", 35, 10, seed=seed) for seed in range(3)]
    jobs = [
        Job(picture.planes(), crop=(number, 2 * number), flip=number == 1, padding=padding, offset=offset)
        for number, picture in enumerate(pictures)
    ]
    target = Target(7, 29, crop_height=7, crop_width=29)
    slots = run(device, Source("p010le", 35, 10), target, jobs, gap=41)
    for number, (picture, slot) in enumerate(zip(pictures, slots, strict=True)):
        exact = shaped(picture.rgb(), crop=(number, 2 * number, 7, 29), flip=number == 1)
        assert np.abs(slot.numpy() - exact).max() <= ROUNDING


def test_no_pictures_are_no_launch(device: torch.device) -> None:
    from gpuload_kernels.convert import launch

    launch(torch.empty((0, 10), dtype=torch.int64, device=device), source=Source("nv12", 8, 8), target=Target(8, 8))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_the_smallest_pictures_have_edges_everywhere(width: int, height: int, device: torch.device) -> None:
    for name in ("nv12", "yuv420p", "yuv422p10le"):
        picture = noise(name, width, height)
        for rotation in (0, 90):
            size = (height, width) if rotation == 0 else (width, height)
            source = Source(name, width, height, rotation=rotation, chroma_location=2)
            got = convert_one(device, source, Target(*size, torch.float32), Job(picture.planes()))
            assert np.abs(got - shaped(picture.rgb(location=2), rotation=rotation) / 255).max() <= FLOAT32
