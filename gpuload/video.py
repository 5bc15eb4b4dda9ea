"""One video file as a sequence of frames."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from gpuload.errors import ConfigError
from gpuload.index.load import load_index
from gpuload.pipeline.direct import DirectReader


class Video:
    """Exact frames of any file that FFmpeg opens. Not thread-safe; safe to use after a fork."""

    def __init__(self, path: str | Path) -> None:
        self.index = load_index(path)
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
            IndexError: there is no such frame. DecodeError: it is damaged.
        """
        wanted = np.asarray(numbers, dtype=np.int64)
        if wanted.ndim != 1:
            raise ConfigError(f"frames takes a sequence of frame numbers, got shape {wanted.shape}")
        bad = wanted[(wanted < -len(self)) | (wanted >= len(self))]
        if len(bad):
            raise IndexError(f"{self.index.path}: frame {bad[0]} of {len(self)}")
        turned = self.index.rotation % 180 != 0
        height, width = self.index.height, self.index.width
        shape = (len(wanted), 3, width, height) if turned else (len(wanted), 3, height, width)
        out = np.empty(shape, np.uint8)
        if self._reader is None or self._pid != os.getpid():
            self._reader, self._pid = DirectReader(), os.getpid()
        self._reader.read(self.index, wanted % max(len(self), 1), out)
        return torch.from_numpy(out)
