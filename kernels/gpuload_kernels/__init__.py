"""Triton kernels of gpuload and their plain torch twins."""
