"""What is simulated: pictures of a form, planes and slots at addresses, and the exact result of each."""

from dataclasses import dataclass

import numpy as np
import torch
from gpuload_kernels.forms import Layout, Source, Target

from tests.kernels.exact import FORMATS, Components, Floats, halves_of, noise, shaped

SUBSAMPLED = tuple(name for name in FORMATS if any(halves_of(name)))
MATRICES = (0, 1, 2, 4, 5, 7, 9)
DTYPES = (torch.uint8, torch.uint8, torch.float16, torch.bfloat16, torch.float32)

NATIVE_BOUNDS = {torch.uint8: 0.501, torch.float16: 2**-12 + 3e-6, torch.bfloat16: 2**-9 + 3e-6, torch.float32: 2.5e-6}
"""Largest error, of 255 or of 1: half of the last place, and float32 rounding on the way."""
SCALED_BOUNDS = {torch.uint8: 0.755, torch.float16: 2**-12 + 1e-3, torch.bfloat16: 2**-9 + 1e-3, torch.float32: 1e-3}
"""1e-3 of white more: weights and colours are half floats."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a launch."""

    seed: int
    top: int = 0
    left: int = 0
    flip: bool = False
    offset: int = 0
    """Samples between a multiple of 16 bytes and the first sample of each plane."""
    padding: int | None = None
    """Samples behind each row; None: up to a multiple of 16 bytes."""
    slot_offset: int = 0
    """Values between a multiple of 16 bytes and the slot."""


@dataclass(frozen=True, slots=True)
class Case:
    """One launch."""

    source: Source
    target: Target
    pictures: tuple[Picture, ...]

    @property
    def is_scaled(self) -> bool:
        """The window has another size than the output."""
        return self.target.crop_size(self.source) != (self.target.height, self.target.width)

    @property
    def bound(self) -> float:
        """The largest error that is none."""
        return (SCALED_BOUNDS if self.is_scaled else NATIVE_BOUNDS)[self.target.dtype]

    def components(self, picture: Picture) -> Components:
        """What the picture shows: noise."""
        return noise(self.source.pixel_format, self.source.width, self.source.height, seed=picture.seed)

    def exact(self, picture: Picture) -> Floats:
        """``[3, H, W]`` in 0..255 of uint8 slots, in 0..1 of others; not rounded."""
        source, target = self.source, self.target
        # RGB from subsampled chroma has no meaning; the kernel takes BT.709 then.
        matrix = 1 if source.matrix == 0 and any(halves_of(source.pixel_format)) else source.matrix
        rgb = self.components(picture).rgb(matrix=matrix, full_range=source.full_range, location=source.chroma_location)
        rgb = shaped(rgb, rotation=source.rotation, crop=(picture.top, picture.left, *target.crop_size(source)))
        if self.is_scaled:
            down, across = _weights(rgb.shape[1], target.height), _weights(rgb.shape[2], target.width)
            rgb = down @ rgb @ across.T
        rgb = rgb[:, :, ::-1] if picture.flip else rgb
        return rgb if target.dtype == torch.uint8 else rgb / 255


def _plain(source: Source, target: Target, *, top: int = 0, left: int = 0) -> Case:
    """A picture of which all lies at multiples of 16 bytes, three of which one thing does not, and a mirrored one."""
    pictures = (
        Picture(1, top, left),
        Picture(2, top, left, offset=1),
        Picture(3, top, left, padding=3),
        Picture(4, top, left, slot_offset=1),
        Picture(5, top, left, flip=True),
    )
    return Case(source, target, pictures)


ALWAYS = (
    _plain(Source("nv12", 144, 34), Target(34, 144)),
    # Windows of whole tiles that begin where neither pairs of rows nor fours of columns do.
    _plain(Source("nv12", 144, 70), Target(64, 128, crop_height=64, crop_width=128), top=3, left=5),
    _plain(Source("nv12", 48, 80, rotation=90), Target(32, 64, crop_height=32, crop_width=64), top=5, left=3),
    _plain(Source("nv12", 144, 50, 1), Target(17, 40, torch.float16)),
    _plain(Source("p010le", 64, 20, 9), Target(20, 64, torch.float16)),
    # An odd number of chroma samples in a row, which no vector of pairs holds.
    _plain(Source("yuv420p", 33, 19), Target(19, 33, torch.float32)),
    _plain(Source("nv12", 64, 18), Target(18, 64, layout="hwc")),
)
"""Every path of the forms that matter most."""


