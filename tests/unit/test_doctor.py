"""What ``gpuload doctor`` and ``gpuload info`` say of GPUs, from recorded capability tables and on this machine."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from gpuload.decode.registry import Machine, StreamKind, find_machine
from gpuload.demo import write_dataset
from gpuload.device.nvdec import NvdecMissing, NvdecTable, from_json, probe_caps
from gpuload.doctor import describe_nvdec, find_devices, judge
from gpuload.ffmpeg import OF_SHELL, VARIABLE, bundled_libraries, environment
from gpuload.info import decoder_of, summarize

RECORDS = Path(__file__).parents[1] / "data" / "nvdec"
CAMERA = "observation.images.top"


def record(name: str) -> NvdecTable | NvdecMissing:
    return from_json((RECORDS / f"{name}.json").read_text())


def test_doctor_lists_what_nvdec_decodes_with_sizes_and_engines() -> None:
    lines = dict.fromkeys(text for _, text in describe_nvdec("cuda:0", record("h200")))
    assert "H.264 4:2:0 8-bit; 48x16 to 4096x4096, 65536 macroblocks; 7 engines" in lines
    assert "HEVC 4:2:0 8, 10, 12-bit, 4:4:4 8, 10, 12-bit; 144x144 to 8192x8192, 262144 macroblocks; 7 engines" in lines
    assert not any("AV1" in line for line in lines)
    assert any(text.startswith("AV1 4:2:0 8, 10-bit; 128x128") for _, text in describe_nvdec("cuda:0", record("l4")))


@pytest.mark.parametrize("name", ["h200", "l4", "blackwell"])
def test_no_entry_of_the_table_is_left_out(name: str) -> None:
    table = record(name)
    assert isinstance(table, NvdecTable)
    lines = describe_nvdec("cuda:1", table)
    assert {device for device, _ in lines} == {"cuda:1 NVDEC"}
    depths = [bits for _, text in lines for bits in re.findall(r"\d:\d:\d ([\d, ]+)-bit", text)]
    assert sum(len(bits.split(", ")) for bits in depths) == len(table.caps)


def test_doctor_gives_the_reason_where_there_is_no_nvdec() -> None:
    missing = record("none")
    assert isinstance(missing, NvdecMissing)
    assert describe_nvdec("cuda:0", missing) == (("cuda:0 NVDEC", f"none: {missing.reason}"),)
    (line,) = describe_nvdec("cuda:0", NvdecTable("NVIDIA A30X", "13.0", "made up", ()))
    assert line[1] == "none: the driver lists no decoder on NVIDIA A30X"


def test_doctor_says_on_this_machine_what_the_driver_says() -> None:
    devices = find_devices()
    assert devices[0][0] == "cpu"
    expected = describe_nvdec("cuda:0" if torch.cuda.is_available() else "cuda", probe_caps(0))
    assert set(expected) <= set(devices)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "expected"),
    [
        (
            "hevc",
            "yuv420p",
            "torchcodec on the GPU: NVDEC of NVIDIA H200 decodes HEVC 4:2:0 8-bit at 640x480, 7 engines",
        ),
        (
            "av1",
            "yuv420p",
            "pyav on the CPU, FFmpeg's libdav1d: the driver reports no AV1 decoder on NVIDIA H200; "
            "decoded on CPU threads, converted on the GPU",
        ),
        (
            "nonsense",
            "",
            "nothing: this FFmpeg has no decoder for nonsense, and on a GPU: the pixel format '' is unknown",
        ),
    ],
)
def test_info_says_what_would_decode_and_why(codec: str, pixel_format: str, expected: str) -> None:
    bits, chroma = (8, "420") if pixel_format else (0, "")
    kind = StreamKind(codec, pixel_format, bits, chroma, 640, 480)
    machine = Machine({"pyav": "", "torchcodec": ""}, record("h200"))
    assert decoder_of(kind, device="cuda", machine=machine).startswith(expected)


def test_info_chooses_for_every_camera_of_a_dataset(tmp_path: Path) -> None:
    root = write_dataset(
        tmp_path, episodes=1, frames=8, cameras=[CAMERA], width=160, height=144, codec="libx264", gop=4
    )
    (camera,) = summarize(str(root)).cameras
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = StreamKind("h264", "yuv420p", 8, "420", 160, 144)
    assert camera.decoder == decoder_of(kind, device=device, machine=find_machine(device=device, backend="auto"))
    assert device == "cuda" or camera.decoder == "pyav on the CPU, FFmpeg's h264: device is cpu"


@pytest.mark.skipif(find_spec("torchcodec") is None, reason="torchcodec is not installed")
@pytest.mark.skipif(bundled_libraries() is None, reason="PyAV has no FFmpeg of its own to share")
def test_doctor_tells_what_torchcodec_takes_in_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = {"module": "torchcodec", "package": "torchcodec", "decodes": "on the CPU"}
    monkeypatch.delenv(OF_SHELL, raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    found = judge("torchcodec", **ask)
    assert found.usable
    assert [Path(library).parent for library in found.libavcodec] == [bundled_libraries()]
    assert found.in_scripts.startswith("in your own scripts: ")
    assert found.in_scripts.endswith('run eval "$(gpuload env)" in the shell first')
    monkeypatch.setenv(VARIABLE, environment(os.environ)[VARIABLE])  # the shell has done so
    assert judge("torchcodec", **ask).in_scripts == ""
    monkeypatch.setenv(OF_SHELL, "")  # or it was the command itself
    assert judge("torchcodec", **ask).in_scripts == found.in_scripts
