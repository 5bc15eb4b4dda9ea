"""Registers of a block's threads, read and written as PTX's types."""

import re
from functools import cache

import numpy as np

from tests.kernels.ptx.memory import Array, Flags
from tests.kernels.ptx.program import Unknown

THREADS = 128
WARP = 32

INTEGERS = {
    f"{sign}{8 * size}": np.dtype(f"{'i' if sign == 's' else 'u'}{size}") for sign in "sub" for size in (1, 2, 4, 8)
}
DTYPES = INTEGERS | {"f16": np.dtype(np.float16), "f32": np.dtype(np.float32), "pred": np.dtype(np.bool_)}


class Registers:
    """Values ``[THREADS]`` by name. A register that was never written holds arbitrary ones."""

    def __init__(self, block: int, draw: np.random.Generator) -> None:
        self._values: dict[str, Array] = {
            "%tid.x": np.arange(THREADS, dtype=np.uint32),
            "%ctaid.x": np.full(THREADS, block, np.uint32),
        }
        self._draw = draw

    def read(self, operand: str, kind: str) -> Array:
        """A register's low bits, or a number, as a type of PTX: ``s32``, ``f32``, ``pred``.

        Raises:
            Unknown: a type or a register that is not known.
        """
        if kind not in DTYPES:
            raise Unknown(f"{operand} as {kind}")
        if operand[0] in "-0123456789" or operand == "global_smem":
            return _number(operand, kind)
        values = self._value(operand)
        if kind == "pred":
            return values
        dtype = DTYPES[kind]
        return values.astype(f"u{dtype.itemsize}", copy=False).view(dtype)

    def write(self, name: str, values: Array, mask: Flags | None = None) -> None:
        """Sets a register in the threads of the mask; narrower values are extended as their sign says."""
        if name == "_":
            return
        if values.dtype.kind == "f":
            values = values.view(f"u{values.dtype.itemsize}")
        if values.dtype.kind in "iu":
            size = _dtype_of(name).itemsize
            values = values.astype(f"{values.dtype.kind}{size}", copy=False).view(f"u{size}")
        self._values[name] = values if mask is None else np.where(mask, values, self._value(name))

    def _value(self, name: str) -> Array:
        if name not in self._values:
            dtype = _dtype_of(name)
            drawn = self._draw.integers(0, 256, (THREADS, dtype.itemsize), np.uint8)
            self._values[name] = drawn[:, 0] > 127 if dtype == np.bool_ else drawn.view(dtype)[:, 0]
        return self._values[name]


@cache
def _dtype_of(name: str) -> np.dtype[np.generic]:
    """Unsigned, as wide as the register: Triton names them by their width, and its inline assembly uses 32 bits."""
    match = re.fullmatch(r"(%rd|%rs|%r|%p)\d+|\w+", name)
    if match is None:
        raise Unknown(f"register {name}")
    return DTYPES[{"%rd": "u64", "%rs": "u16", "%p": "pred"}.get(match[1], "u32")]


@cache
def _number(text: str, kind: str) -> Array:
    """A number for all threads; shared memory begins at 0."""
    dtype = DTYPES[kind]
    if kind == "pred":
        return np.full(THREADS, int(text, 0) != 0)
    bits = 0 if text == "global_smem" else int(text[2:], 16) if text.startswith("0f") else int(text.rstrip("U"), 0)
    return np.full(THREADS, bits % (1 << 8 * dtype.itemsize), f"u{dtype.itemsize}").view(dtype)
