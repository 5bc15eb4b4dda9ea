"""DALI's video reader on a GPU: windows of consecutive frames, shuffled by its buffer.

Written against DALI's documentation; never run yet for want of a device. What fails will stand in the table.
"""

import importlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.folder import read_folder
from benchmarks.peers.protocol import Job, Unavailable, run

INITIAL_FILL = 1024
dali: Any = importlib.import_module("nvidia.dali")  # its annotations describe only a part of it
plugin: Any = importlib.import_module("nvidia.dali.plugin.pytorch")
fn: Any = importlib.import_module("nvidia.dali.fn")


def windows(job: Job, files: list[str], *, shuffled: bool) -> Any:
    """Frames uint8 or float32 ``[T, H, W, 3]``, file number, number of the first frame."""
    frames, label, first = fn.readers.video(
        device="gpu",
        filenames=files,
        labels=list(range(len(files))),
        sequence_length=len(job.offsets),
        step=1,
        random_shuffle=shuffled,
        initial_fill=INITIAL_FILL if shuffled else 1,
        enable_frame_num=True,
        name="reader",
        seed=0,
    )
    if job.size is not None:
        frames = fn.resize(frames, size=list(job.size))
    if job.dtype == "float32":
        frames = fn.cast(frames, dtype=dali.types.FLOAT) / 255.0
    return frames, label, first


def make_iterator(job: Job, *, shuffled: bool) -> tuple[Any, list[str]]:
    """An epoch's iterator over the only camera."""
    if len(job.cameras) > 1:
        raise Unavailable("its reader cannot keep several cameras at the same moment")
    folder = read_folder(Path(job.root))
    starts = folder.start[:-1].tolist()
    files = sorted({str(folder.frames(row, job.cameras[0], (0,))[0]) for row in starts})
    pipeline = dali.pipeline_def(windows)(
        job, files, shuffled=shuffled, batch_size=job.batch_size, num_threads=4, device_id=0
    )
    return plugin.DALIGenericIterator(
        [pipeline], ["frames", "file", "first"], reader_name="reader", auto_reset=True
    ), files


class DaliPeer:
    """Windows may cross from one episode into the next: the reader knows files only."""

    def __init__(self, job: Job) -> None:
        self._iterator, _ = make_iterator(job, shuffled=True)

    def batches(self, epoch: int) -> Iterator[int]:
        for (batch,) in self._iterator:
            yield batch["frames"].shape[0] * batch["frames"].shape[1]

    def counters(self) -> dict[str, float]:
        return {}

    def facts(self) -> dict[str, Any]:
        return {"versions": {name: metadata.version(name) for name in ("nvidia-dali-cuda130", "torch")}}

    def close(self) -> None:
        pass


def fetch(job: Job) -> npt.NDArray[np.uint8]:
    """The samples' windows, picked from a pass in order."""
    iterator, files = make_iterator(job, shuffled=False)
    folder = read_folder(Path(job.root))
    wanted: dict[tuple[int, int], int] = {}
    for place, sample in enumerate(job.samples):
        path, times = folder.frames(sample, job.cameras[0], job.offsets)
        wanted[files.index(str(path)), round(times[0] * job.fps)] = place
    found: dict[int, npt.NDArray[np.uint8]] = {}
    for (batch,) in iterator:
        for frames, file, first in zip(batch["frames"], batch["file"], batch["first"], strict=True):
            place = wanted.get((int(file), int(first)), -1)
            if place >= 0:
                found[place] = frames.permute(0, 3, 1, 2).cpu().numpy()
    return np.stack([found[place][None] for place in range(len(job.samples))])


if __name__ == "__main__":
    run(DaliPeer, fetch)
