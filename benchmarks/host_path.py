"""How near to the CPU's decode limit a loader comes that only hands planes on: a GPU's half is left out.

``python -m benchmarks.host_path``: AV1 640x480 with keyframes every second frame, as LeRobot encodes, decoded on all
cores and staged in host memory as for a GPU that converts for nothing; against decoding alone, in turns. What a GPU
takes of a batch, and copying to it, is not in here: ``python -m benchmarks.gpu`` measures those.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch

import gpuload
from benchmarks.gpu.loading import endless
from benchmarks.gpu.ours import dataset_of
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.workloads import ON_CPU, ensure_once, ensure_workload
from benchmarks.machine_limit import measure_limit
from gpuload import loader as loader_module
from gpuload.device import kept
from gpuload.pipeline import finish, route
from gpuload.pipeline.route import Way

WARM_S = 25.0
"""An epoch, and memory that has been touched: fresh pages can cost more than decoding (RESULTS.md)."""
SECONDS = 6.0


def measure(setting: Setting, *, shuffle: str, staged: bool, rounds: int) -> list[tuple[float, float]]:
    """``(frames/s of decoding alone, distinct frames/s of the loader)`` of each round."""
    once = ensure_once(ON_CPU, setting.folder)
    dataset = dataset_of(ensure_workload(ON_CPU, setting.folder))
    found = []
    with ExitStack() as stack:
        if staged:
            stack.enter_context(patch.object(loader_module, "finishing_device", lambda device: torch.device("cpu")))
            stack.enter_context(patch.object(route.Router, "way", lambda self, file: Way("pyav", "cpu")))
            stack.enter_context(patch.object(finish, "convert_pictures", lambda *arguments: None))
            stack.enter_context(patch.object(kept, "copy_rows", lambda *arguments: None))
        with gpuload.Loader(dataset, 32, shuffle=shuffle, seed=0, device="cpu") as loader:
            batches = endless(loader)
            drawn(loader, batches, WARM_S)
            for _ in range(rounds):
                limit = measure_limit(once, deliveries=0, seconds=SECONDS, converter="pyav")
                drawn(loader, batches, 2.0)  # what was ready meanwhile
                found.append((limit.decoded_per_s, drawn(loader, batches, SECONDS)))
    return found


def drawn(loader: gpuload.Loader, batches: Iterator[object], seconds: float) -> float:
    """Distinct frames/s while batches are taken and dropped."""
    begin, before = time.perf_counter(), loader.stats.frames_distinct
    while time.perf_counter() - begin < seconds:
        next(batches)
    return (loader.stats.frames_distinct - before) / (time.perf_counter() - begin)


def main() -> None:
    """Prints a line for each order, with planes and with RGB made on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the dataset is kept (default: a temporary one)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        setting = Setting("cpu", arguments.folder or temporary, deadline_s=time.time() + 3600)
        Path(setting.work).mkdir(parents=True, exist_ok=True)
        for shuffle in ("block", "global"):
            for staged in (True, False):
                rates = measure(setting, shuffle=shuffle, staged=staged, rounds=arguments.rounds)
                ratios = sorted(mine / limit for limit, mine in rates)
                said = ", ".join(f"{mine:,.0f} of {limit:,.0f}" for limit, mine in rates)
                print(
                    f"{shuffle}, {'planes staged' if staged else 'RGB on the CPU'}: "
                    f"{ratios[len(ratios) // 2]:.2f} ({said} frames/s)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
