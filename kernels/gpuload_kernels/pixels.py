"""Device functions that read samples of any layout as R'G'B', float32. Compiled into the kernel of convert.py.

Colours are *centred*: R'G'B' - 127.5, in [-127.5, 127.5]. A symmetric clamp is one instruction (min.xorsign), half
floats hold centred values with twice the accuracy, and the offset costs nothing as it joins those of the matrix.
"""

# ruff: noqa: N803, N806  (compile-time constants are upper case in Triton)
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl


@triton.jit
def row_pointers(planes, rows, PLANE: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointers ``[R, 1]`` to the first sample of rows of a plane."""
    plane_ptr = planes[PLANE].to(tl.pointer_type(tl.uint8))
    stride_bytes = planes[PLANE + 3]  # int64, so that a row's offset cannot overflow
    if ALIGNED:  # changes no value: the compiler sees what it may load as vectors
        plane_ptr = tl.multiple_of(plane_ptr, 16)
        stride_bytes = stride_bytes // 16 * 16
    return (plane_ptr + rows * stride_bytes).to(tl.pointer_type(DTYPE), bitcast=True)


@triton.jit
def samples(planes, rows, columns, mask, SOURCE: tl.constexpr, COMPONENT: tl.constexpr, ALIGNED: tl.constexpr):
    """One component's samples as stored, uint8 or uint16 ``[R, K]``; rows int32 ``[R, 1]``, columns ``[1, K]``."""
    PLANE: tl.constexpr = SOURCE.layout.components[COMPONENT].plane
    STEP: tl.constexpr = SOURCE.layout.components[COMPONENT].step
    OFFSET: tl.constexpr = SOURCE.layout.components[COMPONENT].offset
    SAMPLE: tl.constexpr = tl.uint8 if SOURCE.layout.sample_bytes == 1 else tl.uint16
    sample_ptr = row_pointers(planes, rows, PLANE, SAMPLE, ALIGNED) + (columns * STEP + OFFSET)
    return tl.load(sample_ptr, mask=mask, other=0)


@triton.jit
def chroma_words(planes, rows, columns, mask, SOURCE: tl.constexpr, ALIGNED: tl.constexpr):
    """U and V codes side by side in one integer, ``[R, K]``, at chroma rows ``[R, 1]`` and columns ``[1, K]``.

    Interpolating both by one integer multiplication is exact and takes half the instructions; an 8-bit picture's
    conversion is limited by those. A lane has room for 16 times a code: 16 bits for codes up to 12, else 32.
    """
    LANE: tl.constexpr = SOURCE.layout.chroma_lane
    WORD: tl.constexpr = tl.uint32 if LANE == 16 else tl.uint64
    if SOURCE.layout.interleaved:
        SAMPLE_BITS: tl.constexpr = 8 * SOURCE.layout.sample_bytes
        PAIR: tl.constexpr = tl.uint16 if SAMPLE_BITS == 8 else tl.uint32
        pair_ptr = row_pointers(planes, rows, SOURCE.layout.components[1].plane, PAIR, ALIGNED) + columns
        words = tl.load(pair_ptr, mask=mask, other=0).to(WORD)
        if LANE > SAMPLE_BITS:
            words = words | (words << (LANE - SAMPLE_BITS))
    else:
        first = samples(planes, rows, columns, mask, SOURCE, 1, ALIGNED).to(WORD)
        words = first | (samples(planes, rows, columns, mask, SOURCE, 2, ALIGNED).to(WORD) << LANE)
    return (words >> SOURCE.layout.shift) & SOURCE.layout.chroma_mask


@triton.jit
def chroma_at_rows(planes, rows, chroma_height, columns, mask, SOURCE: tl.constexpr, ALIGNED: tl.constexpr):
    """Words of chroma columns ``[1, K]`` interpolated at luma rows ``[R, 1]``, times 4 if rows are subsampled."""
    if SOURCE.layout.chroma_height_shift == 0:
        words = chroma_words(planes, rows, columns, mask, SOURCE, ALIGNED)
    else:
        last = chroma_height - 1
        quarters = 2 * rows - SOURCE.chroma_y  # position among the chroma rows, in quarters of their spacing
        upper_row = tl.minimum(tl.maximum(quarters >> 2, 0), last)
        lower_row = tl.minimum(tl.maximum((quarters >> 2) + 1, 0), last)
        upper = chroma_words(planes, upper_row, columns, mask, SOURCE, ALIGNED)
        lower = chroma_words(planes, lower_row, columns, mask, SOURCE, ALIGNED)
        share = (quarters & 3).to(upper.dtype)
        words = upper * (4 - share) + lower * share
    return words


@triton.jit
def chroma(
    planes,
    rows,
    columns,
    first,
    picture_size,
    SOURCE: tl.constexpr,
    PAIRED: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """U and V interpolated bilinearly at luma positions, edges clamped: two float32 ``[R, K]``.

    They are codes times 4 for each axis that is subsampled. With PAIRED the columns are ``first, first + 1, …`` and
    ``first`` is even: each chroma sample is then read for two columns at once.
    """
    _, width, chroma_height, chroma_width = picture_size
    if SOURCE.layout.chroma_width_shift == 0:
        words = chroma_at_rows(planes, rows, chroma_height, columns, columns < width, SOURCE, ALIGNED)
    elif PAIRED:
        near_column = first // 2 + tl.arange(0, columns.shape[1] // 2)[None, :]
        near = chroma_at_rows(planes, rows, chroma_height, near_column, near_column < chroma_width, SOURCE, ALIGNED)
        # Edges by selection: a clamped column would take an address of its own for every load.
        is_next = near_column < chroma_width - 1
        next_words = chroma_at_rows(planes, rows, chroma_height, near_column + 1, is_next, SOURCE, ALIGNED)
        next_words = tl.where(is_next, next_words, near)
        if SOURCE.chroma_x == 0:  # an even column lies on a sample, an odd one midway
            words = tl.interleave(near * 4, (near + next_words) * 2)
        else:  # both lie a quarter of the spacing away from the nearest sample
            is_previous = (near_column > 0) & (near_column < chroma_width)
            previous = chroma_at_rows(planes, rows, chroma_height, near_column - 1, is_previous, SOURCE, ALIGNED)
            previous = tl.where(is_previous, previous, near)
            words = tl.interleave(near * 3 + previous, near * 3 + next_words)
    else:
        quarters = 2 * columns - SOURCE.chroma_x
        last = chroma_width - 1
        left_column = tl.minimum(tl.maximum(quarters >> 2, 0), last)
        right_column = tl.minimum(tl.maximum((quarters >> 2) + 1, 0), last)
        left = chroma_at_rows(planes, rows, chroma_height, left_column, columns < width, SOURCE, ALIGNED)
        right = chroma_at_rows(planes, rows, chroma_height, right_column, columns < width, SOURCE, ALIGNED)
        share = (quarters & 3).to(left.dtype)
        words = left * (4 - share) + right * share
    low = (words & ((1 << SOURCE.layout.chroma_lane) - 1)).to(tl.float32)
    high = (words >> SOURCE.layout.chroma_lane).to(tl.float32)
    if SOURCE.layout.interleaved and SOURCE.layout.components[1].offset == 1:
        u, v = high, low
    else:
        u, v = low, high
    return u, v


@triton.jit
def clamped(value):
    """Centred colours kept within black and white."""
    return tl.clamp(value, -127.5, 127.5)


@triton.jit
def centred_rgb(
    planes,
    rows,
    columns,
    first,
    picture_size,
    color,
    SOURCE: tl.constexpr,
    PAIRED: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Centred R'G'B' of stored pixels, three float32 ``[R, K]``, clamped; arbitrary outside of the picture.

    ``planes``: three addresses and three strides in bytes, int64. ``rows`` int32 ``[R, 1]``, not negative;
    ``columns`` int32 ``[1, K]``, not negative. ``picture_size``: height, width, and those of chroma. ``color``: gain,
    red_v, green_u, green_v, blue_u, with chroma's for ``chroma``'s units, and the three offsets.
    """
    gain, red_v, green_u, green_v, blue_u, red_offset, green_offset, blue_offset = color
    height, width, _, _ = picture_size
    rows = tl.minimum(rows, height - 1)  # a mask here would keep loads from being vectors
    inside = columns < width
    first_component = gain * samples(planes, rows, columns, inside, SOURCE, 0, ALIGNED).to(tl.float32)
    if SOURCE.layout.kind == "gray":
        red = clamped(first_component + red_offset)
        green, blue = red, red
    elif SOURCE.layout.kind == "rgb":
        red = clamped(first_component + red_offset)
        green = clamped(gain * samples(planes, rows, columns, inside, SOURCE, 1, ALIGNED).to(tl.float32) + green_offset)
        blue = clamped(gain * samples(planes, rows, columns, inside, SOURCE, 2, ALIGNED).to(tl.float32) + blue_offset)
    else:
        u, v = chroma(planes, rows, columns, first, picture_size, SOURCE, PAIRED, ALIGNED)
        if SOURCE.is_identity:  # the planes of Y, U, V hold G, B, R
            red = clamped(red_v * v + red_offset)
            green = clamped(first_component + green_offset)
            blue = clamped(blue_u * u + blue_offset)
        else:
            red = clamped(first_component + (red_v * v + red_offset))
            green = clamped(first_component + (green_u * u + (green_v * v + green_offset)))
            blue = clamped(first_component + (blue_u * u + blue_offset))
    return red, green, blue
