"""Accidents that leave something behind: memory, locks, processes, a batch. Each was possible once."""

import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch

from gpuload import LeRobotDataset, Loader, LoaderClosed
from gpuload.decode.base import Run
from gpuload.decode.pyav import PyavDecoder
from gpuload.decode.runs import stream_of
from gpuload.demo import write_dataset
from gpuload.device.arena import BatchPool, Place
from gpuload.errors import CacheFull, DatasetError, VideoError, WorkerDied
from gpuload.index.load import load_index
from gpuload.pipeline import dealer, handle, wire
from gpuload.pipeline.handle import WorkerHandle
from gpuload.pipeline.pace import AHEAD
from gpuload.pipeline.work import Unit
from gpuload.store import local
from gpuload.store.cache import BlobKey
from gpuload.store.local import LocalFiles
from tests.source import NumberedSource
from tests.videos import decode_all, make_video


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> NumberedSource:
    return NumberedSource(tmp_path_factory.mktemp("accidents"), episodes=4, cameras=1, offsets=(-1, 0))


@pytest.fixture(scope="module")
def pictures(source: NumberedSource) -> list[list[npt.NDArray[np.uint8]]]:
    return [decode_all(path) for path in source.paths]


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> set[Place]:
    """Where in memory batches were made."""
    seen, take = set[Place](), BatchPool.take

    def noting(self: BatchPool, num_bytes: int) -> tuple[Place, npt.NDArray[np.uint8]]:
        place, array = take(self, num_bytes)
        seen.add(place)
        return place, array

    monkeypatch.setattr(BatchPool, "take", noting)
    return seen


def lose(monkeypatch: pytest.MonkeyPatch, path: Path, *, times: int = 1 << 30) -> None:
    """From now on one file cannot be read so many times."""
    read, left = LocalFiles.read, [times]

    def failing(self: LocalFiles, key: BlobKey) -> bytes:
        if key.path == str(path) and left[0]:
            left[0] -= 1
            raise VideoError(f"{key.path}: the disk is gone")
        return read(self, key)

    monkeypatch.setattr(LocalFiles, "read", failing)


def processes_of(loader: Loader) -> list[WorkerHandle]:
    return [worker for worker in loader._prefetcher._crew if isinstance(worker, WorkerHandle)]


def stop_and_go(loader: Loader, number: int) -> None:
    for worker in processes_of(loader):
        os.kill(worker.pid, number)


