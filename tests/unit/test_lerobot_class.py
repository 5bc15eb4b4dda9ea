"""What LeRobot's scripts, and classes made from LeRobot's, do with a dataset beside reading samples."""

import copy as copying
import io
import json
import multiprocessing
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from gpuload.datasets import LeRobotDataset
from gpuload.errors import ConfigError, DatasetError, FrameNotFound
from gpuload.loader import Loader
from gpuload.metadata import LeRobotDatasetMetadata
from gpuload.transform import Transform
from tests.lerobot_sets import EPISODES, FRAMES, TOP, add_feature, edit_table, replace
from tests.older import write_older

ROWS = EPISODES * FRAMES


class Relabelled(LeRobotDataset):
    """As somebody makes a class of their own from LeRobot's."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(index) | {"reward": float(index)}


def test_a_class_made_from_it_decides_what_a_dataloader_gets(pristine: Path) -> None:
    dataset = Relabelled(pristine, video_keys=[])
    (batch,) = DataLoader(Subset(dataset, [3, 50]), batch_size=2)
    assert batch["reward"].tolist() == [3.0, 50.0]
    assert batch["index"].tolist() == [3, 50]


def test_a_loader_refuses_a_class_whose_samples_it_would_not_give(pristine: Path) -> None:
    with pytest.raises(ConfigError, match="Relabelled has a __getitem__ of its own"):
        Loader(Relabelled(pristine, video_keys=[]), device="cpu")


def test_what_people_bring_from_the_dataloader_is_translated(pristine: Path) -> None:
    dataset = LeRobotDataset(pristine, video_keys=[])
    with pytest.raises(ConfigError, match=r"a Loader has no num_workers, which torch's DataLoader has.*num_threads="):
        Loader(dataset, 4, num_workers=8)
    with pytest.raises(TypeError, match="no argument 'num_thread'"):
        Loader(dataset, 4, num_thread=8)


def test_what_it_was_opened_with_cannot_be_changed(pristine: Path) -> None:
    dataset = LeRobotDataset(pristine, video_keys=[], delta_timestamps={"action": [0.0]})
    for name in ("root", "episodes", "delta_timestamps", "tolerance_s", "return_uint8"):
        with pytest.raises(AttributeError, match=name):
            setattr(dataset, name, getattr(dataset, name))
    assert dataset.root == pristine
    dataset.image_transforms = None  # which is asked for every sample


def test_transforms_may_change_between_epochs(pristine: Path) -> None:
    dataset = LeRobotDataset(pristine, episodes=[0], video_keys=[TOP], image_transforms=lambda picture: picture * 0)
    with Loader(dataset, 4, device="cpu") as loader:
        assert not next(iter(loader))[TOP].any()
        dataset.clear_image_transforms()
        assert next(iter(loader))[TOP].any()
        dataset.set_image_transforms(lambda picture: picture[..., :2])
        assert next(iter(loader))[TOP].shape[-1] == 2
    with Loader(dataset := LeRobotDataset(pristine), 4, transform=Transform(flip=0.5), device="cpu") as loader:
        dataset.image_transforms = torch.nn.Identity()
        with pytest.raises(ConfigError, match="exclude each other"):
            iter(loader)


@pytest.mark.parametrize("wrong", [Transform(flip=0.5), "resize", 3])
def test_transforms_that_cannot_be_called_are_refused_at_once(pristine: Path, wrong: Any) -> None:
    with pytest.raises(TypeError, match="image_transforms must be callable"):
        LeRobotDataset(pristine, video_keys=[], image_transforms=wrong)


def test_samples_of_each_chosen_episode(pristine: Path) -> None:
    dataset = LeRobotDataset(pristine, video_keys=[], episodes=[0, 2], delta_timestamps={"action": [-0.1, 0.0, 1 / 30]})
    where = dataset.episode_data_index
    assert (where["from"].tolist(), where["to"].tolist()) == ([0, FRAMES], [FRAMES, 2 * FRAMES])
    assert where["from"].dtype == torch.int64
    assert dataset.delta_indices == {"action": [-3, 0, 1]}


def test_a_copy_for_a_worker_holds_no_table_of_rows(pristine: Path) -> None:
    dataset = LeRobotDataset(pristine, video_keys=[], episodes=[0, 2])
    before = len(pickle.dumps(dataset))
    places = dataset.absolute_to_relative_idx
    assert places is dataset.absolute_to_relative_idx
    assert places is not None
    assert places[2 * FRAMES] == FRAMES
    assert len(pickle.dumps(dataset)) == before


def test_what_is_not_here_says_what_to_do(pristine: Path) -> None:
    dataset: Any = LeRobotDataset(pristine, video_keys=[])
    assert not hasattr(dataset, "hf_dataset")
    with pytest.raises(AttributeError, match=r"hf_dataset.*pyarrow"):
        dataset.hf_dataset.filter(bool)
    with pytest.raises(AttributeError, match=r"create.*record"):
        dataset.create("me/mine")


@pytest.mark.parametrize("tolerance_s", [0.0, float("inf")])
def test_tolerances_that_lerobot_takes(pristine: Path, tolerance_s: float) -> None:
    dataset = LeRobotDataset(pristine, video_keys=[], tolerance_s=tolerance_s, delta_timestamps={"action": [0.0]})
    assert dataset[0]["action"].shape[0] == 1
    with pytest.raises(ConfigError, match="tolerance_s"):
        LeRobotDataset(pristine, tolerance_s=float("nan"))


def test_a_time_without_a_frame_is_an_error_that_lerobots_users_catch(copy: Path) -> None:
    late = lambda table: replace(table, f"videos/{TOP}/from_timestamp", pa.array([9.0] * EPISODES))  # noqa: E731
    edit_table(next((copy / "meta/episodes").rglob("*.parquet")), late)
    with pytest.raises(ValueError, match="tolerance_s") as caught:
        LeRobotDataset(copy, video_keys=[TOP])[0]
    assert isinstance(caught.value, FrameNotFound)


# images --------------------------------------------------------------------------------------------------------------


def png(height: int, width: int) -> dict[str, bytes | None]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), height, np.uint8)).save(buffer, "png")
    return {"bytes": buffer.getvalue(), "path": None}


def test_images_of_several_sizes_come_as_samples(copy: Path) -> None:
    rows = [png(6, 8) if i % 2 else png(4, 4) for i in range(ROWS)]
    stored = pa.array(rows, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    add_feature(copy, "picture", "image", [6, 8, 3], stored)
    dataset = LeRobotDataset(copy, video_keys=[])
    assert [tuple(s["picture"].shape) for s in dataset.__getitems__([0, 1, 2])] == [(3, 4, 4), (3, 6, 8), (3, 4, 4)]
    dataset.image_transforms = lambda picture: torch.nn.functional.interpolate(picture[None], (5, 5))[0]
    (batch,) = DataLoader(Subset(dataset, [0, 1]), batch_size=2)
    assert batch["picture"].shape == (2, 3, 5, 5)


def test_one_damaged_image_is_an_error_still(copy: Path) -> None:
    rows = [png(6, 8) if i else {"bytes": b"no picture", "path": None} for i in range(ROWS)]
    stored = pa.array(rows, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    add_feature(copy, "picture", "image", [6, 8, 3], stored)
    dataset = LeRobotDataset(copy, video_keys=[])
    assert len(dataset.__getitems__([1, 2])) == 2
    with pytest.raises(DatasetError, match="sample 0 cannot be decoded"):
        dataset.__getitems__([1, 0])


# metadata ------------------------------------------------------------------------------------------------------------


def episodes_file(root: Path) -> Path:
    return next((root / "meta/episodes").rglob("*.parquet"))


def test_every_column_of_the_table_of_episodes_is_read_as_it_is(copy: Path) -> None:
    names = [["reach", "grasp"], None, []]

    def changed(table: pa.Table) -> pa.Table:
        table = replace(table, "subtask_names", pa.array(names, pa.list_(pa.string())))
        table = replace(table, "success", pa.array([True, False, None]))
        table = replace(table, "operator", pa.array(["ann", "bob", "cy"]))
        table = replace(table, "takes", pa.array([3, 1, 2]))
        table = replace(table, "stats/action/mean", pa.array([[0.0]] * EPISODES))
        return table.take([2, 0, 1])  # rows may come in any order

    edit_table(episodes_file(copy), changed)
    episodes = LeRobotDataset(copy, episodes=[1], video_keys=[]).meta.episodes
    assert episodes["episode_index"] == [0, 1, 2]
    assert episodes["subtask_names"] == names
    assert episodes[1]["success"] is False
    assert episodes[[2, 0]]["operator"] == ["cy", "ann"]
    assert episodes["takes"] == [3, 1, 2]
    assert all(type(number) is int for number in episodes["takes"])
    assert isinstance(episodes[0][f"videos/{TOP}/from_timestamp"], float)
    assert not [name for name in episodes.column_names if name.startswith("stats/")]
    frame = episodes.to_pandas()
    assert frame["dataset_to_index"].tolist() == [FRAMES, 2 * FRAMES, 3 * FRAMES]
    assert list(frame.columns) == episodes.column_names
    assert list(frame["subtask_names"][0]) == names[0]


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_files_of_episodes_are_found_by_the_metadata(pristine: Path, tmp_path: Path, version: str) -> None:
    root = pristine if version == "v3.0" else write_older(pristine, tmp_path / "old", version=version)
    meta = LeRobotDataset(root, episodes=[0]).meta
    for episode in range(EPISODES):
        rows = pq.read_table(root / meta.get_data_file_path(episode))
        assert episode in rows["episode_index"].to_pylist()
        assert (root / meta.get_video_file_path(episode, TOP)).is_file()
    assert TOP in str(meta.get_video_file_path(0, TOP))
    assert meta.get_video_file_path(0, TOP) != meta.get_video_file_path(2, TOP)
    assert meta.video_path is not None
    assert "{video_key}" in meta.video_path
    assert "{" in meta.data_path
    assert meta.chunks_size >= 1
    for episode, key in ((9, TOP), (-1, TOP), (0, "action")):
        with pytest.raises(ConfigError, match=r"9|-1|action"):
            meta.get_video_file_path(episode, key)
    with pytest.raises(IndexError):  # as LeRobot's
        meta.get_data_file_path(9)


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_metadata_is_read_without_rows_and_videos(pristine: Path, tmp_path: Path, version: str) -> None:
    root = tmp_path / "set"
    if version == "v3.0":
        shutil.copytree(pristine, root)
    else:
        write_older(pristine, root, version=version)
    expected = LeRobotDataset(root).meta
    shutil.rmtree(root / "videos")
    shutil.rmtree(root / "data")
    meta = LeRobotDatasetMetadata("me/mine", root=root)
    assert isinstance(expected, LeRobotDatasetMetadata)
    assert (meta.repo_id, meta.root) == ("me/mine", root)
    for name in ("fps", "camera_keys", "features", "total_frames", "total_episodes", "robot_type", "shapes"):
        assert getattr(meta, name) == getattr(expected, name)
    assert np.array_equal(meta.stats["action"]["mean"], expected.stats["action"]["mean"])
    assert TOP in repr(meta)
    assert f"{EPISODES} episodes" in repr(meta)
    with pytest.raises(DatasetError, match="download with"):
        LeRobotDatasetMetadata("nobody/nothing")


def test_rows_of_episodes_by_any_number(pristine: Path) -> None:
    episodes = LeRobotDatasetMetadata(pristine).episodes
    assert episodes[np.int64(2)] == episodes[2] == episodes[torch.tensor(2)] == episodes[np.array(-1)]
    for several in ([0, 2], np.array([0, 2]), torch.tensor([0, 2]), range(0, 3, 2)):
        assert episodes[several]["episode_index"] == [0, 2]
    assert episodes[1:]["episode_index"] == [1, 2]
    with pytest.raises(IndexError):
        episodes[EPISODES]


def test_columns_of_older_tables_of_episodes_are_kept(pristine: Path, tmp_path: Path) -> None:
    root = write_older(pristine, tmp_path / "old", version="v2.1")
    path = root / "meta/episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:  # in any order
        line |= {"success": line["episode_index"] == 1, "mixed": line["episode_index"] or "none"}
        if line["episode_index"] == 2:
            del line["success"]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    episodes = LeRobotDatasetMetadata(root).episodes
    assert episodes["success"] == [False, True, None]
    assert episodes[1]["success"] is True
    assert "mixed" not in episodes.column_names  # values of several types
    assert episodes["length"] == [FRAMES] * EPISODES


def test_an_episode_without_a_file_has_no_path(copy: Path) -> None:
    nowhere = pa.array([0, None, 0], pa.int64())
    edit_table(episodes_file(copy), lambda table: replace(table, f"videos/{TOP}/file_index", nowhere))
    meta = LeRobotDataset(copy).meta
    assert (copy / meta.get_video_file_path(0, TOP)).is_file()
    with pytest.raises(DatasetError, match=f"{TOP} for episode 1"):
        meta.get_video_file_path(1, TOP)


def test_features_are_the_ones_of_info(pristine: Path) -> None:
    meta = LeRobotDataset(pristine).meta
    assert meta.info["features"]["action"]["shape"] == meta.shapes["action"]
    assert isinstance(meta.shapes["action"], tuple)
    meta.features.pop("action")
    assert "action" not in meta.info["features"]
    assert meta.info["codebase_version"] == "v3.0"


def mean_in_child(dataset: LeRobotDataset, answer: Any) -> None:
    answer.send(float(dataset.meta.stats["action"]["mean"][0]))


def test_statistics_that_were_replaced_stay_replaced_in_copies(pristine: Path) -> None:
    dataset = LeRobotDataset(pristine, video_keys=[])
    untouched = copying.deepcopy(dataset)
    dataset.meta.stats["action"]["mean"] = np.full(6, 7.5)
    assert untouched.meta.stats["action"]["mean"][0] != 7.5
    for other in (copying.deepcopy(dataset), pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(dataset))))):
        assert other.meta.stats["action"]["mean"][0] == 7.5
    untouched.meta.stats = dataset.meta.stats
    assert pickle.loads(pickle.dumps(untouched)).meta.stats["action"]["mean"][0] == 7.5
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=mean_in_child, args=(dataset, theirs))
    child.start()
    assert ours.poll(30.0)
    assert ours.recv() == 7.5
    child.join(10.0)
