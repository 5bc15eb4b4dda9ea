"""One camera of a LeRobot dataset: which frame of which file each row's timestamp means."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuload.errors import GpuloadError
from gpuload.index.video import VideoIndex
from gpuload.sources.lerobot_meta import Placement

logger = logging.getLogger(__name__)

RETRY_S = 10.0
"""Before a file that could not be indexed, and has not changed, is tried again: a network may have failed."""


@dataclass(frozen=True, slots=True, eq=False)
class RowTimes:
    """The time of each row in its episode."""

    seconds: npt.NDArray[np.float64]
    """``[rows]``."""
    slack_s: npt.NDArray[np.float64]
    """``[rows]``: by how much storing it may have moved it, half a step of its format."""


def row_times(stored: npt.NDArray[np.generic], frame_index: npt.NDArray[np.generic] | None, *, fps: float) -> RowTimes:
    """What the ``timestamp`` column means: LeRobot stores ``frame_index / fps`` in 32 bits, whose steps become wider
    than a tolerance of 0.1 ms at 2,048 s. A time that is one step from that quotient at most is the quotient."""
    seconds = stored.astype(np.float64)
    if stored.dtype == np.float64:
        return RowTimes(seconds, np.zeros(len(seconds)))
    with np.errstate(invalid="ignore"):  # of a time that is not finite
        step_s = np.spacing(np.abs(seconds).astype(np.float32)).astype(np.float64)
    if frame_index is None:
        return RowTimes(seconds, step_s / 2)
    grid_s = frame_index.astype(np.float64) / fps
    on_grid = np.abs(seconds - grid_s) <= step_s
    return RowTimes(np.where(on_grid, grid_s, seconds), np.where(on_grid, 0.0, step_s / 2))


def nearest_frames(
    wanted_s: npt.NDArray[np.float64], pts_s: npt.NDArray[np.float64], within_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.int32]:
    """int32 ``[n]``: the frame whose pts is nearest to each wanted time, no further than ``within_s``; else -1."""
    if not len(pts_s):
        return np.full(len(wanted_s), -1, dtype=np.int32)
    after = np.minimum(np.searchsorted(pts_s, wanted_s), len(pts_s) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(wanted_s - pts_s[before]) <= np.abs(pts_s[after] - wanted_s), before, after)
    # NaN compares false, so a NaN timestamp has no frame
    near = np.abs(pts_s[nearest] - wanted_s) <= within_s
    return np.where(near, nearest, -1).astype(np.int32)


def overlapping(claimed: list[tuple[int, int, int]]) -> list[int]:
    """Names of those among ``(first frame, last frame, name)`` that begin before an earlier one has ended."""
    claimed = sorted(claimed)
    ends = accumulate((last for _, last, _ in claimed), max)
    return [name for end, (first, _, name) in zip(ends, claimed[1:], strict=False) if first <= end]


class CameraFrames:
    """Rows to frames, resolved a file at a time when first asked for. Needs its owner's lock around ``resolve``."""

    def __init__(
        self,
        key: str,
        first_file: int,
        placement: Placement,
        starts: npt.NDArray[np.int64],
        times: RowTimes,
        tolerance_s: float,
    ) -> None:
        self.key = key
        self.first_file = first_file
        """The number that ``SampleSource.video`` knows the camera's first file by."""
        self.placement = placement
        self.errors: dict[int, GpuloadError] = {}
        """Why a file, by its number in ``placement``, cannot be used. Asked again each time it is needed."""
        self._starts, self._times, self._tolerance_s = starts, times, tolerance_s
        self._frame = np.full(int(starts[-1]), -1, dtype=np.int32)
        self._by_file = np.argsort(placement.file, kind="stable")
        self._file_ends = np.searchsorted(placement.file[self._by_file], np.arange(len(placement.files) + 1))
        self._failed: dict[int, tuple[float, tuple[int, int, int] | None]] = {}
        """Of files that could not be indexed: when they were tried last, and their size, time and number then."""
        self._resolved = np.zeros(len(placement.files), dtype=np.bool_)

    def unresolved(self, episodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Files of these episodes, as numbers in ``placement``, that ``resolve`` has not seen."""
        if self._resolved.all():
            return np.empty(0, dtype=np.int64)
        files = np.unique(self.placement.file[episodes]).astype(np.int64)
        files = files[files >= 0]
        return files[~self._resolved[files]]

    def is_due(self, file: int, root: Path) -> bool:
        """Whether a file was not tried yet, or may have become better: it has changed, or a while has passed."""
        if file not in self._failed:
            return True
        tried_s, looked = self._failed[file]
        return time.monotonic() >= tried_s + RETRY_S or _looks(root / self.placement.files[file]) != looked

    def resolve(self, file: int, video: Callable[[int], VideoIndex], root: Path) -> None:
        """Match all rows of one file to the nearest pts, within the tolerance; others stay -1. A file that
        cannot be indexed costs its own rows only: they stay -1, and ``errors`` says why. It is tried again when it has
        changed, or after a while: each part of a lookahead asks, and to find out what is wrong can take seconds."""
        if not self.is_due(file, root):
            return
        try:
            pts_s = video(self.first_file + file).pts_s
        except GpuloadError as error:
            looks = _looks(root / self.placement.files[file])
            self.errors[file], self._failed[file] = error, (time.monotonic(), looks)
            return
        self.errors.pop(file, None)
        episodes = self._by_file[self._file_ends[file] : self._file_ends[file + 1]]
        begins = self._starts[episodes]
        lengths = self._starts[episodes + 1] - begins
        episodes, begins, lengths = (values[lengths > 0] for values in (episodes, begins, lengths))
        places = np.cumsum(lengths) - lengths
        rows = np.repeat(begins - places, lengths) + np.arange(int(lengths.sum()))
        wanted_s = self._times.seconds[rows] + np.repeat(self.placement.start_s[episodes], lengths)
        frame = nearest_frames(wanted_s, pts_s, self._tolerance_s + self._times.slack_s[rows])
        self._frame[rows] = frame
        claimed: list[tuple[int, int, int]] = []
        if len(rows):
            last = np.maximum.reduceat(frame, places)
            first = np.minimum.reduceat(np.where(frame < 0, len(pts_s), frame), places)
            shows = last >= 0
            named = (first[shows].tolist(), last[shows].tolist(), episodes[shows].tolist())
            claimed = list(zip(*named, strict=True))
        shared = overlapping(claimed)
        if shared:
            logger.warning(
                "%s: %d episodes of camera %r show frames of another one, the first begins at sample %d: is its "
                "from_timestamp wrong? `gpuload check` lists them",
                self.placement.files[file], len(shared), self.key, self._starts[shared[0]],
            )  # fmt: skip
        self._resolved[file] = True

    def wanted_s(self, episode: int, rows: slice) -> npt.NDArray[np.float64]:
        """Seconds in the file of some of an episode's rows."""
        wanted_s: npt.NDArray[np.float64] = self._times.seconds[rows] + self.placement.start_s[episode]
        return wanted_s

    def files(self, episodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """int32 ``[n]`` numbers for ``SampleSource.video``; -1: the metadata names no file."""
        file = self.placement.file[episodes]
        return np.where(file < 0, file, file + np.int32(self.first_file))

    def usable(self, episodes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether the file of each episode has been resolved."""
        file = self.placement.file[episodes]
        known: npt.NDArray[np.bool_] = (file >= 0) & np.append(self._resolved, False)[file]
        return known

    def frames(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Frame of each row, -1 where none is near; the rows' files are resolved."""
        return self._frame[rows]


def _looks(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None: it cannot be looked at."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
