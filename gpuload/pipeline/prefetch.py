"""Workers, threads and memory of one loader: begun, left and ended."""

import os
import threading

import torch

from gpuload.device.arena import BatchPool
from gpuload.device.stream import pinning
from gpuload.errors import LoaderClosed, WorkerDied
from gpuload.pipeline.batch import Batch, Layout
from gpuload.pipeline.budget import Budgets
from gpuload.pipeline.crew import Crew
from gpuload.pipeline.feeder import Feeder, SamplesOf
from gpuload.pipeline.finish import Finisher, FinishingThread
from gpuload.pipeline.flight import Flight
from gpuload.pipeline.pace import LEAVING_PATIENCE_S
from gpuload.pipeline.route import Router
from gpuload.pipeline.shaping import Shaping
from gpuload.pipeline.tally import Tally
from gpuload.pipeline.work import DecodeWorker, Done, end_apart, is_in_use_here, join, release
from gpuload.sources.base import SampleSource
from gpuload.store.cache import BlobCache
from gpuload.store.local import LocalFiles


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
        self.layout = Layout(shaping.forms, [f.num_offsets for f in source.video_fields], batch_size)
        self._finishing: FinishingThread | None = None
        if device is not None:
            self._finishing = FinishingThread(
                Finisher(device, shaping.forms, self.layout, kept_bytes=device_cache_bytes), self._on_finished
            )
        self._files, self._router, self._device = LocalFiles(), router, device
        self._pool, self.tally = BatchPool(pin=pinning(device)), Tally()
        self._cache = BlobCache(blob_cache_bytes, self._files.read, self._files.expect)
        self._flight = Flight(self._pool, self.tally, self._finishing)
        self._crew = Crew(
            router,
            shaping.forms,
            device=device,
            num_processes=num_workers,
            kept_bytes=frame_cache_bytes,
            device_room=lambda: device_cache_bytes - (0 if self._finishing is None else self._finishing.kept_bytes),
            on_done=self._on_done,
            on_death=self._on_death,
        )
        self._feeder = Feeder(
            source,
            shaping,
            router,
            self.layout,
            self._flight,
            self._crew,
            self._cache,
            lookahead=lookahead,
            budgets=Budgets(frame_cache_bytes, device_cache_bytes, is_staged=device is not None),
            is_staged=device is not None,
            on_death=self._on_death,
        )
        self._thread: threading.Thread | None = None
        """That feeds."""
        self._closed = self._ended = False
        self._pid, self._ending = os.getpid(), threading.RLock()

    @property
    def batches_taken(self) -> int:
        """Batches of this epoch that ``next`` gave or raised the error of."""
        return self._flight.taken

    @property
    def broken(self) -> bool:
        """The epoch was ended by what stopped planning."""
        return self._flight.broken

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
        self._flight.begin(num_steps)
        self._feeder.sight.runs = 0
        if self._finishing is not None:
            self._finishing.start()
        feed = self._feeder.feed
        self._thread = threading.Thread(target=feed, args=(samples_of, epoch), name="gpuload-feed", daemon=True)
        self._thread.start()

    def next(self) -> Batch:
        """The next batch in order, complete.

        Raises:
            StopIteration: the epoch is over. Any GpuloadError of this batch; the next call goes on with the next batch.
            Whatever else stopped planning, or a DeviceError where the device hangs, once; the epoch is over then.
        """
        self._check_process()
        return self._flight.take(self._awaited_of_device)

    def stop(self) -> None:
        """Leaves the epoch; workers stay."""
        flight = self._flight
        flight.stop()
        self._join()
        with flight.changed:
            for worker in self._crew:
                # None: Ctrl-C interrupted an earlier stop() after it had cleared the batches.
                known = [(unit, flight.batches.get(unit.batch)) for unit in worker.pending]
                unplaced = [unit for unit, batch in known if batch is not None and batch.place is None]
                worker.pending = [unit for unit in worker.pending if unit not in unplaced]
                release(unplaced)
            # What has a buffer still writes into its buffer: its memory must not be handed out again before that ends.
            flight.changed.wait_for(lambda: not any(w.alive and w.pending for w in self._crew), LEAVING_PATIENCE_S)
            flight.batches.clear()
        if self._finishing is not None:
            self._finishing.end()
        self._crew.leave(flight.changed)
        self._cache.forget()
        self.tally.kept.clear()

    def close(self) -> None:
        """Ends workers and threads and frees what no caller holds. Idempotent; nothing in a fork of its process, whose
        workers these are not."""
        if self._ended or os.getpid() != self._pid:
            return
        if is_in_use_here(self._flight.changed):
            end_apart(self.close, waits=False)
            return
        with self._ending:
            self._end()

    def forget(self) -> None:
        """``close`` for the finalizer, which garbage collection may run in the middle of any code."""
        end_apart(self.close, waits=not is_in_use_here(self._flight.changed))

    def warm_up(self) -> None:
        """Starts the processes that the first batches need, which takes a third of a second."""
        self._check_process()
        for way in self._router.first_ways():
            self._crew.of(way)

    def _end(self) -> None:
        self._closed = True
        self._flight.stop()
        self._crew.close()
        self._crew.give_up(self._crew, self._flight.changed)  # the feeder may wait for what they held
        self._join()
        self._crew.close()  # the feeder may have been making a worker meanwhile
        self._cache.forget()
        self._flight.batches.clear()
        if self._finishing is None or self._finishing.close():
            self._pool.close()
        self._files.close()
        self._ended = True  # last, so that close() can be called again after Ctrl-C

    def _awaited_of_device(self, number: int) -> str | None:
        """What of the device batch ``number`` waits for; None: nothing. Storage may be slow, and a training that was
        stopped in a debugger too: only a device is taken for dead. Called with the flight's lock held."""
        if self._flight.is_put(number):
            return f"{self._device} to convert it"
        lanes = [worker for worker in self._crew if worker.on_device]
        waits = any(unit.batch == number for worker in lanes for unit in worker.pending)
        return f"{self._device} to decode it" if waits else None

    def _join(self) -> None:
        """Waits for the thread that feeds."""
        if self._thread is not None and self._thread.ident is not None:  # else Ctrl-C came before it was started
            join(self._thread)
        self._thread = None

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise LoaderClosed(f"the loader belongs to process {self._pid}; make one in this process ({os.getpid()})")

    def _on_finished(self, batch: Batch, error: BaseException | None) -> None:
        with self._flight.changed:
            self.tally.hold(self._finishing, 0 if self._finishing is None else self._finishing.kept_bytes)
        if error is None:
            self._flight.finished(batch)
        else:  # nothing is finished any more
            self._flight.fail(error, is_over=True)

    def _on_done(self, worker: DecodeWorker, done: Done) -> None:
        with self._flight.changed:
            if not worker.pending:  # given up for lost in the meantime
                return
            unit = worker.pending.pop(0)
            worker.load -= unit.cost
            self._feeder.sight.runs -= unit.runs
            self.tally.add(worker, done, self._device)
            if done.is_measured:
                self._crew.sharing.measured(
                    worker.on_device, frames=done.frames_decoded, pixels=done.pixels_decoded, busy_s=done.busy_s
                )
            batch = self._flight.batches.get(unit.batch)
            if batch is not None:
                if done.errors and batch.error is None:
                    batch.error = done.errors[0].anew()  # another batch may have the same one
                if batch.staged is not None:
                    batch.staged.found.update(done.found)
                self._flight.count_down(batch)
            release([unit])
            self._flight.changed.notify_all()

    def _on_death(self, worker: DecodeWorker, reason: str) -> None:
        with self._flight.changed:
            pending, worker.pending = worker.pending, []
            for unit in pending:
                self._feeder.sight.runs -= unit.runs
                batch = self._flight.batches.get(unit.batch)
                if batch is not None:
                    died = WorkerDied(f"{reason} while it decoded batch {unit.batch}; it is started again")
                    batch.error = batch.error or (worker.fault.anew() if worker.fault else died)
                    self._flight.count_down(batch)
            self._flight.changed.notify_all()
        release(pending)
