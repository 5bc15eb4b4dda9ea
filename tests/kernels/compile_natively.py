"""Compiles the kernels for an H200 without a GPU and prints what came out as JSON; a process of its own, since kernels
imported under the interpreter cannot be compiled."""

# mypy: disable-error-code="import-untyped"

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from gpuload_kernels import convert, depth
from gpuload_kernels.forms import Source, Target
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import MockTensor

VARIANTS = {
    "nv12 to bytes": (Source("nv12", 1920, 1080), Target(1080, 1920)),
    "nv12 turned": (Source("nv12", 1920, 1080, rotation=90), Target(1920, 1080)),
    "nv12 resized": (Source("nv12", 1920, 1080), Target(224, 224, torch.float16)),
    "p010le resized": (
        Source("p010le", 1920, 1080, 9),
        Target(224, 224, torch.float16, mean=(0.5,) * 3, std=(0.2,) * 3),
    ),
    "yuv420p odd, hwc": (Source("yuv420p", 641, 479), Target(479, 641, torch.float32, "hwc")),
    "yuv420p10le turned, resized": (
        Source("yuv420p10le", 640, 480, rotation=270),
        Target(256, 320, torch.bfloat16, "hwc"),
    ),
    "rgb24 to bytes": (Source("rgb24", 640, 480), Target(480, 640)),
    "gray resized": (Source("gray", 640, 480), Target(960, 1280)),
    "gray to bytes": (Source("gray", 640, 480), Target(480, 640)),
    "p016le to bytes": (Source("p016le", 640, 480), Target(480, 640)),
    "yuv420p16le to float": (Source("yuv420p16le", 640, 480), Target(480, 640, torch.float32)),
    "gbrp10le to float": (Source("gbrp10le", 640, 480), Target(480, 640, torch.float32)),
}


class FakeDriver:
    """What Triton asks of a driver while it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def shortest_loop(cubin: bytes) -> int:
    """Machine instructions of the shortest loop, 0 if there is none: of several paths the fastest."""
    disassembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([disassembler, "-c", file.name], capture_output=True, text=True, check=True).stdout
    begins: dict[str, int] = {}
    lengths, count = [], 0
    for line in text.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            begins[label[1]] = count
        elif operation := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ +)?(\w+)", line):
            count += 1
            target = re.search(r"`\((\.L_\w+)\)", line)
            # The last instruction of every kernel jumps to itself.
            if operation[1] == "BRA" and target and count - begins.get(target[1], count) > 1:
                lengths.append(count - begins[target[1]])
    return min(lengths, default=0)


def counts(compiled: Any) -> dict[str, int]:
    """How many of the instructions that matter a compiled kernel has."""
    ptx = compiled.asm["ptx"]
    patterns = {
        "mma": r"mma\.sync",
        "one_byte_stores": r"st\.global\.b8",
        "vector_stores": r"st\.global\.(b32|v\d|b64)",
        "clamps": r"min\.xorsign",
        "packings": r"cvt\.pack\.sat\.u8",
    }
    return {name: len(re.findall(pattern, ptx)) for name, pattern in patterns.items()} | {
        "loop": shortest_loop(compiled.asm["cubin"])
    }


def main() -> None:
    """Compiles every variant."""
    driver.set_active(FakeDriver())
    results = {}
    table = MockTensor(torch.int64)
    for name, (source, target) in VARIANTS.items():
        results[name] = counts(convert._convert.warmup(table, grid=(1,), **convert.kernel_arguments(source, target)))
    sizes = {"last_code": 4095, "width": 640, "height": 480, "SHIFT": 0, "BLOCK_ROWS": 8, "BLOCK_COLUMNS": 128}
    for quarters in (0, 1):
        compiled = depth._look_up.warmup(table, MockTensor(torch.float32), QUARTERS=quarters, grid=(1,), **sizes)
        results[f"depth {quarters}"] = counts(compiled)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
