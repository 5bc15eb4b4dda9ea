"""LeRobotDataset: a drop-in for LeRobot's class, sample by sample or a batch at a time."""

import operator
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from gpuload.errors import ConfigError, DatasetError
from gpuload.metadata import LeRobotMeta
from gpuload.pipeline.direct import DirectReader
from gpuload.sources.base import SampleSource, VideoField
from gpuload.sources.lerobot import LeRobotSource

Sample = dict[str, Any]
"""Tensors; ``task`` and other texts as str, or None where a row has none; annotations as lists."""
REPO_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""``owner/name`` as on the Hugging Face hub; anything else is a path."""
ImageTransform = Callable[[torch.Tensor], torch.Tensor]
OF_RECORDING = frozenset({"vcodec", "streaming_encoding", "encoder_queue_maxsize", "encoder_threads"})
"""Arguments of LeRobot's class that say how to write."""
OF_LEROBOT = {
    "local_episode_loading": "episodes= chooses what is loaded",
    "depth_output_unit": "depth videos are in millimetres",
    "token": "nothing is downloaded; use the command hf",
    "repo_type": "pass the dataset's folder as root",
}
"""Its arguments that change what is read, and what to do instead."""


class _Opened:
    """What one process has open: the source, a decoder, and the lock around the decoder."""

    def __init__(self, source: LeRobotSource) -> None:
        self.source = source
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.reader: DirectReader | None = None
        self.meta: LeRobotMeta | None = None


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
        **of_lerobot: object,
    ) -> None:
        """LeRobot's arguments, and two of our own.

        Args:
            repo_id: a folder, or a name in LeRobot's cache folder. root: the folder, whatever the name.
            episodes: numbers of the episodes to load; None is all.
            image_transforms: called with each colour camera's float32 ``[(T,) 3, H, W]`` in [0, 1] of each sample
                (uint8 of videos with ``return_uint8``).
            delta_timestamps: seconds relative to the sample's own, by key: windows ``[T, …]`` and ``<key>_is_pad``.
            tolerance_s: how far a frame's time may be from its row's.
            return_uint8: pictures of videos as uint8 (0..255) instead of float32 in [0, 1]; image features stay
                float32, depth videos float32 millimetres ``[(T,) 1, H, W]``.
            video_keys: the video cameras to load; None is all of them, ``[]`` none. Image features always come.
            revision: that of the dataset in ``root``, if it is given.
            force_cache_sync: must be False: nothing is ever downloaded.
            download_videos, batch_encoding_size: no effect, for the same reason, and because nothing is recorded.
            video_backend: ``"pyav"``, ``"torchcodec"`` and ``"video_reader"`` mean the same pixels here.
            of_lerobot: LeRobot's other arguments: those of recording have no effect, the others are refused.
        """
        _refuse(revision is not None and root is None, "revision", revision, "pass the folder of that revision as root")
        _refuse(force_cache_sync, "force_cache_sync", force_cache_sync, "download the dataset with: hf download")
        _refuse(
            video_backend not in (None, "pyav", "torchcodec", "video_reader"), "video_backend", video_backend,
            "the Loader's backend= chooses a decoder",
        )  # fmt: skip
        for name, value in of_lerobot.items():
            if name not in OF_RECORDING and name not in OF_LEROBOT:
                raise TypeError(f"LeRobotDataset has no argument {name!r}")
            _refuse(name in OF_LEROBOT and value is not None, name, value, OF_LEROBOT.get(name, ""))
        self.repo_id = str(repo_id)
        self.root = find_root(repo_id, root)
        self.episodes = None if episodes is None else [whole_number("episodes", e) for e in episodes]
        self.image_transforms = image_transforms
        self.delta_timestamps = None if delta_timestamps is None else {k: list(v) for k, v in delta_timestamps.items()}
        self.tolerance_s = tolerance_s
        self.return_uint8 = return_uint8
        self._video_keys = None if video_keys is None else list(video_keys)
        self._opened: _Opened | None = None
        self._open()

    @property
    def source(self) -> SampleSource:
        """The samples as arrays and frame numbers, for ``gpuload.Loader``."""
        return self._open().source

    @property
    def meta(self) -> LeRobotMeta:
        opened = self._open()
        if opened.meta is None:
            opened.meta = LeRobotMeta(opened.source.meta, self.repo_id)
        return opened.meta

    @property
    def num_frames(self) -> int:
        """Of the chosen episodes."""
        return len(self)

    @property
    def num_episodes(self) -> int:
        """That were chosen."""
        return len(self._open().source.meta.episodes.index)

    @property
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
            IndexError: there is no such sample. FrameNotFound: a timestamp has no frame. VideoError: decoding failed.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several samples in one plan: each GOP is decoded once. A sample's tensors are views of the batch's.

        Raises: as ``__getitem__``.
        """
        opened = self._open()
        samples = np.array([self._checked(index) for index in indices], dtype=np.int64)
        if not len(samples):
            return []
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
        return {**self.__dict__, "_opened": None}

    def __repr__(self) -> str:
        return f"LeRobotDataset({str(self.root)!r}, {self.num_episodes} episodes, {len(self)} frames)"

    def _checked(self, index: int) -> int:
        number, size = operator.index(index), len(self)
        if not -size <= number < size:
            raise IndexError(f"sample {number} of {size}")
        return number % size

    def _open(self) -> _Opened:
        """This process's state. After a fork the source is shared, the parent's decoder and lock are not."""
        opened = self._opened
        if opened is None:
            source = LeRobotSource(
                self.root,
                episodes=self.episodes,
                delta_timestamps=self.delta_timestamps,
                tolerance_s=self.tolerance_s,
                return_uint8=self.return_uint8,
                video_keys=self._video_keys,
            )
            opened = self._opened = _Opened(source)
        elif opened.pid != os.getpid():
            opened = self._opened = _Opened(opened.source)
        return opened


def find_root(repo_id: str | Path, root: str | Path | None = None) -> Path:
    """The dataset's folder: ``root`` if given, else ``repo_id`` as a path, else LeRobot's cache folder.

    Raises:
        DatasetError: none of them exists; names the command that downloads it.
    """
    if root is not None:
        if not Path(root).is_dir():
            raise DatasetError(f"root {root} is no folder; download with: {_download(repo_id, Path(root))}")
        return Path(root).absolute()
    if Path(repo_id).is_dir():
        return Path(repo_id).absolute()
    if not REPO_NAME.fullmatch(str(repo_id)):
        raise DatasetError(f"{repo_id}: there is no such folder; give the one that holds meta/")
    home = os.environ.get("HF_LEROBOT_HOME")
    cache = Path(home) if home else Path("~/.cache/huggingface/lerobot").expanduser()
    found = cache / repo_id
    if not found.is_dir():
        raise DatasetError(f"{repo_id} is no folder and not in {cache}; download with: {_download(repo_id, found)}")
    return found


def _download(repo_id: str | Path, folder: Path) -> str:
    return f"hf download {repo_id} --repo-type dataset --local-dir {folder}"


def whole_number(name: str, value: object) -> int:
    """An index: whatever Python takes for one, but bool.

    Raises:
        ConfigError: it is none, or beyond 64 bits.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or abs(number) > np.iinfo(np.int64).max:
        raise ConfigError(f"{name} must be whole numbers, got {value!r}")
    return number


def _refuse(wrong: bool, name: str, value: object, instead: str) -> None:
    if wrong:
        raise ConfigError(f"{name}={value!r} cannot be honoured; {instead}")


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
