"""Whole loaders: with nothing else, beside busy Python, beside training; each against NVDEC's limit in the same run."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

import gpuload
from benchmarks.gil import busy
from benchmarks.gpu.candidates import synchronize
from benchmarks.gpu.network import training_step
from benchmarks.gpu.ours import dataset_of, make_loader, on_device
from benchmarks.gpu.setting import Setting, attempt
from benchmarks.gpu.targets import AT_ONCE, NVDEC_ONLY
from benchmarks.gpu.workloads import BASE, CAMERA, WINDOW, Workload, ensure_workload, workloads
from gpuload.decode.registry import AUTO
from gpuload.pipeline import crew

SIDES = (224, 160, 112, 80)
"""Of the pictures that a training step is given: the largest one that leaves time at half of the loader's rate."""
WARM_S = 1.5


def endless(loader: gpuload.Loader) -> Iterator[dict[str, Any]]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def drawn(loader: gpuload.Loader, setting: Setting, *, beside: str = "") -> dict[str, Any]:
    """Rates while batches are taken and dropped, after a warm-up; and what the first batch took."""
    batches, begin = endless(loader), time.perf_counter()
    next(batches)
    first_batch_s = round(time.perf_counter() - begin, 3)
    warm_s = min(WARM_S, setting.long_seconds)
    _take(batches, warm_s)
    if beside:
        with busy(beside):
            _take(batches, min(1.0, warm_s))  # a process needs a moment to begin
            found = _counted(loader, setting, lambda: _take(batches, setting.long_seconds))
    else:
        found = _counted(loader, setting, lambda: _take(batches, setting.long_seconds))
    return {**found, "first_batch_s": first_batch_s}


def _take(batches: Iterator[dict[str, Any]], seconds: float) -> int:
    begin, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - begin < seconds:
        next(batches)
        count += 1
    return count


def _counted(loader: gpuload.Loader, setting: Setting, run: Callable[[], object]) -> dict[str, Any]:
    """Frames a second: delivered, decoded, and distinct ones of those, which is what a limit of decoding can be held
    against."""
    synchronize(setting.device)
    before, begin = loader.stats, time.perf_counter()
    run()
    synchronize(setting.device)
    after, elapsed_s = loader.stats, time.perf_counter() - begin
    return {
        "delivered_per_s": round((after.frames_delivered - before.frames_delivered) / elapsed_s),
        "decoded_per_s": round((after.frames_decoded - before.frames_decoded) / elapsed_s),
        "distinct_per_s": round((after.frames_distinct - before.frames_distinct) / elapsed_s),
        "waited": round((after.wait_s - before.wait_s) / elapsed_s, 4),
        "seconds": round(elapsed_s, 3),
        "mixing": round(after.mixing, 3),
        "kept_bytes": after.kept_bytes,
        "decoded_by": {name: n - before.decoded_by.get(name, 0) for name, n in after.decoded_by.items()},
    }


def measure(setting: Setting) -> None:
    """The base workload, and what stands beside it; then the others, as far as there is time."""
    rates: dict[str, float] = {}
    trying = partial(attempt, setting, needs_s=2 * setting.long_seconds + 4)
    ordered = sorted(workloads(setting), key=lambda one: one.name != BASE)
    for workload in ordered:
        for shuffle, backend in (("block", "auto"), ("block", "torchcodec"), ("global", "auto")):
            label = f"{workload.name} {shuffle}{NVDEC_ONLY if backend != 'auto' else ''}"
            trying(label, partial(plain, setting, workload, shuffle, backend, rates))
        trying(f"{workload.name} training", partial(training, setting, workload, "block", rates))
        if workload is ordered[0]:
            trying(f"{workload.name} block, {AT_ONCE}", partial(plain, setting, workload, "block", AT_ONCE, rates))
            trying(f"{workload.name} training global", partial(training, setting, workload, "global", rates))
            for beside in ("process", "thread"):
                for backend in (AUTO, AT_ONCE):
                    label = f"{workload.name} beside a busy {beside}{'' if backend == AUTO else f', {backend}'}"
                    trying(label, partial(beside_python, setting, workload, beside, backend))
            trying(f"{workload.name} block, a lane for each engine", partial(one_lane_each, setting, workload))


