"""Antialiased bilinear resize on the CPU, as ``torch.nn.functional.interpolate(antialias=True)`` defines it, without
torch: a decode process that imported it would hold 500 MB more."""

import numpy as np
import numpy.typing as npt

from gpuload.device.libswscale import planar_resizer

SMALLEST = 4
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


class Resizer:
    """uint8 RGB planes of one size to another. Keeps its memory: not thread-safe."""

    def __init__(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        self._rows, self._columns = (
            bilinear_weights(b, a).astype(np.float32) for b, a in zip(before, after, strict=True)
        )
        # swscale takes sides of 2 and 3 pixels for something else: half the levels off.
        self._swscale = None if min(before) < SMALLEST else planar_resizer(before, after)
        height, width = after
        stride = -(-width // OVERRUN) * OVERRUN + OVERRUN
        self._memory = np.zeros((3, height + 1, stride), np.uint8)
        self._result = self._memory[:, :height, :width]
        # Where the picture shrinks, swscale is wrong in the outermost row or column of each side, and nowhere else.
        self._edge_rows, self._edge_columns = (
            sorted({0, a - 1}) if b > a else [] for b, a in zip(before, after, strict=True)
        )

    def resize(self, planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 ``[3, h, w]`` -> uint8 ``[3, H, W]``, valid until the next call."""
        if self._swscale is None:
            self._result[...] = _rounded(self._rows @ planes.astype(np.float32) @ self._columns.T)
            return self._result
        self._swscale.resize(planes, self._result)
        for row in self._edge_rows:
            near = np.flatnonzero(self._rows[row])
            part = planes[:, near[0] : near[-1] + 1].astype(np.float32)
            self._result[:, row] = _rounded((self._rows[row, near] @ part) @ self._columns.T)
        for column in self._edge_columns:
            near = np.flatnonzero(self._columns[column])
            part = planes[:, :, near[0] : near[-1] + 1].astype(np.float32)
            self._result[:, :, column] = _rounded((part @ self._columns[column, near]) @ self._rows.T)
        return self._result


def _rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    rounded: npt.NDArray[np.uint8] = (values + np.float32(0.5)).astype(np.uint8)
    return rounded
