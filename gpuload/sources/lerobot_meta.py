"""LeRobot's ``meta`` folder as frozen values, for v3.0, v2.1 and v2.0. Nothing here opens a video or a data file."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuload.errors import ConfigError, DatasetError
from gpuload.sources.lerobot_episodes import EpisodeTable, read_episodes_v2, read_episodes_v3
from gpuload.sources.lerobot_files import number, read_json, read_names, read_tasks_jsonl

TEMPLATES_V3 = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
TEMPLATES_V2 = {
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
"""Where info.json says nothing, as LeRobot's own writers."""


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One key of ``info.json``'s features."""

    key: str
    dtype: str
    """LeRobot's name: ``video``, ``image``, ``string``, ``bool`` or a numpy number."""
    shape: tuple[int, ...]
    names: tuple[str, ...]
    """Axis names where the file has a flat list of them, else empty."""
    info: Mapping[str, object]
    """``info`` and the older ``video_info``, joined."""
    is_ragged: bool = False
    """Rows are of a length each, by a shape of null or -1."""

    @property
    def is_video(self) -> bool:
        return self.dtype == "video"

    @property
    def is_image(self) -> bool:
        return self.dtype == "image"

    @property
    def is_depth(self) -> bool:
        return self.info.get("video.is_depth_map") is True or self.info.get("is_depth_map") is True

    def depth_factor(self, unit: str) -> float:
        """What stored distances, and their statistics, are to be multiplied by to be in ``unit``, ``mm`` or ``m``:
        LeRobot (pull request 3899) notes the sensor's unit beside ``is_depth_map``; without a note it is millimetres.
        1 of what is no depth."""
        if not self.is_depth:
            return 1
        is_metres = "m" in (self.info.get("video.depth_unit"), self.info.get("depth_unit"))
        return (1000 if is_metres else 1) / (1000 if unit == "m" else 1)

    @property
    def height_width(self) -> tuple[int, int] | None:
        """What info.json says of the picture, None if it says nothing usable.

        Axes are told by the first letter of their names, of which many are about: ``height``, ``h``, ``rgb``, …
        """
        if len(self.shape) != 3:
            return None
        axes = [name[:1].lower() for name in self.names]
        if len(axes) == 3 and "h" in axes and "w" in axes:
            return self.shape[axes.index("h")], self.shape[axes.index("w")]
        return (self.shape[1], self.shape[2]) if self.shape[0] in (1, 3) else (self.shape[0], self.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Info:
    """``meta/info.json``, checked. Its totals are not kept: rows and episodes are counted instead."""

    version: str
    fps: float
    features: Mapping[str, Feature]
    """In the file's order."""
    robot_type: str | None
    chunks_size: int
    data_path: str
    video_path: str
    image_path: str | None
    raw: Mapping[str, object]

    @property
    def is_v3(self) -> bool:
        return self.version.startswith("v3")


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Which file holds each episode, E episodes."""

    files: tuple[str, ...]
    """Paths relative to the root, distinct."""
    file: npt.NDArray[np.int32]
    """``[E]`` into ``files``; -1: the metadata names none."""
    start_s: npt.NDArray[np.float64]
    """``[E]`` seconds in the file at which the episode's time 0 lies (0 for data files)."""


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """E episodes, ascending by ``index``."""

    index: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    """Rows as the metadata has it; the data files are asked too."""
    data: Placement
    videos: Mapping[str, Placement]


@dataclass(frozen=True, slots=True, eq=False)
class Meta:
    """All of ``meta``, but statistics, which are read when asked for."""

    root: Path
    info: Info
    episodes: Episodes
    """Those chosen."""
    every: EpisodeTable
    """All that there are."""
    tasks: Mapping[int, str]
    subtasks: Mapping[int, str] | None
    """None: the dataset has none."""


def read_meta(root: Path, *, episodes: Iterable[int] | None = None, video_keys: Iterable[str] | None = None) -> Meta:
    """Read ``root/meta``, keep the ``episodes`` and the cameras named in ``video_keys`` (None: all of them).

    Raises:
        DatasetError: a file is missing, damaged or contradicts another; names it and says what to do.
        ConfigError: an episode or camera that the dataset does not have was asked for.
    """
    info = read_info(root)
    cameras = _chosen_cameras(info, video_keys)
    every = read_episodes_v3(root) if info.is_v3 else read_episodes_v2(root)
    table = every if episodes is None else every.subset(episodes, str(root))
    tasks_file = root / "meta" / ("tasks.parquet" if info.is_v3 else "tasks.jsonl")
    tasks = read_names(tasks_file, "task") if info.is_v3 else read_tasks_jsonl(tasks_file)
    subtasks_file = root / "meta" / "subtasks.parquet"
    subtasks = read_names(subtasks_file, "subtask") if subtasks_file.exists() else None
    kept = {key: f for key, f in info.features.items() if not f.is_video or key in cameras}
    info = replace(info, features=kept)
    data = place(root, info, table, None)
    videos = {key: place(root, info, table, key) for key in cameras}
    return Meta(root, info, Episodes(table.index, table.length, data, videos), every, tasks, subtasks)


def read_info(root: Path) -> Info:
    """``meta/info.json``.

    Raises:
        DatasetError: missing, no JSON, an unknown version, or a value that cannot be used.
    """
    path = root / "meta" / "info.json"
    if not path.exists():
        raise DatasetError(f"{root} is no LeRobot dataset: it has no meta/info.json; give the folder that holds meta/")
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise DatasetError(f"{path}: expected a JSON object, got {type(raw).__name__}; download the file again")
    version = "v" + str(raw.get("codebase_version") or raw.get("version") or "").removeprefix("v")
    if not version.startswith(("v3.", "v2.")):
        said = raw.get("codebase_version") or raw.get("version")
        raise DatasetError(f"{path}: codebase_version is {said!r}, readable are v3.x and v2.x; convert the dataset")
    stated = raw.get("fps")
    fps = math.nan if isinstance(stated, bool) else number(stated)
    if not math.isfinite(fps) or fps <= 0:
        raise DatasetError(f"{path}: fps must be a positive number, got {stated!r:.40}; correct the file")
    listed = raw.get("features")
    if not isinstance(listed, dict) or not listed:
        raise DatasetError(f"{path}: features must be an object with at least one key; correct the file")
    chunks_size = 1000 if raw.get("chunks_size") is None else integer(raw["chunks_size"])
    if chunks_size is None or chunks_size < 1:
        raise DatasetError(
            f"{path}: chunks_size must be a positive integer, got {raw['chunks_size']!r}; correct the file"
        )
    usual = TEMPLATES_V3 if version.startswith("v3") else TEMPLATES_V2
    robot_type = raw.get("robot_type")
    text = {name: raw.get(name) for name in ("data_path", "video_path", "image_path")}
    for name, value in text.items():
        if value is not None and not isinstance(value, str):
            raise DatasetError(f"{path}: {name} must be text, got {value!r}; correct the file")
    features = {str(key): read_feature(path, str(key), value) for key, value in listed.items()}
    return Info(
        version, fps, features, robot_type if isinstance(robot_type, str) else None, chunks_size,
        text["data_path"] or usual["data_path"], text["video_path"] or usual["video_path"], text["image_path"], raw,
    )  # fmt: skip


def format_path(root: Path, template: str, **fields: object) -> str:
    """The template formatted by ``str.format``, relative to ``root``.

    Raises:
        DatasetError: an unknown field, or a path outside ``root``.
    """
    try:
        relative = template.format(**fields)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        known = ", ".join(sorted(fields))
        raise DatasetError(
            f"{root}/meta/info.json: path template {template!r} cannot be formatted ({error!r}); known fields: {known}"
        ) from error
    return inside(root, relative, f"path template {template!r} of {root}/meta/info.json")


LONGEST_NAME = 255
"""Bytes, on every file system in use."""


def inside(root: Path, relative: str, what: str) -> str:
    """``relative``, normalised. Links are not followed: Hugging Face's cache links to its blobs.

    Raises:
        DatasetError: it leaves ``root``, or no file can have such a name.
    """
    clean = os.path.normpath(relative)
    if max(map(len, os.fsencode(clean).split(os.fsencode(os.sep)))) > LONGEST_NAME:
        raise DatasetError(f"{what} is too long for a file: {relative!r:.80}…; correct it")
    if os.path.isabs(clean) or clean.split(os.sep, 1)[0] == ".." or "\0" in clean:
        raise DatasetError(f"{what} points outside the dataset: {relative!r}; correct it")
    return clean


# placement -----------------------------------------------------------------------------------------------------------


def place(root: Path, info: Info, table: EpisodeTable, key: str | None) -> Placement:
    """Where a table's episodes lie: in the files of a camera, or in those of the rows (``key`` None).

    Raises:
        DatasetError: the table says nothing of that camera, or a path cannot be used.
    """
    return (_place_v3 if info.is_v3 else _place_v2)(root, info, table, key)


def _place_v3(root: Path, info: Info, table: EpisodeTable, key: str | None) -> Placement:
    prefix = "data/" if key is None else f"videos/{key}/"
    names = [prefix + "chunk_index", prefix + "file_index"] + ([prefix + "from_timestamp"] if key is not None else [])
    absent = [name for name in names if name not in table.columns]
    if absent and key is not None:
        raise DatasetError(
            f"{table.source}: column {absent[0]!r} of camera {key!r} is missing; "
            "if the camera has no files, leave it out with video_keys=[…]"
        )
    if absent:  # rows are looked for in all files
        return Placement((), np.full(len(table.index), -1, np.int32), np.zeros(len(table.index)))
    placed = np.isfinite([table.columns[name] for name in names]).all(axis=0)
    places = np.stack([np.where(placed, table.columns[name], -1) for name in names[:2]], axis=1).astype(np.int64)
    distinct, inverse = np.unique(places[placed], axis=0, return_inverse=True)
    file = np.full(len(places), -1, np.int32)
    file[placed] = inverse.reshape(-1)
    template = info.data_path if key is None else info.video_path
    files = tuple(path_v3(root, template, c, f, key=key) for c, f in distinct.tolist())
    start_s = table.columns[names[2]] if key is not None else np.zeros(len(file))
    return Placement(files, file, start_s.astype(np.float64))


def path_v3(root: Path, template: str, chunk: int, file: int, *, key: str | None) -> str:
    """A file of a v3.0 dataset (of a camera), relative to ``root``. Raises as ``path_v2``."""
    older = {"episode_chunk": chunk, "episode_index": file}
    return format_path(root, template, chunk_index=chunk, file_index=file, video_key=key, image_key=key, **older)


def _place_v2(root: Path, info: Info, table: EpisodeTable, key: str | None) -> Placement:
    template = info.data_path if key is None else info.video_path
    recorded = table.length > 0  # a recording that was broken off at once has no files
    numbers = table.index[recorded].tolist()
    files = tuple(path_v2(root, template, e, chunks_size=info.chunks_size, key=key) for e in numbers)
    file = np.full(len(recorded), -1, np.int32)
    file[recorded] = np.arange(len(files))
    return Placement(files, file, np.zeros(len(file)))


def path_v2(root: Path, template: str, episode: int, *, chunks_size: int, key: str | None) -> str:
    """The file of one episode (and camera) of a v2.x dataset, relative to ``root``.

    Raises:
        DatasetError: the template cannot be formatted or leaves ``root``.
    """
    chunk = episode // chunks_size
    fields = {"episode_chunk": chunk, "chunk_index": chunk, "file_index": episode, "video_key": key, "image_key": key}
    path = format_path(root, template, episode_index=episode, **fields)
    if "{episode_index" in template.rpartition("/")[0] and not (root / path).exists():
        # Isaac-GR00T's sets say chunk-{episode_index:03d} and mean the chunk
        folder, _, name = template.rpartition("/")
        folder = format_path(root, folder, episode_index=chunk, **fields)
        path = format_path(root, f"{folder}/{name}", episode_index=episode, **fields)
    return path


def _chosen_cameras(info: Info, video_keys: Iterable[str] | None) -> tuple[str, ...]:
    listed = tuple(key for key, feature in info.features.items() if feature.is_video)
    if video_keys is None:
        return listed
    chosen = {video_keys} if isinstance(video_keys, str) else set(video_keys)
    unknown = sorted(chosen - set(listed))
    if unknown:
        raise ConfigError(f"video_keys: {unknown[0]!r} is no video feature; there are {', '.join(listed) or 'none'}")
    return tuple(key for key in listed if key in chosen)


def read_feature(path: Path, key: str, value: object) -> Feature:
    """One of ``info.json``'s features. Raises DatasetError: it has no dtype, or no usable shape."""
    if not isinstance(value, dict) or not isinstance(value.get("dtype"), str):
        raise DatasetError(f"{path}: feature {key!r} has no dtype; correct the file")
    stated = value.get("shape", [1])
    listed = stated if isinstance(stated, list) else [stated]
    sides = [integer(n) for n in listed]
    shape = tuple(n for n in sides if n is not None and n >= 0)
    others = [n for n, side in zip(listed, sides, strict=True) if side is None or side < 0]
    is_picture = value["dtype"] in ("video", "image")
    if any(n not in (None, -1) for n in others) and not is_picture:
        raise DatasetError(f"{path}: feature {key!r} has the shape {stated!r}; expected a list of integers")
    if others:
        shape = ()  # pictures have a size of their own
    names = value.get("names")
    flat = tuple(names) if isinstance(names, list) and all(isinstance(n, str) for n in names) else ()
    info: dict[str, object] = {}
    for part in (value.get("video_info"), value.get("info")):
        info |= part if isinstance(part, dict) else {}
    return Feature(key, value["dtype"], shape, flat, info, is_ragged=bool(others) and not is_picture)


def integer(value: object) -> int | None:
    """Also where a writer made it a float; None: it is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
