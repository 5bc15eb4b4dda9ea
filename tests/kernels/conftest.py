"""Where the kernels run: on the GPU if there is one, else under Triton's interpreter.

Triton chooses while ``triton.language`` and a kernel's file are imported, so the variable is set here, before any
test of this folder imports them. If something imported Triton earlier without it, the kernels cannot run in this
process: the fixture says so instead of skipping.
"""

# mypy: disable-error-code="import-untyped"

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """``cuda`` with a GPU, else ``cpu`` with the interpreter at work."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    import triton.language as tl
    from gpuload_kernels import convert
    from triton.runtime.interpreter import InterpretedFunction

    if not all(isinstance(function, InterpretedFunction) for function in (tl.cdiv, convert._convert)):
        pytest.fail("Triton was imported without TRITON_INTERPRET=1 before tests/kernels; import it later, or set it")
    return torch.device("cpu")
