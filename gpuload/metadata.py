"""LeRobotDatasetMetadata: a dataset's metadata, read as LeRobot's scripts read it."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from gpuload.errors import ConfigError, DatasetError, NoSuchEpisode
from gpuload.sources.lerobot_episodes import EpisodeRows
from gpuload.sources.lerobot_files import Stats, read_stats
from gpuload.sources.lerobot_meta import Meta, Placement, place, read_meta
from gpuload.sources.lerobot_root import find_root
from gpuload.sources.lerobot_rows import LANGUAGE


class LeRobotDatasetMetadata:
    """What a LeRobot train script reads of a dataset's metadata; no rows and no videos are opened for it.

    Counts are of the whole dataset, whichever episodes were chosen.

    Raises:
        DatasetError: the folder is not there, or its metadata is damaged.
    """

    def __init__(self, repo_id: str | Path, root: str | Path | None = None, revision: str | None = None) -> None:
        """As of ``LeRobotDataset``: a folder or the name of a downloaded dataset, its folder, which of several."""
        self._set(read_meta(find_root(repo_id, root, revision)), str(repo_id), None)

    @classmethod
    def of(cls, meta: Meta, repo_id: str, stats: Stats | None, *, depth_unit: str = "mm") -> Self:
        """Of metadata that has been read; ``stats``: instead of the dataset's own; ``depth_unit``: of theirs."""
        made = cls.__new__(cls)
        made._set(meta, repo_id, stats, depth_unit)
        return made

    def _set(self, meta: Meta, repo_id: str, stats: Stats | None, depth_unit: str = "mm") -> None:
        self._meta, self._stats, self._depth_unit = meta, stats, depth_unit
        self._placed: dict[str | None, Placement] = {}
        self.repo_id = repo_id
        self.root: Path = meta.root

    def __repr__(self) -> str:
        counts = f"{self.total_episodes} episodes, {self.total_frames} frames"
        return f"{type(self).__name__}({str(self.root)!r}, {counts}, cameras {self.camera_keys})"

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

    @property
    def data_files_size_in_mb(self) -> int | float | None:
        """At which LeRobot begins another file of rows; None: the dataset does not say."""
        return self._meta.info.raw.get("data_files_size_in_mb")  # type: ignore[return-value]  # as the file has it

    @property
    def video_files_size_in_mb(self) -> int | float | None:
        """The same of videos."""
        return self._meta.info.raw.get("video_files_size_in_mb")  # type: ignore[return-value]  # as the file has it

    def get_data_file_path(self, ep_index: int) -> Path:
        """The file of an episode's rows, relative to ``root``.

        Raises:
            NoSuchEpisode: there is none of that number. DatasetError: the metadata names no file.
        """
        return self._file_of(ep_index, None)

    def get_video_file_path(self, ep_index: int, vid_key: str) -> Path:
        """The video file of an episode and camera, relative to ``root``.

        Raises: as ``get_data_file_path``. ConfigError: there is no such camera.
        """
        if vid_key not in self.video_keys:
            raise ConfigError(f"{vid_key!r} is no camera that is stored as video; there are {self.video_keys}")
        return self._file_of(ep_index, vid_key)

    def _file_of(self, ep_index: int, key: str | None) -> Path:
        every = self._meta.every
        row = int(np.searchsorted(every.index, ep_index))
        if row == len(every.index) or every.index[row] != ep_index:
            raise NoSuchEpisode(f"there is no episode {ep_index} among the {len(every.index)} of {self.root}")
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
            read = read_stats(self.root)
            try:
                for key, feature in self._meta.info.features.items():
                    factor = feature.depth_factor(self._depth_unit)
                    if factor != 1 and key in read:
                        read[key] = {
                            name: value if name == "count" else np.multiply(value, factor)
                            for name, value in read[key].items()
                        }
            except TypeError as error:
                raise DatasetError(
                    f"{self.root}/meta: a statistic is no number ({error}); compute the stats again"
                ) from error
            self._stats = read
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