def stop_with_work(loader: Loader) -> None:
    """Begins an epoch, whose first units no worker gets done: all are stopped before there is anything to do."""
    loader._prefetcher.warm_up()
    stop_and_go(loader, signal.SIGSTOP)
    iter(loader)
    wait_until(lambda: all(worker.pending for worker in processes_of(loader)))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def once(function: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """Raises at the first call."""
    raised: list[bool] = []

    def wrapper(*args: Any, **more: Any) -> Any:
        if not raised:
            raised.append(True)
            raise error
        return function(*args, **more)

    return wrapper


@pytest.mark.usefixtures("no_collection")
def test_a_failed_batch_gives_its_memory_back_at_once(
    source: NumberedSource, places: set[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, source.paths[1])
    loader = Loader(source, 2, num_threads=1, on_error="skip", lookahead=16)
    came = sum(len(batch["index"]) for batch in loader)
    assert loader.stats.batches_skipped >= 10
    assert came + 2 * loader.stats.batches_skipped == len(source)
    assert len(places) <= 8, "batches that failed still hold their memory"
    iterator = iter(loader)
    loader.on_error = "raise"
    failed = False
    try:
        list(iterator)
    except VideoError:  # not pytest.raises: it holds the frames a little longer
        failed = True
    assert failed
    pids, gone = [worker.pid for worker in processes_of(loader)], weakref.ref(loader)
    del loader, iterator
    assert gone() is None
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("times", [2, 1 << 30])
def test_a_failed_batch_leaves_no_pictures_behind(
    source: NumberedSource, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    lose(monkeypatch, source.paths[1], times=times)
    with Loader(source, 8, shuffle="global", num_threads=2, on_error="skip") as loader:
        list(loader)
        assert loader.stats.batches_skipped > 0
        time.sleep(0.2)
        kept = loader._prefetcher.tally.kept
        assert set(kept.values()) == {0}, kept


def test_a_fork_does_not_blacken_its_parents_batches(source: NumberedSource) -> None:
    with Loader(source, 2, num_threads=1) as loader:
        iterator = iter(loader)
        batches = [next(iterator) for _ in range(12)]
        before = [batch["cam0"].clone() for batch in batches]
        child = os.fork()
        if not child:
            batches.clear()
            os._exit(0)
        os.waitpid(child, 0)
        for batch, clone in zip(batches, before, strict=True):
            assert torch.equal(batch["cam0"], clone)


def test_ctrl_c_while_an_epoch_is_left_leaves_a_loader_that_works(
    source: NumberedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loader(source, 8, num_threads=1) as loader:
        stop_with_work(loader)  # a worker without any stays, and nothing is closed
        monkeypatch.setattr(WorkerHandle, "close", once(WorkerHandle.close, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            iter(loader)
        assert sum(len(batch["index"]) for batch in loader) == len(source)


def test_ctrl_c_while_it_closes_leaves_nothing_that_a_second_close_does_not_end(
    source: NumberedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader(source, 8, num_threads=2)
    next(iter(loader))
    pids = [worker.pid for worker in processes_of(loader)]
    stop_and_go(loader, signal.SIGSTOP)
    monkeypatch.setattr(WorkerHandle, "close", once(WorkerHandle.close, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        loader.close()
    loader.close()
    assert not any(map(is_alive, pids))
    assert loader._prefetcher._pool.chunks == []


def narrow(tmp_path: Path) -> Loader:
    """Whose bytes suffice for two runs at a time."""
    source = NumberedSource(tmp_path, episodes=8, cameras=1, frames=60, gop=60, offsets=(0,), width=320, height=240)
    largest = max(int(source.video(file).size.sum()) for file in range(8))
    return Loader(source, 64, shuffle="global", num_threads=2, lookahead=480, blob_cache_bytes=int(2.5 * largest))


def test_long_units_are_no_full_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealer, "ASKED_AGAIN_S", 0.05)
    with narrow(tmp_path) as loader:
        iterator = iter(loader)
        time.sleep(0.3)
        stop_and_go(loader, signal.SIGSTOP)
        time.sleep(1.0)
        stop_and_go(loader, signal.SIGCONT)
        assert sum(len(batch["index"]) for batch in iterator) == 480


def test_leaving_an_epoch_does_not_wait_for_bytes(tmp_path: Path) -> None:
    with narrow(tmp_path) as loader:
        stop_with_work(loader)
        begin = time.perf_counter()
        iterator = iter(loader)
        assert time.perf_counter() - begin < 5.0
        assert sum(len(batch["index"]) for batch in iterator) == 480


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("too many open files")], ids=["ctrl-c", "files"])
def test_a_batch_whose_successor_has_no_memory_is_still_to_be_had(
    source: NumberedSource, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    with Loader(source, 8, num_threads=1) as loader:
        iterator = iter(loader)
        seen = [next(iterator)["index"].tolist()]
        batches = loader._prefetcher._flight.batches
        wait_until(lambda: all(n in batches and batches[n].place for n in range(1, 1 + AHEAD)))
        monkeypatch.setattr(BatchPool, "take", once(BatchPool.take, error))
        with pytest.raises(type(error)):
            next(iterator)
        assert loader.state_dict()["position"] == 8
        seen += [batch["index"].tolist() for batch in iterator]
    assert [sample for batch in seen for sample in batch] == list(range(len(source)))


def test_ctrl_c_in_a_transform_does_not_cost_the_batch(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", episodes=2, frames=12, cameras=("a",), width=64, height=48)
    transform = once(lambda picture: picture, KeyboardInterrupt())
    with Loader(LeRobotDataset(root, image_transforms=transform), 4, num_threads=1) as loader:
        iterator = iter(loader)
        with pytest.raises(KeyboardInterrupt):
            next(iterator)
        assert loader.state_dict()["position"] == 0
        assert next(iterator)["index"].tolist() == [0, 1, 2, 3]


def test_what_cannot_be_sent_is_told(source: NumberedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    units: list[Unit] = []

    def failing(connection: Any, message: object) -> None:
        if isinstance(message, Unit):
            units.append(message)
            if len(units) == 2:
                raise MemoryError("no room to pickle")
        wire.send(connection, message)

    monkeypatch.setattr(handle, "send", failing)
    outcomes: list[Any] = []
    with Loader(source, 8, num_threads=1) as loader:
        iterator = iter(loader)
        while True:
            try:
                outcomes.append(next(iterator)["index"].tolist())
            except StopIteration:
                break
            except WorkerDied as error:
                outcomes.append(str(error))
    told = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert told
    assert "no room to pickle" in told[0]
    assert isinstance(outcomes[-1], list)


def test_workers_end_side_by_side(source: NumberedSource) -> None:
    loader = Loader(source, 8, num_threads=12)
    next(iter(loader))
    assert len(processes_of(loader)) == 12
    stop_and_go(loader, signal.SIGSTOP)
    begin = time.perf_counter()
    loader.close()
    assert time.perf_counter() - begin < 1.5  # 0.2 s for all, and 12 ends; 2.4 s and more one after the other


def test_closing_within_itself_does_not_hang(source: NumberedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(source, 8, num_threads=1)
    iterator = iter(loader)
    next(iterator)
    take = BatchPool.take

    def closing(self: BatchPool, num_bytes: int) -> Any:  # as a signal handler would
        loader.close()
        return take(self, num_bytes)

    monkeypatch.setattr(BatchPool, "take", closing)
    done = threading.Event()

    def iterate() -> None:
        try:
            list(iterator)
        except LoaderClosed:
            done.set()

    threading.Thread(target=iterate, daemon=True).start()
    assert done.wait(20.0)
    end = time.perf_counter() + 20.0
    while loader._prefetcher._pool.chunks and time.perf_counter() < end:
        time.sleep(0.05)
    assert loader._prefetcher._pool.chunks == []


def test_packets_that_are_no_ranges_of_bytes_count_too(tmp_path: Path) -> None:
    source = NumberedSource(tmp_path, episodes=2, cameras=1, frames=20, gop=10, offsets=(0,))
    expected = [decode_all(path) for path in source.paths]
    for path in source.paths:
        with av.open(str(path)) as mp4, av.open(str(tmp_path / "part"), "w", format="mpegts") as ts:
            stream = ts.add_stream_from_template(mp4.streams.video[0])
            for packet in mp4.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    ts.mux(packet)
        (tmp_path / "part").replace(path)
    assert not source.video(0).contiguous
    sizes = [int(source.video(file).size[first : first + 10].sum()) for file in (0, 1) for first in (0, 10)]
    with Loader(source, 5, num_threads=1, blob_cache_bytes=max(sizes)) as loader:
        shown = [picture for batch in loader for picture in batch["cam0"]]
        assert len(shown) == 40
        assert all(np.array_equal(a, b) for a, b in zip(shown, [p for e in expected for p in e], strict=True))
        assert loader.stats.bytes_read == sum(sizes)
    with Loader(source, 5, num_threads=1, blob_cache_bytes=min(sizes) - 1) as loader:
        with pytest.raises(CacheFull, match="raise it"):
            next(iter(loader))


def test_sessions_of_codecs_that_are_told_their_size_are_not_shared(tmp_path: Path) -> None:
    decoder = PyavDecoder()
    for width, height in ((96, 64), (128, 96), (96, 64)):
        path = make_video(
            tmp_path / f"{width}.mkv", codec="ffv1", width=width, height=height, frames=3, gop=1, options={"level": "1"}
        )
        video = load_index(path, cache_dir=tmp_path / "index")
        shown = decode_one(decoder, video)
        assert np.array_equal(shown, decode_all(path)[0])


def decode_one(decoder: PyavDecoder, video: Any) -> npt.NDArray[np.uint8]:
    """The first picture, uint8 ``[3, H, W]``."""
    data = Path(video.path).read_bytes()[int(video.pos[0]) : int(video.pos[0] + video.size[0])]
    ((_, frame),) = decoder.decode(stream_of(video), Run(0, [data], (), frozenset([0])))
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8).transpose(2, 0, 1)


def test_a_file_that_failed_is_opened_again(source: NumberedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    files, opened = LocalFiles(), list[str]()
    key = BlobKey(str(source.paths[0]), 0, 100)
    open_file = local.open_file

    def noting(path: str) -> int:
        opened.append(path)
        return open_file(path)

    monkeypatch.setattr(local, "open_file", noting)
    expected = files.read(key)
    monkeypatch.setattr(os, "pread", once(os.pread, OSError(116, "Stale file handle")))
    with pytest.raises(VideoError, match="Stale"):
        files.read(key)
    assert files.read(key) == expected
    assert len(opened) == 2
    files.close()


def test_what_stopped_planning_is_not_left_out(source: NumberedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, calls = source.frames, list[Any]()

    def failing(samples: npt.NDArray[np.int64]) -> Any:
        calls.append(samples)
        if len(calls) == 2:
            raise DatasetError("the second lookahead cannot be planned")
        return frames(samples)

    monkeypatch.setattr(source, "frames", failing)
    with Loader(source, 8, num_threads=1, lookahead=16, on_error="skip") as loader:
        with pytest.raises(DatasetError, match="second lookahead"):
            list(loader)
