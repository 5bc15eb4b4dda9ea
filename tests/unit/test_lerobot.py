"""Laws of the LeRobot source and dataset: what samples hold, on generated sets."""

import io
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from gpuload.datasets import LeRobotDataset
from gpuload.errors import ConfigError
from gpuload.sources.lerobot import LeRobotSource
from tests.lerobot_sets import DATA, EPISODES, FRAMES, TOP, WRIST, add_feature, edit_table, replace
from tests.older import write_older


def tensor(value: object) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


def decoded(path: Path) -> list[av.VideoFrame]:
    """Closed at once: a decoder's threads are not there after a fork, and whoever drops it there waits for them."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


# pixels and shapes ---------------------------------------------------------------------------------------------------


def test_every_frame_equals_a_sequential_decode(pristine: Path) -> None:
    dataset = LeRobotDataset(pristine, return_uint8=True)
    assert len(dataset) == EPISODES * FRAMES
    for key in (TOP, WRIST):
        files = sorted((pristine / "videos" / key).glob("**/*.mp4"))
        expected = [frame.to_ndarray(format="rgb24") for path in files for frame in decoded(path)]
        samples = dataset.__getitems__(range(len(dataset)))
        for i, sample in enumerate(samples):
            np.testing.assert_array_equal(tensor(sample[key]).permute(1, 2, 0).numpy(), expected[i])


def test_a_sample_has_the_keys_dtypes_and_shapes_of_the_contract(pristine: Path) -> None:
    deltas = {TOP: [-1 / 30, 0.0], WRIST: [0.0], "action": [i / 30 for i in range(5)]}
    sample = LeRobotDataset(pristine, delta_timestamps=deltas)[0]
    assert tensor(sample[TOP]).shape == (2, 3, 96, 128)
    assert tensor(sample[WRIST]).shape == (3, 96, 128)
    assert tensor(sample[TOP]).dtype == torch.float32
    assert 0 <= float(tensor(sample[TOP]).min()) < float(tensor(sample[TOP]).max()) <= 1
    assert tensor(sample["action"]).shape[0] == 5
    assert tensor(sample[f"{TOP}_is_pad"]).tolist() == [True, False]
    assert tensor(sample[f"{WRIST}_is_pad"]).tolist() == [False]
    for key in ("frame_index", "episode_index", "index", "task_index"):
        assert (tensor(sample[key]).dtype, tensor(sample[key]).shape) == (torch.int64, ())
    assert (tensor(sample["timestamp"]).dtype, tensor(sample["timestamp"]).shape) == (torch.float32, ())
    assert isinstance(sample["task"], str)


def test_windows_repeat_the_boundary_row_of_their_own_episode(pristine: Path) -> None:
    source = LeRobotSource(pristine, delta_timestamps={"index": [-2 / 30, 0.0, 3 / 30], TOP: [-2 / 30, 0.0, 3 / 30]})
    samples = np.arange(len(source), dtype=np.int64)
    batch = source.columns(samples)
    rows, pads = tensor(batch["index"]).tolist(), tensor(batch["index_is_pad"]).tolist()
    for i in range(len(source)):
        first = i // FRAMES * FRAMES
        asked = [i - 2, i, i + 3]
        assert rows[i] == [min(max(row, first), first + FRAMES - 1) for row in asked]
        assert pads[i] == [not first <= row < first + FRAMES for row in asked]
    refs = source.frames(samples)
    alone = LeRobotSource(pristine).frames(np.asarray(rows).reshape(-1)).frame[:, 0].reshape(-1, 3)
    np.testing.assert_array_equal(refs.frame[:, :3], alone)
    assert source.reach == (2, 3)


def test_a_subset_keeps_the_stored_indices(pristine: Path) -> None:
    whole = LeRobotDataset(pristine, return_uint8=True)
    dataset = LeRobotDataset(pristine, episodes=[2, 0], return_uint8=True)
    assert (len(dataset), dataset.num_episodes) == (2 * FRAMES, 2)
    for mine, theirs in ((0, 0), (FRAMES, 2 * FRAMES), (-1, EPISODES * FRAMES - 1)):
        assert int(tensor(dataset[mine]["index"])) == theirs
        assert torch.equal(tensor(dataset[mine][TOP]), tensor(whole[theirs][TOP]))
    assert dataset.source.fingerprint != whole.source.fingerprint
    assert dataset.source.episode_starts().tolist() == [0, FRAMES]


def test_another_recording_is_another_dataset(pristine: Path, tmp_path: Path) -> None:
    """As many rows, the same features: the numbers in them differ."""
    mine = LeRobotSource(pristine).fingerprint
    assert LeRobotSource(Path(shutil.copytree(pristine, tmp_path / "copy"))).fingerprint == mine
    other = Path(shutil.copytree(pristine, tmp_path / "other"))
    edit_table(
        other / DATA, lambda table: replace(table, "action", table["action"].take(np.arange(len(table))[::-1].copy()))
    )
    assert LeRobotSource(other).fingerprint != mine


def test_gop_starts_are_where_keyframes_are_shown(pristine: Path) -> None:
    source = LeRobotSource(pristine)
    files = sorted((pristine / "videos" / TOP).glob("**/*.mp4"))
    assert len(files) == 2
    frames = [frame for path in files for frame in decoded(path)]
    keys = [i for i, frame in enumerate(frames) if frame.key_frame]
    assert source.gop_starts().tolist() == sorted({*keys, *range(0, EPISODES * FRAMES, FRAMES)})


def test_image_transforms_see_cameras_only(pristine: Path) -> None:
    plain, flipped = (
        LeRobotDataset(pristine),
        LeRobotDataset(pristine, image_transforms=lambda picture: picture.flip(-1)),
    )
    assert torch.equal(tensor(flipped[5][TOP]), tensor(plain[5][TOP]).flip(-1))
    assert torch.equal(tensor(flipped[5]["action"]), tensor(plain[5]["action"]))


def test_image_transforms_come_sample_by_sample_and_camera_by_camera(pristine: Path) -> None:
    seen: list[torch.Tensor] = []

    def remember(picture: torch.Tensor) -> torch.Tensor:
        seen.append(picture)
        return picture

    samples = LeRobotDataset(pristine, image_transforms=remember).__getitems__([3, 40])
    expected = [tensor(sample[key]) for sample in samples for key in (TOP, WRIST)]
    assert len(seen) == 4
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_indices_outside_raise_index_error(pristine: Path) -> None:
    dataset = LeRobotDataset(pristine)
    for index in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset[index]


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_it_works_in_a_torch_dataloader(pristine: Path, context: str) -> None:
    dataset = LeRobotDataset(pristine, return_uint8=True)
    expected = torch.stack([tensor(s[TOP]) for s in dataset.__getitems__(range(len(dataset)))])
    loader: Any = DataLoader(dataset, batch_size=16, num_workers=2, multiprocessing_context=context)
    assert torch.equal(torch.cat([batch[TOP] for batch in loader]), expected)


def test_a_pickle_is_small_and_gives_the_same_samples(pristine: Path) -> None:
    dataset = LeRobotDataset(pristine, delta_timestamps={"action": [0.0, 1 / 30]})
    dataset[0]
    data = pickle.dumps(dataset)
    assert len(data) < 5000
    again = pickle.loads(data)
    assert torch.equal(again[7][TOP], tensor(dataset[7][TOP]))


# stored types --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"],
)
@pytest.mark.parametrize("shape", [[1], [3], [2, 3]])
@pytest.mark.parametrize("fixed", [True, False])
def test_numbers_of_every_type_and_rank_come_back(copy: Path, dtype: str, shape: list[int], fixed: bool) -> None:
    values = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, (EPISODES * FRAMES, *shape))
    values = values.astype(dtype)
    if shape == [1]:
        stored: Any = pa.array(values[:, 0])
    else:
        kind = pa.from_numpy_dtype(values.dtype)
        for length in reversed(shape):
            kind = pa.list_(kind, length) if fixed else pa.list_(kind)
        stored = pa.array(values.tolist(), type=kind)
    add_feature(copy, "extra", dtype, shape, stored)
    got = tensor(LeRobotSource(copy, video_keys=[]).columns(np.array([5, 41, 5]))["extra"])
    np.testing.assert_array_equal(got.numpy(), values[[5, 41, 5]].reshape(3, *([] if shape == [1] else shape)))
    # as torch.tensor makes them of Python's numbers, which is what LeRobot's samples go through
    assert got.dtype == torch.tensor(values[5].tolist()).dtype


def test_texts_come_back(copy: Path) -> None:
    words = [f"word {i % 4}" for i in range(EPISODES * FRAMES)]
    add_feature(copy, "note", "string", [1], pa.array(words))
    assert LeRobotSource(copy, video_keys=[]).columns(np.array([6, 1]))["note"] == [words[6], words[1]]
    with pytest.raises(ConfigError, match="note"):
        LeRobotSource(copy, delta_timestamps={"note": [0.0]})


def png(picture: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(("dtype", "shape"), [("uint8", (6, 8, 3)), ("uint8", (6, 8)), ("uint16", (6, 8))])
@pytest.mark.parametrize("in_files", [False, True])
def test_images_come_back(copy: Path, dtype: str, shape: tuple[int, ...], in_files: bool) -> None:
    high = np.iinfo(dtype).max
    pictures = np.random.default_rng(0).integers(0, high, (EPISODES * FRAMES, *shape)).astype(dtype)
    rows: list[dict[str, bytes | str | None]] = [{"bytes": png(p), "path": None} for p in pictures]
    if in_files:
        (copy / "images").mkdir()
        for i, row in enumerate(rows):
            data = row["bytes"]
            assert isinstance(data, bytes)
            (copy / f"images/{i}.png").write_bytes(data)
            rows[i] = {"bytes": None, "path": f"images/{i}.png"}
    stored = pa.array(rows, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    add_feature(copy, "picture", "image", [*shape[:2], 3 if len(shape) == 3 else 1], stored)
    source = LeRobotSource(copy, video_keys=[], delta_timestamps={"picture": [0.0, 1 / 30]})
    got = tensor(source.columns(np.array([2, 45]))["picture"]).numpy()
    expected = pictures[[2, 3, 45, 46]].reshape(2, 2, 6, 8, -1).transpose(0, 1, 4, 2, 3).astype(np.float32)
    np.testing.assert_array_equal(got, expected / np.float32(255) if dtype == "uint8" else expected)


def test_images_are_turned_as_their_exif_data_say(copy: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # turn it clockwise by 90 degrees
    Image.fromarray(picture).save(buffer, "png", exif=exif)
    rows = [{"bytes": buffer.getvalue(), "path": None}] * (EPISODES * FRAMES)
    stored = pa.array(rows, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    add_feature(copy, "picture", "image", [8, 6, 3], stored)
    got = tensor(LeRobotSource(copy, video_keys=[]).columns(np.array([2]))["picture"]).numpy()
    np.testing.assert_array_equal((got[0] * 255).round(), np.rot90(picture, -1).transpose(2, 0, 1))


def test_rows_are_found_whatever_file_the_metadata_names(copy: Path) -> None:
    table = pq.read_table(copy / DATA)
    pq.write_table(table.slice(0, FRAMES), copy / DATA)
    pq.write_table(table.slice(FRAMES), copy / "data/chunk-000/file-001.parquet")
    episodes = next((copy / "meta/episodes").glob("**/*.parquet"))
    edit_table(episodes, lambda t: replace(t, "data/file_index", pa.array([0, 0, 1], pa.int16())))  # off by one
    for chosen in (None, [1], [2, 1]):
        source = LeRobotSource(copy, episodes=chosen, video_keys=[])
        kept = table.filter(pa.compute.is_in(table["episode_index"], pa.array(chosen or [0, 1, 2])))
        got = tensor(source.columns(np.arange(len(source)))["index"])
        assert got.tolist() == kept["index"].to_pylist()


def test_tasks_are_read_under_both_names(copy: Path) -> None:
    plain = LeRobotSource(copy, video_keys=[]).columns(np.array([0]))["task"]
    path = copy / "meta/tasks.parquet"
    names = {"task": "__index_level_0__", "__index_level_0__": "task"}
    edit_table(
        path, lambda t: t.rename_columns([names.get(c, c) for c in t.column_names]).replace_schema_metadata(None)
    )
    assert LeRobotSource(copy, video_keys=[]).columns(np.array([0]))["task"] == plain


@pytest.mark.parametrize("column", ["subtask", "__index_level_0__"])
def test_subtasks_come_as_texts(copy: Path, column: str) -> None:
    assert LeRobotDataset(copy).meta.subtasks is None
    rows = EPISODES * FRAMES
    numbers = np.arange(rows) // 7 % 3
    add_feature(copy, "subtask_index", "int64", [1], pa.array(numbers))
    texts = ["reach", "grasp", "place"]
    pq.write_table(
        pa.table({"subtask_index": [2, 0, 1], column: [texts[i] for i in (2, 0, 1)]}), copy / "meta/subtasks.parquet"
    )
    dataset = LeRobotDataset(copy, video_keys=[])
    assert dataset[8]["subtask"] == texts[numbers[8]]
    assert dataset.source.columns(np.arange(rows))["subtask"] == [texts[i] for i in numbers]


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_an_older_layout_gives_the_same_rows(pristine: Path, tmp_path: Path, version: str) -> None:
    root = write_older(pristine, tmp_path / "older", version=version)
    dataset, newer = LeRobotDataset(root), LeRobotSource(pristine, video_keys=[])
    every = np.arange(len(newer))
    batch = dataset.source.columns(every)
    for key, value in newer.columns(every).items():
        if key != "task":
            assert torch.equal(tensor(batch[key]), tensor(value))
    assert tensor(dataset[len(newer) - 1][TOP]).shape == (3, 96, 128)
    table = pq.read_table(pristine / DATA)
    if version == "v2.1":
        values = np.array(table["action"].to_pylist())
        for name, expected in (("mean", values.mean(0)), ("std", values.std(0)), ("max", values.max(0))):
            got = dataset.meta.stats["action"][name].astype(np.float64)
            np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delta_timestamps": {"action": [0.01]}}, "multiple"),
        ({"delta_timestamps": {"nothing": [0.0]}}, "nothing"),
        ({"delta_timestamps": {"action": []}}, "action"),
        ({"delta_timestamps": {"action": [math.nan]}}, "action"),
        ({"episodes": [9]}, "episode 9"),
        ({"episodes": []}, "no episode"),
        ({"tolerance_s": -1e-4}, "tolerance_s"),
        ({"video_keys": ["front"]}, "front"),
        ({"force_cache_sync": True}, "force_cache_sync"),
        ({"video_backend": "opencv"}, "video_backend"),
        ({"depth_output_unit": "cm"}, "depth_output_unit"),
        ({"repo_type": "bucket"}, "repo_type"),
        ({"episodes": [1.9]}, r"episodes.*1\.9"),
        ({"episodes": ["1"]}, "episodes.*'1'"),
        ({"episodes": [True]}, "episodes.*True"),
        ({"episodes": [2**64]}, "episodes"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_by_name(pristine: Path, arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LeRobotDataset(pristine, **arguments)


def test_arguments_that_change_nothing_are_taken(pristine: Path) -> None:
    plain = LeRobotDataset(pristine)[3]
    other = LeRobotDataset(
        "me/mine",
        pristine,
        revision="v3.0",
        video_backend="video_reader",
        batch_encoding_size=4,
        vcodec="h264",
        depth_output_unit="mm",  # what LeRobot 0.6's make_dataset passes, whatever the dataset
        repo_type="dataset",
        local_episode_loading=False,
        token=None,
        rgb_encoder=None,
        depth_encoder=None,
    )[3]
    assert plain.keys() == other.keys()
    assert torch.equal(tensor(plain[TOP]), tensor(other[TOP]))
    with pytest.raises(TypeError, match="colour"):
        LeRobotDataset(pristine, colour="red")
