"""What the interpreter cannot show: that the kernels compile for a GPU, to what, and that they run there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gpuload_kernels import reference
from gpuload_kernels.forms import Source, Target

from tests.kernels.exact import noise
from tests.kernels.slots import Job, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """Instruction counts of every variant, compiled for compute capability 9.0 with the ptxas of the Triton wheel."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {
        "PYTHONPATH": f"{ROOT / 'kernels'}:{ROOT}",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
    }
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.compile_natively"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    results: dict[str, dict[str, int]] = json.loads(done.stdout)
    return results


def test_resizing_is_matrix_products_on_tensor_cores(compiled: dict[str, dict[str, int]]) -> None:
    assert len(compiled) == 14
    for name, counts in compiled.items():
        assert (counts["mma"] > 0) == ("resized" in name)


def test_aligned_bytes_are_stored_four_at_a_time(compiled: dict[str, dict[str, int]]) -> None:
    # 16 x 128 pixels of 3 channels, over 128 threads, by four: 12 stores a thread. Two other paths store single bytes.
    assert compiled["nv12 to bytes"]["vector_stores"] == 12
    assert compiled["nv12 to bytes"]["one_byte_stores"] == 2 * 48


def test_four_bytes_are_clamped_and_packed_by_two_instructions(compiled: dict[str, dict[str, int]]) -> None:
    assert compiled["nv12 to bytes"]["packings"] == 3 * 48 // 2
    assert compiled["nv12 to bytes"]["clamps"] == 0


def test_a_clamp_of_floats_is_one_instruction(compiled: dict[str, dict[str, int]]) -> None:
    assert compiled["yuv420p16le to float"]["clamps"] == 3 * 48


def test_instructions_leave_memory_to_limit(compiled: dict[str, dict[str, int]]) -> None:
    # 46 for a pixel are what an H200 issues at 0.7 of copying (convert.py). A thread has 16 pixels of a step, and 8
    # where it resizes. It was 29 and 37 when this was written.
    assert 0 < compiled["nv12 to bytes"]["loop"] <= 16 * 34
    assert 0 < compiled["nv12 resized"]["loop"] <= 8 * 42


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["nv12", "p010le", "yuv420p", "rgb24"])
@pytest.mark.parametrize("size", [(1080, 1920), (224, 224)])
def test_full_hd_agrees_with_the_reference(name: str, size: tuple[int, int]) -> None:
    device = torch.device("cuda")
    pictures = [noise(name, 1920, 1080, seed=seed) for seed in range(3)]
    source, target = Source(name, 1920, 1080, 1), Target(*size, torch.float32)
    jobs = [Job(picture.planes(), flip=number == 1) for number, picture in enumerate(pictures)]
    slots = run(device, source, target, jobs)
    for picture, job, slot in zip(pictures, jobs, slots, strict=True):
        planes = [
            torch.from_numpy(plane.view(np.int16 if plane.itemsize == 2 else np.uint8)) for plane in picture.planes()
        ]
        exact = reference.convert(planes, source, target, flip=job.flip)
        assert (slot - exact).abs().max() <= 1e-3
