"""Planes of many pictures -> R'G'B' slots of a batch: rotate, crop, resize, flip, normalise, cast in one launch.

Written for an H200 but never run on a GPU: what follows is reasoned from the machine code that ptxas makes for it, not
measured. Copying at 4.1 TB/s and issuing 128 instructions a clock on each of 132 units, the 1080p targets (0.7 of
copying unscaled, 0.4 to 224x224) leave some 46 and 30 instructions for a source pixel; issue limits before memory does.

Everything is done in the *stored* orientation, where reading is coalesced: a rotation by 90 degrees or a mirror only
changes which output index goes with which stored row or column, and in which direction. Output indices run along
stored rows and columns; tiles are transposed in registers just before the store if the picture is turned.

**Unscaled**: a tile of output pixels reads one source pixel each. Tiles are 16 x 128 for four warps, so that a warp's
store of one channel is 128 neighbours, four to a thread: wide enough for full sectors, while chroma loads of a warp
stay within one or two cache lines (sixteen to a thread would touch four lines with every load). A picture that is
aligned and not mirrored takes the paired path, which reads each chroma sample once for two columns and loads and
stores vectors without moving anything between threads. NV12 to bytes: 57 instructions a pixel (66 with 8 rows, 53 and
twice the registers with 32), so at most 0.56 of copying is to be expected.

**Scaled**: the triangle filter of 1080p -> 224 has some 170 taps, and every source pixel lies in the support of about
four outputs; converting a pixel for each of them would cost four conversions. Resizing is separable, so a program
converts each source pixel of its 16 x 32 outputs once (1.46 times with the halo and the ends of steps), 16 rows by 64
columns at a time, and filters with two matrix products on tensor cores: ``[16, rows] @ [rows, columns]``, then
``[16, columns] @ [columns, 32]``. The weights are dense tiles, mostly zero, computed from the scale: that wastes
multiplications where they are nearly free, to keep the scalar units for the conversion, which limits. NV12: some 60
instructions for each converted pixel, 87 for each source pixel, so at most 0.14 of copying is to be expected; the way
further is arithmetic on pairs of half floats, which Triton does not arrange without moves that cost as much.
Wider steps save a tenth of them but take 213 registers. Products take half floats and accumulate in float32: colours
are centred, so rounding is at most 2**-5 of a level, and weights are normalised by the sum of their *rounded* values,
so that a flat picture keeps its value.
"""

# ruff: noqa: N803, N806  (compile-time constants are upper case in Triton)
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from gpuload_kernels.color import WHITE, color_map
from gpuload_kernels.forms import Reading, Source, Target
from gpuload_kernels.pixels import centred_rgb
from gpuload_kernels.resize import resized
from gpuload_kernels.table import check_table

__all__ = ["TABLE_COLUMNS", "Source", "Target", "launch"]

TABLE_COLUMNS = 10
"""Plane addresses (3), plane strides in bytes (3), slot address, crop top, crop left, flip."""

