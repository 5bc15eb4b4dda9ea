"""Decoded pictures as tightly packed planes: how they cross from a decode process to a GPU, half the bytes of RGB."""

import re
from functools import lru_cache
from math import ceil

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from gpuload.errors import DecodeError
from gpuload.picture import PictureForm

ALIGNED = 16
"""Bytes that planes begin at multiples of: what the kernel's widest loads need."""
FULL_RANGE = 2
"""AVCOL_RANGE_JPEG."""
PACKED = "rgb24"
"""What pictures are converted to whose format the kernels do not read: palettes, alpha, big-endian samples."""
_READ = re.compile(
    r"yuvj?4(20|22|44|40)p|(yuv4(20|22|44|40)p|gray|gbrp)(9|10|12|14|16)le|gray|gbrp|nv12|p01[026]le|rgb24"
)


@lru_cache(maxsize=256)
def plane_shapes(pixel_format: str, width: int, height: int) -> tuple[tuple[int, int], ...]:
    """``(rows, bytes of a row)`` of each plane."""
    shapes: dict[int, tuple[int, int]] = {}
    for part in av.VideoFormat(pixel_format, width, height).components:
        # Components share a plane where they are interleaved, each in whole bytes.
        _, row_bytes = shapes.get(part.plane, (0, 0))
        shapes[part.plane] = part.height, row_bytes + part.width * ceil(part.bits / 8)
    return tuple(shapes[plane] for plane in sorted(shapes))


def staged_format(pixel_format: str) -> str:
    """The format that a picture crosses in: its own, or ``PACKED``."""
    return pixel_format if _READ.fullmatch(pixel_format) else PACKED


@lru_cache(maxsize=256)
def plane_begins(pixel_format: str, width: int, height: int) -> tuple[int, ...]:
    """Where each plane begins in a staged picture, and where the last one ends."""
    begins = [0]
    for rows, row_bytes in plane_shapes(pixel_format, width, height):
        begins.append(-(-(begins[-1] + rows * row_bytes) // ALIGNED) * ALIGNED)
    return tuple(begins)


def staged_bytes(pixel_format: str, width: int, height: int) -> int:
    """Bytes of a picture's planes on the way."""
    return plane_begins(staged_format(pixel_format), width, height)[-1]


class PlaneWriter:
    """Writes the planes of pictures behind each other. Not thread-safe."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def write(
        self, picture: av.VideoFrame, target: npt.NDArray[np.uint8], *, rotation: int, chroma_location: int
    ) -> PictureForm:
        """Fills the beginning of ``target``.

        Raises:
            DecodeError: the picture is larger than the file's header says, which decided the size of ``target``.
        """
        own = picture.format.name
        name = staged_format(own)
        form = form_of(picture, pixel_format=name, rotation=rotation, chroma_location=chroma_location)
        if name != own:
            try:
                picture = self._reformatter.reformat(picture, format=name, threads=1)
            except OSError as error:  # FFmpegError too is one
                what = f"{own}, colour matrix {int(picture.colorspace)}"
                raise DecodeError(f"FFmpeg does not convert such pictures to RGB ({what}): {error}") from error
        begins = plane_begins(name, picture.width, picture.height)
        if begins[-1] > len(target):
            raise DecodeError(
                f"the picture is {picture.width}x{picture.height} {own}, which is more than the file's header says; "
                "use device='cpu', or encode the file again"
            )
        for begin, lines in zip(begins, lines_of(picture), strict=False):
            target[begin : begin + lines.size].reshape(lines.shape)[...] = lines
        return form


def lines_of(picture: av.VideoFrame) -> list[npt.NDArray[np.uint8]]:
    """The visible bytes of each plane, ``[rows, bytes of a row]``, where they lie."""
    shapes = plane_shapes(picture.format.name, picture.width, picture.height)
    return [
        np.frombuffer(memoryview(plane), np.uint8)[: rows * plane.line_size].reshape(rows, -1)[:, :row_bytes]
        for plane, (rows, row_bytes) in zip(picture.planes, shapes, strict=True)
    ]


def form_of(picture: av.VideoFrame, *, pixel_format: str, rotation: int, chroma_location: int) -> PictureForm:
    """What a picture's samples mean, when it has crossed as ``pixel_format``.

    Raises:
        DecodeError: its chroma belongs to fields, which the kernels do not know.
    """
    if picture.interlaced_frame and pixel_format != PACKED:
        rows = {height for height, _ in plane_shapes(pixel_format, picture.width, picture.height)}
        if len(rows) > 1:
            raise DecodeError("the picture is interlaced, which is decoded for device='cpu' only")
    return PictureForm(
        pixel_format=pixel_format,
        width=picture.width,
        height=picture.height,
        matrix=int(picture.colorspace),
        full_range=picture.format.name.startswith("yuvj") or int(picture.color_range) == FULL_RANGE,
        chroma_location=chroma_location,
        rotation=rotation,
    )
