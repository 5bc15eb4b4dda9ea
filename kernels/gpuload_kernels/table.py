"""Pointer tables: what every launch checks of them before the grid."""

import torch


def check_table(table: torch.Tensor, columns: int, *, is_interpreted: bool) -> None:
    """Refuses what is no contiguous int64 ``[N, columns]`` on a device where the kernel can run.

    Raises:
        TypeError: no tensor, or not int64.
        ValueError: another shape, not contiguous, or a device that the kernel does not run on.
    """
    if not isinstance(table, torch.Tensor) or table.dtype != torch.int64:
        raise TypeError(f"table must be an int64 tensor, got {getattr(table, 'dtype', type(table).__name__)}")
    if table.ndim != 2 or table.shape[1] != columns:
        raise ValueError(f"table must be [N, {columns}], got {list(table.shape)}")
    if not table.is_contiguous():
        raise ValueError(f"table must be contiguous, got strides {table.stride()}")
    # The addresses are followed where the kernel runs: the interpreter cannot follow the device's, nor it the host's.
    if is_interpreted and table.device.type != "cpu":
        raise ValueError(f"under TRITON_INTERPRET=1 planes, slots and table are on the CPU, got {table.device}")
    if not is_interpreted and table.device.type != "cuda":
        raise ValueError(f"the kernel runs on CUDA, or on the CPU with TRITON_INTERPRET=1 set; got {table.device}")
