"""Rerun's dataloader over a LeRobot folder, served by its local catalog. Options: ``kind`` (block, sample, map),
``workers``, ``windows`` (copy, or view: windows share the memory of a decoded run).

The folder is converted once to .rrd files, one a segment; that takes no part in any figure.
"""

import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import rerun as rr  # type: ignore[import-not-found]
import torch
from rerun.chunk import OptimizationProfile  # type: ignore[import-not-found]
from rerun.experimental import LeRobotReader, dataloader  # type: ignore[import-not-found]

from benchmarks.peers.folder import Folder, read_folder
from benchmarks.peers.protocol import Job, Unavailable, run

INDEX = "frame_index"
CODECS = {"h264": "h264", "hevc": "h265", "av1": "av1"}


def segment_name(episode: int) -> str:
    """Padded, because segments are ordered by name."""
    return f"episode_{episode:06d}"


def convert(job: Job) -> Path:
    """One .rrd per episode, optimized for the catalog as Rerun's guide does."""
    home = Path(job.work) / f"rerun-{metadata.version('rerun-sdk')}"
    if home.exists():
        return home
    reader = LeRobotReader(job.root)
    part = home.with_name(home.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for episode in reader.episodes():
        name = segment_name(episode)
        store = reader.stream(episode).collect(optimize=OptimizationProfile.OBJECT_STORE)
        store.write_rrd(str(part / f"{name}.rrd"), application_id="bench", recording_id=name)
    part.rename(home)
    return home


class Served:
    """The catalog server of this process, with the dataset registered."""

    def __init__(self, job: Job) -> None:
        home = convert(job)
        self.server = rr.server.Server(host="127.0.0.1")
        self.dataset = self.server.client().create_dataset("bench")
        self.dataset.register([path.resolve().as_uri() for path in sorted(home.glob("*.rrd"))]).wait()

    def source(self, segments: list[str] | None = None) -> Any:
        return dataloader.DataSource(self.dataset, segments=segments)


def make_fields(job: Job, folder: Folder) -> dict[str, Any]:
    """A window of frames per camera."""
    fields = {}
    for camera in job.cameras:
        path, _ = folder.frames(0, camera, (0,))
        with av.open(str(path)) as container:
            codec = CODECS[container.streams.video[0].codec_context.codec.canonical_name]
        decoder = dataloader.VideoFrameDecoder(codec=codec, window_storage=job.options.get("windows", "copy"))
        fields[camera] = dataloader.Field(f"/{camera}:VideoStream:sample", decode=decoder, window=job.offsets)
    return fields


class Prepare:
    """What has to be done to a sample that Rerun has decoded; runs in the workers."""

    def __init__(self, job: Job) -> None:
        self._cameras, self._size, self._float = job.cameras, job.size, job.dtype == "float32"
        # With workers it keeps the shared memory of batches, which Rerun recommends; without it only stacks.
        self._collate = dataloader.PooledBatchCollator()

    def __call__(self, samples: list[dict[str, Any]]) -> Any:
        for sample in samples:
            for camera in self._cameras:
                sample[camera] = adapt(sample[camera], self._size, as_float=self._float)
        return self._collate(samples)


def adapt(frames: Any, size: tuple[int, int] | None, *, as_float: bool) -> Any:
    """uint8 ``[T, 3, H, W]`` to the size and dtype of the workload."""
    if size is not None:
        from torchvision.transforms.v2.functional import resize  # type: ignore[import-not-found]

        frames = resize(frames, list(size))
    return frames.to(torch.float32) / 255 if as_float else frames


class RerunPeer:
    """Iterable with block or sample shuffle, or map-style with torch's sampler."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._served = Served(job)
        fields = make_fields(job, read_folder(Path(job.root)))
        kind, workers = job.options["kind"], int(job.options["workers"])
        more: dict[str, Any] = {}
        if workers:
            more = {"num_workers": workers, "multiprocessing_context": "spawn", "persistent_workers": True}
        if kind == "map":
            dataset = dataloader.RerunMapDataset(self._served.source(), INDEX, fields)
            torch.manual_seed(0)
            more["sampler"] = torch.utils.data.RandomSampler(dataset, num_samples=10**6)
        else:
            strategies = {"block": dataloader.BlockShuffle, "sample": dataloader.SampleShuffle}
            dataset = dataloader.RerunIterableDataset(
                self._served.source(), INDEX, fields, shuffle_strategy=strategies[kind]()
            )
        self._dataset = dataset
        self._loader: Any = torch.utils.data.DataLoader(
            dataset, batch_size=job.batch_size, collate_fn=Prepare(job), **more
        )

    def batches(self, epoch: int) -> Iterator[int]:
        if hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(epoch)
        for batch in self._loader:
            yield sum(batch[key].shape[0] * batch[key].shape[1] for key in self._job.cameras)

    def counters(self) -> dict[str, float]:
        return {}

    def facts(self) -> dict[str, Any]:
        return {"versions": {name: metadata.version(name) for name in ("rerun-sdk", "torch", "torchvision", "av")}}

    def close(self) -> None:
        del self._loader


def fetch(job: Job) -> npt.NDArray[np.uint8]:
    """The samples by the dataset class that is measured; the iterable one in its natural order, picked from it."""
    folder = read_folder(Path(job.root))
    served, fields = Served(job), make_fields(job, folder)
    places = [(segment_name(int(folder.episode[i])), i - int(folder.start[folder.episode[i]])) for i in job.samples]
    if job.options["kind"] == "map":
        dataset = dataloader.RerunMapDataset(served.source(), INDEX, fields)
        numbers = [number_of(dataset.sample_index, *place) for place in places]
        found = {number: dataset[number] for number in numbers}
    else:
        source = served.source(sorted({segment for segment, _ in places}))
        dataset = dataloader.RerunIterableDataset(source, INDEX, fields, shuffle_strategy=dataloader.NoShuffle())
        numbers = [number_of(dataset.sample_index, *place) for place in places]
        found, count = {}, 0
        for count, sample in enumerate(dataset, 1):
            if count - 1 in numbers:
                found[count - 1] = sample
        if count != len(dataset):
            raise Unavailable(f"it delivered {count} of {len(dataset)} samples and skipped the others")
    if missing := [number for number in numbers if any(found[number][camera] is None for camera in job.cameras)]:
        raise Unavailable(f"{len(missing)} of {len(numbers)} samples came back without their frames (None)")
    return np.stack([np.stack([found[n][camera].numpy() for camera in job.cameras]) for n in numbers])


def number_of(index: Any, segment: str, frame: int) -> int:
    """The number that Rerun gives a frame of a segment; windows that leave the segment have none."""
    for one, first in zip(index.segments, index.segment_offsets, strict=False):
        if one.segment_id == segment:
            return int(first) + frame - int(one.index_start)
    raise Unavailable(f"segment {segment} is not in its index")


if __name__ == "__main__":
    run(RerunPeer, fetch)
