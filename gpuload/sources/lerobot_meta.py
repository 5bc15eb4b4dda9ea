"""LeRobot's ``meta`` folder as frozen values, for v3.0, v2.1 and v2.0. Nothing here opens a video or a data file."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gpuload.errors import ConfigError, DatasetError
from gpuload.sources.lerobot_files import (
    Stats,
    number,
    read_json,
    read_jsonl,
    read_names,
    read_parquet,
    read_stats,
    read_tasks_jsonl,
    whole,
)


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

    @property
    def is_video(self) -> bool:
        return self.dtype == "video"

    @property
    def is_image(self) -> bool:
        return self.dtype == "image"

    @property
    def is_depth(self) -> bool:
        return self.info.get("video.is_depth_map") is True or self.info.get("is_depth_map") is True

    @property
    def height_width(self) -> tuple[int, int] | None:
        """What info.json says of the picture, None if it says nothing usable."""
        if len(self.shape) != 3:
            return None
        if self.names[:1] in (("channel",), ("channels",)) or (not self.names and self.shape[0] in (1, 3)):
            return self.shape[1], self.shape[2]
        return self.shape[0], self.shape[1]


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
    video_path: str | None
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
    """``[E]`` into ``files``."""
    start_s: npt.NDArray[np.float64]
    """``[E]`` seconds in the file at which the episode's time 0 lies (0 for data files)."""


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """E episodes, ascending by ``index``."""

    index: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    """Rows as the metadata has it; the data files are asked too."""
    tasks: tuple[tuple[str, ...], ...]
    data: Placement
    videos: Mapping[str, Placement]


@dataclass(frozen=True, slots=True, eq=False)
class Meta:
    """All of ``meta``."""

    root: Path
    info: Info
    episodes: Episodes
    tasks: Mapping[int, str]
    subtasks: Mapping[int, str]
    stats: Stats


