"""Device memory: within its budget, named when it runs out, given back; and one process with a CUDA context."""

import contextlib
import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from gpuload import Loader
from gpuload.errors import GpuloadError
from gpuload.pipeline.pace import AHEAD
from tests.gpu.pictures import HEIGHT, WIDTH, make_source

PICTURE_BYTES = WIDTH * HEIGHT * 3 // 2
SLACK = 64 << 20
"""Tables, events, rounding of the allocator, surfaces of sessions that torch's allocator has."""


def test_pictures_that_wait_stay_within_the_budget(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=16, frames=200, offsets=(0,), gop=50)
    budget = 100 * PICTURE_BYTES  # of 3,200 pictures
    batch_bytes = 16 * 3 * WIDTH * HEIGHT
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with Loader(source, 16, device="cuda", shuffle="global", device_cache_bytes=budget) as loader:
        for _ in loader:
            pass
        kept = loader.stats.kept_bytes
    peak = torch.cuda.max_memory_allocated() - before
    # A run in each of two lanes for up to eight engines, and the batches' pictures and slots.
    under_way = 16 * 50 * PICTURE_BYTES + (AHEAD + 1) * (batch_bytes + 16 * PICTURE_BYTES)
    assert 0 < kept <= budget + under_way
    assert peak <= budget + under_way + SLACK, (peak, budget)


def test_closing_gives_the_memory_back(tmp_path: Path) -> None:
    source = make_source(tmp_path, offsets=(0,))
    for _ in range(2):  # the first time, libraries take what they keep
        gc.collect()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        with Loader(source, 8, device="cuda", shuffle="global") as loader:
            for batch in loader:
                del batch
        del loader
        gc.collect()
        torch.cuda.synchronize()
        left = torch.cuda.memory_allocated() - before
    assert left <= 1 << 20, f"{left} bytes are still allocated"


def test_memory_that_runs_out_names_what_to_lower(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=4, frames=200, offsets=(0,))
    total = torch.cuda.get_device_properties(0).total_memory
    held: list[dict[str, Any]] = []
    with Loader(source, 8, device="cuda") as loader:
        iterator = iter(loader)
        held.append(next(iterator))
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (1 << 20)) / total)
        try:
            with pytest.raises(GpuloadError, match="device_cache_bytes"):
                held.extend(iterator)  # batches are kept, some 120 MB of them
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        held.clear()
        remaining = sum(1 for _ in rest(iterator))
    assert remaining > 0, "no batch came once there was memory again"


def rest(iterator: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Batches that come, whatever the ones between them raise."""
    while True:
        try:
            yield next(iterator)
        except StopIteration:
            return
        except GpuloadError:
            continue


@pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
def test_only_this_process_has_the_gpu(backend: str, tmp_path: Path) -> None:
    source = make_source(tmp_path, offsets=(0,))
    with Loader(source, 8, device="cuda", backend=backend, num_threads=3) as loader:
        next(iter(loader))
        helpers = psutil.Process().children(recursive=True)
        assert len(helpers) >= (3 if backend == "pyav" else 0)
        for helper in helpers:
            assert not [name for name in opened_by(helper.pid) if name.startswith("/dev/nvidia")], helper.cmdline()
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
            listed = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False).stdout.split()
            assert not {str(helper.pid) for helper in helpers} & set(listed)


def opened_by(pid: int) -> list[str]:
    """Files that a process has open; those that it closes meanwhile are left out."""
    names = []
    with contextlib.suppress(FileNotFoundError):  # it ended: a compiler of Triton's, say
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                names.append(os.readlink(entry))
    return names


def test_loaders_made_and_closed_again_and_again_leave_no_sessions(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=1, frames=10, gop=5, offsets=(0,))
    free = []
    for number in range(12):  # a session holds some tens of MB, and 12 loaders have some 84
        with Loader(source, 5, device="cuda") as loader:
            for _ in loader:
                pass
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        if number >= 3:
            free.append(torch.cuda.mem_get_info()[0])
    assert free[0] - free[-1] <= 256 << 20, free
