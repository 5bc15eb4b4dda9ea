"""Files whose tables or packets say what is not so: right frames, or an error that says why; never other frames."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import numpy.typing as npt
import pytest

from gpuload import Loader
from gpuload.decode.base import Run
from gpuload.decode.pyav import PyavDecoder, Settling
from gpuload.decode.registry import Machine, choose, kind_of
from gpuload.decode.runs import stream_of
from gpuload.device.nvdec import NvdecMissing
from gpuload.device.planes import form_of
from gpuload.errors import ConfigError, DecodeError, GpuloadError
from gpuload.index.load import load_index
from gpuload.index.nal import entry_of, units_of
from gpuload.pipeline.direct import read_packets
from gpuload.video import Video
from tests.integration.test_exact import assert_all_frames_exact
from tests.source import NumberedSource
from tests.videos import decode_all, make_video, remuxed


def patched(path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def open_gops(path: Path, **params: str | int) -> Path:
    settings = {"open-gop": 1, "bframes": 3, **params}
    return make_video(
        path, gop=10, frames=60, options={"x264-params": ":".join(f"{k}={v}" for k, v in settings.items())}
    )


@pytest.mark.parametrize("pyramid", ["none", "normal", "strict"])
@pytest.mark.parametrize("ref", [1, 4])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_open_gops_of_h264(tmp_path: Path, pyramid: str, ref: int, suffix: str) -> None:
    path = open_gops(tmp_path / f"v{suffix}", ref=ref, **{"b-pyramid": pyramid})
    video = load_index(path)
    assert (video.frame_start[video.frame_packet > 0] != 0).any()
    assert_all_frames_exact(path)


def test_open_gops_of_h264_through_a_loader(tmp_path: Path) -> None:
    options = {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal"}
    source = NumberedSource(tmp_path, episodes=2, cameras=1, frames=60, options=options)
    pictures = [decode_all(path) for path in source.paths]
    with Loader(source, 8, shuffle="global", num_threads=2, frame_cache_bytes=1 << 18) as loader:
        for batch in loader:
            for sample, window in zip(batch["index"].tolist(), batch["cam0"].numpy(), strict=True):
                refs = source.frames(np.array([sample]))
                for slot in range(2):
                    assert np.array_equal(window[slot], pictures[refs.file[0, slot]][refs.frame[0, slot]])


def test_damage_in_an_open_gop_is_an_error(tmp_path: Path) -> None:
    path = open_gops(tmp_path / "v.mp4")
    video = Video(path).index
    key = int(video.keyframes[2])
    number = key + int(np.argmax(video.pts[key + 1 :] > video.pts[key])) + 1  # the first P-frame behind it
    begin, size = int(video.pos[number]), int(video.size[number])
    wanted = decode_all(path)

    def damage(data: bytearray) -> None:
        data[begin + size // 2 : begin + size] = bytes(size - size // 2)

    damaged = Video(patched(path, damage))
    frame = int(np.flatnonzero(video.frame_packet == number)[0])
    with pytest.raises(DecodeError, match=r"v\.mp4: packet \d+ \(h264\): the decoder complains \("):
        damaged.frames([frame])
    assert np.array_equal(damaged.frames([2])[0].numpy(), wanted[2])


def halves(frames: int) -> list[npt.NDArray[np.uint8]]:
    """Noise A, then from frame 10 on noise B, of which A's right quarter comes back one frame later."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 96, 128), np.uint8)
    mixed = second.copy()
    mixed[:, 96:] = first[:, 96:]
    return [first] * 10 + [second] + [mixed] * (frames - 11)


