"""Workers, bounded queues, shutdown: batches in order, some of them ahead, for any number of workers."""

import os
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from gpuload.device.arena import BatchPool
from gpuload.device.stream import pinning
from gpuload.errors import GpuloadError, LoaderClosed, WorkerDied
from gpuload.pipeline.batch import Batch, Layout
from gpuload.pipeline.budget import Budgets, warn_if_costly
from gpuload.pipeline.crew import Crew
from gpuload.pipeline.feed import Lookahead, SeenFrames, WorkerShare
from gpuload.pipeline.finish import Finisher, FinishingThread
from gpuload.pipeline.pace import AHEAD, LEAVING_PATIENCE_S, MOMENT_S, PREPARED, Sight
from gpuload.pipeline.route import Router
from gpuload.pipeline.shaping import Shaping
from gpuload.pipeline.tally import Tally
from gpuload.pipeline.work import (
    STAGED,
    DecodeWorker,
    Done,
    PendingUnit,
    Unit,
    end_apart,
    is_in_use_here,
    join,
    release,
)
from gpuload.sources.base import SampleSource
from gpuload.store.cache import BlobCache
from gpuload.store.local import LocalFiles

SamplesOf = Callable[[int], npt.NDArray[np.int64]]
"""Step to samples ``[n]``."""


