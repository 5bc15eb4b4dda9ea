"""Laws of routing, from recorded capability tables: what decodes which stream, and what is said about it."""

import itertools
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from gpuload.decode.registry import (
    BACKENDS,
    NAMES,
    RGB,
    UNKNOWN_PROFILE,
    Choice,
    Machine,
    StreamKind,
    choose,
    find_machine,
    kind_of,
)
from gpuload.device.nvdec import CHROMAS, CODECS, DEPTHS, NvdecCaps, NvdecMissing, NvdecTable, from_json
from gpuload.errors import ConfigError
from gpuload.index.load import load_index
from tests.videos import make_video

RECORDS = Path(__file__).parents[1] / "data" / "nvdec"
WORKING = dict.fromkeys(BACKENDS, "")
FORMATS = {"400": "gray", "420": "yuv420p", "422": "yuv422p", "444": "yuv444p"}
KNOWN = {"h264", "hevc", "av1", "vp9", "vp8"}
"""What torchcodec 0.17 hands to NVDEC."""


def machine(record: str = "h200", **unusable: str) -> Machine:
    return Machine({**WORKING, **unusable}, from_json((RECORDS / f"{record}.json").read_text()))


def kind(codec: str = "h264", chroma: str = "420", bits: int = 8, width: int = 640, height: int = 480) -> StreamKind:
    name = FORMATS[chroma] + ("" if bits == 8 else f"{bits}le")
    return StreamKind(codec=codec, pixel_format=name, bits=bits, chroma=chroma, width=width, height=height)


def on_cuda(stream: StreamKind, where: Machine) -> Choice:
    return choose(stream, device="cuda", backend="auto", machine=where)


@pytest.mark.parametrize("record", ["h200", "l4", "blackwell"])
def test_nvdec_decodes_what_its_driver_lists_and_torchcodec_brings_back_whole(record: str) -> None:
    where = machine(record)
    assert isinstance(where.nvdec, NvdecTable)
    listed = {(caps.codec, caps.chroma, caps.bits) for caps in where.nvdec.caps}
    for codec, chroma, bits in itertools.product([*CODECS, "prores"], CHROMAS, (*DEPTHS, 9, 16)):
        got = on_cuda(kind(codec, chroma, bits), where)
        possible = (codec, chroma, bits) in listed and codec in KNOWN and chroma in ("420", "444")
        assert (got.backend, got.device) == (("torchcodec", "cuda") if possible else ("pyav", "cpu"))
        assert got.reason.startswith("NVDEC of") if possible else got.reason.endswith("converted on the GPU")


