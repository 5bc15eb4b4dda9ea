"""The validator behind ``gpuload check``: reads a dataset with suspicion and lists everything that is wrong."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gpuload.errors import GpuloadError
from gpuload.index.load import load_index
from gpuload.index.video import VideoIndex

Severity = Literal["error", "warning"]
TOLERANCE_S = 1e-4
"""LeRobot's default: how far a frame may lie from the timestamp that asks for it."""
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
FETCH = "fetch the dataset again"
CODECS = {"libsvtav1": "av1", "libdav1d": "av1", "libaom-av1": "av1", "libx264": "h264", "avc": "h264", "h265": "hevc",
          "libx265": "hevc", "libvpx-vp9": "vp9"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    severity: Severity
    """``error``: training would fail or see wrong data. ``warning``: it works, but something lies or is wasteful."""
    file: str
    """Relative to the dataset's folder where it lies inside."""
    message: str
    remedy: str
    """What to do."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Where the pictures of one episode and camera are said to be."""

    camera: str
    path: Path
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class Episode:
    """One row of the episode table."""

    number: int
    length: int
    start: int
    stop: int
    data: Path
    clips: tuple[Clip, ...]


def check_dataset(root: Path, *, deep: bool = False, tolerance_s: float = TOLERANCE_S) -> tuple[Finding, ...]:
    """All findings about the dataset in ``root``, errors first. Never stops at the first, never raises for bad data.

    Reads ``meta/``, the counters and vectors of every data file and every video's packet table; with ``deep`` it also
    decodes every picture, which takes as long as playing through the dataset. Changes nothing on disk.
    """
    found = list(findings(root, deep=deep, tolerance_s=tolerance_s))
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: (finding.severity, finding.file)))


def findings(root: Path, *, deep: bool, tolerance_s: float) -> Iterator[Finding]:
    """What ``check_dataset`` promises, in the order of discovery."""
    info_path = root / "meta" / "info.json"
    if not info_path.is_file():
        yield error(root, root if not root.is_dir() else info_path, "no LeRobot dataset is here: no meta/info.json",
                    "give the folder that contains meta/, or download the dataset")  # fmt: skip
        return
    try:
        info = json.loads(info_path.read_bytes())
    except (ValueError, OSError) as cause:
        yield error(root, info_path, f"cannot be read as JSON: {cause}", FETCH)
        return
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        yield error(root, info_path, "has no table of features", FETCH)
        return
    version = str(info.get("codebase_version", "missing"))
    if version != "v3.0":
        yield error(root, info_path, f"codebase_version is {version}: nothing was checked, only v3.0 folders can be",
                    "convert the dataset with LeRobot's convert_dataset_v21_to_v30, then check again")  # fmt: skip
        return
    yield from check_stats(root)
    episodes: list[Episode] = []
    yield from read_episodes(root, info, into=episodes)
    yield from check_totals(root, info, episodes)
    times: dict[int, npt.NDArray[np.float64]] = {}
    yield from check_data(root, info, episodes, times)
    yield from check_videos(root, info, episodes, times, deep=deep, tolerance_s=tolerance_s)


def error(root: Path, path: Path, message: str, remedy: str) -> Finding:
    return Finding("error", name(root, path), message, remedy)


def name(root: Path, path: Path) -> str:
    """``path`` as a person finds it: relative to the dataset where it lies inside."""
    return str(path.relative_to(root)) if path != root and path.is_relative_to(root) else str(path)


def check_stats(root: Path) -> Iterator[Finding]:
    path = root / "meta" / "stats.json"
    try:
        if not isinstance(json.loads(path.read_bytes()), dict):
            yield error(root, path, "is no table of features", "compute the statistics again")
    except FileNotFoundError:
        yield Finding("warning", name(root, path), "is missing, so nothing can be normalised", "compute the statistics")
    except (ValueError, OSError) as cause:
        yield error(root, path, f"cannot be read as JSON: {cause}", "compute the statistics again")


