"""Rows to frames, on timestamps as they are stored."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gpuload.errors import VideoError
from gpuload.index.load import load_index
from gpuload.index.video import VideoIndex
from gpuload.sources import lerobot_frames
from gpuload.sources.lerobot_frames import CameraFrames, row_times
from gpuload.sources.lerobot_meta import Placement
from tests.videos import make_video

FPS = 30


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    folder = tmp_path_factory.mktemp("frames")
    return load_index(make_video(folder / "v.mp4", frames=30), cache_dir=folder)


def frames_of(
    index: VideoIndex, stored: npt.NDArray[np.floating], *, frame_index: npt.NDArray[np.int64] | None, start_s: float
) -> list[int]:
    placement = Placement(("v.mp4",), np.zeros(1, np.int32), np.full(1, start_s))
    times = row_times(stored, frame_index, fps=FPS)
    camera = CameraFrames("camera", 0, placement, np.array([0, len(stored)]), times, tolerance_s=1e-4)
    camera.resolve(0, lambda number: index, Path())
    found: list[int] = camera.frames(np.arange(len(stored))).tolist()
    return found


@pytest.mark.parametrize("first", [0, 61_500, 400_000], ids=["begin", "34 minutes", "3.7 hours"])
@pytest.mark.parametrize("start_s", [0.0, 100 / FPS, 4_123.4])
def test_timestamps_of_32_bits_find_their_frames_hours_into_an_episode_and_a_file(
    index: VideoIndex, first: int, start_s: float
) -> None:
    late = replace(index, pts=index.pts + round((first / FPS + start_s) / index.time_base))
    rows = np.arange(first, first + 30)
    stored = (rows / FPS).astype(np.float32)
    assert frames_of(late, stored, frame_index=rows, start_s=start_s) == list(range(30))
    assert frames_of(late, stored + np.float32(0.01), frame_index=rows, start_s=start_s) == [-1] * 30


def test_times_that_do_not_count_frames_are_taken_as_they_are(index: VideoIndex) -> None:
    # Isaac-GR00T's sets begin at 1/fps: row i shows frame i + 1, and the last row has none
    rows = np.arange(30)
    stored = ((rows + 1) / FPS).astype(np.float32)
    assert frames_of(index, stored, frame_index=rows, start_s=0.0) == [*range(1, 30), -1]


def test_without_frame_index_half_a_step_of_32_bits_is_forgiven(index: VideoIndex) -> None:
    first = 400_000
    late = replace(index, pts=index.pts + round(first / FPS / index.time_base))
    exact = np.arange(first, first + 30) / FPS
    off = np.abs(exact.astype(np.float32) - exact)
    assert off.max() > 3e-4  # more than the tolerance: a step is 1 ms here
    assert frames_of(late, exact.astype(np.float32), frame_index=None, start_s=0.0) == list(range(30))
    assert frames_of(late, exact + 3e-4, frame_index=None, start_s=0.0) == [-1] * 30


def test_a_file_that_cannot_be_indexed_is_tried_again_when_it_changes_or_after_a_while(
    index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tried = tmp_path / "v.mp4", list[int]()
    path.write_bytes(b"damaged")

    def video(number: int) -> VideoIndex:
        tried.append(number)
        if path.read_bytes() != b"whole":
            raise VideoError("it is damaged")
        return index

    placement = Placement(("v.mp4",), np.zeros(1, np.int32), np.zeros(1))
    times = row_times(np.arange(30) / FPS, np.arange(30), fps=FPS)
    camera = CameraFrames("camera", 0, placement, np.array([0, 30]), times, tolerance_s=1e-4)
    for _ in range(5):
        camera.resolve(0, video, tmp_path)
    assert len(tried) == 1
    assert not camera.is_due(0, tmp_path)
    assert "damaged" in str(camera.errors[0])
    os.utime(path, ns=(1, 1))
    camera.resolve(0, video, tmp_path)
    assert len(tried) == 2
    monkeypatch.setattr(lerobot_frames, "RETRY_S", 0.0)
    camera.resolve(0, video, tmp_path)
    assert len(tried) == 3
    monkeypatch.undo()
    path.write_bytes(b"whole")
    camera.resolve(0, video, tmp_path)
    assert not camera.errors
    assert camera.frames(np.arange(30)).tolist() == list(range(30))


def test_a_row_without_a_frame_claims_none_of_another_episode(
    index: VideoIndex, caplog: pytest.LogCaptureFixture
) -> None:
    stored = np.concatenate([np.arange(15), np.arange(15)]) / FPS
    stored[20] += 0.01
    placement = Placement(("v.mp4",), np.zeros(2, np.int32), np.array([0.0, 15 / FPS]))
    times = row_times(stored, None, fps=FPS)
    camera = CameraFrames("camera", 0, placement, np.array([0, 15, 30]), times, tolerance_s=1e-4)
    camera.resolve(0, lambda number: index, Path())
    assert camera.frames(np.arange(30)).tolist() == [*range(20), -1, *range(21, 30)]
    assert "another one" not in caplog.text