class Prefetcher:
    """Owns the workers, the blob cache and the batch memory. ``next`` from one thread at a time."""

    def __init__(
        self,
        source: SampleSource,
        shaping: Shaping,
        router: Router,
        *,
        batch_size: int,
        num_workers: int,
        lookahead: int,
        frame_cache_bytes: int,
        device_cache_bytes: int,
        blob_cache_bytes: int,
        device: torch.device | None = None,
    ) -> None:
        """``device``: where batches are made from planes; None: decode processes write the slots, in host memory."""
        self._source, self._shaping, self._lookahead = source, shaping, lookahead
        self._budgets = Budgets(frame_cache_bytes, device_cache_bytes)
        self.layout = Layout(shaping.forms, [f.num_offsets for f in source.video_fields], batch_size)
        self._finishing: FinishingThread | None = None
        if device is not None:
            self._finishing = FinishingThread(Finisher(device, shaping.forms, self.layout), self._on_finished)
        self._slot_fields = self.layout.field_of_column if device is None else np.full(self.layout.num_columns, STAGED)
        self._pool = BatchPool(pin=pinning(device))
        self._files, self._router, self._device = LocalFiles(), router, device
        self._cache = BlobCache(blob_cache_bytes, self._files.read, self._files.expect)
        self._crew = Crew(
            router,
            shaping.forms,
            device=device,
            num_processes=num_workers,
            kept_bytes=frame_cache_bytes,
            device_kept_bytes=device_cache_bytes,
            on_done=self._on_done,
            on_death=self._on_death,
        )
        self._changed = threading.Condition()
        self._batches: dict[int, Batch] = {}
        self._feeder: threading.Thread | None = None
        self._feed_error: BaseException | None = None
        self._stop = self._closed = self._ended = self._warned = False
        self._pid, self._ending = os.getpid(), threading.RLock()
        self._taken = self._fed = self._steps = self._pictures = self._room = 0
        self._sight = Sight(self._cache)
        self.tally = Tally()
        self.broken = False
        """The epoch was ended by what stopped planning."""

    @property
    def batches_taken(self) -> int:
        """Batches of this epoch that ``next`` gave or raised the error of."""
        return self._taken

    @property
    def restarted(self) -> int:
        """Workers that ended without being asked to, and were replaced."""
        return self._crew.restarted

    @property
    def bytes_read(self) -> int:
        return self._cache.bytes_read

    def start(self, samples_of: SamplesOf, num_steps: int, *, epoch: int) -> None:
        """Begins batches ``0 <= step < num_steps`` of ``samples_of(step)``; what was under way is dropped.

        ``epoch`` decides the random parts of transforms.
        """
        if self._closed:
            raise LoaderClosed("the loader is closed; make a new one")
        self._check_process()
        self.stop()
        self.warm_up()  # they start while the first lookahead is planned
        self._stop, self._feed_error, self._steps, self.broken = False, None, num_steps, False
        self._taken = self._fed = 0
        self._sight.runs = 0
        if self._finishing is not None:
            self._finishing.start()
        feeder = threading.Thread(target=self._feed, args=(samples_of, epoch), name="gpuload-feed", daemon=True)
        feeder.start()
        self._feeder = feeder

    def next(self) -> Batch:
        """The next batch in order, complete.

        Raises:
            StopIteration: the epoch is over. Any GpuloadError of this batch; the next call goes on with the next batch.
            Whatever else stopped planning, once; the epoch is over then.
        """
        self._check_process()
        begin = time.perf_counter()
        with self._changed:
            if self._taken >= self._steps:
                raise StopIteration
            number = self._taken
            self._changed.wait_for(lambda: self._stop or self._is_settled(number))
            self.tally.wait_s += time.perf_counter() - begin
            if self._stop:
                raise LoaderClosed("the loader was closed while it was iterated")
            batch = self._batches.get(number)
            if batch is None or batch.waiting:
                error: BaseException | None = self._feed_error
                self._steps, self.broken, self._feed_error = self._taken, True, None  # nothing more comes
            else:
                try:
                    self._taken = number + 1
                    self._give_buffers()
                    del self._batches[number]
                except BaseException:  # Ctrl-C, or no memory for the next one: this batch is still to be had
                    self._taken, self._batches[number] = number, batch
                    raise
                self.tally.frames_distinct += batch.distinct
                self._changed.notify_all()
                error = batch.error
        if error is None:
            assert batch is not None
            return batch
        batch = None
        try:
            raise error
        finally:
            del error  # it holds this frame, which would hold it, the batch's memory and the loader

    def _is_settled(self, number: int) -> bool:
        """Whether a batch is complete, or never will be. Call with the lock held."""
        never = self._feed_error is not None and number >= self._fed
        return never or (number in self._batches and not self._batches[number].waiting)

    def stop(self) -> None:
        """Leaves the epoch; workers stay."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        if self._feeder is not None:
            join(self._feeder)
            self._feeder = None
        with self._changed:
            for worker in self._crew:
                # None: Ctrl-C ended an earlier call behind the place where it forgot the batches.
                known = [(unit, self._batches.get(unit.batch)) for unit in worker.pending]
                unplaced = [unit for unit, batch in known if batch is not None and batch.place is None]
                worker.pending = [unit for unit in worker.pending if unit not in unplaced]
                release(unplaced)
            # What has a buffer still writes into its buffer: its memory must not be handed out again before that ends.
            self._changed.wait_for(lambda: not any(w.alive and w.pending for w in self._crew), LEAVING_PATIENCE_S)
            self._batches.clear()
        if self._finishing is not None:
            self._finishing.end()
        self._crew.leave(self._changed)
        self.tally.kept.clear()

    def close(self) -> None:
        """Ends workers and threads and frees what no caller holds. Idempotent; nothing in a fork of its process, whose
        workers these are not."""
        if self._ended or os.getpid() != self._pid:
            return
        if is_in_use_here(self._changed):
            end_apart(self.close, waits=False)
            return
        with self._ending:
            self._end()

    def forget(self) -> None:
        """``close`` for garbage collection, which can come upon any code."""
        end_apart(self.close, waits=not is_in_use_here(self._changed))

    def warm_up(self) -> None:
        """Starts the processes that the first batches need, which takes a third of a second."""
        self._check_process()
        for way in self._router.first_ways():
            self._crew.of(way)

    def _end(self) -> None:
        self._closed = True
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._crew.close()
        self._crew.give_up(self._crew, self._changed)  # the feeder may wait for what they held
        if self._feeder is not None:
            join(self._feeder)
            self._crew.close()  # the feeder may have been making a worker meanwhile
        self._batches.clear()
        if self._finishing is None or self._finishing.close():
            self._pool.close()
        self._files.close()
        self._ended = True  # last: what Ctrl-C interrupted goes on when it is called again

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise LoaderClosed(f"the loader belongs to process {self._pid}; make one in this process ({os.getpid()})")

    def _feed(self, samples_of: SamplesOf, epoch: int) -> None:
        try:
            step, seen = 0, SeenFrames(self._source)
            while step < self._steps and not self._stop:
                batches, samples = list[npt.NDArray[np.int64]](), 0
                while step + len(batches) < self._steps and samples < self._lookahead:
                    batches.append(samples_of(step + len(batches)))
                    samples += len(batches[-1])
                plan = Lookahead(
                    self._source,
                    batches,
                    budget_bytes=self._budgets.frame_cache_bytes,
                    picture_bytes=self._picture_bytes,
                    slot_fields=self._slot_fields,
                    first_picture=self._pictures,
                    seen=seen,
                    is_wanted=lambda: not self._stop,
                )
                self._pictures += plan.num_pictures
                if step == 0 and not self._warned:  # the first lookahead tells
                    self._warned = True
                    warn_if_costly(plan.plan, self._budgets, self._crew.is_on_device)
                for index, batch in enumerate(batches):
                    if not self._wait_for_turn(step + index, has_runs=index <= plan.last_with_runs):
                        return
                    self._feed_one(plan, index, Batch(step + index, batch, distinct=plan.distinct[index]), epoch)
                step += len(batches)
        except BaseException as error:  # noqa: BLE001 - it crosses a thread: next() raises it
            with self._changed:
                self._feed_error = error
                self._changed.notify_all()

    def _picture_bytes(self, file: int, field: int) -> int:
        """What a kept picture of a file, which goes to ``field``, counts of the plan's budget."""
        form = None if field == STAGED else self._shaping.forms[field]
        return self._budgets.picture_bytes(self._source.video(file), self._router.way(file), form)

    def _wait_for_turn(self, number: int, *, has_runs: bool) -> bool:
        """Until batch ``number`` is to be planned; ``has_runs``: it, or one behind it. False: the epoch was left."""
        with self._changed:
            depth = partial(self._sight.depth, self._crew, has_more=has_runs)
            self._changed.wait_for(lambda: self._stop or number < self._taken + depth())
            if number >= self._taken + PREPARED - 1:  # nothing is urgent
                self._changed.wait_for(lambda: self._stop, timeout=MOMENT_S)
            return not self._stop

    def _feed_one(self, plan: Lookahead, index: int, batch: Batch, epoch: int) -> None:
        places = self.layout.places(len(batch.samples))

        def flush(shares: dict[DecodeWorker, WorkerShare]) -> None:
            for worker, share in shares.items():
                if share.tasks or share.fills:
                    self._submit(worker, share, batch)
            shares.clear()

        def make_room(shares: dict[DecodeWorker, WorkerShare]) -> bool:
            flush(shares)
            # What is prepared further ahead holds its bytes until it has a buffer, so this batch waits for its own.
            with self._changed:
                self._changed.wait_for(lambda: self._stop or batch.number < self._taken + AHEAD)
                if self._stop:
                    raise LoaderClosed("the loader was closed while it was iterated")
                return any(worker.pending for worker in self._crew)

        batch.error = plan.error_of(index)
        try:
            batch.columns = self._source.columns(batch.samples)
            self._shaping.shape_images(batch.columns, batch.samples, epoch)
            self._sight.note(batch.columns)
        except GpuloadError as error:  # its pictures are decoded all the same: who keeps them counts who comes for them
            batch.error = error.anew()
        try:
            views = self._shaping.views(batch.samples, epoch)[:, self.layout.field_of_column]
            batch.num_bytes = self.layout.num_bytes
            if self._finishing is not None:
                self._crew.settle()
                batch.staged = plan.staged(index, views, self._crew.may_cross)
                # The most so far, so that one size of page-locked memory serves all batches.
                self._room = max(self._room, batch.staged.room)
                batch.num_bytes = self._room
            with self._changed:
                batch.waiting += batch.staged is not None
                self._batches[batch.number] = batch
                self._give_buffers()
            shares, lost = plan.shares(index, self._crew.pick, self._cache, places, views, make_room, batch.staged)
            flush(shares)
            batch.error = batch.error or lost
        except GpuloadError as error:
            batch.error = error.anew()
        with self._changed:
            self._batches[batch.number] = batch  # it has an error, if it was not there yet
            self._fed = batch.number + 1 if self._feed_error is None else 0
            self._count_down(batch)

    def _count_down(self, batch: Batch) -> None:
        """One of those that a batch waits for is done. Call with the lock held."""
        batch.waiting -= 1
        if batch.waiting == 1 and self._finishing is not None and batch.staged is not None:
            self._finishing.put(batch)
        self._changed.notify_all()

    def _on_finished(self, batch: Batch, error: BaseException | None) -> None:
        with self._changed:
            if error is None:
                batch.waiting -= 1
            else:  # nothing is finished any more
                self._feed_error, self._fed = self._feed_error or error, 0
            self._changed.notify_all()

    def _give_buffers(self) -> None:
        """To the batches whose turn it is. Call with the lock held."""
        for number in range(self._taken, self._taken + AHEAD):
            batch = self._batches.get(number)
            if batch is not None and not self._stop:
                batch.give_buffer(self._pool)

    def _submit(self, worker: DecodeWorker, share: WorkerShare, batch: Batch) -> None:
        unit = Unit(batch.number, tuple(share.tasks), tuple(share.fills), share.streams)
        with self._changed:
            batch.waiting += 1
            worker.pending.append(PendingUnit(batch.number, share.cost, share.leases, len(share.tasks)))
            worker.load += share.cost
            self._sight.runs += len(share.tasks)
            lost = not worker.alive
            worker.submit(unit)
            if batch.place is None:
                batch.sent_to.append(worker)
            else:
                worker.go(batch.number, self._pool.chunks[batch.place.chunk], batch.place.offset)
        if lost:
            self._on_death(worker, worker.epitaph)

    def _on_done(self, worker: DecodeWorker, done: Done) -> None:
        with self._changed:
            if not worker.pending:  # given up for lost in the meantime
                return
            unit = worker.pending.pop(0)
            worker.load -= unit.cost
            self._sight.runs -= unit.runs
            self.tally.add(worker, done, self._device)
            if done.is_measured:
                self._crew.sharing.measured(worker.on_device, frames=done.frames_decoded, busy_s=done.busy_s)
            batch = self._batches.get(unit.batch)
            if batch is not None:
                if done.errors and batch.error is None:
                    batch.error = done.errors[0].anew()  # another batch may have the same one
                if batch.staged is not None:
                    batch.staged.found.update(done.found)
                self._count_down(batch)
            release([unit])
            self._changed.notify_all()

    def _on_death(self, worker: DecodeWorker, reason: str) -> None:
        with self._changed:
            pending, worker.pending = worker.pending, []
            for unit in pending:
                self._sight.runs -= unit.runs
                batch = self._batches.get(unit.batch)
                if batch is not None:
                    died = WorkerDied(f"{reason} while it decoded batch {unit.batch}; it is started again")
                    batch.error = batch.error or (worker.fault.anew() if worker.fault else died)
                    self._count_down(batch)
            self._changed.notify_all()
        release(pending)
