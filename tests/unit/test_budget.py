"""Budgets count what pictures really take."""

from pathlib import Path

import av
import pytest

from gpuload.index.load import load_index
from gpuload.pipeline.budget import Budgets, device_bytes, host_bytes
from tests.videos import make_video

CASES = [
    ("libx264", "yuv420p", 128, 96),
    ("libx264", "yuv420p", 322, 242),
    ("libx264", "yuv444p", 100, 60),
    ("libx265", "yuv420p10le", 320, 240),
    ("libsvtav1", "yuv420p", 320, 240),
    ("libsvtav1", "yuv420p10le", 322, 242),
]


@pytest.mark.parametrize(("codec", "pixel_format", "width", "height"), CASES)
def test_a_picture_in_host_memory(tmp_path: Path, codec: str, pixel_format: str, width: int, height: int) -> None:
    path = make_video(tmp_path / "a.mp4", codec=codec, pix_fmt=pixel_format, width=width, height=height, frames=12)
    with av.open(str(path)) as container:
        taken = {sum(plane.buffer_size for plane in frame.planes) for frame in container.decode(video=0)}
    counted = host_bytes(load_index(path, cache_dir=tmp_path))
    assert max(taken) <= counted * 1.1
    assert counted <= 1.5 * max(taken)


def test_a_picture_in_device_memory(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", width=640, height=480, frames=4)
    video = load_index(path, cache_dir=tmp_path)
    assert device_bytes(video, is_rgb=False) == 1024 * 480 + 1024 * 240
    assert device_bytes(video, is_rgb=True) == 640 * 480 * 3


def test_a_narrower_device_makes_its_pictures_count_for_more(tmp_path: Path) -> None:
    video = load_index(make_video(tmp_path / "v.mp4", frames=2, width=640, height=480), cache_dir=tmp_path)
    budgets = Budgets(frame_cache_bytes=4 << 30, device_cache_bytes=1 << 30)
    on_device = budgets.picture_bytes(video, ("torchcodec", "cuda:0"), None)
    # As many fit as the device has room for, told in the host's bytes.
    assert (4 << 30) // on_device == (1 << 30) // device_bytes(video, is_rgb=False)
    assert budgets.picture_bytes(video, ("pyav", "cpu"), None) == host_bytes(video)
    rgb = budgets.picture_bytes(video, ("torchcodec-rgb", "cuda:0"), None)
    assert (4 << 30) // rgb == (1 << 30) // device_bytes(video, is_rgb=True)
    staged = Budgets(4 << 30, 1 << 30, is_staged=True)
    assert (4 << 30) // staged.picture_bytes(video, ("pyav", "cpu"), None) == (1 << 30) // (640 * 480 * 3 // 2)
    assert staged.narrowest(on_device=False) == ("device_cache_bytes", 1 << 30)
    roomy = Budgets(1 << 30, 4 << 30, is_staged=True)
    assert roomy.picture_bytes(video, ("pyav", "cpu"), None) == host_bytes(video)
    assert budgets.narrowest(on_device=True) == ("device_cache_bytes", 1 << 30)
    assert budgets.narrowest(on_device=False) == ("frame_cache_bytes", 4 << 30)
    assert Budgets(1 << 30, 4 << 30).narrowest(on_device=True) == ("frame_cache_bytes", 1 << 30)
