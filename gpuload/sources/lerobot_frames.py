"""One camera of a LeRobot dataset: which frame of which file each row's timestamp means."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gpuload.index.video import VideoIndex
from gpuload.sources.lerobot_meta import Placement


class CameraFrames:
    """Rows to frames, resolved a file at a time when first asked for. Needs its owner's lock around ``resolve``."""

    def __init__(
        self,
        key: str,
        first_file: int,
        placement: Placement,
        starts: npt.NDArray[np.int64],
        timestamps_s: npt.NDArray[np.floating],
        tolerance_s: float,
    ) -> None:
        self.key = key
        self.first_file = first_file
        """The number that ``SampleSource.video`` knows the camera's first file by."""
        self.placement = placement
        self._starts, self._timestamps_s, self._tolerance_s = starts, timestamps_s, tolerance_s
        self._frame = np.full(int(starts[-1]), -1, dtype=np.int32)
        self._resolved = np.zeros(len(placement.files), dtype=np.bool_)

    def unresolved(self, episodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Files of these episodes, as numbers in ``placement``, that ``resolve`` has not seen."""
        if self._resolved.all():
            return np.empty(0, dtype=np.int64)
        files = np.unique(self.placement.file[episodes]).astype(np.int64)
        return files[~self._resolved[files]]

    def resolve(self, file: int, video: Callable[[int], VideoIndex]) -> None:
        """Match all rows of one file to the nearest pts, strictly within the tolerance; others stay -1."""
        pts_s = video(self.first_file + file).pts_s
        for episode in np.flatnonzero(self.placement.file == file).tolist():
            rows = slice(int(self._starts[episode]), int(self._starts[episode + 1]))
            self._frame[rows] = self._nearest(self.wanted_s(episode, self._timestamps_s[rows]), pts_s)
        self._resolved[file] = True

    def wanted_s(self, episode: int, timestamps_s: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Seconds in the file of an episode's timestamps."""
        wanted_s: npt.NDArray[np.float64] = timestamps_s.astype(np.float64) + self.placement.start_s[episode]
        return wanted_s

    def files(self, episodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """int32 ``[n]`` numbers for ``SampleSource.video``."""
        return self.placement.file[episodes] + np.int32(self.first_file)

    def frames(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Frame of each row, -1 where none is near; the rows' files are resolved."""
        return self._frame[rows]

    def _nearest(self, wanted_s: npt.NDArray[np.float64], pts_s: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
        if not len(pts_s):
            return np.full(len(wanted_s), -1, dtype=np.int32)
        after = np.minimum(np.searchsorted(pts_s, wanted_s), len(pts_s) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(np.abs(wanted_s - pts_s[before]) <= np.abs(pts_s[after] - wanted_s), before, after)
        # NaN compares false, so a NaN timestamp has no frame
        near = np.abs(pts_s[nearest] - wanted_s) < self._tolerance_s
        # Timestamps are stored in 32 bits, whose steps are wider than the tolerance from 2,048 s on.
        near |= pts_s[nearest].astype(np.float32) == wanted_s.astype(np.float32)
        return np.where(near, nearest, -1).astype(np.int32)
