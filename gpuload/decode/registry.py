"""Which backend decodes a stream and why: pure decisions from what the stream is and what the machine can."""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import av

from gpuload.device.nvdec import CODECS, Nvdec, NvdecCaps, NvdecMissing, NvdecTable, probe_caps
from gpuload.errors import ConfigError
from gpuload.index.chroma import may_interlace
from gpuload.index.video import VideoIndex
from gpuload.store.one_run import unsupported

AUTO = "auto"
BACKENDS = ("pyav", "torchcodec", "torchcodec-rgb", "dali")
RGB = frozenset({"torchcodec-rgb", "dali"})
"""Those that give 8-bit RGB as their library converts it, and are never chosen of our own accord."""
NAMES = {
    "mpeg1video": "MPEG-1", "mpeg2video": "MPEG-2", "mpeg4": "MPEG-4", "vc1": "VC-1", "h264": "H.264", "mjpeg": "MJPEG",
    "hevc": "HEVC", "vp8": "VP8", "vp9": "VP9", "av1": "AV1",
}  # fmt: skip
UNDOCUMENTED = {("h264", 88): "Extended", ("hevc", 9): "screen content", ("hevc", 11): "high-throughput screen content"}
"""Profiles that NVIDIA's NVDEC application note does not list and that cuvidGetDecoderCaps cannot be asked about."""
UNKNOWN_PROFILE = -99
"""FFmpeg's AV_PROFILE_UNKNOWN."""
MACROBLOCK = 16
HANDED_BACK = "decoded on CPU threads, converted on the GPU"
DALI_CPU = frozenset({"vp8", "vp9", "mjpeg"})
"""What DALI decodes without a GPU (documentation of ``ndd.decoders.video``, 2.4)."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a library hands to NVDEC, and gets back without loss."""

    name: str
    codecs: frozenset[str]
    chromas: frozenset[str]


TORCHCODEC = Reach("torchcodec", frozenset({"h264", "hevc", "av1", "vp9", "vp8"}), frozenset({"420", "444"}))
"""0.17: its list of codecs leaves out the rest of NVDEC's, and of NVDEC's surfaces it asks for NV12, P016 and the two
of 4:4:4 only (``BetaCudaDeviceInterface.cpp``, ``RawFrame.pixel_format``): 4:2:2 would lose half of its chroma."""
DALI = Reach("dali", frozenset({"h264", "hevc", "av1", "vp9", "vp8", "mjpeg"}), frozenset({"420"}))
"""2.4: codecs as its documentation lists them; it does not decode 4:4:4 (NVIDIA/DALI issue 6079)."""


@dataclass(frozen=True, slots=True)
class StreamKind:
    """What routing needs to know of a video: streams of equal kind are decoded the same way."""

    codec: str
    """FFmpeg's name."""
    pixel_format: str
    bits: int
    """Of a sample; 0: unknown."""
    chroma: str
    """``400``, ``420``, ``422`` or ``444``; empty: none of these (RGB, with alpha, unknown)."""
    width: int
    """As stored, before rotation."""
    height: int
    profile: int = UNKNOWN_PROFILE
    """As in the codec's own standard (FFmpeg's AV_PROFILE)."""
    is_depth: bool = False
    """A map of distances: every bit of its luma counts."""
    may_interlace: bool = False
    """Pictures may be interlaced, which only the decoder's flag of each tells."""
    no_container: str = ""
    """Why its packets fit into no MP4 of their own, which torchcodec and DALI take; empty: they do."""

    def __str__(self) -> str:
        return f"{name_of(self.codec)} {self.pixel_format or 'of unknown pixel format'} {self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Machine:
    """What can be used here. A plain value; ``find_machine`` makes one."""

    unusable: Mapping[str, str]
    """Backend to why it cannot be used here, empty where it can. One that is not listed was not looked at."""
    nvdec: Nvdec

    def obstacle(self, backend: str) -> str:
        """Why ``backend`` cannot be used; empty: it can."""
        return self.unusable.get(backend, f"{backend} was not looked for")


@dataclass(frozen=True, slots=True)
class Choice:
    """What decodes a stream."""

    backend: str
    device: Literal["cpu", "cuda"]
    """Where pictures are decoded."""
    reason: str


def name_of(codec: str) -> str:
    """``H.264`` for ``h264``; FFmpeg's own name where there is no other."""
    return NAMES.get(codec, codec)


def kind_of(video: VideoIndex, *, is_depth: bool = False) -> StreamKind:
    """The kind of an indexed video; whether it is a depth map the dataset knows."""
    bits, chroma = _samples_of(video.pixel_format)
    return StreamKind(
        codec=video.codec,
        pixel_format=video.pixel_format,
        bits=bits,
        chroma=chroma,
        width=video.width,
        height=video.height,
        profile=_profile_of(video.codec, video.extradata[0] if video.extradata else b""),
        is_depth=is_depth,
        may_interlace=any(may_interlace(video.codec, extradata) for extradata in video.extradata or (b"",)),
        no_container=next(filter(None, (unsupported(video.codec, e) for e in video.extradata or (b"",))), ""),
    )


