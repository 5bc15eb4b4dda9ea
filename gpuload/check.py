"""The validator behind ``gpuload check``: reads a dataset with suspicion and lists everything that is wrong."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpuload.check_legacy import read_episodes_v2, read_tasks_v2
from gpuload.check_pictures import DECODE_S, Report, check_pictures
from gpuload.check_videos import check_videos
from gpuload.errors import DatasetError
from gpuload.findings import (
    COUNTERS,
    FETCH,
    INFO,
    TOLERANCE_S,
    UNREADABLE,
    Episode,
    Finding,
    Folder,
    Times,
    first_line,
    name,
    ranges,
)
from gpuload.sources.lerobot_files import number, read_names
from gpuload.sources.lerobot_meta import TEMPLATES_V3
from gpuload.sources.lerobot_rows import LANGUAGE, NEEDED

UNTOLD = -1
"""Of an episode's place among all rows, where the table does not have it."""


def check_dataset(
    root: Path,
    *,
    decode_s: float = DECODE_S,
    tolerance_s: float = TOLERANCE_S,
    report: Report = lambda done, total: None,
) -> tuple[Finding, ...]:
    """All findings about the dataset in ``root``, errors first. Never stops at the first, never raises for bad data.

    Reads ``meta/``, every data file (images left out) and every video's packet table, and decodes pictures for
    ``decode_s`` seconds: of every file a part, and all of them where that suffices (infinity: always all; 0: none).
    ``report(done, total)`` is told of the pictures. Changes nothing in ``root``.
    """
    found: list[Finding] = []
    folder = open_folder(root, found)
    if folder is not None:
        check_stats(folder, found)
        episodes = (read_episodes_v2 if folder.is_v2 else read_episodes)(folder, found)
        tasks = (read_tasks_v2 if folder.is_v2 else read_tasks)(folder, found)
        found += check_totals(folder, episodes)
        times = check_data(folder, episodes, found, tasks=tasks)
        sound: list[tuple[Path, int]] = []
        found += check_videos(folder, episodes, times, sound, tolerance_s=tolerance_s)
        found += check_pictures(folder, sound, seconds=decode_s, report=report)
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: (finding.severity, finding.file)))


def open_folder(root: Path, found: list[Finding]) -> Folder | None:
    """What ``info.json`` says; None, with the reason in ``found``, where nothing else can be checked."""
    folder = Folder(root, {}, {}, math.nan)
    path = folder.root / INFO
    if not path.is_file():
        where = path if root.is_dir() else root
        remedy = "give the folder that contains meta/, or download the dataset"
        found.append(folder.error(where, "no LeRobot dataset is here: no meta/info.json", remedy))
        return None
    info = read_json(folder, path, found)
    if info is None:
        return None
    if not isinstance(info.get("features"), dict):
        found.append(folder.error(path, "has no table of features"))
        return None
    version = info.get("codebase_version") or info.get("version")
    if not str(version).removeprefix("v").startswith(("2.", "3.")):
        text = f"codebase_version is {version!r}: nothing was checked, only v2.x and v3.x folders can be"
        found.append(folder.error(path, text, "convert the dataset with LeRobot's scripts, then check again"))
        return None
    features = {}
    for key, feature in info["features"].items():
        if isinstance(feature, dict) and isinstance(feature.get("dtype"), str):
            features[key] = feature
        else:
            found.append(folder.error(path, f"feature {key} has no dtype", "correct the feature in meta/info.json"))
    stated = info.get("fps")
    fps = math.nan if isinstance(stated, bool) else number(stated)
    if not math.isfinite(fps) or fps <= 0:
        text = f"fps is {stated!r:.40}, not a positive number"
        found.append(folder.error(path, text, "correct fps in meta/info.json"))
        fps = math.nan
    return Folder(root, info, features, fps)


