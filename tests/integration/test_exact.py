"""Every frame of every kind of video equals a sequential decode, in whatever order it is asked for."""

from pathlib import Path

import numpy as np
import pytest

from gpuload.errors import DecodeError, VideoError
from gpuload.video import Video
from tests.videos import decode_all, make_video

ENCODERS = ["libx264", "libx265", "libsvtav1", "libvpx-vp9"]


def assert_all_frames_exact(path: Path) -> None:
    wanted = decode_all(path)
    video = Video(path)
    assert len(video) == len(wanted)
    order = np.random.default_rng(0).permutation(len(wanted))
    frames = video.frames(order).numpy()
    for i, number in enumerate(order):
        assert np.array_equal(frames[i], wanted[number]), f"frame {number}"
    one_by_one = [video.frames([n])[0].numpy() for n in order[:12]]  # alone, nothing before it is decoded by chance
    for number, frame in zip(order, one_by_one, strict=False):
        assert np.array_equal(frame, wanted[number]), f"frame {number} alone"


@pytest.mark.parametrize("gop", [2, 8, 30, 250])
@pytest.mark.parametrize("codec", ENCODERS)
def test_encoder_defaults(tmp_path: Path, codec: str, gop: int) -> None:
    assert_all_frames_exact(make_video(tmp_path / "v.mp4", codec=codec, gop=gop, frames=70))


@pytest.mark.parametrize("pix_fmt", ["yuv422p", "yuv444p", "yuv420p10le", "yuvj420p", "gray"])
def test_pixel_formats(tmp_path: Path, pix_fmt: str) -> None:
    assert_all_frames_exact(make_video(tmp_path / "v.mp4", pix_fmt=pix_fmt, frames=20, gop=8))


def test_odd_sizes(tmp_path: Path) -> None:
    assert_all_frames_exact(make_video(tmp_path / "v.mp4", pix_fmt="yuv444p", width=129, height=97, frames=12, gop=5))


@pytest.mark.parametrize("suffix", [".mkv", ".mov", ".ts", ".avi", ".h264"])
def test_containers(tmp_path: Path, suffix: str) -> None:
    assert_all_frames_exact(make_video(tmp_path / f"v{suffix}", frames=40, gop=10))


def test_a_dropped_packet_is_an_error_not_a_wrong_frame(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", frames=30, gop=10)
    video = Video(path)
    data = bytearray(path.read_bytes())
    begin, size = int(video.index.pos[12]), int(video.index.size[12])
    data[begin + 5 : begin + size] = bytes(size - 5)
    path.write_bytes(data)
    video = Video(path)
    assert len(video.frames([0, 29])) == 2  # other GOPs are untouched
    with pytest.raises(DecodeError, match=r"v\.mp4"):
        video.frames(range(10, 20))
    assert len(video.frames([5])) == 1  # the decoder stays usable


def test_a_directory_or_garbage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.mp4").write_bytes(b"no video at all" * 100)
    for path in (tmp_path, tmp_path / "g.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(VideoError):
            Video(path)