def read_episodes(root: Path, info: Mapping[str, Any], *, into: list[Episode]) -> Iterator[Finding]:
    """Fills ``into`` with the rows that can be used; findings about the others."""
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        yield error(root, root / "meta" / "episodes", "no episode table (meta/episodes/*/*.parquet)", FETCH)
    features: Mapping[str, Any] = info["features"]
    cameras = [
        key for key, feature in features.items() if isinstance(feature, dict) and feature.get("dtype") == "video"
    ]
    data_template = str(info.get("data_path") or "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet")
    video_template = str(
        info.get("video_path") or "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    )
    for path in paths:
        try:
            names = pq.read_schema(path).names
            rows = pq.read_table(path, columns=[n for n in names if not n.startswith("stats/")]).to_pylist()
        except (OSError, pa.ArrowException) as cause:
            yield error(root, path, f"cannot be read as parquet: {first_line(cause)}", FETCH)
            continue
        for camera in cameras:
            if f"videos/{camera}/file_index" not in names:
                yield error(root, path, f"camera {camera} is in info.json, but no episode says which file holds it",
                            f"remove {camera} from the features in meta/info.json, or fetch its files")  # fmt: skip
        for row in rows:
            try:
                data = place(root, data_template, row, prefix="data")
                clips = tuple(
                    Clip(
                        camera,
                        place(root, video_template, row, prefix=f"videos/{camera}", video_key=camera),
                        float(row[f"videos/{camera}/from_timestamp"]),
                        float(row[f"videos/{camera}/to_timestamp"]),
                    )
                    for camera in cameras
                    if f"videos/{camera}/file_index" in row
                )
                span = int(row["dataset_from_index"]), int(row["dataset_to_index"])
                into.append(Episode(int(row["episode_index"]), int(row["length"]), *span, data, clips))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as cause:
                text = f"episode {row.get('episode_index', '?')} cannot be used: {type(cause).__name__}: {cause}"
                yield error(root, path, text, "repair the row, or fetch the dataset again")
    into.sort(key=lambda episode: episode.number)


def place(root: Path, template: str, row: Mapping[str, Any], *, prefix: str, video_key: str = "") -> Path:
    """The file that ``template`` names for a row; ValueError where it lies outside the dataset."""
    chunk, file = int(row[f"{prefix}/chunk_index"]), int(row[f"{prefix}/file_index"])
    text = template.format(chunk_index=chunk, file_index=file, video_key=video_key, episode_chunk=chunk)
    if Path(text).is_absolute() or ".." in Path(text).parts:  # by name: a file may be a link into a download cache
        raise ValueError(f"path {text!r} points outside the dataset")
    return root / text


def check_totals(root: Path, info: Mapping[str, Any], episodes: list[Episode]) -> Iterator[Finding]:
    """The counts of ``info.json`` against the episode table, and that table against itself."""
    path = root / "meta" / "info.json"
    remedy = "correct the number in meta/info.json, or fetch the missing files"
    for key, real in (("total_episodes", len(episodes)), ("total_frames", sum(e.length for e in episodes))):
        if info.get(key) != real:
            yield error(root, path, f"{key} is {info.get(key)}, the episode table has {real}", remedy)
    fps = info.get("fps")
    if not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
        yield error(root, path, f"fps is {fps!r}, not a positive number", "correct fps in meta/info.json")
    table = root / "meta" / "episodes"
    position = 0
    for expected, episode in enumerate(episodes):
        if episode.number != expected:
            yield error(root, table, f"episode {expected} is missing or listed twice (next is {episode.number})", FETCH)
            return
        if (episode.start, episode.stop) != (position, position + episode.length):
            text = f"episode {expected} of length {episode.length} spans rows {episode.start} to {episode.stop}"
            yield error(root, table, f"{text}, expected {position} to {position + episode.length}", FETCH)
        position += episode.length
    tasks = root / "meta" / "tasks.parquet"
    try:
        rows = pq.read_metadata(tasks).num_rows
        if info.get("total_tasks") not in (None, rows):
            text = f"total_tasks is {info['total_tasks']}, tasks.parquet has {rows}"
            yield Finding("warning", name(root, path), text, "correct the number in meta/info.json")
    except FileNotFoundError:
        yield error(root, tasks, "is missing, so no sample has a task", FETCH)
    except (OSError, pa.ArrowException) as cause:
        yield error(root, tasks, f"cannot be read as parquet: {first_line(cause)}", FETCH)


def check_data(
    root: Path, info: Mapping[str, Any], episodes: list[Episode], times: dict[int, npt.NDArray[np.float64]]
) -> Iterator[Finding]:
    """Every data file against the episode table and the features; fills ``times`` with each episode's timestamps."""
    stored = {
        k: f for k, f in info["features"].items() if isinstance(f, dict) and f.get("dtype") not in ("video", None)
    }
    paths = sorted({episode.data for episode in episodes} | set((root / "data").glob("*/*.parquet")))
    rows: dict[int, list[tuple[Path, pa.Table]]] = {}
    for path in paths:
        if not path.is_file():
            hit = [episode.number for episode in episodes if episode.data == path]
            yield error(root, path, f"is missing; episodes {ranges(hit)} need it", FETCH)
            continue
        try:
            schema = pq.read_schema(path)
            wanted = [k for k in schema.names if k in COUNTERS or stored.get(k, {}).get("dtype") not in ("image", None)]
            table = pq.read_table(path, columns=wanted)
        except (OSError, pa.ArrowException) as cause:
            yield error(root, path, f"cannot be read as parquet: {first_line(cause)}", FETCH)
            continue
        for key in (*stored, *(k for k in COUNTERS if k not in stored)):
            if key not in schema.names:
                yield error(
                    root, path, f"has no column {key}", "fetch the file again, or remove the feature from info.json"
                )
        yield from check_shapes(root, path, table, stored)
        if "episode_index" in table.column_names:
            owner = table["episode_index"].to_numpy()
            for number in np.unique(owner):
                rows.setdefault(int(number), []).append((path, table.filter(pa.array(owner == number))))
    for episode in episodes:
        parts = rows.get(episode.number, [])
        found = sum(part.num_rows for _, part in parts)
        if found != episode.length and (found or episode.data.is_file()):
            text = f"episode {episode.number} has {found} rows, the episode table says {episode.length}"
            yield error(root, episode.data, text, FETCH)
        for path in {path for path, _ in parts} - {episode.data}:
            text = f"episode {episode.number} is here, the episode table names {name(root, episode.data)}"
            yield Finding("warning", name(root, path), text, "correct data/file_index in meta/episodes")
        if parts:
            whole = pa.concat_tables([part for _, part in parts])
            yield from check_rows(root, parts[0][0], episode, whole, fps=info.get("fps"))
            if "timestamp" in whole.column_names:
                times[episode.number] = whole["timestamp"].to_numpy().astype(np.float64)


def check_shapes(root: Path, path: Path, table: pa.Table, stored: Mapping[str, Any]) -> Iterator[Finding]:
    """Vectors as long as ``info.json`` says, without nulls."""
    for key in table.column_names:
        column = table[key]
        if column.null_count:
            yield error(root, path, f"column {key} has {column.null_count} empty rows", FETCH)
        shape = stored.get(key, {}).get("shape")
        kind = column.type
        if not isinstance(shape, list) or not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)):
            continue
        if len(shape) == 1 and len(column):
            lengths = {len(row) for row in column.combine_chunks().to_pylist() if row is not None}
            if lengths != {shape[0]}:
                text = f"column {key} holds vectors of length {ranges(sorted(lengths))}, info.json says {shape[0]}"
                yield error(root, path, text, f"correct the shape of {key} in meta/info.json")


