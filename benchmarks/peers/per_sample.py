"""What the peers share that decode each sample by themselves in a DataLoader: torchcodec, decord, PyAV."""

from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.peers.folder import read_folder
from benchmarks.peers.protocol import Job


class Reader(Protocol):
    """Reads frames of files; made in each worker. Used by one thread."""

    def read(self, path: Path, times_s: list[float]) -> torch.Tensor:
        """uint8 ``[T, 3, H, W]`` at these times, already of the job's size if it has one."""
        ...

    @property
    def frames_decoded(self) -> int:
        """So far, or -1 where the library does not tell."""
        ...


MakeReader = Callable[[Job], Reader]


class PerSample(torch.utils.data.Dataset[dict[str, Any]]):
    """Sample ``i``: a window of each camera, and how many frames were decoded for it."""

    def __init__(self, job: Job, make: MakeReader) -> None:
        self._job, self._make = job, make
        self._folder = read_folder(Path(job.root))
        self._reader: Reader | None = None

    def __len__(self) -> int:
        return len(self._folder.time_s)

    def __getitem__(self, sample: int) -> dict[str, Any]:
        if self._reader is None:  # in the worker, not in the process that made the dataset
            self._reader = self._make(self._job)
        before = self._reader.frames_decoded
        found: dict[str, Any] = {}
        for camera in self._job.cameras:
            frames = self._reader.read(*self._folder.frames(sample, camera, self._job.offsets))
            found[camera] = frames.to(torch.float32) / 255 if self._job.dtype == "float32" else frames
        found["decoded"] = self._reader.frames_decoded - before
        return found


class PerSamplePeer:
    """Random samples without end, as LeRobot's are."""

    def __init__(self, job: Job, make: MakeReader, packages: tuple[str, ...]) -> None:
        self._job, self._packages, self._decoded = job, packages, 0
        dataset = PerSample(job, make)
        torch.manual_seed(0)
        sampler = torch.utils.data.RandomSampler(dataset, num_samples=10**6)
        self._loader: Any = torch.utils.data.DataLoader(
            dataset, batch_size=job.batch_size, sampler=sampler, num_workers=int(job.options["workers"])
        )

    def batches(self, epoch: int) -> Iterator[int]:
        for batch in self._loader:
            self._decoded += int(batch["decoded"].sum())
            yield sum(batch[key].shape[0] * batch[key].shape[1] for key in self._job.cameras)

    def counters(self) -> dict[str, float]:
        return {"frames_decoded": float(self._decoded)} if self._decoded else {}

    def facts(self) -> dict[str, Any]:
        return {"versions": {name: metadata.version(name) for name in ("torch", *self._packages)}}

    def close(self) -> None:
        pass


def fetch_with(make: MakeReader) -> Callable[[Job], npt.NDArray[np.uint8]]:
    """The check's half of a script."""

    def fetch(job: Job) -> npt.NDArray[np.uint8]:
        dataset = PerSample(job, make)
        items = [dataset[sample] for sample in job.samples]
        return np.stack([np.stack([item[camera].numpy() for camera in job.cameras]) for item in items])

    return fetch
