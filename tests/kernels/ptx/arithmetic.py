"""Instructions that compute a thread's register from its other registers.

Nothing is fused that is not an ``fma``, though ptxas may; an ``fma`` goes through float64, so it is rounded twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.kernels.ptx.memory import Array
from tests.kernels.ptx.program import Instruction, Unknown
from tests.kernels.ptx.registers import DTYPES, INTEGERS, Registers


@dataclass(frozen=True, slots=True)
class Operation:
    """How an opcode without its type is computed."""

    compute: Callable[..., Array]
    reads: tuple[str, ...]
    """Types of the operands; ``same`` is the instruction's own, ``wide`` one of twice its bits."""


def evaluate(instruction: Instruction, registers: Registers) -> Array:
    """What an instruction writes to its first operand.

    Raises:
        Unknown: the instruction is not known.
    """
    if instruction.opcode[0] == "cvt":
        return _converted(instruction, registers)
    *name, kind = instruction.opcode
    if kind in ("s16x2", "u16x2"):
        return _by_halves(instruction, kind[:-2], registers)
    operation = OPERATIONS.get(".".join(name))
    if operation is None or kind not in DTYPES or len(instruction.operands) != 1 + len(operation.reads):
        raise Unknown("operation")
    kinds = {"same": kind, "wide": f"{kind[0]}{2 * int(kind[1:])}"} if "wide" in operation.reads else {"same": kind}
    values = (
        registers.read(operand, kinds.get(read, read))
        for operand, read in zip(instruction.operands[1:], operation.reads, strict=True)
    )
    with np.errstate(all="ignore"):  # infinities and NaN are values, integers wrap
        return operation.compute(*values)


