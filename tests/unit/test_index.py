"""Laws of the video index: our tables say what FFmpeg's demuxer and decoder say, and damage is always an error."""

import contextlib
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from gpuload.errors import VideoError
from gpuload.index import load
from gpuload.index.demux import demux_index
from gpuload.index.load import load_index, load_many
from gpuload.index.mp4 import parse_mp4
from gpuload.index.mp4_boxes import Untold
from gpuload.index.video import VideoIndex
from gpuload.video import Video
from tests.boxes import with_compact_sizes, with_wide_offsets
from tests.videos import decode_all, frame_number, make_video, remuxed

CODECS = ["libx264", "libx265", "libsvtav1", "libvpx-vp9"]
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


def assert_as_demuxed(path: Path) -> VideoIndex:
    """The tables agree with FFmpeg packet by packet, and the shown pictures with its decoder."""
    index = parse_mp4(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert (index.codec, index.pixel_format) == (context.codec.canonical_name, context.pix_fmt)
        assert (index.width, index.height, index.time_base) == (context.width, context.height, stream.time_base)
        assert index.extradata[0] == (context.extradata or b"")
    assert index.pos.tolist() == [packet.pos for packet in packets]
    assert index.size.tolist() == [packet.size for packet in packets]
    assert index.dts.tolist() == [packet.dts for packet in packets]
    assert index.pts.tolist() == [packet.pts for packet in packets]
    assert index.flags.tolist() == [packet.is_keyframe | 2 * packet.is_discard for packet in packets]
    data = path.read_bytes()
    assert all(data[index.pos[i] : index.pos[i] + index.size[i]] == bytes(p) for i, p in enumerate(packets))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    # sorted: behind an empty edit in mid-list FFmpeg's packets overlap in time, and its decoder keeps their order
    assert index.frame_pts.tolist() == sorted(frame.pts for frame in frames if frame.pts is not None)
    assert {index.rotation} >= {frame.rotation % 360 for frame in frames}
    return index


@pytest.mark.parametrize("gop", [2, 8, 30, 250])
@pytest.mark.parametrize("codec", CODECS)
def test_tables_agree_with_demuxing(tmp_path: Path, codec: str, gop: int) -> None:
    path = make_video(tmp_path / "v.mp4", codec=codec, gop=gop)
    index, demuxed = assert_as_demuxed(path), demux_index(path)
    assert demuxed.contiguous
    assert index.num_frames == 60
    for name in ("pos", "size", "pts", "dts", "flags", "frame_packet", "frame_start"):
        np.testing.assert_array_equal(getattr(index, name), getattr(demuxed, name), name)


@pytest.mark.parametrize("codec", CODECS)
def test_every_frame_decodes_from_its_start_packet(tmp_path: Path, codec: str) -> None:
    path = make_video(tmp_path / "v.mp4", codec=codec, gop=8, frames=40)
    index, data = parse_mp4(path), path.read_bytes()
    context = av.CodecContext.create("libdav1d" if index.codec == "av1" else index.codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.extradata = index.extradata[0] or None
    expected = decode_all(path)
    for frame in range(index.num_frames):
        found = None
        for number in range(index.frame_start[frame], min(index.frame_packet[frame] + 20, len(index.pos))):
            packet = av.Packet(data[index.pos[number] : index.pos[number] + index.size[number]])
            packet.pts = packet.dts = number
            found = next((f for f in context.decode(packet) if f.pts == index.frame_packet[frame]), found)
        found = next((f for f in context.decode(None) if f.pts == index.frame_packet[frame]), found)
        context.flush_buffers()
        assert found is not None
        picture = found.to_ndarray(format="rgb24").transpose(2, 0, 1).astype(np.uint8)
        assert frame_number(picture) == frame
        np.testing.assert_array_equal(picture, expected[frame])


@pytest.mark.parametrize(
    "flags",
    [
        "frag_keyframe+empty_moov",
        "frag_keyframe",
        "frag_every_frame+empty_moov+default_base_moof",
        "faststart",
        "negative_cts_offsets",
        "frag_keyframe+empty_moov+negative_cts_offsets",
    ],
)
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_every_layout_agrees_with_ffmpeg(tmp_path: Path, codec: str, flags: str) -> None:
    path = make_video(tmp_path / "v.mp4", codec=codec, gop=8, container_options={"movflags": flags})
    assert assert_as_demuxed(path).num_frames == 60


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "gray"])
def test_mov_and_other_pixel_formats(tmp_path: Path, pix_fmt: str) -> None:
    assert assert_as_demuxed(make_video(tmp_path / "v.mov", pix_fmt=pix_fmt, frames=20)).num_frames == 20


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_older_codecs(tmp_path: Path, codec: str) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    assert assert_as_demuxed(make_video(tmp_path / "v.mp4", codec=codec, pix_fmt=pix_fmt)).codec == codec


