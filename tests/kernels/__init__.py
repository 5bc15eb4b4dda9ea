"""Kernels against float64 mathematics, under Triton's interpreter or on a GPU."""
