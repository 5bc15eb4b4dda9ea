"""Batches in device memory: planes go there once, and one kernel launch per kind of picture writes every slot."""

import contextlib
import logging
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gpuload.device.kept import SLAB_BYTES, KeptPlanes, Staying
from gpuload.device.stream import DeviceStream
from gpuload.device.triton import DepthTables, convert_pictures
from gpuload.errors import DecodeError, DeviceError, GpuloadError
from gpuload.picture import DevicePicture, PictureForm
from gpuload.pipeline.batch import Batch, Layout
from gpuload.pipeline.launches import Pictures, launches_of
from gpuload.pipeline.work import join
from gpuload.transform import SlotForm

logger = logging.getLogger(__name__)

PATIENCE_S = 20.0
"""For a batch that is being made when an epoch is left: a device that hangs must not hang ``close``."""
SLABS = 8
"""Into so many the room of pictures that wait is parted, at least."""
SMALL_BYTES = 64 << 10
"""The driver copies as little as this out of pageable memory at once; for more it would wait for all earlier work."""


@dataclass(slots=True, eq=False)
class _Copying:
    """What copies of a batch read."""

    memory: list[object]
    is_recorded: bool = False
    end: Any = None
    """Event; None where all is done when a call returns."""

    def is_done(self) -> bool:
        return self.is_recorded and (self.end is None or self.end.query())


