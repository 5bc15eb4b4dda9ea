"""Runs a kernel block by block: 128 threads in lockstep, which is what threads do that never diverge."""

from collections.abc import Callable, Mapping

import numpy as np

from tests.kernels.ptx import matrix
from tests.kernels.ptx.arithmetic import evaluate
from tests.kernels.ptx.memory import Array, Fault, Flags, GlobalMemory, SharedMemory
from tests.kernels.ptx.program import Instruction, Program, Unknown, address_of, registers_of
from tests.kernels.ptx.registers import DTYPES, INTEGERS, THREADS, Registers

MAX_STEPS = 1_000_000


class Machine:
    """A kernel with its arguments, before memory that its blocks share."""

    def __init__(
        self,
        program: Program,
        memory: GlobalMemory,
        *,
        arguments: Mapping[str, int],
        shared_bytes: int = 0,
        seed: int = 0,
    ) -> None:
        self._program = program
        self._memory = memory
        self._arguments = arguments
        self._shared_bytes = shared_bytes
        self._draw = np.random.default_rng(seed)
        self._registers = Registers(0, self._draw)
        self._shared = SharedMemory(0, self._draw)
        self._special: dict[str, Callable[[Instruction, Flags | None], None]] = {
            "ld": self._load,
            "st": self._store,
            "mov": self._move,
            "bar": self._wait,
            "ldmatrix": self._by_warps,
            "stmatrix": self._by_warps,
            "mma": self._by_warps,
            "shfl": self._by_warps,
        }

    def run(self, block: int) -> Registers:
        """Runs one block to its end; its registers.

        Raises:
            Fault: an access or a branch that a kernel must not make, or no end.
            Unknown: an instruction that is not known.
        """
        self._registers = Registers(block, self._draw)
        self._shared = SharedMemory(self._shared_bytes, self._draw)
        position = 0
        for _ in range(MAX_STEPS):
            instruction = self._program.instructions[position]
            position += 1
            mask = self._mask(instruction)
            if instruction.opcode[0] in ("bra", "ret"):
                if mask is not None and not mask.any():
                    continue
                if mask is not None and not mask.all():
                    raise Fault(f"threads diverge at {instruction.text}")
                if instruction.opcode[0] == "ret":
                    return self._registers
                position = self._program.labels[instruction.operands[0]]
                continue
            try:
                self._execute(instruction, mask)
            except Unknown as problem:
                raise Unknown(f"{instruction.text}: {problem} is not known") from problem
        raise Fault(f"no end after {MAX_STEPS} instructions")

    def _execute(self, instruction: Instruction, mask: Flags | None) -> None:
        if special := self._special.get(instruction.opcode[0]):
            special(instruction, mask)
        else:
            values = evaluate(instruction, self._registers)
            self._registers.write(instruction.operands[0], values, mask)

    def _mask(self, instruction: Instruction) -> Flags | None:
        """Threads that execute it; None: all."""
        if not instruction.predicate:
            return None
        mask = self._registers.read(instruction.predicate, "pred")
        return ~mask if instruction.is_negated else mask

    def _load(self, instruction: Instruction, mask: Flags | None) -> None:
        if instruction.opcode[1] == "param":
            name, _ = address_of(instruction.operands[1])
            bits = INTEGERS[f"u{instruction.opcode[2][1:]}"]
            self._registers.write(instruction.operands[0], np.full(THREADS, self._arguments[name], bits), mask)
            return
        names, kind, memory = self._access(instruction, instruction.operands[0])
        active = np.ones(THREADS, np.bool_) if mask is None else mask
        if not active.any():
            return
        item = DTYPES[kind].itemsize
        data = np.zeros((THREADS, len(names) * item), np.uint8)
        data[active] = memory.read(self._addresses(instruction.operands[1])[active], data.shape[1])
        for name, column in zip(names, data.view(DTYPES[kind]).T, strict=True):
            self._registers.write(name, np.ascontiguousarray(column), mask)

    def _store(self, instruction: Instruction, mask: Flags | None) -> None:
        names, kind, memory = self._access(instruction, instruction.operands[1])
        active = np.ones(THREADS, np.bool_) if mask is None else mask
        if not active.any():
            return
        data = np.stack([self._registers.read(name, kind) for name in names], axis=1).view(np.uint8)
        memory.write(self._addresses(instruction.operands[0])[active], data[active])

    def _access(
        self, instruction: Instruction, operand: str
    ) -> tuple[tuple[str, ...], str, GlobalMemory | SharedMemory]:
        """Registers, the type of each, and the memory of a load or store."""
        names = registers_of(operand)
        _, space, *vector, kind = instruction.opcode
        if space not in ("global", "shared") or kind not in DTYPES or vector != [f"v{len(names)}"][len(names) == 1 :]:
            raise Unknown("access")
        return names, kind, self._memory if space == "global" else self._shared

    def _addresses(self, operand: str) -> Array:
        base, offset = address_of(operand)
        kind = "u64" if base.startswith("%rd") else "u32"
        addresses: Array = self._registers.read(base, kind).astype(np.int64) + offset
        return addresses

    def _move(self, instruction: Instruction, mask: Flags | None) -> None:
        """Copies, joins registers to a wider one, the lowest first, or takes it apart."""
        targets, sources = (registers_of(operand) for operand in instruction.operands)
        kind = instruction.opcode[1]
        if len(instruction.opcode) != 2 or kind not in DTYPES or min(len(targets), len(sources)) != 1:
            raise Unknown("move")
        if len(targets) == len(sources):
            self._registers.write(targets[0], self._registers.read(sources[0], kind), mask)
            return
        part = f"u{int(kind[1:]) // max(len(targets), len(sources))}"
        parts = np.stack([self._registers.read(name, part if len(sources) > 1 else kind) for name in sources], axis=1)
        columns = parts.view(DTYPES[part if len(targets) > 1 else kind]).T
        for name, column in zip(targets, columns, strict=True):
            self._registers.write(name, np.ascontiguousarray(column), mask)

    def _wait(self, instruction: Instruction, mask: Flags | None) -> None:
        """Threads in lockstep have all arrived."""
        if instruction.opcode[1:] not in (("sync",), ("warp", "sync")):
            raise Unknown("barrier")
        if mask is not None and not mask.all():
            raise Fault(f"not all threads arrive at {instruction.text}")

    def _by_warps(self, instruction: Instruction, mask: Flags | None) -> None:
        if mask is not None and not mask.all():
            raise Fault(f"not all threads execute {instruction.text}")
        match instruction.opcode[0]:
            case "ldmatrix":
                matrix.load_tiles(instruction, self._registers, self._shared)
            case "stmatrix":
                matrix.store_tiles(instruction, self._registers, self._shared)
            case "mma":
                matrix.multiply(instruction, self._registers)
            case _:
                matrix.shuffle(instruction, self._registers)
