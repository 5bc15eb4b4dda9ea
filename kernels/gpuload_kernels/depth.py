"""Codes of a depth video -> float32 depth by a table of values, with rotation; many pictures in one launch."""

# ruff: noqa: N803  (compile-time constants are upper case in Triton)
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from gpuload_kernels.formats import layout_of
from gpuload_kernels.table import check_table

TABLE_COLUMNS = 3
"""Address of the plane, its row stride in bytes, address of the output slot."""


@triton.jit
def _look_up(
    table_ptr,
    lut_ptr,
    last_code,
    width,
    height,
    SHIFT: tl.constexpr,
    QUARTERS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One tile of one picture, in stored orientation. The table of values is 16 KB: it stays in the first cache."""
    column_blocks = tl.cdiv(width, BLOCK_COLUMNS)
    blocks = tl.cdiv(height, BLOCK_ROWS) * column_blocks
    picture = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    entry_ptr = table_ptr + picture.to(tl.int64) * 3
    plane_ptr = tl.load(entry_ptr).to(tl.pointer_type(tl.uint8))
    stride_bytes = tl.load(entry_ptr + 1)
    out_ptr = tl.load(entry_ptr + 2).to(tl.pointer_type(tl.float32))

    row = block // column_blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    column = block % column_blocks * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    inside = (row < height) & (column < width)
    code_ptr = (plane_ptr + row * stride_bytes).to(tl.pointer_type(tl.uint16), bitcast=True) + column
    code = tl.minimum(tl.load(code_ptr, mask=inside, other=0).to(tl.int32) >> SHIFT, last_code)
    depth = tl.load(lut_ptr + code)
    # np.rot90: counter-clockwise, so that column x of the stored picture becomes row width - 1 - x.
    if QUARTERS == 0:
        tl.store(out_ptr + row * width + column, depth, mask=inside)
    elif QUARTERS == 1:
        tl.store(out_ptr + (width - 1 - column) * height + row, depth, mask=inside)
    elif QUARTERS == 2:
        tl.store(out_ptr + (height - 1 - row) * width + (width - 1 - column), depth, mask=inside)
    else:
        tl.store(out_ptr + column * height + (height - 1 - row), depth, mask=inside)


def launch(
    table: torch.Tensor, lut: torch.Tensor, *, pixel_format: str, width: int, height: int, rotation: int = 0
) -> None:
    """N planes of codes -> N slots of ``lut[code]``: int64 ``[N, 3]`` and float32 ``[L]`` on one device.

    A table row holds a plane's address, its row stride in bytes and the address of a slot, float32, dense,
    ``[height, width]``, or ``[width, height]`` if turned. The plane is the first of a gray or yuv format of more than
    8 bits; a sample, shifted down where the format shifts it up (p012le), is the index, and one beyond the table
    takes its last value. ``rotation`` as in ``Source``. Millimetres or metres, as the table has them (LeRobot's:
    ``gpuload.sources.lerobot_depth.depth_lut``, 4096 values), so results equal a look-up on the CPU bit for bit.

    Does not synchronise: planes, tables and slots must live until the current stream has run the kernel.

    Raises:
        TypeError: a table of another dtype.
        ValueError: another shape or device, not contiguous, an empty picture, a rotation that is no multiple of 90,
            a format without 16-bit luma.
    """
    layout = layout_of(pixel_format)
    check_table(table, TABLE_COLUMNS, is_interpreted=isinstance(_look_up, InterpretedFunction))
    if lut.dtype != torch.float32:
        raise TypeError(f"lut must be float32, got {lut.dtype}")
    if lut.ndim != 1 or len(lut) == 0 or not lut.is_contiguous() or lut.device != table.device:
        raise ValueError(f"lut must be dense [L] on {table.device}, got {list(lut.shape)} on {lut.device}")
    if layout.kind == "rgb" or layout.sample_bytes != 2:
        raise ValueError(f"codes are samples of 9 to 16 bits in a luma plane, got {pixel_format!r}")
    if width < 1 or height < 1 or width * height >= 1 << 31:
        raise ValueError(f"a picture has 1 to 2**31 - 1 pixels, got {width}x{height}")
    if rotation not in (0, 90, 180, 270):
        raise ValueError(f"rotation must be 0, 90, 180 or 270 degrees, got {rotation}")
    if len(table) == 0:
        return
    block_rows, block_columns = (32, 32) if rotation % 180 else (8, 128)
    blocks = triton.cdiv(height, block_rows) * triton.cdiv(width, block_columns)
    _look_up[(len(table) * blocks,)](
        table,
        lut,
        len(lut) - 1,
        width,
        height,
        SHIFT=layout.shift,
        QUARTERS=rotation // 90,
        BLOCK_ROWS=block_rows,
        BLOCK_COLUMNS=block_columns,
        num_warps=4,
    )
