"""Pixel formats: where the samples of each component lie, and how tightly packed planes are shaped. No Triton here."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["yuv", "gray", "rgb"]


@dataclass(frozen=True, slots=True)
class Component:
    """Sample ``x`` of a row is the plane row's sample ``x * step + offset``."""

    plane: int
    offset: int = 0
    step: int = 1


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """Where the samples of one pixel format lie; hashable, so that it can be a compile-time constant of a kernel."""

    name: str
    kind: Kind
    components: tuple[Component, ...]
    """Y; Y, U, V; or R, G, B: always in this order, wherever they lie. Alpha is not listed."""
    bits: int
    """Significant bits of a sample."""
    shift: int = 0
    """How far the sample is left-shifted in its container word (6 for p010)."""
    chroma_width_shift: int = 0
    """log2 of luma columns to a chroma column."""
    chroma_height_shift: int = 0
    """log2 of luma rows to a chroma row."""
    always_full: bool = False
    """Full range whatever the stream says (gray, RGB, yuvj), as swscale takes them."""

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample: 1 up to 8 bits, else 2 (little-endian)."""
        return 1 if self.bits <= 8 else 2

    @property
    def planes(self) -> int:
        """Number of planes, 1 to 3."""
        return 1 + max(component.plane for component in self.components)

    @property
    def interleaved(self) -> bool:
        """True if U and V alternate in one plane (nv12, p010)."""
        return self.kind == "yuv" and self.planes == 2

    @property
    def chroma_lane(self) -> int:
        """Bits that the kernel gives to each of two chroma columns in one integer: room for 16 times a code."""
        return 16 if self.bits <= 12 else 32

    @property
    def chroma_weight(self) -> int:
        """What the kernel's interpolation multiplies codes by: 4 for each axis that is subsampled."""
        return 1 << 2 * (self.chroma_width_shift + self.chroma_height_shift)

    def plane_shapes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """``(rows, row_bytes)`` of each tightly packed plane; an odd side gives the larger half to chroma."""
        shapes = []
        for plane in range(self.planes):
            component = next(component for component in self.components if component.plane == plane)
            subsampled = self.kind == "yuv" and plane > 0
            rows = _ceil_shift(height, self.chroma_height_shift if subsampled else 0)
            columns = _ceil_shift(width, self.chroma_width_shift if subsampled else 0)
            shapes.append((rows, columns * component.step * self.sample_bytes))
        return tuple(shapes)


_Y_U_V = (Component(0), Component(1), Component(2))
_Y_UV = (Component(0), Component(1, 0, 2), Component(1, 1, 2))
_Y_VU = (Component(0), Component(1, 1, 2), Component(1, 0, 2))
_G_B_R = (Component(2), Component(0), Component(1))
_SUBSAMPLING = {"420": (1, 1), "422": (1, 0), "440": (0, 1), "444": (0, 0)}
_SEMIPLANAR = {"nv12": "420", "nv16": "422", "nv24": "444", "nv21": "420", "nv42": "444"}
_PACKED_RGB = {"rgb24": (0, 1, 2, 3), "bgr24": (2, 1, 0, 3), "rgb48le": (0, 1, 2, 3)} | {
    name: (0, 1, 2, 4) if name.startswith("rgb") else (2, 1, 0, 4) for name in ("rgb0", "rgba", "bgr0", "bgra")
}
_PLANAR = re.compile(r"yuv(j?)(420|422|440|444)p(?:(9|10|12|14|16)le)?")
_DEEP_SEMIPLANAR = re.compile(r"p([024])(10|12|16)le")
_ONE_PLANE_EACH = re.compile(r"(gray|gbrp)(?:(9|10|12|14|16)le)?")


def layout_of(pixel_format: str) -> PixelLayout:
    """The layout of FFmpeg's pixel format (names and meanings as in libavutil/pixdesc.c).

    Raises:
        ValueError: a format that the kernels do not read.
    """
    name = pixel_format
    if name in _PACKED_RGB:
        *offsets, step = _PACKED_RGB[name]
        components = tuple(Component(0, offset, step) for offset in offsets)
        return PixelLayout(name, "rgb", components, bits=16 if name == "rgb48le" else 8, always_full=True)
    if match := _ONE_PLANE_EACH.fullmatch(name):
        bits = int(match[2] or 8)
        if match[1] == "gray":
            return PixelLayout(name, "gray", (Component(0),), bits, always_full=True)
        return PixelLayout(name, "rgb", _G_B_R, bits, always_full=True)
    if name in _SEMIPLANAR:
        width_shift, height_shift = _SUBSAMPLING[_SEMIPLANAR[name]]
        components = _Y_VU if name in ("nv21", "nv42") else _Y_UV
        return PixelLayout(name, "yuv", components, 8, 0, width_shift, height_shift)
    if match := _DEEP_SEMIPLANAR.fullmatch(name):
        bits = int(match[2])
        width_shift, height_shift = _SUBSAMPLING[{"0": "420", "2": "422", "4": "444"}[match[1]]]
        return PixelLayout(name, "yuv", _Y_UV, bits, 16 - bits, width_shift, height_shift)
    if (match := _PLANAR.fullmatch(name)) and not (match[1] and match[3]):
        width_shift, height_shift = _SUBSAMPLING[match[2]]
        bits = int(match[3] or 8)
        return PixelLayout(name, "yuv", _Y_U_V, bits, 0, width_shift, height_shift, always_full=bool(match[1]))
    raise ValueError(f"pixel format {name!r} is none that the kernels read")


def _ceil_shift(size: int, shift: int) -> int:
    return -(-size >> shift)
