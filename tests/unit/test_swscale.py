"""The converter against PyAV's rgb24, which both golden LeRobot files agree with."""

import subprocess
import sys

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace

from gpuload.device.libswscale import PlanarScalers, swscale_path
from gpuload.device.swscale import SwscaleConverter
from gpuload.errors import DecodeError
from gpuload.transform import SlotForm, Transform, pack_view, slot_form

GUARD = 4096


def picture(form: str, width: int, height: int, matrix: int, color_range: int) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, form)
    rng = np.random.default_rng(width * height)
    for plane in frame.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    frame.colorspace, frame.color_range = matrix, color_range
    return frame


def form_of(slot: npt.NDArray[np.generic]) -> SlotForm:
    channels, height, width = slot.shape
    return slot_form(None, key="camera", channels=channels, height=height, width=width, dtype=str(slot.dtype))


def packed(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8).transpose(2, 0, 1)


@pytest.mark.parametrize("color_range", [ColorRange.UNSPECIFIED, ColorRange.MPEG, ColorRange.JPEG])
@pytest.mark.parametrize("matrix", [2, Colorspace.ITU709, Colorspace.ITU601, Colorspace.SMPTE240M, Colorspace.BT2020])
@pytest.mark.parametrize(("width", "height"), [(48, 48), (96, 50), (640, 480), (98, 50), (64, 49), (33, 31)])
@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p"])
def test_pixels_are_those_of_rgb24(form: str, width: int, height: int, matrix: int, color_range: int) -> None:
    frame = picture(form, width, height, matrix, color_range)
    slot = np.zeros((3, height, width), np.uint8)
    SwscaleConverter().convert(frame, slot, 0, form_of(slot))
    assert np.array_equal(slot, packed(frame))


@pytest.mark.parametrize("matrix", range(18))
@pytest.mark.parametrize("form", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_a_matrix_is_converted_or_refused_as_by_ffmpeg(form: str, matrix: int) -> None:
    frame = picture(form, 64, 48, matrix, ColorRange.MPEG)
    if form.endswith("10le"):
        for plane in frame.planes:
            plane.update((np.frombuffer(memoryview(plane), "<u2") & 1023).tobytes())
    slot = np.zeros((3, 48, 64), np.uint8)
    try:
        wanted = packed(frame)
    except OSError:
        with pytest.raises(DecodeError, match=f"colour matrix {matrix}"):
            SwscaleConverter().convert(frame, slot, 0, form_of(slot))
    else:
        SwscaleConverter().convert(frame, slot, 0, form_of(slot))
        assert np.array_equal(slot, wanted)


@pytest.mark.parametrize("color_range", [ColorRange.MPEG, ColorRange.JPEG])
def test_every_width_has_its_last_columns(color_range: int) -> None:
    converter, direct = SwscaleConverter(), 0
    for width in range(2, 132):
        frame = picture("yuv420p", width, 6, 1, color_range)
        slot = np.full((3, 6, width), 77, np.uint8)
        converter.convert(frame, slot, 0, form_of(slot))
        assert np.array_equal(slot, packed(frame)), width
        direct += PlanarScalers().of(frame) is not None
    assert direct > 100


def test_rows_without_room_behind_them_are_not_read_past_their_end() -> None:
    rng = np.random.default_rng(0)
    planes = tuple(torch.from_numpy(rng.integers(0, 256, size, np.uint8)) for size in ((6, 98), (3, 49), (3, 49)))
    frame = av.VideoFrame.from_dlpack(planes, format="yuv420p")
    assert [plane.line_size for plane in frame.planes] == [98, 49, 49]
    assert PlanarScalers().of(frame) is None
    slot = np.zeros((3, 6, 98), np.uint8)
    SwscaleConverter().convert(frame, slot, 0, form_of(slot))
    assert np.array_equal(slot, packed(frame))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("width", "height", "layout", "flip"),
    [
        (256, 130, "chw", False),
        (256, 130, "hwc", False),
        (256, 130, "chw", True),
        (255, 130, "chw", False),
        (64, 48, "chw", False),
    ],
)
def test_half_floats_are_the_nearest_to_the_level_over_255(
    dtype: str, width: int, height: int, layout: str, flip: bool
) -> None:
    frame = picture("yuv420p", width, height, 1, 1)
    transform = Transform(dtype=dtype, layout=layout, flip=flip)  # type: ignore[arg-type]  # one of its words
    form = slot_form(transform, key="camera", channels=3, height=height, width=width, dtype="uint8")
    slot = np.zeros(form.shape, np.float16 if dtype == "float16" else np.uint16)
    SwscaleConverter().convert(frame, slot, 0, form, pack_view(0, 0, flip))
    expected = torch.from_numpy(packed(frame)[:, :, :: -1 if flip else 1].copy()).to(torch.float32).div(255)
    expected = expected.to(getattr(torch, dtype))
    found = torch.from_numpy(slot if dtype == "float16" else slot.view(np.int16)).view(getattr(torch, dtype))
    assert torch.equal(found if layout == "chw" else found.permute(2, 0, 1), expected)


@pytest.mark.parametrize(("width", "height"), [(16, 2), (48, 48), (96, 50), (848, 480), (1264, 30)])
@pytest.mark.parametrize("offset", [0, 32])
def test_only_the_slot_is_written(width: int, height: int, offset: int) -> None:
    num_bytes = 3 * width * height
    memory = np.full(num_bytes + 2 * GUARD, 77, np.uint8)
    begin = GUARD + offset
    slot = memory[begin : begin + num_bytes].reshape(3, height, width)
    frame = picture("yuv420p", width, height, 1, 1)
    assert PlanarScalers().of(frame) is not None
    SwscaleConverter().convert(frame, slot, 0, form_of(slot))
    assert np.array_equal(slot, packed(frame))
    assert (memory[:begin] == 77).all()
    assert (memory[begin + num_bytes :] == 77).all()


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_float_is_the_level_over_255(rotation: int) -> None:
    frame = picture("yuv420p", 64, 48, 1, 1)
    expected = np.rot90(packed(frame), rotation // 90, axes=(1, 2)).astype(np.float32) / np.float32(255)
    slot = np.zeros(expected.shape, np.float32)
    SwscaleConverter().convert(frame, slot, rotation, form_of(slot))
    assert np.array_equal(slot, expected)


def test_a_strided_slot_is_filled() -> None:
    frame = picture("yuv420p", 64, 48, 1, 1)
    wide = np.zeros((3, 48, 128), np.uint8)
    SwscaleConverter().convert(frame, wide[:, :, ::2], 0, form_of(wide[:, :, ::2]))
    assert np.array_equal(wide[:, :, ::2], packed(frame))
    assert not wide[:, :, 1::2].any()


@pytest.mark.parametrize("form", ["yuv422p", "yuv444p", "gray", "yuv420p10le", "nv12", "gbrp"])
def test_other_formats_go_through_pyav(form: str) -> None:
    frame = picture(form, 64, 48, 1, 1)
    assert PlanarScalers().of(frame) is None
    slot = np.zeros((3, 48, 64), np.uint8)
    SwscaleConverter().convert(frame, slot, 0, form_of(slot))
    assert np.array_equal(slot, packed(frame))


@pytest.mark.skipif(sys.platform != "linux", reason="the maps of a process are Linux's")
def test_the_library_called_is_the_one_that_pyav_mapped() -> None:
    path = swscale_path()
    assert path is not None
    assert path.exists()
    code = "import av.video.reformatter; print([line for line in open('/proc/self/maps') if 'libswscale' in line][0])"
    assert str(path) in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
