"""One video file, frame by frame."""

import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt
import torch

from gpuload.errors import ConfigError, NothingShown, OutOfRange
from gpuload.index.load import load_index
from gpuload.pipeline.direct import DirectReader


class Video:
    """A video file: its index, read once and cached, and exact pictures decoded on the CPU.

    ``video[3]``, ``video[10:20]``, ``len(video)`` and iteration work as on a sequence of pictures. Not thread-safe; a
    pickle opens the file again.

    Raises:
        VideoError: the file cannot be read or holds no video. ConfigError: ``path`` is no path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise ConfigError(f"Video takes the path of a file, got {type(path).__name__}; write its bytes to a file")
        self.index = load_index(os.fspath(path))
        self._reader: DirectReader | None = None
        self._pid = 0

    def __len__(self) -> int:
        """Frames."""
        return self.index.num_frames

    @property
    def pts_s(self) -> npt.NDArray[np.float64]:
        """float64 ``[len]``: presentation time of each frame in seconds, ascending."""
        return self.index.pts_s

    @property
    def fps(self) -> float:
        """Frames per second on average; 0 of less than two frames."""
        times_s = self.pts_s
        span_s = float(times_s[-1] - times_s[0]) if len(times_s) else 0.0
        return (len(times_s) - 1) / span_s if span_s else 0.0

    @property
    def height(self) -> int:
        """Pixels as shown, after rotation."""
        return self.index.shown_size[0]

    @property
    def width(self) -> int:
        """Pixels as shown, after rotation."""
        return self.index.shown_size[1]

    @property
    def codec(self) -> str:
        """FFmpeg's name: ``h264``, ``av1``, …"""
        return self.index.codec

    @property
    def gops(self) -> npt.NDArray[np.int64]:
        """int64 ``[num_gops, 2]``: packets ``[start, stop)`` of each GOP, in decode order."""
        return self.index.gops

    def frames(self, numbers: Sequence[int] | npt.NDArray[np.integer]) -> torch.Tensor:
        """uint8 ``[n, 3, H, W]`` RGB on the CPU, in the order asked for; negative numbers count from the end.

        Raises:
            OutOfRange: there is no such frame. DecodeError: it is damaged. ConfigError: these are no whole numbers.
        """
        asked = np.asarray(numbers)
        if asked.size == 0:
            asked = asked.astype(np.int64)
        if asked.ndim != 1 or asked.dtype.kind not in "iuf" or (asked != np.rint(asked)).any():
            raise ConfigError(
                f"frames takes a sequence of frame numbers, got {asked.dtype} of shape {asked.shape}: {numbers!r:.80}"
            )
        wanted = asked.astype(np.int64)
        bad = wanted[(wanted < -len(self)) | (wanted >= len(self))]
        if len(bad):
            raise OutOfRange(f"{self.index.path}: frame {bad[0]} of {len(self)}")
        out = np.empty((len(wanted), 3, *self.index.shown_size), np.uint8)
        self._opened().read(self.index, wanted % max(len(self), 1), out)
        return torch.from_numpy(out)

    def frames_at(self, times_s: Sequence[float] | npt.NDArray[np.floating]) -> torch.Tensor:
        """uint8 ``[n, 3, H, W]``: the picture that is on the screen at each time, in seconds.

        A frame is shown until the next one's pts; the last one as long as frames are shown in the median.

        Raises:
            NothingShown: a time before the first frame or after the end of the last. Else as ``frames``.
        """
        wanted_s, pts_s = np.asarray(times_s, dtype=np.float64), self.pts_s
        if wanted_s.ndim != 1:
            raise ConfigError(f"frames_at takes a sequence of seconds, got shape {wanted_s.shape}")
        first_s, end_s = (float(pts_s[0]), float(pts_s[-1] + self._last_shown_s())) if len(pts_s) else (0.0, 0.0)
        outside = wanted_s[~((wanted_s >= first_s) & (wanted_s < end_s))]  # NaN is outside
        if len(outside):
            raise NothingShown(
                f"{self.index.path}: nothing is shown at {outside[0]} s, frames are shown from {first_s:.6f} s to "
                f"{end_s:.6f} s"
            )
        return self.frames(np.searchsorted(pts_s, wanted_s, side="right") - 1)

    def __getitem__(self, what: int | slice) -> torch.Tensor:
        """uint8 ``[3, H, W]`` of a number, ``[n, 3, H, W]`` of a slice. Raises as ``frames``."""
        if isinstance(what, slice):
            return self.frames(range(len(self))[what])
        return self.frames([operator.index(what)])[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        """uint8 ``[3, H, W]`` of each frame, each decoded once. Raises as ``frames``."""
        with closing(DirectReader()) as reader:  # its own: frames may be asked for in between
            for picture in reader.play(self.index):
                yield torch.from_numpy(picture)

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.index.path}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]  # the file is what there is to it

    def __repr__(self) -> str:
        return f"Video({self.index.path!r}, {len(self)} frames, {self.width}x{self.height}, {self.codec})"

    def _last_shown_s(self) -> float:
        return float(np.median(np.diff(self.pts_s))) if len(self) > 1 else 1.0

    def _opened(self) -> DirectReader:
        if self._reader is None or self._pid != os.getpid():
            self._reader, self._pid = DirectReader(), os.getpid()
        return self._reader
