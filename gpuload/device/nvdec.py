"""What the NVIDIA driver says that NVDEC decodes, asked through libnvcuvid; or why nobody can be asked."""

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

from gpuload.errors import ConfigError

# cudaVideoCodec of NVIDIA's cuviddec.h under FFmpeg's names.
CODECS = {
    "mpeg1video": 0, "mpeg2video": 1, "mpeg4": 2, "vc1": 3, "h264": 4, "mjpeg": 5, "hevc": 8, "vp8": 9, "vp9": 10,
    "av1": 11,
}  # fmt: skip
CHROMAS = ("400", "420", "422", "444")
"""In the order of cudaVideoChromaFormat."""
DEPTHS = (8, 10, 12)
NO_DEVICE = 100
STUB_LIBRARY = 34
TOO_OLD = frozenset({35, 803, 804})
"""cuInit's words for a driver that does not fit: insufficient driver, driver mismatch, no forward compatibility."""
CONTAINER = "in a container ask for the driver capability: NVIDIA_DRIVER_CAPABILITIES=video,compute,utility, or all"

Cause = Literal["no driver", "no device", "no such device", "no libnvcuvid", "driver too old", "driver error"]


@dataclass(frozen=True, slots=True)
class NvdecCaps:
    """What the driver says of one codec, chroma subsampling and bit depth."""

    codec: str
    """FFmpeg's name."""
    chroma: str
    bits: int
    supported: bool = False
    engines: int = 0
    """NVDEC engines that decode it; 0: the driver does not say (old ones do not)."""
    min_width: int = 0
    min_height: int = 0
    max_width: int = 0
    max_height: int = 0
    max_macroblocks: int = 0
    """Of 16x16 pixels."""
    output_mask: int = 0
    """Bit ``n``: pictures can come out as cudaVideoSurfaceFormat ``n``; 0: not said."""


@dataclass(frozen=True, slots=True)
class NvdecTable:
    """Everything that NVDEC of one device decodes. A plain value: it may be pickled, or kept as JSON."""

    device: str
    """``NVIDIA H200``, for instance."""
    driver: str
    """Highest CUDA version that the driver serves, ``13.0`` for instance."""
    source: str
    """Where the numbers come from."""
    caps: tuple[NvdecCaps, ...]
    """What is supported; what is not listed is not."""

    def of(self, codec: str, chroma: str, bits: int) -> NvdecCaps:
        """One entry; unsupported where the table has none."""
        for caps in self.caps:
            if (caps.codec, caps.chroma, caps.bits) == (codec, chroma, bits):
                return caps
        return NvdecCaps(codec, chroma, bits)


@dataclass(frozen=True, slots=True)
class NvdecMissing:
    """Why there is no table."""

    cause: Cause
    reason: str
    """A sentence fragment with what to do about it."""


Nvdec = NvdecTable | NvdecMissing


def to_json(found: Nvdec) -> str:
    """Text that ``from_json`` turns into the same value."""
    return json.dumps(asdict(found), indent=1)


