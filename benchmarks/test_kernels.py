"""The colour kernel on a GPU: ``GPULOAD_REQUIRE_CUDA=1 python -m benchmarks.parts``. Skipped without the variable."""

import os
from typing import Any

import pytest
import torch

REQUIRED = os.environ.get("GPULOAD_REQUIRE_CUDA") == "1"
pytestmark = pytest.mark.skipif(not REQUIRED, reason="kernels are measured under GPULOAD_REQUIRE_CUDA=1")
PICTURES = 128
COPIED_BYTES = 256 << 20


def test_copying_on_the_device(benchmark: Any) -> None:
    """What ``benchmarks.parts`` divides the kernels by."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    benchmark.pedantic(copy, rounds=50, warmup_rounds=5)


@pytest.mark.parametrize(
    ("width", "height", "out", "dtype"),
    [(640, 480, (480, 640), "uint8"), (640, 480, (224, 224), "float16"), (1920, 1080, (224, 224), "float16")],
)
def test_nv12_to_slots(benchmark: Any, width: int, height: int, out: tuple[int, int], dtype: str) -> None:
    """A batch of 128 pictures by one launch; the round ends when the device has finished."""
    from gpuload_kernels.convert import Source, Target, launch

    device = torch.device("cuda")
    luma = torch.randint(16, 236, (PICTURES, height, width), dtype=torch.uint8, device=device)
    chroma = torch.randint(16, 241, (PICTURES, height // 2, width), dtype=torch.uint8, device=device)
    target = Target(height=out[0], width=out[1], dtype=getattr(torch, dtype))
    slots = torch.empty((PICTURES, *target.shape), dtype=target.dtype, device=device)
    table = torch.tensor(
        [
            [y.data_ptr(), uv.data_ptr(), 0, width, width, 0, slot.data_ptr(), 0, 0, 0]
            for y, uv, slot in zip(luma, chroma, slots, strict=True)
        ]
    ).to(device)
    source = Source(pixel_format="nv12", width=width, height=height)

    def convert() -> None:
        launch(table, source=source, target=target)
        torch.cuda.synchronize()

    benchmark.pedantic(convert, rounds=50, warmup_rounds=5)
    moved = luma.nbytes + chroma.nbytes + slots.nbytes
    benchmark.extra_info["GB_per_s"] = moved / benchmark.stats.stats.median / 1e9
