"""Pictures to slots on the CPU: swscale for colour, numpy for the last copy."""

import av
import numpy as np
import numpy.typing as npt
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

from gpuload.errors import DecodeError

RGB_OF_GBRP = (2, 0, 1)
"""Planes of gbrp that hold red, green and blue."""


class SwscaleConverter:
    """Writes pictures into ``[C, H, W]`` slots. Keeps its swscale context: not thread-safe, one per decode thread.

    ``gbrp`` and three plane copies cost a quarter of ``rgb24`` and a transposing copy (0.11 ms against 0.41 ms at
    640x480), with the same pixels.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

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
        for channel, pixels in enumerate(self._channels(picture)):
            turned_pixels = np.rot90(pixels, rotation // 90) if rotation else pixels
            if slot.dtype == np.uint8:
                slot[channel] = turned_pixels
            else:
                np.divide(turned_pixels, np.float32(255), out=slot[channel])

    def _channels(self, picture: av.VideoFrame) -> list[npt.NDArray[np.uint8]]:
        """Red, green and blue, each uint8 ``[H, W]``, as ``rgb24`` of the picture has them."""
        if any(component.bits > 8 for component in picture.format.components):
            # swscale rounds deep pictures otherwise on the planar path: one level of difference to every other loader.
            packed = self._reformatter.reformat(picture, format="rgb24", threads=1)
            plane = packed.planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            pixels = rows[: picture.height, : picture.width * 3].reshape(picture.height, picture.width, 3)
            return [pixels[:, :, channel] for channel in range(3)]
        planar = self._reformatter.reformat(picture, format="gbrp", threads=1)
        return [self._plane(planar.planes[number], picture) for number in RGB_OF_GBRP]

    def _plane(self, plane: VideoPlane, picture: av.VideoFrame) -> npt.NDArray[np.uint8]:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        return rows[: picture.height, : picture.width]

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