def case_of(seed: int, number: int) -> Case:
    """Launch ``number`` of a seed: those of ``ALWAYS`` come first, random ones follow."""
    if number < len(ALWAYS):
        return ALWAYS[number]
    draw = np.random.default_rng((seed, number))
    source = _source(draw)
    target = _target(draw, source)
    return Case(source, target, tuple(_picture(draw, place, source, target) for place in range(4)))


def _source(draw: np.random.Generator) -> Source:
    largest = 6 if draw.random() < 0.2 else 71
    width, height = (int(draw.integers(1, largest)) for _ in range(2))
    if draw.random() < 0.6:  # whole vectors of bytes and of 16 bits, and wider than a tile
        width = int(draw.choice([4, 8, 12, 16, 32, 48, 64, 80, 128, 133, 144]))
    if draw.random() < 0.3:
        height = int(draw.choice([16, 32, 48, 64, 80]))
    return Source(
        str(draw.choice(SUBSAMPLED if draw.random() < 0.5 else FORMATS)),
        width,
        height,
        int(draw.choice(MATRICES)),
        full_range=bool(draw.integers(2)),
        chroma_location=int(draw.integers(7)),
        rotation=int(draw.choice([0, 0, 90, 180, 270])),
    )


def _target(draw: np.random.Generator, source: Source) -> Target:
    height, width = source.rotated_size
    crop_height, crop_width = height, width
    if draw.random() < 0.6:
        crop_height = int(draw.choice([height, int(draw.integers(1, height + 1))]))
        crop_width = int(draw.choice([width, int(draw.integers(1, width + 1))]))
        if draw.random() < 0.4:
            crop_width = max(crop_width // 16 * 16, 1)
    out_height, out_width = crop_height, crop_width
    if draw.random() < 0.4:
        out_height, out_width = int(draw.integers(1, 40)), int(draw.integers(1, 72))
        if draw.random() < 0.3:  # whole tiles
            out_height, out_width = 16 * (1 + out_height // 20), 16 * (1 + out_width // 24)
    layouts: tuple[Layout, ...] = ("chw", "chw", "hwc")
    return Target(
        out_height,
        out_width,
        DTYPES[draw.integers(len(DTYPES))],
        layouts[draw.integers(len(layouts))],
        crop_height=crop_height,
        crop_width=crop_width,
    )


def _picture(draw: np.random.Generator, place: int, source: Source, target: Target) -> Picture:
    """The second's planes and the fourth's slot are not aligned, the third is mirrored; now and then others are too."""
    height, width = source.rotated_size
    crop_height, crop_width = target.crop_size(source)
    left = int(draw.integers(width - crop_width + 1))
    is_aligned = place != 1
    return Picture(
        int(draw.integers(1 << 31)),
        int(draw.integers(height - crop_height + 1)),
        left // 4 * 4 if draw.random() < 0.5 else left,
        flip=(place == 2) != (draw.random() < 0.2),
        offset=0 if is_aligned or draw.random() < 0.3 else int(draw.integers(9)),
        padding=None if is_aligned else int(draw.integers(4)),
        slot_offset=int(draw.integers(1, 16)) if place == 3 or draw.random() < 0.2 else 0,
    )


def _weights(size: int, out_size: int) -> Floats:
    """``[out_size, size]``: the triangle filter, widened where it reduces.

    Not by torch, whose antialiased interpolation to one column is wrong.
    """
    scale = size / out_size
    centres = scale * (np.arange(out_size)[:, None] + 0.5)
    weights = np.maximum(1 - np.abs(np.arange(size) + 0.5 - centres) / max(scale, 1.0), 0)
    normalised: Floats = weights / weights.sum(1, keepdims=True)
    return normalised
