"""A decode worker: decodes each run once, keeps pictures until their last use, writes them into batch slots.

It runs in a process of its own, because feeding packets takes the GIL once a packet: beside a busy Python thread of
the same process a decode thread falls to a tenth of its rate. The process imports neither torch nor the rest of
gpuload (42 MB instead of 600).
"""

import mmap
import pickle
import signal
import socket
import struct
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from gpuload.decode.base import Run, Stream
from gpuload.decode.pyav import PyavDecoder
from gpuload.device.swscale import SwscaleConverter
from gpuload.errors import DecodeError
from gpuload.pipeline.work import DecodeTask, Done, Go, SlotKind, Unit

HEADER = struct.Struct("<Q")


class Worker:
    """One decoder, one converter and the pictures kept for later batches. Not thread-safe."""

    def __init__(self, kinds: tuple[SlotKind, ...]) -> None:
        self._kinds = kinds
        self._decoder = PyavDecoder()
        self._converter = SwscaleConverter()
        self._streams: dict[int, Stream] = {}
        self._chunks: dict[int, mmap.mmap] = {}
        self._kept: dict[int, tuple[av.VideoFrame, Stream]] = {}
        self._kept_bytes = 0
        self._uses: dict[int, int] = {}
        self._failed: dict[int, str] = {}

    def map(self, chunk: int, fd: int, num_bytes: int) -> None:
        """Makes a chunk of batch memory writable here."""
        self._chunks[chunk] = mmap.mmap(fd, num_bytes)

    def forget(self) -> None:
        """Drops all kept pictures: the epoch was left."""
        self._kept.clear()
        self._kept_bytes = 0
        self._uses.clear()
        self._failed.clear()

    def run(self, unit: Unit, go: Go) -> Done:
        """Decodes and fills; errors are collected, never raised for a damaged picture."""
        done = Done(unit.batch)
        self._streams.update(unit.streams)
        waiting: dict[int, list[tuple[int, int]]] = {}
        for picture, kind, offset in unit.fills:
            waiting.setdefault(picture, []).append((kind, go.offset + offset))
        for task in unit.tasks:
            self._decode(task, go.chunk, waiting, done)
        for picture, places in waiting.items():
            if picture in self._failed:
                done.errors.append(self._failed[picture])
                continue
            frame, stream = self._kept[picture]
            self._fill(picture, frame, stream, places, go.chunk, done)
        done.kept_bytes = self._kept_bytes
        return done

    def _decode(self, task: DecodeTask, chunk: int, waiting: dict[int, list[tuple[int, int]]], done: Done) -> None:
        stream = self._streams[task.stream]
        names = dict(zip(task.packets, task.pictures, strict=True))
        self._uses.update(zip(task.pictures, task.uses, strict=True))
        view = memoryview(task.data)
        packets = [view[b : b + n] for b, n in zip(task.begins, task.sizes, strict=True)]
        done.frames_decoded += len(packets)
        run = Run(task.first, packets, task.entries, frozenset(task.packets))
        try:
            for number, frame in self._decoder.decode(stream, run):
                picture = names.pop(number)
                self._kept[picture] = frame, stream
                self._kept_bytes += picture_bytes(frame)
                places = waiting.pop(picture, None)
                if places:  # while the picture is warm in the processor's cache
                    self._fill(picture, frame, stream, places, chunk, done)
        except DecodeError as error:
            for picture in names.values():
                self._failed[picture] = str(error)

    def _fill(
        self,
        picture: int,
        frame: av.VideoFrame,
        stream: Stream,
        places: list[tuple[int, int]],
        chunk: int,
        done: Done,
    ) -> None:
        memory = self._chunks[chunk]
        first: tuple[int, npt.NDArray[Any]] | None = None
        for number, offset in places:
            kind = self._kinds[number]
            shape = (kind.channels, kind.height, kind.width)
            slot: npt.NDArray[Any] = np.ndarray(shape, kind.dtype, memory, offset)
            if first is not None and first[0] == number:
                slot[...] = first[1]
                continue
            try:
                self._converter.convert(frame, slot, stream.rotation, kind.lut)
            except DecodeError as error:
                done.errors.append(f"{stream.path}: {kind.key}: {error}")
                break
            first = number, slot
        self._uses[picture] -= len(places)
        if self._uses[picture] <= 0:
            del self._uses[picture], self._kept[picture]
            self._kept_bytes -= picture_bytes(frame)


def picture_bytes(frame: av.VideoFrame) -> int:
    """Bytes of its planes, padding included."""
    return sum(plane.buffer_size for plane in frame.planes)


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
    """Serves one loader over the socket ``fd`` until it hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the loader decides
    av.logging.set_level(None)
    connection = socket.socket(fileno=fd)
    try:
        worker = Worker(receive(connection))
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
            else:
                chunk, num_bytes = message
                _, fds, _, _ = socket.recv_fds(connection, 1, 1)
                worker.map(chunk, fds[0], num_bytes)
                socket.close(fds[0])
    except (EOFError, ConnectionError):
        return
