"""LeRobotMeta: a dataset's metadata, read as LeRobot's scripts read it."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from gpuload.sources.lerobot_episodes import EpisodeRows
from gpuload.sources.lerobot_files import Stats, read_stats
from gpuload.sources.lerobot_meta import Meta


class LeRobotMeta:
    """What a LeRobot train script reads of a dataset's metadata. Counts are of the whole dataset, whichever episodes
    were chosen."""

    def __init__(self, meta: Meta, repo_id: str) -> None:
        self._meta = meta
        self.repo_id = repo_id
        self.root: Path = meta.root

    @property
    def info(self) -> Mapping[str, object]:
        """``info.json`` as it is."""
        return self._meta.info.raw

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """``dtype``, ``shape`` (tuple) and ``names`` of each key; cameras that were left out are not in it."""
        raw = self._meta.info.raw["features"]
        kept = self._meta.info.features
        return {k: {**raw[k], "shape": f.shape} for k, f in kept.items()} if isinstance(raw, dict) else {}

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

    @cached_property
    def stats(self) -> Stats:
        """numpy arrays by feature and statistic; empty where the dataset has none.

        Raises:
            DatasetError: the file is damaged.
        """
        return read_stats(self.root)

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
    def total_frames(self) -> int:
        return int(self._meta.every.length.sum())

    @property
    def total_episodes(self) -> int:
        return len(self._meta.every.index)

    @property
    def total_tasks(self) -> int:
        return len(self._meta.tasks)
