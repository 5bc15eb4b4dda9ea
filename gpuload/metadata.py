"""LeRobotMeta: a dataset's metadata, read as LeRobot's scripts read it."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpuload.errors import ConfigError, DatasetError
from gpuload.sources.lerobot_episodes import EpisodeRows
from gpuload.sources.lerobot_files import Stats, read_stats
from gpuload.sources.lerobot_meta import Meta, Placement, place
from gpuload.sources.lerobot_rows import LANGUAGE


class LeRobotMeta:
    """What a LeRobot train script reads of a dataset's metadata. Counts are of the whole dataset, whichever episodes
    were chosen."""

    def __init__(self, meta: Meta, repo_id: str, stats: Stats | None = None) -> None:
        """``stats``: instead of the dataset's own."""
        self._meta, self._stats = meta, stats
        self._placed: dict[str | None, Placement] = {}
        self.repo_id = repo_id
        self.root: Path = meta.root

    @cached_property
    def info(self) -> dict[str, Any]:
        """``info.json``, with ``features`` as below."""
        return {**self._meta.info.raw, "features": self.features}

    @cached_property
    def features(self) -> dict[str, dict[str, Any]]:
        """``dtype``, ``shape`` (tuple) and ``names`` of each key; cameras that were left out are not in it."""
        raw = self._meta.info.raw["features"]
        kept = self._meta.info.features
        return {k: {**raw[k], "shape": f.shape} for k, f in kept.items()} if isinstance(raw, dict) else {}

    @property
    def data_path(self) -> str:
        """How files of rows are named, relative to ``root``; to be formatted."""
        return self._meta.info.data_path

    @property
    def video_path(self) -> str | None:
        """How video files are named; None: the dataset has none."""
        return self._meta.info.video_path if self.video_keys else None

    @property
    def chunks_size(self) -> int:
        """Files, or episodes, in a folder."""
        return self._meta.info.chunks_size

    def get_data_file_path(self, ep_index: int) -> Path:
        """The file of an episode's rows, relative to ``root``.

        Raises:
            ConfigError: there is no such episode. DatasetError: the metadata names no file.
        """
        return self._file_of(ep_index, None)

    def get_video_file_path(self, ep_index: int, vid_key: str) -> Path:
        """The video file of an episode and camera, relative to ``root``.

        Raises: as ``get_data_file_path``.
        """
        if vid_key not in self.video_keys:
            raise ConfigError(f"{vid_key!r} is no camera that is stored as video; there are {self.video_keys}")
        return self._file_of(ep_index, vid_key)

    def _file_of(self, ep_index: int, key: str | None) -> Path:
        every = self._meta.every
        row = int(np.searchsorted(every.index, ep_index))
        if row == len(every.index) or every.index[row] != ep_index:
            raise ConfigError(f"there is no episode {ep_index} among the {len(every.index)} of {self.root}")
        if key not in self._placed:
            self._placed[key] = place(self.root, self._meta.info, every, key)
        file = int(self._placed[key].file[row])
        if file < 0:
            raise DatasetError(f"{every.source}: names no file of {key or 'the rows'} for episode {ep_index}")
        return Path(self._placed[key].files[file])

    @property
    def fps(self) -> int | float:
        fps = self._meta.info.fps
        return int(fps) if fps.is_integer() else fps

    @property
    def robot_type(self) -> str | None:
        return self._meta.info.robot_type

    @property
    def names(self) -> dict[str, Any]:
        """Of each feature's axes or values, as ``info.json`` has them."""
        return {key: feature.get("names") for key, feature in self.features.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: feature["shape"] for key, feature in self.features.items()}

    @property
    def stats(self) -> Stats:
        """numpy arrays by feature and statistic, to be changed if you like; empty where the dataset has none.

        Raises:
            DatasetError: the file is damaged.
        """
        if self._stats is None:
            self._stats = read_stats(self.root)
        return self._stats

    @stats.setter
    def stats(self, stats: Stats) -> None:
        self._stats = stats

    @property
    def known_stats(self) -> Stats | None:
        """``stats``, if it has been read or set: what copies have to be given."""
        return self._stats

    @property
    def tasks(self) -> Mapping[int, str]:
        return self._meta.tasks

    def get_task_index(self, task: str) -> int | None:
        """The number of a task, None if it is none."""
        return next((number for number, text in self._meta.tasks.items() if text == task), None)

    @property
    def subtasks(self) -> Mapping[int, str] | None:
        return self._meta.subtasks

    @property
    def video_keys(self) -> list[str]:
        return [key for key, f in self._meta.info.features.items() if f.is_video]

    @property
    def image_keys(self) -> list[str]:
        return [key for key, f in self._meta.info.features.items() if f.is_image]

    @property
    def camera_keys(self) -> list[str]:
        return [key for key, f in self._meta.info.features.items() if f.is_video or f.is_image]

    @property
    def depth_keys(self) -> list[str]:
        return [key for key in self.camera_keys if self._meta.info.features[key].is_depth]

    @cached_property
    def episodes(self) -> EpisodeRows:
        """As LeRobot's: ``meta.episodes["dataset_from_index"]``, ``meta.episodes[3]["tasks"]``."""
        return EpisodeRows(self._meta.every)

    @property
    def has_language_columns(self) -> bool:
        """Whether rows carry annotations; LeRobot's train script chooses its ``collate_fn`` by it."""
        return any(f.dtype == LANGUAGE for f in self._meta.info.features.values())

    @property
    def total_frames(self) -> int:
        return int(self._meta.every.length.sum())

    @property
    def total_episodes(self) -> int:
        return len(self._meta.every.index)

    @property
    def total_tasks(self) -> int:
        return len(self._meta.tasks)
