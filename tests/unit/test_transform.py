"""Transform on the CPU against float64 maths by torch, and the laws of its random parts."""

from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch

from gpuload import ConfigError, Crop, Transform
from gpuload.device import libswscale
from gpuload.device.resize import Resizer, bilinear_weights
from gpuload.device.swscale import SwscaleConverter
from gpuload.errors import DecodeError
from gpuload.transform import DTYPES, SlotForm, draw_views, slot_form, transforms_of, unpack_view

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAMPLES = np.arange(20_000, dtype=np.int64)


def noise(width: int, height: int, form: str = "yuv420p") -> av.VideoFrame:
    frame = av.VideoFrame(width, height, form)
    rng = np.random.default_rng(width * height)
    for plane in frame.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    return frame


def form_of(transform: Transform | None, height: int, width: int, dtype: str = "uint8") -> SlotForm:
    return slot_form(transform, key="camera", channels=3, height=height, width=width, dtype=dtype)


def scaled(rgb: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.float64]:
    """float64 ``[3, height, width]`` levels, by torch."""
    if width == 1 < height:  # torch 2.15 is up to 30 levels off where the result is one column, not where it is one row
        return scaled(rgb.transpose(0, 2, 1), width, height).transpose(0, 2, 1)
    pictures = torch.from_numpy(np.ascontiguousarray(rgb))[None].double()
    result = torch.nn.functional.interpolate(pictures, (height, width), mode="bilinear", antialias=True)[0]
    return np.asarray(result.numpy(), np.float64)


def converted(frame: av.VideoFrame, form: SlotForm, view: int = 0, rotation: int = 0) -> npt.NDArray[Any]:
    slot = np.zeros(form.shape, DTYPES[form.dtype])
    SwscaleConverter().convert(frame, slot, rotation, form, view)
    if form.dtype == "bfloat16":
        return torch.from_numpy(slot.view(np.int16)).view(torch.bfloat16).float().numpy()
    return slot


def rgb_of(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((96, 128), (33, 47)),
        ((100, 64), (50, 64)),
        ((50, 64), (50, 31)),
        ((99, 101), (99, 17)),
        ((480, 640), (224, 224)),
        ((720, 1280), (45, 81)),
        ((720, 90), (5, 45)),
    ],
)
def test_a_reduced_picture_is_within_a_level(before: tuple[int, int], after: tuple[int, int]) -> None:
    frame = noise(before[1], before[0])
    result = converted(frame, form_of(Transform(resize=after), *before))
    assert np.abs(result - scaled(rgb_of(frame), *after)).max() <= 1.0


@pytest.mark.parametrize(
    ("before", "after", "most"),
    [
        ((480, 640), (369, 492), 1.5),
        ((599, 675), (400, 519), 1.5),
        ((876, 690), (709, 675), 3),
        ((48, 64), (97, 90), 3),
    ],
)
def test_what_hardly_shrinks_or_grows_is_as_near_as_the_docstring_says(
    before: tuple[int, int], after: tuple[int, int], most: float
) -> None:
    for seed in range(4):
        planes = np.random.default_rng(seed).integers(0, 2, (3, *before)).astype(np.uint8) * 255
        assert np.abs(Resizer(before, after).resize(planes) - scaled(planes, *after)).max() <= most


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((480, 640), (224, 224)),
        ((16, 64), (1, 20)),
        ((64, 16), (20, 1)),
        ((16, 12), (1, 1)),
        ((5, 160), (4, 10)),
        ((9, 40), (2, 80)),
        ((40, 9), (80, 2)),
        ((40, 64), (40, 31)),
    ],
)
def test_the_outermost_rows_and_columns_of_what_shrinks_are_exact(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    resizer = Resizer(before, after)
    for seed in range(3):  # what one picture leaves behind must not show in the next
        planes = np.random.default_rng(seed).integers(0, 256, (3, *before)).astype(np.uint8)
        error = np.abs(resizer.resize(planes) - scaled(planes, *after))
        if after[0] < before[0]:
            assert error[:, [0, -1]].max() <= 0.51
        if after[1] < before[1]:
            assert error[:, :, [0, -1]].max() <= 0.51


@pytest.mark.parametrize(
    ("before", "after"),
    [((130, 254), (60, 97)), ((130, 254), (131, 255)), ((275, 126), (41, 17)), ((413, 729), (29, 90))],
)
def test_a_flat_picture_stays_as_it_is(before: tuple[int, int], after: tuple[int, int]) -> None:
    resizer = Resizer(before, after)
    for level in range(256):
        assert (resizer.resize(np.full((3, *before), level, np.uint8)) == level).all()


@pytest.mark.parametrize(("before", "after"), [((48, 64), (97, 100)), ((48, 64), (48, 200)), ((64, 64), (65, 40))])
def test_an_enlarged_picture_is_within_two_levels(before: tuple[int, int], after: tuple[int, int]) -> None:
    frame = noise(before[1], before[0])
    result = converted(frame, form_of(Transform(resize=after), *before))
    assert np.abs(result - scaled(rgb_of(frame), *after)).max() <= 2.0


def test_without_a_library_to_call_the_resize_is_as_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, 50, 70), np.uint8)
    monkeypatch.setattr(libswscale, "_libraries", lambda: None)
    result = Resizer((50, 70), (31, 90)).resize(planes)
    assert np.abs(result - scaled(planes, 31, 90)).max() <= 0.51


