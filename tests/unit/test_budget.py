"""Budgets count what pictures really take."""

from pathlib import Path

import av
import pytest

from gpuload.index.load import load_index
from gpuload.pipeline.budget import device_bytes, host_bytes
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
