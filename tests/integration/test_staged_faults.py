"""What goes wrong with batches that are made on a device, and what it costs: here the device is the CPU."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from gpuload import Loader
from gpuload.decode.pyav import PyavDecoder
from gpuload.errors import DecodeError, DeviceError, GpuloadError
from gpuload.pipeline import crew, flight, lane
from gpuload.pipeline import finish as finish_module
from gpuload.pipeline.batch import Batch
from gpuload.pipeline.finish import Finisher
from gpuload.pipeline.handle import WorkerHandle
from tests.staged import device_here, make_source, outcomes_of
from tests.videos import decode_all

pytestmark = pytest.mark.usefixtures("on_a_device")


def test_damage_is_an_error_of_its_batch_and_others_come(tmp_path: Path) -> None:
    source = make_source(tmp_path, frames=10, offsets=(0,), gop=5)
    pictures = [decode_all(path) for path in source.paths]
    video = source.video(0)
    with open(source.paths[0], "r+b") as file:
        file.seek(int(video.pos[5]))
        file.write(bytes(int(video.size[5])))
    with Loader(source, 5, num_threads=1) as loading:
        outcomes = outcomes_of(loading, source, pictures)
    assert [type(outcome) for outcome in outcomes] == [str, DecodeError, str, str]
    assert "e0c0.mp4" in str(outcomes[1])


@pytest.mark.usefixtures("in_lanes")
def test_leaving_and_closing_end_every_thread(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=1, frames=12, offsets=(0,))
    with Loader(source, 2) as loader:
        for _ in range(2):
            next(iter(loader))
    assert not [t.name for t in threading.enumerate() if t.name.startswith("gpuload")]


@pytest.mark.usefixtures("in_lanes")
def test_a_lane_that_gives_up_fails_its_batches_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(tmp_path, frames=20, offsets=(0,))
    pictures = [decode_all(path) for path in source.paths]

    class GivesUp(PyavDecoder):
        calls = 0

        def decode(self, stream: Any, run: Any) -> Any:
            GivesUp.calls += 1
            if GivesUp.calls == 2:
                raise RuntimeError("the device fell off the bus")
            return super().decode(stream, run)

    monkeypatch.setattr(crew, "create", lambda *_, **__: GivesUp())
    with Loader(source, 5, num_threads=1, lookahead=5) as loading:
        outcomes = outcomes_of(loading, source, pictures)
        assert loading.stats.workers_restarted == 1
    failures = [str(outcome) for outcome in outcomes if isinstance(outcome, GpuloadError)]
    assert failures
    assert all("fell off the bus" in failure for failure in failures)
    assert outcomes[-1] == "good"


def test_batches_that_nobody_waits_for_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path, episodes=1, frames=24, offsets=(0,))
    made: list[int] = []
    under_way, may_end = threading.Event(), threading.Event()

    def slowly(self: Finisher, batch: Batch) -> None:
        made.append(batch.number)
        under_way.set()
        assert may_end.wait(30.0)

    monkeypatch.setattr(Finisher, "finish", slowly)
    loading = Loader(source, 4, num_threads=1)
    iter(loading)
    assert under_way.wait(30.0)
    finishing = loading._prefetcher._finishing
    assert finishing is not None
    end = time.perf_counter() + 30.0
    while finishing._queue.qsize() < 1 and time.perf_counter() < end:  # the second batch has been put behind it
        time.sleep(0.01)
    closer = threading.Thread(target=loading.close)
    closer.start()
    while finishing._wanted and time.perf_counter() < end:
        time.sleep(0.01)
    may_end.set()
    closer.join(30.0)
    assert made == [0]


@pytest.mark.usefixtures("in_lanes")
def test_a_driver_that_hangs_does_not_hang_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_source(tmp_path, episodes=1, frames=8, offsets=(0,))
    hanging, may_go_on = threading.Event(), threading.Event()

    class Hangs(PyavDecoder):
        def decode(self, stream: Any, run: Any) -> Any:
            hanging.set()
            may_go_on.wait(60.0)
            return super().decode(stream, run)

    monkeypatch.setattr(crew, "create", lambda *_, **__: Hangs())
    monkeypatch.setattr(lane, "PATIENCE_S", 0.3)
    loading = Loader(source, 4, num_threads=1)
    iter(loading)
    assert hanging.wait(30.0)
    begin = time.perf_counter()
    loading.close()
    assert time.perf_counter() - begin < 10.0
    assert "does not come back" in caplog.text
    may_go_on.set()


def test_a_batch_that_is_late_when_its_epoch_is_left_costs_no_later_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a kernel is being compiled for longer than anybody wants to wait."""
    source = make_source(tmp_path, episodes=1, frames=8, offsets=(0,))
    pictures = [decode_all(path) for path in source.paths]
    under_way, may_end = threading.Event(), threading.Event()
    finish = Finisher.finish

    def late(self: Finisher, batch: Batch) -> None:
        under_way.set()
        assert may_end.wait(60.0)
        finish(self, batch)

    monkeypatch.setattr(Finisher, "finish", late)
    monkeypatch.setattr(finish_module, "PATIENCE_S", 0.3)
    with Loader(source, 4, num_threads=1) as loading:
        iter(loading)
        assert under_way.wait(30.0)
        with pytest.raises(DeviceError, match="not finished a batch"):
            iter(loading)
        assert "left alone" in caplog.text
        may_end.set()
        finishing = loading._prefetcher._finishing
        assert finishing is not None
        assert finishing._late is not None
        finishing._late.join(30.0)
        assert outcomes_of(loading, source, pictures) == ["good", "good"]
        pool = loading._prefetcher._pool
        assert pool.chunks
    assert not pool.chunks


