"""What the validator finds and where it looks: values that its parts share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpuload.sources.lerobot_meta import path_v3

Severity = Literal["error", "warning"]
Times = npt.NDArray[np.float64]
"""Seconds, one per row of an episode."""
TOLERANCE_S = 1e-4
"""LeRobot's default: how far a frame may lie from the timestamp that asks for it."""
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
FETCH = "fetch the dataset again"
INFO = "meta/info.json"
NAMES = {
    "libsvtav1": "av1", "libdav1d": "av1", "libaom-av1": "av1", "av01": "av1", "libx264": "h264", "avc": "h264",
    "avc1": "h264", "h265": "hevc", "libx265": "hevc", "hvc1": "hevc", "hev1": "hevc", "mp4v": "mpeg4", "vp09": "vp9",
    "libvpx-vp9": "vp9", "libvpx": "vp8",
}  # fmt: skip
"""FFmpeg's codec names for what recorders write instead."""
UNREADABLE = (OSError, ValueError, pa.ArrowException)
"""What reading a damaged JSON or parquet file raises."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    severity: Severity
    """``error``: training would fail or see wrong data. ``warning``: it works, but something lies or is missing."""
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
    to_s: float | None
    """None where the dataset does not say."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One row of the episode table."""

    number: int
    length: int
    start: int
    stop: int
    data: Path
    clips: tuple[Clip, ...]


@dataclass(frozen=True, slots=True)
class Folder:
    """A dataset's folder and what its ``info.json`` claims."""

    root: Path
    info: Mapping[str, Any]
    features: Mapping[str, Mapping[str, Any]]
    fps: float
    """NaN where ``info.json`` has no usable one."""

    @property
    def is_v2(self) -> bool:
        return str(self.info.get("codebase_version")).removeprefix("v").startswith("2.")

    def error(self, path: Path, message: str, remedy: str = FETCH) -> Finding:
        return Finding("error", name(self.root, path), message, remedy)

    def warning(self, path: Path, message: str, remedy: str) -> Finding:
        return Finding("warning", name(self.root, path), message, remedy)

    def place(self, row: Mapping[str, Any], *, prefix: str, template: str, video_key: str = "") -> Path:
        """The file that ``template`` names for a row. Raises DatasetError where it points outside the dataset."""
        chunk, file = int(row[f"{prefix}/chunk_index"]), int(row[f"{prefix}/file_index"])
        return self.root / path_v3(self.root, template, chunk, file, key=video_key)

    def clip(self, row: Mapping[str, Any], camera: str, *, template: str) -> Clip:
        path = self.place(row, prefix=f"videos/{camera}", template=template, video_key=camera)
        to_s = row.get(f"videos/{camera}/to_timestamp")
        return Clip(camera, path, float(row[f"videos/{camera}/from_timestamp"]), None if to_s is None else float(to_s))


def first_line(cause: BaseException) -> str:
    return (str(cause) or type(cause).__name__).splitlines()[0]


def name(root: Path, path: Path) -> str:
    """``path`` as a person finds it: relative to the dataset where it lies inside."""
    return str(path.relative_to(root)) if path != root and path.is_relative_to(root) else str(path)


def ranges(numbers: list[int]) -> str:
    """``0-3, 7`` for ``[0, 1, 2, 3, 7]``."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][1] + 1:
            groups[-1][1] = number
        else:
            groups.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in groups) or "none"