def check_stats(folder: Folder, found: list[Finding]) -> None:
    """The statistics are there and readable; v2.1 keeps them for each episode."""
    paths = [folder.root / "meta" / name for name in ("stats.json", "episodes_stats.jsonl")]
    if paths[0].is_file():
        read_json(folder, paths[0], found)
    elif not (folder.is_v2 and paths[1].is_file()):
        found.append(folder.warning(paths[0], "is missing, so nothing can be normalised", "compute the statistics"))


def read_json(folder: Folder, path: Path, found: list[Finding]) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except UNREADABLE as cause:
        found.append(folder.error(path, f"cannot be read as JSON: {first_line(cause)}"))
        return None
    if not isinstance(content, dict):
        found.append(folder.error(path, "is no JSON object"))
    return content if isinstance(content, dict) else None


def read_tasks(folder: Folder, found: list[Finding]) -> frozenset[int] | None:
    """Numbers of the tasks, None where the table cannot be used."""
    path = folder.root / "meta" / "tasks.parquet"
    try:
        numbers = list(read_names(path, "task"))
    except (*UNREADABLE, DatasetError, KeyError, TypeError) as cause:
        found.append(folder.error(path, f"has no usable tasks: {first_line(cause)}"))
        return None
    total = folder.info.get("total_tasks")
    if total not in (None, len(numbers)):
        text = f"total_tasks is {total}, tasks.parquet has {len(numbers)}"
        found.append(folder.warning(folder.root / INFO, text, "correct the number in meta/info.json"))
    return frozenset(numbers)


def read_episodes(folder: Folder, found: list[Finding]) -> list[Episode]:
    """The rows that can be used, by number; findings about the others."""
    episodes: list[Episode] = []
    paths = sorted((folder.root / "meta" / "episodes").glob("**/*.parquet"))
    if not paths:
        found.append(folder.error(folder.root / "meta" / "episodes", "no episode table (meta/episodes/**/*.parquet)"))
    cameras = [key for key, feature in folder.features.items() if feature["dtype"] == "video"]
    data, video = (str(folder.info.get(key) or usual) for key, usual in TEMPLATES_V3.items())
    for path in paths:
        try:
            names = pq.read_schema(path).names
            rows = pq.read_table(path, columns=[n for n in names if not n.startswith("stats/")]).to_pylist()
        except UNREADABLE as cause:
            found.append(folder.error(path, f"cannot be read as parquet: {first_line(cause)}"))
            continue
        located = [camera for camera in cameras if f"videos/{camera}/file_index" in names]
        for camera in sorted(set(cameras) - set(located)):
            text = f"camera {camera} is in info.json, but no episode says which file holds it"
            found.append(folder.error(path, text, "remove it from the features in meta/info.json, or fetch its files"))
        for row in rows:
            try:
                clips = tuple(folder.clip(row, camera, template=video) for camera in located)
                spans = ("dataset_from_index", "dataset_to_index")
                numbers = [int(row[key]) for key in ("episode_index", "length", *(k for k in spans if k in names))]
                numbers += [UNTOLD] * (4 - len(numbers))
                where = folder.place(row, prefix="data", template=data)
                episodes.append(Episode(numbers[0], numbers[1], numbers[2], numbers[3], where, clips))
            except (DatasetError, KeyError, TypeError, ValueError, OverflowError) as cause:
                text = f"episode {row.get('episode_index', '?')} cannot be used: {type(cause).__name__}: {cause}"
                found.append(folder.error(path, text, "repair the row or the path template in info.json"))
    return counted(sorted(episodes, key=lambda episode: episode.number))


def counted(episodes: list[Episode]) -> list[Episode]:
    """With the places among all rows that the table leaves out."""
    stops = np.cumsum([episode.length for episode in episodes], dtype=np.int64).tolist()
    return [
        replace(e, start=stop - e.length, stop=stop) if UNTOLD in (e.start, e.stop) else e
        for e, stop in zip(episodes, stops, strict=True)
    ]


