"""The thread that plans: samples become batches in flight, and units of work for workers."""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from gpuload.errors import GpuloadError, LoaderClosed
from gpuload.pipeline.batch import Batch, Layout
from gpuload.pipeline.budget import Budgets, warn_if_costly
from gpuload.pipeline.crew import Crew
from gpuload.pipeline.crossing import Crossing
from gpuload.pipeline.dealer import Dealer, Shares, WorkerShare
from gpuload.pipeline.flight import Flight
from gpuload.pipeline.lookahead import Lookahead, SeenFrames
from gpuload.pipeline.pace import AHEAD, MOMENT_S, PREPARED, Sight
from gpuload.pipeline.route import Router
from gpuload.pipeline.shaping import Shaping
from gpuload.pipeline.work import STAGED, DecodeWorker, PendingUnit, Unit
from gpuload.sources.base import SampleSource
from gpuload.store.cache import BlobCache

SamplesOf = Callable[[int], npt.NDArray[np.int64]]
"""Step to samples ``[n]``."""


class Feeder:
    """Plans one lookahead after the other, reads what its groups need, and sends units to workers, as far ahead of the
    caller as ``Sight`` says. One thread at a time runs ``feed``."""

    def __init__(
        self,
        source: SampleSource,
        shaping: Shaping,
        router: Router,
        layout: Layout,
        flight: Flight,
        crew: Crew,
        cache: BlobCache,
        *,
        lookahead: int,
        budgets: Budgets,
        is_staged: bool,
        on_death: Callable[[DecodeWorker, str], None],
    ) -> None:
        """``is_staged``: batches are made on a device from planes; ``on_death`` is told of workers that died before
        they got their unit."""
        self._source, self._shaping, self._router, self._layout = source, shaping, router, layout
        self._flight, self._crew, self._cache = flight, crew, cache
        self._lookahead, self._budgets, self._is_staged, self._on_death = lookahead, budgets, is_staged, on_death
        self._slot_fields = np.full(layout.num_columns, STAGED) if is_staged else layout.field_of_column
        self.sight = Sight(cache)
        self._pictures = self._room = 0
        self._has_warned = False

    def feed(self, samples_of: SamplesOf, epoch: int) -> None:
        """Plans the flight's epoch to its end, or until it is stopped. What goes wrong fails the flight."""
        flight = self._flight
        try:
            step, seen = 0, SeenFrames(self._source)
            while step < flight.steps and not flight.stopped:
                batches, samples = list[npt.NDArray[np.int64]](), 0
                while step + len(batches) < flight.steps and samples < self._lookahead:
                    batches.append(samples_of(step + len(batches)))
                    samples += len(batches[-1])
                ahead = self._plan(batches, seen)
                crossing = Crossing(ahead) if self._is_staged else None
                dealer = Dealer(ahead, self._cache, self._crew.pick, crossing=crossing)
                for index, batch in enumerate(batches):
                    if not self._wait_for_turn(step + index, has_runs=index <= ahead.last_with_runs):
                        return
                    begun = Batch(step + index, batch, distinct=ahead.distinct[index], error=ahead.error_of(index))
                    self._feed_one(dealer, crossing, index, begun, epoch)
                step += len(batches)
        except BaseException as error:  # noqa: BLE001 - it crosses a thread: take() raises it
            flight.fail(error, is_over=False)

    def _plan(self, batches: list[npt.NDArray[np.int64]], seen: SeenFrames) -> Lookahead:
        self._cache.forget()  # what was kept for the lookahead before
        plan = Lookahead(
            self._source,
            batches,
            budget_bytes=self._budgets.frame_cache_bytes,
            picture_bytes=self._picture_bytes,
            slot_fields=self._slot_fields,
            first_picture=self._pictures,
            seen=seen,
            is_wanted=lambda: not self._flight.stopped,
        )
        self._pictures += plan.num_pictures
        if not self._has_warned:  # the first lookahead tells
            self._has_warned = True
            warn_if_costly(plan.plan, self._budgets, self._crew.is_on_device)
        return plan

    def _picture_bytes(self, file: int, field: int) -> int:
        """What a kept picture of a file, which goes to ``field``, counts of the plan's budget."""
        form = None if field == STAGED else self._shaping.forms[field]
        return self._budgets.picture_bytes(self._source.video(file), self._router.way(file), form)

    def _wait_for_turn(self, number: int, *, has_runs: bool) -> bool:
        """Until batch ``number`` is to be planned; ``has_runs``: it or a later one of the lookahead has something to
        decode. False: the epoch was left."""
        flight = self._flight
        with flight.changed:
            depth = partial(self.sight.depth, self._crew, has_more=has_runs)
            flight.changed.wait_for(lambda: flight.stopped or number < flight.taken + depth())
            if number >= flight.taken + PREPARED - 1:  # nothing is urgent
                flight.changed.wait_for(lambda: flight.stopped, timeout=MOMENT_S)
            return not flight.stopped

    def _feed_one(self, dealer: Dealer, crossing: Crossing | None, index: int, batch: Batch, epoch: int) -> None:
        places = self._layout.places(len(batch.samples))
        try:
            batch.columns = self._source.columns(batch.samples)
            self._shaping.shape_images(batch.columns, batch.samples, epoch)
            self.sight.note(batch.columns)
        except GpuloadError as error:  # its pictures are decoded anyway: workers count their uses
            batch.error = error.anew()
        try:
            views = self._shaping.views(batch.samples, epoch)[:, self._layout.field_of_column]
            batch.num_bytes = self._layout.num_bytes
            if crossing is not None:
                self._crew.settle()
                batch.staged = crossing.staged(index, views, self._crew.may_cross)
                # The most so far, so that one size of page-locked memory serves all batches.
                self._room = max(self._room, batch.staged.room)
                batch.num_bytes = self._room
            with self._flight.changed:
                batch.waiting += batch.staged is not None
                self._flight.add(batch)
            make_room = partial(self._make_room, batch)
            shares, lost = dealer.shares(index, places, views, make_room, batch.staged)
            self._send(batch, shares)
            batch.error = batch.error or lost
        except GpuloadError as error:
            batch.error = error.anew()
        self._flight.planned(batch)

    def _make_room(self, batch: Batch, shares: Shares) -> bool:
        """What is there of a batch is sent, so that its bytes come back. Whether any worker has something to give back.

        Raises:
            LoaderClosed: the epoch was left.
        """
        self._send(batch, shares)
        flight = self._flight
        # What is prepared further ahead holds its bytes until it has a buffer, so this batch waits for its own.
        with flight.changed:
            flight.changed.wait_for(lambda: flight.stopped or batch.number < flight.taken + AHEAD)
            if flight.stopped:
                raise LoaderClosed("the loader was closed while it was iterated")
            return any(worker.pending for worker in self._crew)

    def _send(self, batch: Batch, shares: Shares) -> None:
        for worker, share in shares.items():
            if share.tasks or share.fills:
                self._submit(worker, share, batch)
        shares.clear()

    def _submit(self, worker: DecodeWorker, share: WorkerShare, batch: Batch) -> None:
        unit = Unit(batch.number, tuple(share.tasks), tuple(share.fills), share.streams)
        with self._flight.changed:
            batch.waiting += 1
            worker.pending.append(PendingUnit(batch.number, share.cost, share.leases, len(share.tasks)))
            worker.load += share.cost
            self.sight.runs += len(share.tasks)
            lost = not worker.alive
            worker.submit(unit)
            if batch.place is None:
                batch.sent_to.append(worker)
            else:
                self._flight.tell(worker, batch)
        if lost:
            self._on_death(worker, worker.epitaph)
