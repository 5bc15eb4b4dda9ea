"""Without a GPU these tests are skipped, and fail where ``GPULOAD_REQUIRE_CUDA=1`` asks for one."""

import gc
import os

import pytest
import torch

from gpuload.decode.torchcodec import unusable
from gpuload.device.nvdec import NvdecTable, probe_caps

DEVICE = "cuda:0"
NEEDED = "needs a CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nothing of this folder runs without a GPU."""
    if torch.cuda.is_available():
        return
    if os.environ.get("GPULOAD_REQUIRE_CUDA") == "1":
        pytest.exit(f"GPULOAD_REQUIRE_CUDA=1, and torch finds no usable GPU: tests/gpu {NEEDED}", returncode=1)
    for item in items:
        if "gpu" in item.path.parent.parts[-1:]:
            item.add_marker(pytest.mark.skip(reason=NEEDED))


@pytest.fixture(scope="session")
def nvdec() -> NvdecTable:
    """What the driver says. Its absence is a failure: a GPU without NVDEC has nothing to test here."""
    found = probe_caps(0)
    assert isinstance(found, NvdecTable), found
    return found


@pytest.fixture(scope="session", autouse=True)
def _torchcodec_is_there() -> None:
    assert unusable(DEVICE) is None, unusable(DEVICE)


@pytest.fixture(autouse=True)
def _memory_is_given_back() -> None:
    """What an earlier test kept, a failed one too, is none of the next one's."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