def choose(kind: StreamKind, *, device: str, backend: str, machine: Machine) -> Choice:
    """What decodes streams of ``kind`` for batches on ``device``; the reason is part of the answer.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        backend: ``auto``, or the one to use whether or not it is the best.

    Raises:
        ConfigError: the backend that was asked for cannot decode this stream there, or there is no such backend.
    """
    where = device.partition(":")[0]
    if where not in ("cpu", "cuda"):
        raise ConfigError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if backend == AUTO:
        return _choose_best(kind, where, machine)
    if backend not in BACKENDS:
        raise ConfigError(f"backend must be one of {', '.join((AUTO, *BACKENDS))}, got {backend!r}")
    obstacle = machine.obstacle(backend) or _obstacle_of(backend, kind, where, machine)
    if obstacle:
        best = _choose_best(kind, where, machine)
        raise ConfigError(
            f"backend {backend!r} cannot decode {kind} for device {device!r}: {obstacle}; "
            f"backend 'auto' takes {best.backend} on the {_label(best.device)}"
        )
    asked = f"backend {backend!r} was asked for"
    if backend == "pyav":
        return Choice(backend, "cpu", f"{asked}; {HANDED_BACK}" if where == "cuda" else f"{asked}, device is cpu")
    if where == "cpu":
        return Choice(backend, "cpu", f"{asked}, device is cpu")
    return Choice(backend, "cuda", f"{asked}; {_praise(kind, machine)}")


def find_machine(*, device: str, backend: str) -> Machine:
    """Look at what ``choose`` could need for these settings, and at nothing else.

    Imports the library of a backend that may be chosen, and for CUDA asks the driver (``probe_caps``): it takes up to
    seconds, so keep the result. Never raises for what is missing: the machine says why. Plain ``cuda`` is device 0.
    """
    where, _, index = device.partition(":")
    wanted = {"pyav", backend, "torchcodec" if where == "cuda" else "pyav"} & set(BACKENDS)
    nvdec = probe_caps(int(index or 0)) if where == "cuda" else NvdecMissing("no device", f"device is {device}")
    return Machine({name: _unusable(name, device) for name in sorted(wanted)}, nvdec)


def _choose_best(kind: StreamKind, where: str, machine: Machine) -> Choice:
    if where == "cpu":
        return Choice("pyav", "cpu", "device is cpu")
    # Never DALI of our own accord: it gives RGB, so what arrives is not exact.
    obstacle = _obstacle_of("torchcodec", kind, where, machine) or machine.obstacle("torchcodec")
    if obstacle:
        return Choice("pyav", "cpu", f"{obstacle}; {HANDED_BACK}")
    return Choice("torchcodec", "cuda", _praise(kind, machine))


def _obstacle_of(backend: str, kind: StreamKind, where: str, machine: Machine) -> str:
    """Why a library that works here cannot decode this kind; empty: it can."""
    if backend == "pyav":
        return ""
    if kind.no_container:
        return f"{backend} takes packets in a container only, and {kind.no_container}"
    if kind.may_interlace:
        return f"its pictures may be interlaced, and {backend} does not tell which are"
    if backend in RGB and kind.is_depth:
        return f"{backend} gives 8-bit RGB, which cannot hold a depth map"
    if where == "cpu" and backend != "dali":
        return ""
    if where == "cpu":
        known = ", ".join(sorted(name_of(codec) for codec in DALI_CPU))
        return "" if kind.codec in DALI_CPU else f"DALI decodes {known} without a GPU, not {name_of(kind.codec)}"
    return _nvdec_obstacle(kind, machine.nvdec) or _reach_obstacle(kind, DALI if backend == "dali" else TORCHCODEC)


def _nvdec_obstacle(kind: StreamKind, nvdec: Nvdec) -> str:
    """Why NVDEC cannot decode this kind with nothing lost; empty: it can."""
    if kind.is_depth:
        samples = kind.pixel_format or "of unknown format"
        return f"depth maps ({samples}) are kept from NVDEC: a wrong bit is a wrong distance"
    if not kind.bits:
        return f"the pixel format {kind.pixel_format!r} is unknown"
    if not kind.chroma:
        return f"NVDEC gives no {kind.pixel_format} pictures"
    if kind.codec not in CODECS:
        return f"NVDEC has no {name_of(kind.codec)} decoder"
    if isinstance(nvdec, NvdecMissing):
        return nvdec.reason
    caps = nvdec.of(kind.codec, kind.chroma, kind.bits)
    if not caps.supported:
        return _unsupported(kind, nvdec)
    return _size_obstacle(kind, caps) or _profile_obstacle(kind) or _surface_obstacle(kind, caps)


