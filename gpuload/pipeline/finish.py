"""Batches in device memory: planes go there once, and one kernel launch per kind of picture writes every slot."""

import contextlib
import logging
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gpuload.device.kept import KeptPlanes, Staying
from gpuload.device.planes import plane_begins, plane_shapes
from gpuload.device.stream import DeviceStream
from gpuload.device.triton import DepthTables, convert_pictures
from gpuload.errors import DecodeError, DeviceError, GpuloadError
from gpuload.picture import DevicePicture, PictureForm
from gpuload.pipeline.batch import Batch, Layout, Staged
from gpuload.pipeline.work import join
from gpuload.transform import SlotForm

logger = logging.getLogger(__name__)

Pictures = dict[int, tuple[PictureForm, int | DevicePicture]]
"""By name: form, and address of planes without gaps, or the picture."""
COLUMNS = 10
"""Of a kernel's table: addresses of three planes, their strides, address of the slot, crop top and left, flip."""


PATIENCE_S = 20.0
"""For a batch that is being made when an epoch is left: a device that hangs must not hang ``close``."""
LOST = "a picture was to be decoded for an earlier batch, which failed"
SMALL_BYTES = 64 << 10
"""The driver copies as little as this out of pageable memory at once; for more it would wait for all earlier work."""


class Finisher:
    """Copies, converts and places one batch after the other: planes are copied on one stream, so that those of the next
    batch cross while this one is converted on another. Not thread-safe."""

    def __init__(self, device: torch.device, forms: Sequence[SlotForm], layout: Layout) -> None:
        self.device = device
        self._forms = tuple(forms)
        self._layout = layout
        self._stream, self._copies = DeviceStream(device), DeviceStream(device)
        self._depth = DepthTables(device)
        self._kept, self._lost = KeptPlanes(device), dict[int, GpuloadError]()
        self._copying: deque[tuple[Any, object]] = deque()

    @property
    def kept_bytes(self) -> int:
        """Device memory of pictures that have crossed and are shown by later batches."""
        return self._kept.num_bytes

    def finish(self, batch: Batch) -> None:
        """Sets ``memory`` with every slot written at its place, ``columns`` on the device, and ``ready``. Of a batch
        that has an error, keeps what later batches show. Batches come in order.

        Raises:
            DecodeError: a picture is not of the size that its file's header says. DeviceError: the device failed. Any
            GpuloadError: why a picture that was to cross with an earlier batch was lost.
        """
        try:
            with self._stream.active():
                keep: list[object] = []
                pictures = self._cross(batch, keep)
                if batch.error is None:
                    memory = torch.empty(self._layout.num_bytes, dtype=torch.uint8, device=self.device)
                    self._fill(batch, pictures, memory, keep)
                    columns = {key: self._sent(value, keep) for key, value in batch.columns.items()}
                self._kept.end(batch.number)
                event = self._stream.record()
                self._copying.append((event, keep))  # host memory must not be used again before it has been copied
                while self._copying and (self._copying[0][0] is None or self._copying[0][0].query()):
                    self._copying.popleft()
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.device} is out of memory while batch {batch.number} is made ({str(error).splitlines()[0]}); "
                "lower device_cache_bytes, the batch size or the transform's size"
            ) from error
        except RuntimeError as error:  # torch's AcceleratorError, and Triton's own
            raise DeviceError(f"{self.device} failed while batch {batch.number} is made: {error}") from error
        except subprocess.CalledProcessError as error:
            raise DeviceError(
                f"Triton could not build its launcher: {error}; it needs a C compiler (CC) and Python's headers"
            ) from error
        if batch.error is None:
            batch.memory, batch.columns, batch.ready = memory, columns, event

    def forget(self) -> None:
        """Drops the pictures that were kept: the epoch is over."""
        self._kept.clear()
        self._lost.clear()

    def _sent(self, value: Any, keep: list[object]) -> Any:
        """A column on the device; what its copy reads goes to ``keep``."""
        if not isinstance(value, torch.Tensor):
            return value
        if self.device.type == "cuda" and value.nbytes > SMALL_BYTES:
            value = value.pin_memory()
        keep.append(value)
        return value.to(self.device, non_blocking=True)

    def close(self) -> None:
        """Waits until nothing is copied from host memory any more."""
        with contextlib.suppress(torch.AcceleratorError):  # a device that is gone copies nothing
            self._copies.synchronize()
            self._stream.synchronize()
        self._copying.clear()

    def _cross(self, batch: Batch, keep: list[object]) -> Pictures:
        """The pictures of the batch on the device, those that it needs and that are lost left out. Those that later
        batches show are kept; what must stay alive until copies have ended goes to ``keep``."""
        staged = batch.staged
        assert staged is not None
        pictures: Pictures = {}
        crossed = [name for name in staged.offset if isinstance(staged.found.get(name), PictureForm)]
        if crossed:
            assert batch.buffer is not None
            host = torch.from_numpy(batch.buffer[: staged.num_bytes])
            planes = self._copied(host)
            keep += [host, planes]
        staying: list[tuple[Staying, PictureForm]] = []
        for one in staged.staying:
            found = staged.found.get(one.name)
            if isinstance(found, PictureForm):
                staying.append((one, found))
            else:
                self._lost[one.name] = found if isinstance(found, GpuloadError) else batch.error or DecodeError(LOST)
        if staying:
            self._kept.put(batch.number, planes, staying)
        for name, found in staged.found.items():
            if isinstance(found, PictureForm):
                pictures[name] = found, planes.data_ptr() + staged.offset[name]
            elif isinstance(found, DevicePicture):
                pictures[name] = found.form, found
        return pictures

    def _fill(self, batch: Batch, pictures: Pictures, memory: torch.Tensor, keep: list[object]) -> None:
        """Writes the slots. What must stay alive until that has ended goes to ``keep``."""
        staged, places = batch.staged, self._layout.places(len(batch.samples))
        assert staged is not None
        for name in np.unique(staged.picture[staged.picture >= 0]).tolist():
            if name not in pictures:
                kept = self._kept.find(name)
                if kept is None:
                    raise self._lost.get(name, DecodeError(LOST)).anew()
                pictures[name] = kept
        launches = self._group(staged, pictures)
        rows = [self._rows(staged, where, form, pictures, places, memory.data_ptr()) for form, _, where in launches]
        if not rows:
            return
        table_host = torch.from_numpy(np.concatenate(rows))
        if self.device.type == "cuda":
            table_host = table_host.pin_memory()
        table = table_host.to(self.device, non_blocking=True)
        begin = 0
        for (form, slot, _), part in zip(launches, rows, strict=True):
            try:
                convert_pictures(table[begin : begin + len(part)], form, slot, self._depth)
            except DecodeError as error:
                raise DecodeError(f"batch {batch.number}, {slot.key}: {error}") from error
            begin += len(part)
        for picture in staged.found.values():
            if isinstance(picture, DevicePicture):
                self._stream.reads(picture)
        keep += [table_host, staged.found]

    def _copied(self, host: torch.Tensor) -> torch.Tensor:
        """Planes on the device, for whom the stream that converts waits."""
        if self.device.type == "cpu":
            return host
        with self._copies.active():
            planes = host.to(self.device, non_blocking=True)
        self._stream.wait(self._copies.record())
        self._stream.keeps(planes)
        return planes

    def _group(self, staged: Staged, pictures: Pictures) -> list[tuple[PictureForm, SlotForm, tuple[Any, ...]]]:
        """Slots that one launch can write: (form, slot form, their indices)."""
        kinds: dict[PictureForm, int] = {}
        form_of = {name: kinds.setdefault(form, len(kinds)) for name, (form, _) in pictures.items()}
        present = staged.picture >= 0
        number = np.full(staged.picture.shape, -1, np.int64)
        number[present] = [form_of[name] for name in staged.picture[present].tolist()]
        launches = []
        for form, kind in kinds.items():
            for index, slot in enumerate(self._forms):
                where = np.nonzero((number == kind) & (self._layout.field_of_column == index))
                if len(where[0]):
                    try:
                        slot.check_size(form.width, form.height, form.rotation)
                    except DecodeError as error:
                        raise DecodeError(f"{slot.key}: {error} (`gpuload check --deep` finds the file)") from error
                    launches.append((form, slot, where))
        return launches

    def _rows(
        self,
        staged: Staged,
        where: tuple[Any, ...],
        form: PictureForm,
        pictures: Pictures,
        places: npt.NDArray[np.int64],
        slots_at: int,
    ) -> npt.NDArray[np.int64]:
        """The table of one launch: int64 ``[N, 10]``."""
        names = staged.picture[where].tolist()
        rows = np.zeros((len(names), COLUMNS), np.int64)
        size = form.pixel_format, form.width, form.height
        address = np.zeros(len(names), np.int64)
        for row, name in enumerate(names):
            _, picture = pictures[name]
            if isinstance(picture, int):
                address[row] = picture
        for plane, (begin, (_, line_bytes)) in enumerate(zip(plane_begins(*size), plane_shapes(*size), strict=False)):
            rows[:, plane] = address + begin
            rows[:, 3 + plane] = line_bytes
        for row, name in enumerate(names):
            _, picture = pictures[name]
            if isinstance(picture, DevicePicture):
                self._stream.wait(picture.ready)
                for plane, tensor in enumerate(picture.planes):
                    rows[row, plane] = tensor.data_ptr()
                    rows[row, 3 + plane] = tensor.stride(0) * tensor.element_size()
        rows[:, 6] = slots_at + places[where]
        view = staged.view[where]
        rows[:, 7], rows[:, 8], rows[:, 9] = view >> 33, view >> 1 & 0xFFFFFFFF, view & 1  # as unpack_view
        return rows


class FinishingThread:
    """Finishes batches in a thread of its own, so that neither the feeder nor what receives results waits for a GPU.

    ``on_finished(batch, error)`` is called there for each, with what went wrong and was not foreseen.
    """

    def __init__(self, finisher: Finisher, on_finished: Callable[[Batch, BaseException | None], None]) -> None:
        self._finisher, self._on_finished = finisher, on_finished
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._wanted = True
        self._late: threading.Thread | None = None
        """Had not ended when an epoch was left: a device that hangs, or a kernel that is being compiled."""

    @property
    def kept_bytes(self) -> int:
        """Device memory of pictures that have crossed and are shown by later batches."""
        return self._finisher.kept_bytes

    def start(self) -> None:
        """Begins to serve.

        Raises:
            DeviceError: the batch that was being made when the last epoch was left is not done yet.
        """
        if self._is_late():
            raise DeviceError("the device has not finished a batch of the last epoch yet; try again, or start anew")
        self._wanted = True
        self._thread = threading.Thread(target=self._serve, name="gpuload-finish", daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """All its pictures have been found, or it has an error."""
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

    def _serve(self) -> None:
        while (batch := self._queue.get()) is not None:
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
        self._finisher.forget()
