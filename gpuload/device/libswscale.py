"""The swscale that PyAV carries, called directly: PyAV's reformatter always allocates, and the copy out of what it
allocated costs as much as the conversion (640x480: 165 µs against 83 µs straight into the slot)."""

import ctypes
import sys
from functools import cache
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

BILINEAR = 2
"""SWS_BILINEAR, PyAV's default; without scaling it decides nothing."""
FULL_CHROMA_INPUT = 0x4000
"""SWS_FULL_CHR_H_INP: without it swscale takes every second column of blue and red when it scales down."""
ONE = 1 << 16
FULL_RANGE = 2
"""AVCOL_RANGE_JPEG."""
WIDTH_MULTIPLE = 16
"""swscale converts to planes in whole vectors: the last columns of other widths are garbage (swscale 9.5; rgb24 is
right), and what is written past the end of a row may be somebody else's slot."""

Pointers = ctypes.c_void_p * 4
Strides = ctypes.c_int * 4
Source = tuple["ctypes.Array[ctypes.c_void_p]", "ctypes.Array[ctypes.c_int]"]
"""Addresses and strides of a picture's planes."""


class PlanarScaler:
    """yuv420p pictures of one size, matrix and range to planar RGB at an address. Not thread-safe."""

    def __init__(self, swscale: ctypes.CDLL, formats: tuple[int, int], picture: av.VideoFrame, full: bool) -> None:
        self._swscale = swscale
        self._height, width = picture.height, picture.width
        size = width, self._height
        self._context = swscale.sws_getContext(*size, formats[0], *size, formats[1], BILINEAR, None, None, None)
        if not self._context:
            raise MemoryError(f"swscale has no context for {width}x{self._height}")
        table = swscale.sws_getCoefficients(int(picture.colorspace))
        swscale.sws_setColorspaceDetails(self._context, table, full, table, 0, 0, ONE, ONE)
        self._strides = Strides(width, width, width, 0)
        self._plane_bytes = width * self._height
        self._scale = swscale.sws_scale

    def convert(self, picture: av.VideoFrame, address: int) -> None:
        """Writes uint8 ``[3, H, W]``, red first, at ``address``."""
        self.write(source_of(picture), address)

    def write(self, source: Source, address: int) -> None:
        """The same of a picture whose ``source_of`` is known; it must still be alive."""
        green, blue = address + self._plane_bytes, address + 2 * self._plane_bytes
        target = Pointers(green, blue, address, None)  # gbrp's planes
        self._scale(self._context, source[0], source[1], 0, self._height, target, self._strides)

    def __del__(self) -> None:
        if context := getattr(self, "_context", None):
            self._swscale.sws_freeContext(context)


