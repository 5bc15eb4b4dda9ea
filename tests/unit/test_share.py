"""The CPU's share: only of what was seen to be the same, and by measured rates."""

import logging
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from gpuload.decode.base import Run, Stream
from gpuload.decode.pyav import PyavDecoder
from gpuload.decode.runs import entries, stream_of
from gpuload.index.load import load_index
from gpuload.picture import DevicePicture, PictureForm
from gpuload.pipeline.direct import read_packets
from gpuload.pipeline.share import Sharing, same_samples
from tests.videos import make_video


@pytest.fixture
def coded(tmp_path: Path) -> tuple[Stream, Run]:
    video = load_index(make_video(tmp_path / "v.mp4", frames=10, gop=10), cache_dir=tmp_path)
    return stream_of(video), Run(0, read_packets(video, 0, 9), entries(video, 0, 9), frozenset(range(10)))


def noise(form: str, width: int = 50, height: int = 36) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, form)
    bits = frame.format.components[0].bits
    rng = np.random.default_rng(0)
    for plane in frame.planes:
        samples = rng.integers(0, 1 << bits, plane.buffer_size // (1 if bits == 8 else 2))
        plane.update(samples.astype(np.uint8 if bits == 8 else np.uint16).tobytes())
    return frame


def on_device(frame: av.VideoFrame, form: str) -> DevicePicture:
    """As NVDEC's surfaces hold it, put together by FFmpeg's own conversion."""
    other = frame.reformat(format=form)
    planes: list[torch.Tensor] = []
    for plane in other.planes:
        dtype: Any = np.int16 if form.startswith("p0") else np.uint8
        rows: Any = np.frombuffer(memoryview(plane), dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize)
        if planes:
            rows = rows[: (frame.height + 1) // 2, : (frame.width + 1) // 2 * 2].reshape(-1, (frame.width + 1) // 2, 2)
        else:
            rows = rows[: frame.height, : frame.width]
        planes.append(torch.from_numpy(rows.copy()))
    return DevicePicture(PictureForm(form, frame.width, frame.height, 2, False, 0), tuple(planes), None, None)


@pytest.mark.parametrize(("planar", "surface"), [("yuv420p", "nv12"), ("yuv420p10le", "p010le")])
def test_surfaces_are_compared_sample_by_sample(planar: str, surface: str) -> None:
    frame = noise(planar)
    picture = on_device(frame, surface)
    assert same_samples(picture, frame)
    for plane in picture.planes:
        kept = plane.flatten()[-1].clone()
        plane.view(-1)[-1] ^= 64
        assert not same_samples(picture, frame)
        plane.view(-1)[-1] = kept
    assert same_samples(picture, frame)


def test_equal_pictures_are_shared_and_others_are_not(
    coded: tuple[Stream, Run], caplog: pytest.LogCaptureFixture
) -> None:
    stream, run = coded
    pictures: dict[int, Any] = dict(PyavDecoder().decode(stream, run))
    sharing = Sharing(wanted=True)
    assert sharing.is_to_verify(stream)
    sharing.verify(stream, run, pictures)
    assert not sharing.is_to_verify(stream)
    assert not sharing.allowed(), "the device has not been measured"
    sharing.measured(True, frames=10, pixels={("h264", 8): 10 * 64 * 48}, busy_s=0.1)
    assert sharing.allowed() == {("h264", 8)}
    sharing.verify(stream, run, {**pictures, 3: pictures[4]})
    sharing.verify(stream, run, pictures)
    assert not sharing.allowed(), "one difference is one too many"
    other = Sharing(wanted=True)
    other.measured(True, frames=10, pixels={("h264", 8): 10 * 64 * 48}, busy_s=0.1)
    with caplog.at_level(logging.WARNING):
        other.verify(stream, run, {**pictures, 3: pictures[4]})
    assert not other.allowed()
    assert not other.is_to_verify(stream)
    assert "v.mp4" in caplog.text
    missing = Sharing(wanted=True)
    missing.measured(True, frames=10, pixels={("h264", 8): 10 * 64 * 48}, busy_s=0.1)
    missing.verify(stream, run, {number: picture for number, picture in pictures.items() if number})
    assert not missing.allowed()


def test_a_damaged_run_proves_nothing(coded: tuple[Stream, Run]) -> None:
    stream, run = coded
    sharing = Sharing(wanted=True)
    damaged = Run(0, [bytes(len(packet)) for packet in run.packets], run.entries, run.wanted)
    assert sharing.is_to_verify(stream)
    assert not sharing.is_to_verify(stream), "one lane does it"
    sharing.verify(stream, damaged, {})
    assert sharing.is_to_verify(stream)


def test_nothing_is_verified_where_a_backend_was_asked_for(coded: tuple[Stream, Run]) -> None:
    assert not Sharing(wanted=False).is_to_verify(coded[0])


def test_the_pace_follows_what_is_measured() -> None:
    sharing = Sharing(wanted=True)
    small, large = ("h264", 8), ("hevc", 10)
    sharing.measured(True, frames=100, pixels={small: 10_000}, busy_s=0.1)
    assert sharing.load_s(True) == pytest.approx(1e-3)
    assert sharing.run_s(True, small, 100) == pytest.approx(1e-3)
    for _ in range(100):
        sharing.measured(True, frames=100, pixels={small: 10_000}, busy_s=0.3)
    assert sharing.load_s(True) == pytest.approx(3e-3, rel=0.01)
    assert sharing.run_s(True, small, 100) == pytest.approx(3e-3, rel=0.01)
    sharing.measured(True, frames=0, pixels={}, busy_s=5.0)
    assert sharing.load_s(True) == pytest.approx(3e-3, rel=0.01)
    for _ in range(100):
        sharing.measured(True, frames=100, pixels={large: 40_000}, busy_s=1.2)
        sharing.measured(True, frames=2, pixels={large: 400, small: 100}, busy_s=100.0)  # who of them took so long?
        sharing.measured(False, frames=100, pixels={small: 10_000}, busy_s=9.0)
    assert sharing.run_s(True, large, 100) == pytest.approx(3e-3, rel=0.01)
    assert sharing.run_s(True, small, 100) == pytest.approx(3e-3, rel=0.01)
    assert sharing.run_s(False, small, 100) == pytest.approx(0.09, rel=0.01)


def test_ten_bit_444_surfaces_hold_their_samples_in_the_upper_bits() -> None:
    frame = noise("yuv444p10le")
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint16).reshape(-1, plane.line_size // 2)
        planes.append(torch.from_numpy((rows[: frame.height, : frame.width] << 6).view(np.int16)))
    form = PictureForm("yuv444p16le", frame.width, frame.height, 2, False, 0)
    assert same_samples(DevicePicture(form, tuple(planes), None, None), frame)
    planes[1][3, 5] ^= 64
    assert not same_samples(DevicePicture(form, tuple(planes), None, None), frame)
