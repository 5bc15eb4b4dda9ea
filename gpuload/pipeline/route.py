"""Which backend decodes each file of a dataset, and why."""

import logging
from typing import NamedTuple

import numpy as np
import torch

from gpuload.decode.registry import AUTO, Choice, Machine, StreamKind, choose, find_machine, kind_of
from gpuload.device.nvdec import NvdecMissing, NvdecTable
from gpuload.errors import GpuloadError
from gpuload.sources.base import SampleSource
from gpuload.sources.lerobot_depth import is_depth_format

logger = logging.getLogger(__name__)

LOOKED_AT = 100
"""Episodes, for a file of each camera that can be used."""


class Way(NamedTuple):
    """A backend and where its pictures are decoded."""

    backend: str
    device: str
    """``cpu`` or ``cuda``."""


class Router:
    """Choices for one loader. They are made when a file is first met, and kept by kind of stream.

    Raises:
        ConfigError: the backend that was asked for cannot decode the first pictures of a camera.
    """

    def __init__(self, source: SampleSource, *, device: torch.device, backend: str) -> None:
        self._source, self._device, self._backend = source, str(device), backend
        self._has_depth = any(field.lut is not None for field in source.video_fields)
        self._choices: dict[StreamKind, Choice] = {}
        self._ways: dict[int, Way] = {}
        looks = device.type != "cpu" or backend not in (AUTO, "pyav")
        self._machine = (
            find_machine(device=self._device, backend=backend)
            if looks
            else Machine({"pyav": ""}, NvdecMissing("no device", "device is cpu"))
        )
        self._first_files = self._find_first_files()
        choices = [self.choice(file) for file in self._first_files.values()]
        if device.type == "cuda" and backend == AUTO and choices and all(c.device == "cpu" for c in choices):
            logger.warning(
                "NVDEC decodes none of the cameras: %s; docs/gpu.md and `gpuload doctor` say more", choices[0].reason
            )

    def choice(self, file: int) -> Choice:
        """What decodes a file."""
        video = self._source.video(file)
        is_depth = self._has_depth and is_depth_format(video.pixel_format)
        kind = kind_of(video, is_depth=is_depth)
        if kind not in self._choices:
            self._choices[kind] = choose(kind, device=self._device, backend=self._backend, machine=self._machine)
        return self._choices[kind]

    def way(self, file: int) -> Way:
        """The same in short."""
        if file not in self._ways:
            choice = self.choice(file)
            self._ways[file] = Way(choice.backend, choice.device)
        return self._ways[file]

    def coding(self, file: int) -> tuple[str, str]:
        """Codec and pixel format of a file, by FFmpeg's names."""
        video = self._source.video(file)
        return video.codec, video.pixel_format

    def pixels(self, file: int) -> int:
        """Of one of its pictures."""
        video = self._source.video(file)
        return video.width * video.height

    def first_ways(self) -> set[Way]:
        """Those that the first episodes need."""
        return {self.way(file) for file in self._first_files.values()}

    @property
    def is_free(self) -> bool:
        """No backend was asked for."""
        return self._backend == AUTO

    def num_engines(self) -> int:
        """Decoders that work at once on the device: NVDEC's engines, 1 where the driver does not say."""
        nvdec = self._machine.nvdec
        return max([1, *(caps.engines for caps in nvdec.caps)]) if isinstance(nvdec, NvdecTable) else 1

    def backends(self) -> dict[str, tuple[str, str]]:
        """Key of each video field -> (backend, why this one), by its first file that can be used."""
        choices = {key: self.choice(file) for key, file in self._first_files.items()}
        return {key: (choice.backend, choice.reason) for key, choice in choices.items()}

    def _find_first_files(self) -> dict[str, int]:
        """One of each camera, of the first episodes' files that can be used; what needs another one says so."""
        found: dict[str, int] = {}
        first_samples = self._source.episode_starts()[:LOOKED_AT] if len(self._source) else np.empty(0, np.int64)
        for sample in first_samples.tolist():
            files = self._source.frames(np.array([sample])).file[0].tolist()
            for field in self._source.video_fields:
                here, files = files[: field.num_offsets], files[field.num_offsets :]
                usable = (file for file in here if file >= 0 and self._is_usable(file))
                if field.key not in found and (file := next(usable, None)) is not None:
                    found[field.key] = file
            if len(found) == len(self._source.video_fields):
                break
        return found

    def _is_usable(self, file: int) -> bool:
        try:
            self._source.video(file)
        except GpuloadError:
            return False
        return True
