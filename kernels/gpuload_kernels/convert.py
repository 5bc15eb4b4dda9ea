"""Planes of many pictures -> R'G'B' slots of a batch: rotate, crop, resize, flip, normalise, cast in one launch.

Written for an H200 but never run on a GPU, only in a simulator of PTX (tests/kernels/ptx): what follows is reasoned
from the machine code that ptxas makes for it, not measured. Copying at 4.1 TB/s and issuing 128 instructions a clock on
each of 132 units, the 1080p targets (0.7 of copying unscaled, 0.4 to 224x224) leave some 46 and 30 instructions for a
source pixel.

Everything is done in the *stored* orientation, where reading is coalesced: a rotation by 90 degrees or a mirror only
changes which output index goes with which stored row or column, and in which direction. Output indices run along
stored rows and columns; tiles are transposed in registers just before the store if the picture is turned.

Pixels are converted in pairs of rows and by fours of columns, from an even row and a multiple of four, perhaps before
the window: chroma is read and interpolated once for eight of them (``chroma.py``), and whatever the crop, loads are
vectors where planes are aligned.

**Unscaled**: a tile of output pixels reads one source pixel each, 16 rows by 128 columns at a time for four warps, so
that a warp's store of one channel is 128 neighbours, four to a thread: wide enough for full sectors, while chroma loads
of a warp stay within one or two cache lines. Nothing moves between threads unless the picture is mirrored or the crop
begins elsewhere than at a multiple of four. NV12 to bytes: 29 instructions a pixel in the loop, 31 with what precedes
it (55 with such a crop, or turned, where bytes are stored one by one), so memory should limit before issue does.

**Scaled**: the triangle filter of 1080p -> 224 has some 170 taps, and every source pixel lies in the support of about
four outputs; converting a pixel for each of them would cost four conversions. Resizing is separable, so a program
converts each source pixel of its 16 x 32 outputs once (1.46 times with the halo and the ends of steps), 16 rows by 64
columns at a time, and filters with two matrix products on tensor cores: ``[16, rows] @ [rows, columns]``, then
``[16, columns] @ [columns, 32]``. The weights are dense tiles, mostly zero, computed from the scale: that wastes
multiplications where they are nearly free, to keep the scalar units for the conversion, which limits. NV12: 37
instructions for each converted pixel, 64 for each source pixel with weights and halo, so at most 0.19 of copying is to
be expected. Steps of 32 rows save a tenth of them and take 202 registers instead of 143, which leaves too few warps to
hide loads; tiles of 32 rows or 64 columns likewise. Products take half floats and accumulate in float32: colours are
centred, so rounding is at most 2**-5 of a level, and weights are normalised by the sum of their *rounded* values, so
that a flat picture keeps its value.
"""

# ruff: noqa: N803, N806  (compile-time constants are upper case in Triton)
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from gpuload_kernels.color import WHITE, color_map
from gpuload_kernels.forms import Reading, Source, Target, Writing
from gpuload_kernels.pixels import centred_rgb
from gpuload_kernels.resize import resized
from gpuload_kernels.stores import store, store_pairs
from gpuload_kernels.table import check_table

__all__ = ["TABLE_COLUMNS", "Source", "Target", "launch"]

TABLE_COLUMNS = 10
"""Plane addresses (3), plane strides in bytes (3), slot address, crop top, crop left, flip."""