def _unsupported(kind: StreamKind, table: NvdecTable) -> str:
    name = name_of(kind.codec)
    others = [_samples(caps.chroma, caps.bits) for caps in table.caps if caps.codec == kind.codec]
    if not others:
        return f"the driver reports no {name} decoder on {table.device}"
    wanted = _samples(kind.chroma, kind.bits)
    return f"the driver reports {name} decoders on {table.device} for {', '.join(others)}, not for {wanted}"


def _size_obstacle(kind: StreamKind, caps: NvdecCaps) -> str:
    """The driver means coded sizes, which round ours up: near the smallest size we may say no where it says yes."""
    name, size = name_of(kind.codec), f"{kind.width}x{kind.height}"
    if kind.width < caps.min_width or kind.height < caps.min_height:
        return f"{size} is below NVDEC's smallest {name} picture {caps.min_width}x{caps.min_height}"
    if kind.width > caps.max_width or kind.height > caps.max_height:
        return f"{size} is above NVDEC's largest {name} picture {caps.max_width}x{caps.max_height}"
    macroblocks = math.ceil(kind.width / MACROBLOCK) * math.ceil(kind.height / MACROBLOCK)
    if macroblocks > caps.max_macroblocks:
        return f"{size} is {macroblocks} macroblocks, above the {caps.max_macroblocks} of NVDEC's {name} decoder"
    return ""


def _profile_obstacle(kind: StreamKind) -> str:
    profile = UNDOCUMENTED.get((kind.codec, kind.profile))
    return f"NVIDIA documents no {name_of(kind.codec)} {profile} profile for NVDEC" if profile else ""


def _surface_obstacle(kind: StreamKind, caps: NvdecCaps) -> str:
    """NVDEC may be able to decode and yet put out fewer bits or less chroma than the stream has."""
    # cudaVideoSurfaceFormat, of 8 bits and of more: NV12 and P016, NV16 and P216, YUV444 and YUV444_16Bit.
    surfaces = {"400": (0, 1), "420": (0, 1), "422": (4, 5), "444": (2, 3)}[kind.chroma]
    if caps.output_mask and not caps.output_mask >> surfaces[kind.bits > 8] & 1:
        return f"NVDEC's {name_of(kind.codec)} decoder puts out no whole {_samples(kind.chroma, kind.bits)} pictures"
    return ""


def _reach_obstacle(kind: StreamKind, reach: Reach) -> str:
    if kind.codec not in reach.codecs:
        return f"{reach.name} hands no {name_of(kind.codec)} to NVDEC"
    if kind.chroma not in reach.chromas:
        return f"{reach.name} takes no whole {_samples(kind.chroma, kind.bits)} pictures from NVDEC"
    return ""


def _praise(kind: StreamKind, machine: Machine) -> str:
    assert isinstance(machine.nvdec, NvdecTable)  # or NVDEC would have had an obstacle
    engines = machine.nvdec.of(kind.codec, kind.chroma, kind.bits).engines
    count = f", {engines} engine{'s' if engines > 1 else ''}" if engines else ""
    what = f"{name_of(kind.codec)} {_samples(kind.chroma, kind.bits)} at {kind.width}x{kind.height}"
    return f"NVDEC of {machine.nvdec.device} decodes {what}{count}"


def _samples(chroma: str, bits: int) -> str:
    """``4:2:0 8-bit``."""
    return f"{':'.join(chroma)} {bits}-bit"


def _label(device: str) -> str:
    return "CPU" if device == "cpu" else "GPU"


def _samples_of(pixel_format: str) -> tuple[int, str]:
    """``(bits, chroma)`` as in ``StreamKind``."""
    side = 64
    try:
        form = av.VideoFormat(pixel_format, side, side)
    except ValueError:
        return 0, ""
    parts = form.components
    if not parts:
        return 0, ""
    bits = parts[0].bits
    if form.is_rgb or form.has_palette or any(part.is_alpha for part in parts):
        return bits, ""
    if len(parts) == 1:
        return bits, "400"
    steps = side // parts[1].width, side // parts[1].height
    return bits, {(2, 2): "420", (2, 1): "422", (1, 1): "444"}.get(steps, "")


def _profile_of(codec: str, extradata: bytes) -> int:
    """From the configuration record of ISO/IEC 14496-15 (mp4, mkv); other containers do not tell without decoding."""
    if len(extradata) > 1 and extradata[0] == 1:
        if codec == "h264":
            return extradata[1]
        if codec == "hevc":
            return extradata[1] & 31
    return UNKNOWN_PROFILE


def _unusable(backend: str, device: str) -> str:
    """What the backend's own module says of this process; empty: it can be used."""
    if backend == "pyav":
        return ""
    library, _, _ = backend.partition("-")
    unusable: Callable[..., str | None] = importlib.import_module(f"gpuload.decode.{library}").unusable
    return unusable(device, in_helper=device == "cpu") or ""
