"""LeRobotDataset: samples as LeRobot's class gives them, one by one or a batch at a time."""

import operator
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from gpuload.arguments import refuse, refuse_of_lerobot, whole_number
from gpuload.errors import DatasetError, OutOfRange
from gpuload.metadata import LeRobotDatasetMetadata
from gpuload.pipeline.direct import DirectReader
from gpuload.sources.base import SampleSource, VideoField
from gpuload.sources.lerobot import LeRobotSource
from gpuload.sources.lerobot_files import Stats
from gpuload.sources.lerobot_root import find_root
from gpuload.transform import Transform

Sample = dict[str, Any]
"""Tensors; ``task`` and other texts as str, or None where a row has none; annotations as lists."""
ImageTransform = Callable[[torch.Tensor], torch.Tensor]


class _NotHere:
    """An attribute that LeRobot's class has and this one lacks: AttributeError says what to do instead."""

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        raise AttributeError(f"gpuload's LeRobotDataset has no {self._name!r}: {self._instead}")


@dataclass(frozen=True, slots=True)
class _Arguments:
    """What a dataset was opened with."""

    root: Path
    episodes: list[int] | None
    delta_timestamps: dict[str, list[float]] | None
    tolerance_s: float
    return_uint8: bool
    video_keys: list[str] | None
    depth_output_unit: str


class _Opened:
    """What one process has open: the source, a decoder, and the lock around the decoder."""

    def __init__(self, source: LeRobotSource, meta: LeRobotDatasetMetadata | None = None) -> None:
        self.source = source
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.reader: DirectReader | None = None
        self.meta = meta


