"""Decoding in device memory: threads that feed NVDEC, whose pictures never come back to the host.

A thread and not a process: there is one CUDA context per process. A decoder that is called once a packet, as that of
torchcodec is here, takes the GIL as often.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import torch

from gpuload.decode.base import Decoder, Run, Stream
from gpuload.decode.picture import current_event, first_line
from gpuload.device.arena import Chunk
from gpuload.device.planes import form_of, lines_of, staged_format
from gpuload.device.stream import DeviceStream
from gpuload.errors import DecodeError, DeviceError, GpuloadError
from gpuload.picture import DevicePicture
from gpuload.pipeline.share import Sharing
from gpuload.pipeline.work import STAGED, DecodeWorker, Done, Go, PendingUnit, Unit, join
from gpuload.pipeline.worker import FillAt, Worker

logger = logging.getLogger(__name__)

PATIENCE_S = 20.0
"""Time that one run may take to end when a loader is closed: a driver that hangs must not hang the training too."""


@dataclass(frozen=True, slots=True)
class KeptOnDevice:
    """A picture in device memory that later batches need."""

    picture: DevicePicture
    num_bytes: int


class DeviceWorker(Worker):
    """Decodes on a device; what is found are the pictures themselves. Not thread-safe."""

    def __init__(
        self,
        decoder: Decoder,
        device: torch.device,
        sharing: Sharing,
        is_wanted: Callable[[], bool],
    ) -> None:
        super().__init__(decoder)
        self._device, self._sharing, self._is_wanted = device, sharing, is_wanted

    def is_wanted(self) -> bool:
        return self._is_wanted()

    def decoded(self, stream: Stream, run: Run, done: Done) -> Iterator[tuple[int, DevicePicture | av.VideoFrame]]:
        if self._sharing.is_to_verify(stream):
            done.is_measured = False
            try:
                pictures = dict(self._decoder.decode(stream, run))
                if self._decoder.fell_back:
                    self._sharing.give_up(stream)  # another run may tell
                else:
                    with trouble_told(self._device):
                        self._sharing.verify(stream, run, pictures)
            except DecodeError:
                self._sharing.give_up(stream)  # told below, picture by picture
            except BaseException:  # else no lane would ever verify it
                self._sharing.give_up(stream)
                raise
        yield from self._decoder.decode(stream, run)
        if self._decoder.fell_back:
            done.is_measured = False
            done.frames_fallen_back += len(run.packets)

    def keep(self, frame: DevicePicture | av.VideoFrame, stream: Stream, field: int) -> KeptOnDevice:
        if isinstance(frame, av.VideoFrame):
            with trouble_told(self._device):
                frame = host_picture(frame, stream, self._device)
        return KeptOnDevice(frame, frame.num_bytes)

    def fill(self, picture: int, kept: KeptOnDevice, places: list[FillAt], chunk: int, done: Done) -> None:
        assert all(field == STAGED for field, _, _ in places)
        done.found.append((picture, kept.picture))


class DeviceLane:
    """One decoder in a thread of its own. Calls ``on_done(lane, result)``, ``on_death(lane, reason)`` and ``room()``:
    it decodes ahead up to so many bytes of pictures."""

    def __init__(
        self,
        make: Callable[[], Decoder],
        device: torch.device,
        *,
        backend: str,
        sharing: Sharing,
        room: Callable[[], int],
        on_done: Callable[[DecodeWorker, Done], None],
        on_death: Callable[[DecodeWorker, str], None],
    ) -> None:
        self.backend, self.on_device, self.needs_pts = backend, True, True
        self.streams: set[int] = set()
        self.alive, self.epitaph = True, "the decode thread had been ended"
        self.fault: GpuloadError | None = None
        self.load = 0.0
        self.pending: list[PendingUnit] = []
        self._make, self._device, self._sharing, self._room = make, device, sharing, room
        self._on_done, self._on_death = on_done, on_death
        self._inbox: queue.SimpleQueue[Unit | Go | type[StopIteration] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"gpuload-{backend}", daemon=True)
        self._thread.start()

    def submit(self, unit: Unit) -> None:
        """Gives a unit, which waits for its batch's turn."""
        self._inbox.put(unit)

    def go(self, batch: int, chunk: Chunk, offset: int) -> None:
        """Starts the units of a batch. Its buffer is for other workers: pictures stay where they are decoded."""
        self._inbox.put(Go(batch, chunk.number, offset))

    def forget(self) -> None:
        """Drops kept pictures and what waits."""
        self.streams.clear()
        self._inbox.put(None)

    def end(self) -> None:
        """Asks the thread to end after the run that it decodes."""
        self.alive = False
        self._inbox.put(StopIteration)

    def close(self, *, spent_s: float = 0.0) -> None:
        """Ends the thread, after the run that it decodes. Idempotent."""
        self.end()
        join(self._thread, max(PATIENCE_S - spent_s, 0.0))
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            logger.warning("decoding on %s does not come back; its thread is left behind", self._device)

    def _serve(self) -> None:
        try:
            stream = DeviceStream(self._device)
            with stream.active():
                try:
                    decoder = self._make()
                except GpuloadError as error:
                    self.fault = error
                    raise
                try:
                    self._work(DeviceWorker(decoder, self._device, self._sharing, lambda: self.alive))
                finally:
                    decoder.close()
        except Exception as error:  # noqa: BLE001 - a library or a driver gave up: every batch that waits must know
            self.epitaph = f"decoding on {self._device} ended ({type(error).__name__}: {error})"
            self.alive = False
            self._on_death(self, self.epitaph)

    def _work(self, worker: DeviceWorker) -> None:
        while self.alive:
            if self._inbox.empty():
                worker.most_kept_bytes = self._room()
                if worker.decode_ahead():
                    continue
            message = self._inbox.get()
            if message is StopIteration:
                break
            if isinstance(message, Unit):
                worker.take(message)
            elif isinstance(message, Go):
                for done in worker.go(message):
                    self._on_done(self, done)
            else:
                worker.forget()
        worker.forget()  # it may be in the middle of a run, and its decoder is closed now


@contextmanager
def trouble_told(device: torch.device) -> Iterator[None]:
    """What torch raises of a device becomes ours, which costs the pictures that it is about and not the thread.

    Raises:
        DeviceError: instead of a RuntimeError, as which torch tells that memory ran out, or the context is lost.
    """
    try:
        yield
    except RuntimeError as error:
        raise DeviceError(
            f"{device} failed with a decoded picture ({first_line(error)}); where memory ran out, lower "
            "device_cache_bytes, or let fewer processes use the GPU"
        ) from error


def host_picture(frame: av.VideoFrame, stream: Stream, device: torch.device) -> DevicePicture:
    """A picture of a decoder on the CPU as planes: on the device ``cpu`` they share its memory.

    Raises:
        DecodeError: the kernels do not read its format.
    """
    name = frame.format.name
    if staged_format(name) != name:
        raise DecodeError(f"{stream.path}: no kernel reads pictures of {name}; use backend='pyav'")
    form = form_of(frame, pixel_format=name, rotation=stream.rotation, chroma_location=stream.chroma_location)
    planes = tuple(torch.from_numpy(lines) for lines in lines_of(frame))
    if device.type == "cpu":
        return DevicePicture(form, planes, owner=frame, ready=None)
    planes = tuple(plane.to(device) for plane in planes)
    return DevicePicture(form, planes, owner=None, ready=current_event(str(device)))
