"""SPDL on a GPU: per sample demux a stretch of the file and decode it by NVDEC, in its threaded pipeline.

Written against SPDL's documentation; never run yet for want of a device. What fails will stand in the table.
"""

from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import spdl.io  # type: ignore[import-not-found]
import torch
from spdl.pipeline import PipelineBuilder  # type: ignore[import-not-found]

from benchmarks.peers.folder import Folder, read_folder
from benchmarks.peers.protocol import Job, run

CONCURRENCY = 7
"""As many as an H100 has NVDEC engines, the best of SPDL's own measurements there."""


def decode(sample: int, *, folder: Folder, job: Job) -> dict[str, Any]:
    """Each camera's window, ``[T, 3, H, W]`` on the GPU."""
    found = {}
    scale = {"scale_height": job.size[0], "scale_width": job.size[1]} if job.size else {}
    for camera in job.cameras:
        path, times = folder.frames(sample, camera, job.offsets)
        half_s = 0.5 / job.fps
        shown, place = np.unique(times, return_inverse=True)  # windows at an episode's edge repeat a frame
        packets = spdl.io.demux_video(str(path), timestamp=(max(0.0, shown[0] - half_s), shown[-1] + half_s))
        buffer = spdl.io.decode_packets_nvdec(packets, device_config=spdl.io.cuda_config(device_index=0), **scale)
        frames = spdl.io.to_torch(buffer)[torch.from_numpy(place).to("cuda")]
        found[camera] = frames.to(torch.float32) / 255 if job.dtype == "float32" else frames
    return found


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {camera: torch.stack([sample[camera] for sample in samples]) for camera in samples[0]}


class SpdlPeer:
    """Random samples, an epoch without end."""

    def __init__(self, job: Job) -> None:
        self._job = job
        folder = read_folder(Path(job.root))
        order = torch.randint(len(folder.time_s), (10**6,), generator=torch.Generator().manual_seed(0)).tolist()
        builder = PipelineBuilder().add_source(order)
        builder = builder.pipe(partial(decode, folder=folder, job=job), concurrency=CONCURRENCY)
        builder = builder.aggregate(job.batch_size).pipe(collate).add_sink(2)
        self._pipeline = builder.build(num_threads=CONCURRENCY + 1)

    def batches(self, epoch: int) -> Iterator[int]:
        with self._pipeline.auto_stop():
            for batch in self._pipeline:
                yield sum(batch[key].shape[0] * batch[key].shape[1] for key in self._job.cameras)

    def counters(self) -> dict[str, float]:
        return {}

    def facts(self) -> dict[str, Any]:
        return {"versions": {name: metadata.version(name) for name in ("spdl-io", "spdl-core", "torch")}}

    def close(self) -> None:
        pass


def fetch(job: Job) -> npt.NDArray[np.uint8]:
    """Sample by sample."""
    folder = read_folder(Path(job.root))
    items = [decode(sample, folder=folder, job=job) for sample in job.samples]
    return np.stack([np.stack([item[camera].cpu().numpy() for camera in job.cameras]) for item in items])


if __name__ == "__main__":
    run(SpdlPeer, fetch)