def from_json(text: str) -> Nvdec:
    """A recorded answer of ``probe_caps``.

    Raises:
        ConfigError: the text is no such record.
    """
    try:
        record = json.loads(text)
        if "cause" in record:
            return NvdecMissing(**record)
        return NvdecTable(**{**record, "caps": tuple(NvdecCaps(**caps) for caps in record["caps"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"not a record of NVDEC's capabilities: {type(error).__name__}: {error}") from error


class _DecodeCaps(ctypes.Structure):
    """CUVIDDECODECAPS of NVIDIA's cuviddec.h: 88 bytes. Drivers that are older than a field leave it zero."""

    _fields_ = (
        ("codec", ctypes.c_int),
        ("chroma", ctypes.c_int),
        ("bits_minus_8", ctypes.c_uint),
        ("reserved1", ctypes.c_uint * 3),
        ("supported", ctypes.c_ubyte),
        ("engines", ctypes.c_ubyte),
        ("output_mask", ctypes.c_ushort),
        ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint),
        ("max_macroblocks", ctypes.c_uint),
        ("min_width", ctypes.c_ushort),
        ("min_height", ctypes.c_ushort),
        ("histogram", ctypes.c_ubyte),
        ("counter_bits", ctypes.c_ubyte),
        ("histogram_bins", ctypes.c_ushort),
        ("reserved3", ctypes.c_uint * 10),
    )


class _Refused(Exception):
    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.missing = NvdecMissing(cause, reason)


def probe_caps(device_index: int) -> Nvdec:
    """Ask the driver about every codec, chroma and depth on CUDA device ``device_index`` (torch's number).

    Uses the device's primary context, which is torch's too: none is added to the process, and the one current on the
    calling thread is the same before and after. It initialises CUDA, so it must not run in a process that forks
    CUDA workers later. Takes milliseconds beside an existing context, a context's making otherwise: keep the result.
    """
    try:
        cuda = _load("libcuda.so.1", "no driver", "install the NVIDIA driver, or start the container with GPUs")
        device = _find_device(cuda, device_index)
        nvcuvid = _load("libnvcuvid.so.1", "no libnvcuvid", CONTAINER)
        ask = _symbol(nvcuvid, "cuvidGetDecoderCaps")
        name, version = ctypes.create_string_buffer(256), ctypes.c_int()
        _call(cuda, "cuDeviceGetName", name, len(name), device)
        _call(cuda, "cuDriverGetVersion", ctypes.byref(version))
        with _primary_context(cuda, device):
            caps = _ask_all(cuda, ask)
    except _Refused as refusal:
        return refusal.missing
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return NvdecTable(name.value.decode(errors="replace"), driver, "cuvidGetDecoderCaps on this machine", caps)


def _load(library: str, cause: Cause, remedy: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library)
    except OSError as error:
        raise _Refused(cause, f"{library} cannot be loaded ({error}); {remedy}") from error


def _find_device(cuda: ctypes.CDLL, index: int) -> ctypes.c_int:
    """CUDA's handle of device ``index``."""
    code = _symbol(cuda, "cuInit")(0)
    said = f"cuInit: {_name_of(cuda, code)}" if code else ""
    if code == NO_DEVICE:
        raise _Refused("no device", f"the NVIDIA driver shows this process no GPU ({said})")
    if code == STUB_LIBRARY:
        raise _Refused("no driver", f"libcuda.so.1 is the CUDA toolkit's stub, not a driver ({said})")
    if code in TOO_OLD:
        raise _Refused("driver too old", f"the NVIDIA driver does not fit ({said}); update it")
    if code:
        raise _Refused("driver error", f"the NVIDIA driver does not start ({said})")
    count, device = ctypes.c_int(), ctypes.c_int()
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if not 0 <= index < count.value:
        raise _Refused("no such device", f"there is no CUDA device {index}: the driver shows {count.value}")
    _call(cuda, "cuDeviceGet", ctypes.byref(device), index)
    return device


@contextmanager
def _primary_context(cuda: ctypes.CDLL, device: ctypes.c_int) -> Iterator[None]:
    """The device's primary context is current on this thread."""
    context, popped = ctypes.c_void_p(), ctypes.c_void_p()
    for needed in ("cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2"):
        _symbol(cuda, needed)  # before anything has to be undone
    _call(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        _call(cuda, "cuCtxPushCurrent_v2", context)
        try:
            yield
        finally:
            _call(cuda, "cuCtxPopCurrent_v2", ctypes.byref(popped))
    finally:
        _call(cuda, "cuDevicePrimaryCtxRelease_v2", device)


def _ask_all(cuda: ctypes.CDLL, ask: "ctypes._NamedFuncPointer") -> tuple[NvdecCaps, ...]:
    """Supported combinations. A driver refuses to hear of codecs younger than itself: that means unsupported."""
    found, code, heard = [], 0, False
    for codec, number in CODECS.items():
        for chroma in CHROMAS:
            for bits in DEPTHS:
                said = _DecodeCaps(codec=number, chroma=CHROMAS.index(chroma), bits_minus_8=bits - 8)
                code = ask(ctypes.byref(said))
                heard |= code == 0
                if code == 0 and said.supported:
                    low, high = (said.min_width, said.min_height), (said.max_width, said.max_height)
                    limits = *low, *high, said.max_macroblocks
                    found.append(NvdecCaps(codec, chroma, bits, True, said.engines, *limits, said.output_mask))
    if not heard:
        said_of_last = f"cuvidGetDecoderCaps: {_name_of(cuda, code)}"
        raise _Refused("driver error", f"the driver does not answer for NVDEC ({said_of_last})")
    return tuple(found)


def _call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    code = _symbol(library, name)(*arguments)
    if code:
        raise _Refused("driver error", f"the NVIDIA driver fails ({name}: {_name_of(library, code)})")


def _symbol(library: ctypes.CDLL, name: str) -> "ctypes._NamedFuncPointer":
    try:
        return getattr(library, name)  # type: ignore[no-any-return]
    except AttributeError as error:
        raise _Refused("driver too old", f"the NVIDIA driver has no {name}; update it") from error


def _name_of(cuda: ctypes.CDLL, code: int) -> str:
    """``CUDA_ERROR_NO_DEVICE``, for instance, or the number where the driver has no name for it."""
    name = ctypes.c_char_p()
    if _symbol(cuda, "cuGetErrorName")(code, ctypes.byref(name)) or not name.value:
        return f"error {code}"
    return name.value.decode(errors="replace")
