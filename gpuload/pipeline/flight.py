"""The batches of an epoch between planning and delivery, and the lock that guards them."""

import threading
import time
from collections.abc import Callable

from gpuload.device.arena import BatchPool
from gpuload.errors import DeviceError, LoaderClosed
from gpuload.pipeline.batch import Batch
from gpuload.pipeline.finish import FinishingThread
from gpuload.pipeline.pace import AHEAD
from gpuload.pipeline.tally import Tally
from gpuload.pipeline.work import DecodeWorker

HANG_S = 300.0
"""A device that has not answered for so long never will; compiling a kernel takes a minute at most."""

LOOKS = 10
"""In that time: a process that was suspended meanwhile has missed one of them only."""


class Flight:
    """Batches that were begun and not yet taken. ``changed`` guards them and what their workers have pending; methods
    that ask for it are called with it held."""

    def __init__(self, pool: BatchPool, tally: Tally, finishing: FinishingThread | None) -> None:
        """``finishing``: makes complete batches on a device; None: they are made by the workers."""
        self._pool, self._tally, self._finishing = pool, tally, finishing
        self.changed = threading.Condition()
        self.batches: dict[int, Batch] = {}
        self.stopped = False
        """The epoch was left, or the loader closed: nobody waits for anything any more."""
        self.steps = 0
        """Batches of the epoch."""
        self.taken = 0
        """Batches that ``take`` gave or raised the error of."""
        self._planned_to = 0
        """Batches before this one are fully planned: they complete even if planning fails later."""
        self._put = 0
        """Batches before this one were given to the device, or never will be."""
        self._failure: BaseException | None = None
        self.broken = False
        """The epoch was ended by what stopped planning."""

    def begin(self, steps: int) -> None:
        """An epoch of so many batches. Nothing is in flight."""
        self.stopped, self._failure, self.broken = False, None, False
        self.steps, self.taken, self._planned_to, self._put = steps, 0, 0, 0

    def stop(self) -> None:
        """Whoever waits is told that it is over."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def take(self, awaited: Callable[[int], str | None]) -> Batch:
        """The next batch in order, complete. ``awaited(number)``: what of the device a batch waits for, if anything.

        Raises:
            StopIteration: the epoch is over. The batch's error; or, once, what stopped planning, and it is over then.
            LoaderClosed: it was stopped meanwhile. DeviceError: the device does not answer, and the epoch is over.
        """
        begin = time.perf_counter()
        with self.changed:
            if self.taken >= self.steps:
                raise StopIteration
            number = self.taken
            looks = 0
            while not self.changed.wait_for(lambda: self.stopped or self._is_settled(number), HANG_S / LOOKS):
                what = awaited(number)
                looks = 0 if what is None else looks + 1
                if looks == LOOKS:
                    self.steps, self.broken = self.taken, True
                    raise DeviceError(
                        f"batch {number} has waited {HANG_S:.0f} s for {what}, which does not answer; end this process "
                        "(nvidia-smi and the kernel's log tell of a GPU that is lost)"
                    )
            self._tally.wait_s += time.perf_counter() - begin
            if self.stopped:
                raise LoaderClosed("the loader was closed while it was iterated")
            batch = self.batches.get(number)
            if batch is None or batch.waiting:
                error: BaseException | None = self._failure
                self.steps, self.broken, self._failure = self.taken, True, None  # nothing more comes
            else:
                try:
                    self.taken = number + 1
                    self.give_buffers()
                    del self.batches[number]
                except BaseException:  # Ctrl-C, or no memory for the next one: this batch is still to be had
                    self.taken, self.batches[number] = number, batch
                    raise
                self._tally.frames_distinct += batch.distinct
                self.changed.notify_all()
                # Anew: whoever plans may still hold the batch, and with it a traceback of the caller's frames.
                error = None if batch.error is None else batch.error.anew()
        if error is None:
            assert batch is not None
            return batch
        batch = None
        try:
            raise error
        finally:
            del error  # breaks the cycle of error and frame, which would keep the batch's memory and the loader

    def is_put(self, number: int) -> bool:
        """Whether a batch was given to the device. Call with the lock held."""
        return self._finishing is not None and number < self._put

    def _is_settled(self, number: int) -> bool:
        """Whether a batch is complete, or never will be. Call with the lock held."""
        never = self._failure is not None and number >= self._planned_to
        return never or (number in self.batches and not self.batches[number].waiting)

    def add(self, batch: Batch) -> None:
        """A batch that is being planned. Call with the lock held."""
        self.batches[batch.number] = batch
        self.give_buffers()

    def planned(self, batch: Batch) -> None:
        """All its units were sent."""
        with self.changed:
            self.batches[batch.number] = batch  # it has an error, if it was not added
            self._planned_to = batch.number + 1 if self._failure is None else 0
            self.count_down(batch)

    def count_down(self, batch: Batch) -> None:
        """One of those that a batch waits for is done. Call with the lock held."""
        batch.waiting -= 1
        if self._finishing is not None:
            self._put_in_order(self._finishing)
        self.changed.notify_all()

    def _put_in_order(self, finishing: FinishingThread) -> None:
        """One after the other: a batch shows what crossed with earlier ones. Call with the lock held."""
        while (batch := self.batches.get(self._put)) is not None and batch.waiting <= (batch.staged is not None):
            self._put += 1
            if batch.staged is not None:
                finishing.put(batch)

    def finished(self, batch: Batch) -> None:
        """It was made on the device."""
        with self.changed:
            batch.waiting -= 1
            self.changed.notify_all()

    def fail(self, error: BaseException, *, is_over: bool) -> None:
        """Nothing is planned any more; ``is_over``: nor is what was planned made."""
        with self.changed:
            self._failure = error if self._failure is None or not is_over else self._failure
            if is_over:
                self._planned_to = 0
            self.changed.notify_all()

    def tell(self, worker: DecodeWorker, batch: Batch) -> None:
        """Where a batch that has a buffer is made."""
        assert batch.place is not None
        worker.go(batch.number, self._pool.chunks[batch.place.chunk], batch.place.offset)

    def give_buffers(self) -> None:
        """To the batches whose turn it is. Call with the lock held."""
        for number in range(self.taken, self.taken + AHEAD):
            batch = self.batches.get(number)
            if batch is not None and not self.stopped:
                batch.give_buffer(self._pool)
