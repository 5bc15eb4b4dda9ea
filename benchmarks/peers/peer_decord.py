"""decord's VideoReader per sample in a DataLoader; each worker keeps one reader per file. Option: ``workers``."""

from functools import partial
from pathlib import Path
from typing import Any

import decord  # type: ignore[import-not-found]
import torch

from benchmarks.peers.per_sample import PerSamplePeer, fetch_with
from benchmarks.peers.protocol import Job, run


class DecordReader:
    """Frames by number, which it finds by its own index of the file."""

    frames_decoded = 0

    def __init__(self, job: Job) -> None:
        self._fps = job.fps
        self._size = {"height": job.size[0], "width": job.size[1]} if job.size else {}
        self._readers: dict[Path, Any] = {}
        self._threads = 1 if job.options.get("workers") else 0  # 0: as many as it wants

    def read(self, path: Path, times_s: list[float]) -> torch.Tensor:
        if path not in self._readers:
            reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=self._threads, **self._size)
            self._readers[path] = reader
        frames = self._readers[path].get_batch([round(time_s * self._fps) for time_s in times_s]).asnumpy()
        return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()


if __name__ == "__main__":
    run(partial(PerSamplePeer, make=DecordReader, packages=("decord",)), fetch_with(DecordReader))
