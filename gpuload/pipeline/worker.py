"""A decode worker: decodes each run once, keeps pictures until their last use, hands them to whoever fills slots."""

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from itertools import chain
from typing import Any

from gpuload.decode.base import Decoder, Run, Stream
from gpuload.errors import DecodeError, GpuloadError
from gpuload.pipeline.share import depth_of
from gpuload.pipeline.work import STAGED, DecodeTask, Done, Go, Unit

FillAt = tuple[int, int, int]
"""(field, byte offset in the chunk, view)."""


class Worker(ABC):
    """Decodes each run once and keeps pictures until their last use. Not thread-safe."""

    def __init__(self, decoder: Decoder, *, most_kept_bytes: int = 0) -> None:
        self._decoder = decoder
        self.most_kept_bytes = most_kept_bytes
        """Where ``decode_ahead`` stops: a plan does not count what it keeps."""
        self._streams: dict[int, Stream] = {}
        self._kept: dict[int, Any] = {}
        self._kept_bytes = 0
        self._uses: dict[int, int] = {}
        self._failed: dict[int, GpuloadError] = {}
        self._queued: dict[int, list[Unit]] = {}
        """Units that wait for their batch's ``Go``."""
        self._prepared: dict[int, tuple[Done, int]] = {}
        """``id(unit)`` of units without a buffer -> result so far, and how many of their tasks were begun."""
        self._begun: tuple[Done, Generator[None, None, None]] | None = None
        """The run that is being prepared: the result of its unit, and the generator of its pictures."""

    def forget(self) -> None:
        """Drops all kept pictures: the epoch was left."""
        self._drop_begun()
        self._kept.clear()
        self._kept_bytes = 0
        self._uses.clear()
        self._failed.clear()
        self._streams.clear()  # they are sent again
        self._prepared.clear()
        self._queued.clear()

    def take(self, unit: Unit) -> None:
        """A unit that waits for its ``Go``."""
        self._queued.setdefault(unit.batch, []).append(unit)

    def go(self, go: Go) -> Iterator[Done]:
        """Does what was taken for a batch."""
        for unit in self._queued.pop(go.batch, []):
            if self.is_wanted():
                yield self.run(unit, go)

    def decode_ahead(self) -> bool:
        """Decodes one more picture for batches that have no buffer yet, when there is nothing else to do: a batch of
        long runs would otherwise wait for one worker alone. False: there is none, or no room for it."""
        if self._begun is None or self._kept_bytes >= self.most_kept_bytes:
            return any(map(self.prepare, chain.from_iterable(self._queued.values())))
        self._go_on()
        return True

    def run(self, unit: Unit, go: Go) -> Done:
        """Decodes and fills; errors are collected, never raised for a damaged picture."""
        done, prepared = self._prepared.pop(id(unit), (Done(unit.batch), 0))
        # What other batches' runs are made ready for can wait while this one's pictures are there.
        if self._begun is not None and (prepared < len(unit.tasks) or self._begun[0] is done):
            self._finish_begun()
        begin = time.perf_counter()
        self._streams.update(unit.streams)
        waiting: dict[int, list[FillAt]] = {}
        for picture, field, offset, view in unit.fills:
            waiting.setdefault(picture, []).append((field, go.offset + offset, view))
        for task in unit.tasks[prepared:]:
            if not self.is_wanted():
                return done
            for _ in self._decode(task, go.chunk, waiting, done):
                if not self.is_wanted():
                    return done
        for picture, places in waiting.items():
            kept = self._kept.get(picture)
            if kept is None:
                lost = DecodeError(f"batch {unit.batch} needs a picture decoded for an earlier batch, which failed")
                error = self._failed.get(picture, lost)
                if places[0][0] == STAGED:
                    done.lose(picture, error)
                else:
                    done.errors.append(error)
            else:
                self._use(picture, kept, places, go.chunk, done)
        done.kept_bytes = self._kept_bytes
        done.busy_s += time.perf_counter() - begin
        return done

    def prepare(self, unit: Unit) -> bool:
        """Begins the next run of a unit whose batch has no buffer yet; False: there is none left, or no room for its
        pictures. The unit must be the very object that ``run`` is given later.

        The run is left after each picture, so that batches that are due do not wait for the end of a long one.
        """
        done, prepared = self._prepared.get(id(unit), (Done(unit.batch), 0))
        if prepared == len(unit.tasks) or self._kept_bytes >= self.most_kept_bytes:
            return False
        self._finish_begun()
        self._streams.update(unit.streams)
        self._prepared[id(unit)] = done, prepared + 1
        self._begun = done, self._decode(unit.tasks[prepared], 0, {}, done)
        self._go_on()
        return True

    def _go_on(self) -> None:
        """One more picture of the run that is being prepared."""
        assert self._begun is not None
        begin = time.perf_counter()
        done, pictures = self._begun
        try:
            next(pictures)
        except StopIteration:
            self._begun = None
        finally:
            done.busy_s += time.perf_counter() - begin

    def _finish_begun(self) -> None:
        while self._begun is not None:
            if not self.is_wanted():
                self._drop_begun()
                return
            self._go_on()

    def _drop_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun[1].close()

    def is_wanted(self) -> bool:
        """Whether to go on: asked before each unit and after each picture."""
        return True

    def decoded(self, stream: Stream, run: Run, done: Done) -> Iterator[tuple[int, Any]]:
        """The wanted pictures of a run; ``done``: what is said of its unit."""
        return self._decoder.decode(stream, run)

    @abstractmethod
    def keep(self, frame: Any, stream: Stream, field: int) -> Any:
        """What is kept of a decoded picture for ``DecodeTask.field``; has ``num_bytes``."""

    @abstractmethod
    def fill(self, picture: int, kept: Any, places: list[FillAt], chunk: int, done: Done) -> None:
        """Fills slots of one batch with a picture; what goes wrong is told to ``done``."""

    def _decode(
        self, task: DecodeTask, chunk: int, waiting: dict[int, list[FillAt]], done: Done
    ) -> Generator[None, None, None]:
        """Stops after each picture that is kept."""
        stream = self._streams[task.stream]
        names = dict(zip(task.packets, task.pictures, strict=True))
        self._uses.update(zip(task.pictures, task.uses, strict=True))
        view = memoryview(task.data)
        packets = [view[b : b + n] for b, n in zip(task.begins, task.sizes, strict=True)]
        done.frames_decoded += len(packets)
        depth, pixels = depth_of(stream.codec, stream.pixel_format), len(packets) * stream.width * stream.height
        done.pixels_decoded[depth] = done.pixels_decoded.get(depth, 0) + pixels
        run = Run(task.first, packets, task.entries, frozenset(task.packets), task.pts, task.leading)
        try:
            for number, frame in self.decoded(stream, run, done):
                picture = names[number]
                kept = self._kept[picture] = self.keep(frame, stream, task.field)
                del names[number]  # not before: what cannot be kept has failed too
                self._kept_bytes += kept.num_bytes
                places = waiting.pop(picture, None)
                if places:  # while the picture is warm in the processor's cache
                    self._use(picture, kept, places, chunk, done)
                yield
        except GpuloadError as error:  # damage, or a device that cannot: the pictures' batches say so, others go on
            failure = error.anew()
            for picture in names.values():
                self._failed[picture] = failure

    def _use(self, picture: int, kept: Any, places: list[FillAt], chunk: int, done: Done) -> None:
        self.fill(picture, kept, places, chunk, done)
        uses = self._uses[picture] - len(places)
        if uses > 0:
            self._uses[picture] = uses
        else:
            del self._uses[picture], self._kept[picture]
            self._kept_bytes -= kept.num_bytes
