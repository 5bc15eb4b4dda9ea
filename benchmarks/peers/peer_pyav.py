"""PyAV as one writes it at first: per sample open, seek, decode up to the frame, close. Option: ``workers``."""

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import torch

from benchmarks.peers.per_sample import PerSamplePeer, fetch_with
from benchmarks.peers.protocol import Job, run


class PyavReader:
    """Counts what it decodes."""

    def __init__(self, job: Job) -> None:
        self._tolerance_s = 0.5 / job.fps
        self._size: dict[str, Any] = {"height": job.size[0], "width": job.size[1]} if job.size else {}
        self.frames_decoded = 0

    def read(self, path: Path, times_s: list[float]) -> torch.Tensor:
        found: dict[float, torch.Tensor] = {}
        wanted = set(times_s)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            time_base = stream.time_base or Fraction(1)
            container.seek(max(0, round((min(times_s) - self._tolerance_s) / time_base)), stream=stream)
            for frame in container.decode(stream):
                self.frames_decoded += 1
                now_s = float((frame.pts or 0) * time_base)
                for time_s in wanted - found.keys():
                    if abs(time_s - now_s) < self._tolerance_s:
                        pixels = frame.to_ndarray(format="rgb24", **self._size)
                        found[time_s] = torch.from_numpy(pixels).permute(2, 0, 1)
                if len(found) == len(wanted):
                    break
        if missing := sorted(wanted - found.keys()):
            raise ValueError(f"after seeking, {path.name} gave no frame at {missing}: it began behind them (open GOP)")
        return torch.stack([found[time_s] for time_s in times_s])


if __name__ == "__main__":
    run(partial(PerSamplePeer, make=PyavReader, packages=("av",)), fetch_with(PyavReader))
