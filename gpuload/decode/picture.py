"""What decoding libraries give, as pictures and as errors: shared by the backends that hand out tensors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av

from gpuload.errors import DeviceError
from gpuload.picture import DevicePicture, PictureForm

if TYPE_CHECKING:
    import torch

_DEVICE_TROUBLE = re.compile(
    r"out of memory|CUDA (error|driver|runtime)|CUDA_ERROR|cuda[A-Z]\w+ failed"
    r"|create NVDEC decoder|create video parser|copy NVDEC surface|unmap previous frame"
    r"|aten::(empty|zero_|copy_).*API call failed"
)
"""In messages of torch, torchcodec 0.17 (``BetaCudaDeviceInterface.cpp``, ``CUDACommon.cpp``) and DALI 2.4, all of
them RuntimeErrors: the GPU is full, busy or gone, and the file may be good. Before torch 2.13 torchcodec cannot hand
on what an allocation said, only which call failed."""


def rgb_picture(
    pixels: "torch.Tensor", ready: "torch.cuda.Event | None", *, rotation: int
) -> av.VideoFrame | DevicePicture:
    """uint8 ``[H, W, 3]`` as a picture on its device, not copied."""
    if pixels.device.type == "cpu":
        return av.VideoFrame.from_numpy_buffer(pixels.numpy(), format="rgb24")
    height, width, _ = pixels.shape
    form = PictureForm("rgb24", width, height, matrix=0, full_range=True, chroma_location=0, rotation=rotation)
    return DevicePicture(form, (pixels,), owner=None, ready=ready)


def current_event(device: str) -> "torch.cuda.Event | None":
    """An event behind all that was asked of the device on the stream that is current; None on the CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


@dataclass(frozen=True, slots=True)
class PlaneLayout:
    """Where the planes of a ``DevicePicture`` lie in the memory that a library copied the picture to."""

    num_bytes: int
    """Of that memory."""
    deep: bool
    """Samples of 16 bits."""
    parts: tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...]
    """Shape, strides and begin of each plane, in samples."""

    def planes(self, storage: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
        """The planes, uint8 or int16, in ``storage``, uint8 ``[num_bytes]``. They share it, so that a
        ``record_stream`` of one is one of the allocation."""
        import torch

        samples = storage.view(torch.int16) if self.deep else storage
        return tuple(samples.as_strided(shape, strides, begin) for shape, strides, begin in self.parts)


def plane_layout(storage: "torch.Tensor", components: Sequence["torch.Tensor"]) -> PlaneLayout:
    """The layout of a picture whose components are views into the memory of ``storage``, uint8 ``[bytes]``.

    Components, luma first, are uint8 or uint16 ``[rows, columns]``, those of interleaved U and V every second sample
    of a row.
    """
    width = components[0].element_size()
    parts: list[tuple[tuple[int, ...], tuple[int, ...], int]] = []
    for component in components:
        shape, (row, column) = tuple(component.shape), component.stride()
        begin = (component.data_ptr() - storage.data_ptr()) // width
        if column == 2 and len(parts) == 2:
            break  # V lies within U's plane
        parts.append(((*shape, 2), (row, 2, 1), begin) if column == 2 else (shape, (row, 1), begin))
    return PlaneLayout(storage.numel(), width == 2, tuple(parts))


def looks_of(components: Sequence["torch.Tensor"]) -> tuple[object, ...]:
    """What tells one surface format and size from another."""
    return len(components), components[0].dtype, *((part.shape, part.stride()[1]) for part in components)


def device_fault(device: str) -> DeviceError | None:
    """The error to raise where no picture came out although nothing was said: is the GPU itself still well?"""
    if device == "cpu":
        return None
    import torch

    try:
        torch.cuda.current_stream(device).query()
    except RuntimeError as error:  # AcceleratorError: the context is lost, whatever the file was
        return DeviceError(f"{device} failed while it decoded ({first_line(error)}); start the process again")
    return None


def device_trouble(device: str, error: Exception) -> DeviceError | None:
    """The error to raise where a library failed because of the GPU; None: it was something else."""
    if device == "cpu" or not _DEVICE_TROUBLE.search(str(error)):
        return None
    return DeviceError(
        f"{device}: decoding failed ({first_line(error)}); where memory or decoder sessions ran out, lower "
        "device_cache_bytes, or let fewer processes use the GPU"
    )


def first_line(error: BaseException) -> str:
    """Kind and first line: libraries append their source lines and stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
