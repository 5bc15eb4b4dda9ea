"""Random access with GOP 30 as others do it: torchcodec for each sample in a DataLoader, and DALI's own readers."""

import importlib
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.gpu.candidates import synchronize
from benchmarks.gpu.clips import ensure_clip, rate_clip
from benchmarks.gpu.loading import drawn
from benchmarks.gpu.ours import dataset_of, make_loader, on_device
from benchmarks.gpu.setting import Setting, attempt
from benchmarks.gpu.workloads import (
    BASE,
    BATCH,
    TINY,
    WINDOW,
    WORKLOADS,
    Workload,
    ensure_once,
    ensure_workload,
)

if TYPE_CHECKING:
    pass

READERS = (1, 4, 7)
"""Of DALI at once: one has one NVDEC session."""


class PerSample(Dataset[torch.Tensor]):
    """Sample ``i`` is frames ``i - 1`` and ``i`` of a file, decoded when it is asked for: uint8 ``[2, 3, H, W]``."""

    def __init__(self, files: list[Path], device: str, kept: int) -> None:
        """``kept``: decoders, each with a session of NVDEC."""
        from torchcodec.decoders import VideoDecoder

        self._files, self._device = [str(path) for path in files], device
        counts = [len(VideoDecoder(name)) - 1 for name in self._files]
        self._begins = np.cumsum([0, *counts])
        self._decoders: OrderedDict[int, VideoDecoder] = OrderedDict()
        self._kept = kept

    def __len__(self) -> int:
        return int(self._begins[-1])

    def __getitem__(self, index: int) -> torch.Tensor:
        from torchcodec.decoders import VideoDecoder

        file = int(np.searchsorted(self._begins, index, side="right")) - 1
        if file not in self._decoders:
            self._decoders[file] = VideoDecoder(self._files[file], device=self._device, seek_mode="approximate")
            if len(self._decoders) > self._kept:
                self._decoders.popitem(last=False)
        self._decoders.move_to_end(file)
        frame = index - int(self._begins[file])
        pictures: torch.Tensor = self._decoders[file].get_frames_at([frame, frame + 1]).data
        return pictures


def measure(setting: Setting) -> None:
    """Ours with global shuffle first, then the others on the same files."""
    trying = partial(attempt, setting, needs_s=4 * setting.long_seconds + 6)
    todo = [TINY] if setting.dry else [WORKLOADS[BASE], WORKLOADS["h264 640x480 g30"]]
    for workload in todo:
        trying(f"{workload.name}: gpuload global", partial(ours, setting, workload))
        # Those of 8 workers and 10 files are 80 sessions, which may be more than the driver bears: fewer are tried too.
        for workers, kept in ((0, 10), (1, 1)) if setting.dry else ((4, 10), (8, 10), (8, 2), (0, 10), (15, 10)):
            label = f"{workload.name}: torchcodec per sample, {workers} workers, {kept} decoders"
            trying(label, partial(per_sample, setting, workload, workers, kept))
    for workload in todo:
        for readers in READERS[: 1 if setting.dry else None]:
            label = f"{workload.name}: DALI fn.readers.video x{readers}"
            trying(label, partial(dali_reader, setting, workload, readers, experimental=False))
        label = f"{workload.name}: DALI fn.experimental.readers.video"
        trying(label, partial(dali_reader, setting, workload, 1, experimental=True))


def ours(setting: Setting, workload: Workload) -> dict[str, Any]:
    """What both are held against."""
    dataset = dataset_of(ensure_workload(workload, setting.folder))
    with on_device(setting), make_loader(dataset, setting, shuffle="global") as loader:
        return drawn(loader, setting)


def timed(setting: Setting, batches: Iterator[int], *, warm: int) -> dict[str, Any]:
    """Frames a second of an iterator that says how many frames each of its batches has."""
    for _ in range(warm):
        next(batches)
    synchronize(setting.device)
    begin, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - begin < setting.long_seconds:
        count += next(batches)
    synchronize(setting.device)
    return {"delivered_per_s": round(count / (time.perf_counter() - begin))}


def per_sample(setting: Setting, workload: Workload, workers: int, kept: int) -> dict[str, Any]:
    """As LeRobot's trainers do it, but on the GPU and with decoders kept."""
    files = sorted(ensure_once(workload, setting.folder).rglob("*.mp4"))
    dataset = PerSample(files, setting.device, kept)
    batch = 2 if setting.dry else BATCH
    more: dict[str, Any] = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    loader: DataLoader[torch.Tensor] = DataLoader(dataset, batch, shuffle=True, num_workers=workers, **more)

    def batches() -> Generator[int]:
        while True:
            for pictures in loader:
                yield pictures.shape[0] * pictures.shape[1]

    frames = batches()
    found = timed(setting, frames, warm=1 if setting.dry else max(2, 2 * workers))
    frames.close()
    return found


def dali_reader(setting: Setting, workload: Workload, readers: int, *, experimental: bool) -> dict[str, Any]:
    """A pipeline of readers over shards of the same files, which shuffle their sequences of two frames."""
    fn: Any = importlib.import_module("nvidia.dali.fn")
    make_pipeline: Any = importlib.import_module("nvidia.dali.pipeline").Pipeline
    files = [str(path) for path in sorted(ensure_once(workload, setting.folder).rglob("*.mp4"))]
    device, number = "gpu", torch.device(setting.device).index if not setting.dry else None
    if setting.dry:
        if not experimental:
            return {"cannot": "fn.readers.video runs on a GPU only"}
        # DALI decodes VP9 on the CPU, and no H.264.
        files = [str(ensure_clip(rate_clip("vp9", (160, 144), 8, dry=True), setting.folder))]
        device = "cpu"
    batch = 2 if setting.dry else BATCH
    pipeline = make_pipeline(
        batch_size=batch, num_threads=1 if setting.dry else 8, device_id=number, prefetch_queue_depth=2
    )
    with pipeline:
        outputs = []
        for shard in range(readers):
            arguments: dict[str, Any] = {
                "device": device,
                "filenames": files,
                "sequence_length": WINDOW,
                "step": 1,
                "stride": 1,
                "random_shuffle": True,
                "initial_fill": 8 if setting.dry else 1024,
                "shard_id": shard,
                "num_shards": readers,
                "name": f"reader{shard}",
            }
            if experimental:
                outputs.append(fn.experimental.readers.video(**arguments))
            else:
                outputs.append(fn.readers.video(skip_vfr_check=True, **arguments))
        pipeline.set_outputs(*outputs)
    pipeline.build()

    def batches() -> Iterator[int]:
        while True:
            yield sum(batch * WINDOW for _ in pipeline.run())

    return timed(setting, batches(), warm=1 if setting.dry else 8)
