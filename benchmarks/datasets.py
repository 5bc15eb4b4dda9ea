"""The workloads by name: LeRobot v3.0 datasets written once with a real encoder and kept in a cache folder."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

REVISION = 1
"""Part of the folder's name: raise it when the content of a workload changes."""
LONG = 20
"""How many times as many frames the long form of a workload has."""
CAMERAS = ("observation.images.top", "observation.images.wrist", "observation.images.left")
FPS = 30


@dataclass(frozen=True, slots=True)
class Workload:
    """How the pictures of one dataset are encoded."""

    codec: str
    gop: int
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of it there is."""

    episodes: int
    frames: int
    """Frames of one episode and camera."""
    width: int = 640
    height: int = 480
    cameras: int = 2


WORKLOADS: Mapping[str, Workload] = {
    "av1_g2": Workload("libsvtav1", 2, {"preset": "12", "crf": "30"}),
    # `preset` undoes the demo's fast one: these are the encoders' own defaults, three or four B-frames in a row.
    "h264_g30": Workload("libx264", 30, {"preset": "medium"}),
    "h264_g250": Workload("libx264", 250, {"preset": "medium"}),
    "hevc_g30_open": Workload("libx265", 30, {"preset": "medium", "x265-params": "log-level=error"}),
    "hevc_g30_closed": Workload("libx265", 30, {"preset": "medium", "x265-params": "log-level=error:open-gop=0"}),
}
SCALES: Mapping[str, Scale] = {"full": Scale(10, 300), "small": Scale(2, 60)}
COMPARED: Mapping[str, Scale] = {
    "one": Scale(10, 300, cameras=1),
    "three": Scale(10, 300, cameras=3),
    "hd": Scale(10, 300, 1280, 720, cameras=1),
    "tiny": Scale(2, 60, cameras=1),
}
"""Sizes for ``benchmarks.compare`` and ``benchmarks.scaling``, which vary one thing at a time."""
H264_GOP = re.compile(r"h264_g(\d+)")


def default_folder() -> Path:
    """Where datasets and the peers' environments are kept between runs."""
    return platformdirs.user_cache_path("gpuload") / "bench"


def workload_of(name: str) -> Workload:
    """The workload of a name, ``h264_g<any number>`` included.

    Raises:
        KeyError: no such workload.
    """
    match = H264_GOP.fullmatch(name)
    if name in WORKLOADS or match is None:
        return WORKLOADS[name]
    return Workload("libx264", int(match[1]), {"preset": "medium"})


def ensure_dataset(name: str, *, scale: str = "full", long: bool = False, folder: Path | None = None) -> Path:
    """The dataset's root, written now if it is not there. Interrupted writing leaves nothing that looks complete.

    Raises:
        KeyError: no such workload or scale.
    """
    workload, size = workload_of(name), {**SCALES, **COMPARED}[scale]
    home = folder or default_folder()
    root = home / f"{name}-{scale}-r{REVISION}"
    if not root.exists():
        from gpuload.demo import write_dataset  # loads torch, which a run on existing datasets can do without

        os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints pages otherwise
        part = start_part(root)
        write_dataset(
            part,
            episodes=size.episodes,
            frames=size.frames,
            cameras=CAMERAS[: size.cameras],
            width=size.width,
            height=size.height,
            fps=FPS,
            codec=workload.codec,
            gop=workload.gop,
            seed=0,
            options=workload.options,
        )
        part.rename(root)
    if not long:
        return root
    repeated = home / f"{name}-{scale}-x{LONG}-r{REVISION}"
    if not repeated.exists():
        part = start_part(repeated)
        repeat_dataset(root, part, times=LONG)
        part.rename(repeated)
    return repeated


def start_part(root: Path) -> Path:
    """An empty folder beside ``root``, to be renamed to it when complete."""
    part = root.with_name(f"{root.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def repeat_dataset(source: Path, target: Path, *, times: int) -> None:
    """Write ``source`` with ``times`` as many episodes into ``target``.

    Copy ``k`` has its own file indices, whose mp4s are hard links: no byte of video is written, yet every copy is a
    file of its own to whoever loads it, so that its GOPs are decoded on their own.
    """
    info: dict[str, Any] = json.loads((source / "meta" / "info.json").read_text())
    episodes = pq.read_table(next((source / "meta" / "episodes").rglob("*.parquet")))
    file_keys = [name for name in episodes.column_names if name.endswith("/file_index") and not name.startswith("meta")]
    files = 1 + max(pc.max(episodes[name]).as_py() for name in file_keys)
    num_episodes, num_frames = int(info["total_episodes"]), int(info["total_frames"])
    shifts = {
        "episode_index": num_episodes,
        "dataset_from_index": num_frames,
        "dataset_to_index": num_frames,
        **dict.fromkeys(file_keys, files),
    }
    copies = [shifted(episodes, {name: copy * step for name, step in shifts.items()}) for copy in range(times)]
    shutil.copytree(source / "meta", target / "meta")
    written = next((target / "meta" / "episodes").rglob("*.parquet"))
    pq.write_table(pa.concat_tables(copies), written)
    for path in sorted([*(source / "data").rglob("*.parquet"), *(source / "videos").rglob("*.mp4")]):
        for copy in range(times):
            number = int(path.stem.split("-")[1]) + copy * files
            other = target / path.relative_to(source).with_name(f"file-{number:03d}{path.suffix}")
            other.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".mp4":
                link_or_copy(path, other)
                continue
            rows = {"episode_index": copy * num_episodes, "index": copy * num_frames}
            pq.write_table(shifted(pq.read_table(path), rows), other)
    info |= {"total_episodes": num_episodes * times, "total_frames": num_frames * times}
    info["splits"] = {"train": f"0:{num_episodes * times}"}
    (target / "meta" / "info.json").write_text(json.dumps(info, indent=4))


def link_or_copy(path: Path, other: Path) -> None:
    """A second name for a file; a second file where the file system has no such names."""
    try:
        other.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, other)


def shifted(table: pa.Table, by: Mapping[str, int]) -> pa.Table:
    """``table`` with a constant added to some of its integer columns."""
    for name, step in by.items():
        place = table.schema.get_field_index(name)
        column = pc.add(table[name], pa.scalar(step, table.schema.field(name).type))
        table = table.set_column(place, table.schema.field(name), column)
    return table
