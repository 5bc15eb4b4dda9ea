"""Device functions that read samples as they are stored. Compiled into the kernel of convert.py."""

# ruff: noqa: N803, N806  (compile-time constants are upper case in Triton)
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl


@triton.jit
def row_pointers(planes, rows, PLANE: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointers ``[R, 1]`` to the first sample of rows of a plane. A plane has fewer than 2**31 bytes."""
    plane_ptr = planes[PLANE].to(tl.pointer_type(tl.uint8))
    stride_bytes = planes[PLANE + 3]
    if ALIGNED:  # changes no value: the compiler sees what it may load as vectors
        plane_ptr = tl.multiple_of(plane_ptr, 16)
        stride_bytes = stride_bytes // 16 * 16
    return (plane_ptr + rows * stride_bytes).to(tl.pointer_type(DTYPE), bitcast=True)


@triton.jit
def samples(planes, rows, columns, mask, SOURCE: tl.constexpr, COMPONENT: tl.constexpr, ALIGNED: tl.constexpr):
    """One component's samples as stored, uint8 or uint16 ``[R, K]``; rows int32 ``[R, 1]``, columns ``[1, K]``.

    ALIGNED: addresses and strides of the planes are multiples of 16, and so may be read as vectors.
    """
    PLANE: tl.constexpr = SOURCE.layout.components[COMPONENT].plane
    STEP: tl.constexpr = SOURCE.layout.components[COMPONENT].step
    OFFSET: tl.constexpr = SOURCE.layout.components[COMPONENT].offset
    SAMPLE: tl.constexpr = tl.uint8 if SOURCE.layout.sample_bytes == 1 else tl.uint16
    sample_ptr = row_pointers(planes, rows, PLANE, SAMPLE, ALIGNED) + (columns * STEP + OFFSET)
    return tl.load(sample_ptr, mask=mask, other=0)
