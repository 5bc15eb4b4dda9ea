"""Every frame of every kind of video equals a sequential decode, in whatever order it is asked for."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from gpuload.errors import DecodeError, VideoError
from gpuload.index.load import load_index
from gpuload.index.video import KEYFRAME, frame_tables
from gpuload.pipeline.direct import DirectReader
from gpuload.video import Video
from tests.boxes import joined
from tests.videos import decode_all, frame_number, make_video

CLOSED = "log-level=error:keyint=10:min-keyint=10:open-gop=0"
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


@pytest.mark.parametrize(("matrix", "color_range"), [(1, 2), (1, 1), (9, 2), (7, 2)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_colour_that_only_the_container_tells(tmp_path: Path, suffix: str, matrix: int, color_range: int) -> None:
    plain, told = tmp_path / "plain.mp4", tmp_path / f"told{suffix}"
    patches = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    with av.open(str(plain), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(8):
            picture = np.kron(np.roll(patches, number, 1), np.ones((8, 8, 1), np.uint8))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    with av.open(str(plain)) as source, av.open(str(told), "w") as target:
        copied = target.add_stream_from_template(source.streams.video[0])
        copied.codec_context.colorspace, copied.codec_context.color_range = matrix, color_range
        copied.codec_context.color_primaries = copied.codec_context.color_trc = 1
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copied
                target.mux(packet)
    assert not np.array_equal(decode_all(plain)[0], decode_all(told)[0])  # FFmpeg heeds the container
    assert_all_frames_exact(told)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_several_sample_descriptions(tmp_path: Path, codec: str) -> None:
    """The second half is coded otherwise (CAVLC, one B-frame; other block sizes): the first's tables do not fit it."""
    options = {
        "libx264": {"x264-params": "cabac=0:bframes=1:ref=1"},
        "libx265": {"x265-params": CLOSED + ":ctu=16:bframes=2"},
    }
    plain = {"libx264": {}, "libx265": {"x265-params": CLOSED}}
    first = make_video(tmp_path / "a.mp4", codec=codec, gop=10, frames=30, options=plain[codec])
    second = make_video(tmp_path / "b.mp4", codec=codec, gop=10, frames=30, options=options[codec])
    path = joined(first, second)
    assert len(Video(path).index.extradata) == 2
    assert_all_frames_exact(path)


def test_odd_sizes(tmp_path: Path) -> None:
    assert_all_frames_exact(make_video(tmp_path / "v.mp4", pix_fmt="yuv444p", width=129, height=97, frames=12, gop=5))
    assert_all_frames_exact(make_video(tmp_path / "w.mp4", width=98, height=66, frames=12, gop=5))
    assert_all_frames_exact(make_video(tmp_path / "x.mp4", codec="libvpx-vp9", width=129, height=97, frames=12, gop=5))


@pytest.mark.parametrize(
    ("codec", "suffix", "pix_fmt"),
    [("png", "mp4", "rgb24"), ("png", "avi", "rgb24"), ("ffv1", "mkv", "yuv420p"), ("huffyuv", "avi", "yuv422p")],
)
def test_pictures_that_stand_alone(tmp_path: Path, codec: str, suffix: str, pix_fmt: str) -> None:
    """FFmpeg adds PNGs up unless each is said to be a keyframe."""
    path = make_video(tmp_path / f"v.{suffix}", codec=codec, gop=1, frames=8, pix_fmt=pix_fmt)
    assert_all_frames_exact(path)
    numbers = [5, 2, 7, 2, 0]
    assert [frame_number(picture.numpy()) for picture in Video(path).frames(numbers)] == numbers


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


@pytest.mark.parametrize("codec", [*ENCODERS, "mpeg4"])
def test_a_false_keyframe_is_an_error_not_a_wrong_frame(tmp_path: Path, codec: str) -> None:
    path = make_video(tmp_path / "v.mp4", codec=codec, frames=40, gop=20)
    wanted, index = decode_all(path), load_index(path)
    for false in (3, 13, 25):
        flags = index.flags.copy()
        flags[false] |= KEYFRAME
        packets, starts = frame_tables(index.pts, flags, str(path))
        lying = replace(index, flags=flags, frame_packet=packets, frame_start=starts)
        reader, refused = DirectReader(), 0
        for frame in range(len(packets)):
            out = np.zeros((1, *wanted[0].shape), np.uint8)
            try:
                reader.read(lying, np.array([frame]), out)
            except DecodeError:
                refused += 1
            else:
                assert np.array_equal(out[0], wanted[frame]), (false, frame)
        assert refused > 0


def test_a_directory_or_garbage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.mp4").write_bytes(b"no video at all" * 100)
    for path in (tmp_path, tmp_path / "g.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(VideoError):
            Video(path)


@pytest.mark.parametrize(
    ("codec", "suffix", "form", "options"),
    [
        ("prores_ks", ".mov", "yuv444p10le", {"profile": "4444"}),  # 12 bits by its name, 10 without
        ("utvideo", ".avi", "yuv422p", {}),
        ("qtrle", ".mov", "rgb24", {}),
        ("cfhd", ".mov", "yuv422p10le", {}),
        ("huffyuv", ".avi", "yuv422p", {}),
        ("v210", ".mov", "yuv422p10le", {}),
        ("rawvideo", ".avi", "yuv420p", {}),
        ("rawvideo", ".mov", "uyvy422", {}),
        ("mpeg2video", ".ts", "yuv420p", {}),
    ],
)
def test_decoders_that_go_by_what_the_container_calls_the_codec(
    tmp_path: Path, codec: str, suffix: str, form: str, options: dict[str, str]
) -> None:
    path = make_video(tmp_path / f"v{suffix}", codec=codec, gop=4, frames=9, pix_fmt=form, options=options)
    assert_all_frames_exact(path)