@pytest.mark.usefixtures("in_lanes")
def test_a_device_without_memory_for_a_picture_costs_its_batch_and_not_the_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(tmp_path, episodes=1, frames=8, gop=4, offsets=(0,))
    pictures = [decode_all(path) for path in source.paths]
    calls: list[int] = []
    host_picture = lane.host_picture

    def full(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return host_picture(*arguments)

    monkeypatch.setattr(lane, "host_picture", full)
    with Loader(source, 4, num_threads=1, backend="pyav") as loading:
        outcomes = outcomes_of(loading, source, pictures)
        assert loading.stats.workers_restarted == 0
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["DeviceError", "str"]
    assert any("lower device_cache_bytes" in str(outcome) for outcome in outcomes)


@pytest.mark.parametrize("where", ["decode", "convert"])
def test_a_device_that_hangs_is_told_to_whoever_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, request: pytest.FixtureRequest
) -> None:
    source = make_source(tmp_path, episodes=1, frames=8, offsets=(0,))
    may_go_on = threading.Event()

    class Hangs(PyavDecoder):
        def decode(self, stream: Any, run: Any) -> Any:
            assert may_go_on.wait(60.0)
            return super().decode(stream, run)

    def hanging(self: Finisher, batch: Batch) -> None:
        assert may_go_on.wait(60.0)

    if where == "decode":
        request.getfixturevalue("in_lanes")
        monkeypatch.setattr(crew, "create", lambda *_, **__: Hangs())
    else:
        monkeypatch.setattr(Finisher, "finish", hanging)
    monkeypatch.setattr(lane, "PATIENCE_S", 0.3)
    monkeypatch.setattr(finish_module, "PATIENCE_S", 0.3)
    monkeypatch.setattr(flight, "HANG_S", 1.0)
    with Loader(source, 4, num_threads=1) as loading:
        iterator = iter(loading)
        with pytest.raises(DeviceError, match=f"batch 0 has waited 1 s for {device_here()} to {where} it"):
            next(iterator)
        with pytest.raises(StopIteration):
            next(iterator)
        may_go_on.set()


def test_a_slow_process_is_no_device_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "HANG_S", 0.1)
    with Loader(make_source(tmp_path, offsets=(0,)), 4, num_threads=1, backend="pyav") as loading:
        loading._prefetcher.warm_up()
        (worker,) = (w for w in loading._prefetcher._crew if isinstance(w, WorkerHandle))
        os.kill(worker.pid, signal.SIGSTOP)
        monkeypatch.setattr(Finisher, "finish", lambda self, batch: None)  # interpreted, it takes longer than that
        monkeypatch.setattr(Loader, "_deliver", lambda self, batch: {"number": batch.number})
        iterator = iter(loading)
        threading.Timer(1.0, os.kill, (worker.pid, signal.SIGCONT)).start()
        assert next(iterator) == {"number": 0}