def check_totals(folder: Folder, episodes: list[Episode]) -> Iterator[Finding]:
    """The counts of ``info.json`` against the episode table, and that table against itself."""
    for key, real in (("total_episodes", len(episodes)), ("total_frames", sum(e.length for e in episodes))):
        if folder.info.get(key) != real:
            text = f"{key} is {folder.info.get(key)}, the episode table has {real}"
            yield folder.warning(folder.root / INFO, text, "correct it in meta/info.json, or fetch the missing files")
    table = folder.root / "meta" / "episodes"
    position, expected = 0, 0
    for episode in episodes:
        if episode.number < expected:
            yield folder.error(table, f"episode {episode.number} is listed twice")
            return
        if episode.number > expected:
            last = episode.number - 1
            missing = str(last) if last == expected else f"{expected}-{last}"
            yield folder.warning(table, f"episodes {missing} are missing: training goes without them", FETCH)
        if (episode.start, episode.stop) != (position, position + episode.length):
            text = f"episode {episode.number} of length {episode.length} spans rows {episode.start} to {episode.stop}"
            yield folder.warning(
                table, f"{text}, expected {position} to {position + episode.length}", "rows are counted instead"
            )
        position, expected = position + episode.length, episode.number + 1


def check_data(
    folder: Folder, episodes: list[Episode], found: list[Finding], *, tasks: frozenset[int] | None
) -> dict[int, Times]:
    """Every data file against the episode table and the features; the timestamps of each episode that has them."""
    rows: dict[int, list[tuple[Path, pa.Table]]] = {}
    absent: list[Path] = []
    for path in sorted({episode.data for episode in episodes} | set((folder.root / "data").glob("**/*.parquet"))):
        if not path.is_file():
            absent.append(path)
            continue
        try:
            counters = read_counters(folder, path, found, tasks=tasks)
        except UNREADABLE as cause:
            found.append(folder.error(path, f"cannot be read as parquet: {first_line(cause)}"))
            continue
        if "episode_index" in counters.column_names:
            owner = counters["episode_index"].to_numpy()
            order = np.argsort(owner, kind="stable")
            counters, (numbers, begins) = counters.take(order), np.unique(owner[order], return_index=True)
            for number, begin, end in zip(numbers, begins, np.append(begins, len(owner))[1:], strict=True):
                rows.setdefault(int(number), []).append((path, counters.slice(begin, end - begin)))
    users: dict[Path, list[int]] = {}
    for e in episodes:
        if e.length and e.number not in rows:  # of rows that lie in another file, the findings below tell
            users.setdefault(e.data, []).append(e.number)
    for path in absent:
        if lost := users.get(path):
            found.append(folder.error(path, f"is missing; episodes {ranges(lost)} need it"))
    times = {}
    for episode in episodes:
        parts = rows.get(episode.number, [])
        total = sum(part.num_rows for _, part in parts)
        if total != episode.length and (parts or episode.data.is_file()):
            text = f"episode {episode.number} has {total} rows, the episode table says {episode.length}"
            found.append(folder.error(episode.data, text))
        for path in {path for path, _ in parts} - {episode.data}:
            text = f"episode {episode.number} is here, the episode table names {name(folder.root, episode.data)}"
            found.append(folder.warning(path, text, "correct data/file_index in meta/episodes"))
        if parts:
            whole = pa.concat_tables([part for _, part in parts], promote_options="default")
            found += check_rows(folder, parts[0][0], episode, whole)
            if "timestamp" in whole.column_names and not whole["timestamp"].null_count:
                times[episode.number] = whole["timestamp"].to_numpy()  # of the type that it is stored in
    return times


