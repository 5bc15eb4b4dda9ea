"""What goes wrong in the middle: reads, processes, epochs that are left. One batch is lost at most; nothing hangs."""

import gc
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpuload import FrameNotFound, Loader, Transform, loader
from gpuload.errors import CacheFull, ConfigError, GpuloadError, LoaderClosed, VideoError, WorkerDied
from gpuload.pipeline.batch import Batch
from gpuload.pipeline.finish import Finisher
from gpuload.pipeline.handle import WorkerHandle
from gpuload.store.cache import BlobKey
from gpuload.store.local import LocalFiles
from tests.source import NumberedSource
from tests.videos import decode_all

Pictures = list[list[npt.NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> NumberedSource:
    return NumberedSource(tmp_path_factory.mktemp("faults"), episodes=4, cameras=1, offsets=(-1, 0))


@pytest.fixture(scope="module")
def pictures(source: NumberedSource) -> Pictures:
    return [decode_all(path) for path in source.paths]


def outcomes_of(loading: Loader, source: NumberedSource, pictures: Pictures) -> list[str | GpuloadError]:
    """Of each batch: "good", with every slot compared, or its error."""
    iterator, outcomes = iter(loading), list[str | GpuloadError]()
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return outcomes
        except GpuloadError as error:
            outcomes.append(error)
            continue
        for row, sample in enumerate(batch["index"].tolist()):
            refs = source.frames(np.array([sample]))
            for t in range(2):
                expected = pictures[refs.file[0, t]][refs.frame[0, t]]
                assert np.array_equal(batch["cam0"][row, t].numpy(), expected), (sample, t)
        outcomes.append("good")


def take_all(iterator: Iterator[Any]) -> None:
    """Every batch that comes, in spite of workers that died."""
    while True:
        try:
            next(iterator)
        except WorkerDied:
            continue


def test_a_failed_read_loses_its_batches_and_no_worker(
    source: NumberedSource, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, calls = LocalFiles.read, [0]

    def failing(self: LocalFiles, key: BlobKey) -> bytes:
        calls[0] += 1
        if calls[0] == 5:
            raise VideoError(f"{key.path}: the disk is gone")
        return read(self, key)

    monkeypatch.setattr(LocalFiles, "read", failing)
    with Loader(source, 8, shuffle="global", num_threads=2, lookahead=64) as loading:
        outcomes = outcomes_of(loading, source, pictures)
        cache = loading._prefetcher._cache
        assert loading.stats.workers_restarted == 0
        assert cache.leased == 0
        assert cache.used_bytes == 0
        again = outcomes_of(loading, source, pictures)
    failures = [outcome for outcome in outcomes if isinstance(outcome, GpuloadError)]
    assert 1 <= len(failures) <= 3
    assert "the disk is gone" in str(failures[0])
    assert not any(isinstance(failure, WorkerDied) for failure in failures)
    assert again == ["good"] * len(outcomes)


def test_a_run_that_is_larger_than_the_budget_fails_alone(tmp_path: Path) -> None:
    source = NumberedSource(tmp_path, episodes=2, cameras=1, frames=20, gop=20, offsets=(0,))
    largest = max(int(source.video(file).size.sum()) for file in range(2))
    with Loader(source, 5, num_threads=1, blob_cache_bytes=largest // 2) as loading:
        for _ in range(2):
            with pytest.raises(CacheFull, match="raise it"):
                list(loading)
        iter(loading)
        time.sleep(0.2)
        assert loading._prefetcher._cache.leased == 0


def test_an_epoch_left_before_its_files_were_met_leaves_workers_that_know_them_later(
    source: NumberedSource, pictures: Pictures
) -> None:
    # Batches 2 and 3 begin the second file, and are prepared before anything of them may be done.
    with Loader(source, 20, num_threads=1) as loading:
        for _ in range(3):
            iter(loading)
            time.sleep(0.3)
        assert outcomes_of(loading, source, pictures) == ["good"] * 8
        assert loading.stats.workers_restarted == 0


def test_closing_does_not_wait_for_bytes_that_nobody_will_release(tmp_path: Path) -> None:
    source = NumberedSource(tmp_path, episodes=8, cameras=1, frames=60, gop=60, offsets=(0,), width=320, height=240)
    largest = max(int(source.video(file).size.sum()) for file in range(8))
    loading = Loader(source, 64, shuffle="global", num_threads=2, lookahead=480, blob_cache_bytes=int(2.5 * largest))
    iter(loading)
    time.sleep(0.5)
    begin = time.perf_counter()
    loading.close()
    assert time.perf_counter() - begin < 5.0


def test_half_a_message_is_a_dead_worker_and_not_a_hang(source: NumberedSource, pictures: Pictures) -> None:
    with Loader(source, 8, num_threads=1) as loading:
        iterator = iter(loading)
        next(iterator)
        (worker,) = (w for w in loading._prefetcher._crew if isinstance(w, WorkerHandle))
        worker._connection.shutdown(socket.SHUT_RD)
        begin, failures = time.perf_counter(), 0
        while True:
            try:
                next(iterator)
            except StopIteration:
                break
            except WorkerDied:
                failures += 1
        assert time.perf_counter() - begin < 30
        assert failures >= 1


def test_a_sample_without_frames_fails_alone_on_a_device_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    source = NumberedSource(tmp_path, episodes=1, cameras=1, frames=4, offsets=(0,))
    frames = source.frames

    def none_found(samples: npt.NDArray[np.int64]) -> Any:
        refs = frames(samples)
        refs.frame[:] = -1
        return refs

    monkeypatch.setattr(source, "frames", none_found)
    monkeypatch.setattr(loader, "finishing_device", lambda device: torch.device("cpu"))
    with Loader(source, 4) as loading, pytest.raises(FrameNotFound, match="no frame"):
        next(iter(loading))


def test_workers_that_cannot_begin_say_why_and_are_not_started_again_and_again(
    source: NumberedSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    begin = WorkerHandle.__init__

    def counting(self: WorkerHandle, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        started.append(self.pid)

    monkeypatch.setattr(WorkerHandle, "__init__", counting)
    with Loader(source, 8, num_threads=2, backend="torchcodec", device="cpu") as loading:
        (tmp_path / "torchcodec").mkdir()
        (tmp_path / "torchcodec" / "__init__.py").write_text("raise ImportError('half an installation')")
        monkeypatch.syspath_prepend(tmp_path)  # decode processes get this path
        outcomes = outcomes_of(loading, source, [])
        assert len(outcomes) == len(loading)
        assert all(isinstance(o, ConfigError) and "half an installation" in str(o) for o in outcomes)
        assert len(started) == 2
        assert loading.stats.workers_restarted == 0


def test_a_worker_that_is_being_made_while_the_loader_closes_is_ended_too(
    source: NumberedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, making = WorkerHandle.__init__, threading.Event()
    late: list[WorkerHandle] = []

    def slowly(self: WorkerHandle, *arguments: Any, **named: Any) -> None:
        making.set()
        time.sleep(1.0)
        begin(self, *arguments, **named)
        late.append(self)

    loading = Loader(source, 4, num_threads=1)
    iterator = iter(loading)
    next(iterator)
    monkeypatch.setattr(WorkerHandle, "__init__", slowly)
    (worker,) = (w for w in loading._prefetcher._crew if isinstance(w, WorkerHandle))
    os.kill(worker.pid, 9)

    def close_meanwhile() -> None:
        if making.wait(30.0):
            loading.close()

    closer = threading.Thread(target=close_meanwhile)
    closer.start()
    with pytest.raises(LoaderClosed):
        take_all(iterator)
    closer.join(30.0)
    assert len(late) == 1
    assert late[0]._process.poll() is not None


@pytest.mark.parametrize("staged", [False, True])
def test_a_loader_that_garbage_collection_closes_in_one_of_its_own_threads_ends(
    source: NumberedSource, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, staged: bool
) -> None:
    import torch

    def ours() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("gpuload-")]

    nobody_holds_it, collected = threading.Event(), threading.Event()
    columns, finish = source.columns, Finisher.finish

    def collect_in(name: str) -> None:
        if threading.current_thread().name == name and nobody_holds_it.wait(20.0):
            gc.collect()
            collected.set()

    def columns_later(samples: npt.NDArray[np.int64]) -> Any:
        collect_in("gpuload-feed" if not staged else "nobody")
        return columns(samples)

    def finish_later(self: Finisher, batch: Batch) -> None:
        collect_in("gpuload-finish")
        finish(self, batch)

    request.addfinalizer(gc.enable)
    gc.disable()  # it would come by itself, in whatever thread allocates
    monkeypatch.setattr(source, "columns", columns_later)
    monkeypatch.setattr(Finisher, "finish", finish_later)
    if staged:
        monkeypatch.setattr(loader, "finishing_device", lambda device: torch.device("cpu"))
    before = ours()
    loading = Loader(source, 8, num_threads=1)
    iter(loading)
    loading.cycle = loading  # type: ignore[attr-defined]  # only garbage collection finds it
    del loading
    nobody_holds_it.set()
    assert collected.wait(20.0)
    end = time.perf_counter() + 60.0
    while len(ours()) > len(before) and time.perf_counter() < end:
        time.sleep(0.05)
    assert len(ours()) <= len(before)  # and nothing was raised that nobody can catch: pytest would fail


def test_numpy_numbers_are_numbers(source: NumberedSource) -> None:
    transform = Transform(flip=0.5)
    with Loader(source, 8, shuffle="block", seed=np.int64(3), transform=transform) as loading:  # type: ignore[arg-type]
        loading.set_epoch(np.int64(1))  # type: ignore[arg-type]
        next(iter(loading))
        assert type(loading.state_dict()["epoch"]) is int


def test_the_command_works_without_a_cache_folder() -> None:
    import subprocess
    import sys

    run = [sys.executable, "-c", "import sys; sys.argv = ['gpuload', '--version']; from gpuload.cli import run; run()"]
    nowhere = {**os.environ, "XDG_CACHE_HOME": "/proc/nowhere"}
    done = subprocess.run(run, env=nowhere, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "gpuload" in done.stdout