class PlanarResizer:
    """Planar RGB of one size to another by swscale's bilinear filter, which widens when it scales down: within 0.6 of
    a level of the exact value there, within 2 when it scales up; but the outermost rows and columns of a reduced
    picture repeat the edge instead of weighing less (up to 12 levels off on noise). Not thread-safe.
    """

    def __init__(self, swscale: ctypes.CDLL, gbrp: int, before: tuple[int, int], after: tuple[int, int]) -> None:
        self._swscale = swscale
        self._rows = before[0]
        flags = BILINEAR | FULL_CHROMA_INPUT
        self._context = swscale.sws_getContext(*before[::-1], gbrp, *after[::-1], gbrp, flags, None, None, None)
        if not self._context:
            raise MemoryError(f"swscale has no context from {before} to {after}")

    def resize(self, source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> None:
        """uint8 ``[3, h, w]`` to ``[3, H, W]``, dense in their last dimension. Up to 64 bytes behind each row of the
        target are written too."""
        pointers = [
            Pointers(*(a.ctypes.data + a.strides[0] * channel for channel in (1, 2, 0)), None) for a in (source, target)
        ]
        strides = [Strides(a.strides[1], a.strides[1], a.strides[1], 0) for a in (source, target)]
        self._swscale.sws_scale(self._context, pointers[0], strides[0], 0, self._rows, pointers[1], strides[1])

    def __del__(self) -> None:
        if context := getattr(self, "_context", None):
            self._swscale.sws_freeContext(context)


def planar_resizer(before: tuple[int, int], after: tuple[int, int]) -> PlanarResizer | None:
    """From (height, width) to (height, width); None where there is no library to call."""
    found = _libraries()
    return None if found is None else PlanarResizer(found[0], found[1][1], before, after)


def source_of(picture: av.VideoFrame) -> Source:
    """Where a planar picture of three planes lies."""
    y, u, v = picture.planes
    return (
        Pointers(y.buffer_ptr, u.buffer_ptr, v.buffer_ptr, None),
        Strides(y.line_size, u.line_size, v.line_size, 0),
    )


class PlanarScalers:
    """A scaler for each kind of picture that has come. Not thread-safe."""

    def __init__(self) -> None:
        self._scalers: dict[tuple[int, int, int, bool], PlanarScaler] = {}

    def of(self, picture: av.VideoFrame) -> PlanarScaler | None:
        """None where PyAV's reformatter has to do it: not 8-bit 4:2:0, an odd size, or no library to call.

        Only the unscaled 4:2:0 path is taken from here: it takes the nearest chroma sample, so that the chroma
        location, which PyAV does not show, decides nothing.
        """
        name = picture.format.name
        if name not in ("yuv420p", "yuvj420p") or picture.width % WIDTH_MULTIPLE or picture.height % 2:
            return None
        full = name == "yuvj420p" or int(picture.color_range) == FULL_RANGE
        key = picture.width, picture.height, int(picture.colorspace), full
        scaler = self._scalers.get(key)
        if scaler is None:
            found = _libraries()
            if found is None:
                return None
            scaler = self._scalers[key] = PlanarScaler(*found, picture, full)
        return scaler


def can_call_swscale() -> bool:
    """Whether pictures can go straight into their slot on this machine."""
    return _libraries() is not None


def swscale_path() -> Path | None:
    """The libswscale file that PyAV has mapped."""
    return _mapped("libswscale")


@cache
def _libraries() -> tuple[ctypes.CDLL, tuple[int, int]] | None:
    """libswscale and its numbers of (yuv420p, gbrp)."""
    paths = swscale_path(), _mapped("libavutil")
    if paths[0] is None or paths[1] is None:
        return None
    try:
        swscale, avutil = (ctypes.CDLL(str(path)) for path in paths)
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        size = [integer] * 3
        # Signatures: libswscale/swscale.h and libavutil/pixdesc.h.
        swscale.sws_getContext.restype = pointer
        swscale.sws_getContext.argtypes = [*size, *size, integer, pointer, pointer, pointer]
        swscale.sws_scale.argtypes = [pointer, pointer, pointer, integer, integer, pointer, pointer]
        swscale.sws_getCoefficients.restype = pointer
        swscale.sws_getCoefficients.argtypes = [integer]
        swscale.sws_setColorspaceDetails.argtypes = [pointer, pointer, integer, pointer, *size, integer]
        swscale.sws_freeContext.restype = None
        swscale.sws_freeContext.argtypes = [pointer]
        avutil.av_get_pix_fmt.argtypes = [ctypes.c_char_p]
        return swscale, (avutil.av_get_pix_fmt(b"yuv420p"), avutil.av_get_pix_fmt(b"gbrp"))
    except (OSError, AttributeError):  # built into PyAV, or of an age that lacks one of these
        return None


def _mapped(name: str) -> Path | None:
    """The file of a shared library that this process has loaded through PyAV."""
    assert VideoReformatter is not None  # its module is what loads libswscale
    if sys.platform == "linux":
        with open("/proc/self/maps") as maps:
            found = {line.split(maxsplit=5)[5].strip() for line in maps if f"/{name}" in line}
    else:
        found = {str(path) for path in (Path(av.__file__).parent / ".dylibs").glob(f"{name}*")}
    if len(found) > 1:  # DALI brings an FFmpeg of its own; that of PyAV's wheel lies in its own folder
        found = {path for path in found if Path(path).parent == Path(av.__file__).parent.parent / "av.libs"}
    return Path(found.pop()) if len(found) == 1 else None  # of two we cannot tell which is PyAV's