@pytest.mark.parametrize("record", ["h200", "l4", "blackwell"])
def test_sizes_are_decoded_up_to_their_limits_and_not_one_pixel_beyond(record: str) -> None:
    where = machine(record)
    assert isinstance(where.nvdec, NvdecTable)
    for caps in where.nvdec.caps:
        if caps.codec not in KNOWN or caps.chroma not in ("420", "444"):
            continue
        stream = kind(caps.codec, caps.chroma, caps.bits)
        for width, height in itertools.product(
            (caps.min_width - 1, caps.min_width, 1280, caps.max_width, caps.max_width + 1),
            (caps.min_height - 1, caps.min_height, 720, caps.max_height, caps.max_height + 1),
        ):
            macroblocks = -(-width // 16) * -(-height // 16)
            fits = caps.min_width <= width <= caps.max_width and caps.min_height <= height <= caps.max_height
            got = on_cuda(replace(stream, width=width, height=height), where)
            assert (got.device == "cuda") == (fits and macroblocks <= caps.max_macroblocks), (caps, width, height)
            assert got.device == "cuda" or f"{width}x{height} is " in got.reason


@pytest.mark.parametrize(
    ("stream", "record", "reason"),
    [
        (kind("av1"), "h200", "the driver reports no AV1 decoder on NVIDIA H200"),
        (kind("hevc", width=64, height=64), "h200", "64x64 is below NVDEC's smallest HEVC picture 144x144"),
        (kind(width=4098), "h200", "4098x480 is above NVDEC's largest H.264 picture 4096x4096"),
        (
            kind("mpeg4", width=2032, height=2032),
            "h200",
            "2032x2032 is 16129 macroblocks, above the 8192 of NVDEC's MPEG-4 decoder",
        ),
        (
            kind(chroma="422", bits=10),
            "h200",
            "the driver reports H.264 decoders on NVIDIA H200 for 4:2:0 8-bit, not for 4:2:2 10-bit",
        ),
        (kind(chroma="422", bits=10), "blackwell", "torchcodec takes no whole 4:2:2 10-bit pictures from NVDEC"),
        (kind("mpeg2video"), "h200", "torchcodec hands no MPEG-2 to NVDEC"),
        (kind("prores"), "h200", "NVDEC has no prores decoder"),
        (replace(kind(), profile=88), "h200", "NVIDIA documents no H.264 Extended profile for NVDEC"),
        (replace(kind(), pixel_format="", bits=0, chroma=""), "h200", "the pixel format '' is unknown"),
        (replace(kind("hevc"), pixel_format="gbrp", chroma=""), "h200", "NVDEC gives no gbrp pictures"),
        (
            replace(kind("hevc", bits=12), is_depth=True),
            "h200",
            "depth maps (yuv420p12le) are kept from NVDEC: a wrong bit is a wrong distance",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_reason_for_the_cpu_is_a_sentence_with_the_numbers(stream: StreamKind, record: str, reason: str) -> None:
    expected = f"{reason}; decoded on CPU threads, converted on the GPU"
    assert on_cuda(stream, machine(record)) == Choice("pyav", "cpu", expected)


def test_the_reason_for_nvdec_names_device_samples_and_engines() -> None:
    assert on_cuda(kind("hevc", bits=10), machine()) == Choice(
        "torchcodec", "cuda", "NVDEC of NVIDIA H200 decodes HEVC 4:2:0 10-bit at 640x480, 7 engines"
    )
    assert on_cuda(kind(), machine("blackwell")).reason.endswith("decodes H.264 4:2:0 8-bit at 640x480")


def test_a_grey_hevc_depth_video_goes_to_the_cpu_marked_or_not() -> None:
    stream = kind("hevc", "400", 12)
    assert on_cuda(stream, machine()).backend == "pyav"
    assert on_cuda(replace(stream, is_depth=True), machine()).backend == "pyav"


def test_without_a_table_its_reason_is_given() -> None:
    where = machine("none")
    assert isinstance(where.nvdec, NvdecMissing)
    got = on_cuda(kind(), where)
    assert got.device == "cpu"
    assert got.reason.startswith(where.nvdec.reason)
    assert "NVIDIA_DRIVER_CAPABILITIES" in got.reason


def test_without_torchcodec_nvdec_is_out_of_reach_and_the_reason_says_so() -> None:
    got = on_cuda(kind(), machine(torchcodec="torchcodec is not installed"))
    assert (got.backend, got.device) == ("pyav", "cpu")
    assert got.reason.startswith("torchcodec is not installed; ")


@pytest.mark.parametrize(
    ("chroma", "bits", "bit"), [("420", 8, 0), ("420", 10, 1), ("420", 12, 1), ("444", 8, 2), ("444", 10, 3)]
)
def test_pictures_that_would_come_out_with_fewer_bits_or_less_chroma_go_to_the_cpu(
    chroma: str, bits: int, bit: int
) -> None:
    for mask in range(1, 16):
        caps = NvdecCaps("hevc", chroma, bits, True, 1, 16, 16, 4096, 4096, 65536, mask)
        got = on_cuda(kind("hevc", chroma, bits), Machine(WORKING, NvdecTable("a GPU", "13.0", "made up", (caps,))))
        assert (got.device == "cuda") == bool(mask >> bit & 1)
        assert got.device == "cuda" or "puts out no whole" in got.reason


@pytest.mark.parametrize("record", ["h200", "none"])
def test_on_the_cpu_it_is_always_pyav(record: str) -> None:
    for codec, chroma in itertools.product(CODECS, CHROMAS):
        got = choose(kind(codec, chroma), device="cpu", backend="auto", machine=machine(record))
        assert got == Choice("pyav", "cpu", "device is cpu")


def test_backends_that_convert_colours_are_never_chosen_unasked() -> None:
    for record, codec, chroma in itertools.product(("h200", "l4", "blackwell", "none"), CODECS, CHROMAS):
        assert on_cuda(kind(codec, chroma), machine(record)).backend not in RGB
        where = machine(record, torchcodec="broken")
        assert on_cuda(kind(codec, chroma), where).backend == "pyav"


@pytest.mark.parametrize(
    ("backend", "device", "stream", "where"),
    [
        ("pyav", "cpu", kind("av1"), "cpu"),
        ("pyav", "cuda", kind("h264"), "cpu"),
        ("torchcodec", "cpu", kind("av1"), "cpu"),
        ("torchcodec", "cuda:1", kind("hevc"), "cuda"),
        ("torchcodec-rgb", "cpu", kind("av1"), "cpu"),
        ("torchcodec-rgb", "cuda", kind("hevc"), "cuda"),
        ("dali", "cpu", kind("vp9"), "cpu"),
        ("dali", "cuda", kind("vp9"), "cuda"),
    ],
)
def test_a_possible_backend_is_taken_when_asked_for(backend: str, device: str, stream: StreamKind, where: str) -> None:
    got = choose(stream, device=device, backend=backend, machine=machine())
    assert (got.backend, got.device) == (backend, where)
    assert got.reason.startswith(f"backend {backend!r} was asked for")


@pytest.mark.parametrize(
    ("backend", "device", "stream", "reason", "instead"),
    [
        ("torchcodec", "cuda", kind("av1"), "no AV1 decoder on NVIDIA H200", "takes pyav on the CPU"),
        ("torchcodec-rgb", "cuda", kind("av1"), "no AV1 decoder on NVIDIA H200", "takes pyav on the CPU"),
        ("torchcodec-rgb", "cpu", replace(kind("av1"), is_depth=True), "depth map", "takes pyav on the CPU"),
        ("torchcodec", "cuda", kind(width=8192), "largest H.264 picture 4096x4096", "takes pyav on the CPU"),
        ("dali", "cpu", kind("h264"), "DALI decodes MJPEG, VP8, VP9 without a GPU, not H.264", "takes pyav on the CPU"),
        ("dali", "cuda", kind("hevc", "444"), "no whole 4:4:4 8-bit", "takes torchcodec on the GPU"),
        ("dali", "cuda", replace(kind("hevc", bits=12), is_depth=True), "depth map", "takes pyav on the CPU"),
        ("dali", "cpu", replace(kind("vp9", bits=12), is_depth=True), "depth map", "takes pyav on the CPU"),
    ],
)
def test_an_impossible_backend_is_an_error_with_the_reason_and_what_would_work(
    backend: str, device: str, stream: StreamKind, reason: str, instead: str
) -> None:
    with pytest.raises(ConfigError) as error:
        choose(stream, device=device, backend=backend, machine=machine())
    assert all(text in str(error.value) for text in (repr(backend), str(stream), reason, instead))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("backend", ["torchcodec", "torchcodec-rgb", "dali"])
def test_a_backend_that_cannot_be_used_here_is_an_error_with_its_own_reason(backend: str, device: str) -> None:
    with pytest.raises(ConfigError, match="it broke"):
        choose(
            kind("vp9"),
            device=device,
            backend=backend,
            machine=Machine({**WORKING, backend: "it broke"}, machine().nvdec),
        )
    with pytest.raises(ConfigError, match="not looked for"):
        choose(kind("vp9"), device=device, backend=backend, machine=Machine({"pyav": ""}, machine().nvdec))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="backend must be one of auto, pyav, torchcodec, torchcodec-rgb, dali"):
        choose(kind(), device="cpu", backend="ffmpeg", machine=machine())
    with pytest.raises(ConfigError, match="'cpu' or 'cuda'"):
        choose(kind(), device="mps", backend="auto", machine=machine())


@pytest.mark.parametrize(
    ("codec", "suffix", "pix_fmt", "expected"),
    [
        ("libx264", "mp4", "yuv420p", ("h264", 8, "420", 100)),
        ("libx264", "mkv", "yuv422p10le", ("h264", 10, "422", 122)),
        ("libx264", "mp4", "yuvj420p", ("h264", 8, "420", 100)),
        ("libx265", "mp4", "gray12le", ("hevc", 12, "400", 4)),
        ("libx265", "mp4", "gbrp", ("hevc", 8, "", 4)),
        ("libx265", "mkv", "yuv444p12le", ("hevc", 12, "444", 4)),
        ("libsvtav1", "mp4", "yuv420p10le", ("av1", 10, "420", UNKNOWN_PROFILE)),
        ("libvpx-vp9", "webm", "yuv420p", ("vp9", 8, "420", UNKNOWN_PROFILE)),
    ],
)
def test_the_kind_of_a_video_is_what_its_encoder_was_told(
    tmp_path: Path, codec: str, suffix: str, pix_fmt: str, expected: tuple[str, int, str, int]
) -> None:
    path = make_video(tmp_path / f"video.{suffix}", codec=codec, frames=12, pix_fmt=pix_fmt)
    got = kind_of(load_index(path, cache_dir=tmp_path))
    assert (got.codec, got.bits, got.chroma, got.profile) == expected
    assert (got.width, got.height, got.is_depth) == (128, 96, False)


@pytest.mark.parametrize(
    ("pixel_format", "bits", "chroma"),
    [
        ("nv12", 8, "420"),
        ("p010le", 10, "420"),
        ("gray", 8, "400"),
        *((name, 8, "") for name in ("yuva420p", "pal8", "yuv410p", "yuv440p", "rgb24")),
        *((name, 0, "") for name in ("nonsense", "", "cuda")),
    ],
)
def test_samples_of_every_sort_of_pixel_format(tmp_path: Path, pixel_format: str, bits: int, chroma: str) -> None:
    video = load_index(make_video(tmp_path / "video.mp4", frames=1), cache_dir=tmp_path)
    got = kind_of(replace(video, pixel_format=pixel_format))
    assert (got.bits, got.chroma) == (bits, chroma)


@pytest.mark.parametrize(
    ("extradata", "profile"),
    [
        ((bytes([1, 2 << 6 | 1 << 5 | 9, 0]),), 9),  # hvcC: profile space and high tier share the byte
        ((b"\0\0\0\1\x40",), UNKNOWN_PROFILE),  # Annex B
        ((b"\1",), UNKNOWN_PROFILE),
        ((), UNKNOWN_PROFILE),
    ],
)
def test_an_hevc_profile_is_read_from_its_record_alone(
    tmp_path: Path, extradata: tuple[bytes, ...], profile: int
) -> None:
    video = load_index(make_video(tmp_path / "video.mp4", frames=1), cache_dir=tmp_path)
    assert kind_of(replace(video, codec="hevc", extradata=extradata)).profile == profile


def test_a_machine_and_a_kind_cross_to_another_process() -> None:
    assert pickle.loads(pickle.dumps((machine(), kind()))) == (machine(), kind())


def test_the_machine_is_looked_at_only_as_far_as_the_settings_need() -> None:
    assert find_machine(device="cpu", backend="auto") == Machine(
        {"pyav": ""}, NvdecMissing("no device", "device is cpu")
    )
    found = find_machine(device="cuda:0", backend="auto")
    assert set(found.unusable) == {"pyav", "torchcodec"}
    assert on_cuda(kind("prores"), found).backend == "pyav"


def test_every_codec_of_nvdec_has_a_name() -> None:
    assert set(NAMES) == set(CODECS)
