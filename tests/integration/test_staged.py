"""Batches that are made on a device from planes, as on a GPU: here the device is the CPU and the kernels are
interpreted, so that everything but CUDA itself is at work."""

import gc
import os
import signal
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from gpuload import Crop, Loader, Transform, loader
from gpuload.decode.pyav import PyavDecoder
from gpuload.device.arena import BatchPool
from gpuload.device.planes import PlaneWriter
from gpuload.errors import DecodeError, DeviceError, GpuloadError
from gpuload.pipeline import crew, flight, lane, route
from gpuload.pipeline import finish as finish_module
from gpuload.pipeline.batch import Batch
from gpuload.pipeline.finish import Finisher
from gpuload.pipeline.handle import WorkerHandle
from gpuload.pipeline.lane import DeviceLane
from gpuload.pipeline.route import Way
from tests.source import NumberedSource
from tests.staged import FORMATS, Pictures, assert_near, device_here, make_source, outcomes_of
from tests.videos import decode_all


@pytest.fixture(autouse=True)
def _on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "finishing_device", lambda device: device_here())


@pytest.fixture
def in_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders in threads that hand pictures over where they are, as those of a GPU do."""
    monkeypatch.setattr(route.Router, "way", lambda self, file: Way("pyav", "cuda"))
    monkeypatch.setattr(route.Router, "num_engines", lambda self: 1)  # whatever the machine has: two lanes


@pytest.fixture(scope="module", params=FORMATS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NumberedSource:
    return make_source(tmp_path_factory.mktemp("staged"), request.param)


@pytest.fixture(scope="module")
def pictures(source: NumberedSource) -> Pictures:
    return [decode_all(path) for path in source.paths]


@pytest.mark.parametrize("lanes", [False, True])
def test_every_slot_of_an_epoch_is_the_right_picture(
    source: NumberedSource, pictures: Pictures, lanes: bool, request: pytest.FixtureRequest
) -> None:
    if lanes:
        request.getfixturevalue("in_lanes")
    with Loader(source, 6, shuffle="block", num_threads=2) as loader:
        seen = []
        for batch in loader:
            assert_near(batch, source, pictures)
            seen += batch["index"].tolist()
        stats = loader.stats
    assert sorted(seen) == list(range(len(source)))
    assert stats.amplification == 1.0


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize(
    ("form", "color"),
    [
        ("yuv444p", "colormatrix=bt709"),
        ("yuv444p", "colormatrix=smpte170m:fullrange=on"),
        ("yuv444p", "colormatrix=bt2020nc"),
        ("yuv420p10le", "fullrange=on"),  # no format of its own, as yuvj444p is
    ],
)
def test_matrix_and_range_are_the_streams(
    tmp_path: Path, form: str, color: str, lanes: bool, request: pytest.FixtureRequest
) -> None:
    if lanes:
        request.getfixturevalue("in_lanes")
    tinted = {"tint": form == "yuv444p", "options": {"x264-params": color, "preset": "veryfast"}}
    source = make_source(tmp_path, form, episodes=1, frames=3, offsets=(0,), **tinted)
    pictures = [decode_all(path) for path in source.paths]
    assert form != "yuv444p" or np.ptp(pictures[0][0].astype(int), axis=0).max() > 60
    with Loader(source, 3) as loading:
        for batch in loading:
            assert_near(batch, source, pictures)


def test_a_matrix_that_nothing_converts_is_told_of_packed_pictures_too() -> None:
    frame = av.VideoFrame(64, 48, "uyvy422")
    frame.colorspace = 8
    with pytest.raises(DecodeError, match="colour matrix 8"):
        PlaneWriter().write(frame, np.zeros(64 * 48 * 3, np.uint8), rotation=0, chroma_location=0)


@pytest.mark.parametrize("lanes", [False, True])
def test_a_matrix_that_nothing_converts_is_told(tmp_path: Path, lanes: bool, request: pytest.FixtureRequest) -> None:
    if lanes:
        request.getfixturevalue("in_lanes")
    options = {"x264-params": "colormatrix=YCgCo", "preset": "veryfast"}
    source = make_source(tmp_path, episodes=1, frames=3, offsets=(0,), options=options)
    with Loader(source, 3) as loading, pytest.raises(DecodeError, match="colour matrix 8"):
        next(iter(loading))


@pytest.mark.usefixtures("in_lanes")
def test_the_cpu_takes_its_share_of_what_was_verified(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=6, frames=30, gop=6, offsets=(0,), width=48)
    pictures = [decode_all(path) for path in source.paths]
    kinds = set[type]()
    with Loader(source, 6, shuffle="global", num_threads=2, lookahead=18) as loading:
        for epoch in range(2):
            loading.set_epoch(epoch)
            for step, batch in enumerate(loading):
                assert_near(batch, source, pictures)
                kinds |= {type(worker) for worker in loading._prefetcher._crew if worker.streams}
                if step == 4:
                    break
        assert loading._prefetcher._crew.sharing.allowed() == {("h264", 8)}
    assert kinds == {WorkerHandle, DeviceLane}


@pytest.mark.usefixtures("in_lanes")
def test_who_will_be_done_first_gets_a_run(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=2, frames=12, gop=6, offsets=(0,))
    with Loader(source, 6, num_threads=2) as loading:
        list(loading)
        crew, kind = loading._prefetcher._crew, ("h264", 8)
        crew.settle()
        assert crew.sharing.allowed() == {kind}
        video = source.video(0)
        for on_device, picture_s in ((True, 0.001), (False, 0.010)):
            for _ in range(200):
                crew.sharing.measured(
                    on_device, frames=10, pixels={kind: 10 * video.width * video.height}, busy_s=10 * picture_s
                )

        def picked(packets: int, *, waiting: float) -> type:
            """``waiting``: pictures in front of the device's workers."""
            return type(crew.pick(0, packets, lambda worker: waiting * worker.on_device))

        assert picked(2, waiting=0) == DeviceLane  # 2 ms, on the CPU 20 ms
        assert picked(2, waiting=50) == WorkerHandle  # 52 ms
        assert picked(250, waiting=50) == DeviceLane  # 300 ms, on the CPU 2.5 s
        assert picked(250, waiting=5000) == WorkerHandle


