"""Source and Target: what one launch reads and what it writes. Values only; no Triton here."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from gpuload_kernels.formats import PixelLayout, layout_of

Layout = Literal["chw", "hwc"]
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)

_CHROMA_OFFSETS = {0: (0, 1), 1: (0, 1), 2: (1, 1), 3: (0, 0), 4: (1, 0), 5: (0, 2), 6: (1, 2)}
"""Half luma samples from the corner's luma sample to the first chroma sample, (x, y); AVChromaLocation, H.273 figure 1.

0 unspecified (left), 1 left, 2 center, 3 top left, 4 top, 5 bottom left, 6 bottom.
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a kernel must know of samples while it is compiled."""

    layout: PixelLayout
    chroma_x: int
    """Half luma samples from the first luma sample to the first chroma sample; 0 where not subsampled."""
    chroma_y: int
    is_identity: bool
    """The components Y, U, V hold G, B, R."""


@dataclass(frozen=True, slots=True)
class Writing:
    """What a kernel must know of slots while it is compiled."""

    out: Any
    """Triton's type of a value."""
    channels_last: bool
    quarters: int
    """Turns by 90 degrees counter-clockwise of the stored picture."""
    is_centred: bool
    """Colours are centred around 0 and clamped; otherwise they are in 0..255 or beyond, and rounding clamps."""
    is_native: bool
    """Compiled for a GPU, and not interpreted."""


@dataclass(frozen=True, slots=True)
class Source:
    """Pictures that one launch can read.

    Raises:
        ValueError: an unknown format, an empty picture, an unknown chroma location or rotation.
    """

    pixel_format: str
    """FFmpeg's name: ``nv12``, ``yuv420p10le``, …"""
    width: int
    """Visible pixels as stored, before rotation."""
    height: int
    matrix: int = 2
    """ISO/IEC 23091-2, AVColorSpace; 2 unspecified is BT.601."""
    full_range: bool = False
    chroma_location: int = 0
    """AVChromaLocation; 0 unspecified is left."""
    rotation: int = 0
    """Degrees counter-clockwise by which it is turned for display: ``np.rot90(picture, rotation // 90)``."""

    def __post_init__(self) -> None:
        layout_of(self.pixel_format)
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a picture has at least one pixel, got {self.width}x{self.height}")
        if self.chroma_location not in _CHROMA_OFFSETS:
            raise ValueError(f"chroma_location must be 0 to 6 (AVChromaLocation), got {self.chroma_location}")
        if self.rotation not in (0, 90, 180, 270):
            raise ValueError(f"rotation must be 0, 90, 180 or 270 degrees, got {self.rotation}")

    @property
    def layout(self) -> PixelLayout:
        """Where the samples lie."""
        return layout_of(self.pixel_format)

    @property
    def chroma_offset(self) -> tuple[int, int]:
        """Half luma samples (x, y) from the first luma sample to the first chroma sample; 0 where not subsampled."""
        x, y = _CHROMA_OFFSETS[self.chroma_location]
        return x if self.layout.chroma_width_shift else 0, y if self.layout.chroma_height_shift else 0

    @property
    def rotated_size(self) -> tuple[int, int]:
        """(height, width) after rotation: what crop windows lie in."""
        return (self.width, self.height) if self.rotation % 180 else (self.height, self.width)


@dataclass(frozen=True, slots=True)
class Target:
    """What one launch makes of each picture.

    Raises:
        ValueError: an empty output or crop, a layout or dtype that is not offered, mean or std with uint8.
    """

    height: int
    width: int
    dtype: torch.dtype = torch.uint8
    """uint8 in 0..255; float16, bfloat16, float32 in [0, 1] before normalisation."""
    layout: Layout = "chw"
    crop_height: int | None = None
    """Rows of the rotated picture that are resized to the output; None: all."""
    crop_width: int | None = None
    mean: tuple[float, float, float] | None = None
    """Per channel, in units of [0, 1]: the output is ``(rgb - mean) / std``; None is 0."""
    std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        sizes = (self.height, self.width, self.crop_height or 1, self.crop_width or 1)
        if min(sizes) < 1 or 0 in (self.crop_height, self.crop_width):
            raise ValueError(f"output and crop must have at least one pixel, got {self}")
        if self.layout not in ("chw", "hwc"):
            raise ValueError(f"layout must be 'chw' or 'hwc', got {self.layout!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {self.dtype}")
        if self.dtype == torch.uint8 and (self.mean is not None or self.std is not None):
            raise ValueError("mean and std need a floating dtype, got torch.uint8")
        if any(len(values) != 3 for values in (self.mean, self.std) if values is not None):
            raise ValueError(f"mean and std hold three channels, got {self.mean} and {self.std}")
        if self.std is not None and min(map(abs, self.std)) == 0:
            raise ValueError(f"std must not be zero, got {self.std}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a slot."""
        return (3, self.height, self.width) if self.layout == "chw" else (self.height, self.width, 3)

    def crop_size(self, source: Source) -> tuple[int, int]:
        """(height, width) of the window in the rotated picture.

        Raises:
            ValueError: the window is larger than the picture.
        """
        height, width = source.rotated_size
        window = (self.crop_height or height, self.crop_width or width)
        if window[0] > height or window[1] > width:
            raise ValueError(
                f"crop {window[0]}x{window[1]} is larger than the rotated picture {height}x{width} (h x w)"
            )
        return window
