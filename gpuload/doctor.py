"""What this machine offers: versions, devices, which FFmpeg each library maps and which backends can be used."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

import torch

from gpuload import ffmpeg
from gpuload.cores import usable_cores
from gpuload.decode.registry import name_of
from gpuload.device.libswscale import can_call_swscale, swscale_path
from gpuload.device.nvdec import CHROMAS, Nvdec, NvdecCaps, NvdecMissing, probe_caps

LIBRARIES = ("gpuload", "torch", "av", "numpy", "pyarrow", "pillow", "torchcodec", "nvidia-dali-cuda130", "triton")
TIMEOUT_S = 120.0
PROBE = """
import importlib, json, sys
report = {"error": None, "maps": []}
try:
    module = importlib.import_module(sys.argv[1])
    if getattr(module, "ffmpeg_major_version", 0) is None:  # torchcodec imports without FFmpeg, then decodes nothing
        raise ImportError("it finds no FFmpeg 4 to 9 shared libraries (libavcodec and its kin) that it can load")
except BaseException as error:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    report["error"] = type(error).__name__ + ": " + (lines[0] if lines else "no message")
try:
    with open("/proc/self/maps") as maps:
        report["maps"] = sorted({line.split(None, 5)[5].strip() for line in maps if "libavcodec" in line})
except OSError:
    report["maps"] = None
print("gpuload-probe " + json.dumps(report))
"""
"""Imports argv[1] and says what came of it. Runs in a process of its own: a library that crashes takes nothing along,
and the libavcodec that it maps is its own, not the one that gpuload had loaded before."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What importing one library in a fresh process showed."""

    error: str
    """Empty where the import worked."""
    libavcodec: tuple[str, ...]
    """Paths of the FFmpeg libraries that it mapped; ``("unknown: …",)`` where the system does not tell."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to decode."""

    name: str
    usable: bool
    reason: str
    """Why it can or cannot be used."""
    libavcodec: tuple[str, ...]
    in_scripts: str = ""
    """What is otherwise in a script that the shell starts, which gpuload has not given a search path."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that ``gpuload doctor`` prints."""

    system: str
    cores: int
    versions: tuple[tuple[str, str], ...]
    devices: tuple[tuple[str, str], ...]
    """Device and what there is to say about it; the CPU is always the first, several lines may tell of one."""
    converter: str
    """How decoded pictures become RGB on the CPU."""
    backends: tuple[Backend, ...]


def diagnose() -> Diagnosis:
    """Look, do not change anything. Imports each decoding library in a process of its own: takes seconds."""
    return Diagnosis(
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        cores=usable_cores(),
        versions=tuple((library, version_of(library)) for library in LIBRARIES),
        devices=find_devices(),
        converter=describe_converter(),
        backends=(
            judge("pyav", module="av", package="av", decodes="on the CPU"),
            judge("torchcodec", module="torchcodec", package="torchcodec>=0.17", decodes="on the CPU"),
            judge(
                "dali",
                module="nvidia.dali",
                package="nvidia-dali-cuda130>=2.4",
                decodes="VP8, VP9 and MJPEG on the CPU",
            ),
        ),
    )


def describe_converter() -> str:
    """How decoded pictures become RGB on the CPU."""
    if not can_call_swscale():
        return "swscale through PyAV, with a copy of each picture: no libswscale was found to call directly"
    return f"swscale, straight into the batch: {swscale_path()}"