def with_edits(path: Path, edits: list[tuple[int, int]]) -> Path:
    """Replace the edit list of a file whose tables come last; durations in movie ticks (1/1000 s)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") - 4
    new = struct.pack(">I4sII", 16 + 12 * len(edits), b"elst", 0, len(edits))
    new += b"".join(struct.pack(">IiI", duration, start, 0x10000) for duration, start in edits)
    old = struct.unpack_from(">I", data, at)[0]
    for kind in (b"moov", b"trak", b"edts"):
        where = data.index(kind) - 4
        struct.pack_into(">I", data, where, struct.unpack_from(">I", data, where)[0] + len(new) - old)
    data[at : at + old] = new
    out = path.with_name("edited.mp4")
    out.write_bytes(data)
    return out


@pytest.mark.parametrize(
    "edits",
    [
        [(1000, 1024)],
        [(1000, 512 * 13 + 1024)],
        [(300, 512 * 33)],
        [(500, -1), (1000, 1024)],
        [(500, -1), (700, 512 * 21)],
        [(400, 512 * 5), (400, 512 * 40)],
        [(400, 512 * 40), (400, 512 * 5)],
        [(400, 512 * 5), (200, -1), (300, 512 * 5 + 100)],
        [(0, 1024)],
        [(99999, 0)],
    ],
)
@pytest.mark.parametrize("bframes", ["0", "3"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_edit_lists_agree_with_ffmpeg(tmp_path: Path, codec: str, bframes: str, edits: list[tuple[int, int]]) -> None:
    parameters = f"log-level=error:keyint=8:min-keyint=8:bframes={bframes}"
    options = {"bf": bframes} if codec == "libx264" else {"x265-params": parameters}
    path = with_edits(make_video(tmp_path / "v.mp4", codec=codec, gop=8, options=options), edits)
    assert_as_demuxed(path)


@pytest.mark.parametrize("edits", [None, [(5000, 1024)], [(5000, 512)], [(300, 512 * 3)], [(500, -1), (5000, 700)]])
@pytest.mark.parametrize("first", [3, 8])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "0"}),
        ("libx264", {"x264-params": "open-gop=1:bframes=2:b-adapt=0"}),
        ("libx265", {"x265-params": "log-level=error:keyint=8:min-keyint=8:bframes=3"}),
    ],
)
def test_edit_lists_of_files_that_begin_elsewhere(
    tmp_path: Path, codec: str, options: dict[str, str], first: int, edits: list[tuple[int, int]] | None
) -> None:
    """Packet ``first`` is within a GOP, or one that leading pictures follow."""
    whole = make_video(tmp_path / "v.mp4", codec=codec, gop=8, frames=40, options=options)
    path = remuxed(whole, tmp_path / "cut.mp4", first=first)
    assert_as_demuxed(path if edits is None else with_edits(path, edits))


def test_pictures_that_edits_give_the_same_time_come_in_ffmpegs_order(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", frames=12, gop=3, options={"bf": "2"})
    path = with_edits(path, [(300, 512 * 4), (233, 512 * 11)])
    shown = [frame_number(picture) for picture in decode_all(path)]
    video = Video(path)
    assert len(video) == len(shown) > len(set(video.index.frame_pts.tolist()))
    assert [frame_number(picture.numpy()) for picture in video] == shown
    demuxed = demux_index(path)
    np.testing.assert_array_equal(video.index.frame_packet, demuxed.frame_packet)


def test_an_edit_list_of_nothing_but_delay_shows_nothing(tmp_path: Path) -> None:
    path = with_edits(make_video(tmp_path / "v.mp4", frames=9), [(500, -1)])
    with av.open(str(path)) as container:
        assert not list(container.decode(video=0))
    with pytest.raises(VideoError, match="no packets"):
        load_index(path)


@pytest.mark.parametrize("turn", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_rotation_is_the_decoders(tmp_path: Path, turn: tuple[int, int, int, int]) -> None:
    path = make_video(tmp_path / "v.mp4", frames=5)
    data = bytearray(path.read_bytes())
    a, b, c, d = (one << 16 for one in turn)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 4 + 40, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    assert_as_demuxed(path)


@pytest.mark.parametrize(
    ("suffix", "codec", "contiguous"),
    [("mkv", "libx264", True), ("mkv", "libx265", True), ("mkv", "libsvtav1", True), ("webm", "libvpx-vp9", True),
     ("ts", "libx264", False), ("avi", "libx264", None), ("h264", "libx264", None)],
)  # fmt: skip
def test_other_containers_show_the_same_frames(
    tmp_path: Path, suffix: str, codec: str, contiguous: bool | None
) -> None:
    path = make_video(tmp_path / f"v.{suffix}", codec=codec, gop=8)
    index = load_index(path, cache_dir=tmp_path / "cache")
    reference = parse_mp4(make_video(tmp_path / "v.mp4", codec=codec, gop=8))
    assert index.num_frames == 60
    assert contiguous is None or index.contiguous == contiguous
    assert (np.diff(index.frame_pts) > 0).all()
    assert (index.dts <= index.pts).all()
    np.testing.assert_array_equal(index.frame_packet, reference.frame_packet)
    np.testing.assert_array_equal(index.frame_start, reference.frame_start)
    if index.contiguous:
        data = path.read_bytes()
        with av.open(str(path)) as container:
            packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        assert [data[p : p + s] for p, s in zip(index.pos, index.size, strict=True)] == packets


def test_leading_pictures_start_a_keyframe_earlier(tmp_path: Path) -> None:
    index = parse_mp4(make_video(tmp_path / "v.mp4", codec="libx265", gop=8))
    keys = index.keyframes.tolist()
    leading = 0
    for packet, start in zip(index.frame_packet.tolist(), index.frame_start.tolist(), strict=True):
        own = max(key for key in keys if key <= packet)
        is_leading = index.pts[packet] < index.pts[own]
        leading += is_leading
        assert start == (keys[keys.index(own) - 1] if is_leading else own)
    assert leading > 0


def test_a_hit_opens_no_video_and_a_changed_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = make_video(tmp_path / "v.mp4"), tmp_path / "cache"
    first = load_index(path, cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr(load, "_is_iso", lambda path: pytest.fail("the video was opened"))
        second = load_index(path, cache_dir=cache)
    for name in VideoIndex.__slots__:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), name)
    assert [first.pts.dtype, first.size.dtype] == [second.pts.dtype, second.size.dtype]
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as large and as old as before
    with pytest.raises(VideoError):
        load_index(path, cache_dir=cache)


def test_many_are_indexed_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [str(make_video(tmp_path / f"{n}.mp4", frames=10 + n, gop=5)) for n in range(6)]
    Path(paths[2]).write_bytes(b"damaged")
    monkeypatch.setattr(load, "TOLD_EVERY_S", 0.0)
    for _ in range(2):  # read, and from the cache
        found = load_many(paths, cache_dir=tmp_path / "cache")
        assert sorted(found) == sorted(path for path in paths if path != paths[2])
        for path, index in found.items():
            assert index.num_frames == len(decode_all(path))
    assert "of 6 video files" in caplog.text
    assert load_many([], cache_dir=tmp_path / "cache") == {}


def test_a_damaged_cache_is_ignored(tmp_path: Path) -> None:
    path, cache = make_video(tmp_path / "v.mp4"), tmp_path / "cache"
    expected = load_index(path, cache_dir=cache).pts.tolist()
    (file,) = cache.iterdir()
    good = file.read_bytes()
    randomness = random.Random(0)
    for _ in range(50):
        bad = bytearray(good[: randomness.randrange(len(good))] if randomness.random() < 0.3 else good)
        if bad:
            bad[randomness.randrange(len(bad))] ^= 1 << randomness.randrange(8)
        file.write_bytes(bad)
        assert load_index(path, cache_dir=cache).pts.tolist() == expected
    assert [one.name for one in cache.iterdir()] == [file.name]


def test_an_unwritable_cache_does_no_harm(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4")
    (tmp_path / "file").write_text("in the way")
    assert load_index(path, cache_dir=tmp_path / "file" / "cache").num_frames == 60
    assert load_index(path, cache_dir=tmp_path / "file").num_frames == 60


@pytest.mark.parametrize("movflags", ["faststart", FRAGMENTS["movflags"]])
def test_a_truncated_file_is_an_error(tmp_path: Path, movflags: str) -> None:
    data = make_video(tmp_path / "v.mp4", gop=8, container_options={"movflags": movflags}).read_bytes()
    cut = tmp_path / "cut.mp4"
    whole = parse_mp4(tmp_path / "v.mp4").num_frames
    for length in [*range(0, len(data) - 1, 997), *range(0, 1200, 7)]:
        cut.write_bytes(data[:length])
        try:
            index = parse_mp4(cut)
        except VideoError as error:
            assert str(cut) in str(error)  # noqa: PT017  either outcome is right
        else:  # fragments that are all there may be used: a recording that was interrupted
            assert movflags != "faststart"
            assert index.num_frames <= whole
            assert (index.pos + index.size <= length).all()


@pytest.mark.parametrize("movflags", ["faststart", FRAGMENTS["movflags"]])
def test_flipped_bits_give_an_index_or_an_error_in_bounded_time(tmp_path: Path, movflags: str) -> None:
    path = make_video(tmp_path / "v.mp4", gop=8, container_options={"movflags": movflags})
    data, randomness = path.read_bytes(), random.Random(1)
    size = 3000
    for _ in range(1500):
        bad = bytearray(data)
        for _ in range(randomness.choice([1, 1, 4])):
            bad[randomness.randrange(size)] ^= 1 << randomness.randrange(8)
        path.write_bytes(bad)
        start = time.monotonic()
        try:
            index = parse_mp4(path)
        except VideoError as error:
            assert str(path) in str(error)  # noqa: PT017  either outcome is right
        except Untold:
            with contextlib.suppress(VideoError):
                demux_index(path)
        else:
            assert (index.pos >= 0).all()
            assert (index.pos + index.size <= len(data)).all()
        assert time.monotonic() - start < 2


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "bin"])
def test_garbage_and_missing_files_are_errors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    with pytest.raises(VideoError, match=path.name):
        load_index(path, cache_dir=tmp_path / "cache")
    for content in (b"", b"\0\0\0\x08ftyp", random.Random(2).randbytes(5000)):
        path.write_bytes(content)
        with pytest.raises(VideoError, match=path.name):
            load_index(path, cache_dir=tmp_path / "cache")
    with pytest.raises(VideoError):
        load_index(tmp_path, cache_dir=tmp_path / "cache")


@pytest.mark.skipif("GPULOAD_REAL_DATA" not in os.environ, reason="GPULOAD_REAL_DATA names no folder of real videos")
def test_real_videos_agree_with_ffmpeg() -> None:
    paths = sorted(Path(os.environ["GPULOAD_REAL_DATA"]).rglob("*.mp4"))
    assert paths
    for path in paths:
        assert_as_demuxed(path)


@pytest.mark.parametrize("change", [with_wide_offsets, with_compact_sizes])
def test_rarer_tables_agree_with_ffmpeg(tmp_path: Path, change: Callable[[Path], Path]) -> None:
    path = make_video(tmp_path / "v.mp4", gop=8)
    changed, plain = change(path), parse_mp4(path)
    assert path.read_bytes() != changed.read_bytes()
    index = assert_as_demuxed(changed)
    np.testing.assert_array_equal(index.pos, plain.pos)
    np.testing.assert_array_equal(index.size, plain.size)
