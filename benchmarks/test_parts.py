"""The parts on their own, small: ``python -m benchmarks.parts`` compares them with the baseline."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.datasets import ensure_dataset
from gpuload.index.load import load_index
from gpuload.plan.grouping import group_frames
from gpuload.plan.order import epoch_order
from gpuload.store.cache import BlobCache, BlobKey
from gpuload.video import Video

EPISODES, FRAMES, GOP = 200, 300, 30
FRAME_BYTES = 640 * 480 * 3 // 2


@pytest.fixture(scope="session")
def dataset() -> Path:
    return ensure_dataset("h264_g30", scale="small")


@pytest.fixture(scope="session")
def mp4(dataset: Path) -> Path:
    return next(dataset.rglob("*.mp4"))


def test_index_from_the_container(benchmark: BenchmarkFixture, mp4: Path, tmp_path: Path) -> None:
    folders = iter(range(1_000_000))

    def cold() -> Any:
        return load_index(mp4, cache_dir=tmp_path / str(next(folders)))

    assert benchmark(cold).num_frames == 120


def test_index_from_the_cache(benchmark: BenchmarkFixture, mp4: Path, tmp_path: Path) -> None:
    load_index(mp4, cache_dir=tmp_path)
    assert benchmark(lambda: load_index(mp4, cache_dir=tmp_path)).num_frames == 120


def test_order_of_a_large_epoch(benchmark: BenchmarkFixture) -> None:
    order = benchmark(lambda: epoch_order("global", EPISODES * FRAMES, seed=0, epoch=1))
    assert len(order.samples) == EPISODES * FRAMES


def test_grouping_a_lookahead(benchmark: BenchmarkFixture) -> None:
    frame, given = lookahead()
    result = benchmark(lambda: group_frames(**given, budget_bytes=8 << 30))
    assert not result.limited
    assert 2 * len(np.unique(frame)) <= result.frames_decoded <= 2 * EPISODES * FRAMES  # no packet twice
    if benchmark.stats is not None:  # none under --benchmark-disable
        benchmark.extra_info["us_per_frame"] = benchmark.stats.stats.median / frame.size * 1e6


def test_grouping_beyond_the_budget(benchmark: BenchmarkFixture) -> None:
    """Two rules with eight patiences each are tried."""
    _, given = lookahead()
    result = benchmark(lambda: group_frames(**given, budget_bytes=1 << 30))
    assert result.limited
    assert 0 < result.peak_bytes <= 1 << 30


def lookahead() -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
    """4,096 samples of two cameras and two frames, drawn from everywhere: their frames, and what planning is given."""
    sample = np.random.default_rng(0).permutation(EPISODES * FRAMES)[:4096]
    frame = np.maximum(sample[:, None] + np.array([-1, 0, -1, 0]), 0).astype(np.int64)
    file = np.broadcast_to(np.array([0, 0, 1, 1]), frame.shape).astype(np.int64)
    size = np.full(4, FRAME_BYTES, dtype=np.int64)
    return frame, {
        "file": file,
        "packet": frame,
        "start": frame // GOP * GOP,
        "batch_size": 32,
        "picture_bytes": size,
    }


def test_decoding_a_gop(benchmark: BenchmarkFixture, mp4: Path) -> None:
    video = Video(mp4)
    assert benchmark(lambda: video.frames(range(GOP))).shape == (GOP, 3, 480, 640)


@pytest.mark.parametrize("shuffle", ["block", "global"])
def test_a_small_epoch(benchmark: Any, dataset: Path, shuffle: str) -> None:
    """The second epoch of a loader that is kept, as in training."""
    import gpuload

    deltas = {key: [-1 / 30, 0.0] for key in ("observation.images.top", "observation.images.wrist")}
    source = gpuload.LeRobotDataset(str(dataset), delta_timestamps=deltas, return_uint8=True)
    with gpuload.Loader(source, batch_size=32, shuffle=shuffle, seed=0, device="cpu") as loader:
        epochs = iter(range(1_000_000))

        def epoch() -> int:
            loader.set_epoch(next(epochs))
            return sum(len(batch["index"]) for batch in loader)

        assert benchmark.pedantic(epoch, rounds=7, warmup_rounds=2) == len(source)


def test_the_blob_cache_under_pressure(benchmark: BenchmarkFixture) -> None:
    """512 blobs of 4 KiB through a cache that holds a quarter of them, four at a time."""
    blob = bytes(4096)
    keys = [BlobKey("file", number * 4096, (number + 1) * 4096) for number in range(512)]

    def pass_through() -> int:
        cache, most = BlobCache(128 * 4096, lambda key: blob), 0
        for number in range(0, len(keys), 4):
            with cache.acquire_all(keys[number : number + 4], next_use=float(number)) as lease:
                assert len(lease.data) == 4
                most = max(most, cache.used_bytes)
        assert cache.bytes_read == len(keys) * 4096
        return most

    assert benchmark(pass_through) == 128 * 4096