def plain(setting: Setting, workload: Workload, shuffle: str, backend: str, rates: dict[str, float]) -> dict[str, Any]:
    """Nothing but the loader. With ``auto`` the CPU may take a share of what NVDEC could decode."""
    dataset = dataset_of(ensure_workload(workload, setting.folder))
    with on_device(setting, backend=backend), make_loader(dataset, setting, shuffle=shuffle, backend=backend) as loader:
        found = drawn(loader, setting)
        if backend == "auto":
            rates[f"{workload.name} {shuffle}"] = found["delivered_per_s"]
        backends = {key: list(value) for key, value in loader.stats.backends.items()}
    return {**found, "backends": backends}


def one_lane_each(setting: Setting, workload: Workload) -> dict[str, Any]:
    """Half as many threads that feed NVDEC as by default."""
    with patch.object(crew, "LANES_PER_ENGINE", 1):
        return plain(setting, workload, "block", "torchcodec", {})


def beside_python(setting: Setting, workload: Workload, beside: str, backend: str) -> dict[str, Any]:
    """A thread of this process, or another process, runs pure Python without pause."""
    dataset = dataset_of(ensure_workload(workload, setting.folder))
    with on_device(setting, backend=backend), make_loader(dataset, setting, shuffle="block", backend=backend) as loader:
        return drawn(loader, setting, beside=beside)


def training(setting: Setting, workload: Workload, shuffle: str, rates: Mapping[str, float]) -> dict[str, Any]:
    """A training loop that takes batches at half of the loader's rate: which share of a step's time it is blocked."""
    rate = rates.get(f"{workload.name} {shuffle}", 0.0)
    device = torch.device(setting.device)
    dataset = dataset_of(ensure_workload(workload, setting.folder))
    with on_device(setting), make_loader(dataset, setting, shuffle=shuffle) as loader:
        batches = endless(loader)
        _take(batches, min(WARM_S, setting.long_seconds))
        pictures = next(batches)[CAMERA]
        wanted_s = pictures.shape[0] * WINDOW / (rate / 2) if rate else 0.0
        side, step, alone_s = fitting_step(setting, pictures, wanted_s)
        blocked_s = spent_s = 0.0
        steps = repeats = 0
        end = time.perf_counter() + setting.long_seconds
        while steps < 2 or time.perf_counter() < end:
            begin = time.perf_counter()
            pictures = next(batches)[CAMERA]
            synchronize(setting.device)  # a batch may still be made when it is handed over
            blocked_s += time.perf_counter() - begin
            while True:  # at least one step, then as many as fit before the next batch is due
                step(pictures)
                synchronize(setting.device)
                repeats += 1
                left_s = wanted_s - (time.perf_counter() - begin)
                if left_s < alone_s:
                    break
            if left_s > 0:
                time.sleep(left_s)
            spent_s += time.perf_counter() - begin
            steps += 1
    return {
        "blocked": blocked_s / spent_s,
        "step_ms": 1e3 * spent_s / steps,
        "wanted_step_ms": 1e3 * wanted_s,
        "of_loader_rate": pictures.shape[0] * WINDOW * steps / spent_s / rate if rate else 0.0,
        "side": side,
        "alone_ms": 1e3 * alone_s,
        "training_steps_per_batch": repeats / steps,
        "device": str(device),
    }


def fitting_step(
    setting: Setting, pictures: torch.Tensor, wanted_s: float
) -> tuple[int, Callable[[torch.Tensor], None], float]:
    """``(side, step, its seconds)`` of the largest training step that takes no longer than ``wanted_s``; else of the
    smallest one."""
    sides = (32,) if setting.dry else SIDES
    for side in sides:
        step = training_step(pictures.device, side=side, width=8 if setting.dry else 64)
        for _ in range(1 if setting.dry else 5):
            step(pictures)
        synchronize(setting.device)
        begin, rounds = time.perf_counter(), 1 if setting.dry else 5
        for _ in range(rounds):
            step(pictures)
            synchronize(setting.device)
        alone_s = (time.perf_counter() - begin) / rounds
        if alone_s <= wanted_s:
            break
    return side, step, alone_s
