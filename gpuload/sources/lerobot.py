"""A LeRobot dataset (v3.0, v2.1, v2.0) as a SampleSource: every row of the chosen episodes is a sample."""

import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gpuload.errors import ConfigError, DatasetError, FrameNotFound, GpuloadError
from gpuload.index.load import load_index, load_many
from gpuload.index.video import VideoIndex
from gpuload.sources.base import FrameRefs, VideoField
from gpuload.sources.lerobot_depth import depth_lut, is_depth_format
from gpuload.sources.lerobot_files import files_in
from gpuload.sources.lerobot_frames import CameraFrames, row_times
from gpuload.sources.lerobot_images import image_tensor
from gpuload.sources.lerobot_meta import Meta, read_meta
from gpuload.sources.lerobot_rows import RowTable, read_rows, sample_values
from gpuload.sources.lerobot_windows import check_fps, plan_offsets

logger = logging.getLogger(__name__)

_DIGESTED = 4096
"""Most rows that are hashed into the fingerprint, spread over the dataset."""
_FEW_FILES = 8
"""More are indexed side by side."""
_LOOKED_AT = 10
"""Usable files of a camera that are tried, to find one of the size that info.json states."""


class LeRobotSource:
    """Samples of a local LeRobot folder. Any thread may call; video files are indexed when first needed, and kept.

    Raises:
        DatasetError: a file is missing, damaged or contradicts another. ConfigError: an argument cannot be used.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        episodes: Sequence[int] | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        tolerance_s: float = 1e-4,
        return_uint8: bool = False,
        video_keys: Sequence[str] | None = None,
        depth_output_unit: str = "mm",
        cache_dir: Path | None = None,
    ) -> None:
        if depth_output_unit not in ("mm", "m"):
            raise ConfigError(f"depth_output_unit must be 'mm' or 'm', got {depth_output_unit!r}")
        self._depth_unit = depth_output_unit
        if not tolerance_s >= 0:  # NaN is not, either
            raise ConfigError(f"tolerance_s must be 0 seconds or more, got {tolerance_s}")
        self.meta: Meta = read_meta(Path(root), episodes=episodes, video_keys=video_keys)
        features = self.meta.info.features
        self._tolerance_s = tolerance_s
        self._cache_dir = cache_dir
        self._rows: RowTable = read_rows(self.meta, cache_dir=cache_dir)
        self.meta = _without_absent(self.meta, self._rows)
        self._starts = self._rows.starts
        numbers, images, fps = self._rows.numbers, self._rows.images, self.meta.info.fps
        windowed = [key for key, f in features.items() if f.is_video or key in numbers or key in images]
        self._offsets = plan_offsets(windowed, delta_timestamps or {}, fps=fps, tolerance_s=tolerance_s)
        self._times = row_times(numbers["timestamp"], numbers.get("frame_index"), fps=fps)
        self._outputs = {key: sample_values(values, key, self.meta.root) for key, values in numbers.items()}
        if self._offsets:
            check_fps(self._times.seconds, self._starts, self.meta, tolerance_s=tolerance_s)
        self._paths: list[str] = []
        listed: dict[str, set[str]] = {}
        self._cameras: list[CameraFrames] = []
        for key, placement in self.meta.episodes.videos.items():
            camera = CameraFrames(key, len(self._paths), placement, self._starts, self._times, tolerance_s)
            self._cameras.append(camera)
            self._paths += [self._existing(key, path, listed) for path in placement.files]
        self._videos: dict[int, VideoIndex] = {}
        self._indexed: dict[str, VideoIndex] = {}
        """By path: read side by side, and not asked for yet."""
        self._sizes: dict[str, tuple[int, int]] = {}
        self._lock_of = os.getpid(), threading.RLock()
        self._gop_starts: npt.NDArray[np.int64] | None = None
        self._fields = tuple(self._field_of(camera, return_uint8) for camera in self._cameras)
        self._slot_of = np.cumsum([0] + [field.num_offsets for field in self._fields])
        self._fingerprint = self._digest()

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def video_fields(self) -> tuple[VideoField, ...]:
        return self._fields

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Image features that hold colour; depth images are in millimetres or metres."""
        return tuple(key for key in self._rows.images if not self.meta.info.features[key].is_depth)

    @property
    def image_pixels(self) -> int:
        """Of one row's images, as info.json says."""
        sizes = (self.meta.info.features[key].height_width or (0, 0) for key in self._rows.images)
        return sum(height * width for height, width in sizes)

    @property
    def reach(self) -> tuple[int, int]:
        """Samples by which video windows look back and ahead at most."""
        offsets = [0, *(offset for field in self._fields for offset in self._offsets.get(field.key, (0,)))]
        return -min(offsets), max(offsets)

    def __len__(self) -> int:
        return self._rows.num_rows

    def frames(self, samples: npt.NDArray[np.int64]) -> FrameRefs:
        """Frames that samples int64 ``[n]`` need; a file's rows are matched to its pts when it is first met.

        Never raises: what a file that cannot be used should hold is missing, and ``error_of`` says why.
        """
        slots = int(self._slot_of[-1])
        file = np.full((len(samples), slots), -1, dtype=np.int32)
        frame = np.full((len(samples), slots), -1, dtype=np.int32)
        episode = self._episode_of(samples)
        for camera, field, first in zip(self._cameras, self._fields, self._slot_of.tolist(), strict=False):
            self._resolve(camera, episode)
            span = slice(first, first + field.num_offsets)
            rows = self._window(samples, episode, self._offsets.get(field.key, (0,)))[0]
            file[:, span] = camera.files(episode)[:, None]
            frame[:, span] = camera.frames(rows)
        return FrameRefs(file, frame)

    def video(self, file: int) -> VideoIndex:
        """The index of one file, read when first asked for.

        Raises:
            VideoError: it cannot be indexed. DatasetError: its pictures have another size than the camera's other ones.
        """
        known = self._videos.get(file)
        if known is not None:
            return known
        with self._lock:
            if file not in self._videos:
                camera = next(c for c in reversed(self._cameras) if c.first_file <= file)
                index = self._load(camera, file)
                if index.shown_size != self._sizes[camera.key]:
                    (height, width), expected = index.shown_size, self._sizes[camera.key]
                    raise DatasetError(
                        f"{index.path}: pictures of {camera.key!r} are {width}x{height}, those of its other files "
                        f"{expected[1]}x{expected[0]}; encode the file again, or leave its episodes out with "
                        "episodes=[…]"
                    )
                self._videos[file] = index
            return self._videos[file]

    def _load(self, camera: CameraFrames, file: int) -> VideoIndex:
        index = self._indexed.pop(self._paths[file], None) or load_index(self._paths[file], cache_dir=self._cache_dir)
        if self.meta.info.features[camera.key].is_depth and not is_depth_format(index.pixel_format):
            raise DatasetError(
                f"{index.path}: {camera.key!r} is a depth map, which needs 12-bit pictures, got {index.pixel_format}; "
                "set video.is_depth_map to false in info.json to read it as colour, or leave the camera out with "
                "video_keys=[…]"
            )
        return index

    def error_of(self, sample: int, slot: int) -> GpuloadError:
        """Why a slot's frame is -1: its file cannot be used, or has no frame at that time."""
        place = int(np.searchsorted(self._slot_of, slot, side="right")) - 1
        camera, field = self._cameras[place], self._fields[place]
        samples = np.array([sample], dtype=np.int64)
        episode = self._episode_of(samples)
        row = self._window(samples, episode, self._offsets.get(field.key, (0,)))[0][0, slot - int(self._slot_of[place])]
        number = int(episode[0])
        named, file = int(camera.placement.file[number]), int(camera.files(episode)[0])
        if named in camera.errors:
            error = camera.errors[named]
            return error.anew()  # an exception that is raised twice would collect tracebacks
        episode_index = self.meta.episodes.index[number]
        if file < 0:
            return FrameNotFound(
                f"{self.meta.root}/meta/episodes: camera {field.key!r} has no file for episode {episode_index}; leave "
                "the camera out with video_keys=[…], or the episode with episodes=[…]"
            )
        wanted_s = float(camera.wanted_s(number, slice(row, row + 1))[0])
        about = (
            f"{self._paths[file]}: no frame of {field.key!r} for sample {sample} "
            f"(episode {episode_index}, row timestamp {self._times.seconds[row]} s)"
        )
        if not math.isfinite(wanted_s):
            return FrameNotFound(f"{about}: the timestamp is no number; correct the data file")
        pts_s = self.video(file).pts_s
        if not len(pts_s):
            return FrameNotFound(f"{about}: the file has no frames; download it again")
        nearest_s = float(pts_s[np.argmin(np.abs(pts_s - wanted_s))])
        place_s = (row - int(self._starts[number])) / self.meta.info.fps + float(camera.placement.start_s[number])
        by_count = np.abs(pts_s - place_s).min() <= self._tolerance_s
        hint = "; the row's place in its episode, over fps, has a frame: timestamps may be of another clock"
        return FrameNotFound(
            f"{about}: wanted {wanted_s:.6f} s, nearest is {nearest_s:.6f} s, {abs(nearest_s - wanted_s):.6f} s away, "
            f"tolerance_s is {self._tolerance_s:g}; correct the timestamps or give a larger tolerance_s"
            f"{hint if by_count else ''}"
        )

    def episode_starts(self) -> npt.NDArray[np.int64]:
        """First sample of each episode, ascending, beginning with 0."""
        return np.unique(self._starts[:-1][np.diff(self._starts) > 0])

    def gop_starts(self) -> npt.NDArray[np.int64]:
        """First sample of each GOP of the camera with the longest ones (by its first file). Indexes all its files.

        An episode whose file cannot be used is not cut.
        """
        if self._gop_starts is None:
            with self._lock:
                self._gop_starts = self._find_gop_starts()
        return self._gop_starts

    def columns(self, samples: npt.NDArray[np.int64]) -> dict[str, torch.Tensor | list[Any]]:
        """Everything that is not decoded from video, stacked as LeRobot's collated samples are.

        Numbers are float32, int64 or bool, as ``torch.tensor`` makes them of Python's; image features are float32
        ``[n, (T,) C, H, W]``, 8-bit ones in [0, 1]; ``<key>_is_pad`` is bool ``[n, T]``; texts, annotations are lists.

        Raises:
            DatasetError: an image cannot be read, or a task is not in the table.
        """
        batch: dict[str, torch.Tensor | list[Any]] = {}
        episode = self._episode_of(samples)
        windows = {
            offsets: self._window(samples, episode, offsets) for offsets in dict.fromkeys(self._offsets.values())
        }
        for key, values in self._outputs.items():
            rows = windows[self._offsets[key]][0] if key in self._offsets else samples
            batch[key] = torch.from_numpy(values[rows])
        for key, texts in self._rows.texts.items():
            batch[key] = texts[samples].tolist()
        for key, lists in self._rows.lists.items():
            batch[key] = lists.take(samples).to_pylist()
        for key, images in self._rows.images.items():
            rows = windows[self._offsets[key]][0] if key in self._offsets else samples
            factor = self.meta.info.features[key].depth_factor(self._depth_unit)
            pictures = image_tensor(images.read(rows.reshape(-1)), factor)
            batch[key] = pictures.reshape(*rows.shape, *pictures.shape[1:])
        for key, offsets in self._offsets.items():
            batch[f"{key}_is_pad"] = torch.from_numpy(windows[offsets][1].copy())
        batch["task"] = self._texts_of("task", self.meta.tasks, samples)
        if self.meta.subtasks is not None and "subtask_index" in self._rows.numbers:
            batch["subtask"] = self._texts_of("subtask", self.meta.subtasks, samples)
        return batch

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def _lock(self) -> threading.RLock:
        """Of this process: a parent's thread may have held the lock at the fork."""
        pid, lock = self._lock_of
        if pid != os.getpid():
            _, lock = self._lock_of = os.getpid(), threading.RLock()
        return lock

    def _episode_of(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._starts, samples, side="right") - 1

    def _window(
        self, samples: npt.NDArray[np.int64], episode: npt.NDArray[np.int64], offsets: tuple[int, ...]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """``(rows, padded)``, each ``[n, T]``: anchor plus offsets, clamped to the episode."""
        asked = samples[:, None] + np.array(offsets, dtype=np.int64)
        rows = np.clip(asked, self._starts[episode][:, None], self._starts[episode + 1][:, None] - 1)
        return rows, rows != asked

    def _texts_of(self, noun: str, names: Mapping[int, str], samples: npt.NDArray[np.int64]) -> list[str]:
        numbers = self._rows.numbers[f"{noun}_index"][samples].tolist()
        try:
            return [names[i] for i in numbers]
        except KeyError as error:
            sample = int(samples[numbers.index(error.args[0])])
            raise DatasetError(
                f"{self.meta.root}/meta: sample {sample} has {noun}_index {error.args[0]}, which is not among the "
                f"{noun}s; correct the table or the row"
            ) from error

    def _resolve(self, camera: CameraFrames, episode: npt.NDArray[np.int64]) -> None:
        files = [file for file in camera.unresolved(episode).tolist() if camera.is_due(file, self.meta.root)]
        unknown: list[str] = []
        if len(files) > _FEW_FILES:
            unknown = [self._paths[camera.first_file + f] for f in files if camera.first_file + f not in self._videos]
            self._indexed |= load_many(unknown, cache_dir=self._cache_dir)
        if files:
            with self._lock:
                for file in camera.unresolved(episode).tolist():
                    camera.resolve(file, self.video, self.meta.root)
                for path in unknown:  # of a file that was refused, or that another thread has resolved
                    self._indexed.pop(path, None)

    def _find_gop_starts(self) -> npt.NDArray[np.int64]:
        if not self._cameras:
            return self.episode_starts()
        typical = [self._typical(camera) for camera in self._cameras]
        camera = self._cameras[int(np.argmax([v.num_frames / max(len(v.keyframes), 1) for v in typical]))]
        every = np.arange(len(self._starts) - 1, dtype=np.int64)
        self._resolve(camera, every)
        for error in camera.errors.values():
            logger.warning("%s; the order of block shuffle does without its keyframes, and is another with them", error)
        frame = camera.frames(np.arange(len(self), dtype=np.int64))
        starts = [self.episode_starts()]
        keyframes: dict[int, npt.NDArray[np.int64]] = {}
        for episode in every[camera.usable(every)].tolist():
            file = int(camera.files(every[episode : episode + 1])[0])
            video = self.video(file)
            if file not in keyframes:  # found anew each time, and a file may hold thousands of episodes
                keyframes[file] = video.keyframes
            mine = frame[self._starts[episode] : self._starts[episode + 1]]
            shown = np.flatnonzero(mine >= 0)
            gop = np.searchsorted(keyframes[file], video.frame_packet[mine[shown]], side="right")
            starts.append(self._starts[episode] + shown[1:][gop[1:] != gop[:-1]])
        return np.unique(np.concatenate(starts))

    def _existing(self, key: str, path: str, listed: dict[str, set[str]]) -> str:
        """``listed``: files of folders that were looked at: asking for each of 300,000 takes minutes on a network."""
        full = str(self.meta.root / path)
        folder, name = os.path.split(full)
        if folder not in listed:
            listed[folder] = files_in(folder)
        if name not in listed[folder] and not os.path.exists(full):  # the folder may not let itself be listed
            raise DatasetError(
                f"{full}: the file of camera {key!r} is missing; download it, or leave out its episodes with "
                f"episodes=[…], or the camera: video_keys={[k for k in self.meta.episodes.videos if k != key]}; "
                "`gpuload check` lists all that are missing"
            )
        return full

    def _field_of(self, camera: CameraFrames, return_uint8: bool) -> VideoField:
        feature = self.meta.info.features[camera.key]
        index = self._typical(camera)
        height, width = self._sizes[camera.key] = index.shown_size
        if feature.height_width not in (None, (height, width)):
            logger.warning(
                "%s: pictures of %r are %dx%d, the shape in %s/meta/info.json is %s; batches have the pictures' size",
                index.path, feature.key, width, height, self.meta.root, feature.shape,
            )  # fmt: skip
        offsets = len(self._offsets.get(camera.key, (0,)))
        if feature.is_depth:
            lut = depth_lut(feature.info, f"{self.meta.root}/meta/info.json, {camera.key!r}", unit=self._depth_unit)
            return VideoField(camera.key, offsets, offsets == 1, height, width, 1, "float32", lut)
        dtype = "uint8" if return_uint8 else "float32"
        return VideoField(camera.key, offsets, offsets == 1, height, width, 3, dtype)

    def _typical(self, camera: CameraFrames) -> VideoIndex:
        """Of the camera's first files that can be used, one of info.json's size, else the first: what pictures are.

        Raises what the first file raises if none can be used.
        """
        stated = self.meta.info.features[camera.key].height_width
        usable: list[VideoIndex] = []
        first_error: GpuloadError | None = None
        for file in range(len(camera.placement.files)):
            try:
                usable.append(self._load(camera, camera.first_file + file))
            except GpuloadError as error:
                first_error = first_error or error
                if isinstance(error, DatasetError) and file >= _LOOKED_AT and not usable:
                    break  # they can be read, and are not what info.json says: the others will be no better
                continue
            if stated in (None, usable[-1].shown_size):
                return usable[-1]
            if len(usable) == _LOOKED_AT:
                break
        if usable:
            return usable[0]
        raise first_error or DatasetError(
            f"{self.meta.root}/meta/episodes: camera {camera.key!r} has no file; leave it out with video_keys=[…]"
        )

    def _digest(self) -> str:
        raw = {key: self.meta.info.raw.get(key) for key in ("codebase_version", "fps", "features")}
        parts = [raw, list(self.meta.info.features), {key: list(value) for key, value in self._offsets.items()}]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
        digest.update(self.meta.episodes.index.tobytes())
        digest.update(self._starts.tobytes())
        # Another recording of as many rows has other numbers in them.
        step = max(1, -(-len(self) // _DIGESTED))
        for key in sorted(self._outputs):
            digest.update(np.ascontiguousarray(self._outputs[key][::step]).tobytes())
        return digest.hexdigest()


def _without_absent(meta: Meta, rows: RowTable) -> Meta:
    """Without the features that were left out, for whoever asks which there are."""
    there = {*rows.numbers, *rows.texts, *rows.lists, *rows.images}
    kept = {key: feature for key, feature in meta.info.features.items() if feature.is_video or key in there}
    return replace(meta, info=replace(meta.info, features=kept))
