"""Real robot datasets, against what LeRobot 0.4.4 returned for them. Runs where GPULOAD_REAL_DATA names the folder."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from gpuload.datasets import LeRobotDataset
from gpuload.errors import DatasetError, FrameNotFound

pytestmark = pytest.mark.skipif("GPULOAD_REAL_DATA" not in os.environ, reason="GPULOAD_REAL_DATA is not set")

CAMERA = "observation.images.cam_high"


@pytest.fixture
def data() -> Path:
    return Path(os.environ["GPULOAD_REAL_DATA"])


def assert_golden(dataset: LeRobotDataset, golden: Path) -> None:
    with np.load(golden) as stored:
        expected = {key: stored[key] for key in stored.files}
    indices = expected["index"].tolist()
    samples = dataset.__getitems__(indices)
    skipped = {"delta_timestamps", f"{CAMERA}.float_exact"}
    for key in set(expected) - skipped:
        for i, value in enumerate(expected[key]):
            got = samples[i][key]
            if key == CAMERA and dataset.return_uint8 is False:
                assert isinstance(got, torch.Tensor)
                assert got.dtype == torch.float32
                value = torch.from_numpy(value).to(torch.float32).div(255).numpy()
            if isinstance(got, str):
                assert got == value
            else:
                assert got.numpy().dtype == value.dtype, key
                np.testing.assert_array_equal(got.numpy(), value, err_msg=f"{key} of {indices[i]}")
    assert set(samples[0]) == set(expected) - skipped


@pytest.mark.parametrize("return_uint8", [True, False])
def test_samples_equal_those_of_lerobot(data: Path, return_uint8: bool) -> None:
    dataset = LeRobotDataset(data / "g1_v30_av1_5ep", return_uint8=return_uint8)
    assert len(dataset) == 1583
    assert_golden(dataset, data / "g1_v30_av1_5ep.torchcodec.npz")


@pytest.mark.parametrize("return_uint8", [True, False])
def test_windows_and_masks_equal_those_of_lerobot(data: Path, return_uint8: bool) -> None:
    golden = data / "g1_v30_av1_5ep.torchcodec.windows.npz"
    with np.load(golden) as stored:
        deltas = json.loads(str(stored["delta_timestamps"]))
    dataset = LeRobotDataset(data / "g1_v30_av1_5ep", delta_timestamps=deltas, return_uint8=return_uint8)
    assert_golden(dataset, golden)


def test_a_camera_without_files_is_named_and_can_be_left_out(data: Path) -> None:
    root = data / "groot_picknplace_v20"
    with pytest.raises(
        DatasetError, match=r"observation\.images\.egoview.*video_keys=\['observation\.images\.ego_view'"
    ):
        LeRobotDataset(root)
    dataset = LeRobotDataset(root, video_keys=["observation.images.ego_view"])
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (2096, 5, 20)
    assert dataset.meta.camera_keys == ["observation.images.ego_view"]
    samples = dataset.__getitems__([0, 414, 416, -2])
    picture = samples[0]["observation.images.ego_view"]
    assert isinstance(picture, torch.Tensor)
    assert picture.shape == (3, 256, 256)
    assert [int(s["episode_index"]) for s in samples] == [0, 0, 1, 4]
    assert samples[0]["task"] == "pick the pear from the counter and place it in the plate"


def test_every_row_of_a_sound_dataset_has_a_frame_of_its_own(data: Path) -> None:
    source = LeRobotDataset(data / "g1_v30_av1_5ep").source
    refs = source.frames(np.arange(len(source), dtype=np.int64))
    assert (refs.frame >= 0).all()
    assert len(np.unique(np.concatenate([refs.file, refs.frame], axis=1), axis=0)) == len(source)


def test_a_row_after_the_last_frame_is_refused(data: Path) -> None:
    # groot's rows begin at 1/fps, its videos at 0: the last row of each episode lies one period after the last frame
    keys = ["observation.images.ego_view"]
    dataset = LeRobotDataset(data / "groot_picknplace_v20", video_keys=keys)
    refs = dataset.source.frames(np.arange(len(dataset), dtype=np.int64))
    assert np.flatnonzero(refs.frame[:, 0] < 0).tolist() == [415, 885, 1355, 1767, 2095]
    with pytest.raises(FrameNotFound, match=r"episode_000000\.mp4.*sample 415.*tolerance_s"):
        dataset[415]
    assert isinstance(LeRobotDataset(data / "groot_picknplace_v20", tolerance_s=0.051, video_keys=keys)[415], dict)
