"""gpuload's Loader, in the protocol of the comparison. Options: ``shuffle``; ``loader``, more arguments for it."""

import json
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import gpuload
from benchmarks.peers.protocol import Job, Unavailable, run


def open_loader(job: Job, **order: Any) -> gpuload.Loader:
    """The loader of a job; ``order`` is ``shuffle`` or ``sampler``."""
    dataset = gpuload.LeRobotDataset(job.root, delta_timestamps=job.deltas, return_uint8=job.dtype == "uint8")
    extra: dict[str, Any] = dict(job.options.get("loader", {}))
    if job.size is not None:
        # By name: the code that is measured may be older than this part of it.
        transform = getattr(gpuload, "Transform", None)
        if transform is None:
            raise Unavailable("not available: this gpuload has no Transform")
        extra["transform"] = transform(resize=job.size)
    try:
        return gpuload.Loader(dataset, batch_size=job.batch_size, seed=0, **{"device": "cpu", **extra, **order})
    except gpuload.ConfigError as error:
        raise Unavailable(str(error)) from error


class GpuloadPeer:
    """Epochs in block or global order; frames decoded, distinct and bytes read come from its own stats."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._loader = open_loader(job, shuffle=job.options["shuffle"])

    def batches(self, epoch: int) -> Iterator[int]:
        self._loader.set_epoch(epoch)
        for batch in self._loader:
            yield sum(batch[key].shape[0] * len(self._job.offsets) for key in self._job.cameras)

    def counters(self) -> dict[str, float]:
        if self._loader.device.type == "cuda":
            torch.cuda.synchronize()
        stats = self._loader.stats
        return {
            "frames_decoded": float(stats.frames_decoded),
            "frames_distinct": float(stats.frames_distinct),
            "bytes_read": float(stats.bytes_read),
        }

    def facts(self) -> dict[str, Any]:
        stats = self._loader.stats
        versions = {name: metadata.version(name) for name in ("gpuload", "torch", "av")}
        backends = json.loads(json.dumps(stats.backends, default=str))
        return {"versions": versions, "backends": backends, "mixing": stats.mixing}

    def close(self) -> None:
        self._loader.close()


def fetch(job: Job) -> npt.NDArray[np.uint8]:
    """The samples by a sampler, so that it is the loader that is checked."""
    parts = []
    with open_loader(job, sampler=list(job.samples)) as loader:
        for batch in loader:
            stacked = [
                batch[key].cpu().numpy().reshape(len(batch[key]), len(job.offsets), *batch[key].shape[-3:])
                for key in job.cameras
            ]
            parts.append(np.stack(stacked, 1))
    return np.concatenate(parts)


if __name__ == "__main__":
    run(GpuloadPeer, fetch)
