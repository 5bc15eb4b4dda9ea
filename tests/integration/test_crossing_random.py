"""Real workers, cache and finisher in one thread, in an order drawn by chance, with workers that die: whatever is shown
is the picture that was asked for."""

import ctypes
import mmap
import random
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch

from gpuload.decode.pyav import PyavDecoder
from gpuload.errors import GpuloadError, WorkerDied
from gpuload.pipeline import finish
from gpuload.pipeline.batch import Batch, Layout
from gpuload.pipeline.crossing import Crossing
from gpuload.pipeline.dealer import Dealer, Shares
from gpuload.pipeline.finish import Finisher
from gpuload.pipeline.host import HostWorker
from gpuload.pipeline.lane import DeviceWorker
from gpuload.pipeline.lookahead import Lookahead, SeenFrames
from gpuload.pipeline.share import Sharing
from gpuload.pipeline.work import STAGED, Go, Unit
from gpuload.store.cache import BlobCache, Lease, release_all
from gpuload.store.local import LocalFiles
from gpuload.transform import slot_form
from tests.source import NumberedSource

CPU = torch.device("cpu")
HEIGHT, WIDTH = 34, 48
Luma = list[list[bytes]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> NumberedSource:
    folder = tmp_path_factory.mktemp("random")
    return NumberedSource(folder, episodes=2, frames=20, cameras=2, width=WIDTH, height=HEIGHT, gop=5, offsets=(-4, 0))


@pytest.fixture(scope="module")
def luma(source: NumberedSource) -> Luma:
    """The first plane of every frame of every file."""
    found = []
    for path in source.paths:
        with av.open(str(path)) as container:
            found.append([f.to_ndarray()[:HEIGHT].tobytes() for f in container.decode(video=0)])
    return found


@dataclass(eq=False)
class Seat:
    """A worker and what it has to do."""

    on_device: bool
    alive: bool = True
    needs_pts: bool = False
    streams: set[int] = field(default_factory=set)
    units: list[tuple[Unit, list[Lease]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        sharing = Sharing(wanted=False)
        self.worker = (
            DeviceWorker(PyavDecoder(), CPU, sharing, lambda: True) if self.on_device else HostWorker("pyav", ())
        )


@dataclass
class Course:
    """One epoch. ``dying``: how often somebody dies; ``on_device``: of which workers there are."""

    source: NumberedSource
    draw: random.Random
    dying: float
    on_device: list[bool]

    def __post_init__(self) -> None:
        fields = [slot_form(None, key=f"cam{c}", channels=3, height=HEIGHT, width=WIDTH, dtype="uint8") for c in (0, 1)]
        self.size = self.draw.randint(1, 5)
        self.finisher = Finisher(CPU, fields, Layout(fields, [2, 2], self.size), kept_bytes=1 << 16)
        self.cache = BlobCache(1 << 20, LocalFiles().read)
        self.seats = [self.seat() for _ in range(3)]
        self.batches: list[Batch] = []
        self.finished = 0

    def seat(self) -> Seat:
        return Seat(self.draw.choice(self.on_device))

    def run(self) -> None:
        samples = np.array(self.draw.sample(range(len(self.source)), len(self.source)))
        parts = [samples[i : i + self.size] for i in range(0, len(samples), self.size)]
        seen, first = SeenFrames(self.source), 1
        while len(self.batches) < len(parts):
            chosen = parts[len(self.batches) :][: self.draw.randint(1, 12)]
            ahead = Lookahead(
                self.source,
                chosen,
                budget_bytes=self.draw.choice([3, 20, 1 << 30]),
                picture_bytes=lambda file, field: 1,
                slot_fields=np.full(4, STAGED),
                first_picture=first,
                seen=seen,
            )
            first += ahead.num_pictures
            crossing = Crossing(ahead)
            pick: Any = lambda *_: self.draw.choice(self.seats)  # noqa: E731
            dealer = Dealer(ahead, self.cache, pick, crossing=crossing)
            for index, part in enumerate(chosen):
                self.plan(dealer, crossing, index, part)
                for _ in range(self.draw.randint(0, 6)):
                    self.work(self.draw.choice(self.seats))
        for seat in self.seats:
            while seat.units:
                self.work(seat)
        assert self.finished == len(parts)
        assert self.finisher.kept.num_bytes == 0
        assert self.dying or not any(seat.worker._kept for seat in self.seats), "asked for less often than was said"

    def plan(self, dealer: Dealer, crossing: Crossing, index: int, samples: npt.NDArray[np.int64]) -> None:
        batch = Batch(len(self.batches), samples)
        views = np.zeros((len(samples), 4), np.int64)
        batch.staged = crossing.staged(index, views, lambda file: True)
        memory = mmap.mmap(-1, max(batch.staged.room, 1))
        batch.buffer = np.frombuffer(memory, np.uint8)
        for seat in self.seats:
            if isinstance(seat.worker, HostWorker):
                seat.worker._chunks[batch.number] = memory
        self.batches.append(batch)

        def send(shares: Shares) -> None:
            for seat, share in shares.items():
                assert isinstance(seat, Seat)
                if not (share.tasks or share.fills):
                    continue
                batch.waiting += 1
                seat.units.append(
                    (Unit(batch.number, tuple(share.tasks), tuple(share.fills), share.streams), share.leases)
                )
                if not seat.alive:
                    self.bury(seat)
            shares.clear()

        def make_room(shares: Shares) -> bool:
            send(shares)
            self.maybe_die()
            return False

        shares, lost = dealer.shares(index, views, views, make_room, batch.staged)
        assert batch.staged.num_bytes <= batch.staged.room
        self.maybe_die()
        send(shares)
        batch.error = batch.error or lost
        batch.waiting -= 1
        self.finish()

    def maybe_die(self) -> None:
        if self.draw.random() < self.dying:
            place = self.draw.randrange(len(self.seats))
            seat, self.seats[place] = self.seats[place], self.seat()
            seat.alive = False
            self.bury(seat)

    def bury(self, seat: Seat) -> None:
        for unit, leases in seat.units:
            release_all(leases)
            batch = self.batches[unit.batch]
            batch.error, batch.waiting = batch.error or WorkerDied("it died"), batch.waiting - 1
        seat.units.clear()

    def work(self, seat: Seat) -> None:
        if not seat.units:
            return
        unit, leases = seat.units.pop(0)
        batch = self.batches[unit.batch]
        assert batch.staged is not None
        if isinstance(seat.worker, HostWorker):  # it may have come after the batch was planned
            assert batch.buffer is not None
            seat.worker._chunks.setdefault(unit.batch, batch.buffer.base)  # type: ignore[arg-type]
        seat.worker.take(unit)
        for done in seat.worker.go(Go(unit.batch, unit.batch, 0)):
            assert not done.errors
            batch.staged.found.update(done.found)
            batch.waiting -= 1
        release_all(leases)
        self.maybe_die()
        self.finish()

    def finish(self) -> None:
        while self.finished < len(self.batches) and self.batches[self.finished].waiting == 0:
            batch = self.batches[self.finished]
            try:
                self.finisher.finish(batch)
            except GpuloadError as error:
                batch.error = batch.error or error
            assert self.dying or batch.error is None
            if batch.buffer is not None:
                batch.buffer[:] = 255  # the next one's
            batch.staged = batch.buffer = None
            self.finished += 1


@pytest.mark.parametrize("dying", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("on_device", [[False], [False, True]], ids=["host", "mixed"])
def test_what_is_shown_is_what_was_asked_for(
    source: NumberedSource, luma: Luma, dying: float, on_device: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[list[int]] = []
    make, shown = Finisher._make, 0

    def noting(table: torch.Tensor, *_: object) -> None:
        rows.extend(table.tolist())

    def checking(self: Finisher, batch: Batch, *arguments: Any) -> torch.Tensor:
        nonlocal shown
        rows.clear()
        slots = make(self, batch, *arguments)
        refs, places = source.frames(batch.samples), self._layout.places(len(batch.samples))
        wanted = zip(places.ravel().tolist(), refs.file.ravel().tolist(), refs.frame.ravel().tolist(), strict=True)
        expected = {place: luma[file][frame] for place, file, frame in wanted}
        for address, _, _, stride, _, _, slot, *_ in rows:
            found = b"".join(ctypes.string_at(address + row * stride, WIDTH) for row in range(HEIGHT))
            assert found == expected.pop(slot - slots.data_ptr()), f"batch {batch.number}"
        assert not expected
        shown += len(rows)
        return slots

    monkeypatch.setattr(Finisher, "_make", checking)
    monkeypatch.setattr(finish, "convert_pictures", noting)
    for seed in range(12):
        Course(source, random.Random(seed), dying, on_device).run()
    assert shown > 500