_OUT = {torch.uint8: tl.uint8, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@triton.jit
def _store(
    slot,
    colors,
    first,
    out_size,
    finish,
    TURNED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    OUT: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Writes centred colours ``[A, B]`` of outputs that begin at ``first`` (row, column) along stored axes."""
    red, green, blue = colors
    first_row, first_column = first
    out_rows, out_columns = out_size
    if TURNED:
        red, green, blue = tl.trans(red), tl.trans(green), tl.trans(blue)
        first_y, first_x = first_column, first_row
        height, width = out_columns, out_rows
    else:
        first_y, first_x = first_row, first_column
        height, width = out_rows, out_columns
    # A byte is stored by truncation: its finish adds the half that makes it round half up.
    red = (red * finish[0] + finish[3]).to(OUT)
    green = (green * finish[1] + finish[4]).to(OUT)
    blue = (blue * finish[2] + finish[5]).to(OUT)
    out_ptr = slot.to(tl.pointer_type(OUT))
    if ALIGNED:
        out_ptr = tl.multiple_of(out_ptr, OUT.primitive_bitwidth // 2)  # bytes of four
    y = first_y + tl.arange(0, red.shape[0])[:, None]
    if CHANNELS_LAST:
        # Red, green, blue and a fourth that is masked away: neighbours in memory are neighbours in a warp.
        pixels = tl.interleave(tl.interleave(red, blue), tl.interleave(green, green))
        sample = tl.arange(0, 4 * red.shape[1])[None, :]
        x = first_x + sample // 4
        channel = sample % 4
        tl.store(out_ptr + ((y * width + x) * 3 + channel), pixels, mask=(y < height) & (x < width) & (channel < 3))
    else:
        x = first_x + tl.arange(0, red.shape[1])[None, :]
        pixel_ptr = out_ptr + (y * width + x)
        inside = (y < height) & (x < width)
        tl.store(pixel_ptr, red, mask=inside)
        tl.store(pixel_ptr + height * width, green, mask=inside)
        tl.store(pixel_ptr + 2 * height * width, blue, mask=inside)


@triton.jit
def _convert(
    table_ptr,
    picture_size,
    rows,
    columns,
    out_rows,
    out_columns,
    row_scale,
    column_scale,
    color,
    finish,
    SOURCE: tl.constexpr,
    QUARTERS: tl.constexpr,
    SCALED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    STEP_COLUMNS: tl.constexpr,
):
    """One tile of one picture. Sizes without ``out_`` are of the window; rows and columns are the stored picture's."""
    TURNED: tl.constexpr = QUARTERS % 2
    ROWS_MIRRORED: tl.constexpr = QUARTERS // 2
    COLUMNS_MIRRORED: tl.constexpr = (QUARTERS + 1) // 2 % 2

    column_blocks = tl.cdiv(out_columns, BLOCK_COLUMNS)
    blocks = tl.cdiv(out_rows, BLOCK_ROWS) * column_blocks
    picture = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    first_row = block // column_blocks * BLOCK_ROWS
    first_column = block % column_blocks * BLOCK_COLUMNS
    first, out_size = (first_row, first_column), (out_rows, out_columns)

    entry_ptr = table_ptr + picture.to(tl.int64) * 10
    planes = (
        tl.load(entry_ptr),
        tl.load(entry_ptr + 1),
        tl.load(entry_ptr + 2),
        tl.load(entry_ptr + 3),
        tl.load(entry_ptr + 4),
        tl.load(entry_ptr + 5),
    )
    slot = tl.load(entry_ptr + 6)
    top = tl.load(entry_ptr + 7).to(tl.int32)
    left = tl.load(entry_ptr + 8).to(tl.int32)
    flip = tl.load(entry_ptr + 9).to(tl.int32)

    # The window in the stored picture, and the direction in which outputs run along its rows and columns.
    if TURNED:
        row_start, column_start = left, top
        rows_mirrored, columns_mirrored = flip ^ ROWS_MIRRORED, flip * 0 + COLUMNS_MIRRORED
    else:
        row_start, column_start = top, left
        rows_mirrored, columns_mirrored = flip * 0 + ROWS_MIRRORED, flip ^ COLUMNS_MIRRORED
    if ROWS_MIRRORED:
        row_start = picture_size[0] - row_start - rows
    if COLUMNS_MIRRORED:
        column_start = picture_size[1] - column_start - columns

    if SCALED:
        red, green, blue = resized(
            planes,
            (row_start, column_start),
            (rows, columns),
            first,
            out_size,
            (row_scale, column_scale),
            (rows_mirrored, columns_mirrored),
            picture_size,
            color,
            SOURCE,
            BLOCK_ROWS,
            BLOCK_COLUMNS,
            STEP_ROWS,
            STEP_COLUMNS,
        )
        _store(slot, (red, green, blue), first, out_size, finish, TURNED, CHANNELS_LAST, OUT, False)
    else:
        down = first_row + tl.arange(0, BLOCK_ROWS)
        down = row_start + tl.where(rows_mirrored != 0, rows - 1 - down, down)
        # Rows and columns beyond the edge are not stored; mirrored ones would be negative.
        down = tl.maximum(down, 0)[:, None]
        # Addresses are known only here, so both paths are compiled into every unscaled kernel.
        addresses = planes[0] | planes[1] | planes[2] | planes[3] | planes[4] | planes[5] | slot
        if (addresses % 16 == 0) & (column_start % 4 == 0) & (columns_mirrored == 0):
            # By four, not sixteen: wider vectors would spread a warp's chroma loads over more cache lines.
            column = column_start // 4 * 4 + first_column
            across = column + tl.arange(0, BLOCK_COLUMNS)[None, :]
            red, green, blue = centred_rgb(planes, down, across, column, picture_size, color, SOURCE, True, True)
            _store(slot, (red, green, blue), first, out_size, finish, TURNED, CHANNELS_LAST, OUT, True)
        else:
            across = first_column + tl.arange(0, BLOCK_COLUMNS)
            across = column_start + tl.where(columns_mirrored != 0, columns - 1 - across, across)
            across = tl.maximum(across, 0)[None, :]
            red, green, blue = centred_rgb(planes, down, across, 0, picture_size, color, SOURCE, False, False)
            _store(slot, (red, green, blue), first, out_size, finish, TURNED, CHANNELS_LAST, OUT, False)


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
    is_turned = source.rotation % 180 != 0
    rows, columns = (crop_width, crop_height) if is_turned else (crop_height, crop_width)
    out_rows, out_columns = (target.width, target.height) if is_turned else (target.height, target.width)
    is_scaled = (rows, columns) != (out_rows, out_columns)
    # Turned tiles are squarer: they are read along one side and written along the other.
    block_rows, block_columns = (16, 32) if is_scaled else (64, 32) if is_turned else (16, 128)
    chroma_unit = (1 << layout.shift) / layout.chroma_weight  # the kernel's chroma is shifted down and weighted
    chroma_size = (-(-source.height >> layout.chroma_height_shift), -(-source.width >> layout.chroma_width_shift))
    return {
        "picture_size": (source.height, source.width, *chroma_size),
        "rows": rows,
        "columns": columns,
        "out_rows": out_rows,
        "out_columns": out_columns,
        "row_scale": rows / out_rows,
        "column_scale": columns / out_columns,
        "color": (
            colors.gain,
            *(chroma_unit * factor for factor in (colors.red_v, colors.green_u, colors.green_v, colors.blue_u)),
            *(offset - WHITE / 2 for offset in colors.offsets),
        ),
        "finish": _finish(target),
        "SOURCE": Reading(layout, *source.chroma_offset, is_identity=colors.is_identity),
        "QUARTERS": source.rotation // 90,
        "SCALED": is_scaled,
        "CHANNELS_LAST": target.layout == "hwc",
        "OUT": _OUT[target.dtype],
        "BLOCK_ROWS": block_rows,
        "BLOCK_COLUMNS": block_columns,
        "STEP_ROWS": 16,
        "STEP_COLUMNS": 64,
        "num_warps": 4,
        "num_stages": 1,  # pipelining copies loads through shared memory: 10 % more instructions, and those limit
        "enable_fp_fusion": True,  # Triton 3.10 stops fusing unless asked
    }


def _finish(target: Target) -> tuple[float, ...]:
    """Three factors and three terms that make output values of centred colours."""
    if target.dtype == torch.uint8:
        return (1.0, 1.0, 1.0, 128.0, 128.0, 128.0)  # 127.5 and the half that rounds
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
    twice that for interleaved chroma; multiples of 16 are faster. Crop windows must lie within the rotated picture:
    the table is on the device, so only their size is checked here.

    Does not synchronise: planes, table and slots must live until the current stream has run the kernel. The order is
    rotate, crop, resize (antialiased bilinear as ``torch.nn.functional.interpolate``), flip, normalise, cast; without
    resizing the result is within float32 rounding of exact, with it within 1e-3 of white. ``reference.convert`` is
    the readable twin.

    Raises:
        TypeError: the table is no int64 tensor.
        ValueError: a table of another shape, not contiguous, or on the CPU without ``TRITON_INTERPRET=1``; a crop
            larger than the picture; a matrix that is not known; a slot of 2**31 elements or more.
    """
    check_table(table, TABLE_COLUMNS, is_interpreted=isinstance(_convert, InterpretedFunction))
    arguments = kernel_arguments(source, target)
    if len(table) == 0:
        return
    blocks = triton.cdiv(arguments["out_rows"], arguments["BLOCK_ROWS"]) * triton.cdiv(
        arguments["out_columns"], arguments["BLOCK_COLUMNS"]
    )
    if len(table) * blocks >= 1 << 31:
        raise ValueError(f"{len(table)} pictures of {target.height}x{target.width} are too many for one launch")
    _convert[(len(table) * blocks,)](table, **arguments)