def _by_halves(instruction: Instruction, kind: str, registers: Registers) -> Array:
    """Both halves of registers on their own."""
    compute = {"add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum}.get(instruction.opcode[0])
    if compute is None or len(instruction.opcode) != 2:
        raise Unknown("operation")
    a, b = (np.ascontiguousarray(registers.read(name, "u32")).view(INTEGERS[kind]) for name in instruction.operands[1:])
    halves: Array = compute(a, b)
    return halves.view(np.uint32)


def _fused(a: Array, b: Array, c: Array) -> Array:
    exact: Array = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
    return exact.astype(a.dtype)


def _wide_product(a: Array, b: Array) -> Array:
    if a.dtype.itemsize > 4:
        raise Unknown("a product of 128 bits")
    dtype = f"{a.dtype.kind}{2 * a.dtype.itemsize}"
    product: Array = a.astype(dtype) * b.astype(dtype)
    return product


def _high_product(a: Array, b: Array) -> Array:
    return (_wide_product(a, b) >> 8 * a.dtype.itemsize).astype(a.dtype)


def _quotient(a: Array, b: Array) -> Array:
    """Towards zero; exact for 32 bits, which float64 holds."""
    if a.dtype.itemsize > 4:
        raise Unknown("a quotient of 64 bits")
    return np.trunc(a.astype(np.float64) / b.astype(np.float64)).astype(a.dtype)


def _xorsign_min(a: Array, b: Array) -> Array:
    """The smaller magnitude, with the product's sign."""
    smaller = np.fmin(np.abs(a), np.abs(b))
    signed: Array = np.copysign(smaller, np.where(np.signbit(a) != np.signbit(b), -1, 1).astype(a.dtype))
    return signed


def _shifted_left(a: Array, count: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    return np.where(count < bits, a << np.minimum(count, bits - 1).astype(a.dtype), 0).astype(a.dtype)


def _shifted_right(a: Array, count: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    shifted: Array = a >> np.minimum(count, bits - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(count < bits, shifted, 0).astype(a.dtype)


def _funnel_left(low: Array, high: Array, count: Array) -> Array:
    both = high.astype(np.uint64) << 32 | low
    return (both << (count & 31).astype(np.uint64) >> 32).astype(np.uint32)


def _funnel_right(low: Array, high: Array, count: Array) -> Array:
    both = high.astype(np.uint64) << 32 | low
    return (both >> (count & 31).astype(np.uint64)).astype(np.uint32)


def _bits(a: Array, first: Array, count: Array) -> Array:
    """Bit field: shifted to the top, then down again with the type's sign."""
    bits = 8 * a.dtype.itemsize
    if (count == 0).any() or (first + count > bits).any():
        raise Unknown("a bit field that is empty or beyond the register")
    field: Array = a << (bits - count - first).astype(a.dtype) >> (bits - count).astype(a.dtype)
    return field


def _selected(a: Array, b: Array, is_first: Array) -> Array:
    return np.where(is_first, a, b)


def _permuted(a: Array, b: Array, selectors: Array) -> Array:
    """Bytes of b and a by a nibble each; its top bit takes a byte's sign instead of the byte."""
    both = b.astype(np.uint64) << 32 | a
    result = np.zeros_like(a)
    for place in range(4):
        selector = selectors >> 4 * place & 15
        byte = (both >> (8 * (selector & 7)).astype(np.uint64)).astype(np.uint8)
        sign = np.where(byte > 127, 255, 0).astype(np.uint8)
        result |= np.where(selector > 7, sign, byte).astype(np.uint32) << 8 * place
    return result


_SAME = ("same",)
OPERATIONS = {
    "abs": Operation(np.abs, _SAME),
    "neg": Operation(np.negative, _SAME),
    "not": Operation(np.invert, _SAME),
    "add": Operation(np.add, _SAME * 2),
    "sub": Operation(np.subtract, _SAME * 2),
    "mul": Operation(np.multiply, _SAME * 2),
    "mul.lo": Operation(np.multiply, _SAME * 2),
    "mul.hi": Operation(_high_product, _SAME * 2),
    "mul.wide": Operation(_wide_product, _SAME * 2),
    "mad.lo": Operation(lambda a, b, c: a * b + c, _SAME * 3),
    "mad.wide": Operation(lambda a, b, c: _wide_product(a, b) + c, ("same", "same", "wide")),
    "fma.rn": Operation(_fused, _SAME * 3),
    "div": Operation(_quotient, _SAME * 2),
    "div.full": Operation(np.divide, _SAME * 2),
    "rem": Operation(np.fmod, _SAME * 2),
    # Of a number and NaN they give the number.
    "min": Operation(np.fmin, _SAME * 2),
    "max": Operation(np.fmax, _SAME * 2),
    "min.xorsign.abs": Operation(_xorsign_min, _SAME * 2),
    "and": Operation(np.bitwise_and, _SAME * 2),
    "or": Operation(np.bitwise_or, _SAME * 2),
    "xor": Operation(np.bitwise_xor, _SAME * 2),
    "shl": Operation(_shifted_left, ("same", "u32")),
    "shr": Operation(_shifted_right, ("same", "u32")),
    "shf.l.wrap": Operation(_funnel_left, _SAME * 3),
    "shf.r.wrap": Operation(_funnel_right, _SAME * 3),
    "bfe": Operation(_bits, ("same", "u32", "u32")),
    "prmt": Operation(_permuted, _SAME * 3),
    "selp": Operation(_selected, ("same", "same", "pred")),
    "setp.lt": Operation(np.less, _SAME * 2),
    "setp.le": Operation(np.less_equal, _SAME * 2),
    "setp.gt": Operation(np.greater, _SAME * 2),
    "setp.ge": Operation(np.greater_equal, _SAME * 2),
    "setp.eq": Operation(np.equal, _SAME * 2),
    # False for NaN.
    "setp.ne": Operation(lambda a, b: (a < b) | (a > b), _SAME * 2),
}


def _converted(instruction: Instruction, registers: Registers) -> Array:
    first, *others = instruction.operands[1:]
    with np.errstate(all="ignore"):
        match instruction.opcode[1:]:
            case ("pack", "sat", "u8", "s32", "b32"):
                high, low = (
                    np.clip(registers.read(name, "s32"), 0, 255).astype(np.uint32) for name in (first, others[0])
                )
                packed: Array = registers.read(others[1], "u32") << 16 | high << 8 | low
                return packed
            case ("rn", "f16x2" | "bf16x2" as pair, "f32"):
                halves = (_half(registers.read(name, "f32"), pair[:-2]) for name in (first, others[0]))
                high, low = (half.astype(np.uint32) for half in halves)
                return high << 16 | low
            case ("rn", "f16" | "bf16" as kind, "f32"):
                return _half(registers.read(first, "f32"), kind)
            case ("f32", "f16"):
                return registers.read(first, "f16").astype(np.float32)
            case ("rni" | "rzi" as rounding, "s32", "f32"):
                values = registers.read(first, "f32").astype(np.float64)
                whole = np.rint(values) if rounding == "rni" else np.trunc(values)
                clamped: Array = np.clip(np.nan_to_num(whole, nan=0.0), -(2.0**31), 2.0**31 - 1)
                return clamped.astype(np.int32)
            case ("rn", "f32", kind) if kind in INTEGERS:
                return registers.read(first, kind).astype(np.float32)
            case (to, kind) if to in INTEGERS and kind in INTEGERS:
                return registers.read(first, kind).astype(INTEGERS[to])
    raise Unknown("conversion")


def _half(values: Array, kind: str) -> Array:
    """Bits of the nearest float16 or bfloat16, ties to even."""
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)
