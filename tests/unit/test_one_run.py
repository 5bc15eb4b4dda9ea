"""The MP4 of one run: another reader finds in it exactly what was put in."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from gpuload.index.load import load_index
from gpuload.index.video import Color, VideoIndex
from gpuload.pipeline.direct import read_packets
from gpuload.store.one_run import one_run_mp4, unsupported
from tests.videos import decode_all, make_video

ENCODERS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "libvpx", "mjpeg")
GOP = 10
TICKS_PER_S = 15360
OPEN_GOP = {"x265-params": f"log-level=error:keyint={GOP}:min-keyint={GOP}:open-gop=1:bframes=3"}


@pytest.fixture(scope="module", params=ENCODERS)
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    folder = tmp_path_factory.mktemp("runs")
    path = make_video(
        folder / ("video.mkv" if request.param in ("libvpx", "mjpeg") else "video.mp4"),
        codec=request.param,
        frames=3 * GOP,
        gop=GOP,
        pix_fmt="yuvj420p" if request.param == "mjpeg" else "yuv420p",
        options=OPEN_GOP if request.param == "libx265" else None,
    )
    return load_index(path, cache_dir=folder / "index")


def a_run(video: VideoIndex) -> tuple[int, list[memoryview], list[int]]:
    """(first packet, packets, times from 3 ticks on) of the second keyframe up to the third."""
    first, stop = video.keyframes[1:3].tolist()
    pts = video.pts[first:stop]
    return first, read_packets(video, first, stop - 1), (pts - pts.min() + 3).tolist()


def written(video: VideoIndex, packets: Any, pts: list[int], **changes: Any) -> bytes:
    told: dict[str, Any] = {
        "codec": video.codec,
        "extradata": video.extradata[0],
        "width": video.width,
        "height": video.height,
        "color": video.color,
        "ticks_per_s": TICKS_PER_S,
    }
    return one_run_mp4(packets, pts, **told | changes)


def test_ffmpeg_reads_back_every_packet_time_and_flag(video: VideoIndex) -> None:
    _, packets, pts = a_run(video)
    with av.open(io.BytesIO(written(video, packets, pts)), "r") as container:
        (stream,) = container.streams
        assert isinstance(stream, av.VideoStream)
        assert stream.codec_context.codec.canonical_name == video.codec
        assert (stream.codec_context.extradata or b"") == video.extradata[0]
        assert (stream.width, stream.height) == (video.width, video.height)
        assert stream.time_base == Fraction(1, TICKS_PER_S)
        found = [packet for packet in container.demux(stream) if packet.size]
    assert [bytes(packet) for packet in found] == [bytes(packet) for packet in packets]
    assert [packet.pts for packet in found] == pts
    assert [packet.is_keyframe for packet in found] == [True] + [False] * (len(found) - 1)


def test_our_own_index_reads_the_same(video: VideoIndex, tmp_path: Path) -> None:
    _, packets, pts = a_run(video)
    path = tmp_path / "run.mp4"
    path.write_bytes(written(video, packets, pts))
    index = load_index(path, cache_dir=tmp_path / "index")
    assert (index.codec, index.extradata, index.rotation) == (video.codec, video.extradata, 0)
    assert index.pts.tolist() == pts
    assert index.size.tolist() == [len(packet) for packet in packets]
    assert index.keyframes.tolist() == [0]


def test_it_decodes_to_the_same_pictures(video: VideoIndex) -> None:
    first, packets, pts = a_run(video)
    expected = decode_all(video.path)
    frame_of = {packet: frame for frame, packet in enumerate(video.frame_packet.tolist())}
    frame_at = {tick: frame_of[number] for number, tick in enumerate(pts, first)}
    with av.open(io.BytesIO(written(video, packets, pts)), "r") as container:
        shown = {
            frame_at[picture.pts or 0]: picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)
        }
    # Leading pictures of an open GOP need what is not in the file.
    wanted = [frame for frame in frame_at.values() if video.frame_start[frame] == first]
    assert set(wanted) <= set(shown)
    assert all(np.array_equal(shown[frame].transpose(2, 0, 1), expected[frame]) for frame in wanted)


@pytest.mark.parametrize(
    "color", [Color(1, 1, 1, 2), Color(9, 16, 9, 1), Color(2, 2, 2, 1), Color(1, 1, 1, 0), Color()]
)
def test_colour_is_told_as_given(video: VideoIndex, color: Color, tmp_path: Path) -> None:
    _, packets, pts = a_run(video)
    path = tmp_path / "run.mp4"
    path.write_bytes(written(video, packets, pts, color=color))
    assert load_index(path, cache_dir=tmp_path / "index").color == color
    if video.codec in ("h264", "vp8"):  # the others' bitstreams tell one of their own, and FFmpeg goes by that
        with av.open(str(path)) as container:
            told = container.streams.video[0].codec_context
            assert (told.color_primaries, told.color_trc, told.colorspace, told.color_range) == color


def test_times_need_not_be_regular_nor_positive(video: VideoIndex) -> None:
    _, packets, pts = a_run(video)
    uneven = [time * time - 4000 for time in pts]
    with av.open(io.BytesIO(written(video, packets, uneven)), "r") as container:
        assert [packet.pts for packet in container.demux(video=0) if packet.size] == uneven


def test_packets_that_fit_no_mp4_are_refused_with_the_reason(video: VideoIndex, tmp_path: Path) -> None:
    _, packets, pts = a_run(video)
    assert unsupported(video.codec, video.extradata[0]) is None
    with pytest.raises(ValueError, match="theora"):
        written(video, packets, pts, codec="theora")
    if video.codec in ("h264", "hevc"):
        with pytest.raises(ValueError, match="Annex B"):
            written(video, packets, pts, extradata=b"\0\0\0\1" + bytes(40))
    if video.codec == "av1":
        with pytest.raises(ValueError, match="configuration record"):
            written(video, packets, pts, extradata=b"")
    with pytest.raises(ValueError, match="one time for each packet"):
        written(video, packets, pts[:-1] if len(pts) > 1 else [])
    with pytest.raises(ValueError, match="2\\*\\*28"):
        written(video, packets, [time + (1 << 28) for time in pts])


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_transport_streams_packets_are_known_to_be_annex_b(codec: str, tmp_path: Path) -> None:
    index = load_index(make_video(tmp_path / "video.ts", codec=codec, frames=4), cache_dir=tmp_path)
    assert "Annex B" in (unsupported(index.codec, index.extradata[0]) or "")
