"""Laws of the chroma location: what the encoder was told and FFmpeg's own parsers say, and damage says nothing."""

import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from gpuload.decode.runs import stream_of
from gpuload.index.chroma import chroma_location
from gpuload.index.demux import demux_index
from gpuload.index.load import load_index
from gpuload.index.mp4 import parse_mp4
from tests.parameter_sets import Writer, write_h264, write_hevc
from tests.videos import make_video

AVCHROMA = ("unspecified", "left", "center", "topleft", "top", "bottomleft", "bottom")
RANDOM_SETS = 150


def encoded(path: Path, codec: str, params: str, *, pix_fmt: str = "yuv420p", width: int = 128) -> Path:
    name = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}.get(codec)
    quiet = "log-level=error:" if codec == "libx265" else ""
    options = {name: quiet + params} if name else {}
    return make_video(path, codec=codec, frames=4, pix_fmt=pix_fmt, width=width, options=options)


@pytest.fixture
def ffmpeg_log() -> Iterator[None]:
    """FFmpeg's messages up to "info" are there to be captured."""
    level, repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(False)
    yield
    av.logging.set_skip_repeated(repeated)
    av.logging.set_level(level)


def traced(path: Path, packet: bytes | None = None) -> int:
    """What FFmpeg's bitstream reader finds in a file's extradata, or in a packet that is read as the file's."""
    with av.open(str(path)) as container:
        with av.logging.Capture(local=False) as log:
            reader = av.BitStreamFilterContext("trace_headers", container.streams.video[0])
            if packet is not None:
                log.clear()
                reader.filter(av.Packet(packet))
    text = "".join(line for _, name, line in log if name == "trace_headers")
    if position := re.search(r" chroma_sample_position .* = (\d+)", text):
        return {0: 0, 1: 1, 2: 3}[int(position[1])]
    assert re.search(" vui_parameters_present_flag ", text), "FFmpeg did not read so far"
    found = re.search(r" chroma_sample_loc_type_top_field .* = (\d+)", text)
    return int(found[1]) + 1 if found else 0


def shown(path: Path) -> int:
    """AVChromaLocation of the first picture that FFmpeg's decoder puts out."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        graph = av.filter.Graph()
        nodes = [graph.add_buffer(template=stream), graph.add("showinfo"), graph.add("buffersink")]
        graph.link_nodes(*nodes).configure()
        frame = next(container.decode(stream))
        with av.logging.Capture(local=False) as log:
            graph.push(frame)
            graph.pull()
    found = re.search(r" cl:(\w+) ", "".join(line for _, name, line in log if name == "showinfo"))
    assert found is not None
    return AVCHROMA.index(found[1])


def assert_told(path: Path, expected: int) -> None:
    """Both ways of indexing agree with FFmpeg's parser and decoder; to that, silence of H.264 and HEVC is "left"."""
    index = load_index(path, cache_dir=path.parent / "cache")
    assert index.chroma_location == demux_index(path).chroma_location == expected
    assert stream_of(load_index(path, cache_dir=path.parent / "cache")).chroma_location == expected
    if index.extradata[0]:
        assert traced(path) == expected
    silence = (0, 1) if index.codec in ("h264", "hevc") else (0,)
    assert shown(path) in ((expected,) if expected else silence)


@pytest.mark.usefixtures("ffmpeg_log")
@pytest.mark.parametrize("told", range(6))
@pytest.mark.parametrize(
    ("name", "params", "pix_fmt", "width"),
    [
        ("v.mp4", "", "yuv420p", 128),
        ("v.mp4", "bframes=0:cabac=0:8x8dct=0:weightp=0", "yuv420p", 128),
        ("v.mp4", "interlaced=1:tff=1:ref=4:b-pyramid=strict", "yuv420p", 128),
        ("v.mp4", "cqm=jvt:sar=40/33:overscan=show", "yuv420p", 130),
        ("v.mp4", "colorprim=bt709:transfer=bt709:colormatrix=bt709:range=pc:sar=1/1", "yuv420p", 128),
        ("v.mov", "", "yuv420p10le", 130),
        ("v.h264", "aud=1", "yuv420p", 128),
        ("v.ts", "aud=1:interlaced=1", "yuv420p10le", 128),
        ("v.mkv", "repeat-headers=1", "yuv420p", 128),
    ],
)
def test_h264_is_what_the_encoder_was_told(
    tmp_path: Path, name: str, params: str, pix_fmt: str, width: int, told: int
) -> None:
    params = f"chromaloc={told}" + (f":{params}" if params else "")
    path = encoded(tmp_path / name, "libx264", params, pix_fmt=pix_fmt, width=width)
    assert_told(path, told + 1 if told else 0)  # x264 writes nothing for 0


