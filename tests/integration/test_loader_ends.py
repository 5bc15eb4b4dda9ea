"""Ends that come at a bad moment: garbage collection within somebody's lock, a decode process that hangs up."""

import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gpuload import Loader
from gpuload.index.video import VideoIndex
from gpuload.pipeline import work
from gpuload.pipeline.handle import WorkerHandle
from gpuload.pipeline.shaping import Shaping
from gpuload.sources.base import FrameRefs
from tests.source import NumberedSource


class Locked(NumberedSource):
    """As a dataset that indexes its files under a lock."""

    lock = threading.RLock()

    def video(self, file: int) -> VideoIndex:
        with self.lock:
            return super().video(file)


def test_garbage_collection_within_a_lock_that_the_feeder_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "ENDING_PATIENCE_S", 0.3)
    source = Locked(tmp_path, episodes=2, cameras=1)
    loader = Loader(source, 4, device="cpu", num_threads=1)
    prefetcher = loader._prefetcher
    holder: dict[str, Any] = {"loader": loader}
    holder["itself"] = holder
    ended = threading.Event()

    def collect() -> None:
        with source.lock:
            holder["iterator"] = iter(holder["loader"])
            while prefetcher._thread is None or not prefetcher._thread.is_alive():
                time.sleep(0.01)
            time.sleep(0.2)  # it waits for the lock
            holder.clear()
            gc.collect()
        ended.set()

    del loader
    threading.Thread(target=collect, daemon=True).start()
    assert ended.wait(20.0), "it waits for who waits for it"
    deadline = time.monotonic() + 20.0
    while not prefetcher._ended and time.monotonic() < deadline:
        time.sleep(0.05)
    assert prefetcher._ended


def test_a_process_that_hangs_up_is_dead_before_it_counts_as_such(tmp_path: Path) -> None:
    """Its units are counted down then, and their memory goes to other batches: it must write no more."""
    source = NumberedSource(tmp_path, episodes=1, cameras=1)
    told: list[tuple[bool, str]] = []
    worker = WorkerHandle(
        Shaping(source, None, seed=0).forms,
        on_done=lambda *_: None,
        on_death=lambda handle, reason: told.append((handle._process.poll() is not None, reason)),
    )
    try:
        os.kill(worker.pid, signal.SIGSTOP)  # in the middle of a long unit, say
        worker._hang_up()  # as where a unit could not be sent
        deadline = time.monotonic() + 20.0
        while not told and time.monotonic() < deadline:
            assert worker.alive or worker._process.poll() is not None, "others would take its memory"
            time.sleep(0.001)
        ((is_dead, reason),) = told
        assert is_dead
        assert "no longer responded" in reason
    finally:
        worker.close()


class Cold(NumberedSource):
    """As a set of many files that are indexed for the first time: 10 ms for each that a sample needs."""

    asked = 0

    def frames(self, samples: npt.NDArray[np.int64]) -> FrameRefs:
        self.asked += len(samples)
        time.sleep(0.01 * len(samples))
        return super().frames(samples)


def test_closing_does_not_wait_for_a_lookahead_that_indexes_many_files(tmp_path: Path) -> None:
    source = Cold(tmp_path, episodes=60, cameras=1, frames=50, width=32, height=32)
    loader = Loader(source, 8, shuffle="global", device="cpu", num_threads=1)
    iter(loader)
    while not source.asked:
        time.sleep(0.01)
    begin = time.monotonic()
    loader.close()
    assert 0 < source.asked < len(source) == 3000
    assert time.monotonic() - begin < 15.0, "30 s of indexing"


class Unplanned(NumberedSource):
    """Something goes wrong that is no error of a batch."""

    def columns(self, samples: npt.NDArray[np.int64]) -> dict[str, torch.Tensor | list[str]]:
        if samples[0] >= 40:
            raise RuntimeError("no more columns")
        return super().columns(samples)


def test_what_was_planned_before_planning_stopped_is_delivered(tmp_path: Path) -> None:
    source = Unplanned(tmp_path, episodes=2, cameras=1)
    with Loader(source, 8, device="cpu", num_threads=1) as loader:
        iterator = iter(loader)
        time.sleep(0.5)
        for step in range(5):  # two are filled; what comes after them has no memory yet
            assert next(iterator)["index"].tolist() == list(range(8 * step, 8 * step + 8))
        with pytest.raises(RuntimeError, match="no more columns"):
            next(iterator)
        with pytest.raises(StopIteration):
            next(iterator)
