"""Containers whose tables say what is not so, or say it in an unusual way."""

import struct
import tracemalloc
from pathlib import Path

import av
import av.logging
import numpy as np
import pytest
from av.video.frame import PictureType

from gpuload.errors import DecodeError, VideoError
from gpuload.index.load import load_index
from gpuload.index.nal import units_of
from gpuload.index.parameter_sets import configured_units
from gpuload.video import Video
from tests.integration.test_exact import assert_all_frames_exact
from tests.integration.test_lying_files import patched
from tests.videos import decode_all, frame_number, keyframes, make_video, numbered_picture, remuxed


@pytest.mark.parametrize(
    ("codec", "rows"),
    [
        ("libx264", "free"),
        ("libx264", "empty"),
        ("libx264", "from zero"),
        ("libx265", "free"),
        ("libx265", "empty"),
        ("libsvtav1", "free"),
        ("libvpx-vp9", "free"),
        ("mpeg4", "free"),
        ("mpeg4", "empty"),
    ],
)
def test_a_table_of_keyframes_that_says_something_else(tmp_path: Path, codec: str, rows: str) -> None:
    closed = "log-level=error:keyint=10:min-keyint=10:open-gop=0"
    options = {"x265-params": closed} if codec == "libx265" else {}
    path = make_video(tmp_path / "v.mp4", codec=codec, gop=10, frames=30, options=options)

    def change(data: bytearray) -> None:
        at = data.find(b"stss")
        count = int.from_bytes(data[at + 8 : at + 12], "big")
        if rows == "free":  # without the table every packet is called a keyframe
            data[at : at + 4] = b"free"
        elif rows == "empty":
            data[at + 8 : at + 12] = bytes(4)
        elif rows == "from zero":
            for n in range(count):
                place = slice(at + 12 + 4 * n, at + 16 + 4 * n)
                data[place] = (int.from_bytes(data[place], "big") - 1).to_bytes(4, "big")

    video = load_index(patched(path, change))
    assert video.keyframes.tolist() == [0, 10, 20]
    assert_all_frames_exact(path)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_b_frames_without_composition_offsets(tmp_path: Path, codec: str) -> None:
    options = {"libx264": {}, "libx265": {"x265-params": "log-level=error"}}[codec]
    path = make_video(tmp_path / "v.mp4", codec=codec, gop=10, frames=30, options=options)
    path.write_bytes(path.read_bytes().replace(b"ctts", b"free").replace(b"edts", b"free"))
    assert_all_frames_exact(path)


def test_reordered_pictures_that_come_late_are_an_error(tmp_path: Path) -> None:
    """Whether times are told is looked at in the first packets; all pictures are looked at when they are decoded."""
    picture = np.zeros((96, 128), np.uint8)
    moving = np.random.default_rng(0).integers(0, 256, (96, 400), np.uint8)
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        params = "keyint=250:bframes=3:b-adapt=0:scenecut=0"
        stream = container.add_stream("libx264", rate=30, options={"x264-params": params})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(100):
            gray = picture if number < 70 else moving[:, 3 * (number - 70) : 3 * (number - 70) + 128]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(gray), format="gray").reformat(format="yuv420p")
            frame.pts = number
            frame.pict_type = PictureType.P if number < 70 else PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"ctts", b"free").replace(b"edts", b"free"))
    assert len(Video(path).frames(range(60))) == 60
    with pytest.raises(DecodeError, match="another order"):
        Video(path).frames(range(100))


