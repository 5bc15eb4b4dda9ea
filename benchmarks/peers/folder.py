"""Where a LeRobot v3.0 folder keeps each frame: for the peers that read mp4 files by themselves, and for the check."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Folder:
    """Rows of all episodes, in their order in the dataset."""

    root: Path
    info: dict[str, Any]
    episodes: pa.Table
    time_s: npt.NDArray[np.float64]
    """Each row's time in its episode."""
    episode: npt.NDArray[np.int64]
    """Each row's position in ``episodes``."""

    @property
    def fps(self) -> float:
        return float(self.info["fps"])

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(key for key, feature in self.info["features"].items() if feature["dtype"] == "video")

    @cached_property
    def start(self) -> npt.NDArray[np.int64]:
        """First row of each episode, then the number of rows."""
        counts = np.bincount(self.episode, minlength=len(self.episodes))
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @cached_property
    def _places(self) -> dict[str, tuple[list[Path], list[float]]]:
        """By camera, each episode's file and its beginning there."""
        found: dict[str, tuple[list[Path], list[float]]] = {}
        for camera in self.cameras:
            names = ("chunk_index", "file_index", "from_timestamp")
            columns: dict[str, list[Any]] = {n: self.episodes[f"videos/{camera}/{n}"].to_pylist() for n in names}
            paths = [
                self.root / self.info["video_path"].format(video_key=camera, chunk_index=chunk, file_index=file)
                for chunk, file in zip(columns["chunk_index"], columns["file_index"], strict=True)
            ]
            found[camera] = paths, columns["from_timestamp"]
        return found

    def frames(self, sample: int, camera: str, offsets: tuple[int, ...]) -> tuple[Path, list[float]]:
        """The file and the times in it of a sample's window, clamped to its episode as LeRobot does."""
        episode = int(self.episode[sample])
        first, stop = int(self.start[episode]), int(self.start[episode + 1])
        rows = [min(max(sample + offset, first), stop - 1) for offset in offsets]
        paths, begins = self._places[camera]
        return paths[episode], [begins[episode] + float(self.time_s[row]) for row in rows]


def read_folder(root: Path) -> Folder:
    """The folder's metadata and row times.

    Raises:
        ValueError: not a v3 folder.
    """
    info = json.loads((root / "meta" / "info.json").read_text())
    if not str(info.get("codebase_version", "")).startswith("v3"):
        raise ValueError(f"{root} is {info.get('codebase_version')}, the peers read v3 only; convert it")
    parts = [pq.read_table(path) for path in sorted((root / "meta" / "episodes").rglob("*.parquet"))]
    episodes = pa.concat_tables(parts).sort_by("episode_index")
    rows = pa.concat_tables(
        [
            pq.read_table(path, columns=["index", "episode_index", "timestamp"])
            for path in sorted((root / "data").rglob("*.parquet"))
        ]
    ).sort_by("index")
    number = np.asarray(episodes["episode_index"].to_numpy(), np.int64)
    position = np.searchsorted(number, rows["episode_index"].to_numpy()).astype(np.int64)
    time_s = np.asarray(rows["timestamp"].to_numpy(), np.float64)
    return Folder(root, info, episodes, time_s, position)
