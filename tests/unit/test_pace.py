"""How far ahead batches are planned: far where few of them bring work, near where they hold memory."""

import time
from pathlib import Path

import torch

from gpuload import Loader
from gpuload.pipeline.pace import FARTHEST, PREPARED, RUNS_PER_WORKER, Sight
from gpuload.store.cache import BlobCache, BlobKey
from tests.source import NumberedSource


def test_batches_are_planned_farther_ahead_until_every_worker_has_runs() -> None:
    sight = Sight(BlobCache(1000, lambda key: bytes(key.stop)))
    assert sight.depth(range(2), has_more=True) == FARTHEST
    assert sight.depth(range(2), has_more=False) == PREPARED
    sight.runs = 2 * RUNS_PER_WORKER - 1
    assert (sight.depth(range(1), has_more=True), sight.depth(range(2), has_more=True)) == (PREPARED, FARTHEST)
    sight.runs += 1
    assert sight.depth(range(2), has_more=True) == PREPARED
    assert sight.depth(range(0), has_more=True) == PREPARED, "nothing is decoded: nobody waits for runs"


def test_images_and_encoded_bytes_keep_it_near() -> None:
    cache = BlobCache(1000, lambda key: bytes(key.stop))
    sight = Sight(cache)
    lease = cache.acquire_all([BlobKey("a", 0, 501)])
    assert sight.depth(range(2), has_more=True) == PREPARED
    lease.release()
    assert sight.depth(range(2), has_more=True) == FARTHEST
    sight.note({"image": torch.empty(25 << 20), "task": ["x"]})  # 100 MiB
    assert sight.depth(range(2), has_more=True) == PREPARED + 2
    sight.note({"image": torch.empty(100 << 20)})
    assert sight.depth(range(2), has_more=True) == PREPARED


def test_a_loader_looks_far_ahead_where_keyframe_windows_are_long(tmp_path: Path) -> None:
    planned = {}
    for gop in (2, 120):
        folder = tmp_path / str(gop)
        folder.mkdir()
        source = NumberedSource(folder, episodes=4, cameras=1, frames=120, gop=gop)
        with Loader(source, 4, shuffle=False, num_threads=2) as loader:
            next(iter(loader))
            time.sleep(1.0)
            planned[gop] = len(loader._prefetcher._flight.batches)
    assert planned[2] <= 2 * PREPARED < planned[120] <= FARTHEST


def test_a_loader_does_not_look_for_runs_where_there_are_none(tmp_path: Path) -> None:
    """All pictures of one GOP: the first batch's run is the last."""
    source = NumberedSource(tmp_path, episodes=1, cameras=1, frames=120, gop=120)
    with Loader(source, 4, num_threads=2) as loader:
        next(iter(loader))
        time.sleep(1.0)
        assert len(loader._prefetcher._flight.batches) <= PREPARED
