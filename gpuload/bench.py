"""How fast a dataset loads on this machine: ``gpuload bench``."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from gpuload.datasets import LeRobotDataset
from gpuload.errors import ConfigError
from gpuload.loader import Loader
from gpuload.metadata import LeRobotDatasetMetadata

Shuffle = Literal[False, "global", "block"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run. Rates count frames delivered, from the first request for a batch to the last batch."""

    batches: int
    frames: int
    elapsed_s: float
    first_s: float
    """Until the first batch: workers start and the plan is made."""
    wait_p50_s: float
    """Median time that the training loop would have waited for a batch, the first one left out."""
    wait_p95_s: float
    amplification: float
    """Frames decoded per distinct frame delivered."""
    bytes_read: int
    backends: dict[str, tuple[str, str]]
    """Camera to (backend, why it was chosen)."""

    @property
    def frames_per_s(self) -> float:
        return self.frames / self.elapsed_s if self.elapsed_s else 0.0


def windows(meta: LeRobotDatasetMetadata, window: int) -> dict[str, list[float]]:
    """``delta_timestamps`` for the last ``window`` frames of every camera."""
    fps = float(meta.fps)
    return {key: [i / fps for i in range(1 - window, 1)] for key in meta.camera_keys}


def run_bench(
    path: str,
    *,
    batches: int | None = None,
    batch_size: int = 32,
    window: int = 2,
    shuffle: Shuffle = "block",
    seed: int = 0,
    num_threads: int | None = None,
    device: str = "auto",
    backend: str = "auto",
    video_keys: Sequence[str] | None = None,
    report: Callable[[int, int], object] = lambda done, total: None,
) -> Measurement:
    """Load ``batches`` batches (an epoch if None) of windows of ``window`` frames as uint8 and time every ``next()``.

    Nothing is done with a batch, but ``report(done, total)``: the rate is the loader's own.

    Raises:
        ConfigError: a count is below 1, or the dataset gave no batch.
        DatasetError: the folder cannot be opened.
    """
    for name, value in (("batches", 1 if batches is None else batches), ("window", window)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    deltas = windows(LeRobotDataset(path, video_keys=video_keys).meta, window)
    dataset = LeRobotDataset(path, delta_timestamps=deltas, return_uint8=True, video_keys=video_keys)
    waits: list[float] = []
    samples = 0
    start_s = time.perf_counter()
    with Loader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        num_threads=num_threads,
        device=device,
        backend=backend,
    ) as loader:
        iterator = iter(loader)
        while batches is None or len(waits) < batches:
            asked_s = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                break
            samples += len(batch["index"])
            waits.append(time.perf_counter() - asked_s)
            report(len(waits), min(len(loader), batches or len(loader)))
        if loader.device.type == "cuda":
            torch.cuda.synchronize(loader.device)  # the last batch is made when its stream says so
        elapsed_s = time.perf_counter() - start_s
        stats = loader.stats
    if not waits:
        raise ConfigError(f"{Path(path)}: no batch of {batch_size} samples; choose a smaller batch size")
    steady = np.array(waits[1:] or waits)
    return Measurement(
        batches=len(waits),
        frames=samples * window * len(deltas),
        elapsed_s=elapsed_s,
        first_s=waits[0],
        wait_p50_s=float(np.percentile(steady, 50)),
        wait_p95_s=float(np.percentile(steady, 95)),
        amplification=float(stats.amplification),
        bytes_read=int(stats.bytes_read),
        backends={str(key): (str(name), str(reason)) for key, (name, reason) in stats.backends.items()},
    )