def test_fragments_that_overlap_in_time(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", gop=10, frames=40, container_options={"movflags": "frag_keyframe+empty_moov"})

    def earlier(data: bytearray) -> None:
        at, seen = data.find(b"tfdt"), 0
        while at > 0:
            layout = ">Q" if data[at + 4] == 1 else ">I"
            if seen:
                (value,) = struct.unpack_from(layout, data, at + 8)
                struct.pack_into(layout, data, at + 8, value - 5 * 512)
            at, seen = data.find(b"tfdt", at + 1), seen + 1
        assert seen > 2

    assert_all_frames_exact(patched(path, earlier))


def test_frames_that_vp8_does_not_show(tmp_path: Path) -> None:
    plain = make_video(tmp_path / "plain.webm", codec="libvpx", gop=10, frames=30)

    def hide(number: int, data: bytes, key: bool) -> tuple[bytes, bool]:
        return (bytes([data[0] & ~0x10]) + data[1:] if number == 5 else data), key

    path = remuxed(plain, tmp_path / "v.webm", hide)
    assert len(Video(path)) == 29
    assert_all_frames_exact(path)


@pytest.mark.parametrize(("codec", "form"), [("ffv1", "yuv420p"), ("ffv1", "gray16le"), ("mjpeg", "yuvj420p")])
def test_codecs_that_only_the_container_tells_the_size_of(tmp_path: Path, codec: str, form: str) -> None:
    assert_all_frames_exact(make_video(tmp_path / "v.mkv", codec=codec, frames=10, gop=1, pix_fmt=form))


def test_junk_behind_the_last_box(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", frames=20, gop=10)
    path.write_bytes(path.read_bytes() + b"\0\0\0\5junk")
    assert_all_frames_exact(path)


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0)])
def test_mirrored_videos_are_refused(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = make_video(tmp_path / "v.mp4", frames=5)
    a, b, c, d = (value << 16 for value in matrix)

    def mirror(data: bytearray) -> None:
        struct.pack_into(">5i", data, data.find(b"tkhd") + 4 + 40, a, b, 0, c, d)

    with pytest.raises(VideoError, match="mirrored"):
        load_index(patched(path, mirror))


def test_start_codes_in_a_container_that_promises_sizes(tmp_path: Path) -> None:
    plain = make_video(tmp_path / "plain.mp4", gop=10, frames=30)

    def with_start_codes(number: int, data: bytes, key: bool) -> tuple[bytes, bool]:
        units = units_of("h264", b"\1\0\0\0\xff\xe0\0", data)
        delimiter = b"\0\0\0\1\x09\xf0"
        return delimiter + b"".join(b"\0\0\0\1" + bytes(unit) for unit in units), key

    path = remuxed(plain, tmp_path / "v.mp4", with_start_codes)
    assert load_index(path).keyframes.tolist() == [0, 10, 20]
    assert_all_frames_exact(path)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_leading_pictures_that_refer_to_nothing_before_the_first_keyframe(tmp_path: Path, suffix: str) -> None:
    params = "log-level=error:radl=2:open-gop=0:bframes=3:keyint=10:min-keyint=10:b-adapt=0"
    whole = make_video(tmp_path / "whole.mp4", codec="libx265", gop=10, frames=50, options={"x265-params": params})
    path = remuxed(whole, tmp_path / f"v{suffix}", first=keyframes(whole)[1])
    video = load_index(path)
    first = int(video.keyframes[0])
    assert first == 0
    if suffix == ".mkv":
        assert (video.pts < video.pts[first]).any()
    assert_all_frames_exact(path)


def test_what_the_container_cuts_off(tmp_path: Path) -> None:
    """FFmpeg's H.264 decoder believes a container that is smaller by less than a macroblock."""

    def change(data: bytearray) -> None:
        at = data.index(b"avc1", data.index(b"stsd"))
        assert struct.unpack_from(">HH", data, at + 28) == (128, 96)
        struct.pack_into(">HH", data, at + 28, 126, 90)

    path = patched(make_video(tmp_path / "v.mp4", gop=8, frames=20), change)
    assert decode_all(path)[0].shape == (3, 90, 126)
    assert_all_frames_exact(path)


@pytest.mark.parametrize("size", [(64, 48), (256, 192), (96, 128)])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "mpeg4"])
def test_another_size_in_the_sample_description(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    options = {"x265-params": "log-level=error"} if codec == "libx265" else {}

    def change(data: bytearray) -> None:
        at = data.index(b"stsd") + 16
        assert struct.unpack_from(">HH", data, at + 28) == (128, 96)
        struct.pack_into(">HH", data, at + 28, *size)

    path = patched(make_video(tmp_path / "v.mp4", codec=codec, gop=8, frames=20, options=options), change)
    assert decode_all(path)[0].shape == (3, 96, 128)
    assert_all_frames_exact(path)


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_another_size_in_matroska(tmp_path: Path, codec: str) -> None:
    def change(data: bytearray) -> None:
        at = data.index(b"\xb0\x81\x80\xba\x81\x60")  # PixelWidth 128, PixelHeight 96
        data[at + 2], data[at + 5] = 64, 48

    path = patched(make_video(tmp_path / "v.mkv", codec=codec, gop=8, frames=20), change)
    assert decode_all(path)[0].shape == (3, 96, 128)
    assert_all_frames_exact(path)


def test_a_table_of_composition_offsets_that_ends_early(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", gop=10, frames=40, options={"x264-params": "bframes=2:b-adapt=0"})

    def change(data: bytearray) -> None:
        at = data.index(b"ctts") + 8
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] // 2)

    patched(path, change)
    with av.open(str(path)) as container:
        times = sorted(p.pts for p in container.demux(video=0) if p.size and p.pts is not None)
    video = load_index(path)
    assert video.frame_pts.tolist() == times
    wanted = decode_all(path)
    for frame in range(0, 10):  # what FFmpeg itself shows there
        assert np.array_equal(Video(path).frames([frame])[0].numpy(), wanted[frame])


def test_a_fragment_that_promises_millions_of_packets_costs_no_memory(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = make_video(tmp_path / "v.mp4", gop=10, frames=20, container_options=options)

    def box(kind: bytes, *bodies: bytes) -> bytes:
        body = b"".join(bodies)
        return struct.pack(">I", 8 + len(body)) + kind + body

    for track in (1, 7):
        runs = [box(b"trun", struct.pack(">II", 0, 0xFFFFFF))] * 60
        moof = box(b"moof", box(b"traf", box(b"tfhd", struct.pack(">II", 0x20000, track)), *runs))
        bomb = tmp_path / f"bomb{track}.mp4"
        bomb.write_bytes(path.read_bytes() + moof + box(b"free", bytes(17 << 20)))
        tracemalloc.start()
        try:
            if track == 1:
                with pytest.raises(VideoError, match="packets"):
                    load_index(bomb)
            else:
                assert load_index(bomb).num_frames == 20
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 2 << 30


@pytest.mark.parametrize("sidx", ["+global_sidx", ""])
def test_fragments_whose_offsets_grow(tmp_path: Path, sidx: str) -> None:
    """With an index of fragments FFmpeg meets their offsets one by one, and moves only the times that come after."""
    path = tmp_path / "v.mp4"
    movflags = f"frag_keyframe+empty_moov+default_base_moof+negative_cts_offsets{sidx}"
    with av.open(str(path), "w", options={"movflags": movflags}) as container:
        params = "bframes=3:b-adapt=0:keyint=10:min-keyint=10:scenecut=0"
        stream = container.add_stream("libx264", rate=30, options={"x264-params": params})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, 128, 96), format="gray")
            frame = frame.reformat(format="yuv420p")
            frame.pts = number
            if number < 20 and number % 10:
                frame.pict_type = PictureType.P
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert path.read_bytes().count(b"sidx") == bool(sidx)
    with av.open(str(path)) as container:
        times = [frame.pts for frame in container.decode(video=0)]
    assert load_index(path).frame_pts.tolist() == times
    assert_all_frames_exact(path)


