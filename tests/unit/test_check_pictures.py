"""What the validator finds by decoding, and how long it takes for it."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gpuload.check import check_dataset
from gpuload.check_pictures import check_pictures
from gpuload.cli import app
from gpuload.errors import DecodeError
from gpuload.findings import Folder
from gpuload.index import keyframes as keyframes_module
from gpuload.index.load import load_index
from gpuload.video import Video
from tests.boxes import rows, split, stbl_of, table, write
from tests.unit.test_check import VIDEO, only
from tests.videos import make_video


def test_a_false_keyframe_is_found_by_decoding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyframes_module, "_LOOKED_AT", 0)  # of many keyframes the index looks at some only
    monkeypatch.setattr(keyframes_module, "_ALL_OF", 0)
    before, moov = split(root / VIDEO)
    stbl = stbl_of(moov)
    keyframes = stbl.find(b"stss")
    more = sorted([*rows(keyframes, 1), (4,)])
    stbl.inner[stbl.inner.index(keyframes)] = table(b"stss", more)
    write(root / VIDEO, before, moov)
    found = only(check_dataset(root), VIDEO, "in 1 keyframe window", "packet 3", "calls it a keyframe")
    assert found.severity == "error"


def test_what_training_refuses_is_found_by_decoding(root: Path) -> None:
    """Bits are flipped until the loader's decoder refuses a picture that FFmpeg, left alone, would paint over."""
    sound, rng = (root / VIDEO).read_bytes(), np.random.default_rng(0)
    index = load_index(root / VIDEO)
    for _ in range(200):
        data = bytearray(sound)
        packet = int(rng.integers(len(index.pos)))
        data[int(index.pos[packet]) + int(rng.integers(16, index.size[packet]))] ^= 1 << int(rng.integers(8))
        (root / VIDEO).write_bytes(data)
        try:
            Video(root / VIDEO).frames(range(index.num_frames))
        except DecodeError:
            break
    else:
        pytest.fail("no flipped bit was refused")
    assert only(check_dataset(root), VIDEO, "pictures cannot be decoded").severity == "error"


def test_decoding_ends_in_time_and_tells_how_far_it_got(sound: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert check_dataset(sound, decode_s=0.0, report=lambda done, total: seen.append((done, total))) == ()
    assert seen == [(0, 120)]
    seen.clear()
    assert check_dataset(sound, decode_s=math.inf, report=lambda done, total: seen.append((done, total))) == ()
    assert seen[-1] == (120, 120)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    result = CliRunner().invoke(app, ["check", str(sound), "--decode-seconds", "0"])
    assert result.exit_code == 0
    assert "120 of 120 pictures were not decoded (--deep decodes all)" in result.output


def test_every_file_is_looked_at_before_any_is_done(tmp_path: Path) -> None:
    """Of 16 keyframe windows each part has two. Damage in the last window of both files is found."""
    paths = [make_video(tmp_path / f"{name}.mp4", frames=64, gop=4, options={"bf": "0"}) for name in "ab"]
    for path in paths:
        data, index = bytearray(path.read_bytes()), load_index(path)
        begin = int(index.pos[60])
        data[begin + 8 : begin + int(index.size[60])] = bytes(int(index.size[60]) - 8)
        path.write_bytes(data)
    done: list[int] = []
    folder = Folder(tmp_path, {}, {}, 30.0)
    files = [(path, 64) for path in paths]
    found = list(check_pictures(folder, files, seconds=math.inf, report=lambda n, total: done.append(n)))
    assert sorted(done) == list(range(0, 129, 8))
    assert sorted(finding.file for finding in found) == ["a.mp4", "b.mp4"]
    assert all("4 of 64 pictures cannot be decoded, in 1 keyframe window" in finding.message for finding in found)


def test_decoding_stops_in_the_middle_when_its_time_is_over(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", frames=64, gop=4)
    done: list[int] = []

    def slowly(count: int, total: int) -> None:
        done.append(count)
        time.sleep(2.0 if count else 0.0)

    assert not list(check_pictures(Folder(tmp_path, {}, {}, 30.0), [(path, 64)], seconds=3.0, report=slowly))
    assert done[0] == 0 < done[-1] < 64
