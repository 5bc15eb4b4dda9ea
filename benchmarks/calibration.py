"""A fixed piece of work, pure Python and numpy, by which one machine is compared with another."""

import numpy as np

ROWS, COLUMNS = 480, 640
STEPS = 60_000


def calibrate() -> int:
    """Some milliseconds: half of them in the interpreter, half in passes over memory and a sort."""
    total = 0
    table: dict[int, int] = {}
    for step in range(STEPS):
        total = (total * 31 + step) & 0xFFFF
        table[total] = step
    picture = np.arange(ROWS * COLUMNS * 3, dtype=np.uint32).reshape(ROWS, COLUMNS, 3) * 2654435761 >> 24
    planes = np.ascontiguousarray(picture.astype(np.uint8).transpose(2, 0, 1))
    order = np.argsort(planes[0].ravel(), kind="stable")
    return len(table) + int(planes.sum()) + int(order[-1])