def version_of(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def find_devices() -> tuple[tuple[str, str], ...]:
    """The CPU and every CUDA device with what its NVDEC decodes, or why there is none."""
    found = [("cpu", "decodes everything that PyAV's FFmpeg can")]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            text = f"{torch.cuda.get_device_name(i)}; `gpuload info PATH` says which videos it decodes"
            found += [(f"cuda:{i}", text), *describe_nvdec(f"cuda:{i}", probe_caps(i))]
        return tuple(found)
    built = torch.version.cuda
    reason = f"torch is built for CUDA {built}, but finds no usable GPU" if built else "torch is a build without CUDA"
    # The driver may know of a GPU that torch cannot use, or say better than torch why there is none.
    return (*found, ("cuda", f"none: {reason}"), *describe_nvdec("cuda", probe_caps(0)))


def describe_nvdec(device: str, found: Nvdec) -> tuple[tuple[str, str], ...]:
    """A line for each codec and range of sizes: chroma and depths, sizes, engines. Or one line with the reason."""
    label = f"{device} NVDEC"
    if isinstance(found, NvdecMissing):
        return ((label, f"none: {found.reason}"),)
    groups: dict[tuple[object, ...], list[NvdecCaps]] = {}
    for caps in found.caps:
        sizes = caps.min_width, caps.min_height, caps.max_width, caps.max_height, caps.max_macroblocks
        groups.setdefault((caps.codec, sizes, caps.engines), []).append(caps)
    lines = tuple((label, describe_alike(alike)) for alike in groups.values())
    return lines or ((label, f"none: the driver lists no decoder on {found.device}"),)


def describe_alike(alike: list[NvdecCaps]) -> str:
    """``HEVC 4:2:0 8, 10, 12-bit, 4:4:4 8-bit; 144x144 to 8192x8192, 262144 macroblocks; 7 engines``."""
    first = alike[0]
    samples = []
    for chroma in CHROMAS:
        if bits := [str(caps.bits) for caps in alike if caps.chroma == chroma]:
            samples.append(f"{':'.join(chroma)} {', '.join(bits)}-bit")
    sizes = f"{first.min_width}x{first.min_height} to {first.max_width}x{first.max_height}"
    engines = f"{first.engines} engine{'s' if first.engines > 1 else ''}" if first.engines else "engines not told"
    return f"{name_of(first.codec)} {', '.join(samples)}; {sizes}, {first.max_macroblocks} macroblocks; {engines}"


def judge(name: str, *, module: str, package: str, decodes: str) -> Backend:
    """Whether gpuload can decode with library ``module``, and why; ``decodes``: what without a GPU."""
    if not installed(module):
        return Backend(name, False, f"{module} is not installed; install it with: pip install '{package}'", ())
    # torchcodec as gpuload's commands and decode processes start it.
    probe = probe_import(module, prepared() if name == "torchcodec" else None)
    if probe.error:
        return Backend(name, False, f"{module} cannot be loaded: {probe.error}", probe.libavcodec)
    in_scripts = scripts_differ(module, probe) if name == "torchcodec" else ""
    if name != "pyav" and torch.cuda.is_available():
        decodes = f"{decodes}, and what NVDEC decodes (see there)"
    return Backend(name, True, f"{module} imports and decodes {decodes}", probe.libavcodec, in_scripts)


def prepared() -> dict[str, str] | None:
    try:
        return ffmpeg.environment(os.environ)
    except OSError:  # the cache folder cannot be written: no links
        return None


def scripts_differ(module: str, probe: Probe) -> str:
    """What a script of the user's own gets instead, and what to do; empty if it gets the same."""
    shell = {**os.environ, ffmpeg.VARIABLE: os.environ.get(ffmpeg.OF_SHELL, os.environ.get(ffmpeg.VARIABLE, ""))}
    theirs = probe_import(module, shell)
    if (theirs.error, theirs.libavcodec) == (probe.error, probe.libavcodec):
        return ""
    found = f"another FFmpeg, {', '.join(theirs.libavcodec)}" if not theirs.error else theirs.error
    return f'in your own scripts: {found}; run eval "$(gpuload env)" in the shell first'


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def probe_import(module: str, environment: Mapping[str, str] | None = None) -> Probe:
    """Import ``module`` in a fresh interpreter, at most ``TIMEOUT_S``; ``environment``: None is this process's."""
    try:
        run = subprocess.run(
            [sys.executable, "-P", "-c", PROBE, module],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return Probe(f"still not done after {TIMEOUT_S:.0f} s", ())
    for line in run.stdout.splitlines():
        if line.startswith("gpuload-probe "):
            report = json.loads(line.removeprefix("gpuload-probe "))
            maps = ["unknown: this system has no /proc/self/maps"] if report["maps"] is None else report["maps"]
            return Probe(report["error"] or "", tuple(maps))
    return Probe(f"the process ended with status {run.returncode}", ())
