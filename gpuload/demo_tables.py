"""The tables and the metadata of a LeRobot v3.0 dataset, as LeRobot 0.4 writes them."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gpuload.demo_video import Encoding
from gpuload.sources.lerobot_meta import TEMPLATES_V3

TASKS = ("Pick up the cube.", "Put the cube into the box.")
JOINTS = 6


def make_columns(
    rng: np.random.Generator, *, episodes: int, frames: int, fps: int
) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
    """Every column but video: vectors float32 ``[N, 6]``, ``timestamp`` float32 ``[N]``, others int64 ``[N]``."""
    total = episodes * frames
    frame_index = np.tile(np.arange(frames, dtype=np.int64), episodes)
    episode_index = np.repeat(np.arange(episodes, dtype=np.int64), frames)
    phase = rng.random((episodes, JOINTS))[episode_index] * 2 * np.pi
    angle = phase + frame_index[:, None] / fps * np.linspace(0.5, 2.0, JOINTS)
    return {
        "action": np.sin(angle + 0.1).astype(np.float32),
        "observation.state": np.sin(angle).astype(np.float32),
        "timestamp": (frame_index / fps).astype(np.float32),
        "frame_index": frame_index,
        "episode_index": episode_index,
        "index": np.arange(total, dtype=np.int64),
        "task_index": episode_index % len(TASKS),
    }


def write_tables(
    root: Path,
    columns: Mapping[str, npt.NDArray[Any]],
    *,
    episodes: int,
    frames: int,
    fps: int,
    cameras: Sequence[str],
    per_file: int,
) -> None:
    """The three parquet files: rows, episodes, tasks."""
    rows = {
        key: pa.array(list(values), pa.list_(pa.float32())) if values.ndim > 1 else pa.array(values)
        for key, values in columns.items()
    }
    number = np.arange(episodes, dtype=np.int64)
    zero = np.zeros(episodes, dtype=np.int64)
    table: dict[str, Any] = {
        "episode_index": number,
        "tasks": [[TASKS[int(i) % len(TASKS)]] for i in number],
        "length": zero + frames,
        "dataset_from_index": number * frames,
        "dataset_to_index": (number + 1) * frames,
        "data/chunk_index": zero,
        "data/file_index": zero,
        "meta/episodes/chunk_index": zero,
        "meta/episodes/file_index": zero,
    }
    for camera in cameras:
        table[f"videos/{camera}/chunk_index"] = zero
        table[f"videos/{camera}/file_index"] = number // per_file
        table[f"videos/{camera}/from_timestamp"] = number % per_file * frames / fps
        table[f"videos/{camera}/to_timestamp"] = (number % per_file + 1) * frames / fps
    pandas = {  # LeRobot looks tasks up in the table's index
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    tasks = pa.table({"task_index": np.arange(len(TASKS), dtype=np.int64), "task": list(TASKS)})
    for path, content in (
        (root / TEMPLATES_V3["data_path"].format(chunk_index=0, file_index=0), pa.table(rows)),
        (root / "meta" / "episodes" / "chunk-000" / "file-000.parquet", pa.table(table)),
        (root / "meta" / "tasks.parquet", tasks.replace_schema_metadata({"pandas": json.dumps(pandas)})),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(content, path)


def describe(values: npt.NDArray[Any], *, keep: tuple[int, ...], count: int | None) -> dict[str, Any]:
    """LeRobot's statistics over the axes that are not kept; with ``count`` (an image) shaped ``[3, 1, 1]``."""
    axes = tuple(axis for axis in range(values.ndim) if axis not in keep)
    found = {name: getattr(np, name)(values, axis=axes) for name in ("min", "max", "mean", "std")}
    shaped = {name: (v.reshape(-1, 1, 1) if count is not None else np.atleast_1d(v)) for name, v in found.items()}
    return {name: v.tolist() for name, v in shaped.items()} | {"count": [len(values) if count is None else count]}


def video_feature(encoding: Encoding) -> dict[str, Any]:
    """The entry of a camera in ``info.json``."""
    info = {
        "video.height": encoding.height,
        "video.width": encoding.width,
        "video.codec": av.Codec(encoding.codec, "w").canonical_name,
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": encoding.fps,
        "video.channels": 3,
        "has_audio": False,
    }
    shape = [encoding.height, encoding.width, 3]
    return {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"], "info": info}


def vector_feature(values: npt.NDArray[Any]) -> dict[str, Any]:
    """The entry of a column in ``info.json``."""
    names = [f"joint_{i}" for i in range(values.shape[1])] if values.ndim > 1 else None
    return {"dtype": str(values.dtype), "shape": list(values.shape[1:]) or [1], "names": names}


def make_info(features: Mapping[str, Any], *, episodes: int, frames: int, fps: int) -> dict[str, Any]:
    """``info.json`` as LeRobot 0.4 writes it."""
    return {
        "codebase_version": "v3.0",
        "robot_type": "demo",
        "total_episodes": episodes,
        "total_frames": episodes * frames,
        "total_tasks": len(TASKS),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 500,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        **TEMPLATES_V3,
        "features": dict(features),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Atomic: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=4))
    partial.replace(path)
