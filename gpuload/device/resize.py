"""Antialiased bilinear resize on the CPU, as ``torch.nn.functional.interpolate(antialias=True)`` defines it, without
torch: a decode process that imported it would hold 500 MB more."""

import numpy as np
import numpy.typing as npt

from gpuload.device.libswscale import plane_resizer

SMALLEST = 4
"""Pixels: swscale takes sides of 2 and 3 for something else, half the levels off."""
LARGEST_RATIO = 16
"""How many times smaller swscale may make a side: its sums overflow further on."""
OVERRUN = 64
"""Bytes that swscale may write behind a row."""
HALF = np.float32(0.5)
"""Added before fractions are cut off."""


def bilinear_weights(before: int, after: int) -> npt.NDArray[np.float64]:
    """float64 ``[after, before]``: what each input pixel counts in each output pixel; rows sum to 1.

    A triangle around the output pixel's centre, as wide as two input pixels or, where the picture shrinks, as two
    output pixels; what lies outside of the picture does not count (ATen's ``UpSampleKernel``, as Pillow's resize).
    """
    scale = before / after
    support = max(scale, 1.0)
    centers = (np.arange(after) + 0.5) * scale
    distance = np.abs(np.arange(before) + 0.5 - centers[:, None]) / support
    weights: npt.NDArray[np.float64] = np.maximum(1.0 - distance, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


class Side:
    """One dimension of a resize: which input pixels count in each output pixel, and how much."""

    def __init__(self, before: int, after: int) -> None:
        weights = bilinear_weights(before, after)
        taps = int((weights > 0).sum(axis=1).max())
        first = np.minimum((weights > 0).argmax(axis=1), before - taps)
        self.before = before
        self.near: npt.NDArray[np.int64] = first[:, None] + np.arange(taps)
        """``[after, taps]``."""
        self.weights = np.take_along_axis(weights, self.near, axis=1).astype(np.float32)
        # Where the picture shrinks, swscale is wrong in the outermost row or column of each side, and nowhere else.
        self.edges = sorted({0, after - 1}) if before > after else []

    @property
    def shape(self) -> tuple[int, int]:
        """``(after, taps)``."""
        return self.weights.shape[0], self.weights.shape[1]

    def apply(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``[…, before]`` -> ``[…, after]``."""
        result: npt.NDArray[np.float32] = np.einsum("...nk,nk->...n", values[..., self.near], self.weights)
        return result


class Edges:
    """The outermost rows and columns of reduced planes. Keeps its memory: not thread-safe.

    All of them at once: where a decoder has just had the caches, each call of numpy costs 5 to 10 µs, however little
    it does, and one row or column after the other took as long as all the rest of the resize.
    """

    def __init__(self, rows: Side, columns: Side) -> None:
        lines = [(rows, columns, edge) for edge in rows.edges] + [(columns, rows, edge) for edge in columns.edges]
        inputs, outputs = sum(along.before for _, along, _ in lines), sum(along.shape[0] for _, along, _ in lines)
        most = max(rows.shape[1], columns.shape[1])
        # First across the line: [3, most, inputs] times weights, summed. What is padded stays zero.
        self._strips = np.zeros((3, most, inputs), np.float32)
        self._strip_weights = np.zeros((most, inputs), np.float32)
        self._lines = np.empty((3, inputs), np.float32)
        # Then along it: what counts in each output pixel is fetched, [3, most, outputs].
        self._near = np.zeros((most, outputs), np.int64)
        self._weights = np.zeros((most, outputs), np.float32)
        self._taken = np.empty((3, most, outputs), np.float32)
        self._sums = np.empty((3, outputs), np.float32)
        self._pixels = np.empty((3, outputs), np.uint8)
        self._sources: list[tuple[npt.NDArray[np.float32], slice, bool]] = []
        begin = end = 0
        for side, along, edge in lines:
            first, width = int(side.near[edge, 0]), side.shape[1]
            here, there = slice(begin, begin + along.before), slice(end, end + along.shape[0])
            self._sources.append((self._strips[:, :width, here], slice(first, first + width), side is rows))
            self._strip_weights[:width, here] = side.weights[edge][:, None]
            self._near[: along.shape[1], there] = along.near.T + begin
            self._weights[: along.shape[1], there] = along.weights.T
            begin, end = here.stop, there.stop
        split, height, width = len(rows.edges) * columns.shape[0], rows.shape[0], columns.shape[0]
        self._rows = self._pixels[:, :split].reshape(3, len(rows.edges), width)
        self._columns = self._pixels[:, split:].reshape(3, len(columns.edges), height).transpose(0, 2, 1)
        self._steps = max(height - 1, 1), max(width - 1, 1)

    def write(self, planes: npt.NDArray[np.uint8], result: npt.NDArray[np.uint8]) -> None:
        """uint8 ``[3, h, w]`` to the edges of ``[3, H, W]``."""
        upright = planes.transpose(0, 2, 1)
        for strip, where, is_row in self._sources:
            strip[...] = (planes if is_row else upright)[:, where]
        np.multiply(self._strips, self._strip_weights, out=self._strips)
        np.add.reduce(self._strips, axis=1, out=self._lines)
        np.take(self._lines, self._near, axis=1, out=self._taken, mode="clip")  # the mode that needs no buffer
        np.multiply(self._taken, self._weights, out=self._taken)
        np.add.reduce(self._taken, axis=1, out=self._sums)
        np.add(self._sums, HALF, out=self._pixels, casting="unsafe")
        if self._rows.size:
            result[:, :: self._steps[0]] = self._rows
        if self._columns.size:
            result[:, :, :: self._steps[1]] = self._columns


class Resizer:
    """uint8 RGB planes of one size to another. Keeps its memory: not thread-safe."""

    def __init__(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        self._rows, self._columns = (Side(b, a) for b, a in zip(before, after, strict=True))
        self._edges = Edges(self._rows, self._columns) if self._rows.edges or self._columns.edges else None
        small = min(before) < SMALLEST or any(b > LARGEST_RATIO * a for b, a in zip(before, after, strict=True))
        self._swscale = None if small else plane_resizer(before, after)
        height, width = after
        stride = -(-width // OVERRUN) * OVERRUN + OVERRUN
        self._memory = np.zeros((3, height + 1, stride), np.uint8)
        self._result = self._memory[:, :height, :width]

    def resize(self, planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 ``[3, h, w]`` -> uint8 ``[3, H, W]``, valid until the next call."""
        result = self._result
        if self._swscale is None:
            tall = self._columns.apply(planes.astype(np.float32))
            result[...] = (self._rows.apply(tall.transpose(0, 2, 1)) + HALF).astype(np.uint8).transpose(0, 2, 1)
            return result
        self._swscale.resize(planes, result)
        if self._edges is not None:
            self._edges.write(planes, result)
        return result
