"""The worker of a decode process: decodes on the CPU, into batch slots or as planes on their way to a device."""

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from gpuload.decode.base import Stream
from gpuload.decode.create import create
from gpuload.device.planes import PlaneWriter, staged_bytes
from gpuload.device.swscale import SwscaleConverter
from gpuload.errors import DecodeError
from gpuload.pipeline.work import STAGED, Done
from gpuload.pipeline.worker import FillAt, Worker
from gpuload.transform import DTYPES, SlotForm, is_reduced, pack_view


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

    def __init__(self, backend: str, forms: tuple[SlotForm, ...], most_kept_bytes: int = 0) -> None:
        super().__init__(create(backend, "cpu"), most_kept_bytes=most_kept_bytes)
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
            if field == STAGED:  # the only place
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
            done.lose(picture, DecodeError(f"{stream.path}: {error}"))
            return
        done.found.append((picture, form))