def test_dropped_frames_of_avi(tmp_path: Path) -> None:
    """The muxer writes an empty chunk for each, which FFmpeg's demuxer counts."""
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuvj420p"
        for number in (0, 1, 5, 6, 7):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, 128, 96), format="gray")
            frame = frame.reformat(format="yuvj420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = Video(path)
    assert video.pts_s.tolist() == [number / 30 for number in (0, 1, 5, 6, 7)]
    assert [frame_number(picture.numpy()) for picture in video] == [0, 1, 5, 6, 7]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("codec", "frames", "every"), [("libx264", 30, 1000), ("libx265", 30, 1000), ("libx264", 400, 2)]
)
def test_parameter_sets_between_keyframes(tmp_path: Path, codec: str, frames: int, every: int, suffix: str) -> None:
    """Packet 5, and every other one of a long file, brings another chroma offset, which stays: who begins at a later
    keyframe must have seen it. Nothing but colours would be wrong, and nobody would complain."""
    base = "log-level=error:keyint=10:min-keyint=10:open-gop=0:bframes=0"
    params = (
        ("x264-params", "chroma-qp-offset=10") if codec == "libx264" else ("x265-params", "cbqpoffs=10:crqpoffs=10")
    )
    mine, other = (
        make_video(
            tmp_path / f"{name}.mp4",
            codec=codec,
            gop=10,
            frames=count,
            tint=True,
            options={"x265-params": base, "bf": "0"} | ({params[0]: f"{base}:{params[1]}"} if name == "other" else {}),
        )
        for name, count in (("mine", frames), ("other", 10))
    )
    name = {"libx264": "h264", "libx265": "hevc"}[codec]
    with av.open(str(other)) as container:
        extradata = bytes(container.streams.video[0].codec_context.extradata or b"")
    units = map(bytes, configured_units(name, extradata))
    pps = next(u for u in units if (u[0] & 31 == 8 if codec == "libx264" else u[0] >> 1 == 34))
    pps = len(pps).to_bytes(4, "big") + pps
    path = remuxed(
        mine,
        tmp_path / f"v{suffix}",
        lambda n, data, key: ((pps + data) if not key and n % every == 5 % every else data, key),
    )
    assert_all_frames_exact(path)
