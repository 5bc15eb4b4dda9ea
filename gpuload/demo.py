"""A small LeRobot v3.0 dataset written with a real encoder, and the demonstration that loads it."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gpuload.datasets import LeRobotDataset
from gpuload.errors import ConfigError, DatasetError
from gpuload.loader import Loader

TASKS = ("Pick up the cube.", "Put the cube into the box.")
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
JOINTS = 6
FAST: Mapping[str, Mapping[str, str]] = {
    "libx264": {"preset": "veryfast", "forced-idr": "1"},
    "libx265": {"preset": "veryfast", "forced-idr": "1", "x265-params": "log-level=error"},
    "libsvtav1": {"preset": "8", "svtav1-params": "force-key-frames=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "row-mt": "1"},
}
"""Encoder options that trade size for speed; the caller's options win."""

Luma = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Texture:
    """A tile that repeats, as yuv420p: luma ``[2H, 2W]``, chroma ``[H, W]``, both doubled so that crops may wrap."""

    luma: Luma
    blue: Luma
    red: Luma

    def frame(self, number: int, *, height: int, width: int) -> Luma:
        """Picture ``number``, uint8 ``[H * 3 / 2, W]`` yuv420p.

        The tile drifts, a bright square runs across it, and 16 blocks along the bottom spell ``number`` in binary.
        """
        x, y = 2 * number % width, 2 * (number // 2) % height
        out = np.empty((height * 3 // 2, width), dtype=np.uint8)
        out[:height] = self.luma[y : y + height, x : x + width]
        side = max(height // 6 // 2 * 2, 2)
        top, left = 3 * number % (height - side), 5 * number % (width - side)
        out[top : top + side, left : left + side] = 225
        cell, bar = width // 16, max(height // 16, 1)
        bits = (number >> np.arange(16)) & 1
        out[height - bar : height, : cell * 16] = np.repeat(np.where(bits, 235, 16).astype(np.uint8), cell)
        chroma = out[height:].reshape(2, height // 2, width // 2)
        rows, cols = slice(y // 2, (y + height) // 2), slice(x // 2, (x + width) // 2)
        chroma[0], chroma[1] = self.blue[rows, cols], self.red[rows, cols]
        return out


def make_texture(rng: np.random.Generator, *, height: int, width: int) -> Texture:
    """Smooth noise in three octaves: neither flat nor so noisy that an encoder drowns in it."""

    def plane(rows: int, cols: int, low: int, high: int) -> Luma:
        total = np.zeros((rows, cols))
        for cells, weight in ((4, 0.6), (16, 0.3), (48, 0.1)):
            grid = rng.random((cells, cells))
            u, v = np.arange(rows) * cells / rows, np.arange(cols) * cells / cols
            i, j = u.astype(int), v.astype(int)
            a, b = (u - i)[:, None], (v - j)[None]
            top = grid[np.ix_(i, j)] * (1 - b) + grid[np.ix_(i, (j + 1) % cells)] * b
            down = grid[np.ix_((i + 1) % cells, j)] * (1 - b) + grid[np.ix_((i + 1) % cells, (j + 1) % cells)] * b
            total += weight * (top * (1 - a) + down * a)
        return np.tile((low + total * (high - low)).astype(np.uint8), (2, 2))

    half = (height // 2, width // 2)
    return Texture(plane(height, width, 30, 220), plane(*half, 70, 190), plane(*half, 70, 190))


@dataclass(frozen=True, slots=True)
class Encoding:
    """How every camera is encoded."""

    codec: str
    gop: int
    fps: int
    width: int
    height: int
    options: Mapping[str, str]


def write_dataset(
    root: Path,
    *,
    episodes: int = 4,
    frames: int = 60,
    cameras: Sequence[str] = ("observation.images.top", "observation.images.wrist"),
    width: int = 320,
    height: int = 240,
    fps: int = 30,
    codec: str = "libx264",
    gop: int = 30,
    seed: int = 0,
    options: Mapping[str, str] | None = None,
    frames_per_file: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Path:
    """Write a valid LeRobot v3.0 dataset of ``episodes`` x ``frames`` and return its folder.

    The episodes of a camera lie behind each other in one mp4 (a new one after every ``frames_per_file`` frames, at the
    next episode), each beginning with a forced keyframe. Picture ``i`` of a camera, counted over all episodes, carries
    ``i`` in binary along its bottom. ``on_progress`` gets the number of pictures encoded since its last call.
    ``info.json`` is written last, so a folder that has one is complete. Same arguments, same content.

    Raises:
        ConfigError: a count is below 1, a side is odd or below 32, or this FFmpeg has no such encoder.
        DatasetError: the folder already holds a dataset.
    """
    for name, value in (("episodes", episodes), ("frames", frames), ("fps", fps), ("gop", gop)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    if width % 2 or height % 2 or min(width, height) < 32:
        raise ConfigError(f"width and height must be even and at least 32, got {width}x{height}")
    if codec not in av.codecs_available:
        raise ConfigError(f"this FFmpeg has no encoder {codec!r}; try libx264, libx265, libsvtav1 or libvpx-vp9")
    if (root / "meta" / "info.json").exists():
        raise DatasetError(f"{root} already holds a dataset; remove it or choose another folder")
    encoding = Encoding(codec, gop, fps, width, height, {**FAST.get(codec, {}), **(options or {})})
    per_file = max(1, -(-(frames_per_file or episodes * frames) // frames))  # episodes in one mp4
    rng = np.random.default_rng(seed)
    stats: dict[str, Any] = {}
    features: dict[str, Any] = {}
    for camera in cameras:
        texture = make_texture(rng, height=height, width=width)
        samples = []
        for file, start in enumerate(range(0, episodes, per_file)):
            path = root / VIDEO_PATH.format(video_key=camera, chunk_index=0, file_index=file)
            numbers = range(start * frames, min(start + per_file, episodes) * frames)
            samples += encode(path, texture, numbers, every=frames, encoding=encoding, on_progress=on_progress)
        stats[camera] = describe(np.concatenate(samples), keep=(1,), count=len(samples))
        features[camera] = video_feature(encoding)
    columns = make_columns(rng, episodes=episodes, frames=frames, fps=fps)
    stats |= {
        key: describe(values, keep=(1,) if values.ndim > 1 else (), count=None) for key, values in columns.items()
    }
    features |= {key: vector_feature(values) for key, values in columns.items()}
    write_tables(root, columns, episodes=episodes, frames=frames, fps=fps, cameras=cameras, per_file=per_file)
    write_json(root / "meta" / "stats.json", stats)
    write_json(root / "meta" / "info.json", make_info(features, episodes=episodes, frames=frames, fps=fps))
    return root


def run_demo(
    root: Path,
    *,
    console: Console,
    save_sheet: Callable[[Mapping[str, torch.Tensor], Path], Path],
    episodes: int = 4,
    frames: int = 60,
    codec: str = "libx264",
    gop: int = 30,
    batch_size: int = 16,
    device: str = "auto",
    sheet: Path | None = None,
) -> Path:
    """Write the demo dataset unless ``root`` has one, load an epoch, report on ``console``; returns the contact sheet.

    The epoch is shuffled in blocks, with windows of two frames per camera. ``save_sheet`` gets its first batch and
    the path ``sheet``, by default ``contact_sheet.png`` in ``root``.

    Raises:
        GpuloadError: whatever the writer or the loader raises.
    """
    with Progress(
        TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        if not (root / "meta" / "info.json").exists():
            encoding = progress.add_task("encoding", total=2 * episodes * frames)
            write_dataset(
                root,
                episodes=episodes,
                frames=frames,
                codec=codec,
                gop=gop,
                on_progress=lambda count: progress.advance(encoding, count),
            )
        meta = LeRobotDataset(str(root)).meta
        windows = {camera: [-1 / float(meta.fps), 0.0] for camera in meta.video_keys}
        dataset = LeRobotDataset(str(root), delta_timestamps=windows, return_uint8=True)
        loading = progress.add_task("loading", total=len(dataset))
        first: dict[str, torch.Tensor] = {}
        start_s = time.perf_counter()
        with Loader(dataset, batch_size=batch_size, shuffle="block", seed=0, device=device) as loader:
            for batch in loader:
                first = first or {camera: batch[camera].clone() for camera in windows}
                progress.advance(loading, len(batch["index"]))
            if loader.device.type == "cuda":
                torch.cuda.synchronize(loader.device)  # the last batch is made when its stream says so
            elapsed_s = time.perf_counter() - start_s
            stats = loader.stats
    rate = stats.frames_delivered / elapsed_s
    console.print(
        f"dataset        {root} ({len(dataset)} samples, {len(windows)} cameras)", highlight=False, soft_wrap=True
    )
    console.print(
        f"rate           {rate:,.0f} frames/s ({stats.frames_delivered:,} in {elapsed_s:.2f} s)", highlight=False
    )
    console.print(
        f"amplification  {stats.amplification:.2f} (frames decoded per distinct frame)", highlight=False, soft_wrap=True
    )
    for stream, (name, reason) in stats.backends.items():
        console.print(f"backend        {stream}: {name} ({reason})", highlight=False, markup=False, soft_wrap=True)
    path = save_sheet(first, sheet or root / "contact_sheet.png")
    console.print(f"contact sheet  {path}", highlight=False, markup=False, soft_wrap=True)
    return path


def encode(
    path: Path,
    texture: Texture,
    numbers: range,
    *,
    every: int,
    encoding: Encoding,
    on_progress: Callable[[int], None] | None,
) -> list[npt.NDArray[np.float64]]:
    """Write pictures ``numbers`` into one mp4, a keyframe forced at each ``every``th; gives RGB for statistics."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples: list[npt.NDArray[np.float64]] = []
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoding.codec, rate=encoding.fps, options=dict(encoding.options))
        stream.width, stream.height, stream.pix_fmt = encoding.width, encoding.height, "yuv420p"
        stream.codec_context.gop_size = encoding.gop
        stream.codec_context.time_base = Fraction(1, encoding.fps)
        for position, number in enumerate(numbers):
            planes = texture.frame(number, height=encoding.height, width=encoding.width)
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts, picture.time_base = position, Fraction(1, encoding.fps)
            if position % every == 0:
                picture.pict_type = av.video.frame.PictureType.I
            if position % 20 == 0:
                rgb = picture.to_ndarray(format="rgb24").reshape(-1, 3)[::7]
                samples.append(rgb.astype(np.float64) / 255.0)
            container.mux(stream.encode(picture))
            if on_progress is not None:
                on_progress(1)
        container.mux(stream.encode(None))
    return samples


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
        (root / DATA_PATH.format(chunk_index=0, file_index=0), pa.table(rows)),
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
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": dict(features),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Atomic: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=4))
    partial.replace(path)
