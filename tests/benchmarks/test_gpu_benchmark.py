"""``python -m benchmarks.gpu``: what a machine without a GPU can show of it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from benchmarks.gpu import contenders, running, targets
from benchmarks.gpu.clips import Clip, ensure_clip
from benchmarks.gpu.sections import SECTIONS, choose
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.workloads import BASE
from gpuload.index.load import load_index

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(900)  # the dry run: a minute on two cores of their own, minutes beside other work


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a dry run of everything."""
    out = tmp_path_factory.mktemp("out")
    done = command("--dry-run", "--out", str(out), "--work", str(out / "work"), "--commit", "here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "## Targets" in done.stdout
    found: dict[str, Any] = json.loads((out / "dry-here-gpu.json").read_text())
    return found


def results(record: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(f"{name}: {key}", value) for name, found in record["sections"].items() for key, value in found.items()]


def test_a_dry_run_fails_nowhere_and_leaves_nothing_out(record: dict[str, Any]) -> None:
    assert list(record["sections"]) == list(SECTIONS)
    for label, value in results(record):
        words = set(value) if isinstance(value, dict) else {label.split(": ", 1)[1]}
        assert not words & {"failed", running.FAILED}, (label, value)
        assert "left out" not in words or label.startswith("limiter"), (label, value)


def test_every_plane_of_a_dry_run_is_equal_and_every_slot_exact(record: dict[str, Any]) -> None:
    compared = [v for label, v in results(record) if ": planes " in label and "equal" in v]
    assert len(compared) >= 20
    assert all(found["equal"] == found["of"] for found in compared)
    slots = [v for label, v in results(record) if label.startswith("tensors: ") and isinstance(v, dict)]
    assert len(slots) == 5
    assert all(found["exact_max"] <= 1 and found["pictures"] == found["of"] for found in slots)


def test_targets_read_what_sections_wrote(record: dict[str, Any]) -> None:
    verdicts = {one.name: one for one in targets.judge(record["sections"])}
    assert all(one["name"] in verdicts for one in record["targets"])
    equal = next(one for name, one in verdicts.items() if "bit-equal" in name)
    assert equal.met
    renamed = json.loads(json.dumps(record["sections"]).replace("h264 48x32 g8", BASE))
    renamed["kernels"] = {"nv12 1080p to uint8": {"of_copy": 0.69}}
    found = {one.name: one for one in targets.judge(renamed)}
    measured = [name for name, one in found.items() if one.found is not None]
    assert len(measured) >= 8, measured
    assert found["kernel, nv12 1080p to uint8: of copy_"].met is False
    assert "**not met**" in targets.table(list(found.values()))


def test_without_a_gpu_it_says_so_in_one_line_and_exits_with_2() -> None:
    done = command()
    assert done.returncode == 2
    assert "needs a CUDA device" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout


def test_a_section_that_outlasts_its_time_is_ended_and_says_so(tmp_path: Path) -> None:
    found: list[tuple[str, str, Any]] = []
    setting = Setting("cpu", str(tmp_path), 0.0, dry=True)
    begin = time.monotonic()
    running.run_sections(["loading"], setting, limit_s=1.0, keep=lambda *result: found.append(result))
    assert time.monotonic() - begin < 30
    assert found[-1][:2] == ("loading", running.FAILED)
    assert found[-1][2].startswith("stopped after 1 s")


def test_sections_are_chosen_by_name_and_by_half() -> None:
    assert set(choose("first")) | set(choose("second")) == set(choose("all"))
    assert choose("limit, kernels") == ["limit", "kernels"]
    with pytest.raises(ValueError, match="no section speed"):
        choose("speed")


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_packets_with_start_codes_are_a_stream_that_ffmpeg_decodes(codec: str, tmp_path: Path) -> None:
    clip = Clip(codec, 160, 144, 6, 12)
    path = ensure_clip(clip, tmp_path)
    video = load_index(path, cache_dir=tmp_path)
    data = path.read_bytes()
    packets = [data[p : p + n] for p, n in zip(video.pos.tolist(), video.size.tolist(), strict=True)]
    session = av.CodecContext.create("libdav1d" if codec == "av1" else codec, "r")
    assert isinstance(session, av.VideoCodecContext)
    frames = []
    for number, packet in enumerate(packets):
        raw = contenders.raw_packet(codec, video.extradata[0], packet, begins=number == 0)
        frames += session.decode(av.Packet(raw))
    frames += session.decode(None)
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray() for frame in container.decode(video=0)]
    assert len(frames) == len(expected)
    assert all(np.array_equal(ours.to_ndarray(), theirs) for ours, theirs in zip(frames, expected, strict=True))


def test_wrong_pictures_are_told_from_slow_ones() -> None:
    wrong = [one for one in targets.judge({"tensors": {"clip": {"exact_max": 5.0}}}) if one.met is False]
    assert [one.is_of_pixels for one in wrong] == [True]
    slow = [one for one in targets.judge({"kernels": {"nv12 1080p to uint8": {"of_copy": 0.1}}}) if one.met is False]
    assert [one.is_of_pixels for one in slow] == [False]
