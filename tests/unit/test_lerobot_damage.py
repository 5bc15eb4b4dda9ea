"""Damaged LeRobot sets: one error that names the place, or what is sound comes all the same."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gpuload.datasets import LeRobotDataset
from gpuload.errors import DatasetError, FrameNotFound, GpuloadError, VideoError
from gpuload.sources.lerobot import LeRobotSource
from tests.lerobot_sets import DATA, EPISODES, FRAMES, TOP, WRIST, edit_json, edit_table, replace
from tests.older import write_older


def info(**changes: object) -> Callable[[Path], None]:
    return lambda root: edit_json(root / "meta/info.json", lambda value: value.update(changes))


def timestamps(values: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Callable[[Path], None]:
    def change(table: pa.Table) -> pa.Table:
        return replace(table, "timestamp", pa.array(values(table["timestamp"].to_numpy().copy()), pa.float32()))

    return lambda root: edit_table(root / DATA, change)


def cut_short(name: str) -> Callable[[Path], None]:
    def cut(root: Path) -> None:
        path = min(root.glob(name))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut


def tensor(value: object) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no json": (lambda root: (root / "meta/info.json").write_text("{"), r"info\.json"),
    "json list": (lambda root: (root / "meta/info.json").write_text("[]"), r"info\.json"),
    "fps text": (info(fps="many"), "fps"),
    "fps beyond floats": (info(fps=10**400), "fps"),
    "endless name": (info(video_path="v" * 5000 + "{video_key}"), "too long"),
    "old version": (info(codebase_version="v1.6"), "v1.6"),
    "escaping data": (info(data_path="../{chunk_index}/{file_index}"), "outside"),
    "escaping video": (info(video_path="/etc/{video_key}"), "outside"),
    "unknown field": (info(video_path="videos/{camera}"), "known fields"),
    "no data": (lambda root: (root / DATA).unlink(), r"file-000\.parquet"),
    "cut data": (cut_short(DATA), r"file-000\.parquet"),
    "cut episodes": (cut_short("meta/episodes/**/*.parquet"), "episodes"),
    "no tasks": (lambda root: (root / "meta/tasks.parquet").unlink(), "tasks"),
    "no column": (lambda root: edit_table(root / DATA, lambda t: t.drop_columns(["action"])), "action"),
    "rows missing": (lambda root: edit_table(root / DATA, lambda t: t.slice(0, 30)), "episode"),
    "no video": (lambda root: shutil.rmtree(root / "videos" / WRIST), "wrist.*video_keys"),
    "cut video": (cut_short(f"videos/{TOP}/**/*.mp4"), "mp4"),
}


def no_text(root: Path) -> None:
    """Bytes in a column of text that are none: parquet does not look."""

    def change(table: pa.Table) -> pa.Table:
        wrong = pa.Array.from_buffers(
            pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32).tobytes()), pa.py_buffer(b"\xff\xfe")]
        )
        return table.slice(0, 1).set_column(table.column_names.index(name), name, wrong)

    path = root / "meta/tasks.parquet"
    name = next(n for n in pq.read_table(path).column_names if n != "task_index")
    edit_table(path, change)


def test_text_that_is_none_is_told(copy: Path) -> None:
    no_text(copy)
    with pytest.raises(DatasetError, match=r"tasks\.parquet cannot be read"):
        LeRobotDataset(copy)[0]


@pytest.mark.parametrize("moved", [0.0, -1 / 30])
def test_episodes_that_claim_the_same_frames_are_told(
    copy: Path, caplog: pytest.LogCaptureFixture, moved: float
) -> None:
    key = f"videos/{TOP}/from_timestamp"

    def change(table: pa.Table) -> pa.Table:
        starts = table[key].to_numpy().copy()
        assert starts[1] > 0 == starts[0]
        starts[1] += moved - (starts[1] if not moved else 0.0)
        return replace(table, key, pa.array(starts))

    LeRobotDataset(copy)[7]
    assert "another one" not in caplog.text
    edit_table(min(copy.glob("meta/episodes/**/*.parquet")), change)
    LeRobotDataset(copy)[7]
    assert f"1 episodes of camera '{TOP}' show frames of another one" in caplog.text


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_error_that_names_the_place(copy: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(copy)
    with pytest.raises((DatasetError, VideoError), match=message):
        LeRobotDataset(copy)[0]


def test_a_wrong_fps_is_an_error_where_rows_are_counted_by_it(copy: Path) -> None:
    right = LeRobotDataset(copy)[7]
    info(fps=15)(copy)
    assert torch.equal(tensor(LeRobotDataset(copy)[7][TOP]), tensor(right[TOP]))
    with pytest.raises(DatasetError, match="fps is 15"):
        LeRobotDataset(copy, delta_timestamps={"action": [0.0, 1 / 15]})


def test_a_wrong_size_is_told_and_pictures_have_their_own(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_json(copy / "meta/info.json", lambda v: v["features"][TOP].update(shape=[480, 640, 3]))
    assert tensor(LeRobotDataset(copy)[0][TOP]).shape == (3, 96, 128)
    assert "128x96" in caplog.text


def test_damaged_statistics_are_told_when_they_are_asked_for(copy: Path) -> None:
    (copy / "meta/stats.json").write_text("nope")
    dataset = LeRobotDataset(copy)
    dataset[0]
    with pytest.raises(DatasetError, match=r"stats\.json"):
        _ = dataset.meta.stats


def test_statistics_that_differ_in_shape_between_episodes_are_told(pristine: Path, tmp_path: Path) -> None:
    root = write_older(pristine, tmp_path / "old", version="v2.1")
    path = root / "meta/episodes_stats.jsonl"
    first, *others = path.read_text().splitlines()
    line = json.loads(first)
    line["stats"]["action"]["mean"] = [1.0]
    path.write_text("\n".join([json.dumps(line), *others]))
    with pytest.raises(DatasetError, match=r"episodes_stats\.jsonl: statistics of 'action' differ"):
        _ = LeRobotDataset(root).meta.stats


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.parametrize(
    "name", [DATA, "meta/tasks.parquet", "meta/info.json", f"videos/{TOP}/**/*.mp4", "meta/episodes/**/*.parquet"]
)
def test_a_pointer_of_git_lfs_is_called_one(copy: Path, name: str) -> None:
    for path in copy.glob(name):
        path.write_bytes(POINTER)
    with pytest.raises((DatasetError, VideoError), match=r"Git LFS pointer.*hf download"):
        LeRobotDataset(copy)[0]


def test_a_clock_of_its_own_is_pointed_out(copy: Path) -> None:
    timestamps(lambda values: values + np.float32(0.015))(copy)
    with pytest.raises(FrameNotFound, match="timestamps may be of another clock"):
        LeRobotDataset(copy)[3]


@pytest.mark.parametrize("stored", ["lists", "no numbers", "nothing"])
def test_stray_files_beside_the_rows_are_no_rows(copy: Path, stored: str) -> None:
    rows = pq.read_table(copy / DATA)
    pq.write_table(rows.slice(0, 20), copy / DATA)
    pq.write_table(rows.slice(20), copy / "data/chunk-000/file-077.parquet")
    other = {
        "lists": {"episode_index": pa.array([[70], [71]])},
        "no numbers": {"episode_index": pa.array(["a", None])},
        "nothing": {"other": pa.array([1.0])},
    }[stored]
    pq.write_table(pa.table(other), copy / "data/chunk-000/file-001.parquet")
    assert len(LeRobotDataset(copy, video_keys=[])) == EPISODES * FRAMES


def test_half_a_row_is_no_length(copy: Path) -> None:
    (table,) = (copy / "meta/episodes").rglob("*.parquet")
    edit_table(table, lambda t: replace(t, "length", pa.array([FRAMES, FRAMES + 0.5, FRAMES])))
    with pytest.raises(DatasetError, match="length is missing or no whole number"):
        LeRobotDataset(copy)


def test_a_task_that_is_not_in_the_table_costs_its_samples(copy: Path) -> None:
    numbers = np.zeros(EPISODES * FRAMES, np.int64)
    numbers[13] = -1
    edit_table(copy / DATA, lambda table: replace(table, "task_index", pa.array(numbers)))
    dataset = LeRobotDataset(copy, video_keys=[])
    dataset.__getitems__([12, 14])
    with pytest.raises(DatasetError, match="sample 13 has task_index -1"):
        dataset.__getitems__([12, 13])


@pytest.mark.parametrize("shift", [0.011, math.nan])
def test_a_timestamp_without_frame_is_refused_and_others_are_not(copy: Path, shift: float) -> None:
    def change(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        values[13] += shift
        return values

    timestamps(change)(copy)
    dataset = LeRobotDataset(copy)
    dataset[12]
    with pytest.raises(FrameNotFound, match=r"mp4.*observation\.images.*sample 13 \(episode 0"):
        dataset[13]
    assert dataset.source.frames(np.arange(len(dataset))).frame[13].tolist() == [-1, -1]


def test_totals_that_lie_are_not_believed(copy: Path) -> None:
    info(total_frames=7, total_episodes=99)(copy)
    assert len(LeRobotDataset(copy)) == EPISODES * FRAMES


def test_flipped_bits_never_crash(copy: Path) -> None:
    rng = np.random.default_rng(0)
    for path in [copy / DATA, copy / "meta/tasks.parquet", *copy.glob("meta/episodes/**/*.parquet")]:
        whole = path.read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(data))
            try:
                source = LeRobotSource(copy, video_keys=[])
                source.columns(np.arange(len(source)))
            except GpuloadError:
                pass
        path.write_bytes(whole)
