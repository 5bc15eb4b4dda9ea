"""A small LeRobot v3.0 dataset written with a real encoder, and the demonstration that loads it."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gpuload.datasets import LeRobotDataset
from gpuload.demo_tables import (
    describe,
    make_columns,
    make_info,
    vector_feature,
    video_feature,
    write_json,
    write_tables,
)
from gpuload.demo_video import FAST, Encoding, encode, make_texture
from gpuload.errors import ConfigError, DatasetError
from gpuload.loader import Loader
from gpuload.sources.lerobot_meta import TEMPLATES_V3


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
            path = root / TEMPLATES_V3["video_path"].format(video_key=camera, chunk_index=0, file_index=file)
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
        else:
            console.print(
                f"dataset        {root} was there already: it is used as it is", highlight=False, soft_wrap=True
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
