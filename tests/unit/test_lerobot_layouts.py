"""Sets as people write them: what LeRobot's own class reads, whatever its own writer would have written."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gpuload.check import check_dataset
from gpuload.datasets import LeRobotDataset
from gpuload.errors import ConfigError, DatasetError, FrameNotFound
from gpuload.loader import Loader
from gpuload.sources.lerobot import LeRobotSource
from tests.lerobot_sets import DATA, EPISODES, FRAMES, TOP, WRIST, add_feature, edit_json, edit_table, replace

ROWS = EPISODES * FRAMES


def tensor(value: object) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


def png(height: int, width: int) -> dict[str, bytes]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), height, np.uint8)).save(buffer, "png")
    return {"bytes": buffer.getvalue()}


def episodes_file(root: Path) -> Path:
    return next((root / "meta/episodes").glob("**/*.parquet"))


def columns_of(root: Path, **arguments: Any) -> dict[str, Any]:
    source = LeRobotSource(root, video_keys=[], **arguments)
    return dict(source.columns(np.arange(len(source))))


# features ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "shape"),
    [
        (["height", "width", "channels"], [96, 128, 3]),
        (["channels", "height", "width"], [3, 96, 128]),
        (["c", "h", "w"], [3, 96, 128]),
        (["rgb", "height", "width"], [3, 96, 128]),
        (["width", "height", "channel"], [128, 96, 3]),
        (None, [3, 96, 128]),
        (None, [96, 128, 3]),
        (None, [None, None, 3]),
        ({"axes": ["x"]}, [96, 128, 3]),
    ],
)
def test_axes_of_pictures_may_have_any_names_and_order(
    copy: Path, names: Any, shape: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    edit_json(copy / "meta/info.json", lambda v: v["features"][TOP].update(names=names, shape=shape))
    assert tensor(LeRobotDataset(copy)[0][TOP]).shape == (3, 96, 128)
    assert not caplog.text


def test_a_bare_number_is_a_shape(copy: Path) -> None:
    add_feature(copy, "extra", "float32", [1], pa.array(np.arange(ROWS, dtype=np.float32)))
    edit_json(copy / "meta/info.json", lambda v: v["features"]["extra"].update(shape=1))
    assert columns_of(copy)["extra"].tolist() == list(range(ROWS))


@pytest.mark.parametrize("shape", [[None], [-1], None, [None, 7]])
def test_rows_of_a_length_each_are_left_out_and_told(copy: Path, shape: Any, caplog: pytest.LogCaptureFixture) -> None:
    ragged = pa.array([[float(i)] * (i % 3) for i in range(ROWS)], pa.list_(pa.float32()))
    add_feature(copy, "observation.task_info", "float32", shape, ragged)
    sample = LeRobotDataset(copy, video_keys=[])[5]
    assert "observation.task_info" not in sample
    assert "action" in sample
    assert "'observation.task_info' vary in length" in caplog.text
    assert check_dataset(copy, decode_s=0) == ()


@pytest.mark.parametrize("dtype", ["string", "image"])
def test_texts_and_images_that_no_file_has_are_left_out(
    copy: Path, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    listed = {"extra": {"dtype": dtype, "shape": [1], "names": None}}
    edit_json(copy / "meta/info.json", lambda v: v["features"].update(listed))
    dataset = LeRobotDataset(copy, video_keys=[], image_transforms=torch.nn.Identity())
    assert "extra" not in dataset[0]
    assert "extra" not in dataset.meta.features
    assert {finding.severity for finding in check_dataset(copy, decode_s=0)} == {"warning"}
    with Loader(dataset, 4, device="cpu") as loader:
        assert "extra" not in next(iter(loader))
    assert "'extra' is in info.json and in no data file" in caplog.text


def test_numbers_may_be_written_with_a_point(copy: Path) -> None:
    whole = lambda v: (v.update(chunks_size=1000.0, robot_type=7), v["features"]["action"].update(shape=[6.0]))  # noqa: E731
    edit_json(copy / "meta/info.json", whole)
    dataset = LeRobotDataset(copy, video_keys=[])
    assert tensor(dataset[0]["action"]).shape == (6,)
    assert (dataset.meta.chunks_size, dataset.meta.robot_type) == (1000, None)
    edit_json(copy / "meta/info.json", lambda v: v.update(chunks_size=None, version=v.pop("codebase_version")))
    assert len(LeRobotDataset(copy, video_keys=[])) == ROWS
    assert check_dataset(copy, decode_s=0) == ()


def test_a_camera_that_only_some_files_lack_is_kept(copy: Path) -> None:
    rows = pq.read_table(copy / DATA)
    cells = pa.array([png(4, 4)["bytes"]] * ROWS)
    add_feature(copy, "picture", "image", [4, 4, 3], cells)
    rest = pq.read_table(copy / DATA).slice(FRAMES)
    pq.write_table(rows.slice(0, FRAMES), copy / DATA)
    pq.write_table(rest, copy / "data/chunk-000/file-077.parquet")
    dataset = LeRobotDataset(copy, video_keys=[])
    assert tensor(dataset[FRAMES]["picture"]).shape == (3, 4, 4)
    with pytest.raises(DatasetError, match="picture"):
        dataset[0]


@pytest.mark.parametrize("change", ["absent", "nulls"])
def test_a_shard_of_episodes_that_does_not_know_a_camera_costs_its_episodes_only(copy: Path, change: str) -> None:
    path = episodes_file(copy)
    table = pq.read_table(path)
    keys = [name for name in table.column_names if name.startswith(f"videos/{WRIST}/")]
    first, second = table.slice(0, 2), table.slice(2)
    if change == "absent":
        first = first.drop_columns(keys)
    else:
        for key in keys:
            first = replace(first, key, pa.nulls(2))
    pq.write_table(first, path)
    pq.write_table(second, path.with_name("file-001.parquet"))
    dataset = LeRobotDataset(copy)
    assert tensor(dataset[2 * FRAMES][WRIST]).shape == (3, 96, 128)
    with pytest.raises(FrameNotFound, match=f"{WRIST}' has no file for episode 0"):
        dataset[0]
    assert dataset.meta.episodes[keys[0]][0] is None
    assert dataset.meta.episodes[2][keys[0]] is not None


def test_annotations_come_as_lists_and_unknown_types_are_left_out(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = [[{"text": f"row {i}", "from_s": float(i)}] if i % 3 else [] for i in range(ROWS)]
    add_feature(copy, "annotation", "language", [1], pa.array(said))
    add_feature(copy, "sound", "audio", [1], pa.array([b"x"] * ROWS))
    add_feature(copy, "thing", "object", [1], pa.array([b"x"] * ROWS))
    source = LeRobotSource(copy, episodes=[0, 2], video_keys=[])
    got = source.columns(np.array([4, 39, 0]))
    assert got["annotation"] == [said[4], said[2 * FRAMES + 19], said[0]]
    for key, dtype in (("sound", "audio"), ("thing", "object")):
        assert key not in got
        assert f"'{key}' has the dtype '{dtype}'" in caplog.text
    for key in ("annotation", "sound", "thing"):
        with pytest.raises(ConfigError, match=key):
            LeRobotSource(copy, delta_timestamps={key: [0.0]})


def two_files(root: Path, first: pa.Table, rest: pa.Table) -> None:
    """The first episode's rows in one data file, the others' in another."""
    pq.write_table(first, root / DATA)
    pq.write_table(rest, root / "data/chunk-000/file-001.parquet")
    edit_table(episodes_file(root), lambda t: replace(t, "data/file_index", pa.array([0, 1, 1], pa.int16())))


def test_files_may_differ_in_what_their_annotations_and_texts_are_stored_as(copy: Path) -> None:
    said: list[list[dict[str, Any]]] = [[{"from_s": i}] for i in range(ROWS)]
    add_feature(copy, "annotation", "language", [1], pa.array(said))
    add_feature(copy, "note", "string", [1], pa.array(["x"] * ROWS))
    table = pq.read_table(copy / DATA)
    floats = pa.array([[{"from_s": float(i)}] for i in range(FRAMES, ROWS)])
    rest = replace(table.slice(FRAMES), "annotation", floats)
    two_files(copy, table.slice(0, FRAMES), replace(rest, "note", pa.nulls(ROWS - FRAMES)))
    got = columns_of(copy)
    assert got["annotation"] == said
    assert got["note"] == ["x"] * FRAMES + [None] * (ROWS - FRAMES)
    two_files(copy, table.slice(0, FRAMES), replace(rest, "annotation", pa.array(["no list"] * (ROWS - FRAMES))))
    with pytest.raises(DatasetError, match="'annotation' differs"):
        columns_of(copy)


def test_a_column_that_only_has_the_name_of_a_counter_is_none(copy: Path) -> None:
    edit_json(copy / "meta/info.json", lambda v: v["features"].pop("index"))
    edit_table(copy / DATA, lambda t: replace(t, "index", pa.array([f"row {i}" for i in range(ROWS)])))
    assert "index" not in columns_of(copy)


def test_texts_may_be_absent_or_coded(copy: Path) -> None:
    words = [None if i % 4 == 1 else f"word {i % 4}" for i in range(ROWS)]
    add_feature(copy, "note", "string", [1], pa.array(words))
    add_feature(copy, "coded", "string", [1], pa.array([str(w) for w in words]).dictionary_encode())
    got = columns_of(copy)
    assert got["note"] == words
    assert got["coded"] == [str(w) for w in words]


@pytest.mark.parametrize("unsorted", [False, True])
def test_counters_come_where_info_does_not_list_them(copy: Path, unsorted: bool) -> None:
    def unlist(info: dict[str, Any]) -> None:
        for key in ("frame_index", "index", "timestamp", "episode_index", "task_index"):
            del info["features"][key]

    edit_json(copy / "meta/info.json", unlist)
    if unsorted:
        edit_table(copy / DATA, lambda table: table.take(np.random.default_rng(0).permutation(ROWS)))
    got = columns_of(copy)
    assert got["index"].tolist() == list(range(ROWS))
    assert got["frame_index"].tolist() == [i % FRAMES for i in range(ROWS)]


@pytest.mark.parametrize("stored", ["path", "struct of path", "bytes"])
def test_cells_of_images_are_structs_bytes_or_paths(copy: Path, stored: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    (copy / "images").mkdir()
    (copy / "images/one.png").write_bytes(buffer.getvalue())
    cells: dict[str, pa.Array[Any]] = {
        "path": pa.array(["images/one.png"] * ROWS),
        "struct of path": pa.array([{"path": "images/one.png"}] * ROWS),
        "bytes": pa.array([buffer.getvalue()] * ROWS),
    }
    add_feature(copy, "picture", "image", [6, 8, 3], cells[stored])
    got = tensor(LeRobotSource(copy, video_keys=[]).columns(np.array([2]))["picture"])
    np.testing.assert_array_equal((got[0] * 255).round().numpy(), picture.transpose(2, 0, 1))


def test_a_path_of_another_machine_is_found_by_the_template(copy: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    (copy / "images/picture").mkdir(parents=True)
    Image.fromarray(picture).save(copy / "images/picture/0-3.png")
    add_feature(copy, "picture", "image", [6, 8, 3], pa.array([{"path": "/home/you/frame.png"}] * ROWS))
    edit_json(
        copy / "meta/info.json",
        lambda v: v.update(image_path="images/{image_key}/{episode_index}-{frame_index}.png"),
    )
    source = LeRobotSource(copy, video_keys=[])
    got = tensor(source.columns(np.array([3]))["picture"])
    np.testing.assert_array_equal((got[0] * 255).round().numpy(), picture.transpose(2, 0, 1))
    with pytest.raises(DatasetError, match=r"/home/you/frame\.png"):
        source.columns(np.array([4]))


# files ---------------------------------------------------------------------------------------------------------------


def test_paths_and_version_have_defaults(copy: Path) -> None:
    plain = LeRobotDataset(copy)[25]
    edit_json(copy / "meta/info.json", lambda v: [v.pop("video_path"), v.pop("data_path")])
    edit_json(copy / "meta/info.json", lambda v: v.update(codebase_version="3.0"))
    assert torch.equal(tensor(LeRobotDataset(copy)[25][TOP]), tensor(plain[TOP]))


def test_a_data_file_that_is_named_and_not_there_is_not_missed(copy: Path) -> None:
    edit_table(episodes_file(copy), lambda t: replace(t, "data/file_index", pa.array([0, 1, 7], pa.int16())))
    assert columns_of(copy)["index"].tolist() == list(range(ROWS))
    edit_table(copy / DATA, lambda table: table.slice(0, 2 * FRAMES))
    with pytest.raises(DatasetError, match=r"file-007\.parquet is missing.*episode 2"):
        columns_of(copy)


@pytest.mark.parametrize("second", ["other type", "ragged", "null"])
def test_of_several_data_files_the_wrong_one_is_named(copy: Path, second: str) -> None:
    table = pq.read_table(copy / DATA).append_column("extra", pa.array([[float(i), 0.0] for i in range(ROWS)]))
    edit_json(copy / "meta/info.json", lambda v: v["features"].update(extra={"dtype": "float32", "shape": [2]}))
    rest = table.slice(FRAMES)
    file = copy / "data/chunk-000/file-001.parquet"
    two_files(copy, table.slice(0, FRAMES), rest)
    assert columns_of(copy)["extra"][:, 0].tolist() == list(range(ROWS))
    values: list[Any] = [[float(i), 0.0] for i in range(FRAMES, ROWS)]
    values[3] = {"other type": values[3], "ragged": [1.0], "null": None}[second]
    kind = pa.list_(pa.float64() if second == "other type" else pa.float32())
    pq.write_table(replace(rest, "extra", pa.array(values, kind)), file)
    if second == "other type":
        assert columns_of(copy)["extra"][:, 0].tolist() == list(range(ROWS))
        return
    with pytest.raises(DatasetError, match=r"file-001\.parquet.*'extra'"):
        columns_of(copy)


def test_rows_are_found_where_no_data_file_is_named(copy: Path) -> None:
    edit_table(episodes_file(copy), lambda t: t.drop_columns(["data/chunk_index", "data/file_index"]))
    assert columns_of(copy)["index"].tolist() == list(range(ROWS))
    assert columns_of(copy, episodes=[1])["index"].tolist() == list(range(FRAMES, 2 * FRAMES))


def test_an_episode_without_rows_has_no_samples(copy: Path) -> None:
    edit_table(copy / DATA, lambda t: t.filter(pa.array(np.asarray(t["episode_index"]) != 1)))
    edit_table(episodes_file(copy), lambda t: replace(t, "length", pa.array([FRAMES, 0, FRAMES])))
    dataset = LeRobotDataset(copy)
    assert len(dataset) == 2 * FRAMES
    assert int(tensor(dataset[FRAMES]["episode_index"])) == 2
    assert dataset.source.episode_starts().tolist() == [0, FRAMES]
    where = dataset.episode_data_index
    assert (where["from"].tolist(), where["to"].tolist()) == ([0, FRAMES, FRAMES], [FRAMES, FRAMES, 2 * FRAMES])


def test_an_episode_without_a_file_of_one_camera_costs_its_samples(copy: Path) -> None:
    key = f"videos/{WRIST}/file_index"
    plain = LeRobotDataset(copy)[45]
    edit_table(episodes_file(copy), lambda t: replace(t, key, pa.array([t[key][0].as_py(), None, t[key][2].as_py()])))
    dataset = LeRobotDataset(copy)
    for _ in range(2):  # before another file of the camera has been met, and after
        with pytest.raises(FrameNotFound, match=f"{WRIST}.*no file for episode 1"):
            dataset[25]
        assert torch.equal(tensor(dataset[45][WRIST]), tensor(plain[WRIST]))
    assert tensor(LeRobotDataset(copy, video_keys=[TOP])[25][TOP]).shape == (3, 96, 128)
    dataset.source.gop_starts()


@pytest.mark.parametrize("name", ["words", "__index_level_0__", "task"])
def test_tasks_are_the_index_of_the_frame_that_pandas_wrote(copy: Path, name: str) -> None:
    table = pa.table({"task_index": [1, 0], name: ["point", "wave"]})
    about = json.dumps({"index_columns": [name], "columns": []})
    pq.write_table(table.replace_schema_metadata({"pandas": about}), copy / "meta/tasks.parquet")
    assert columns_of(copy)["task"] == ["point" if i // FRAMES == 1 else "wave" for i in range(ROWS)]


# metadata ------------------------------------------------------------------------------------------------------------


def test_metadata_are_of_the_whole_set_whatever_was_chosen(pristine: Path) -> None:
    dataset = LeRobotDataset(pristine, episodes=[2, 0], video_keys=[TOP])
    meta = dataset.meta
    assert (meta.total_episodes, meta.total_frames, len(meta.episodes)) == (EPISODES, ROWS, EPISODES)
    assert (dataset.num_episodes, dataset.num_frames) == (2, 2 * FRAMES)
    assert meta.episodes[1]["dataset_from_index"] == FRAMES
    assert meta.episodes["dataset_to_index"] == [FRAMES, 2 * FRAMES, 3 * FRAMES]
    assert meta.episodes[-1][f"videos/{TOP}/file_index"] == 1
    assert meta.episodes[0:2]["length"] == [FRAMES, FRAMES]
    assert [row["episode_index"] for row in meta.episodes] == [0, 1, 2]
    assert meta.episodes[0]["tasks"] == [meta.tasks[0]]
    assert meta.get_task_index(meta.tasks[0]) == 0
    assert meta.get_task_index("nothing of the kind") is None
    assert meta.shapes[TOP] == (96, 128, 3)
    # what LeRobot's sampler yields are rows of the whole set
    to_sample = dataset.absolute_to_relative_idx
    assert to_sample is not None
    assert list(to_sample) == [*range(FRAMES), *range(2 * FRAMES, 3 * FRAMES)]
    for row in (0, 19, 40, 59):
        assert int(tensor(dataset[to_sample[row]]["index"])) == row
    assert LeRobotDataset(pristine, video_keys=[]).absolute_to_relative_idx is None


CHANGES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "absent": lambda t: t.drop_columns(["dataset_from_index"]),
    "wrong": lambda t: replace(t, "dataset_from_index", pa.array([5, 5, 5])),
}


@pytest.mark.parametrize("change", CHANGES)
def test_where_episodes_begin_is_counted(copy: Path, change: str) -> None:
    edit_table(episodes_file(copy), CHANGES[change])
    assert LeRobotDataset(copy, video_keys=[]).meta.episodes["dataset_from_index"] == [0, FRAMES, 2 * FRAMES]
