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
        self.near: npt.NDArray[np.int64] = first[:, None] + np.arange(taps)
        """``[after, taps]``."""
        self.weights = np.take_along_axis(weights, self.near, axis=1).astype(np.float32)
        # Where the picture shrinks, swscale is wrong in the outermost row or column of each side, and nowhere else.
        self.edges = sorted({0, after - 1}) if before > after else []

    def apply(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``[…, before]`` -> ``[…, after]``."""
        result: npt.NDArray[np.float32] = np.einsum("...nk,nk->...n", values[..., self.near], self.weights)
        return result

    def at_edges(self, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """``[…, before]`` -> ``[…, len(edges)]``."""
        near = values[..., self.near[self.edges]].astype(np.float32)
        result: npt.NDArray[np.float32] = np.einsum("...ek,ek->...e", near, self.weights[self.edges])
        return result


class Resizer:
    """uint8 RGB planes of one size to another. Keeps its memory: not thread-safe."""

    def __init__(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        self._rows, self._columns = (Side(b, a) for b, a in zip(before, after, strict=True))
        small = min(before) < SMALLEST or any(b > LARGEST_RATIO * a for b, a in zip(before, after, strict=True))
        self._swscale = None if small else plane_resizer(before, after)
        height, width = after
        stride = -(-width // OVERRUN) * OVERRUN + OVERRUN
        self._memory = np.zeros((3, height + 1, stride), np.uint8)
        self._result = self._memory[:, :height, :width]

    def resize(self, planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 ``[3, h, w]`` -> uint8 ``[3, H, W]``, valid until the next call."""
        result, upright = self._result, planes.transpose(0, 2, 1)
        if self._swscale is None:
            tall = self._columns.apply(planes.astype(np.float32))
            result[...] = _rounded(self._rows.apply(tall.transpose(0, 2, 1))).transpose(0, 2, 1)
            return result
        self._swscale.resize(planes, result)
        if self._rows.edges:
            rows = self._rows.at_edges(upright).transpose(0, 2, 1)
            result[:, self._rows.edges] = _rounded(self._columns.apply(rows))
        if self._columns.edges:
            columns = self._columns.at_edges(planes).transpose(0, 2, 1)
            result[:, :, self._columns.edges] = _rounded(self._rows.apply(columns)).transpose(0, 2, 1)
        return result


def _rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    rounded: npt.NDArray[np.uint8] = (values + np.float32(0.5)).astype(np.uint8)
    return rounded
