"""Settings of libraries that tests use, and of Python; nothing of gpuload's."""

import gc
import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints pages otherwise
if not torch.cuda.is_available():
    # Kernels run under Triton's interpreter, which it chooses while a kernel's file is imported.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Memory comes back by counting references, or not at all."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