@pytest.mark.usefixtures("ffmpeg_log")
@pytest.mark.parametrize("told", range(6))
@pytest.mark.parametrize(
    ("name", "params", "pix_fmt", "width"),
    [
        ("v.mp4", "", "yuv420p", 128),
        ("v.mp4", "scaling-list=default:ref=5:bframes=8:b-pyramid=1", "yuv420p", 130),
        ("v.mp4", "temporal-layers=3:sar=4:overscan=show", "yuv420p", 128),
        ("v.mov", "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:range=full", "yuv420p10le", 128),
        ("v.hevc", "aud=1", "yuv420p", 128),
        ("v.ts", "temporal-layers=2:scaling-list=default", "yuv420p10le", 130),
        ("v.mkv", "repeat-headers=1:interlace=tff", "yuv420p", 128),
    ],
)
def test_hevc_is_what_the_encoder_was_told(
    tmp_path: Path, name: str, params: str, pix_fmt: str, width: int, told: int
) -> None:
    params = f"chromaloc={told}" + (f":{params}" if params else "")
    assert_told(encoded(tmp_path / name, "libx265", params, pix_fmt=pix_fmt, width=width), told + 1)


@pytest.mark.usefixtures("ffmpeg_log")
@pytest.mark.parametrize(("position", "expected"), [("unknown", 0), ("vertical", 1), ("colocated", 3)])
@pytest.mark.parametrize(("suffix", "pix_fmt"), [("mp4", "yuv420p"), ("mkv", "yuv420p10le"), ("webm", "yuv420p")])
def test_av1_is_what_the_encoder_was_told(
    tmp_path: Path, suffix: str, pix_fmt: str, position: str, expected: int
) -> None:
    params = f"chroma-sample-position={position}"
    assert_told(encoded(tmp_path / f"v.{suffix}", "libsvtav1", params, pix_fmt=pix_fmt), expected)


@pytest.mark.usefixtures("ffmpeg_log")
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "mpeg4"])
def test_a_stream_that_says_nothing_is_unspecified(tmp_path: Path, codec: str) -> None:
    path = make_video(tmp_path / "v.mp4", codec=codec, frames=4)
    assert parse_mp4(path).chroma_location == demux_index(path).chroma_location == 0