class Finisher:
    """Copies, converts and places one batch after the other: planes are copied on one stream, so that those of the next
    batch cross while this one is converted on another. Not thread-safe."""

    def __init__(self, device: torch.device, forms: Sequence[SlotForm], layout: Layout, *, kept_bytes: int) -> None:
        """``kept_bytes``: what the plan lets pictures take that wait in device memory."""
        self.device = device
        self._forms = tuple(forms)
        self._layout = layout
        self._stream, self._copies = DeviceStream(device), DeviceStream(device)
        self._depth = DepthTables(device)
        self.kept = KeptPlanes(device, min(SLAB_BYTES, kept_bytes // SLABS))
        """Pictures that have crossed and are shown by later batches."""
        self._copying: deque[_Copying] = deque()

    def finish(self, batch: Batch) -> None:
        """Sets ``memory`` with every slot written at its place, ``columns`` on the device, and ``ready``. Of a batch
        that has an error, keeps what later batches show. Batches come in order.

        Raises:
            DecodeError: a picture is not of the size that its file's header says. DeviceError: the device failed. Any
            GpuloadError: why a picture that was to cross with an earlier batch was lost.
        """
        copying = _Copying([])
        self._copying.append(copying)  # whatever happens: host memory must not be used again before it was copied
        try:
            with self._stream.active():
                try:
                    pictures = self._cross(batch, copying.memory)
                    if batch.error is None:
                        memory = self._make(batch, pictures, copying.memory)
                        columns = {key: self._sent(value, copying.memory) for key, value in batch.columns.items()}
                finally:
                    self.kept.end(batch.number)
                    copying.end, copying.is_recorded = self._stream.record(), True
                while self._copying and self._copying[0].is_done():
                    self._copying.popleft()
        except GpuloadError as error:
            self._lose(batch, error)
            raise
        except (RuntimeError, subprocess.CalledProcessError) as error:
            self._lose(batch, self._told(error, batch))
            raise self._told(error, batch) from error
        if batch.error is None:
            batch.memory, batch.columns, batch.ready = memory, columns, copying.end

    def close(self) -> None:
        """Waits until nothing is copied from host memory any more."""
        with contextlib.suppress(torch.AcceleratorError):  # a device that is gone copies nothing
            self._copies.synchronize()
            self._stream.synchronize()
        self._copying.clear()

    def _lose(self, batch: Batch, error: GpuloadError) -> None:
        """Later batches, too, hear why pictures of this one did not get as far as to be kept."""
        assert batch.staged is not None
        for one in batch.staged.staying:
            if one.name not in self.kept:
                self.kept.lose(batch.number, one, error.anew())

    def _told(self, error: Exception, batch: Batch) -> DeviceError:
        """What users read of an error that is none of ours."""
        if isinstance(error, torch.OutOfMemoryError):
            return DeviceError(
                f"{self.device} is out of memory while batch {batch.number} is made ({str(error).splitlines()[0]}); "
                "lower device_cache_bytes, the batch size or the transform's size"
            )
        if isinstance(error, subprocess.CalledProcessError):
            return DeviceError(
                f"Triton could not build its launcher: {error}; it needs a C compiler (CC) and Python's headers"
            )
        # torch's AcceleratorError, and Triton's own
        return DeviceError(f"{self.device} failed while batch {batch.number} is made: {error}")

    def _sent(self, value: Any, memory: list[object]) -> Any:
        """A column on the device; what its copy reads goes to ``memory``."""
        if not isinstance(value, torch.Tensor):
            return value
        if self.device.type == "cuda" and value.nbytes > SMALL_BYTES:
            value = value.pin_memory()
        memory.append(value)
        return value.to(self.device, non_blocking=True)

    def _cross(self, batch: Batch, memory: list[object]) -> Pictures:
        """The pictures of a batch that workers found, on the device. Those that later batches show are kept, or lost;
        what copies read goes to ``memory``."""
        staged = batch.staged
        assert staged is not None
        pictures: Pictures = {}
        if any(isinstance(found, PictureForm) for found in staged.found.values()):
            assert batch.buffer is not None
            host = torch.from_numpy(batch.buffer[: staged.num_bytes])
            memory.append(host)
            planes = self._copied(host)
            memory.append(planes)
        for name, found in staged.found.items():
            if isinstance(found, PictureForm):
                pictures[name] = found, planes.data_ptr() + staged.offset[name]
            elif isinstance(found, DevicePicture):
                pictures[name] = found.form, found
        staying: list[tuple[Staying, PictureForm]] = []
        for one in staged.staying:
            became = staged.found.get(one.name) or batch.error  # no answer: its worker died
            if isinstance(became, PictureForm):
                staying.append((one, became))
            elif isinstance(became, GpuloadError):
                self.kept.lose(batch.number, one, became)
        if staying:
            self.kept.put(batch.number, planes, staying)
        return pictures

    def _make(self, batch: Batch, pictures: Pictures, memory: list[object]) -> torch.Tensor:
        """Slots, all written. What copies and kernels read goes to ``memory``."""
        staged = batch.staged
        assert staged is not None
        for name in np.unique(staged.picture[staged.picture >= 0]).tolist():
            if name not in pictures:
                pictures[name] = self.kept.find(name)
        slots = torch.empty(self._layout.num_bytes, dtype=torch.uint8, device=self.device)
        places = self._layout.places(len(batch.samples))
        launches = launches_of(staged, pictures, self._forms, self._layout, places, slots.data_ptr())
        if not launches:
            return slots
        decoded_here = [found for found in staged.found.values() if isinstance(found, DevicePicture)]
        for event in {id(picture.ready): picture.ready for picture in decoded_here}.values():
            self._stream.wait(event)
        table_host = torch.from_numpy(np.concatenate([launch.table for launch in launches]))
        if self.device.type == "cuda":
            table_host = table_host.pin_memory()
        memory += [table_host, decoded_here]
        table = table_host.to(self.device, non_blocking=True)
        begin = 0
        for launch in launches:
            end = begin + len(launch.table)
            try:
                convert_pictures(table[begin:end], launch.form, launch.slot, self._depth)
            except DecodeError as error:
                raise DecodeError(f"batch {batch.number}, {launch.slot.key}: {error}") from error
            begin = end
        for picture in decoded_here:
            self._stream.reads(picture)
        return slots

    def _copied(self, host: torch.Tensor) -> torch.Tensor:
        """Planes on the device, for whom the stream that converts waits."""
        if self.device.type == "cpu":
            return host
        with self._copies.active():
            planes = host.to(self.device, non_blocking=True)
        self._stream.wait(self._copies.record())
        self._stream.keeps(planes)
        return planes


class FinishingThread:
    """Finishes batches in a thread of its own, so that neither the feeder nor what receives results waits for a GPU.

    ``on_finished(batch, error)`` is called there for each, with what went wrong and was not foreseen.
    """

    def __init__(self, finisher: Finisher, on_finished: Callable[[Batch, BaseException | None], None]) -> None:
        self._finisher, self._on_finished = finisher, on_finished
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        """Of this epoch: one that was left may have something in its own that nobody takes."""
        self._thread: threading.Thread | None = None
        self._wanted = True
        self._late: threading.Thread | None = None
        """Had not ended when an epoch was left: a device that hangs, or a kernel that is being compiled."""

    @property
    def kept_bytes(self) -> int:
        """Device memory of pictures that have crossed and are shown by later batches."""
        return self._finisher.kept.num_bytes

    def start(self) -> None:
        """Begins to serve.

        Raises:
            DeviceError: the batch that was being made when the last epoch was left is not done yet.
        """
        if self._is_late():
            raise DeviceError("the device has not finished a batch of the last epoch yet; try again, or start anew")
        self._wanted, self._queue = True, queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, args=(self._queue,), name="gpuload-finish", daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """All its workers are done with it, with or without an error; batches come in order."""
        self._queue.put(batch)

    def end(self) -> None:
        """Nobody waits for what was put: the batch under way is the last one. Idempotent."""
        self._wanted = False
        if self._thread is not None:
            self._queue.put(None)
            join(self._thread, PATIENCE_S)
            if self._thread.is_alive():
                self._late = self._thread
                logger.warning("the device has not finished a batch for %.0f s; it is left alone", PATIENCE_S)
            self._thread = None

    def close(self) -> bool:
        """Ends it and lets go of host memory; False: the device may still read it, and never says when it has."""
        self.end()
        if self._is_late():
            return False
        self._finisher.close()
        return True

    def _is_late(self) -> bool:
        return self._late is not None and self._late.is_alive()

    def _serve(self, batches: "queue.SimpleQueue[Batch | None]") -> None:
        while (batch := batches.get()) is not None:
            unforeseen: BaseException | None = None
            try:
                if self._wanted:
                    self._finisher.finish(batch)
            except GpuloadError as error:
                batch.error = batch.error or error.anew()
            except BaseException as error:  # noqa: BLE001 - it crosses a thread: next() raises it
                unforeseen = error
            batch.buffer = batch.staged = None
            self._on_finished(batch, unforeseen)
            batch = None  # while it waits for the next one, this one is the caller's alone
        self._finisher.kept.clear()
