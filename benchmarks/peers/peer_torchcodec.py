"""torchcodec's VideoDecoder per sample in a DataLoader; each worker keeps one decoder per file. Option: ``workers``."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchcodec.decoders
import torchcodec.transforms

from benchmarks.peers.per_sample import PerSamplePeer, fetch_with
from benchmarks.peers.protocol import Job, run


class TorchcodecReader:
    """Approximate seeking, as LeRobot sets it: an exact one scans every file first."""

    frames_decoded = 0

    def __init__(self, job: Job) -> None:
        self._half_frame_s = 0.5 / job.fps
        self._transforms: list[Any] = [torchcodec.transforms.Resize(job.size)] if job.size else []
        self._decoders: dict[Path, Any] = {}

    def read(self, path: Path, times_s: list[float]) -> torch.Tensor:
        if path not in self._decoders:
            module: Any = torchcodec.decoders  # its names are not marked as exported
            self._decoders[path] = module.VideoDecoder(
                str(path), seek_mode="approximate", num_ffmpeg_threads=1, transforms=self._transforms
            )
        # In the middle of the frame: at its very beginning rounding decides.
        frames: torch.Tensor = self._decoders[path].get_frames_played_at([t + self._half_frame_s for t in times_s]).data
        return frames


if __name__ == "__main__":
    packages = ("torchcodec", "av")
    run(partial(PerSamplePeer, make=TorchcodecReader, packages=packages), fetch_with(TorchcodecReader))
