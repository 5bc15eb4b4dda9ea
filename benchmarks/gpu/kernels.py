"""The fused kernel's bandwidth, each byte read and written counted once, against ``Tensor.copy_`` in the same run."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from gpuload_kernels import convert, depth
from gpuload_kernels.forms import Source, Target

from benchmarks.gpu.setting import Setting, first_line, say
from gpuload.device.planes import plane_shapes

ROUNDS = 30
WARM_S = 0.5
ALIGNED = 256


@dataclass(frozen=True, slots=True)
class Case:
    """One launch over many pictures."""

    name: str
    source: Source
    target: Target


def cases(*, dry: bool) -> list[Case]:
    """The two that have targets come first."""
    if dry:
        return [
            Case("nv12 64x48 to uint8", Source("nv12", 64, 48), Target(48, 64)),
            Case("nv12 64x48 to 24x24 float16", Source("nv12", 64, 48), Target(24, 24, torch.float16)),
        ]
    hd, sd = (1920, 1080), (640, 480)
    half = torch.float16
    normal = Target(224, 224, half, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return [
        Case("nv12 1080p to uint8", Source("nv12", *hd, 1), Target(1080, 1920)),
        Case("nv12 1080p to 224x224 float16", Source("nv12", *hd, 1), Target(224, 224, half)),
        Case("nv12 480p to uint8", Source("nv12", *sd), Target(480, 640)),
        Case("nv12 480p to 224x224 float16, normalized", Source("nv12", *sd), normal),
        Case("nv12 480p to float32", Source("nv12", *sd), Target(480, 640, torch.float32)),
        Case("nv12 1080p to uint8, channels last", Source("nv12", *hd, 1), Target(1080, 1920, layout="hwc")),
        Case("nv12 1080p turned to uint8", Source("nv12", *hd, 1, rotation=90), Target(1920, 1080)),
        Case("p010le 1080p to uint8", Source("p010le", *hd, 9), Target(1080, 1920)),
        Case("yuv420p 480p to uint8", Source("yuv420p", *sd), Target(480, 640)),
        Case("rgb24 480p to uint8", Source("rgb24", *sd), Target(480, 640)),
    ]


def measure(setting: Setting) -> None:
    """Every case beside a copy that moves as many bytes."""
    device = torch.device(setting.device)
    for case in cases(dry=setting.dry):
        try:
            say(case.name, measure_case(case, device, pictures=pictures_of(case, dry=setting.dry)))
        except Exception as error:  # noqa: BLE001 - a kernel that does not compile must not hide the others
            say(case.name, {"failed": first_line(error)})
    try:
        say("depth gray12le 480p to float32", measure_depth(device, dry=setting.dry))
    except Exception as error:  # noqa: BLE001 - as above
        say("depth gray12le 480p to float32", {"failed": first_line(error)})


def pictures_of(case: Case, *, dry: bool) -> int:
    """So many that everything together is many times the GPU's L2 cache."""
    return 2 if dry else max(64, (1 << 30) // (3 * case.source.width * case.source.height))


def measure_case(case: Case, device: torch.device, *, pictures: int) -> dict[str, float]:
    """Medians, and the ratio of bandwidths."""
    source, target = case.source, case.target
    shapes = plane_shapes(source.pixel_format, source.width, source.height)
    read = sum(rows * row_bytes for rows, row_bytes in shapes)
    written = 3 * target.height * target.width * target.dtype.itemsize
    picture_bytes, slot_bytes = -(-read // ALIGNED) * ALIGNED, -(-written // ALIGNED) * ALIGNED
    planes = torch.randint(0, 256, (pictures * picture_bytes,), dtype=torch.uint8, device=device)
    slots = torch.empty(pictures * slot_bytes, dtype=torch.uint8, device=device)
    rows = []
    for number in range(pictures):
        row, begin = [0] * 10, planes.data_ptr() + number * picture_bytes
        for plane, (lines, line_bytes) in enumerate(shapes):
            row[plane], row[3 + plane] = begin, line_bytes
            begin += lines * line_bytes
        row[6] = slots.data_ptr() + number * slot_bytes
        rows.append(row)
    table = torch.tensor(rows, dtype=torch.int64).to(device)
    total = pictures * (read + written)
    run = partial(convert.launch, table, source=source, target=target)
    return {**against_copy(total, run, device), "pictures": pictures}


def measure_depth(device: torch.device, *, dry: bool) -> dict[str, float]:
    """The look-up of 12-bit codes."""
    width, height, pictures = (64, 48, 2) if dry else (640, 480, 1024)
    codes = torch.randint(0, 4096, (pictures, height, width), dtype=torch.int16, device=device)
    slots = torch.empty((pictures, 1, height, width), dtype=torch.float32, device=device)
    lut = torch.linspace(0, 10, 4096, device=device)
    rows = [[codes[n].data_ptr(), codes.stride(1) * codes.element_size(), slots[n].data_ptr()] for n in range(pictures)]
    table = torch.tensor(rows, dtype=torch.int64).to(device)
    run = partial(depth.launch, table, lut, pixel_format="gray12le", width=width, height=height, rotation=0)
    return {**against_copy(codes.nbytes + slots.nbytes, run, device), "pictures": pictures}


def against_copy(total_bytes: int, run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """A copy reads half of the bytes and writes the other half."""
    origin = torch.empty(total_bytes // 2, dtype=torch.uint8, device=device)
    copy = torch.empty_like(origin)
    kernel_s, copy_s = timed([run, partial(copy.copy_, origin)], device)
    return {
        "kernel_ms": kernel_s * 1e3,
        "kernel_gb_per_s": total_bytes / kernel_s / 1e9,
        "copy_gb_per_s": total_bytes / copy_s / 1e9,
        "of_copy": copy_s / kernel_s,
    }


def timed(runs: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Median seconds of each, in turns, by CUDA events; by the clock on the CPU."""
    if device.type == "cpu":
        begins = []
        for run in runs:
            begins.append(time.perf_counter())
            run()
        return [after - before for before, after in pairwise([*begins, time.perf_counter()])]
    end = time.perf_counter() + WARM_S
    while time.perf_counter() < end:  # compiled, and the clocks up: an idle H200 runs at a sixth of its rate
        for run in runs:
            run()
        torch.cuda.synchronize(device)
    pairs: list[list[Any]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, mine in zip(runs, pairs, strict=True):
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            pair[0].record()
            run()
            pair[1].record()
            mine.append(pair)
    torch.cuda.synchronize(device)
    return [statistics.median(a.elapsed_time(b) for a, b in mine) / 1e3 for mine in pairs]
