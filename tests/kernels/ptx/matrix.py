"""Instructions of a whole warp: tiles of 8 x 8 halves in shared memory, products on tensor cores, shuffles.

Where the PTX manual says "matrix fragments", lane l holds row l // 4 and columns 2 * (l % 4) + (0, 1) of a tile.
"""

import numpy as np

from tests.kernels.ptx.memory import Array, SharedMemory
from tests.kernels.ptx.program import Instruction, Unknown, address_of, registers_of
from tests.kernels.ptx.registers import THREADS, WARP, Registers

WARPS = THREADS // WARP


def load_tiles(instruction: Instruction, registers: Registers, shared: SharedMemory) -> None:
    """``ldmatrix``: lanes 8 * t to 8 * t + 7 say where the rows of tile t lie."""
    names, is_transposed = _tiles(instruction, instruction.operands[0])
    for number, name in enumerate(names):
        rows = shared.read(_rows(instruction.operands[1], number, registers), 16)
        tiles = rows.view(np.uint16).reshape(WARPS, 8, 8)
        tiles = tiles.swapaxes(1, 2) if is_transposed else tiles
        registers.write(name, np.ascontiguousarray(tiles).view(np.uint32).reshape(THREADS))


def store_tiles(instruction: Instruction, registers: Registers, shared: SharedMemory) -> None:
    """``stmatrix``: as ``load_tiles``, the other way."""
    names, is_transposed = _tiles(instruction, instruction.operands[1])
    for number, name in enumerate(names):
        tiles = np.ascontiguousarray(registers.read(name, "u32")).view(np.uint16).reshape(WARPS, 8, 8)
        tiles = tiles.swapaxes(1, 2) if is_transposed else tiles
        data = np.ascontiguousarray(tiles).view(np.uint8).reshape(WARPS * 8, 16)
        shared.write(_rows(instruction.operands[0], number, registers), data)


def multiply(instruction: Instruction, registers: Registers) -> None:
    """``mma``: D = A B + C in each warp, in float64 and rounded once.

    A and B are float16 ``[16, 16]`` and ``[16, 8]``, C and D float32 ``[16, 8]``.
    """
    if ".".join(instruction.opcode) != "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32":
        raise Unknown("product")
    results, a, b, c = (registers_of(operand) for operand in instruction.operands)
    top_left, bottom_left, top_right, bottom_right = (_half_tiles(name, registers) for name in a)
    left = np.block([[top_left, top_right], [bottom_left, bottom_right]])
    # B comes by columns: a lane holds two rows of one column.
    right = np.concatenate([_half_tiles(name, registers).swapaxes(1, 2) for name in b], axis=1)
    with np.errstate(all="ignore"):
        product = (left @ right).astype(np.float64)
        for number, name in enumerate(results):
            top, side = number // 2 * 8, number % 2
            term = registers.read(c[number], "f32").astype(np.float64)
            value = product[:, top : top + 8, side::2].reshape(THREADS) + term
            registers.write(name, value.astype(np.float32))


def shuffle(instruction: Instruction, registers: Registers) -> None:
    """``shfl``: each lane takes the value of another of its warp."""
    name, value, which, clamp, members = instruction.operands
    mode = instruction.opcode[2]
    is_known = instruction.opcode in (("shfl", "sync", "bfly", "b32"), ("shfl", "sync", "idx", "b32"))
    if not is_known or int(clamp, 0) != WARP - 1 or int(members, 0) not in (-1, 0xFFFFFFFF):
        raise Unknown("shuffle")
    lanes = np.arange(THREADS) % WARP
    chosen = registers.read(which, "u32").astype(np.int64) % WARP
    lane = lanes ^ chosen if mode == "bfly" else chosen
    registers.write(name, registers.read(value, "u32")[np.arange(THREADS) - lanes + lane])


def _tiles(instruction: Instruction, operand: str) -> tuple[tuple[str, ...], bool]:
    """Registers, one for each tile, and whether tiles are transposed."""
    names = registers_of(operand)
    rest = tuple(part for part in instruction.opcode[1:] if part != "trans")
    if rest != ("sync", "aligned", "m8n8", f"x{len(names)}", "shared", "b16"):
        raise Unknown("tiles")
    return names, "trans" in instruction.opcode


def _rows(operand: str, tile: int, registers: Registers) -> Array:
    """Addresses of a tile's rows, of all warps."""
    base, offset = address_of(operand)
    addresses = registers.read(base, "u32").astype(np.int64) + offset
    return addresses.reshape(WARPS, WARP)[:, 8 * tile : 8 * tile + 8].ravel()


def _half_tiles(name: str, registers: Registers) -> Array:
    """Float64 ``[WARPS, 8, 8]`` of a register of two halves."""
    halves = np.ascontiguousarray(registers.read(name, "u32")).view(np.float16)
    return halves.reshape(WARPS, 8, 8).astype(np.float64)
