"""Pictures to slots on the CPU: swscale for colour, numpy for the last copy."""

from collections.abc import Callable, Sequence
from functools import partial

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from gpuload.device.libswscale import PlanarScaler, PlanarScalers, source_of
from gpuload.errors import DecodeError


class SwscaleConverter:
    """Writes pictures into ``[C, H, W]`` slots. Keeps its swscale contexts: not thread-safe, one per decode thread.

    8-bit 4:2:0 pictures go straight into their slot; others through PyAV's ``rgb24`` and a transposing copy, at five
    times the cost. Both give the pixels of ``rgb24``.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._scalers = PlanarScalers()
        self._scratch: npt.NDArray[np.uint8] = np.empty((3, 0, 0), np.uint8)

    def direct(self, picture: av.VideoFrame, rotation: int) -> Callable[[int], None] | None:
        """What writes the picture, uint8 ``[3, H, W]``, at an address; None where only ``convert`` can.

        For a picture that goes to several slots: what is looked up here is looked up once.
        """
        scaler = None if rotation else self._scalers.of(picture)
        return None if scaler is None else partial(scaler.write, source_of(picture))

    def convert(
        self, picture: av.VideoFrame, slot: npt.NDArray[np.generic], rotation: int, lut: npt.NDArray[np.float32] | None
    ) -> None:
        """Picture to ``slot``: uint8 ``[3, H, W]`` 0..255, or float32 in [0, 1] (value / 255), or float32 ``[1, H, W]``
        of ``lut[code]`` for depth. ``rotation`` is counter-clockwise in degrees.

        Raises:
            DecodeError: the picture's size is not the slot's.
        """
        turned = rotation % 180 != 0
        height, width = (picture.width, picture.height) if turned else (picture.height, picture.width)
        if slot.shape[1:] != (height, width):
            raise DecodeError(
                f"the picture is {width}x{height}, the metadata promise {slot.shape[2]}x{slot.shape[1]}; "
                "correct info.json"
            )
        if lut is not None:
            self._depth(picture, slot, rotation, lut)
            return
        scaler = self._scalers.of(picture)
        if scaler is not None and slot.dtype == np.uint8 and not rotation and slot.flags.c_contiguous:
            scaler.convert(picture, slot.ctypes.data)
            return
        for channel, pixels in enumerate(self._channels(picture, scaler)):
            slot[channel] = np.rot90(pixels, rotation // 90) if rotation else pixels
            if slot.dtype != np.uint8:
                slot[channel] /= np.float32(255)  # in a pass of its own: a dividing cast goes through small buffers

    def _channels(self, picture: av.VideoFrame, scaler: PlanarScaler | None) -> Sequence[npt.NDArray[np.uint8]]:
        """Red, green and blue, each uint8 ``[H, W]``, as ``rgb24`` of the picture has them; until the next call."""
        if scaler is not None:
            if self._scratch.shape[1:] != (picture.height, picture.width):
                self._scratch = np.empty((3, picture.height, picture.width), np.uint8)
            scaler.convert(picture, self._scratch.ctypes.data)
            return list(self._scratch)
        # Never gbrp by PyAV: of 4:2:0 and 4:2:2 swscale leaves garbage in the last columns of some widths, rounds odd
        # heights otherwise than rgb24, and deep pictures too.
        plane = self._reformatter.reformat(picture, format="rgb24", threads=1).planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        pixels = rows[: picture.height, : picture.width * 3].reshape(picture.height, picture.width, 3)
        return [pixels[:, :, channel] for channel in range(3)]

    def _depth(
        self, picture: av.VideoFrame, slot: npt.NDArray[np.generic], rotation: int, lut: npt.NDArray[np.float32]
    ) -> None:
        wide = picture if picture.format.name == "gray12le" else self._reformatter.reformat(picture, format="gray12le")
        plane = wide.planes[0]
        codes = np.frombuffer(memoryview(plane), np.uint16).reshape(-1, plane.line_size // 2)[
            : picture.height, : picture.width
        ]
        if rotation:
            codes = np.rot90(codes, rotation // 90)
        np.take(lut, codes, out=slot[0], mode="clip")
