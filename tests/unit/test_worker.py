"""A decode worker, without its process: what it prepares is what it would have done."""

import mmap
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch

from gpuload import Transform
from gpuload.decode.pyav import PyavDecoder
from gpuload.device.arena import BatchPool
from gpuload.pipeline.batch import Layout
from gpuload.pipeline.dealer import Dealer
from gpuload.pipeline.handle import WorkerHandle
from gpuload.pipeline.host import HostWorker
from gpuload.pipeline.lane import DeviceLane
from gpuload.pipeline.lookahead import Lookahead, SeenFrames
from gpuload.pipeline.shaping import Shaping
from gpuload.pipeline.share import Sharing
from gpuload.pipeline.work import STAGED, DecodeWorker, Done, Go, Unit
from gpuload.store.cache import BlobCache
from gpuload.store.local import LocalFiles
from tests.source import NumberedSource
from tests.videos import decode_all

BATCH = 6


class Anybody:
    """Takes every task; what a plan asks of a worker."""

    alive, on_device, needs_pts, load = True, False, False, 0.0

    def __init__(self) -> None:
        self.streams: set[int] = set()


@pytest.fixture
def source(tmp_path: Path) -> NumberedSource:
    return NumberedSource(tmp_path, episodes=2, cameras=1, frames=24, gop=12, offsets=(-1, 0))


def units_of(source: NumberedSource, shaping: Shaping, batches: list[npt.NDArray[np.int64]]) -> list[Unit]:
    layout = Layout(shaping.forms, [2], BATCH)
    ahead = Lookahead(
        source,
        batches,
        budget_bytes=1 << 40,
        picture_bytes=lambda file, field: 10_000,
        slot_fields=layout.field_of_column,
        first_picture=0,
        seen=SeenFrames(source),
    )
    worker: Any = Anybody()
    dealer, units = Dealer(ahead, BlobCache(1 << 24, LocalFiles().read), lambda *_: worker), []
    for number in range(len(batches)):
        places, views = layout.places(BATCH), np.zeros((BATCH, 2), np.int64)
        shares, _ = dealer.shares(number, places, views, lambda shares: False, None)
        share = shares[worker]
        units.append(Unit(number, tuple(share.tasks), tuple(share.fills), share.streams))
    return units


def worker_with_memory(shaping: Shaping) -> tuple[HostWorker, mmap.mmap]:
    """A worker and the memory of the one batch that it writes to."""
    worker = HostWorker("pyav", shaping.forms, 1 << 30)
    memory = mmap.mmap(-1, shaping.forms[0].slot_bytes * BATCH * 2)
    worker._chunks[0], worker._addresses[0] = memory, np.frombuffer(memory, np.uint8).ctypes.data
    return worker, memory


def run_all(units: list[Unit], shaping: Shaping, prepared: int) -> tuple[list[Done], list[bytes]]:
    """Every unit, each after so many pictures of those behind it were prepared; what was said, and the batches."""
    worker, memory = worker_with_memory(shaping)
    said, batches = list[Done](), []
    for unit in units:
        worker.take(unit)
    for unit in units:
        said += worker.go(Go(unit.batch, 0, 0))
        batches.append(bytes(memory))
        for _ in range(prepared):
            worker.decode_ahead()
    assert not worker._kept
    assert not worker._prepared
    return said, batches


