"""What the loader needs of a dataset, whatever stores it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuload.errors import GpuloadError
from gpuload.index.video import VideoIndex

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class VideoField:
    """One key of a batch that is decoded from video: ``[B, T, channels, height, width]``, T left out if ``squeeze``."""

    key: str
    num_offsets: int
    squeeze: bool
    height: int
    """Pixels as shown, after rotation."""
    width: int
    channels: int
    dtype: str
    """``uint8`` (0..255) or ``float32`` ([0, 1], or depth through ``lut``)."""
    lut: npt.NDArray[np.float32] | None = None
    """Depth: value of each stored code."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameRefs:
    """Which frame fills which slot, for n samples and S slots a sample (fields in order, offsets within a field)."""

    file: npt.NDArray[np.int32]
    """``[n, S]`` numbers for ``SampleSource.video``; -1: no file."""
    frame: npt.NDArray[np.int32]
    """``[n, S]`` frame numbers in that file; -1: no frame at that time."""


class SampleSource(Protocol):
    """Samples ``0 <= i < len(source)``. Calls may come from any thread of the process."""

    @property
    def fingerprint(self) -> str:
        """Changes when the samples do: hex digest over episodes, features and windows."""
        ...

    @property
    def video_fields(self) -> tuple[VideoField, ...]:
        """In the order of the slots of ``frames``."""
        ...

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Colour images among ``columns``: float32 ``[n, (T,) C, H, W]`` in [0, 1]."""
        ...

    @property
    def image_pixels(self) -> int:
        """Of one sample's images among ``columns``; 0: it has none, or their size is not known beforehand."""
        ...

    @property
    def reach(self) -> tuple[int, int]:
        """Samples by which video windows look back and ahead at most."""
        ...

    def __len__(self) -> int: ...

    def frames(self, samples: npt.NDArray[np.int64]) -> FrameRefs:
        """Frames that samples int64 ``[n]`` need; never raises for what is in the files."""
        ...

    def video(self, file: int) -> VideoIndex:
        """The index of a file by the number that ``frames`` gave it.

        Raises:
            GpuloadError: the file cannot be used; told again at each call, or not any more if it has come.
        """
        ...

    def error_of(self, sample: int, slot: int) -> GpuloadError:
        """Why a slot's frame is -1."""
        ...

    def episode_starts(self) -> npt.NDArray[np.int64]:
        """int64: first sample of each episode, ascending, beginning with 0."""
        ...

    def gop_starts(self) -> npt.NDArray[np.int64]:
        """int64: first sample of each GOP (of the camera with the longest ones), ascending; episodes also cut."""
        ...

    def columns(self, samples: npt.NDArray[np.int64]) -> "dict[str, torch.Tensor | list[Any]]":
        """Everything of a batch that is not decoded from video, in samples' order, stacked along dimension 0."""
        ...