def check_rows(root: Path, path: Path, episode: Episode, rows: pa.Table, *, fps: object) -> Iterator[Finding]:
    """One episode's counters: ascending without gaps, and its timestamps finite and on the fps grid."""
    for key, first in (("frame_index", 0), ("index", episode.start)):
        if key in rows.column_names and not rows[key].null_count:
            real = rows[key].to_numpy()
            wrong = np.flatnonzero(real != np.arange(first, first + len(real)))
            if len(wrong):
                row = int(wrong[0])
                text = f"episode {episode.number}: {key} is {real[row]} in row {row}, expected {first + row}"
                yield error(root, path, text, FETCH)
    if "timestamp" not in rows.column_names:
        return
    stamps = rows["timestamp"].to_numpy().astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(stamps))
    if len(bad):
        text = f"episode {episode.number}: timestamp is NaN or infinite in {len(bad)} rows, the first is row {bad[0]}"
        yield error(root, path, text, "record the timestamps again (frame_index / fps)")
    elif isinstance(fps, int | float) and math.isfinite(fps) and fps > 0:
        off = np.abs(stamps - np.arange(len(stamps)) / fps)
        if len(off) and off.max() > TOLERANCE_S + np.abs(stamps).max() * 1e-6:
            row = int(off.argmax())
            text = (
                f"episode {episode.number}: timestamp {stamps[row]:.6f} s in row {row}, {row / fps:.6f} s at {fps} fps"
            )
            yield Finding("warning", name(root, path), text, "correct fps in meta/info.json if the file is right")


def check_videos(
    root: Path,
    info: Mapping[str, Any],
    episodes: list[Episode],
    times: Mapping[int, npt.NDArray[np.float64]],
    *,
    deep: bool,
    tolerance_s: float,
) -> Iterator[Finding]:
    """Every mp4 against the features and the timestamps that ask for its frames."""
    clips: dict[tuple[str, Path], list[tuple[Episode, Clip]]] = {}
    for episode in episodes:
        for clip in episode.clips:
            clips.setdefault((clip.camera, clip.path), []).append((episode, clip))
    for (camera, path), users in sorted(clips.items()):
        if not path.is_file():
            hit = ranges([episode.number for episode, _ in users])
            yield error(root, path, f"is missing; camera {camera} of episodes {hit} needs it", FETCH)
            continue
        try:
            index = load_index(str(path))
        except (GpuloadError, OSError) as cause:
            yield error(root, path, first_line(cause).removeprefix(f"{path}: "), "fetch or encode the file again")
            continue
        ends = int((index.pos + index.size).max()) if index.contiguous and len(index.pos) else 0
        if ends > path.stat().st_size:
            text = f"is truncated: packets reach byte {ends}, the file has {path.stat().st_size}"
            yield error(root, path, text, FETCH)
        yield from check_stream(root, path, camera, index, info)
        for episode, clip in users:
            yield from check_clip(root, clip, episode, index, times.get(episode.number), tolerance_s=tolerance_s)
        if deep:
            yield from check_pictures(root, path, index)