_OUT = {torch.uint8: tl.uint8, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@triton.jit
def _native_size(
    planes,
    slot,
    start,
    size,
    first,
    out_size,
    mirrored,
    picture_size,
    color,
    finish,
    SOURCE: tl.constexpr,
    TARGET: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    ALIGNED: tl.constexpr,
    STORE_ALIGNED: tl.constexpr,
):
    """One tile at native size; ``start``, ``size``, ``first`` and ``mirrored`` are as ``resized`` takes them. Stored
    rows and columns are read from where pairs and fours begin, perhaps before the window: what lies before it is not
    written. So a window may need one row and three columns more than it has: ``kernel_arguments`` counts programs."""
    row_start, column_start = start
    rows, columns = size
    first_row, first_column = first
    rows_mirrored, columns_mirrored = mirrored
    # By four, not sixteen: wider vectors would spread a warp's chroma loads over more cache lines.
    column = column_start // 4 * 4 + first_column
    stored = column + tl.arange(0, BLOCK_COLUMNS)[None, :]
    if STORE_ALIGNED:
        across = first_column + tl.arange(0, BLOCK_COLUMNS)[None, :]
    else:
        across = tl.where(columns_mirrored != 0, column_start + columns - 1 - stored, stored - column_start)
    end_row = tl.minimum(first_row + BLOCK_ROWS, rows + row_start % 2)
    end_row = tl.where(first_column < columns + column_start % 4, end_row, 0)  # perhaps nothing is left to be done
    for row in range(first_row, end_row, STEP_ROWS):
        pairs = row_start // 2 + row // 2 + tl.arange(0, STEP_ROWS // 2)[:, None]
        even, odd = centred_rgb(planes, pairs, stored, column, picture_size, color, SOURCE, ALIGNED, TARGET.is_centred)
        down = 2 * pairs - row_start
        even_down = tl.where(rows_mirrored != 0, rows - 1 - down, down)
        odd_down = tl.where(rows_mirrored != 0, rows - 2 - down, down + 1)
        store_pairs(slot, even, odd, even_down, odd_down, across, out_size, finish, TARGET, STORE_ALIGNED)


@triton.jit
def _convert(
    table_ptr,
    picture_size,
    rows,
    columns,
    out_rows,
    out_columns,
    row_blocks,
    column_blocks,
    row_scale,
    column_scale,
    color,
    finish,
    SOURCE: tl.constexpr,
    TARGET: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    STEP_COLUMNS: tl.constexpr,
):
    """One tile of one picture. Sizes without ``out_`` are of the window; rows and columns are the stored picture's."""
    ROWS_MIRRORED: tl.constexpr = TARGET.quarters // 2
    COLUMNS_MIRRORED: tl.constexpr = (TARGET.quarters + 1) // 2 % 2

    picture = tl.program_id(0) // (row_blocks * column_blocks)
    block = tl.program_id(0) % (row_blocks * column_blocks)
    first_row = block // column_blocks * BLOCK_ROWS
    first_column = block % column_blocks * BLOCK_COLUMNS
    first, out_size = (first_row, first_column), (out_rows, out_columns)

    entry_ptr = table_ptr + picture.to(tl.int64) * 10
    planes = (
        tl.load(entry_ptr),
        tl.load(entry_ptr + 1),
        tl.load(entry_ptr + 2),
        tl.load(entry_ptr + 3).to(tl.int32),
        tl.load(entry_ptr + 4).to(tl.int32),
        tl.load(entry_ptr + 5).to(tl.int32),
    )
    slot = tl.load(entry_ptr + 6)
    top = tl.load(entry_ptr + 7).to(tl.int32)
    left = tl.load(entry_ptr + 8).to(tl.int32)
    flip = tl.load(entry_ptr + 9).to(tl.int32)

    # The window in the stored picture, and the direction in which outputs run along its rows and columns.
    if TARGET.quarters % 2:
        row_start, column_start = left, top
        rows_mirrored, columns_mirrored = flip ^ ROWS_MIRRORED, flip * 0 + COLUMNS_MIRRORED
    else:
        row_start, column_start = top, left
        rows_mirrored, columns_mirrored = flip * 0 + ROWS_MIRRORED, flip ^ COLUMNS_MIRRORED
    if ROWS_MIRRORED:
        row_start = picture_size[0] - row_start - rows
    if COLUMNS_MIRRORED:
        column_start = picture_size[1] - column_start - columns
    start, size, mirrored = (row_start, column_start), (rows, columns), (rows_mirrored, columns_mirrored)

    # Addresses are known only here, so every path is compiled into every kernel. Vectors begin at multiples of 16, and
    # two chroma columns are read at once, of which an odd number would leave one that is none.
    is_aligned = (planes[0] | planes[1] | planes[2] | planes[3] | planes[4] | planes[5]) % 16 == 0
    if SOURCE.layout.chroma_width_shift == 1:
        is_aligned = is_aligned & (picture_size[3] % 2 == 0)
    if SCALED:
        scale = (row_scale, column_scale)
        if is_aligned:
            colors = resized(
                planes, start, size, first, out_size, scale, mirrored, picture_size, color,
                SOURCE, BLOCK_ROWS, BLOCK_COLUMNS, STEP_ROWS, STEP_COLUMNS, True,
            )  # fmt: skip
        else:
            colors = resized(
                planes, start, size, first, out_size, scale, mirrored, picture_size, color,
                SOURCE, BLOCK_ROWS, BLOCK_COLUMNS, STEP_ROWS, STEP_COLUMNS, False,
            )  # fmt: skip
        down = first_row + tl.arange(0, BLOCK_ROWS)[:, None]
        across = first_column + tl.arange(0, BLOCK_COLUMNS)[None, :]
        store(slot, colors, down, across, out_size, finish, TARGET, False)
    elif is_aligned & (slot % 16 == 0) & (column_start % 4 == 0) & (columns_mirrored == 0):
        _native_size(
            planes, slot, start, size, first, out_size, mirrored, picture_size, color, finish,
            SOURCE, TARGET, BLOCK_ROWS, BLOCK_COLUMNS, STEP_ROWS, True, True,
        )  # fmt: skip
    elif is_aligned:
        _native_size(
            planes, slot, start, size, first, out_size, mirrored, picture_size, color, finish,
            SOURCE, TARGET, BLOCK_ROWS, BLOCK_COLUMNS, STEP_ROWS, True, False,
        )  # fmt: skip
    else:
        _native_size(
            planes, slot, start, size, first, out_size, mirrored, picture_size, color, finish,
            SOURCE, TARGET, BLOCK_ROWS, BLOCK_COLUMNS, STEP_ROWS, False, False,
        )  # fmt: skip


def kernel_arguments(source: Source, target: Target) -> dict[str, Any]:
    """Everything that the kernel is given besides the table, by name: sizes, colour map and compile-time constants.

    Raises:
        ValueError: as ``launch``.
    """
    layout = source.layout
    colors = color_map(layout, matrix=source.matrix, full_range=source.full_range)
    crop_height, crop_width = target.crop_size(source)
    if 3 * target.height * target.width >= 1 << 31:
        raise ValueError(f"a slot must have fewer than 2**31 elements, got {target.shape}")
    if any(lines * line_bytes >= 1 << 31 for lines, line_bytes in layout.plane_shapes(source.width, source.height)):
        raise ValueError(f"a plane must have fewer than 2**31 bytes, got {source.width}x{source.height}")
    is_turned = source.rotation % 180 != 0
    rows, columns = (crop_width, crop_height) if is_turned else (crop_height, crop_width)
    out_rows, out_columns = (target.width, target.height) if is_turned else (target.height, target.width)
    is_scaled = (rows, columns) != (out_rows, out_columns)
    if is_scaled:
        block_rows, block_columns, step_rows = 16, 32, 16
    elif is_turned:  # squarer: tiles are read along one side and written along the other
        block_rows, block_columns, step_rows = 64, 32, 64
    else:
        block_rows, block_columns, step_rows = 64, 128, 16
    # At native size a window may begin one row and three columns behind what is read (``_native_size``).
    row_spare = 0 if is_scaled or rows == source.height else 1
    column_spare = 0 if is_scaled or columns == source.width else 3
    is_centred = is_scaled or target.dtype != torch.uint8  # else rounding to bytes clamps
    chroma_unit = (1 << layout.shift) / layout.chroma_weight  # the kernel's chroma is shifted down and weighted
    chroma_size = (-(-source.height >> layout.chroma_height_shift), -(-source.width >> layout.chroma_width_shift))
    return {
        "picture_size": (source.height, source.width, *chroma_size),
        "rows": rows,
        "columns": columns,
        "out_rows": out_rows,
        "out_columns": out_columns,
        "row_blocks": -(-(out_rows + row_spare) // block_rows),
        "column_blocks": -(-(out_columns + column_spare) // block_columns),
        "row_scale": rows / out_rows,
        "column_scale": columns / out_columns,
        "color": (
            colors.gain,
            *(chroma_unit * factor for factor in (colors.red_v, colors.green_u, colors.green_v, colors.blue_u)),
            *(offset - (WHITE / 2 if is_centred else 0.0) for offset in colors.offsets),
        ),
        "finish": _finish(target),
        "SOURCE": Reading(layout, *source.chroma_offset, is_identity=colors.is_identity),
        "TARGET": Writing(
            _OUT[target.dtype],
            channels_last=target.layout == "hwc",
            quarters=source.rotation // 90,
            is_centred=is_centred,
            is_native=not isinstance(_convert, InterpretedFunction),
        ),
        "SCALED": is_scaled,
        "BLOCK_ROWS": block_rows,
        "BLOCK_COLUMNS": block_columns,
        "STEP_ROWS": step_rows,
        "STEP_COLUMNS": 64,
        "num_warps": 4,
        "num_stages": 1,  # pipelining copies loads through shared memory: 10 % more instructions, and those limit
        "enable_fp_fusion": True,  # Triton 3.10 stops fusing unless asked
    }


def _finish(target: Target) -> tuple[float, ...]:
    """Three factors and three terms that make output values of centred colours."""
    if target.dtype == torch.uint8:
        return (1.0,) * 3 + (WHITE / 2,) * 3
    mean, std = target.mean or (0.0, 0.0, 0.0), target.std or (1.0, 1.0, 1.0)
    return (
        *(1.0 / (WHITE * deviation) for deviation in std),
        *((0.5 - average) / deviation for average, deviation in zip(mean, std, strict=True)),
    )


def launch(table: torch.Tensor, *, source: Source, target: Target) -> None:
    """Converts N pictures of one form into N slots; int64 ``[N, 10]`` on the device, uint8 or float slots out.

    A table row holds the addresses of up to three planes (0 where absent), their row strides in bytes, the address of
    the output slot, the crop's top and left in pixels of the rotated picture, and 1 to flip the output horizontally.
    A slot is dense, ``target.shape`` of ``target.dtype``. Strides and addresses are multiples of a sample's bytes, of
    twice that for interleaved chroma; multiples of 16 are faster. Rows times stride must be less than 2**31, and crop
    windows lie within the rotated picture: the table is on the device, so only sizes are checked here.

    Does not synchronise: planes, table and slots must live until the current stream has run the kernel. The order is
    rotate, crop, resize (antialiased bilinear as ``torch.nn.functional.interpolate``), flip, normalise, cast; without
    resizing the result is within float32 rounding of exact, with it within 1e-3 of white. ``reference.convert`` is
    the readable twin; bytes that lie midway between two are rounded to even here, and up by it and the interpreter.

    Raises:
        TypeError: the table is no int64 tensor.
        ValueError: a table of another shape, not contiguous, or on the CPU without ``TRITON_INTERPRET=1``; a crop
            larger than the picture; a matrix that is not known; a slot of 2**31 elements or more, a plane of as many
            bytes.
    """
    check_table(table, TABLE_COLUMNS, is_interpreted=isinstance(_convert, InterpretedFunction))
    arguments = kernel_arguments(source, target)
    if len(table) == 0:
        return
    blocks = arguments["row_blocks"] * arguments["column_blocks"]
    if len(table) * blocks >= 1 << 31:
        raise ValueError(f"{len(table)} pictures of {target.height}x{target.width} are too many for one launch")
    _convert[(len(table) * blocks,)](table, **arguments)
