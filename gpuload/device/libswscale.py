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

from gpuload.picture import MATRICES

BILINEAR = 2
"""SWS_BILINEAR, PyAV's default; without scaling it decides nothing."""
ACCURATE_ROUNDING = 0x40000
"""SWS_ACCURATE_RND: without it a flat picture may come out a level darker."""
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
        self.padding = -picture.width % WIDTH_MULTIPLE
        """Columns of garbage that are written at the end of each row."""
        self._height, width = picture.height, picture.width + self.padding
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
        """Writes uint8 ``[3, H, W + padding]``, red first, at ``address``."""
        self.write(source_of(picture), address)

    def write(self, source: Source, address: int) -> None:
        """The same of a picture whose ``source_of`` is known; it must still be alive."""
        green, blue = address + self._plane_bytes, address + 2 * self._plane_bytes
        target = Pointers(green, blue, address, None)  # gbrp's planes
        self._scale(self._context, source[0], source[1], 0, self._height, target, self._strides)

    def __del__(self) -> None:
        if context := getattr(self, "_context", None):
            self._swscale.sws_freeContext(context)


class PlaneResizer:
    """Planes of one size to another by swscale's bilinear filter, which widens when it scales down. Not thread-safe.

    On noise within 0.8 of a level of the exact value where both sides are halved or more, within 1.2 from 1.3 times
    on, within 2.3 below that, within 2.9 where it scales up; but the outermost rows and columns of a reduced picture
    repeat the edge instead of weighing less (up to 14 levels off). Each plane goes as a grey picture: as planar RGB,
    swscale would go through luma and chroma, at half as much again. Its sums overflow where 50 rows and more become
    one: up to 15 levels off.
    """

    def __init__(self, swscale: ctypes.CDLL, gray: int, before: tuple[int, int], after: tuple[int, int]) -> None:
        self._swscale = swscale
        self._rows = before[0]
        flags = BILINEAR | ACCURATE_ROUNDING
        self._context = swscale.sws_getContext(*before[::-1], gray, *after[::-1], gray, flags, None, None, None)
        if not self._context:
            raise MemoryError(f"swscale has no context from {before} to {after}")

    def resize(self, source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> None:
        """uint8 ``[n, h, w]`` to ``[n, H, W]``, dense in their last dimension. Up to 64 bytes behind each row of the
        target are written too."""
        begins, (step, stride, _) = source.ctypes.data, source.strides
        ends, (target_step, target_stride, _) = target.ctypes.data, target.strides
        strides, target_strides = Strides(stride, 0, 0, 0), Strides(target_stride, 0, 0, 0)
        for plane in range(len(source)):
            here = Pointers(begins + plane * step, None, None, None)
            there = Pointers(ends + plane * target_step, None, None, None)
            self._swscale.sws_scale(self._context, here, strides, 0, self._rows, there, target_strides)

    def __del__(self) -> None:
        if context := getattr(self, "_context", None):
            self._swscale.sws_freeContext(context)


def plane_resizer(before: tuple[int, int], after: tuple[int, int]) -> PlaneResizer | None:
    """From (height, width) to (height, width); None where there is no library to call."""
    found = _libraries()
    return None if found is None else PlaneResizer(found[0], found[1][2], before, after)


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
        """None where PyAV's reformatter has to do it, or refuse it: not 8-bit 4:2:0, an odd height, interlaced, rows
        without room to be read in whole vectors, a matrix that this interface of swscale takes for another, or no
        library to call.

        Only the unscaled 4:2:0 path is taken from here: it takes the nearest chroma sample, so that the chroma
        location, which PyAV does not show, decides nothing.
        """
        name = picture.format.name
        if name not in ("yuv420p", "yuvj420p") or picture.height % 2:
            return None
        if padding := -picture.width % WIDTH_MULTIPLE:
            room = (picture.width + padding, (picture.width + padding) // 2)
            y, u, v = picture.planes
            if y.line_size < room[0] or min(u.line_size, v.line_size) < room[1]:
                return None  # what is read behind a row would be another one, or nobody's
        if picture.interlaced_frame:  # swscale's newer interface, PyAV's, takes such a picture's fields one by one
            return None
        full = name == "yuvj420p" or int(picture.color_range) == FULL_RANGE
        key = picture.width, picture.height, int(picture.colorspace), full
        scaler = self._scalers.get(key)
        if scaler is None:
            found = _libraries()
            if found is None or int(picture.colorspace) not in MATRICES:
                return None
            scaler = self._scalers[key] = PlanarScaler(found[0], found[1][:2], picture, full)
        return scaler


def can_call_swscale() -> bool:
    """Whether pictures can go straight into their slot on this machine."""
    return _libraries() is not None


def swscale_path() -> Path | None:
    """The libswscale file that PyAV has mapped."""
    return _mapped("libswscale")


@cache
def _libraries() -> tuple[ctypes.CDLL, tuple[int, int, int]] | None:
    """libswscale and its numbers of (yuv420p, gbrp, gray)."""
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
        yuv420p, gbrp, gray = (avutil.av_get_pix_fmt(name) for name in (b"yuv420p", b"gbrp", b"gray"))
        return swscale, (yuv420p, gbrp, gray)
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