def test_an_idle_loader_does_not_hold_its_last_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, made = Finisher.finish, list[weakref.ref[torch.Tensor]]()

    def noting(self: Finisher, batch: Batch) -> None:
        finish(self, batch)
        assert batch.memory is not None
        made.append(weakref.ref(batch.memory))

    monkeypatch.setattr(Finisher, "finish", noting)
    with Loader(make_source(tmp_path, offsets=(0,)), 4) as loading:
        assert len(list(loading)) == len(made) == 2
        gc.collect()
        assert [memory() for memory in made] == [None, None]


@pytest.mark.usefixtures("in_lanes")
def test_what_was_asked_for_is_not_shared(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=2, frames=12, gop=6, offsets=(0,))
    with Loader(source, 6, backend="pyav", num_threads=2) as loading:
        list(loading)
        assert {type(worker) for worker in loading._prefetcher._crew} == {DeviceLane}
        assert loading.stats.decoded_by == {f"pyav on {device_here()}": loading.stats.frames_decoded}


def test_transforms_are_those_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path, episodes=1, frames=3, offsets=(0,))
    mean_std = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    for transform in (
        Transform(crop=Crop(20, 30, "random"), flip=0.5),
        Transform(resize=(16, 20), crop=(30, 40), normalize=mean_std, dtype="float16", layout="hwc"),
        Transform(resize=(50, 60), flip=True, dtype="bfloat16"),
    ):
        found = []
        for where in (device_here(), None):
            monkeypatch.setattr(loader, "finishing_device", lambda device, where=where: where)
            device = "cpu" if where is None else where
            with Loader(source, 5, transform=transform, seed=4, device=device) as loading:
                found.append(list(loading))
        for ours, theirs in zip(*found, strict=True):
            assert ours["cam0"].dtype == theirs["cam0"].dtype
            scale = 1 if transform.dtype is None else 255 * (0.2 if transform.normalize else 1)
            difference = (ours["cam0"].cpu().double() - theirs["cam0"].double()).abs() * scale
            assert difference.max() <= 3.0
            assert difference.mean() <= 0.7


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


def test_one_size_of_staging_memory_serves_all_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Windows overlap: how many pictures a batch needs differs. Page-locked memory is dear: no size is to come again.
    source = make_source(tmp_path, episodes=1, frames=24, offsets=(-3, 0))
    taken: list[int] = []
    take = BatchPool.take

    def recorded(self: BatchPool, num_bytes: int) -> Any:
        taken.append(num_bytes)
        return take(self, num_bytes)

    monkeypatch.setattr(BatchPool, "take", recorded)
    monkeypatch.setattr(Finisher, "finish", lambda self, batch: None)
    monkeypatch.setattr(Loader, "_deliver", lambda self, batch: {})
    # pyav: on a GPU nothing else would decode in host memory before it has been verified
    with Loader(source, 4, shuffle="global", num_threads=1, backend="pyav") as loading:
        for _ in range(2):
            for _ in loading:
                pass
    assert len(taken) == 12
    assert taken == sorted(taken)
    assert len(set(taken[6:])) == 1


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
