"""Files of a set that cannot be used: they cost the batches that need them, and nothing else. And what shares a process
or a folder with a loader."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from gpuload import ConfigError, LeRobotDataset, Loader, LoaderClosed
from gpuload.demo import write_dataset
from gpuload.errors import DatasetError, GpuloadError, VideoError
from gpuload.pipeline.handle import WorkerHandle
from gpuload.sources import lerobot, lerobot_rows
from tests.lerobot_sets import add_feature
from tests.older import CHUNKS_SIZE, write_older
from tests.videos import make_video

TOP = "observation.images.top"
EPISODES, FRAMES = 5, 24


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file an episode, one camera."""
    folder = tmp_path_factory.mktemp("files")
    newer = write_dataset(folder / "newer", episodes=EPISODES, frames=FRAMES, width=128, height=96, gop=8)
    return write_older(newer, folder / "older", version="v2.1")


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "set"
    subprocess.run(["cp", "-r", str(sound), str(copy)], check=True)
    return copy


def video_of(root: Path, episode: int) -> Path:
    return root / f"videos/chunk-{episode // CHUNKS_SIZE:03d}/{TOP}/episode_{episode:06d}.mp4"


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_another_size(path: Path) -> None:
    make_video(path, frames=FRAMES, width=64, height=48)


def outcomes_of(loader: Loader) -> tuple[set[int], list[GpuloadError]]:
    """Samples that came, and the errors of the others."""
    iterator, came, errors = iter(loader), set[int](), list[GpuloadError]()
    for _ in range(10_000):
        try:
            came |= set(next(iterator)["index"].tolist())
        except StopIteration:
            return came, errors
        except GpuloadError as error:
            errors.append(error)
    raise AssertionError("the epoch does not end")


