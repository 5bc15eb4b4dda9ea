"""Device functions that read samples of any layout as R'G'B', float32. Compiled into the kernel of convert.py.

Everything is read in pairs of rows, of which the first is even: three chroma rows at most serve both.

Colours are *centred*: R'G'B' - 127.5, in [-127.5, 127.5]. A symmetric clamp is one instruction (min.xorsign), half
floats hold centred values with twice the accuracy, and the offset costs nothing as it joins those of the matrix.
"""

# ruff: noqa: N803  (compile-time constants are upper case in Triton)
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl

from gpuload_kernels.chroma import chroma
from gpuload_kernels.samples import samples


@triton.jit
def centred_rgb(
    planes,
    pairs,
    columns,
    first,
    picture_size,
    color,
    SOURCE: tl.constexpr,
    ALIGNED: tl.constexpr,
    CLAMPED: tl.constexpr,
):
    """R'G'B' of stored pixels of rows ``2 * pairs`` and of the rows below them: twice three float32 ``[P, K]``,
    arbitrary outside of the picture. Without CLAMPED what stores them clamps, and ``color`` says whether they are
    centred.

    ``planes``: three addresses int64 and three strides in bytes int32. ``pairs`` int32 ``[P, 1]``, not negative;
    ``columns`` int32 ``[1, K]`` from ``first``, a multiple of 4, not negative. ``picture_size``: height, width, and
    those of chroma. ``color``: gain, red_v, green_u, green_v, blue_u, with chroma's for ``chroma``'s units, and the
    three offsets. ALIGNED: as ``samples`` and ``chroma`` take it.
    """
    height, width, _, _ = picture_size
    inside = columns < width
    even_rows = tl.minimum(2 * pairs, height - 1)  # a mask here would keep loads from being vectors
    odd_rows = tl.minimum(2 * pairs + 1, height - 1)
    if SOURCE.layout.kind == "yuv":
        even_luma = samples(planes, even_rows, columns, inside, SOURCE, 0, ALIGNED)
        odd_luma = samples(planes, odd_rows, columns, inside, SOURCE, 0, ALIGNED)
        even_chroma, odd_chroma = chroma(planes, pairs, columns, first, picture_size, SOURCE, ALIGNED)
        even = rgb_of_yuv(even_luma, even_chroma, color, SOURCE, CLAMPED)
        odd = rgb_of_yuv(odd_luma, odd_chroma, color, SOURCE, CLAMPED)
    else:
        even = rgb_of_components(planes, even_rows, columns, inside, color, SOURCE, ALIGNED, CLAMPED)
        odd = rgb_of_components(planes, odd_rows, columns, inside, color, SOURCE, ALIGNED, CLAMPED)
    return even, odd


@triton.jit
def rgb_of_yuv(luma, uv, color, SOURCE: tl.constexpr, CLAMPED: tl.constexpr):
    """R'G'B' of luma samples and of chroma at the same places."""
    gain, red_v, green_u, green_v, blue_u, red_offset, green_offset, blue_offset = color
    u, v = uv
    bright = gain * luma.to(tl.float32)
    if SOURCE.is_identity:  # the planes of Y, U, V hold G, B, R
        red = clamped(red_v * v + red_offset, CLAMPED)
        green = clamped(bright + green_offset, CLAMPED)
        blue = clamped(blue_u * u + blue_offset, CLAMPED)
    else:
        red = clamped(bright + (red_v * v + red_offset), CLAMPED)
        green = clamped(bright + (green_u * u + (green_v * v + green_offset)), CLAMPED)
        blue = clamped(bright + (blue_u * u + blue_offset), CLAMPED)
    return red, green, blue


@triton.jit
def rgb_of_components(
    planes, rows, columns, mask, color, SOURCE: tl.constexpr, ALIGNED: tl.constexpr, CLAMPED: tl.constexpr
):
    """R'G'B' of pictures without chroma."""
    gain, _, _, _, _, red_offset, green_offset, blue_offset = color
    red = gain * samples(planes, rows, columns, mask, SOURCE, 0, ALIGNED).to(tl.float32) + red_offset
    red = clamped(red, CLAMPED)
    green, blue = red, red
    if SOURCE.layout.kind == "rgb":
        green = gain * samples(planes, rows, columns, mask, SOURCE, 1, ALIGNED).to(tl.float32) + green_offset
        blue = gain * samples(planes, rows, columns, mask, SOURCE, 2, ALIGNED).to(tl.float32) + blue_offset
        green, blue = clamped(green, CLAMPED), clamped(blue, CLAMPED)
    return red, green, blue


@triton.jit
def clamped(value, CLAMPED: tl.constexpr):
    """Centred colours kept within black and white."""
    if CLAMPED:
        value = tl.clamp(value, -127.5, 127.5)
    return value


@triton.jit
def rows_joined(even, odd):
    """``[P, K]`` of even and of odd rows -> ``[2 * P, K]``."""
    return tl.reshape(tl.permute(tl.join(even, odd), (0, 2, 1)), (2 * even.shape[0], even.shape[1]))
