"""The datasets that whole loaders are measured on, written once with real encoders and kept in a folder."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.datasets import LONG, repeat_dataset
from benchmarks.gpu.clips import ENCODERS, FPS, options_of
from benchmarks.gpu.coded import Coded, load_coded
from benchmarks.gpu.setting import Setting

CAMERA = "observation.images.top"
WINDOW = 2
BATCH = 32


@dataclass(frozen=True, slots=True)
class Workload:
    """One camera, one encoding. A sample is a window of two frames."""

    name: str
    codec: str
    width: int
    height: int
    gop: int
    episodes: int
    frames: int


WORKLOADS: Mapping[str, Workload] = {
    one.name: one
    for one in (
        Workload("hevc 640x480 g30", "hevc", 640, 480, 30, 10, 240),
        Workload("h264 640x480 g30", "h264", 640, 480, 30, 10, 240),
        Workload("h264 1920x1080 g30", "h264", 1920, 1080, 30, 4, 120),
        Workload("hevc 1920x1080 g30", "hevc", 1920, 1080, 30, 4, 120),
    )
}
BASE = "hevc 640x480 g30"
ON_CPU = Workload("av1 640x480 g2", "av1", 640, 480, 2, 10, 240)
TINY = Workload("h264 48x32 g8", "h264", 48, 32, 8, 2, 24)
TINY_AV1 = Workload("av1 64x64 g2", "av1", 64, 64, 2, 2, 12)


def workloads(setting: Setting) -> list[Workload]:
    """Those of a run; a dry run has one of its own."""
    if setting.dry:
        return [TINY]
    return list(WORKLOADS.values())[: 2 if setting.quick else None]


def ensure_once(workload: Workload, folder: Path) -> Path:
    """The dataset's root with every frame encoded once, written now if it is not there."""
    root = folder / workload.name.replace(" ", "_")
    if not root.exists():
        from gpuload.demo import write_dataset

        part = _start_part(root)
        options = dict(options_of(workload.codec, workload.gop, is_open=False))
        if workload.codec in ("h264", "hevc"):
            options["forced-idr"] = "1"  # an episode begins with a picture that needs none before it
        write_dataset(
            part,
            episodes=workload.episodes,
            frames=workload.frames,
            cameras=(CAMERA,),
            width=workload.width,
            height=workload.height,
            fps=FPS,
            codec=ENCODERS[workload.codec],
            gop=workload.gop,
            options=options,
        )
        _publish(part, root)
    return root


def ensure_workload(workload: Workload, folder: Path, *, times: int = LONG) -> Path:
    """The same ``times`` as long: copies are hard links with file indices of their own, so that each is decoded."""
    once = ensure_once(workload, folder)
    root = folder / f"{once.name}_x{times}"
    if not root.exists():
        part = _start_part(root)
        repeat_dataset(once, part, times=times)
        _publish(part, root)
    return root


def coded_of(root: Path) -> list[Coded]:
    """The videos of a dataset as runs for a decoder."""
    return [load_coded(path, own_only=True) for path in sorted(root.rglob("*.mp4"))]


def _start_part(root: Path) -> Path:
    part = root.with_name(f"{root.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def _publish(part: Path, root: Path) -> None:
    try:
        part.rename(root)
    except OSError:  # another process was there first
        shutil.rmtree(part, ignore_errors=True)