@pytest.mark.parametrize("gop", [2, 12])
@pytest.mark.parametrize("prepared", [1, 2, 9, 99])
@pytest.mark.parametrize("transform", [None, Transform(resize=(32, 48))])
def test_what_is_prepared_is_what_would_have_been_done(
    tmp_path: Path, gop: int, prepared: int, transform: Transform | None
) -> None:
    source = NumberedSource(tmp_path, episodes=2, cameras=1, frames=24, gop=gop, offsets=(-1, 0))
    order = np.random.default_rng(0).permutation(len(source))
    shaping = Shaping(source, transform, seed=0)
    units = units_of(source, shaping, np.split(order, len(order) // BATCH))
    if gop == 2:
        assert sum(len(unit.tasks) > 1 for unit in units[1:]) >= 2
    expected, batches = run_all(units, shaping, 0)
    said, ahead = run_all(units, shaping, prepared)
    assert ahead == batches
    assert [done.frames_decoded for done in said] == [done.frames_decoded for done in expected]
    if transform is None:
        pictures = [decode_all(path) for path in source.paths]
        first = np.frombuffer(batches[0], np.uint8).reshape(BATCH, 2, 3, 64, 96)
        episode, row = divmod(int(order[0]), 24)
        assert np.array_equal(first[0, 1], pictures[episode][row])


def test_a_batch_that_is_due_does_not_wait_for_a_run_that_is_prepared(source: NumberedSource) -> None:
    shaping = Shaping(source, None, seed=0)
    again, later = np.arange(1, 1 + BATCH), np.arange(24, 24 + BATCH)
    units = units_of(source, shaping, [again, again, later, np.arange(36, 36 + BATCH)])
    assert [len(unit.tasks) for unit in units] == [1, 0, 1, 1]
    expected, batches = run_all(units, shaping, 0)
    worker, memory = worker_with_memory(shaping)
    for unit in units:
        worker.take(unit)
    (first,) = worker.go(Go(0, 0, 0))
    while len(worker._kept) < BATCH + 1 + 2:  # two pictures of the next run beside those that the next batch shows
        assert worker.decode_ahead()
    (second,) = worker.go(Go(1, 0, 0))
    assert bytes(memory) == batches[1]
    assert len(worker._kept) == 2, "it has decoded for a later batch"
    (fourth,) = worker.go(Go(3, 0, 0))  # its run needs the decoder
    assert bytes(memory) == batches[3]
    (third,) = worker.go(Go(2, 0, 0))
    assert bytes(memory) == batches[2]
    assert [done.frames_decoded for done in (first, second, third, fourth)] == [d.frames_decoded for d in expected]
    assert not any(done.errors for done in (first, second, third, fourth))


def test_an_epoch_that_is_left_ends_a_run_that_is_prepared(source: NumberedSource) -> None:
    shaping = Shaping(source, None, seed=0)
    units = units_of(source, shaping, [np.arange(BATCH), np.arange(24, 24 + BATCH)])
    _, batches = run_all(units, shaping, 0)
    worker, memory = worker_with_memory(shaping)
    worker.take(units[0])
    assert worker.decode_ahead()
    worker.forget()
    assert not worker.decode_ahead()
    assert not worker._kept
    worker.take(units[1])
    (done,) = worker.go(Go(1, 0, 0))
    assert not done.errors
    assert bytes(memory) == batches[1]


def decoder_process(shaping: Shaping, on_done: Callable[[Any, Done], None]) -> WorkerHandle:
    return WorkerHandle(shaping.forms, most_kept_bytes=1 << 30, on_done=on_done, on_death=lambda *_: None)


def lane(shaping: Shaping, on_done: Callable[[Any, Done], None]) -> DeviceLane:
    return DeviceLane(
        PyavDecoder,
        torch.device("cpu"),
        backend="pyav",
        sharing=Sharing(wanted=True),
        room=lambda: 1 << 30,
        on_done=on_done,
        on_death=lambda *_: None,
    )


def cpu_seconds(worker: DecodeWorker) -> float:
    """What its process has spent: on a busy machine the clock tells more of the others than of it."""
    times = psutil.Process(worker.pid if isinstance(worker, WorkerHandle) else None).cpu_times()
    return times.user + times.system


def decoding_s(path: Path) -> float:
    """CPU time of decoding a file once, on one thread."""
    begin = time.process_time()
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        assert sum(1 for _ in container.decode(video=0)) == 240
    return time.process_time() - begin


@pytest.mark.parametrize("make", [decoder_process, lane])
def test_a_worker_with_nothing_to_do_decodes_ahead(tmp_path: Path, make: Callable[..., DecodeWorker]) -> None:
    source = NumberedSource(tmp_path, episodes=1, cameras=1, frames=240, gop=240, width=640, height=480)
    shaping = Shaping(source, None, seed=0)
    (unit,) = units_of(source, shaping, [np.array([0, 1, 237, 238, 238, 239])])
    if make is lane:
        unit = unit._replace(fills=tuple((picture, STAGED, offset, view) for picture, _, offset, view in unit.fills))
    pool, answers = BatchPool(), queue.SimpleQueue[Done]()
    worker = make(shaping, lambda _, done: answers.put(done))
    try:
        worker.submit(unit)
        time.sleep(5.0)
        place, _ = pool.take(shaping.forms[0].slot_bytes * BATCH * 2)
        begin = cpu_seconds(worker)
        worker.go(unit.batch, pool.chunks[place.chunk], place.offset)
        done = answers.get(timeout=60.0)
        assert done.frames_decoded == 240
        assert cpu_seconds(worker) - begin < decoding_s(source.paths[0]) / 2, "it was decoded only now"
        assert done.is_measured == (make is decoder_process), "what was decoded twice is no measure"
    finally:
        worker.close()
        pool.close()


def test_a_unit_has_no_more_runs_than_it_has(source: NumberedSource) -> None:
    shaping = Shaping(source, None, seed=0)
    (unit,) = units_of(source, shaping, [np.arange(BATCH)])
    worker = HostWorker("pyav", shaping.forms, 1 << 30)
    assert [worker.prepare(unit) for _ in range(len(unit.tasks) + 2)] == [True] * len(unit.tasks) + [False] * 2
    while worker._begun:
        assert worker.decode_ahead()
    assert not worker.decode_ahead()
    worker.forget()
    assert not worker._prepared
    assert not worker._kept


def test_nothing_is_prepared_beyond_the_budget(source: NumberedSource) -> None:
    shaping = Shaping(source, None, seed=0)
    (unit,) = units_of(source, shaping, [np.array([1, 13, 25, 37, 2, 14])])
    assert len(unit.tasks) == 4
    for room, runs in ((0, 0), (1, 1), (1 << 30, 4)):
        worker = HostWorker("pyav", shaping.forms, room)
        assert sum(worker.prepare(unit) for _ in range(9)) == runs


def test_damage_that_is_met_ahead_is_told_by_the_batch_that_needs_it(source: NumberedSource) -> None:
    shaping = Shaping(source, None, seed=0)
    units = units_of(source, shaping, [np.arange(BATCH), np.arange(24, 24 + BATCH)])
    (task,) = units[1].tasks
    broken = units[1]._replace(tasks=(task._replace(data=bytes(len(task.data))),))
    said, _ = run_all([units[0], broken], shaping, 0)
    ahead, _ = run_all([units[0], broken], shaping, 1)
    assert [str(error) for error in ahead[1].errors] == [str(error) for error in said[1].errors] != []
    assert not ahead[0].errors