def check_stream(root: Path, path: Path, camera: str, index: VideoIndex, info: Mapping[str, Any]) -> Iterator[Finding]:
    """Size, codec and frame rate of a file against ``info.json``."""
    feature = info["features"][camera]
    shape, names = feature.get("shape"), feature.get("names") or ["height", "width", "channels"]
    if isinstance(shape, list) and len(shape) == 3:
        sides = dict(
            zip([str(n) for n in names] if len(names) == 3 else ["height", "width", "channels"], shape, strict=True)
        )
        stated = sides.get("width"), sides.get("height")
        real = (index.height, index.width) if index.rotation % 180 else (index.width, index.height)
        if stated != real:
            text = f"is {real[0]}x{real[1]}, info.json says {stated[0]}x{stated[1]} for {camera}"
            yield error(root, path, text, f"correct the shape of {camera} in meta/info.json")
    details = feature.get("info") or feature.get("video_info") or {}
    codec = str(details.get("video.codec", index.codec)).lower()
    if CODECS.get(codec, codec) != index.codec:
        yield Finding("warning", name(root, path), f"is {index.codec}, info.json says {codec} for {camera}",
                      "correct video.codec in meta/info.json")  # fmt: skip
    if index.codec not in av.codecs_available:
        yield error(
            root, path, f"this FFmpeg has no decoder for {index.codec}", "encode the file again, as h264 or av1"
        )
    fps = info.get("fps")
    if index.num_frames > 1 and isinstance(fps, int | float) and math.isfinite(fps) and fps > 0:
        step_s = float(np.median(np.diff(index.pts_s)))
        if step_s <= 0 or abs(1 / step_s - fps) > 0.01 * fps:
            real_fps = "no rate at all" if step_s <= 0 else f"{1 / step_s:.4g} frames/s"
            yield error(root, path, f"has {real_fps}, info.json says fps {fps}", "correct fps in meta/info.json")


def check_clip(
    root: Path,
    clip: Clip,
    episode: Episode,
    index: VideoIndex,
    stamps: npt.NDArray[np.float64] | None,
    *,
    tolerance_s: float,
) -> Iterator[Finding]:
    """Every timestamp of an episode has a frame within the tolerance."""
    asked = (np.arange(0) if stamps is None else stamps[np.isfinite(stamps)]) + clip.from_s
    if not math.isfinite(clip.from_s) or clip.to_s < clip.from_s:
        yield error(
            root, clip.path, f"episode {episode.number} is said to lie at {clip.from_s} s to {clip.to_s} s", FETCH
        )
        return
    have = index.pts_s
    if not len(asked) or not len(have):
        return
    right = np.clip(np.searchsorted(have, asked), 1, max(len(have) - 1, 1))
    near = np.minimum(np.abs(have[np.minimum(right, len(have) - 1)] - asked), np.abs(have[right - 1] - asked))
    lost = np.flatnonzero(near > tolerance_s)
    if len(lost):
        text = (
            f"episode {episode.number}: {len(lost)} of {len(asked)} timestamps have no frame within {tolerance_s} s, "
        )
        text += f"the first is {asked[lost[0]]:.4f} s; frames go from {have[0]:.4f} s to {have[-1]:.4f} s"
        yield error(root, clip.path, text, "fetch the file again, or raise tolerance_s if all are off by a little")


def check_pictures(root: Path, path: Path, index: VideoIndex) -> Iterator[Finding]:
    """Decodes the whole file."""
    count = damaged = 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                count += 1
                damaged += frame.is_corrupt
    except (av.FFmpegError, OSError, ValueError) as cause:
        yield error(root, path, f"decoding stops after {count} pictures: {cause}", FETCH)
        return
    if damaged or count < index.num_frames:
        text = f"{count} of {index.num_frames} pictures can be decoded, {damaged} of them damaged"
        yield error(root, path, text, FETCH)


def first_line(cause: BaseException) -> str:
    return (str(cause) or type(cause).__name__).splitlines()[0]


def ranges(numbers: list[int]) -> str:
    """``0-3, 7`` for ``[0, 1, 2, 3, 7]``."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][1] + 1:
            groups[-1][1] = number
        else:
            groups.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in groups) or "none"
