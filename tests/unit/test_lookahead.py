"""Planning a lookahead: what it costs where a dataset has very many files."""

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuload.errors import GpuloadError
from gpuload.pipeline.lookahead import Lookahead, SeenFrames
from gpuload.sources.base import FrameRefs
from tests.source import NumberedSource

FRAMES = 40


class ManyFiles(NumberedSource):
    """As many files as are asked for, all of them the same one."""

    def __init__(self, folder: Path, files: int) -> None:
        super().__init__(folder, episodes=1, frames=FRAMES, cameras=1)
        self.files = files

    def __len__(self) -> int:
        return self.files * FRAMES

    def frames(self, samples: npt.NDArray[np.int64]) -> FrameRefs:
        file, frame = np.divmod(samples, FRAMES)
        window = np.stack([np.maximum(frame - 1, 0), frame], axis=1).astype(np.int32)
        return FrameRefs(np.repeat(file[:, None], 2, axis=1).astype(np.int32), window)

    def video(self, file: int):  # type: ignore[no-untyped-def]  # as the parent's
        return super().video(0)

    def error_of(self, sample: int, slot: int) -> GpuloadError:
        raise AssertionError("every frame is there")


def test_planning_does_not_look_for_each_of_many_files_in_all_samples(tmp_path: Path) -> None:
    source = ManyFiles(tmp_path, 10_000)
    samples = np.random.default_rng(0).permutation(len(source))[: 1 << 16]
    begin = time.perf_counter()
    plan = Lookahead(
        source,
        np.split(samples, len(samples) // 32),
        budget_bytes=1 << 40,
        picture_bytes=lambda file, field: 10_000,
        slot_fields=np.zeros(2, np.int64),
        first_picture=0,
        seen=SeenFrames(source),
    )
    assert time.perf_counter() - begin < 5  # 0.5 s; 15 s when it did
    file, frame = np.divmod(samples, FRAMES)
    wanted = np.unique(np.concatenate([file * FRAMES + frame, file * FRAMES + np.maximum(frame - 1, 0)]))
    assert plan.num_pictures == sum(plan.distinct) == len(wanted)
