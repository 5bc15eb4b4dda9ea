"""Parts of a dataset: torch's Subset and episodes without their edges, in every order."""

import io
import shutil
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from torch.utils.data import Subset, random_split

from gpuload import ConfigError, LeRobotDataset, Loader, StateMismatch
from gpuload.plan.order import epoch_order
from gpuload.schedule import Schedule
from gpuload.subset import unwrapped, without_edges
from tests.lerobot_sets import EPISODES, FRAMES, TOP, add_feature
from tests.source import NumberedSource

ROWS = EPISODES * FRAMES


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> NumberedSource:
    return NumberedSource(tmp_path_factory.mktemp("subset"), episodes=6, frames=20, cameras=1, width=32, height=32)


def schedule(
    source: NumberedSource, kind: str, chosen: list[int], *, buffer_bytes: int = 1 << 30, rank: int = 0, ranks: int = 1
) -> Schedule:
    return Schedule(
        source,
        kind,
        seed=3,
        sampler=None,
        batch_size=4,
        rank=rank,
        world_size=ranks,
        drop_last=False,
        buffer_bytes=buffer_bytes,
        chosen=np.array(chosen, np.int64),
    )


def played(plan: Schedule) -> list[int]:
    iteration = plan.begin()
    return list(chain.from_iterable(iteration.samples_of(step).tolist() for step in range(iteration.steps)))


