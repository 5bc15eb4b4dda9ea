"""What a loader's workers have done so far."""

from dataclasses import dataclass, field

import torch

from gpuload.pipeline.work import DecodeWorker, Done

FALLBACK = "pyav on cpu"


@dataclass(slots=True)
class Tally:
    """Counters from the loader's making; see ``LoaderStats``."""

    frames_decoded: int = 0
    decoded_by: dict[str, int] = field(default_factory=dict)
    frames_distinct: int = 0
    kept_bytes: int = 0
    wait_s: float = 0.0
    kept: dict[object, int] = field(default_factory=dict)
    """Bytes of pictures that each worker holds now, and who finishes batches."""

    def add(self, worker: DecodeWorker, done: Done, device: torch.device | None) -> None:
        """A unit is done; ``device``: of workers whose pictures lie in device memory."""
        self.frames_decoded += done.frames_decoded
        where = f"{worker.backend} on {device if worker.on_device else 'cpu'}"
        self._count(where, done.frames_decoded - done.frames_fallen_back)
        self._count(FALLBACK, done.frames_fallen_back)
        self.hold(worker, done.kept_bytes)

    def _count(self, where: str, frames: int) -> None:
        if frames:
            self.decoded_by[where] = self.decoded_by.get(where, 0) + frames

    def hold(self, who: object, num_bytes: int) -> None:
        """What somebody holds from now on."""
        self.kept[who] = num_bytes
        self.kept_bytes = max(self.kept_bytes, sum(self.kept.values()))