@pytest.mark.usefixtures("ffmpeg_log")
@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv422p"), ("libx264", "yuv444p"), ("libx265", "yuv444p")])
def test_other_subsamplings_say_what_ffmpeg_reads(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    path = encoded(tmp_path / "v.mp4", codec, "chromaloc=2", pix_fmt=pix_fmt)
    assert parse_mp4(path).chroma_location == demux_index(path).chroma_location == traced(path)


@pytest.mark.usefixtures("ffmpeg_log")
def test_vp9_has_no_configuration_and_a_box_that_ffmpeg_does_not_believe_itself(tmp_path: Path) -> None:
    path = encoded(tmp_path / "v.mp4", "libvpx-vp9", "")
    data = path.read_bytes()
    at = data.index(b"vpcC") + 4
    box = data[at : at + 12]
    assert box[6] >> 1 & 7 == 1  # "colocated", of a stream that knows nothing
    assert parse_mp4(path).extradata == (b"",)
    assert_told(path, 0)


@pytest.mark.usefixtures("ffmpeg_log")
def test_motion_jpeg_is_centred(tmp_path: Path) -> None:
    assert_told(make_video(tmp_path / "v.mkv", codec="mjpeg", frames=2, pix_fmt="yuvj420p"), 2)


@pytest.mark.usefixtures("ffmpeg_log")
@pytest.mark.parametrize(("codec", "name", "write"), [("h264", "v.h264", write_h264), ("hevc", "v.hevc", write_hevc)])
def test_parameter_sets_that_no_encoder_here_writes(
    tmp_path: Path, codec: str, name: str, write: Callable[[int], tuple[bytes, int]]
) -> None:
    path = make_video(tmp_path / name, codec="libx264" if codec == "h264" else "libx265", frames=2)
    seen = set()
    for seed in range(RANDOM_SETS):
        stream, expected = write(seed)
        assert traced(path, stream) == expected, seed  # so the writer above is right
        assert chroma_location(codec, stream) == expected, seed
        for length in range(len(stream) - 16, len(stream)):
            assert chroma_location(codec, stream[:length]) in (0, expected), seed
        seen.add(expected)
    assert seen == set(range(7))


def test_parameter_sets_of_other_layers_are_passed_over() -> None:
    base, other = (next(s for s, found in map(write_hevc, range(100)) if found == wanted) for wanted in (3, 5))
    at = other.index(b"\0\0\1\x42\1")
    view = other[at : at + 4] + b"\x09" + other[at + 5 :]  # nuh_layer_id 1
    assert [chroma_location("hevc", data) for data in (view, view + base, base + view, other)] == [0, 3, 3, 5]


def test_a_reserved_location_is_nothing() -> None:
    w = Writer(0)
    w.u(24, 66 << 16 | 10)  # baseline
    for value in (0, 0, 2, 1):  # id, frame number bits, order type, references
        w.ue(value, value)
    w.u(1, 0)
    w.ue(5, 5)
    w.ue(5, 5)
    w.u(8, 0b110_1_0001)  # frames only, no cropping; a VUI with nothing but the location
    known = w.bits
    for number, expected in enumerate((1, 2, 3, 4, 5, 6, 0, 0)):
        w.bits = known
        w.ue(number, number)
        w.ue(number, number)
        w.u(5, 0)
        assert chroma_location("h264", b"\0\0\1" + w.unit(b"\x67")) == expected


def test_bare_av1_units_are_no_configuration(tmp_path: Path) -> None:
    (whole,) = parse_mp4(encoded(tmp_path / "v.mp4", "libsvtav1", "chroma-sample-position=colocated")).extradata
    assert [chroma_location("av1", data) for data in (whole, whole[:4], b"\x12\0" + whole[4:])] == [3, 3, 0]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_damage_says_nothing_in_bounded_time(tmp_path: Path, codec: str, suffix: str) -> None:
    if codec == "libsvtav1":
        path = encoded(tmp_path / "v.mp4", codec, "chroma-sample-position=colocated")
    else:
        path = encoded(
            tmp_path / f"v.{suffix}", codec, "chromaloc=2:scaling-list=default" if codec[-1] == "5" else "chromaloc=2"
        )
    index = load_index(path, cache_dir=tmp_path / "cache")
    (whole,) = index.extradata
    assert index.chroma_location == 3
    start = time.monotonic()
    found = [chroma_location(index.codec, whole[:length]) for length in range(len(whole) + 1)]
    assert found[0] == 0
    assert found == sorted(found)  # nothing, and from one byte on the truth
    assert set(found) == {0, 3}
    randomness = random.Random(0)
    for _ in range(3000):
        bad = bytearray(whole)
        for _ in range(randomness.choice([1, 1, 4, 40])):
            bad[randomness.randrange(len(bad))] ^= 1 << randomness.randrange(8)
        assert 0 <= chroma_location(index.codec, bytes(bad)) <= 6
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9", "mjpeg", ""])
def test_any_bytes_are_answered_in_bounded_time(codec: str) -> None:
    randomness = random.Random(1)
    for head in (b"", b"\1", b"\0\0\1", b"\0\0\0\1\x67", b"\0\0\1\x42\1", b"\1" + bytes(21) + b"\xff"):
        for fill in (b"\0", b"\xff", b"\0\0\1", b"\0\0\3", randomness.randbytes(997), b"\x67", b"\0\0\1\x67\x64"):
            for length in (0, 1, 7, 300, 1 << 20):
                data = head + (fill * (length // len(fill) + 1))[:length] + b"\x80"
                start = time.monotonic()
                assert 0 <= chroma_location(codec, data) <= 6
                assert time.monotonic() - start < 2