def video_of_halves(path: Path) -> Path:
    """With an I-frame at 10 that is no access point: frame 11 refers to what was before it."""
    with av.open(str(path), "w") as container:
        params = "ref=2:bframes=0:weightp=0:keyint=250:min-keyint=250:scenecut=40"
        stream = container.add_stream("libx264", rate=30, options={"x264-params": params})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number, picture in enumerate(halves(40)):
            frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_an_i_frame_that_is_no_access_point_is_not_begun_at(tmp_path: Path) -> None:
    plain = video_of_halves(tmp_path / "plain.mp4")
    kinds: list[str] = []

    def mark(number: int, data: bytes, key: bool) -> tuple[bytes, bool]:
        kinds.append(entry_of("h264", b"\1\0\0\0\xff\xe0\0", data).kind)
        return data, key or number == 10

    path = remuxed(plain, tmp_path / "v.mp4", mark)
    assert kinds[:12] == ["clean", *["none"] * 9, "intra", "none"]
    assert load_index(path).keyframes.tolist() == [0]
    assert_all_frames_exact(path)


def test_pictures_that_are_refreshed_bit_by_bit_are_decoded_from_the_last_whole_one(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", gop=30, frames=90, options={"intra-refresh": "1", "bf": "0"})
    assert load_index(path).keyframes.tolist() == [0]
    assert_all_frames_exact(path)


def sets_of(extradata: bytes) -> bytes:
    """Parameter sets of an ``avcC``, with sizes of four bytes, as packets carry them."""
    found, offset = b"", 6
    for count in (extradata[5] & 31, None):
        if count is None:
            count, offset = extradata[offset], offset + 1
        for _ in range(count):
            size = int.from_bytes(extradata[offset : offset + 2], "big")
            found += size.to_bytes(4, "big") + extradata[offset + 2 : offset + 2 + size]
            offset += 2 + size
    return found


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    "where", ["every keyframe", "the first keyframe", "the first keyframe, and the old ones later"]
)
@pytest.mark.parametrize("params", ["qpstep=4:crf=40", "chroma-qp-offset=10"])
def test_parameter_sets_in_packets_do_not_reach_other_gops(
    tmp_path: Path, suffix: str, where: str, params: str
) -> None:
    """With another chroma-qp-offset nothing but the colours would be wrong, and nobody would complain."""
    first = make_video(tmp_path / "a.mp4", gop=10, frames=30, tint=True, options={"crf": "18"})
    second = make_video(tmp_path / "b.mp4", gop=10, frames=50, tint=True, options={"x264-params": params})
    path, shift = tmp_path / f"v{suffix}", 0
    with av.open(str(first)) as a, av.open(str(second)) as b, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(a.streams.video[0])
        old, sets = (sets_of(bytes(c.streams.video[0].codec_context.extradata or b"")) for c in (a, b))
        assert old != sets
        for container in (a, b, a):
            container.seek(0)
            for number, packet in enumerate(p for p in container.demux(video=0) if p.size):
                data = bytes(packet)
                if packet.is_keyframe and container is b and (where == "every keyframe" or not number):
                    data = sets + data
                if packet.is_keyframe and container is a and shift and not number:
                    data = old + data
                copy = av.Packet(data)
                assert packet.pts is not None
                assert packet.dts is not None
                copy.pts, copy.dts, copy.time_base = packet.pts + shift, packet.dts + shift, packet.time_base
                copy.duration, copy.is_keyframe, copy.stream = packet.duration, packet.is_keyframe, stream
                new.mux(copy)
            shift += (50 if container is b else 30) * 512
            if "later" not in where and container is b:
                break
    keyframes = load_index(path).keyframes.tolist()
    assert keyframes[:4] == [0, 10, 20, 30]
    assert (40 in keyframes) == (where == "every keyframe")
    assert (90 in keyframes) == ("later" in where)  # the old sets are back
    assert_all_frames_exact(path)


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        ("libx264", b"\0\0\0\5\x06\x05\x40\0\x80"),
        ("libx265", b"\0\0\0\6\x4e\x01\x05\x40\0\x80"),
        ("libx265", b"\0\0\0\6\x50\x01\x05\x40\0\x80"),
    ],
)
def test_a_message_that_is_cut_off_harms_no_picture_and_hides_no_damage(
    tmp_path: Path, codec: str, message: bytes
) -> None:
    options = {"libx264": {}, "libx265": {"x265-params": "log-level=error"}}[codec]
    plain = make_video(tmp_path / "plain.mp4", codec=codec, gop=10, frames=30, options=options)
    path = remuxed(plain, tmp_path / "v.mp4", lambda _, data, key: (message + data, key))
    level = av.logging.get_level()
    assert_all_frames_exact(path)
    assert av.logging.get_level() == level

    def cut(number: int, data: bytes, key: bool) -> tuple[bytes, bool]:
        return message + (data[: len(data) // 2] if number == 2 else data), key

    damaged = remuxed(plain, tmp_path / "w.mp4", cut)
    with pytest.raises(DecodeError, match=r"w\.mp4"):
        Video(damaged).frames(range(10))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_whatever_a_packet_holds_it_can_be_looked_at(codec: str) -> None:
    rng = np.random.default_rng(0)
    configurations = [b"", b"\0\0\1" + bytes(30), b"\1" + bytes(30), b"\1" + b"\xff" * 30]
    for size in [*range(12), *rng.integers(12, 400, 300).tolist()]:
        packet = rng.integers(0, 256 if size % 2 else 8, size, np.uint8).tobytes()
        for extradata in configurations:
            assert entry_of(codec, extradata, packet).kind in ("clean", "open", "gradual", "intra", "none", "unknown")
            assert sum(len(unit) for unit in units_of(codec, extradata, packet)) <= size


def test_a_keyframe_that_only_the_decoder_finds_to_be_none_is_an_error(tmp_path: Path) -> None:
    """Of many keyframes the index looks at some; every one is looked at when it is decoded."""
    plain = make_video(tmp_path / "plain.mp4", gop=2, frames=600, options={"bf": "0"})
    path = remuxed(plain, tmp_path / "v.mp4", lambda number, data, key: (data, key or number == 91))
    video = load_index(path)
    assert 91 in video.keyframes  # not looked at
    wanted = decode_all(path)
    with pytest.raises(GpuloadError, match="packet 91"):
        Video(path).frames([91])
    assert np.array_equal(Video(path).frames([89])[0].numpy(), wanted[89])


def test_damage_is_heard_in_every_thread(tmp_path: Path) -> None:
    path = open_gops(tmp_path / "v.mp4")
    video = Video(path).index
    key = int(video.keyframes[2])
    number = key + int(np.argmax(video.pts[key + 1 :] > video.pts[key])) + 1
    begin, size = int(video.pos[number]), int(video.size[number])

    def damage(data: bytearray) -> None:
        data[begin + size // 2 : begin + size] = bytes(size - size // 2)

    patched(path, damage)
    frame = int(np.flatnonzero(video.frame_packet == number)[0])

    def refused(_: int) -> bool:
        try:
            Video(path).frames([frame])
        except DecodeError:
            return True
        return False

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(refused, range(40)))
    assert av.logging.get_level() is None


def test_interlaced_pictures(tmp_path: Path) -> None:
    """swscale converts the fields of such a picture one by one: a row's chroma is that of its own field."""
    path = tmp_path / "v.mp4"
    rows, columns = np.mgrid[:96, :128]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "8", "x264-params": "interlaced=1:tff=1"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(20):
            waves = [128 + 100 * np.sin((rows + columns * k / 5 + number) / (k + 2)) for k in (1, 2, 3)]
            picture = av.VideoFrame.from_ndarray(np.stack(waves, -1).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    assert_all_frames_exact(path)
    kind = kind_of(load_index(path))
    assert kind.may_interlace
    assert not kind_of(load_index(make_video(tmp_path / "plain.mp4"))).may_interlace
    machine = Machine({"torchcodec": ""}, NvdecMissing("no device", "device is cpu"))
    with pytest.raises(ConfigError, match="may be interlaced"):
        choose(kind, device="cpu", backend="torchcodec", machine=machine)
    with av.open(str(path)) as container, pytest.raises(DecodeError, match="interlaced"):
        form_of(next(container.decode(video=0)), pixel_format="yuv420p", rotation=0, chroma_location=0)


@pytest.mark.parametrize("bframes", [0, 3])
def test_a_picture_that_refers_to_one_with_a_lost_slice_is_an_error(tmp_path: Path, bframes: int) -> None:
    params = f"slices=4:bframes={bframes}:b-pyramid=none:scenecut=0"
    path = make_video(tmp_path / "v.mp4", gop=30, frames=30, options={"x264-params": params})
    video = load_index(path)
    wanted = decode_all(path)
    # The first P-frame behind the keyframe; with B-frames it is shown after those that refer to it.
    number = 1
    begin, size = int(video.pos[number]), int(video.size[number])

    def lose(data: bytearray) -> None:
        offset = begin
        slices = []
        while offset < begin + size:
            if data[offset + 4] & 31 in (1, 5):
                slices.append(offset + 4)
            offset += 4 + int.from_bytes(data[offset : offset + 4], "big")
        assert len(slices) == 4
        data[slices[1]] = 12  # filler

    damaged = Video(patched(path, lose))
    shown = int(np.flatnonzero(video.frame_packet == number)[0])
    with pytest.raises(DecodeError):
        damaged.frames([shown])
    for frame in range(1, 8):
        if video.frame_packet[frame] >= number:
            with pytest.raises(DecodeError):
                damaged.frames([frame])
    assert np.array_equal(damaged.frames([0])[0].numpy(), wanted[0])


def test_what_comes_before_a_lost_slice_is_still_had(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", gop=30, frames=30, options={"x264-params": "slices=4:b-adapt=0:bframes=3"})
    video = load_index(path)
    wanted = decode_all(path)
    number = 13  # the fourth P-frame: B-frames follow in threes
    begin = int(video.pos[number])

    def lose(data: bytearray) -> None:
        second = begin + 4 + int.from_bytes(data[begin : begin + 4], "big")
        assert data[second + 4] & 31 == 1
        data[second + 4] = 12

    patched(path, lose)
    packets = read_packets(video, 0, 29)
    run, found = Run(0, packets, (), frozenset(range(30)), video.pts.tolist()), dict[int, Any]()

    def decode() -> None:
        for packet, picture in PyavDecoder().decode(stream_of(video), run):
            found[packet] = picture.to_ndarray(format="rgb24").transpose(2, 0, 1)

    with pytest.raises(DecodeError, match="packet 13"):
        decode()
    assert sorted(found) == list(range(13))
    assert list(found) == [n for n in video.frame_packet.tolist() if n < 13]  # as they are shown
    for frame, packet in enumerate(video.frame_packet.tolist()):
        assert packet not in found or np.array_equal(found[packet], wanted[frame])


def test_what_has_settled_is_handed_out_and_nothing_behind_damage() -> None:
    def came(*numbers: int) -> list[int | None]:
        frames = [av.VideoFrame(16, 16) for _ in numbers]
        for frame, number in zip(frames, numbers, strict=True):
            frame.pts = number
        return [frame.pts for frame in settling.settle(frames)]

    settling = Settling(lambda frame: frame.pts == 7)
    for number in range(9):
        settling.feed(number)
    assert came(0) == [0]
    assert came(3) == []  # shown before 1 and 2, which may be damaged
    assert came(2) == []
    assert came(1) == [3, 2, 1]  # as they are shown
    assert came(4, 6, 5, 8, 7) == [4, 6, 5, 7]


def test_an_access_point_that_is_only_about_right_is_not_begun_at(tmp_path: Path) -> None:
    plain = video_of_halves(tmp_path / "plain.mp4")
    about = bytes.fromhex("00000005 06 06 01 84 80")  # recovery point: 0 frames, exact_match_flag 0, no broken link

    def mark(number: int, data: bytes, key: bool) -> tuple[bytes, bool]:
        return (about + data if number == 10 else data), key or number == 10

    path = remuxed(plain, tmp_path / "v.mp4", mark)
    assert_all_frames_exact(path)
