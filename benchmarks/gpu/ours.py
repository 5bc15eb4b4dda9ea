"""gpuload's loader for the device of a run; in a dry run the same code on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import gpuload
from benchmarks.gpu.clips import FPS
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.workloads import BATCH, CAMERA
from gpuload import loader as loader_module
from gpuload.decode.registry import AUTO
from gpuload.pipeline import route
from gpuload.pipeline.route import Way


def dataset_of(root: Path) -> gpuload.LeRobotDataset:
    """uint8 windows of two frames."""
    return gpuload.LeRobotDataset(
        str(root), delta_timestamps={CAMERA: [-1 / FPS, 0.0]}, return_uint8=True, video_keys=[CAMERA]
    )


@contextmanager
def on_device(setting: Setting, *, lanes: bool = True, backend: str = AUTO) -> Iterator[None]:
    """In a dry run: batches are finished by the kernels, interpreted, and with ``lanes`` decoded in threads as on a
    GPU, by ``backend`` or else torchcodec; without by PyAV in processes. Nothing where there is a GPU."""
    if not setting.dry:
        yield
        return
    way = Way("torchcodec" if backend == AUTO else backend, "cuda") if lanes else Way("pyav", "cpu")
    with (
        patch.object(loader_module, "finishing_device", lambda device: torch.device("cpu")),
        patch.object(route.Router, "way", lambda self, file: way),
    ):
        yield


def make_loader(source: Any, setting: Setting, **arguments: Any) -> gpuload.Loader:
    """A loader on the device of the run. A dry run takes no share of the work to other processes unless asked to."""
    settings: dict[str, Any] = {
        "batch_size": 2 if setting.dry else BATCH,
        "seed": 0,
        "device": torch.device(setting.device).type,
    }
    if setting.dry:
        settings |= {"num_threads": 1, "backend": "torchcodec"}
    return gpuload.Loader(source, **{**settings, **arguments})
