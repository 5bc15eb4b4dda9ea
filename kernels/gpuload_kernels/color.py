"""From samples to R'G'B': the linear map of a matrix number, range and depth, computed in float64."""

from dataclasses import dataclass

from gpuload_kernels.formats import PixelLayout

_LUMA_WEIGHTS = {
    0: (0.2126, 0.0722),  # identity, but with subsampled chroma: no such picture; BT.709, as swscale takes it
    1: (0.2126, 0.0722),  # BT.709
    2: (0.299, 0.114),  # unspecified: BT.601, as swscale's default
    3: (0.299, 0.114),  # reserved: likewise
    4: (0.30, 0.11),  # FCC 73.682
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
    10: (0.2627, 0.0593),  # BT.2020 constant luminance, read as 9, as swscale does
}
"""Kr and Kb by number: ISO/IEC 23091-2 table 4 (MatrixCoefficients), FFmpeg's AVColorSpace."""

WHITE = 255.0
"""Value of white after conversion, whatever the depth."""


@dataclass(frozen=True, slots=True)
class ColorMap:
    """R'G'B' in 0..255 of samples as stored (still shifted)::

        r = gain * y + red_v * v + offsets[0]
        g = gain * y + green_u * u + green_v * v + offsets[1]
        b = gain * y + blue_u * u + offsets[2]

    RGB, gray and the identity use each component alone: ``gain * sample + offset``.
    """

    gain: float
    red_v: float
    green_u: float
    green_v: float
    blue_u: float
    offsets: tuple[float, float, float]
    is_identity: bool
    """The components Y, U, V hold G, B, R (matrix 0 with 4:4:4)."""


def color_map(layout: PixelLayout, *, matrix: int, full_range: bool) -> ColorMap:
    """The map of one picture form; equations 20 to 40 of ISO/IEC 23091-2 inverted, scaled to white = 255.

    Matrix 0 is the identity for 4:4:4 and BT.709 for subsampled chroma. Gray and RGB formats are full range always.

    Raises:
        ValueError: a matrix that is no linear map with constants Kr and Kb (YCgCo, ICtCp, chromaticity-derived).
    """
    full_range = full_range or layout.always_full
    deeper = layout.bits - 8
    black = 0 if full_range else 16 << deeper
    luma_span = (1 << layout.bits) - 1 if full_range else 219 << deeper
    chroma_span = (1 << layout.bits) - 1 if full_range else 224 << deeper
    word = 1 << layout.shift
    gain = WHITE / (luma_span * word)
    dark = -gain * black * word
    subsampled = layout.chroma_width_shift or layout.chroma_height_shift
    if layout.kind != "yuv" or (matrix == 0 and not subsampled):
        return ColorMap(gain, gain, 0.0, 0.0, gain, (dark, dark, dark), is_identity=layout.kind == "yuv")
    if matrix not in _LUMA_WEIGHTS:
        raise ValueError(f"matrix {matrix} is none that the kernels convert; they know {sorted(_LUMA_WEIGHTS)}")
    red_weight, blue_weight = _LUMA_WEIGHTS[matrix]
    green_weight = 1.0 - red_weight - blue_weight
    chroma_gain = WHITE / (chroma_span * word)
    red_v = 2.0 * (1.0 - red_weight) * chroma_gain
    blue_u = 2.0 * (1.0 - blue_weight) * chroma_gain
    green_u = -blue_u * blue_weight / green_weight
    green_v = -red_v * red_weight / green_weight
    middle = (1 << (layout.bits - 1)) * word
    offsets = (dark - red_v * middle, dark - (green_u + green_v) * middle, dark - blue_u * middle)
    return ColorMap(gain, red_v, green_u, green_v, blue_u, offsets, is_identity=False)
