"""A decoded picture as planes: what its samples mean, and where they lie."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


MATRICES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
"""Colour matrices that FFmpeg's swscale converts (ISO/IEC 23091-2): not YCgCo, ICtCp, constant luminance, and what is
derived from the primaries."""


@dataclass(frozen=True, slots=True)
class PictureForm:
    """What the samples of a picture mean. Pictures of equal form can be converted by one kernel launch."""

    pixel_format: str
    """FFmpeg's name: ``yuv420p``, ``nv12``, ``p010le``, ``gray12le``, ``gbrp``, ``rgb24``, …"""
    width: int
    """Visible pixels as stored, before rotation."""
    height: int
    matrix: int
    """ISO/IEC 23091-2 (FFmpeg's AVColorSpace): 1 BT.709, 5 and 6 BT.601, 9 BT.2020; 2: unspecified, taken as BT.601."""
    full_range: bool
    chroma_location: int
    """FFmpeg's AVChromaLocation: 0 unspecified (taken as left), 1 left, 2 center, 3 top left, 4 top, 5 bottom left,
    6 bottom."""
    rotation: int = 0
    """Degrees counter-clockwise by which it is turned for display."""


@dataclass(frozen=True, slots=True, eq=False)
class DevicePicture:
    """A picture in device memory. On the CPU a picture is an ``av.VideoFrame``."""

    form: PictureForm
    planes: "tuple[torch.Tensor, ...]"
    """uint8, or int16 that holds uint16 samples: ``[rows, columns]`` of each plane, ``[rows, columns, n]`` where n
    components are interleaved. The last dimensions are dense, rows may be apart."""
    owner: object
    """What must stay alive for the planes to be valid; None where the planes own their memory."""
    ready: "torch.cuda.Event | None"
    """After it the planes may be read; None: at once."""

    @property
    def num_bytes(self) -> int:
        """Memory that it keeps from being used again: the whole surface, of which the planes show the visible part."""
        if self.form.pixel_format == "rgb24":  # a decoder that gives RGB puts the pictures of a run side by side
            return sum(plane.nbytes for plane in self.planes)
        storages = {storage.data_ptr(): storage.nbytes() for storage in (p.untyped_storage() for p in self.planes)}
        return sum(storages.values())
