"""What a GPU machine shows, in one command: ``python -m benchmarks.gpu``."""
