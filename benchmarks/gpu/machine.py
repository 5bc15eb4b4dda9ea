"""The machine: its GPU, what the driver says of it, which libraries are there."""

import dataclasses
import importlib
import shutil
import subprocess

import torch

from benchmarks.gpu.setting import Setting, first_line, say
from gpuload.decode.registry import BACKENDS, find_machine
from gpuload.device.nvdec import NvdecTable

ASKED = "name,driver_version,memory.total,clocks.max.sm,clocks.sm,clocks.mem,power.limit"
MODULES = ("torch", "triton", "av", "torchcodec", "PyNvVideoCodec", "nvidia.dali", "numpy", "pyarrow")


def measure(setting: Setting) -> None:
    """Everything that the other sections' results depend on."""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        say("nvidia_smi", dict(zip(ASKED.split(","), done.stdout.strip().split(", "), strict=False)))
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        say("gpu", {"name": properties.name, "sms": properties.multi_processor_count, "cuda": torch.version.cuda})
    else:
        say("gpu", {"name": "none", "cuda": torch.version.cuda})
    found = find_machine(device=setting.device, backend="dali")
    nvdec = found.nvdec
    if isinstance(nvdec, NvdecTable):
        say("nvdec", {"device": nvdec.device, "driver": nvdec.driver})
        for caps in nvdec.caps:
            say(f"nvdec {caps.codec} {caps.chroma} {caps.bits}", dataclasses.asdict(caps))
    else:
        say("nvdec", dataclasses.asdict(nvdec))
    say("unusable", {name: found.obstacle(name) for name in BACKENDS if name in found.unusable})
    say("versions", {name: version_of(name) for name in MODULES})


def version_of(name: str) -> str:
    """Of an importable module; or why it cannot be imported."""
    if name == "PyNvVideoCodec" and not torch.cuda.is_available():
        return "not imported: it ends a process that has no GPU"
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - any library's any failure is the answer
        return first_line(error)
    return str(getattr(module, "__version__", "imports"))
