"""Device functions that finish colours and write them into a slot. Compiled into the kernel of convert.py."""

# ruff: noqa: N803, N806  (compile-time constants are upper case in Triton)
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl

from gpuload_kernels.pixels import rows_joined

FOUR_BYTES: tl.constexpr = tl.constexpr("""{
    .reg .s32 a, b, c, d;
    .reg .b32 high;
    cvt.rni.s32.f32 a, $1;
    cvt.rni.s32.f32 b, $2;
    cvt.rni.s32.f32 c, $3;
    cvt.rni.s32.f32 d, $4;
    cvt.pack.sat.u8.s32.b32 high, d, c, 0;
    cvt.pack.sat.u8.s32.b32 $0, b, a, high;
}""")
"""Rounds four neighbours, clamps them to bytes and packs them, the first lowest: two instructions on Hopper (F2IP),
where Triton's own conversion, with a clamp and a half added, takes 16."""


@triton.jit
def finished(color, factor, term, TARGET: tl.constexpr):
    """Output values of one colour."""
    if TARGET.out == tl.uint8:
        value = color
        if TARGET.is_centred:
            value = color + term
        if TARGET.is_native:
            result = tl.inline_asm_elementwise(FOUR_BYTES, "=r,f,f,f,f", [value], tl.uint8, True, 4)
        else:  # Triton's interpreter takes no assembly
            result = tl.floor(tl.clamp(value, 0.0, 255.0) + 0.5).to(tl.uint8)
    else:
        result = (color * factor + term).to(TARGET.out)
    return result


@triton.jit
def store(slot, colors, down, across, out_size, finish, TARGET: tl.constexpr, ALIGNED: tl.constexpr):
    """Writes colours ``[A, B]`` at the outputs ``down`` ``[A, 1]`` and ``across`` ``[1, B]`` of stored axes; those
    beyond ``out_size``, or negative, are left out.

    ``finish``: three factors and three terms that make values of colours. ALIGNED: the slot's address is a multiple of
    16, ``across`` ascends from a multiple of 4 that is not negative.
    """
    red, green, blue = colors
    red_factor, green_factor, blue_factor, red_term, green_term, blue_term = finish
    out_rows, out_columns = out_size
    inside = (down >= 0) & (down < out_rows) & (across < out_columns)
    if not ALIGNED:
        inside = inside & (across >= 0)
    y, x, width = down, across, out_columns
    if TARGET.quarters % 2:
        red, green, blue, inside = tl.trans(red), tl.trans(green), tl.trans(blue), tl.trans(inside)
        y, x, width = tl.trans(across), tl.trans(down), out_rows
    red = finished(red, red_factor, red_term, TARGET)
    green = finished(green, green_factor, green_term, TARGET)
    blue = finished(blue, blue_factor, blue_term, TARGET)
    out_ptr = slot.to(tl.pointer_type(TARGET.out))
    if ALIGNED:
        out_ptr = tl.multiple_of(out_ptr, TARGET.out.primitive_bitwidth // 2)  # bytes of four
    if TARGET.channels_last:
        # Red, green, blue and a fourth that is masked away: neighbours in memory are neighbours in a warp.
        pixels = tl.interleave(tl.interleave(red, blue), tl.interleave(green, green))
        ROWS: tl.constexpr = red.shape[0]
        COLUMNS: tl.constexpr = red.shape[1]
        x = tl.reshape(tl.broadcast_to(x[:, :, None], (1, COLUMNS, 4)), (1, 4 * COLUMNS))
        inside = tl.reshape(tl.broadcast_to(inside[:, :, None], (ROWS, COLUMNS, 4)), (ROWS, 4 * COLUMNS))
        channel = tl.arange(0, 4 * COLUMNS)[None, :] % 4
        tl.store(out_ptr + ((y * width + x) * 3 + channel), pixels, mask=inside & (channel < 3))
    else:
        pixel_ptr = out_ptr + (y * width + x)
        channel_size = out_rows * out_columns
        tl.store(pixel_ptr, red, mask=inside)
        tl.store(pixel_ptr + channel_size, green, mask=inside)
        tl.store(pixel_ptr + 2 * channel_size, blue, mask=inside)


@triton.jit
def store_pairs(
    slot, even, odd, even_down, odd_down, across, out_size, finish, TARGET: tl.constexpr, ALIGNED: tl.constexpr
):
    """Writes colours of even and of odd stored rows, as ``store``."""
    if TARGET.quarters % 2:  # pairs are neighbours in a row of the output
        colors = rows_joined(even[0], odd[0]), rows_joined(even[1], odd[1]), rows_joined(even[2], odd[2])
        store(slot, colors, rows_joined(even_down, odd_down), across, out_size, finish, TARGET, ALIGNED)
    else:
        store(slot, even, even_down, across, out_size, finish, TARGET, ALIGNED)
        store(slot, odd, odd_down, across, out_size, finish, TARGET, ALIGNED)
