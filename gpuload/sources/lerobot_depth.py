"""LeRobot's depth videos: 12-bit codes, logarithmic in depth."""

import math
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from gpuload.errors import DatasetError

CODES = 4096
_DEEP = re.compile(r"(gray|yuv4\d\dp)12(le|be)?")


def depth_lut(info: Mapping[str, object], what: str, *, unit: str = "mm") -> npt.NDArray[np.float32]:
    """Depth of each code, float32 ``[4096]``: millimetres, whole as LeRobot 0.6 returns them, or metres, not rounded.

    ``depth = exp(log(min + shift) + code / 4095 * (log(max + shift) - log(min + shift))) - shift`` in metres, float32.

    Raises:
        DatasetError: the feature's range makes no sense.
    """
    low, high, shift = (
        _number(info, name, default, what)
        for name, default in (("depth_min", 0.01), ("depth_max", 10.0), ("shift", 3.5))
    )
    logarithmic = info.get("video.use_log", info.get("use_log", True)) is not False
    if not 0 <= low < high or (logarithmic and low + shift <= 0):
        raise DatasetError(f"{what}: depth range {low} to {high} m with shift {shift} is no range; correct info.json")
    codes = np.arange(CODES, dtype=np.float32)
    first, last = (math.log(low + shift), math.log(high + shift)) if logarithmic else (low, high)
    depth_m: npt.NDArray[np.float32] = codes * np.float32((last - first) / (CODES - 1)) + np.float32(first)
    if logarithmic:
        depth_m = np.exp(depth_m) - np.float32(shift)
    depth_m = np.clip(depth_m, np.float32(low), np.float32(high))
    if unit == "m":
        return depth_m
    lut: npt.NDArray[np.float32] = np.clip(np.rint(depth_m * np.float32(1000)), 0, 65535).astype(np.float32)
    return lut


def is_depth_format(pixel_format: str) -> bool:
    """True if a stream's luma plane holds 12-bit codes."""
    return _DEEP.fullmatch(pixel_format) is not None


def _number(info: Mapping[str, object], name: str, default: float, what: str) -> float:
    value = info.get(f"video.{name}", info.get(name, default))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DatasetError(f"{what}: {name} must be a number of metres, got {value!r}; correct info.json")
    return float(value)
