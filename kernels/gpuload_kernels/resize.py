"""Device functions that resize a tile: antialiased bilinear, two matrix products. Part of convert.py's kernel."""

# ruff: noqa: N803, N806  (compile-time constants are upper case in Triton)
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl

from gpuload_kernels.pixels import centred_rgb, rows_joined


@triton.jit
def _center(index, scale, extent, mirrored):
    """Where in the window, in source pixels, the centre of an output pixel lies."""
    center = scale * (index.to(tl.float32) + 0.5)
    return tl.where(mirrored != 0, extent - center, center)


@triton.jit
def _span(first, count, out_size, scale, support, extent, mirrored):
    """Source pixels of the window ``[low, high)`` in the support of outputs ``[first, first + count)``."""
    begin = _center(first, scale, extent, mirrored)
    end = _center(tl.minimum(first + count, out_size) - 1, scale, extent, mirrored)
    low = tl.maximum(tl.minimum(begin, end) - support, 0.0).to(tl.int32)
    high = tl.minimum((tl.maximum(begin, end) + support).to(tl.int32) + 1, extent)
    return low, high


@triton.jit
def _weights(outputs, sources, scale, support, extent, mirrored):
    """Triangle weights float16 in [0, 1], not normalised, of source pixels for output pixels.

    ``outputs`` and ``sources`` int32, one of them ``[n, 1]`` and the other ``[1, n]``. Zero outside of the window: such
    pixels are put far away before the two meet, which leaves three instructions for each weight.
    """
    narrowing = 1.0 / support
    center = _center(outputs, scale, extent, mirrored) * narrowing
    inside = sources.to(tl.uint32, bitcast=True) < extent.to(tl.uint32)  # negative ones are very large
    position = tl.where(inside, (sources.to(tl.float32) + 0.5) * narrowing, 1e9)
    return tl.maximum(1.0 - tl.abs(position - center), 0.0).to(tl.float16)


@triton.jit
def resized(
    planes,
    start,
    size,
    first,
    out_size,
    scale,
    mirrored,
    picture_size,
    color,
    SOURCE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    STEP_COLUMNS: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Centred R'G'B' of outputs from ``first``: three float32 ``[BLOCK_ROWS, BLOCK_COLUMNS]``.

    Pairs are (along stored rows, along stored columns): ``start`` and ``size`` of the window, ``out_size``, ``scale``
    of source pixels to an output pixel, ``mirrored`` where outputs run against the stored order. The rest is as
    ``centred_rgb`` takes it.
    """
    row_start, column_start = start
    rows, columns = size
    first_row, first_column = first
    out_rows, out_columns = out_size
    row_scale, column_scale = scale
    rows_mirrored, columns_mirrored = mirrored
    row_support = tl.maximum(row_scale, 1.0)
    column_support = tl.maximum(column_scale, 1.0)
    low_row, high_row = _span(first_row, BLOCK_ROWS, out_rows, row_scale, row_support, rows, rows_mirrored)
    low_column, high_column = _span(
        first_column, BLOCK_COLUMNS, out_columns, column_scale, column_support, columns, columns_mirrored
    )
    outputs_down = first_row + tl.arange(0, BLOCK_ROWS)[:, None]
    outputs_across = first_column + tl.arange(0, BLOCK_COLUMNS)[:, None]
    red = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    green = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    blue = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    norm = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)  # sums of weights, the same in each row
    # Steps begin where fours of columns do, perhaps before the window; where two fours do, loads are twice as wide.
    START: tl.constexpr = 8 if ALIGNED else 4
    for column in range((column_start + low_column) // START * START, column_start + high_column, STEP_COLUMNS):
        stored_columns = column + tl.arange(0, STEP_COLUMNS)
        # Transposed, so that a thread has few source pixels, whose share of the work is the larger one.
        across = _weights(
            outputs_across,
            stored_columns[None, :] - column_start,
            column_scale,
            column_support,
            columns,
            columns_mirrored,
        )
        across = tl.trans(across)
        norm = tl.dot(tl.full((BLOCK_ROWS, STEP_COLUMNS), 1.0, tl.float16), across, norm)
        down_sum = tl.zeros((BLOCK_ROWS, STEP_ROWS), tl.float32)
        tall_red = tl.zeros((BLOCK_ROWS, STEP_COLUMNS), tl.float32)
        tall_green = tl.zeros((BLOCK_ROWS, STEP_COLUMNS), tl.float32)
        tall_blue = tl.zeros((BLOCK_ROWS, STEP_COLUMNS), tl.float32)
        for pair in range((row_start + low_row) // 2, (row_start + high_row + 1) // 2, STEP_ROWS // 2):
            stored_rows = 2 * pair + tl.arange(0, STEP_ROWS)
            down = _weights(outputs_down, stored_rows[None, :] - row_start, row_scale, row_support, rows, rows_mirrored)
            down_sum += down.to(tl.float32)
            pairs = pair + tl.arange(0, STEP_ROWS // 2)
            even, odd = centred_rgb(
                planes, pairs[:, None], stored_columns[None, :], column, picture_size, color, SOURCE, ALIGNED, True
            )  # fmt: skip
            tall_red = tl.dot(down, rows_joined(even[0].to(tl.float16), odd[0].to(tl.float16)), tall_red)
            if SOURCE.layout.kind != "gray":
                tall_green = tl.dot(down, rows_joined(even[1].to(tl.float16), odd[1].to(tl.float16)), tall_green)
                tall_blue = tl.dot(down, rows_joined(even[2].to(tl.float16), odd[2].to(tl.float16)), tall_blue)
        # Before rounding, so that flat pictures stay exact. Outputs beyond the edge have no weights at all: they are
        # not stored, but must not divide by zero.
        row_norm = (1.0 / tl.maximum(tl.sum(down_sum, axis=1), 1e-3))[:, None]
        red = tl.dot((tall_red * row_norm).to(tl.float16), across, red)
        if SOURCE.layout.kind != "gray":
            green = tl.dot((tall_green * row_norm).to(tl.float16), across, green)
            blue = tl.dot((tall_blue * row_norm).to(tl.float16), across, blue)
    norm = 1.0 / tl.maximum(norm, 1e-3)
    red *= norm
    if SOURCE.layout.kind == "gray":
        green, blue = red, red
    else:
        green *= norm
        blue *= norm
    return red, green, blue
