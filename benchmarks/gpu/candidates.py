"""The ways of decoding that are compared, by name."""

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial

import torch

from benchmarks.gpu.contenders import PyavCudaDecoder, PynvDecoder
from gpuload.decode.base import Decoder
from gpuload.decode.create import create
from gpuload.decode.registry import BACKENDS, Machine, choose, find_machine, kind_of
from gpuload.errors import ConfigError
from gpuload.index.video import VideoIndex

FACTORIES: Mapping[str, Callable[[str], Decoder]]


FACTORIES = {
    **{backend: partial(create, backend) for backend in BACKENDS if backend != "pyav"},
    "pyav_cuda": PyavCudaDecoder,
    "pynvvideocodec": PynvDecoder,
}
"""gpuload's own backends, and two contenders."""


def make(name: str, device: str) -> Decoder:
    """A new decoder.

    Raises:
        Exception: whatever its library raises where it cannot be used.
    """
    return FACTORIES[name](device)


def why_not(name: str, device: str) -> str:
    """Why a candidate cannot be used here at all; empty: it may."""
    if name == "pynvvideocodec":
        if device == "cpu":
            return "it decodes on a GPU only"
        return "" if importlib.util.find_spec("PyNvVideoCodec") else "PyNvVideoCodec is not installed"
    if name == "pyav_cuda":
        return ""
    return find_machine(device=device, backend=name).obstacle(name)


def obstacle(name: str, video: VideoIndex, device: str, machine: Machine) -> str:
    """Why a candidate cannot decode a video here, by what the driver says; empty: it should."""
    backend = name if name in BACKENDS else "torchcodec"
    usable = Machine({**machine.unusable, backend: ""}, machine.nvdec)
    try:
        choose(kind_of(video), device=device, backend=backend, machine=usable)
    except ConfigError as error:
        return str(error)
    return ""


def synchronize(device: str) -> None:
    """Waits for the GPU; nothing on the CPU."""
    if device != "cpu":
        torch.cuda.synchronize(device)
