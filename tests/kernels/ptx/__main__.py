"""Compiles the kernel for launches that are drawn from a seed, simulates them, and prints what went wrong.

``python -m tests.kernels.ptx SEED LAUNCHES [FIRST]``: one line of JSON for each finding, then a summary. A finding
names its launch: ``SEED 1 LAUNCH`` repeats it. A process of its own, since kernels imported under Triton's interpreter
cannot be compiled.
"""

# mypy: disable-error-code="import-untyped"

import json
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gpuload_kernels import convert
from gpuload_kernels.convert import TABLE_COLUMNS, kernel_arguments
from triton.runtime import driver
from triton.runtime.jit import MockTensor

from tests.kernels.compile_natively import FakeDriver
from tests.kernels.exact import Floats
from tests.kernels.ptx.cases import Case, Picture, case_of
from tests.kernels.ptx.machine import Machine
from tests.kernels.ptx.memory import Bytes, GlobalMemory, Segment
from tests.kernels.ptx.program import Unknown, parse

TABLE = 0x7F0000000000
FIRST_PLANE = 0x500000000000
APART = 1 << 20
"""Bytes between beginnings of segments: far more than any of them has."""


def place(case: Case) -> GlobalMemory:
    """Planes, slots and table of a launch."""
    segments: list[Segment] = []
    rows = []
    for number, picture in enumerate(case.pictures):
        planes, strides = _planes(case, picture, f"picture {number}, plane", FIRST_PLANE + APART * 4 * number)
        size = int(np.prod(case.target.shape)) * case.target.dtype.itemsize
        slot = FIRST_PLANE + APART * (4 * number + 3) + picture.slot_offset * case.target.dtype.itemsize
        nothing = np.zeros(size, np.uint8), np.zeros(size, np.bool_)
        segments += [*planes, Segment(f"slot {number}", slot, *nothing, is_writable=True)]
        absent = [0] * (3 - len(planes))
        addresses = [plane.base for plane in planes]
        rows += [[*addresses, *absent, *strides, *absent, slot, picture.top, picture.left, int(picture.flip)]]
    table = np.array(rows, np.int64)
    if table.shape != (len(rows), TABLE_COLUMNS):
        raise ValueError(f"table rows have {TABLE_COLUMNS} columns now, got {table.shape}")
    data = table.view(np.uint8).ravel()
    return GlobalMemory([*segments, Segment("table", TABLE, data, np.ones(len(data), np.bool_))])


def simulate(case: Case, *, seed: int) -> tuple[list[str], float]:
    """What is wrong with a launch's slots, and the largest error.

    Raises:
        Fault: an access or a branch that a kernel must not make.
        Unknown: an instruction that the simulator does not know.
    """
    arguments = kernel_arguments(case.source, case.target)
    compiled = convert._convert.warmup(MockTensor(torch.int64), grid=(1,), **arguments)
    program = parse(compiled.asm["ptx"])
    memory = place(case)
    values = list(_parameter_values(compiled.src, {**arguments, "table_ptr": TABLE}))
    values += [0] * (len(program.parameters) - len(values))  # Triton's own scratch memory, which is not used
    machine = Machine(
        program,
        memory,
        arguments=dict(zip(program.parameters, values, strict=True)),
        shared_bytes=compiled.metadata.shared,
        seed=seed,
    )
    for block in range(len(case.pictures) * arguments["row_blocks"] * arguments["column_blocks"]):
        machine.run(block)
    complaints, worst = [], 0.0
    for number, picture in enumerate(case.pictures):
        data, written = memory.content(f"slot {number}")
        error = float(np.abs(_values(case, data) - case.exact(picture)).max())
        worst = max(worst, error)
        if not written.all():
            complaints.append(f"{(~written).sum()} bytes of slot {number} were not written")
        elif not error <= case.bound:
            complaints.append(f"slot {number} is wrong by {error:.6g}, allowed are {case.bound:.6g}")
    return complaints, worst


def main(seed: int, launches: int, *, first: int) -> int:
    """Simulates launches; 1 if anything is wrong, else 0."""
    driver.set_active(FakeDriver())
    findings, pictures = 0, 0
    worst: dict[str, float] = {}
    for number in range(first, first + launches):
        case = case_of(seed, number)
        try:
            complaints, error = simulate(case, seed=number)
        except Exception as problem:  # noqa: BLE001  (whatever it is, it is to be reported with its case)
            complaints, error = [f"{type(problem).__name__}: {problem}"], 0.0
        for complaint in complaints:
            print(json.dumps({"seed": seed, "launch": number, "finding": complaint, "case": str(case)}))
        findings += len(complaints)
        pictures += len(case.pictures)
        form = f"{case.target.dtype}{' scaled' if case.is_scaled else ''}"
        worst[form] = max(worst.get(form, 0.0), error)
    print(json.dumps({"launches": launches, "pictures": pictures, "findings": findings, "worst_errors": worst}))
    return int(findings > 0)


def _planes(case: Case, picture: Picture, name: str, base: int) -> tuple[list[Segment], list[int]]:
    """Planes whose padding may not be read, and their strides."""
    segments, strides = [], []
    for number, plane in enumerate(case.components(picture).planes()):
        unit = plane.itemsize * (2 if case.source.layout.interleaved and number == 1 else 1)
        rows = np.ascontiguousarray(plane).view(np.uint8)
        width = rows.shape[1]
        stride = -(-width // 16) * 16 if picture.padding is None else width + unit * picture.padding
        data = np.full((len(rows), stride), 0x5A, np.uint8)
        data[:, :width] = rows
        readable = np.zeros(data.shape, np.bool_)
        readable[:, :width] = True
        # The last row has no padding: what lies behind it may be anything.
        end = data.size - stride + width
        start = base + APART * number + unit * picture.offset
        segments.append(Segment(f"{name} {number}", start, data.ravel()[:end], readable.ravel()[:end]))
        strides.append(stride)
    return segments, strides


def _values(case: Case, slot: Bytes) -> Floats:
    """A slot's values, float64 ``[3, H, W]``."""
    values = torch.from_numpy(slot).view(case.target.dtype).reshape(case.target.shape).double()
    return (values if case.target.layout == "chw" else values.permute(2, 0, 1)).numpy()


def _parameter_values(source: Any, arguments: Mapping[str, Any]) -> Iterator[int]:
    """Bits of the kernel's parameters: Triton flattens tuples, and leaves out what is known when it compiles."""
    for position, (name, kind) in enumerate(source.signature.items()):
        yield from _flattened(kind, arguments[name], (position,), source.constants)


def _flattened(kind: Any, value: Any, path: tuple[int, ...], constants: Mapping[Any, Any]) -> Iterator[int]:
    if isinstance(kind, tuple | list):
        for position, (part, item) in enumerate(zip(kind, value, strict=True)):
            yield from _flattened(part, item, (*path, position), constants)
    elif kind != "constexpr" and path not in constants:
        if kind == "fp32":
            yield struct.unpack("<I", struct.pack("<f", value))[0]
        elif kind == "i32":
            yield value & 0xFFFFFFFF
        elif kind == "i64" or kind.startswith("*"):
            yield value
        else:
            raise Unknown(f"a parameter of type {kind}")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*given[:2], first=given[2] if len(given) > 2 else 0))
