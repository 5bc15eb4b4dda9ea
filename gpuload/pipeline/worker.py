"""A decode worker: decodes each run once, keeps pictures until their last use, writes them into batch slots.

It runs in a process of its own, because feeding packets takes the GIL once a packet: beside a busy Python thread of
the same process a decode thread falls to a tenth of its rate. The process imports neither torch nor the rest of
gpuload (42 MB instead of 600).
"""

import gc
import mmap
import pickle
import signal
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from gpuload.decode.base import Decoder, Run, Stream
from gpuload.decode.create import create
from gpuload.device.planes import PlaneWriter, staged_bytes
from gpuload.device.swscale import SwscaleConverter
from gpuload.errors import DecodeError, GpuloadError
from gpuload.pipeline.work import STAGED, DecodeTask, Done, Go, Unit
from gpuload.transform import DTYPES, SlotForm, is_reduced, pack_view

HEADER = struct.Struct("<Q")
FillAt = tuple[int, int, int]
"""(field, byte offset in the chunk, view)."""


class Worker(ABC):
    """Decodes each run once and keeps pictures until their last use. Not thread-safe."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._streams: dict[int, Stream] = {}
        self._kept: dict[int, Any] = {}
        self._kept_bytes = 0
        self._uses: dict[int, int] = {}
        self._failed: dict[int, GpuloadError] = {}

    def forget(self) -> None:
        """Drops all kept pictures: the epoch was left."""
        self._kept.clear()
        self._kept_bytes = 0
        self._uses.clear()
        self._failed.clear()

    def run(self, unit: Unit, go: Go) -> Done:
        """Decodes and fills; errors are collected, never raised for a damaged picture."""
        begin = time.perf_counter()
        done = Done(unit.batch)
        self._streams.update(unit.streams)
        waiting: dict[int, list[FillAt]] = {}
        for picture, field, offset, view in unit.fills:
            waiting.setdefault(picture, []).append((field, go.offset + offset, view))
        for task in unit.tasks:
            if not self.is_wanted():
                return done
            self._decode(task, go.chunk, waiting, done)
        for picture, places in waiting.items():
            kept = self._kept.get(picture)
            if kept is None:
                lost = DecodeError(f"batch {unit.batch}: a picture was never decoded, because its batch had failed")
                done.errors.append(self._failed.get(picture, lost))
            else:
                self._use(picture, kept, places, go.chunk, done)
        done.kept_bytes = self._kept_bytes
        done.busy_s = time.perf_counter() - begin
        return done

    def is_wanted(self) -> bool:
        """Whether to go on: asked before each run."""
        return True

    def decoded(self, stream: Stream, run: Run) -> Iterator[tuple[int, Any]]:
        """The wanted pictures of a run."""
        return self._decoder.decode(stream, run)

    @abstractmethod
    def keep(self, frame: Any, stream: Stream, field: int) -> Any:
        """What is kept of a decoded picture for ``DecodeTask.field``; has ``num_bytes``."""

    @abstractmethod
    def fill(self, picture: int, kept: Any, places: list[FillAt], chunk: int, done: Done) -> None:
        """Fills slots of one batch with a picture; an error goes to ``done.errors``."""

    def _decode(self, task: DecodeTask, chunk: int, waiting: dict[int, list[FillAt]], done: Done) -> None:
        stream = self._streams[task.stream]
        names = dict(zip(task.packets, task.pictures, strict=True))
        self._uses.update(zip(task.pictures, task.uses, strict=True))
        view = memoryview(task.data)
        packets = [view[b : b + n] for b, n in zip(task.begins, task.sizes, strict=True)]
        done.frames_decoded += len(packets)
        run = Run(task.first, packets, task.entries, frozenset(task.packets), task.pts, task.leading)
        try:
            for number, frame in self.decoded(stream, run):
                picture = names.pop(number)
                kept = self._kept[picture] = self.keep(frame, stream, task.field)
                self._kept_bytes += kept.num_bytes
                places = waiting.pop(picture, None)
                if places:  # while the picture is warm in the processor's cache
                    self._use(picture, kept, places, chunk, done)
        except GpuloadError as error:  # damage, or a device that cannot: the pictures' batches say so, others go on
            failure = type(error)(*error.args)  # without the frames of its traceback, which hold packets and pictures
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


@dataclass(frozen=True, slots=True)
class Kept:
    """A decoded picture that fills need: whole, or what all of them show of it."""

    frame: av.VideoFrame | None
    stream: Stream
    size: tuple[int, int]
    """Width and height as stored."""
    num_bytes: int
    """Of its planes, as the first picture of its file has them, or of what is shown."""
    write: Callable[[int], None] | None = None
    """Writes it as uint8 RGB planes at an address, where that can be done."""
    shown: npt.NDArray[np.uint8] | None = None
    """uint8 ``[3, height, width]``, not yet flipped; without ``frame``."""


class HostWorker(Worker):
    """Decodes on the CPU, into batch slots, or as planes on their way to a device."""

    def __init__(self, backend: str, forms: tuple[SlotForm, ...]) -> None:
        super().__init__(create(backend, "cpu"))
        self._forms = forms
        self._converter = SwscaleConverter()
        self._planes = PlaneWriter()
        self._chunks: dict[int, mmap.mmap] = {}
        self._addresses: dict[int, int] = {}
        self._bytes_of: dict[str, int] = {}

    def map(self, chunk: int, fd: int, num_bytes: int) -> None:
        """Makes a chunk of batch memory writable here."""
        self._chunks[chunk] = mmap.mmap(fd, num_bytes)
        self._addresses[chunk] = np.frombuffer(self._chunks[chunk], np.uint8).ctypes.data

    def keep(self, frame: av.VideoFrame, stream: Stream, field: int) -> Kept:
        num_bytes = self._bytes_of.get(stream.path)
        if num_bytes is None:
            num_bytes = self._bytes_of[stream.path] = sum(plane.buffer_size for plane in frame.planes)
        size = frame.width, frame.height
        if field != STAGED:
            form = self._forms[field]
            if form.corner is not None and is_reduced(form, num_bytes):
                try:
                    shown = self._converter.shape(frame, stream.rotation, form, pack_view(*form.corner)).copy()
                    return Kept(None, stream, size, shown.nbytes, shown=shown)
                except DecodeError:
                    pass  # its fills find out again, and tell their batches
        return Kept(frame, stream, size, num_bytes, self._converter.direct(frame, stream.rotation))

    def fill(self, picture: int, kept: Kept, places: list[FillAt], chunk: int, done: Done) -> None:
        first: tuple[tuple[int, int], npt.NDArray[Any]] | None = None
        for field, offset, view in places:
            if field == STAGED:  # every place is the same one
                self._stage(picture, kept, offset, chunk, done)
                return
            form = self._forms[field]
            if kept.write is not None and form.is_plain and kept.size == (form.width, form.height):
                kept.write(self._addresses[chunk] + offset)
                continue
            slot: npt.NDArray[Any] = np.ndarray(form.shape, DTYPES[form.dtype], self._chunks[chunk], offset)
            if first is not None and first[0] == (field, view):
                slot[...] = first[1]
                continue
            try:
                if kept.shown is not None:
                    self._converter.store(kept.shown, slot, form, view)
                else:
                    assert kept.frame is not None
                    self._converter.convert(kept.frame, slot, kept.stream.rotation, form, view)
            except DecodeError as error:
                done.errors.append(DecodeError(f"{kept.stream.path}: {form.key}: {error}"))
                break
            first = (field, view), slot

    def _stage(self, picture: int, kept: Kept, offset: int, chunk: int, done: Done) -> None:
        stream = kept.stream
        assert kept.frame is not None
        room = staged_bytes(stream.pixel_format, stream.width, stream.height)
        target: npt.NDArray[np.uint8] = np.frombuffer(self._chunks[chunk], np.uint8, room, offset)
        try:
            form = self._planes.write(
                kept.frame, target, rotation=stream.rotation, chroma_location=stream.chroma_location
            )
        except DecodeError as error:
            done.errors.append(DecodeError(f"{stream.path}: {error}"))
            return
        done.found.append((picture, form))


def send(connection: socket.socket, value: object) -> None:
    """One value, length first."""
    data = pickle.dumps(value, protocol=5)
    header = HEADER.pack(len(data))
    sent = connection.sendmsg([header, data])  # one call: each may have to wait for the GIL afterwards
    if sent < len(header) + len(data):
        connection.sendall((header + data)[sent:])


def receive(connection: socket.socket) -> Any:
    """One value.

    Raises:
        EOFError: the other side is gone.
    """
    (length,) = HEADER.unpack(_exactly(connection, HEADER.size))
    return pickle.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    got = 0
    while got < length:
        n = connection.recv_into(view[got:])
        if not n:
            raise EOFError("the connection was closed")
        got += n
    return data


def main(fd: int) -> None:
    """Serves one loader over the socket ``fd`` until it hangs up. Answers are ``Done``, or why it cannot begin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the loader decides
    av.logging.set_level(None)
    gc.disable()  # it would walk through thousands of kept pictures again and again; forgetting them collects cycles
    connection = socket.socket(fileno=fd)
    try:
        try:
            worker = HostWorker(*receive(connection))
        except GpuloadError as error:  # the loader must not start another one to find out the same
            send(connection, error)
            return
        queued: dict[int, list[Unit]] = {}
        while True:
            message = receive(connection)
            if isinstance(message, Unit):
                queued.setdefault(message.batch, []).append(message)
            elif isinstance(message, Go):
                for unit in queued.pop(message.batch, []):
                    send(connection, worker.run(unit, message))
            elif message is None:
                queued.clear()
                worker.forget()
                gc.collect()
            else:
                chunk, num_bytes = message
                _, fds, _, _ = socket.recv_fds(connection, 1, 1)
                worker.map(chunk, fds[0], num_bytes)
                socket.close(fds[0])
    except (EOFError, ConnectionError):
        return