@pytest.mark.parametrize("damage", [cut_off, empty, of_another_size])
@pytest.mark.parametrize("episode", [0, 2])
@pytest.mark.parametrize(("shuffle", "few"), [(False, 8), (False, 0), ("global", 0), ("block", 8), ("block", 0)])
def test_a_file_that_cannot_be_used_costs_its_batches(
    root: Path,
    damage: Callable[[Path], None],
    episode: int,
    shuffle: bool | str,
    few: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lerobot, "_FEW_FILES", few)  # more are indexed side by side
    monkeypatch.setattr(lerobot_rows, "_FEW_FILES", few)
    damage(video_of(root, episode))
    lost = set(range(episode * FRAMES, (episode + 1) * FRAMES))
    dataset = LeRobotDataset(root, delta_timestamps={TOP: [0.0]}, video_keys=[TOP])
    with Loader(dataset, 1, shuffle=shuffle, num_threads=2) as loader:
        for epoch in range(2):
            loader.set_epoch(epoch)
            came, errors = outcomes_of(loader)
            assert came == set(range(EPISODES * FRAMES)) - lost
            assert len(errors) == len(lost)
            named = errors[0]
            assert isinstance(named, VideoError | DatasetError)
            assert "episode_" in str(named)
            assert damage is not of_another_size or "its other files" in str(named)
    with pytest.raises((VideoError, DatasetError), match=r"\.mp4"):
        dataset[min(lost)]
    assert isinstance(dataset[min(came)][TOP], torch.Tensor)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_batches_with_a_damaged_sample_can_be_left_out(
    root: Path, num_threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    cut_off(video_of(root, 1))
    dataset = LeRobotDataset(root, delta_timestamps={TOP: [0.0]}, video_keys=[TOP])
    expected = [list(range(first, first + 4)) for first in range(0, EPISODES * FRAMES, 4)]
    lost = {first // 4 for first in range(FRAMES, 2 * FRAMES)}
    with Loader(dataset, 4, num_threads=num_threads, on_error="skip") as loader:
        for epoch in range(2):
            loader.set_epoch(epoch)
            seen = [batch["index"].tolist() for batch in loader]
            assert seen == [batch for number, batch in enumerate(expected) if number not in lost]
        assert loader.stats.batches_skipped == 2 * len(lost)
        assert loader.state_dict()["position"] == EPISODES * FRAMES
    said = [record.message for record in caplog.records if "left out" in record.message]
    assert len(said) == 2 * len(lost)
    assert all("episode_000001.mp4" in message for message in said)


def test_batches_are_left_out_on_one_rank_only(root: Path) -> None:
    dataset = LeRobotDataset(root, video_keys=[TOP])
    with pytest.raises(ConfigError, match="one rank"):
        Loader(dataset, 4, rank=0, world_size=2, on_error="skip")
    with pytest.raises(ConfigError, match="on_error"):
        Loader(dataset, 4, on_error="ignore")  # type: ignore[arg-type]


def test_pictures_have_the_size_that_info_json_says_if_one_of_the_first_files_has(root: Path) -> None:
    for episode in (0, 1):
        of_another_size(video_of(root, episode))
    shape = LeRobotDataset(root, video_keys=[TOP])[2 * FRAMES][TOP].shape
    assert shape == (3, 96, 128)
    info = root / "meta/info.json"
    info.write_text(info.read_text().replace("128", "130"))  # now it is no help: the first file is the measure
    assert LeRobotDataset(root, video_keys=[TOP])[0][TOP].shape == (3, 48, 64)


def test_a_set_without_one_usable_file_is_an_error_at_once(root: Path) -> None:
    for episode in range(EPISODES):
        cut_off(video_of(root, episode))
    with pytest.raises(VideoError, match=r"episode_000000\.mp4"):
        LeRobotDataset(root, video_keys=[TOP])


def test_a_file_that_is_mended_meanwhile_comes_again(root: Path) -> None:
    whole = video_of(root, 2).read_bytes()
    cut_off(video_of(root, 2))
    dataset = LeRobotDataset(root, video_keys=[TOP])
    with Loader(dataset, 8, num_threads=1) as loader:
        assert len(outcomes_of(loader)[1]) == 3
        video_of(root, 2).write_bytes(whole)
        loader.set_epoch(1)
        assert len(outcomes_of(loader)[0]) == EPISODES * FRAMES


def test_a_damaged_image_row_costs_its_batch_and_keeps_nothing(root: Path) -> None:
    from tests.unit.test_lerobot import png

    cells: list[bytes] = [png(np.full((6, 8, 3), i, np.uint8)) for i in range(EPISODES * FRAMES)]
    cells[30] = b"no picture"
    newer = root.parent / "newer"
    write_dataset(newer, episodes=EPISODES, frames=FRAMES, width=128, height=96, gop=8)
    add_feature(newer, "picture", "image", [6, 8, 3], pa.array(cells))
    dataset = LeRobotDataset(newer, delta_timestamps={TOP: [-1 / 30, 0.0]}, video_keys=[TOP], return_uint8=True)
    with Loader(dataset, 8, shuffle="global", num_threads=1) as loader:
        came, errors = outcomes_of(loader)
        assert len(errors) == 1
        assert "sample 30" in str(errors[0])
        assert len(came) == EPISODES * FRAMES - 8
        kept = loader._prefetcher.tally.kept
        assert list(kept.values()) == [0]  # the failed batch's pictures have been handed out like all others


# processes -----------------------------------------------------------------------------------------------------------


def test_a_fork_leaves_its_parents_workers_alone(root: Path) -> None:
    dataset = LeRobotDataset(root, video_keys=[TOP])
    with Loader(dataset, 4, num_threads=1) as loader:
        iterator = iter(loader)
        next(iterator)
        child = os.fork()
        if child == 0:  # ends as a process does that was forked for something else
            code = 1
            try:
                refused = 0
                for ask in (lambda: next(iterator), lambda: iter(loader)):
                    try:
                        ask()
                    except LoaderClosed as error:
                        refused += "belongs to process" in str(error)
                loader.close()
                code = 2 - refused
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert sum(len(batch["index"]) for batch in iterator) == EPISODES * FRAMES - 4


def test_a_fork_that_ends_by_itself_leaves_its_parents_workers_alone(root: Path) -> None:
    script = f"""
        import os, sys
        import gpuload
        if __name__ == "__main__":
            loader = gpuload.Loader(gpuload.LeRobotDataset({str(root)!r}, video_keys=[{TOP!r}]), 4, num_threads=1)
            iterator = iter(loader)
            next(iterator)
            child = os.fork()
            if child == 0:
                sys.exit(0)  # runs what is registered for the end
            os.waitpid(child, 0)
            print(sum(len(batch["index"]) for batch in iterator))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == [str(EPISODES * FRAMES - 4)], done.stderr


def test_what_lies_in_the_folder_of_the_process_is_no_module_of_a_worker(root: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/run.py").write_text(
        textwrap.dedent(f"""
            import gpuload
            if __name__ == "__main__":
                dataset = gpuload.LeRobotDataset({str(root)!r}, video_keys=[{TOP!r}])
                with gpuload.Loader(dataset, 4, num_threads=1) as loader:
                    print(sum(len(batch["index"]) for batch in loader))
        """)
    )
    (tmp_path / "here").mkdir()
    for name in ("av", "numpy", "signal"):
        (tmp_path / f"here/{name}.py").write_text("raise ImportError('the wrong one')")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "train/run.py")],
        cwd=tmp_path / "here", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [str(EPISODES * FRAMES)], done.stderr


# arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_threads": 0}, "num_threads"),
        ({"lookahead": 0}, "lookahead"),
        ({"batch_size": 0}, "batch_size"),
        ({"frame_cache_bytes": -1}, "frame_cache_bytes"),
        ({"blob_cache_bytes": 0}, "blob_cache_bytes"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused_by_name(root: Path, arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Loader(LeRobotDataset(root, video_keys=[TOP]), **arguments)


def test_what_is_no_dataset_is_told_what_is_one() -> None:
    with pytest.raises(ConfigError, match=r"LeRobotDataset or a Subset of one, got builtins\.list"):
        Loader([1, 2, 3])  # type: ignore[arg-type]  # that is the point


def test_single_samples_of_a_long_set_are_planned_at_once(root: Path) -> None:
    """A batch a sample, and a lookahead longer than the epoch: planning must not count what it has again and again."""
    dataset = LeRobotDataset(root, video_keys=[TOP])
    with Loader(dataset, 1, num_threads=1, sampler=list(range(EPISODES * FRAMES)) * 300) as loader:
        next(iter(loader))
        assert loader.stats.wait_s < 10  # of 36,000 batches; counting anew took 40 s


def test_the_errors_of_a_dataset_are_the_datasets(root: Path) -> None:
    (root / "data/chunk-000/episode_000001.parquet").unlink()
    with pytest.raises(DatasetError, match="episode_000001"):
        LeRobotDataset(root)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/PID/maps is Linux's")
def test_decode_processes_load_no_torch(root: Path) -> None:
    """It takes a second and some 300 MB, of each of them."""
    with Loader(LeRobotDataset(root), 8, num_threads=2, device="cpu") as loader:
        next(iter(loader))
        pids = [worker.pid for worker in loader._prefetcher._crew if isinstance(worker, WorkerHandle)]
        assert len(pids) == 2
        for pid in pids:
            mapped = Path(f"/proc/{pid}/maps").read_text()
            assert "libavcodec" in mapped
            assert "libtorch" not in mapped
            assert "pyarrow" not in mapped
