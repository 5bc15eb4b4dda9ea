"""Rows to frames, on timestamps as they are stored."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from gpuload.index.load import load_index
from gpuload.sources.lerobot_frames import CameraFrames
from gpuload.sources.lerobot_meta import Placement
from tests.videos import make_video


def test_timestamps_of_32_bits_find_their_frames_hours_into_a_file(tmp_path: Path) -> None:
    index = load_index(make_video(tmp_path / "v.mp4", frames=30), cache_dir=tmp_path)
    for first in (0, 61_500, 400_000):  # frames: 0, 34 minutes, 3.7 hours
        late = replace(index, pts=index.pts + round(first / 30 / index.time_base))
        timestamps_s = (np.arange(first, first + 30) / 30).astype(np.float32)
        placement = Placement(("v.mp4",), np.zeros(1, np.int32), np.zeros(1))
        camera = CameraFrames("camera", 0, placement, np.array([0, 30]), timestamps_s, tolerance_s=1e-4)
        camera.resolve(0, lambda number, late=late: late)  # type: ignore[misc]
        assert camera.frames(np.arange(30)).tolist() == list(range(30))
        camera = CameraFrames("camera", 0, placement, np.array([0, 30]), timestamps_s + np.float32(0.01), 1e-4)
        camera.resolve(0, lambda number, late=late: late)  # type: ignore[misc]
        assert (camera.frames(np.arange(30)) == -1).all()