class LeRobotDataset(Dataset[Sample]):
    """A local LeRobot dataset, v3.0, v2.1 or v2.0: ``dataset[i]`` is what LeRobot's own class returns.

    Any number of threads, and processes by fork, spawn or forkserver, may use it; each process opens its own decoder
    when it first decodes. A pickle holds the arguments only.

    Raises:
        DatasetError: the folder is not there, or not what its metadata says.
        VideoError: of a camera, none of the files that were tried can be read. ConfigError: an argument cannot be used.
    """

    def __init__(
        self,
        repo_id: str | Path,
        root: str | Path | None = None,
        episodes: Sequence[int] | None = None,
        image_transforms: ImageTransform | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        tolerance_s: float = 1e-4,
        revision: str | None = None,
        force_cache_sync: bool = False,
        download_videos: bool = True,
        video_backend: str | None = None,
        batch_encoding_size: int = 1,
        *,
        return_uint8: bool = False,
        video_keys: Sequence[str] | None = None,
        depth_output_unit: Literal["mm", "m"] = "mm",
        **of_lerobot: object,
    ) -> None:
        """LeRobot's arguments, and two of our own (``return_uint8``, ``video_keys``).

        Args:
            repo_id: a folder, or the name of a dataset that LeRobot or ``hf download`` has put into its cache.
            root: the folder, whatever the name.
            episodes: numbers of the episodes to load; None is all.
            image_transforms: called with each colour camera's float32 ``[(T,) 3, H, W]`` in [0, 1] of each sample
                (uint8 of videos with ``return_uint8``).
            delta_timestamps: seconds relative to the sample's own, by key: windows ``[T, …]`` and ``<key>_is_pad``.
            tolerance_s: how far a frame's time may be from its row's.
            return_uint8: pictures of videos as uint8 (0..255) instead of float32 in [0, 1]; image features stay
                float32, depth videos float32 ``[(T,) 1, H, W]``.
            video_keys: the video cameras to load; None is all of them, ``[]`` none. Image features always come.
            depth_output_unit: ``"mm"``, whole millimetres in videos as from LeRobot, or ``"m"``, metres that are not
                rounded; of depth in videos, in images and in ``meta.stats``.
            revision: which of the downloaded ones is meant by a name: a version, branch or commit.
            force_cache_sync: must be False: nothing is ever downloaded.
            download_videos, batch_encoding_size: no effect, for the same reason, and because nothing is recorded.
            video_backend: ``"pyav"``, ``"torchcodec"`` and ``"video_reader"`` mean the same pixels here.
            of_lerobot: LeRobot's other arguments: those of recording and downloading have no effect, those that would
                change what is read are refused.
        """
        refuse(force_cache_sync, "force_cache_sync", force_cache_sync, "download the dataset with: hf download")
        refuse(
            video_backend not in (None, "pyav", "torchcodec", "video_reader"), "video_backend", video_backend,
            "the Loader's backend= chooses a decoder",
        )  # fmt: skip
        refuse_of_lerobot(of_lerobot)
        self.repo_id = str(repo_id)
        self.set_image_transforms(image_transforms)
        self._arguments = _Arguments(
            find_root(repo_id, root, revision),
            None if episodes is None else [whole_number("episodes", e) for e in episodes],
            None if delta_timestamps is None else {key: list(times) for key, times in delta_timestamps.items()},
            tolerance_s,
            return_uint8,
            None if video_keys is None else list(video_keys),
            depth_output_unit or "mm",
        )
        self._stats: Stats | None = None
        self._opened: _Opened | None = None
        self._open()

    @property
    def image_transforms(self) -> ImageTransform | None:
        """Asked for every sample, so it may be set between two of them."""
        return self._image_transforms

    @image_transforms.setter
    def image_transforms(self, image_transforms: ImageTransform | None) -> None:
        self.set_image_transforms(image_transforms)

    def set_image_transforms(self, image_transforms: ImageTransform | None) -> None:
        """Raises TypeError if it cannot be called."""
        if image_transforms is not None and not callable(image_transforms):
            what = type(image_transforms).__name__
            instead = "; give it to the Loader: transform=" if type(image_transforms) is Transform else ""
            raise TypeError(f"image_transforms must be callable or None, got {what}{instead}")
        self._image_transforms = image_transforms

    def clear_image_transforms(self) -> None:
        """Pictures as they are."""
        self._image_transforms = None

    hf_dataset = _NotHere("samples hold the columns' values; for whole columns read data/**/*.parquet with pyarrow")
    create = _NotHere("it only reads; record with LeRobot's own class")
    add_frame = _NotHere("it only reads; record with LeRobot's own class")
    save_episode = _NotHere("it only reads; record with LeRobot's own class")
    finalize = _NotHere("it only reads: there is nothing to be finished")
    push_to_hub = _NotHere("it only reads; upload with: hf upload")

    # What it was opened with is read-only: a change would be ignored here and obeyed by copies in other processes.

    @property
    def root(self) -> Path:
        """The folder."""
        return self._arguments.root

    @property
    def episodes(self) -> list[int] | None:
        """As asked for."""
        return self._arguments.episodes

    @property
    def delta_timestamps(self) -> dict[str, list[float]] | None:
        return self._arguments.delta_timestamps

    @property
    def tolerance_s(self) -> float:
        return self._arguments.tolerance_s

    @property
    def return_uint8(self) -> bool:
        return self._arguments.return_uint8

    @property
    def source(self) -> SampleSource:
        """The samples as arrays and frame numbers, for ``gpuload.Loader``."""
        return self._open().source

    @property
    def meta(self) -> LeRobotDatasetMetadata:
        opened = self._open()
        if opened.meta is None:
            opened.meta = LeRobotDatasetMetadata.of(
                opened.source.meta, self.repo_id, self._stats, depth_unit=self._arguments.depth_output_unit
            )
        return opened.meta

    @property
    def num_frames(self) -> int:
        """Of the chosen episodes."""
        return len(self)

    @property
    def num_episodes(self) -> int:
        """That were chosen."""
        return len(self._open().source.meta.episodes.index)

    @cached_property
    def absolute_to_relative_idx(self) -> dict[int, int] | None:
        """Row of the whole dataset -> sample of this one; None if all episodes are loaded."""
        if self.episodes is None:
            return None
        meta = self._open().source.meta
        stop = np.cumsum(meta.every.length)
        places = np.searchsorted(meta.every.index, meta.episodes.index)
        spans = [range(int(stop[p] - meta.every.length[p]), int(stop[p])) for p in places.tolist()]
        return {row: sample for sample, row in enumerate(chain.from_iterable(spans))}

    @property
    def episode_data_index(self) -> dict[str, torch.Tensor]:
        """int64 ``[num_episodes]`` each: ``from`` and ``to``, the samples of each chosen episode."""
        lengths = self._open().source.meta.episodes.length
        ends = np.cumsum(lengths)
        return {"from": torch.from_numpy(ends - lengths), "to": torch.from_numpy(ends)}

    @property
    def delta_indices(self) -> dict[str, list[int]] | None:
        """``delta_timestamps`` in rows of an episode."""
        if self.delta_timestamps is None:
            return None
        return {key: [round(t * self.fps) for t in times] for key, times in self.delta_timestamps.items()}

    @property
    def fps(self) -> int | float:
        return self.meta.fps

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        return self.meta.features

    def __len__(self) -> int:
        return len(self._open().source)

    def __getitem__(self, index: int) -> Sample:
        """One sample; negative indices count from the end.

        Raises:
            OutOfRange: there is no such sample. FrameNotFound: a timestamp has no frame. VideoError: decoding failed.
        """
        return self._items(np.array([self._checked(index)]))[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several samples in one plan: each GOP is decoded once. A sample's tensors are views of the batch's.

        Raises: as ``__getitem__``.
        """
        samples = np.array([self._checked(index) for index in indices], dtype=np.int64)
        if type(self).__getitem__ is not LeRobotDataset.__getitem__:  # torch's DataLoader asks here: a subclass decides
            return [self[index] for index in samples.tolist()]
        try:
            return self._items(samples) if len(samples) else []
        except DatasetError:
            if len(samples) == 1 or not self.meta.image_keys:
                raise
        return [self[index] for index in samples.tolist()]  # images of several sizes, say: no batch, but samples

    def _items(self, samples: npt.NDArray[np.int64]) -> list[Sample]:
        opened = self._open()
        batch = opened.source.columns(samples)
        batch |= _read_videos(opened, samples)
        items: list[Sample] = [{key: values[i] for key, values in batch.items()} for i in range(len(samples))]
        if self.image_transforms is not None:
            meta = self.meta
            colour = [key for key in meta.camera_keys if key not in meta.depth_keys]
            for item in items:  # in this order, so that a seed of torch's means the same pictures every time
                for key in colour:
                    picture = item[key]
                    if isinstance(picture, torch.Tensor):
                        item[key] = self.image_transforms(picture)
        return items

    def __getstate__(self) -> dict[str, object]:
        opened = self._opened
        changed = self._stats if opened is None or opened.meta is None else opened.meta.known_stats
        state = {**self.__dict__, "_opened": None, "_stats": changed}
        state.pop("absolute_to_relative_idx", None)  # as many numbers as there are rows
        return state

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r}, {self.num_episodes} episodes, {len(self)} frames)"

    def _checked(self, index: int) -> int:
        number, size = operator.index(index), len(self)
        if not -size <= number < size:
            raise OutOfRange(f"sample {number} of {size}")
        return number % size

    def _open(self) -> _Opened:
        """This process's state. After a fork the source is shared, the parent's decoder and lock are not."""
        opened = self._opened
        if opened is None:
            asked = self._arguments
            source = LeRobotSource(
                asked.root,
                episodes=asked.episodes,
                delta_timestamps=asked.delta_timestamps,
                tolerance_s=asked.tolerance_s,
                return_uint8=asked.return_uint8,
                video_keys=asked.video_keys,
                depth_output_unit=asked.depth_output_unit,
            )
            opened = self._opened = _Opened(source)
        elif opened.pid != os.getpid():
            opened = self._opened = _Opened(opened.source, opened.meta)
        return opened


def _read_videos(opened: _Opened, samples: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
    """``[n, (T,) C, H, W]`` of every camera, one ``read`` a file."""
    source = opened.source
    refs = source.frames(samples)
    if (refs.frame < 0).any():
        sample, slot = np.argwhere(refs.frame < 0)[0].tolist()
        raise source.error_of(int(samples[sample]), slot)
    batch: dict[str, torch.Tensor] = {}
    first = 0
    for field in source.video_fields:
        span = slice(first, first + field.num_offsets)
        first += field.num_offsets
        file, frame = refs.file[:, span].reshape(-1), refs.frame[:, span].reshape(-1)
        pictures = _read_field(opened, field, file, frame)
        lead = (len(samples),) if field.squeeze else (len(samples), field.num_offsets)
        batch[field.key] = pictures.reshape(*lead, field.channels, field.height, field.width)
    return batch


def _read_field(
    opened: _Opened, field: VideoField, file: npt.NDArray[np.int32], frame: npt.NDArray[np.int32]
) -> torch.Tensor:
    """``[slots, C, H, W]``."""
    shape = (field.channels, field.height, field.width)
    out = np.empty((len(file), *shape), dtype=field.dtype)
    numbers = np.unique(file).tolist()
    with opened.lock:
        if opened.reader is None:
            opened.reader = DirectReader()
        for number in numbers:
            slots = np.flatnonzero(file == number)
            # slots of one file may lie apart in the batch, and read fills one array
            part = out if len(numbers) == 1 else np.empty((len(slots), *shape), dtype=field.dtype)
            opened.reader.read(opened.source.video(number), frame[slots], part, field.lut)
            if part is not out:
                out[slots] = part
    return torch.from_numpy(out)