@pytest.mark.parametrize("kind", ["sequential", "global", "block"])
def test_exactly_the_chosen_samples_come(source: NumberedSource, kind: str) -> None:
    chosen = [*range(30, 55), *range(80, 120), 7, 3]
    plan = schedule(source, kind, chosen, buffer_bytes=32 * 32 * 30)
    samples = played(plan)
    assert Counter(samples) == Counter(chosen)
    assert len(plan) == -(-len(chosen) // 4)
    assert samples == chosen if kind == "sequential" else samples != chosen
    plan.set_epoch(1)
    assert (played(plan) == samples) == (kind == "sequential")


def test_block_shuffle_mixes_what_is_chosen_as_if_there_were_nothing_else(source: NumberedSource) -> None:
    chosen = [*range(20, 40), *range(100, 120)]  # the second and the last of six episodes
    plan = schedule(source, "block", chosen, buffer_bytes=32 * 32 * 25)
    runs = plan._planned_runs()
    assert runs.starts[-1] < len(chosen)
    assert 20 in runs.starts.tolist()  # where the second chosen episode begins among the chosen samples
    order = epoch_order("block", len(chosen), seed=3, epoch=0, runs=runs).samples
    assert played(plan) == np.array(chosen)[order].tolist()


def test_ranks_share_what_is_chosen(source: NumberedSource) -> None:
    chosen = list(range(10, 50))
    parts = [played(schedule(source, "block", chosen, rank=rank, ranks=2)) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == chosen


def test_a_state_belongs_to_the_samples_that_were_chosen(source: NumberedSource) -> None:
    state = schedule(source, "global", list(range(40))).state_dict()
    schedule(source, "global", list(range(40))).load_state_dict(state)
    with pytest.raises(StateMismatch, match="samples"):
        schedule(source, "global", list(range(1, 41))).load_state_dict(state)


@pytest.mark.parametrize("shuffle", [False, "global", "block"])
def test_a_loader_of_a_subset_gives_its_samples_exactly(pristine: Path, shuffle: bool | str) -> None:
    dataset = LeRobotDataset(pristine, delta_timestamps={TOP: [-1 / 30, 0.0]}, return_uint8=True)
    part = Subset(Subset(dataset, range(5, 50)), [40, 0, 2, -3])
    with Loader(part, 3, shuffle=shuffle, device="cpu") as loader:
        batches = list(loader)
        assert (len(loader), loader.stats.samples_delivered) == (2, 4)
        assert loader.stats.mixing > 0
    seen = list(chain.from_iterable(batch["index"].tolist() for batch in batches))
    assert sorted(seen) == [5, 7, 45, 47]
    if not shuffle:
        assert seen == [45, 5, 7, 47]
    for batch in batches:
        for index, pictures in zip(batch["index"].tolist(), batch[TOP], strict=True):
            assert (pictures == dataset[index][TOP]).all()


def test_the_parts_of_a_random_split_make_the_whole(pristine: Path) -> None:
    dataset, seen = LeRobotDataset(pristine, video_keys=[]), list[int]()
    for part in random_split(dataset, [0.7, 0.3]):
        with Loader(part, 8, shuffle="block", device="cpu") as loader:
            seen += chain.from_iterable(batch["index"].tolist() for batch in loader)
    assert sorted(seen) == list(range(ROWS))


def test_a_sampler_counts_the_samples_of_the_subset(pristine: Path) -> None:
    part = Subset(LeRobotDataset(pristine, video_keys=[]), [50, 40, 30])
    with Loader(part, 2, sampler=[2, 0], device="cpu") as loader:
        assert [batch["index"].tolist() for batch in loader] == [[30, 50]]
    with (
        Loader(part, 2, sampler=[3], device="cpu") as loader,
        pytest.raises(ConfigError, match="the sampler gave 3 to 3, samples are 0 to 2"),
    ):
        next(iter(loader))


@pytest.mark.parametrize("shuffle", [False, "block"])
def test_episodes_come_without_their_edges(pristine: Path, shuffle: bool | str) -> None:
    dataset = LeRobotDataset(pristine, video_keys=[])
    with Loader(dataset, 4, shuffle=shuffle, drop_n_first_frames=2, drop_n_last_frames=7, device="cpu") as loader:
        seen = [index for batch in loader for index in batch["index"].tolist()]
        assert len(loader) == -(-EPISODES * (FRAMES - 9) // 4)
    wanted = [e * FRAMES + i for e in range(EPISODES) for i in range(2, FRAMES - 7)]
    assert (seen if not shuffle else sorted(seen)) == wanted
    part = Subset(dataset, range(FRAMES - 8, FRAMES + 1))
    with Loader(part, 4, drop_n_last_frames=7, device="cpu") as loader:
        assert [i for batch in loader for i in batch["index"].tolist()] == [FRAMES - 8, FRAMES]


class Brighter(Subset[Any]):
    """As people wrap the parts of a split."""

    def __getitem__(self, index: Any) -> Any:
        return {**self.dataset[self.indices[index]], "more": 1}

    def __getitems__(self, indices: Any) -> Any:
        return [self[index] for index in indices]


def test_a_subset_that_changes_samples_is_refused(pristine: Path) -> None:
    with pytest.raises(ConfigError, match="Brighter has a __getitem__ of its own"):
        Loader(Brighter(LeRobotDataset(pristine, video_keys=[]), [0]), device="cpu")


@pytest.mark.parametrize("shuffle", [False, "global", "block"])
def test_a_subset_of_nothing_is_an_empty_epoch(pristine: Path, shuffle: bool | str) -> None:
    part = Subset(LeRobotDataset(pristine, video_keys=[]), [])
    with Loader(part, 2, shuffle=shuffle, drop_n_last_frames=1, device="cpu") as loader:
        assert (len(loader), list(loader)) == (0, [])


def test_what_cannot_be_is_said(pristine: Path) -> None:
    dataset = LeRobotDataset(pristine, video_keys=[])
    with pytest.raises(ConfigError, match="leave none of 60 samples"):
        Loader(dataset, drop_n_last_frames=FRAMES, device="cpu")
    with pytest.raises(ConfigError, match="at least 0"):
        Loader(dataset, drop_n_first_frames=-1, device="cpu")
    with pytest.raises(ConfigError, match="sampler and drop_n"):
        Loader(dataset, sampler=[1], drop_n_last_frames=1, device="cpu")
    with pytest.raises(ConfigError, match="sample 60, but its dataset has 60"):
        Loader(Subset(dataset, [ROWS]), device="cpu")
    with pytest.raises(ConfigError, match="or a Subset of one"):
        Loader(Subset([1, 2], [0]), device="cpu")  # type: ignore[arg-type]  # that is the mistake


def test_episodes_that_are_too_short_are_left_out_alone() -> None:
    starts = np.array([0, 3, 10])
    left = without_edges(None, starts, 12, first=0, last=4)
    assert left is not None
    assert left.tolist() == [3, 4, 5]
    assert without_edges(None, starts, 12, first=0, last=0) is None
    assert unwrapped("anything") == ("anything", None)


def test_images_count_for_block_shuffle(pristine: Path, tmp_path: Path) -> None:
    """Otherwise all of a set of images fits into any buffer, and its order is a uniform permutation."""
    root = Path(shutil.copytree(pristine, tmp_path / "set"))
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "png")
    add_feature(root, "picture", "image", [8, 8, 3], pa.array([buffer.getvalue()] * ROWS))
    dataset = LeRobotDataset(root, video_keys=[])
    assert dataset.source.image_pixels == 64
    with Loader(dataset, 4, shuffle="block", shuffle_buffer_bytes=64 * FRAMES * 2, device="cpu") as loader:
        assert loader._schedule._planned_runs().count > EPISODES  # episodes are cut: they do not fit
        assert sorted(index for batch in loader for index in batch["index"].tolist()) == list(range(ROWS))