def read_counters(folder: Folder, path: Path, found: list[Finding], *, tasks: frozenset[int] | None) -> pa.Table:
    """The counters of a data file, int64, float32 or float64; findings about these and all other columns but images."""
    stored = {key: f for key, f in folder.features.items() if f["dtype"] != "video"}
    names = pq.read_schema(path).names
    for key, feature in stored.items():
        if key not in names and feature["dtype"] in ("string", "image", LANGUAGE):
            found.append(folder.warning(path, f"has no column {key}", "it is left out where no file has it"))
        elif key not in names:
            found.append(folder.error(path, f"has no column {key}", "fetch the file, or remove it from info.json"))
    for key in COUNTERS:
        if key not in stored and key not in names:
            if key in NEEDED:
                found.append(folder.error(path, f"has no column {key}, which samples need"))
            else:
                found.append(folder.warning(path, f"has no column {key}", "some tools expect it; gpuload counts rows"))
    images = {key for key, feature in stored.items() if feature["dtype"] == "image"}
    table = pq.read_table(path, columns=[key for key in names if key not in images])
    columns = {}
    for key in table.column_names:
        if key not in stored and key not in COUNTERS:
            continue  # nobody asks for it
        column, shape = table[key], stored.get(key, {}).get("shape")
        if stored.get(key, {}).get("dtype") in ("string", LANGUAGE):
            continue  # a row may have none, or several
        if column.null_count and key not in COUNTERS and pa.types.is_floating(column.type):
            text = f"column {key} has {column.null_count} empty rows"
            found.append(folder.warning(path, text, "training sees NaN there: correct them, or leave the column out"))
        elif column.null_count:
            found.append(folder.error(path, f"column {key} has {column.null_count} empty rows"))
        elif key in COUNTERS:
            try:
                narrow = key == "timestamp" and pa.types.is_float32(column.type)
                columns[key] = column if narrow else column.cast(pa.float64() if key == "timestamp" else pa.int64())
            except pa.ArrowException as cause:
                found.append(folder.error(path, f"column {key} is {column.type}: {first_line(cause)}"))
        elif key in stored and isinstance(shape, list) and len(shape) == 1 and number(shape[0]) >= 0 and len(column):
            kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
            vector = any(is_kind(column.type) for is_kind in kinds)
            lengths = np.unique(pc.list_value_length(column).to_numpy()).tolist() if vector else [1]
            if lengths != [number(shape[0])]:
                text = f"column {key} holds {column.type} of length {ranges(lengths)}, info.json says {shape[0]}"
                found.append(folder.error(path, text, f"correct the shape of {key} in meta/info.json"))
    if tasks is not None and "task_index" in columns:
        unknown = sorted({int(number) for number in np.unique(columns["task_index"].to_numpy())} - tasks)
        if unknown:
            found.append(folder.error(path, f"task_index {ranges(unknown)} is not in the table of tasks in meta"))
    return pa.table(columns)


def check_rows(folder: Folder, path: Path, episode: Episode, rows: pa.Table) -> Iterator[Finding]:
    """One episode's counters: ascending without gaps, and its timestamps finite and on the fps grid."""
    for key, first in (("frame_index", 0), ("index", episode.start)):
        if key in rows.column_names:
            real = rows[key].to_numpy()
            wrong = np.flatnonzero(real != np.arange(first, first + len(real)))
            if len(wrong):
                row = int(wrong[0])
                text = f"episode {episode.number}: {key} is {real[row]} in row {row}, expected {first + row}"
                yield folder.warning(path, text, "training takes it as it is; other tools may count by it")
    if "timestamp" not in rows.column_names:
        return
    stamps = rows["timestamp"].to_numpy()
    bad = np.flatnonzero(~np.isfinite(stamps))
    if len(bad):
        text = f"episode {episode.number}: timestamp is NaN or infinite in {len(bad)} rows, the first is row {bad[0]}"
        yield folder.error(path, text, "record the timestamps again (frame_index / fps)")
    elif len(stamps):
        off = np.abs(stamps - np.arange(len(stamps)) / folder.fps)
        row = int(off.argmax())
        if off[row] > TOLERANCE_S + np.abs(stamps).max() * 1e-6:  # stored as float32
            text = f"episode {episode.number}: timestamp {stamps[row]:.6f} s in row {row}"
            text += f", {row / folder.fps:.6f} s at {folder.fps:g} fps"
            yield folder.warning(path, text, "correct fps in meta/info.json if the file is right")
