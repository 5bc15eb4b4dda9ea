"""The validator's eyes for v2.0 and v2.1 folders: a file an episode, tables as lines of JSON."""

import json
from collections.abc import Iterator
from typing import Any

from gpuload.errors import DatasetError
from gpuload.findings import UNREADABLE, Clip, Episode, Finding, Folder, first_line
from gpuload.sources.lerobot_meta import TEMPLATES_V2, integer, path_v2


def read_tasks_v2(folder: Folder, found: list[Finding]) -> frozenset[int] | None:
    """Numbers of the tasks, None where the table cannot be used."""
    path = folder.root / "meta" / "tasks.jsonl"
    numbers = []
    for row in lines(folder, "tasks.jsonl", found):
        number, text = row.get("task_index"), row.get("task")
        if isinstance(number, int) and isinstance(text, str):
            numbers.append(number)
        else:
            found.append(folder.error(path, f"task {number!r} has no number or no text"))
    return frozenset(numbers) if numbers else None


def read_episodes_v2(folder: Folder, found: list[Finding]) -> list[Episode]:
    """The lines that can be used, by number; findings about the others. Rows of the dataset are counted."""
    path = folder.root / "meta" / "episodes.jsonl"
    lengths: dict[int, int] = {}
    for row in lines(folder, "episodes.jsonl", found):
        number, length = row.get("episode_index"), row.get("length")
        if not (isinstance(number, int) and isinstance(length, int) and number >= 0 and length >= 0):
            found.append(folder.error(path, f"episode {number!r} of length {length!r} cannot be used"))
        elif number in lengths:
            found.append(folder.error(path, f"episode {number} is listed twice"))
        else:
            lengths[number] = length
    cameras = [key for key, feature in folder.features.items() if feature["dtype"] == "video"]
    episodes, start = [], 0
    for number, length in sorted(lengths.items()):
        try:
            data = folder.root / place_v2(folder, "data_path", number, key=None)
            clips = tuple(
                Clip(camera, folder.root / place_v2(folder, "video_path", number, key=camera), 0.0, None)
                for camera in (cameras if length else ())  # one that was broken off at once has no files
            )
        except (DatasetError, TypeError) as cause:
            found.append(folder.error(folder.root / "meta" / "info.json", first_line(cause), "correct the template"))
            return []
        episodes.append(Episode(number, length, start, start + length, data, clips))
        start += length
    return episodes


def place_v2(folder: Folder, template: str, episode: int, *, key: str | None) -> str:
    """The file of an episode, relative to the dataset. Raises DatasetError or TypeError for a useless template."""
    text = folder.info.get(template) or TEMPLATES_V2[template]
    if not isinstance(text, str):
        raise TypeError(f"{template} is {text!r}, not a path template")
    stated = folder.info.get("chunks_size")
    chunks_size = 1000 if stated is None else integer(stated)
    if chunks_size is None or chunks_size < 1:
        raise TypeError(f"chunks_size is {stated!r}, not a positive whole number")
    return path_v2(folder.root, text, episode, chunks_size=chunks_size, key=key)


def lines(folder: Folder, name: str, found: list[Finding]) -> Iterator[dict[str, Any]]:
    """The objects of a file in ``meta/``; findings about what is none."""
    path = folder.root / "meta" / name
    try:
        text = path.read_text()
    except UNREADABLE as cause:
        found.append(folder.error(path, f"cannot be read: {first_line(cause)}"))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as cause:
            found.append(folder.error(path, f"line {number} is no JSON: {first_line(cause)}"))
            continue
        if isinstance(row, dict):
            yield row
        else:
            found.append(folder.error(path, f"line {number} is no JSON object"))
