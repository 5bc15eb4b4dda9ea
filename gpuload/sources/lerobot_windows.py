"""LeRobot's ``delta_timestamps``: from seconds to rows."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gpuload.errors import ConfigError, DatasetError
from gpuload.sources.lerobot_meta import Meta

_FPS_SLACK = 0.02
"""Of a frame period: by how much rows may be further apart than info.json's fps says."""
_CHECKED_ROWS = 100_000


def plan_offsets(
    features: Collection[str], delta_timestamps: Mapping[str, Sequence[float]], *, fps: float, tolerance_s: float
) -> dict[str, tuple[int, ...]]:
    """Rows relative to the anchor for each key of ``delta_timestamps`` (seconds), of those that windows can be made of.

    Raises:
        ConfigError: another key, an empty list, or a time that is no multiple of 1/fps within the tolerance.
    """
    offsets: dict[str, tuple[int, ...]] = {}
    for key, deltas in delta_timestamps.items():
        if key not in features:
            usable = ", ".join(features)
            raise ConfigError(f"delta_timestamps: no window can be made of {key!r}; usable features are {usable}")
        times_s = np.asarray(deltas, dtype=np.float64)
        if times_s.ndim != 1 or not len(times_s) or not np.isfinite(times_s).all():
            raise ConfigError(
                f"delta_timestamps[{key!r}] must be a list of at least one number of seconds, got {deltas}"
            )
        rows = np.rint(times_s * fps)
        off = np.abs(rows / fps - times_s)
        if (off > tolerance_s).any():
            worst = float(times_s[int(np.argmax(off))])
            raise ConfigError(
                f"delta_timestamps[{key!r}]: {worst} s is no multiple of 1/fps = {1 / fps:.6f} s within "
                f"tolerance_s = {tolerance_s:g}"
            )
        offsets[key] = tuple(int(row) for row in rows)
    return offsets


def check_fps(
    times_s: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], meta: Meta, *, tolerance_s: float
) -> None:
    """Windows are counted in rows, so rows must be 1/fps apart.

    Raises:
        DatasetError: their median is not.
    """
    rows = min(len(times_s), _CHECKED_ROWS)
    apart = np.diff(times_s[:rows])
    within = np.ones(len(apart), np.bool_)
    ends = starts[1:-1]
    within[ends[(ends > 0) & (ends < rows)] - 1] = False
    apart = apart[within & np.isfinite(apart)]
    period_s = 1 / meta.info.fps
    if len(apart) and abs(float(np.median(apart)) - period_s) > max(_FPS_SLACK * period_s, tolerance_s):
        raise DatasetError(
            f"{meta.root}/meta/info.json: fps is {meta.info.fps:g} but rows are "
            f"{float(np.median(apart)):.6f} s apart; correct fps or the timestamps"
        )
