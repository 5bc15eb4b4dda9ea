"""A small real dataset without parquet: episodes of generated videos whose frames carry their own number."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gpuload.errors import FrameNotFound, GpuloadError
from gpuload.index.load import load_index
from gpuload.index.video import VideoIndex
from gpuload.sources.base import FrameRefs, VideoField
from tests.videos import make_video


class NumberedSource:
    """One file a camera and episode; sample ``i`` is frame ``i - first`` of its episode, with windows of offsets."""

    def __init__(
        self,
        folder: Path,
        *,
        episodes: int = 3,
        frames: int = 40,
        cameras: int = 2,
        offsets: tuple[int, ...] = (-1, 0),
        dtype: str = "uint8",
        **video: Any,
    ) -> None:
        video = {"width": 96, "height": 64, "gop": 10, **video}
        self.frames_per_episode, self.cameras, self.offsets = frames, cameras, offsets
        self.paths = [
            make_video(folder / f"e{e}c{c}.mp4", frames=frames, **video)
            for e in range(episodes)
            for c in range(cameras)
        ]
        self.episodes = episodes
        self._fields = tuple(
            VideoField(f"cam{c}", len(offsets), len(offsets) == 1, video["height"], video["width"], 3, dtype)
            for c in range(cameras)
        )
        self._videos: dict[int, VideoIndex] = {}
        self.fingerprint = f"{episodes}x{frames}x{cameras}{offsets}"

    @property
    def video_fields(self) -> tuple[VideoField, ...]:
        return self._fields

    @property
    def image_keys(self) -> tuple[str, ...]:
        return ()

    @property
    def image_pixels(self) -> int:
        return 0

    @property
    def reach(self) -> tuple[int, int]:
        return max(0, -min(self.offsets)), max(0, *self.offsets)

    @property
    def source(self) -> "NumberedSource":
        return self

    def __len__(self) -> int:
        return self.episodes * self.frames_per_episode

    def frames(self, samples: npt.NDArray[np.int64]) -> FrameRefs:
        episode, row = np.divmod(samples, self.frames_per_episode)
        window = np.clip(row[:, None] + np.array(self.offsets), 0, self.frames_per_episode - 1)
        files = [np.repeat(episode[:, None] * self.cameras + c, len(self.offsets), 1) for c in range(self.cameras)]
        return FrameRefs(np.concatenate(files, 1).astype(np.int32), np.tile(window, (1, self.cameras)).astype(np.int32))

    def video(self, file: int) -> VideoIndex:
        if file not in self._videos:
            self._videos[file] = load_index(self.paths[file], cache_dir=self.paths[file].parent / "index")
        return self._videos[file]

    def error_of(self, sample: int, slot: int) -> GpuloadError:
        return FrameNotFound(f"sample {sample}: no frame for slot {slot}")

    def episode_starts(self) -> npt.NDArray[np.int64]:
        return np.arange(self.episodes, dtype=np.int64) * self.frames_per_episode

    def gop_starts(self) -> npt.NDArray[np.int64]:
        video = self.video(0)
        rows = np.searchsorted(video.frame_packet[np.argsort(video.frame_packet)], video.keyframes)
        return np.unique((self.episode_starts()[:, None] + rows).ravel())

    def columns(self, samples: npt.NDArray[np.int64]) -> dict[str, torch.Tensor | list[str]]:
        return {
            "index": torch.from_numpy(samples.copy()),
            "task": [f"episode {s // self.frames_per_episode}" for s in samples],
        }
