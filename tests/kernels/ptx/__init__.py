"""A simulator of what Triton compiles: one block of threads in lockstep, with every access to memory checked."""
