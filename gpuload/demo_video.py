"""Pictures that spell their own number, and the mp4 files that hold them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

FAST: Mapping[str, Mapping[str, str]] = {
    "libx264": {"preset": "veryfast", "forced-idr": "1"},
    "libx265": {"preset": "veryfast", "forced-idr": "1", "x265-params": "log-level=error"},
    "libsvtav1": {"preset": "8", "svtav1-params": "force-key-frames=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "row-mt": "1"},
}
"""Encoder options that trade size for speed; the caller's options win."""


Luma = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Texture:
    """A tile that repeats, as yuv420p: luma ``[2H, 2W]``, chroma ``[H, W]``, both doubled so that crops may wrap."""

    luma: Luma
    blue: Luma
    red: Luma

    def frame(self, number: int, *, height: int, width: int) -> Luma:
        """Picture ``number``, uint8 ``[H * 3 / 2, W]`` yuv420p.

        The tile drifts, a bright square runs across it, and 16 blocks along the bottom spell ``number`` in binary.
        """
        x, y = 2 * number % width, 2 * (number // 2) % height
        out = np.empty((height * 3 // 2, width), dtype=np.uint8)
        out[:height] = self.luma[y : y + height, x : x + width]
        side = max(height // 6 // 2 * 2, 2)
        top, left = 3 * number % (height - side), 5 * number % (width - side)
        out[top : top + side, left : left + side] = 225
        cell, bar = width // 16, max(height // 16, 1)
        bits = (number >> np.arange(16)) & 1
        out[height - bar : height, : cell * 16] = np.repeat(np.where(bits, 235, 16).astype(np.uint8), cell)
        chroma = out[height:].reshape(2, height // 2, width // 2)
        rows, cols = slice(y // 2, (y + height) // 2), slice(x // 2, (x + width) // 2)
        chroma[0], chroma[1] = self.blue[rows, cols], self.red[rows, cols]
        return out


def make_texture(rng: np.random.Generator, *, height: int, width: int) -> Texture:
    """Smooth noise in three octaves: neither flat nor so noisy that an encoder drowns in it."""

    def plane(rows: int, cols: int, low: int, high: int) -> Luma:
        total = np.zeros((rows, cols))
        for cells, weight in ((4, 0.6), (16, 0.3), (48, 0.1)):
            grid = rng.random((cells, cells))
            u, v = np.arange(rows) * cells / rows, np.arange(cols) * cells / cols
            i, j = u.astype(int), v.astype(int)
            a, b = (u - i)[:, None], (v - j)[None]
            top = grid[np.ix_(i, j)] * (1 - b) + grid[np.ix_(i, (j + 1) % cells)] * b
            down = grid[np.ix_((i + 1) % cells, j)] * (1 - b) + grid[np.ix_((i + 1) % cells, (j + 1) % cells)] * b
            total += weight * (top * (1 - a) + down * a)
        return np.tile((low + total * (high - low)).astype(np.uint8), (2, 2))

    half = (height // 2, width // 2)
    return Texture(plane(height, width, 30, 220), plane(*half, 70, 190), plane(*half, 70, 190))


@dataclass(frozen=True, slots=True)
class Encoding:
    """How every camera is encoded."""

    codec: str
    gop: int
    fps: int
    width: int
    height: int
    options: Mapping[str, str]


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Afterwards the calling thread runs as it did before: SVT-AV1 makes it a real-time thread where it may (as root),
    and leaves it so, to starve all others of the machine and to be inherited by every process that it starts."""
    if not hasattr(os, "sched_getscheduler"):  # Linux only, as is what SVT-AV1 does
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


def encode(
    path: Path,
    texture: Texture,
    numbers: range,
    *,
    every: int,
    encoding: Encoding,
    on_progress: Callable[[int], None] | None,
) -> list[npt.NDArray[np.float64]]:
    """Write pictures ``numbers`` into one mp4, a keyframe forced at each ``every``th; gives RGB for statistics."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples: list[npt.NDArray[np.float64]] = []
    with ordinary_priority(), av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoding.codec, rate=encoding.fps, options=dict(encoding.options))
        stream.width, stream.height, stream.pix_fmt = encoding.width, encoding.height, "yuv420p"
        stream.codec_context.gop_size = encoding.gop
        stream.codec_context.time_base = Fraction(1, encoding.fps)
        for position, number in enumerate(numbers):
            planes = texture.frame(number, height=encoding.height, width=encoding.width)
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts, picture.time_base = position, Fraction(1, encoding.fps)
            if position % every == 0:
                picture.pict_type = av.video.frame.PictureType.I
            if position % 20 == 0:
                rgb = picture.to_ndarray(format="rgb24").reshape(-1, 3)[::7]
                samples.append(rgb.astype(np.float64) / 255.0)
            container.mux(stream.encode(picture))
            if on_progress is not None:
                on_progress(1)
        container.mux(stream.encode(None))
    return samples
