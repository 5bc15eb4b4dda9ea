"""The CPU's share of what a device could decode: only of streams whose planes were seen to be the same on both."""

import logging
import threading
import time
from collections.abc import Mapping
from functools import cache
from typing import TypeVar

import av
import numpy as np
import numpy.typing as npt

from gpuload.decode.base import Run, Stream
from gpuload.decode.pyav import PyavDecoder
from gpuload.device.planes import lines_of
from gpuload.errors import DecodeError
from gpuload.picture import DevicePicture

Key = TypeVar("Key")
logger = logging.getLogger(__name__)

CodecDepth = tuple[str, int]
"""Codec and bits of a sample: what decoding exactly depends on."""


class Sharing:
    """What this loader has verified and measured. Thread-safe.

    With ``wanted`` False nothing is verified and nothing shared: a backend was asked for.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._lock = threading.Lock()
        self._equal: dict[CodecDepth, bool] = {}
        self._taken: set[CodecDepth] = set()
        """Being verified, by one lane."""
        self._load_s: dict[bool, float] = {}
        """Seconds that a worker on the CPU, or on the device, takes for one picture of what it has lately."""
        self._pixel_s: dict[tuple[bool, CodecDepth], float] = {}
        """The same for one pixel of one kind."""

    def is_to_verify(self, stream: Stream) -> bool:
        """Whether the caller has to call ``verify`` for such streams: True for one caller at a time."""
        depth = depth_of(stream.codec, stream.pixel_format)
        with self._lock:
            if not self._wanted or depth in self._equal or depth in self._taken:
                return False
            self._taken.add(depth)
            return True

    def give_up(self, stream: Stream) -> None:
        """What was to be verified could not be decoded: another run may tell."""
        with self._lock:
            self._taken.discard(depth_of(stream.codec, stream.pixel_format))

    def verify(self, stream: Stream, run: Run, pictures: Mapping[int, DevicePicture | av.VideoFrame]) -> None:
        """Decodes a run on the CPU too and compares the device's pictures, by packet number, bit by bit."""
        depth = depth_of(stream.codec, stream.pixel_format)
        begin = time.perf_counter()
        try:
            expected = dict(PyavDecoder().decode(stream, run))
        except DecodeError:
            self.give_up(stream)  # a damaged run proves nothing: the next one may
            return
        elapsed_s = time.perf_counter() - begin
        equal = expected.keys() == pictures.keys() and all(
            same_samples(pictures[number], frame) for number, frame in expected.items()
        )
        if not equal:
            logger.warning(
                "%s: the device's pictures are not those of the CPU (%s, %d bits), so the CPU takes no share of them; "
                "please report it with `gpuload doctor`",
                stream.path,
                *depth,
            )
        with self._lock:
            self._equal[depth] = equal and self._equal.get(depth, True)
            self._load_s.setdefault(False, elapsed_s / len(run.packets))
            self._pixel_s.setdefault((False, depth), elapsed_s / len(run.packets) / (stream.width * stream.height))

    def allowed(self) -> frozenset[CodecDepth]:
        """Streams that the CPU may decode in the device's stead: equal on both, and both have been measured."""
        with self._lock:
            return frozenset(
                depth
                for depth, equal in self._equal.items()
                if equal and (False, depth) in self._pixel_s and (True, depth) in self._pixel_s
            )

    def measured(self, on_device: bool, *, frames: int, pixels: Mapping[CodecDepth, int], busy_s: float) -> None:
        """One worker has decoded so many frames, of so many pixels in all, in so many seconds."""
        if not frames:
            return
        with self._lock:
            _follow(self._load_s, on_device, busy_s / frames)
            if len(pixels) == 1:  # else nobody knows which of them took how long
                ((depth, count),) = pixels.items()
                _follow(self._pixel_s, (on_device, depth), busy_s / count)

    def load_s(self, on_device: bool) -> float:
        """Seconds that a worker takes for one picture of what it has been given."""
        return self._load_s.get(on_device, 1.0)

    def run_s(self, on_device: bool, depth: CodecDepth, pixels: float) -> float:
        """Seconds that a worker takes for so many pixels of streams that may be shared."""
        return pixels * self._pixel_s[on_device, depth]


def _follow(known: dict[Key, float], key: Key, seen: float) -> None:
    """The mean of what was seen lately."""
    known[key] = known.get(key, seen) + 0.1 * (seen - known.get(key, seen))


@cache
def depth_of(codec: str, pixel_format: str) -> CodecDepth:
    """Bits are 0 where the format is not known."""
    try:
        return codec, av.VideoFormat(pixel_format, 64, 64).components[0].bits
    except ValueError:
        return codec, 0


def same_samples(picture: DevicePicture | av.VideoFrame, frame: av.VideoFrame) -> bool:
    """Whether a device's picture has the very samples of the CPU's, planar or not."""
    theirs = components_of(frame)
    ours = components_of(picture) if isinstance(picture, av.VideoFrame) else device_components(picture, frame)
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


def components_of(frame: av.VideoFrame) -> list[npt.NDArray[np.generic]]:
    """The samples of each component of a planar picture."""
    dtype = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    return [np.ascontiguousarray(lines).view(dtype) for lines in lines_of(frame)]


def device_components(picture: DevicePicture, frame: av.VideoFrame) -> list[npt.NDArray[np.generic]]:
    """The same of a picture in device memory, which may be NV12 or hold its samples in the upper bits (P010)."""
    found: list[npt.NDArray[np.generic]] = []
    bits = frame.format.components[0].bits
    for plane in picture.planes:
        samples = plane.cpu().numpy()
        if samples.dtype != np.uint8:
            name = picture.form.pixel_format  # NVDEC's 4:4:4 of 10 bits is called yuv444p16le
            upper = name.startswith(("p0", "p2", "p4")) or name.endswith("p16le")
            samples = samples.view(np.uint16) >> (16 - bits if upper else 0)
        found += [samples] if samples.ndim == 2 else [samples[:, :, i] for i in range(samples.shape[2])]
    return found
