"""LeRobotDataset and torch's DataLoader. Options: ``backend`` (torchcodec, pyav), ``workers``."""

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # type: ignore[import-not-found]

from benchmarks.peers.protocol import Job, run


def open_dataset(job: Job) -> Any:
    """Always float32 in [0, 1]: 0.4.4 has no uint8. A size is asked for as its train script does, by a transform."""
    resize = None
    if job.size is not None:
        from torchvision.transforms.v2 import Resize  # type: ignore[import-not-found]

        resize = Resize(list(job.size))
    return LeRobotDataset(
        "local/bench",
        root=Path(job.root),
        delta_timestamps=job.deltas,
        image_transforms=resize,
        video_backend=job.options["backend"],
    )


class LeRobotPeer:
    """Random samples without end.

    At the end of an epoch the workers would start anew, which on a small dataset costs half of the rate.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        dataset = open_dataset(job)
        torch.manual_seed(0)
        sampler = torch.utils.data.RandomSampler(dataset, num_samples=10**6)
        self._loader: Any = torch.utils.data.DataLoader(
            dataset, batch_size=job.batch_size, sampler=sampler, num_workers=int(job.options["workers"])
        )

    def batches(self, epoch: int) -> Iterator[int]:
        for batch in self._loader:
            yield sum(batch[key].shape[0] * len(self._job.offsets) for key in self._job.cameras)

    def counters(self) -> dict[str, float]:
        return {}

    def facts(self) -> dict[str, Any]:
        names = ("lerobot", "torch", "torchvision", "torchcodec", "av")
        return {"versions": {name: metadata.version(name) for name in names}, "delivers": "float32"}

    def close(self) -> None:
        pass


def fetch(job: Job) -> npt.NDArray[np.uint8]:
    """``dataset[i]``, its [0, 1] back to 0..255."""
    dataset = open_dataset(job)
    found = []
    for sample in job.samples:
        item = dataset[sample]
        found.append(np.stack([window(item[camera], len(job.offsets)) for camera in job.cameras]))
    return np.stack(found)


def window(frames: Any, count: int) -> npt.NDArray[np.uint8]:
    """float32 ``[T, 3, H, W]`` or ``[3, H, W]`` to uint8 ``[T, 3, H, W]``."""
    whole = (frames * 255).round().to(torch.uint8)
    array: npt.NDArray[np.uint8] = whole.reshape(count, *whole.shape[-3:]).numpy()
    return array


if __name__ == "__main__":
    run(LeRobotPeer, fetch)