def read_meta(root: Path, *, episodes: Iterable[int] | None = None, video_keys: Iterable[str] | None = None) -> Meta:
    """Read ``root/meta``, keep the ``episodes`` and the cameras named in ``video_keys`` (None: all of them).

    Raises:
        DatasetError: a file is missing, damaged or contradicts another; names it and says what to do.
        ConfigError: an episode or camera that the dataset does not have was asked for.
    """
    info = read_info(root)
    cameras = _chosen_cameras(info, video_keys)
    table = _read_episodes_v3(root) if info.is_v3 else _read_episodes_v2(root)
    table = _sorted_subset(table, episodes, root)
    tasks_file = root / "meta" / ("tasks.parquet" if info.is_v3 else "tasks.jsonl")
    tasks = read_names(tasks_file, "task") if info.is_v3 else read_tasks_jsonl(tasks_file)
    subtasks_file = root / "meta" / "subtasks.parquet"
    subtasks = read_names(subtasks_file, "subtask") if subtasks_file.exists() else {}
    placed = _place_v3 if info.is_v3 else _place_v2
    kept = {key: f for key, f in info.features.items() if not f.is_video or key in cameras}
    info = Info(
        info.version, info.fps, kept, info.robot_type, info.chunks_size,
        info.data_path, info.video_path, info.image_path, info.raw,
    )  # fmt: skip
    index = table.index
    data = placed(root, info, table, None)
    videos = {key: placed(root, info, table, key) for key in cameras}
    value = Episodes(index, table.length, table.tasks, data, videos)
    return Meta(root, info, value, tasks, subtasks, read_stats(root))


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
    version = str(raw.get("codebase_version", ""))
    if not version.startswith(("v3.", "v2.")):
        raise DatasetError(f"{path}: codebase_version is {version!r}, readable are v3.x and v2.x; convert the dataset")
    fps = raw.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
        raise DatasetError(f"{path}: fps must be a positive number, got {fps!r}; correct the file")
    listed = raw.get("features")
    if not isinstance(listed, dict) or not listed:
        raise DatasetError(f"{path}: features must be an object with at least one key; correct the file")
    chunks_size = raw.get("chunks_size", 1000)
    if not isinstance(chunks_size, int) or chunks_size < 1:
        raise DatasetError(f"{path}: chunks_size must be a positive integer, got {chunks_size!r}; correct the file")
    v3 = version.startswith("v3")
    data = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet" if v3 else (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet")  # fmt: skip
    text = {name: raw.get(name) for name in ("data_path", "video_path", "image_path", "robot_type")}
    for name, value in text.items():
        if value is not None and not isinstance(value, str):
            raise DatasetError(f"{path}: {name} must be text, got {value!r}; correct the file")
    features = {str(key): _feature(path, str(key), value) for key, value in listed.items()}
    return Info(
        version, float(fps), features, text["robot_type"], chunks_size,
        text["data_path"] or data, text["video_path"], text["image_path"], raw,
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


def inside(root: Path, relative: str, what: str) -> str:
    """``relative``, normalised. Links are not followed: Hugging Face's cache links to its blobs.

    Raises:
        DatasetError: it leaves ``root``.
    """
    clean = os.path.normpath(relative)
    if os.path.isabs(clean) or clean.split(os.sep, 1)[0] == ".." or "\0" in clean:
        raise DatasetError(f"{what} points outside the dataset: {relative!r}; correct it")
    return clean


# episodes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _EpisodeTable:
    source: str
    index: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    tasks: tuple[tuple[str, ...], ...]
    columns: Mapping[str, npt.NDArray[np.float64]]
    """v3: every other number column, NaN where null."""


def _read_episodes_v3(root: Path) -> _EpisodeTable:
    folder = root / "meta" / "episodes"
    files = sorted(folder.glob("**/*.parquet"))
    if not files:
        raise DatasetError(f"{folder} holds no parquet file; download the dataset's meta folder again")
    parts: dict[str, list[npt.NDArray[np.float64]]] = {}
    tasks: list[tuple[str, ...]] = []
    for path in files:
        try:
            names = pq.read_schema(path).names
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DatasetError(f"{path} cannot be read as parquet ({error}); download the file again") from error
        table = read_parquet(path, [name for name in names if not name.startswith("stats/")])
        for name in table.column_names:
            if pa.types.is_integer(table[name].type) or pa.types.is_floating(table[name].type):
                parts.setdefault(name, []).append(table[name].cast(pa.float64()).to_numpy().astype(np.float64))
        listed = table["tasks"].to_pylist() if "tasks" in names else [None] * table.num_rows
        tasks += [tuple(map(str, value)) if isinstance(value, list) else () for value in listed]
    full = {name: np.concatenate(values) for name, values in parts.items()}
    wanted = ("episode_index", "length")
    index, length = (whole(full.pop(name, None), name, str(folder), len(tasks)) for name in wanted)
    complete = {name: values for name, values in full.items() if len(values) == len(index)}
    return _EpisodeTable(str(folder), index, length, tuple(tasks), complete)


def _read_episodes_v2(root: Path) -> _EpisodeTable:
    path = root / "meta" / "episodes.jsonl"
    lines = read_jsonl(path)
    index = whole(np.array([number(x.get("episode_index")) for x in lines]), "episode_index", str(path), len(lines))
    length = whole(np.array([number(x.get("length")) for x in lines]), "length", str(path), len(lines))
    listed = [line.get("tasks") for line in lines]
    tasks = tuple(tuple(map(str, value)) if isinstance(value, list) else () for value in listed)
    return _EpisodeTable(str(path), index, length, tasks, {})


def _sorted_subset(table: _EpisodeTable, episodes: Iterable[int] | None, root: Path) -> _EpisodeTable:
    order = np.argsort(table.index, kind="stable")
    index = table.index[order]
    twice = index[1:][index[1:] == index[:-1]]
    if len(twice):
        raise DatasetError(f"{table.source}: episode {twice[0]} is listed twice; correct the metadata")
    if episodes is not None:
        asked = np.unique(np.fromiter(episodes, dtype=np.int64))
        unknown = np.setdiff1d(asked, index)
        if len(unknown) or not len(asked):
            what = f"episode {unknown[0]} is not among" if len(unknown) else "no episode was asked for of"
            last = index[-1] if len(index) else "none"
            raise ConfigError(f"episodes: {what} the {len(index)} of {root} (last {last})")
        order = order[np.searchsorted(index, asked)]
    if not len(order):
        raise DatasetError(f"{table.source}: no episodes; record or download some")
    columns = {name: values[order] for name, values in table.columns.items()}
    return _EpisodeTable(
        table.source, table.index[order], table.length[order], tuple(table.tasks[i] for i in order), columns
    )


def _place_v3(root: Path, info: Info, table: _EpisodeTable, key: str | None) -> Placement:
    prefix = "data/" if key is None else f"videos/{key}/"
    names = [prefix + "chunk_index", prefix + "file_index"] + ([prefix + "from_timestamp"] if key is not None else [])
    for name in names:
        if name not in table.columns or not np.isfinite(table.columns[name]).all():
            what = "of the data files" if key is None else f"of camera {key!r}"
            hint = "" if key is None else "; if the camera has no files, leave it out with video_keys=[…]"
            raise DatasetError(f"{table.source}: column {name!r} {what} is missing or has gaps{hint}")
    places = np.stack([table.columns[name] for name in names[:2]], axis=1).astype(np.int64)
    distinct, file = np.unique(places, axis=0, return_inverse=True)
    template = info.data_path if key is None else _video_template(root, info)
    files = tuple(
        format_path(
            root, template, chunk_index=c, file_index=f, episode_chunk=c, episode_index=f, video_key=key, image_key=key
        )
        for c, f in distinct.tolist()
    )
    start_s = table.columns[names[2]] if key is not None else np.zeros(len(file))
    return Placement(files, file.reshape(-1).astype(np.int32), start_s.astype(np.float64))


def _place_v2(root: Path, info: Info, table: _EpisodeTable, key: str | None) -> Placement:
    template = info.data_path if key is None else _video_template(root, info)
    files = tuple(path_v2(root, template, e, chunks_size=info.chunks_size, key=key) for e in table.index.tolist())
    return Placement(files, np.arange(len(files), dtype=np.int32), np.zeros(len(files)))


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


def _video_template(root: Path, info: Info) -> str:
    if info.video_path is None:
        raise DatasetError(f"{root}/meta/info.json: video features are listed but video_path is not; correct the file")
    return info.video_path


def _chosen_cameras(info: Info, video_keys: Iterable[str] | None) -> tuple[str, ...]:
    listed = tuple(key for key, feature in info.features.items() if feature.is_video)
    if video_keys is None:
        return listed
    chosen = {video_keys} if isinstance(video_keys, str) else set(video_keys)
    unknown = sorted(chosen - set(listed))
    if unknown:
        raise ConfigError(f"video_keys: {unknown[0]!r} is no video feature; there are {', '.join(listed) or 'none'}")
    return tuple(key for key in listed if key in chosen)


def _feature(path: Path, key: str, value: object) -> Feature:
    if not isinstance(value, dict) or not isinstance(value.get("dtype"), str):
        raise DatasetError(f"{path}: feature {key!r} has no dtype; correct the file")
    shape = value.get("shape", [1])
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise DatasetError(f"{path}: feature {key!r} has the shape {shape!r}; expected a list of integers")
    names = value.get("names")
    flat = tuple(names) if isinstance(names, list) and all(isinstance(n, str) for n in names) else ()
    info: dict[str, object] = {}
    for part in (value.get("video_info"), value.get("info")):
        info |= part if isinstance(part, dict) else {}
    return Feature(key, value["dtype"], tuple(shape), flat, info)
