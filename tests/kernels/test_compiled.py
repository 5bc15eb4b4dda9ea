"""What Triton compiles for a GPU, simulated instruction by instruction: its results and its accesses to memory.

The interpreter runs the kernel's Python. It shows neither misaligned vectors, nor what inline assembly does, nor what
layouts and matrix instructions make of tiles. The simulator is tested on instructions whose results are known.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernels.ptx.machine import Machine
from tests.kernels.ptx.memory import Fault, GlobalMemory, Segment
from tests.kernels.ptx.program import Unknown, parse_body
from tests.kernels.ptx.registers import THREADS, Registers

ROOT = Path(__file__).resolve().parents[2]
SEED = 1
PART = 13
"""Launches of one process: some 20 s. Those that are always made are in the first."""

INPUT, OUTPUT = 0x1000, 0x9000


@pytest.mark.parametrize("first", [0, PART])
def test_compiled_kernels_are_exact_and_keep_to_their_memory(first: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {
        "PYTHONPATH": f"{ROOT / 'kernels'}:{ROOT}",
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.ptx", *map(str, (SEED, PART, first))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert (summary["launches"], summary["findings"]) == (PART, 0)
    assert summary["pictures"] >= 4 * PART


def execute(
    text: str,
    data: npt.NDArray[np.generic] | None = None,
    *,
    padding: slice = slice(0),
    shared_bytes: int = 0,
    seed: int = 0,
) -> Registers:
    """Registers of one block after ``text``, with ``data`` at ``INPUT`` and 512 bytes for results at ``OUTPUT``."""
    source = (np.zeros(16) if data is None else data).view(np.uint8).ravel()
    readable = np.ones(len(source), np.bool_)
    readable[padding] = False
    target = np.zeros(4 * THREADS, np.uint8)
    memory = GlobalMemory(
        [
            Segment("input", INPUT, source, readable),
            Segment("output", OUTPUT, target, np.zeros(len(target), np.bool_), is_writable=True),
        ]
    )
    program = parse_body(f"mov.u32 %r0, %tid.x; mov.u64 %rd0, {INPUT}; mov.u64 %rd1, {OUTPUT}; {text} ret;")
    return Machine(program, memory, arguments={}, shared_bytes=shared_bytes, seed=seed).run(0)


@pytest.mark.parametrize(
    ("instructions", "kind", "value"),
    [
        # The first operand comes above the second, the third's low half above both; each is clamped to a byte.
        ("cvt.pack.sat.u8.s32.b32 %r1, 18, 52, 0xABCD5678;", "u32", 0x56781234),
        ("cvt.pack.sat.u8.s32.b32 %r1, 300, -5, 0;", "u32", 0xFF00),
        ("cvt.rn.f16x2.f32 %r1, 0f3F800000, 0fC0000000;", "u32", 0x3C00C000),
        ("cvt.rn.bf16x2.f32 %r1, 0f3F808000, 0f3F818000;", "u32", 0x3F803F82),
        ("cvt.rni.s32.f32 %r1, 0f40200000;", "s32", 2),
        ("cvt.rni.s32.f32 %r1, 0f40600000;", "s32", 4),
        ("cvt.rni.s32.f32 %r1, 0fFF800000;", "s32", -(2**31)),
        ("cvt.rni.s32.f32 %r1, 0f7FC00000;", "s32", 0),
        ("cvt.rzi.s32.f32 %r1, 0fC0200000;", "s32", -2),
        ("prmt.b32 %r1, 0x44332291, 0x88776655, 0x7531U;", "u32", 0x88664422),
        # With its top bit, a selector takes a byte's sign: of 0x91 and 0x88 all ones, of 0x22 none.
        ("prmt.b32 %r1, 0x44332291, 0x88776655, 0xF098U;", "u32", 0xFF9100FF),
        ("min.xorsign.abs.f32 %r1, 0fC0000000, 0f40400000;", "f32", -2.0),
        ("min.xorsign.abs.f32 %r1, 0fC0400000, 0fC0000000;", "f32", 2.0),
        ("max.f32 %r1, 0f7FC00000, 0f40400000;", "f32", 3.0),
        ("shl.b32 %r1, 1, 32;", "u32", 0),
        ("shr.s32 %r1, -8, 40;", "s32", -1),
        ("shr.u32 %r1, 0x80000000, 31;", "u32", 1),
        ("shf.l.wrap.b32 %r1, 0x89ABCDEF, 0x01234567, 8;", "u32", 0x23456789),
        ("bfe.s32 %r1, 0x00000F50, 4, 4;", "s32", 5),
        ("bfe.s32 %r1, 0x00000FA0, 4, 4;", "s32", -6),
        ("add.s16x2 %r1, 0x0001FFFF, 0x00010001;", "u32", 0x00020000),
        ("min.s16x2 %r1, 0x0001FFFF, 0x00020000;", "u32", 0x0001FFFF),
        ("min.u16x2 %r1, 0x0001FFFF, 0x00020000;", "u32", 0x00010000),
        ("div.s32 %r1, -7, 2;", "s32", -3),
        ("mad.wide.s32 %rd2, -2, 3, %rd0; cvt.u32.u64 %r1, %rd2;", "u32", INPUT - 6),
        ("cvt.s64.s32 %rd2, -1; shr.u64 %rd2, %rd2, 32; cvt.u32.u64 %r1, %rd2;", "u32", 0xFFFFFFFF),
        ("mov.b32 {%rs1, %rs2}, 0x12345678; mov.b32 %r1, {%rs2, %rs1};", "u32", 0x56781234),
        ("setp.lt.s32 %p1, -1, 0; selp.b32 %r1, 7, 8, %p1;", "u32", 7),
        ("setp.lt.u32 %p1, -1, 0; selp.b32 %r1, 7, 8, %p1;", "u32", 8),
        ("mov.b32 %r1, 1; bra over;\nmov.b32 %r1, 2;\nover:\n", "u32", 1),
        ("{ .reg .b32 a;\nmov.b32 a, 3; mov.b32 %r1, a;\n}", "u32", 3),
    ],
)
def test_an_instruction_computes_what_its_manual_says(instructions: str, kind: str, value: float) -> None:
    assert (execute(instructions).read("%r1", kind) == value).all()


def test_a_predicate_chooses_threads() -> None:
    registers = execute("mov.b32 %r1, 5; setp.lt.u32 %p1, %r0, 3; @!%p1 mov.b32 %r1, 6;")
    assert registers.read("%r1", "u32").tolist() == [5] * 3 + [6] * (THREADS - 3)


def test_a_register_that_was_never_written_holds_anything() -> None:
    values = [execute("setp.lt.u32 %p1, %r0, 3; @%p1 mov.b32 %r1, 6;", seed=seed).read("%r1", "u32") for seed in (1, 2)]
    assert (values[0][:3] == 6).all()
    assert (values[0][3:] != values[1][3:]).all()


def test_a_shuffle_stays_within_its_warp() -> None:
    registers = execute("shfl.sync.bfly.b32 %r1, %r0, 5, 31, -1; shfl.sync.idx.b32 %r2, %r0, 7, 31, -1;")
    threads = np.arange(THREADS)
    assert (registers.read("%r1", "u32") == (threads ^ 5)).all()
    assert (registers.read("%r2", "u32") == threads // 32 * 32 + 7).all()


def test_a_product_of_fragments_is_numpys() -> None:
    draw = np.random.default_rng(0)
    left, right = draw.normal(size=(4, 16, 16)).astype(np.float16), draw.normal(size=(4, 16, 8)).astype(np.float16)
    term = draw.normal(size=(4, 16, 8)).astype(np.float32)
    # Where the manual says that a lane holds a's, b's and c's elements i.
    thread, i = np.arange(THREADS)[:, None], np.arange(8)
    warp, group, member = thread // 32, thread % 32 // 4, thread % 4
    a = left[warp, group + 8 * (i // 2 % 2), 2 * member + i % 2 + 8 * (i // 4)]
    b = right[warp, 2 * member + i[:4] % 2 + 8 * (i[:4] // 2), group]
    place = (warp, group + 8 * (i[:4] // 2), 2 * member + i[:4] % 2)
    unused = np.zeros((THREADS, 8), np.uint8)
    registers = execute(
        "mad.wide.u32 %rd2, %r0, 48, %rd0;"
        "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd2];"
        "ld.global.v2.b32 {%r5, %r6}, [ %rd2 + 16 ];"
        "ld.global.v4.b32 {%r7, %r8, %r9, %r10}, [%rd2+32];"
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
        " {%r7, %r8, %r9, %r10}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%r7, %r8, %r9, %r10};",
        np.concatenate([part.view(np.uint8) for part in (a, b, unused, term[place])], axis=1),
    )
    got = np.stack([registers.read(f"%r{number}", "f32") for number in range(7, 11)], axis=1)
    exact = left.astype(np.float64) @ right.astype(np.float64) + term
    assert np.abs(got - exact[place]).max() <= 1e-5


@pytest.mark.parametrize("transposed", ["", ".trans"])
def test_tiles_are_loaded_by_rows_or_by_columns_and_stored_again(transposed: str) -> None:
    registers = execute(
        # Half h of shared memory is h; lane l says where row l begins, so tile t has the halves from 64 * t.
        "shl.b32 %r1, %r0, 2; shl.b32 %r2, %r0, 1; mad.lo.s32 %r3, %r0, 0x20000, 0x10000; or.b32 %r3, %r3, %r2;"
        "st.shared.b32 [%r1], %r3; bar.sync 0; and.b32 %r4, %r0, 31; shl.b32 %r4, %r4, 4;"
        f"ldmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 {{%r5, %r6, %r7, %r8}}, [%r4];"
        f"stmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 [%r4+512], {{%r5, %r6, %r7, %r8}};"
        "bar.sync 0; ld.shared.b32 %r9, [%r1+512];",
        shared_bytes=1024,
    )
    lane = np.arange(THREADS)[:, None] % 32
    row, column = lane // 4, 2 * (lane % 4) + np.arange(2)
    for tile in range(4):
        halves = np.ascontiguousarray(registers.read(f"%r{5 + tile}", "u32")).view(np.uint16).reshape(THREADS, 2)
        assert (halves == 64 * tile + (8 * column + row if transposed else 8 * row + column)).all()
    assert (registers.read("%r9", "u32") == registers.read("%r3", "u32")).all()


@pytest.mark.parametrize(
    ("instructions", "fault"),
    [
        ("ld.global.b32 %r1, [%rd0+2];", r"misaligned load of 4 bytes at input\+2"),
        ("ld.global.v2.b32 {%r1, %r2}, [%rd0+4];", r"misaligned load of 8 bytes at input\+4"),
        ("ld.global.b32 %r1, [%rd0+-4];", "load of 4 bytes out of bounds at input-4"),
        ("ld.global.b8 %r1, [%rd0+128];", r"load of 1 bytes out of bounds at input\+128"),
        ("ld.global.b16 %r1, [%rd0+120];", "load of 2 bytes that may not be read"),
        ("mad.wide.u32 %rd2, %r0, 4, %rd1; st.global.b32 [%rd2+4], %r0;", "store of 4 bytes out of bounds"),
        ("st.global.b32 [%rd0], %r0;", "store of 4 bytes that may not be written"),
        ("st.global.b32 [%rd1], %r0;", "store of 4 bytes by two threads"),
        ("setp.eq.s32 %p1, %r0, 0; @%p1 st.global.b32 [%rd1], %r0; @%p1 st.global.b8 [%rd1+3], %r0;", "second store"),
        ("st.shared.b32 [%r0], %r0;", "misaligned access to 4 shared bytes at 1"),
        ("shl.b32 %r1, %r0, 2; st.shared.b32 [%r1], %r0;", "access to 4 shared bytes at 64 of 64"),
        ("setp.lt.u32 %p1, %r0, 64; @%p1 bra over;\nover:\n", "threads diverge at @%p1 bra over"),
        ("setp.lt.u32 %p1, %r0, 64; @%p1 ret;", "threads diverge at @%p1 ret"),
        ("setp.lt.u32 %p1, %r0, 64; @%p1 bar.sync 0;", "not all threads arrive"),
        ("again:\nbra again;", "no end"),
    ],
)
def test_what_a_kernel_must_not_do_is_found(instructions: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.kernels.ptx.machine.MAX_STEPS", 1000)
    with pytest.raises(Fault, match=fault):
        execute(instructions, padding=slice(120, 124), shared_bytes=64)


@pytest.mark.parametrize(
    "instruction",
    [
        "add.rm.f32 %r1, %r2, %r3",
        "ld.global.nc.b32 %r1, [%rd0]",
        "cvt.sat.u8.s32 %r1, %r2",
        "vote.sync.any.pred %p1, %p2, -1",
        "mov.u32 %r1, %laneid",
        "mul.hi.s64 %rd1, %rd2, %rd3",
        "setp.eq.s32 %p1|%p2, %r1, %r2",
        "trap",
    ],
)
def test_an_instruction_that_is_not_known_is_named(instruction: str) -> None:
    with pytest.raises(Unknown, match=re.escape(instruction)):
        execute(f"{instruction};")
