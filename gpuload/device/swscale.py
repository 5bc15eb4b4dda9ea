"""Pictures to slots on the CPU: swscale for colour, numpy for the last copy."""

import sys
from collections.abc import Callable
from functools import partial

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from gpuload.device.libswscale import PlanarScaler, PlanarScalers, source_of
from gpuload.device.resize import Resizer
from gpuload.errors import DecodeError
from gpuload.transform import SlotForm, unpack_view

PAIRED_FROM = 1 << 15
"""Pixels: for fewer it takes longer to fetch the larger table."""


class SwscaleConverter:
    """Writes pictures into slots. Keeps its swscale contexts: not thread-safe, one per decode thread.

    8-bit 4:2:0 pictures go straight into their slot, or, of widths that are no multiple of 16, by a copy; others
    through PyAV's ``rgb24`` and a transposing copy, at five times the cost. All give the pixels of ``rgb24``.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._scalers = PlanarScalers()
        self._scratch: npt.NDArray[np.uint8] = np.empty((3, 0, 0), np.uint8)
        self._resizers: dict[tuple[tuple[int, int], tuple[int, int]], Resizer] = {}
        self._levels: dict[SlotForm, Levels] = {}

    def direct(self, picture: av.VideoFrame, rotation: int) -> Callable[[int], None] | None:
        """What writes the picture, uint8 ``[3, H, W]``, at an address; None where only ``convert`` can.

        For a picture that goes to several slots: what is looked up here is looked up once.
        """
        scaler = None if rotation else self._scalers.of(picture)
        return None if scaler is None or scaler.padding else partial(scaler.write, source_of(picture))

    def convert(
        self, picture: av.VideoFrame, slot: npt.NDArray[np.generic], rotation: int, form: SlotForm, view: int = 0
    ) -> None:
        """Picture to ``slot``, an array of ``form.shape`` that holds ``form.dtype`` (bfloat16 as its 16 bits).

        ``rotation`` is counter-clockwise in degrees; ``view`` as ``draw_views`` packs it.

        Raises:
            DecodeError: the picture's size is not what the form was made for.
        """
        scaler = self._scalers.of(picture)
        if form.is_plain and scaler is not None and not (rotation or scaler.padding) and slot.flags.c_contiguous:
            form.check_size(picture.width, picture.height, rotation)
            scaler.convert(picture, slot.ctypes.data)
        elif form.depth is not None:
            form.check_size(picture.width, picture.height, rotation)
            self._depth(picture, slot, rotation, form.depth)
        else:
            self.store(self.shape(picture, rotation, form, view), slot, form, view)

    def shape(self, picture: av.VideoFrame, rotation: int, form: SlotForm, view: int) -> npt.NDArray[np.uint8]:
        """What a view shows of a picture, not yet flipped: uint8 ``[3, height, width]`` until the next call.

        Raises:
            DecodeError: the picture's size is not what the form was made for.
        """
        form.check_size(picture.width, picture.height, rotation)
        channels = self._channels(picture, self._scalers.of(picture))
        if rotation:
            channels = np.rot90(channels, rotation // 90, axes=(1, 2))
        if form.is_plain:
            return channels
        top, left, _ = unpack_view(view)
        height, width = form.crop or form.shown
        channels = channels[:, top : top + height, left : left + width]
        if form.is_resized:
            sizes = (height, width), (form.height, form.width)
            if sizes not in self._resizers:
                self._resizers[sizes] = Resizer(*sizes)
            if channels.strides[2] != 1 or channels.strides[1] < 0:
                channels = np.ascontiguousarray(channels)
            channels = self._resizers[sizes].resize(channels)
        return channels

    def store(
        self, channels: npt.NDArray[np.uint8], slot: npt.NDArray[np.generic], form: SlotForm, view: int = 0
    ) -> None:
        """What ``shape`` gave to a slot: flipped if the view says so, normalized and cast."""
        if unpack_view(view)[2]:
            channels = channels[:, :, ::-1]
        planes = slot if form.layout == "chw" else slot.transpose(2, 0, 1)
        if form.dtype == "uint8":
            for channel, pixels in enumerate(channels):
                planes[channel] = pixels
        elif form.dtype == "float32":
            for channel, pixels in enumerate(channels):
                planes[channel] = pixels
                planes[channel] /= np.float32(255)  # in a pass of its own: a dividing cast goes through small buffers
                if form.mean:
                    planes[channel] -= np.float32(form.mean[channel])
                    planes[channel] /= np.float32(form.std[channel])
        else:
            levels = self._levels.get(form)
            if levels is None:
                levels = self._levels[form] = Levels(form)
            for channel, pixels in enumerate(channels):
                levels.look_up(channel, pixels, planes[channel])

    def _channels(self, picture: av.VideoFrame, scaler: PlanarScaler | None) -> npt.NDArray[np.uint8]:
        """uint8 ``[3, H, W]``, as ``rgb24`` of the picture has it; until the next call."""
        if scaler is not None:
            if self._scratch.shape[1:] != (picture.height, picture.width + scaler.padding):
                self._scratch = np.empty((3, picture.height, picture.width + scaler.padding), np.uint8)
            scaler.convert(picture, self._scratch.ctypes.data)
            return self._scratch[:, :, : picture.width]
        # Never gbrp by PyAV: of 4:2:0 and 4:2:2 swscale leaves garbage in the last columns of some widths, rounds odd
        # heights otherwise than rgb24, and deep pictures too.
        try:
            plane = self._reformatter.reformat(picture, format="rgb24", threads=1).planes[0]
        except OSError as error:  # FFmpegError too is one
            what = f"{picture.format.name}, colour matrix {int(picture.colorspace)}"
            raise DecodeError(f"FFmpeg does not convert such pictures to RGB ({what}): {error}") from error
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        pixels = rows[: picture.height, : picture.width * 3].reshape(picture.height, picture.width, 3)
        return pixels.transpose(2, 0, 1)

    def _depth(
        self, picture: av.VideoFrame, slot: npt.NDArray[np.generic], rotation: int, lut: npt.NDArray[np.float32]
    ) -> None:
        if picture.format.components[0].bits != 12:
            raise DecodeError(f"a picture of depth is {picture.format.name}, the codes have 12 bits")
        # The plane as it is: LeRobot's writer puts codes into luma itself, and swscale would stretch 4:2:0's range.
        plane, order = picture.planes[0], ">u2" if picture.format.name.endswith("be") else "<u2"
        codes = np.frombuffer(memoryview(plane), order).reshape(-1, plane.line_size // 2)[
            : picture.height, : picture.width
        ]
        if rotation:
            codes = np.rot90(codes, rotation // 90)
        np.take(lut, codes, out=slot[0], mode="clip")


class Levels:
    """What each level of each channel becomes, for forms of 16-bit floats."""

    def __init__(self, form: SlotForm) -> None:
        self._one = level_values(form)
        # Of two neighbouring pixels at once, which are a number of 16 bits: looking up takes a third of the time.
        pair = np.arange(1 << 16)
        first, second = self._one[:, pair & 255], self._one[:, pair >> 8]  # little-endian: the first is the lower half
        self._two = np.stack([first, second], axis=2).view(np.uint32)[:, :, 0]

    def look_up(self, channel: int, pixels: npt.NDArray[np.uint8], target: npt.NDArray[np.generic]) -> None:
        """uint8 ``[h, w]`` to 16-bit floats ``[h, w]``."""
        # Not by indexing: with anything but intp that goes through small buffers.
        dense = pixels.strides[1] == 1 and target.strides[1] == 2 and pixels.shape[1] % 2 == 0
        if dense and pixels.size >= PAIRED_FROM and sys.byteorder == "little":
            np.take(self._two[channel], pixels.view(np.uint16), out=target.view(np.uint32), mode="wrap")
        else:
            np.take(self._one[channel], pixels, out=target, mode="clip")


def level_values(form: SlotForm) -> npt.NDArray[np.generic]:
    """``[3, 256]``: what each level of each channel becomes, in what holds the form's 16-bit floats in numpy."""
    levels = np.arange(256) / 255.0
    mean, std = form.mean or (0.0,) * 3, form.std or (1.0,) * 3
    values = np.stack([(levels - m) / s for m, s in zip(mean, std, strict=True)]).astype(np.float32)
    if form.dtype == "float16":
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    # To the nearest bfloat16, ties to even: the upper half of a float32.
    return ((bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
