"""What conversion should give, in float64 numpy, written without the code under test.

Pictures are made as component arrays first and packed into planes by hand, so that the layouts of formats are tested
too. Chroma is placed by ``numpy.interp``, colours by the inverse of the forward matrix.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DEPTHS = (9, 10, 12, 14, 16)
GRAY = ("gray", *(f"gray{bits}le" for bits in DEPTHS))
GBR = ("gbrp", *(f"gbrp{bits}le" for bits in DEPTHS))
PLANAR = tuple(f"yuv{s}p{depth}" for s in (420, 422, 444) for depth in ("", *(f"{bits}le" for bits in DEPTHS)))
FULL_PLANAR = ("yuvj420p", "yuvj422p", "yuvj444p", "yuv440p")
SEMIPLANAR = ("nv12", "nv16", "nv24", "nv21", *(f"p{s}{bits}le" for s in (0, 2, 4) for bits in (10, 12, 16)))
PACKED = ("rgb24", "bgr24", "rgb0", "rgba", "bgr0", "bgra", "rgb48le")
FORMATS = GRAY + GBR + PLANAR + FULL_PLANAR + SEMIPLANAR + PACKED

KR_KB = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
KR_KB |= {9: (0.2627, 0.0593), 10: (0.2627, 0.0593), 2: (0.299, 0.114)}

# First chroma sample's position in luma samples, by AVChromaLocation: (x, y).
SITES = {0: (0, 0.5), 1: (0, 0.5), 2: (0.5, 0.5), 3: (0, 0), 4: (0.5, 0), 5: (0, 1), 6: (0.5, 1)}


def bits_of(name: str) -> int:
    """Significant bits of a format's samples."""
    if name == "rgb48le":
        return 16
    if match := re.fullmatch(r"p\d(\d\d)le", name):
        return int(match[1])
    match = re.search(r"(?:gray|p)(9|10|12|14|16)le$", name)
    return int(match[1]) if match else 8


def halves_of(name: str) -> tuple[bool, bool]:
    """Whether chroma has half the columns, half the rows."""
    for pattern, halves in {
        r"yuvj?420.*|nv12|nv21|p0.*": (True, True),
        r"yuvj?422.*|nv16|p2.*": (True, False),
        r"yuv440p": (False, True),
    }.items():
        if re.fullmatch(pattern, name):
            return halves
    return (False, False)


@dataclass(frozen=True)
class Components:
    """Y, U, V; R, G, B; or Y alone, as codes of ``bits_of(name)`` bits."""

    name: str
    codes: tuple[Ints, ...]

    @property
    def is_rgb(self) -> bool:
        return self.name.startswith(("gbr", "rgb", "bgr"))

    def planes(self) -> tuple[npt.NDArray[np.generic], ...]:
        """As FFmpeg lays them out: ``[rows, samples]``, uint8 or uint16."""
        name = self.name
        dtype = np.uint8 if bits_of(name) == 8 else np.uint16
        shift = 16 - bits_of(name) if re.fullmatch(r"p\d\d\dle", name) else 0
        codes = [(code << shift).astype(dtype) for code in self.codes]
        if name.startswith("gbrp"):
            return codes[1], codes[2], codes[0]
        if self.is_rgb:
            ordered = codes if name.startswith("rgb") else codes[::-1]
            if name[3:] in ("0", "a"):
                ordered = [*ordered, np.full_like(codes[0], 77)]
            return (_interleaved(ordered),)
        if name == "nv21":
            return codes[0], _interleaved(codes[:0:-1])
        if name.startswith("nv") or shift or re.fullmatch(r"p\d16le", name):
            return codes[0], _interleaved(codes[1:])
        return tuple(codes)

    def rgb(self, *, matrix: int = 2, full_range: bool = False, location: int = 0) -> Floats:
        """``[3, H, W]`` in 0..255, clamped, not rounded."""
        bits = bits_of(self.name)
        top = 2.0**bits - 1
        if len(self.codes) == 1:
            return np.stack([self.codes[0] * 255.0 / top] * 3)
        if self.is_rgb:
            return np.stack([code * 255.0 / top for code in self.codes])
        full_range = full_range or self.name.startswith("yuvj")
        height, width = self.codes[0].shape
        half_columns, half_rows = halves_of(self.name)
        site_x, site_y = SITES[location]
        luma = self.codes[0].astype(np.float64)
        chroma = [code.astype(np.float64) for code in self.codes[1:]]
        if half_columns:
            chroma = [_stretched(code, width, site_x) for code in chroma]
        if half_rows:
            chroma = [_stretched(code.T, height, site_y).T for code in chroma]
        unit = 2.0 ** (bits - 8)
        if full_range:
            y, u, v = luma / top, (chroma[0] - 128 * unit) / top, (chroma[1] - 128 * unit) / top
        else:
            y = (luma - 16 * unit) / (219 * unit)
            u, v = ((code - 128 * unit) / (224 * unit) for code in chroma)
        if matrix == 0:
            g, b, r = (luma, *chroma) if full_range else ((code - 16 * unit) / (219 * unit) for code in (luma, *chroma))
            return np.clip(255 * np.stack([r, g, b]) / (top if full_range else 1), 0, 255)
        kr, kb = KR_KB[matrix]
        luma_row = np.array([kr, 1 - kr - kb, kb])
        forward = np.stack([luma_row, ([0, 0, 1] - luma_row) / (2 - 2 * kb), ([1, 0, 0] - luma_row) / (2 - 2 * kr)])
        rgb = np.tensordot(np.linalg.inv(forward), np.stack([y, u, v]), axes=1)
        clamped: Floats = np.clip(255 * rgb, 0, 255)
        return clamped


def noise(name: str, width: int, height: int, *, seed: int = 0) -> Components:
    """Random codes over the whole range of the format."""
    draw = np.random.default_rng(seed)
    half_columns, half_rows = halves_of(name)
    shape = (-(-height // 2) if half_rows else height, -(-width // 2) if half_columns else width)
    top = 2 ** bits_of(name)
    codes = [draw.integers(0, top, (height, width))]
    if not name.startswith("gray"):
        codes += [draw.integers(0, top, shape) for _ in range(2)]
    return Components(name, tuple(codes))


def shaped(
    rgb: Floats,
    *,
    rotation: int = 0,
    crop: tuple[int, int, int, int] | None = None,
    size: tuple[int, int] | None = None,
    flip: bool = False,
) -> Floats:
    """Rotated, cropped (top, left, height, width), resized to (height, width), flipped."""
    rgb = np.rot90(rgb, rotation // 90, axes=(1, 2))
    if crop is not None:
        top, left, height, width = crop
        rgb = rgb[:, top : top + height, left : left + width]
    if size is not None and size != rgb.shape[1:]:
        batch = torch.from_numpy(np.ascontiguousarray(rgb))[None]
        rgb = torch.nn.functional.interpolate(batch, size, mode="bilinear", antialias=True)[0].numpy()
    return rgb[:, :, ::-1] if flip else rgb


def _interleaved(codes: list[npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
    return np.stack(codes, axis=-1).reshape(len(codes[0]), -1)


def _stretched(code: Floats, width: int, site: float) -> Floats:
    """Rows interpolated at 0..width-1, given samples at site, site + 2, …; edges clamped."""
    at = site + 2.0 * np.arange(code.shape[1])
    return np.stack([np.interp(np.arange(width), at, row) for row in code])