@pytest.mark.parametrize(("before", "after"), [(10, 3), (3, 10), (7, 7), (100, 99)])
def test_weights_are_those_of_interpolate(before: int, after: int) -> None:
    impulses = torch.eye(before, dtype=torch.float64)[:, None, None]
    columns = torch.nn.functional.interpolate(impulses, (1, after), mode="bilinear", antialias=True)[:, 0, 0]
    assert np.allclose(bilinear_weights(before, after), columns.numpy().T, atol=1e-12)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("layout", ["chw", "hwc"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32"])
def test_rotate_crop_resize_flip_normalize_cast_in_this_order(rotation: int, layout: Any, dtype: str) -> None:
    frame = noise(96, 64)
    shown = np.rot90(rgb_of(frame), rotation // 90, axes=(1, 2))
    normalize = None if dtype == "uint8" else (MEAN, STD)
    transform = Transform((20, 30), Crop(40, 50, (5, 7)), True, normalize, dtype, layout)
    form = form_of(transform, *shown.shape[1:])
    (view,) = draw_views(transform, form, np.array([3]), seed=0, epoch=0).tolist()
    expected = scaled(shown[:, 5:45, 7:57], 20, 30)[:, :, ::-1]
    tolerance = 1.0
    if normalize:
        expected = (expected / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
        tolerance = 1 / 255 / min(STD) + {"float16": 2e-3, "bfloat16": 1e-2, "float32": 1e-6}[dtype]
    result = converted(frame, form, view, rotation)
    assert np.abs((result if layout == "chw" else result.transpose(2, 0, 1)) - expected).max() <= tolerance


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_floats_are_the_nearest(dtype: str) -> None:
    frame = noise(64, 48)
    expected = torch.from_numpy(rgb_of(frame).copy()).double().div(255).to(getattr(torch, dtype)).float()
    assert np.array_equal(converted(frame, form_of(Transform(dtype=dtype), 48, 64)), expected.numpy())


def test_a_crop_alone_gives_the_very_pixels() -> None:
    frame = noise(96, 64)
    transform = Transform(crop=(30, 40), flip=True)
    form = form_of(transform, 64, 96)
    (view,) = draw_views(transform, form, np.array([0]), seed=0, epoch=0).tolist()
    assert np.array_equal(converted(frame, form, view), rgb_of(frame)[:, 17:47, 28:68][:, :, ::-1])


def test_odd_and_deep_pictures_are_transformed_too() -> None:
    for frame in (noise(97, 63), noise(64, 48, "yuv420p10le"), noise(64, 48, "yuv444p")):
        form = form_of(Transform(resize=(20, 31)), frame.height, frame.width)
        assert np.abs(converted(frame, form) - scaled(rgb_of(frame), 20, 31)).max() <= 1.0


def test_random_crops_reach_every_place_and_flips_have_their_probability() -> None:
    transform = Transform(crop=Crop(60, 90, "random"), flip=0.25)
    views = draw_views(transform, form_of(transform, 64, 96), SAMPLES, seed=1, epoch=2).tolist()
    tops, lefts, flips = zip(*map(unpack_view, views), strict=True)
    for drawn, count in ((tops, 5), (lefts, 7)):
        values, counts = np.unique(drawn, return_counts=True)
        assert values.tolist() == list(range(count))
        assert np.abs(counts / len(SAMPLES) - 1 / count).max() < 0.01
    assert abs(np.mean(flips) - 0.25) < 0.01
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.03
    assert abs(np.corrcoef(tops, flips)[0, 1]) < 0.03


def test_a_draw_depends_on_seed_epoch_sample_and_camera_only() -> None:
    transform = Transform(crop=Crop(20, 20, "random"), flip=0.5)
    form = form_of(transform, 64, 96)
    views = draw_views(transform, form, SAMPLES, seed=1, epoch=2)
    assert np.array_equal(draw_views(transform, form, SAMPLES[::-1], seed=1, epoch=2), views[::-1])
    other = slot_form(transform, key="other", channels=3, height=64, width=96, dtype="uint8")
    for changed in (
        draw_views(transform, form, SAMPLES, seed=2, epoch=2),
        draw_views(transform, form, SAMPLES, seed=1, epoch=1),
        draw_views(transform, other, SAMPLES, seed=1, epoch=2),
    ):
        assert (changed == views).mean() < 0.01
    shared = Transform(crop=Crop(20, 20, "random"), flip=0.5, share_cameras=True)
    first, second = (draw_views(shared, f, SAMPLES, seed=1, epoch=2) for f in (form, other))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"resize": 224}, "resize"),
        ({"resize": (0, 5)}, "resize"),
        ({"crop": (5,)}, "crop"),
        ({"crop": (5, True)}, "crop"),
        ({"flip": 1.5}, "flip"),
        ({"flip": "yes"}, "flip"),
        ({"dtype": "int8"}, "dtype"),
        ({"dtype": torch.float64}, "dtype"),
        ({"layout": "nchw"}, "layout"),
        ({"normalize": (0.5, 0.5)}, "normalize"),
        ({"normalize": (MEAN, (1, 1, 0))}, "normalize"),
        ({"normalize": (MEAN, STD), "dtype": "uint8"}, "uint8"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Transform(**arguments)


@pytest.mark.parametrize("at", ["middle", (1,), (-1, 2), (1.5, 2)])
def test_a_crop_without_a_place_is_refused(at: Any) -> None:
    with pytest.raises(ConfigError, match="at"):
        Crop(5, 5, at)


def test_what_does_not_fit_the_camera_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"camera.*65x96.*64x96"):
        form_of(Transform(crop=(65, 96)), 64, 96)
    with pytest.raises(ConfigError, match="leaves"):
        form_of(Transform(crop=Crop(60, 90, (5, 0))), 64, 96)
    with pytest.raises(ConfigError, match="return_uint8"):
        form_of(Transform(normalize=(MEAN, STD)), 64, 96)
    with pytest.raises(ConfigError, match="depth"):
        slot_form(
            Transform(), key="d", channels=1, height=4, width=4, dtype="float32", depth=np.zeros(4096, np.float32)
        )
    with pytest.raises(ConfigError, match="wrist"):
        transforms_of({"wrist": Transform()}, ["top"])


def test_a_torch_dtype_is_its_name() -> None:
    assert Transform(dtype=torch.bfloat16) == Transform(dtype="bfloat16")


@pytest.mark.parametrize("before", [(2, 2), (3, 3), (2, 40), (40, 3), (1, 5)])
def test_tiny_pictures_are_enlarged_as_exactly(before: tuple[int, int]) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, *before), np.uint8)
    assert np.abs(Resizer(before, (31, 90)).resize(planes) - scaled(planes, 31, 90)).max() <= 2.0


@pytest.mark.parametrize("transform", [None, Transform(resize=(30, 40)), Transform(dtype="float32")])
def test_a_picture_of_another_size_than_the_header_says_is_refused(transform: Transform | None) -> None:
    form = form_of(transform, 96, 128)
    converted(noise(128, 96), form)
    converted(noise(96, 128), form, rotation=90)
    for width, height, rotation in ((64, 48, 0), (96, 128, 0), (128, 96, 270)):
        with pytest.raises(DecodeError, match=r"header says 128x96; encode"):
            converted(noise(width, height), form, rotation=rotation)
