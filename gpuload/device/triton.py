"""The only importer of the kernels: pictures and slots as gpuload describes them, in the kernels' own words."""

import torch

from gpuload.errors import DecodeError, DeviceError
from gpuload.picture import MATRICES, PictureForm
from gpuload.transform import SlotForm


class DepthTables:
    """The tables of depth cameras in device memory. Not thread-safe."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tables: dict[SlotForm, torch.Tensor] = {}

    def of(self, slot: SlotForm) -> torch.Tensor:
        """float32 ``[codes]`` on the device."""
        if slot not in self._tables:
            assert slot.depth is not None
            self._tables[slot] = torch.from_numpy(slot.depth.copy()).to(self._device)
        return self._tables[slot]


def convert_pictures(table: torch.Tensor, form: PictureForm, slot: SlotForm, depth: DepthTables) -> None:
    """One launch on the current stream: every row of ``table`` (int64 ``[N, 10]`` on the device: addresses of three
    planes, their strides in bytes, address of the slot, crop top, crop left, flip) writes one slot.

    Raises:
        DecodeError: the kernel does not know the picture's format, or swscale would not convert its colours either.
            DeviceError: there are too many for one launch.
    """
    # Here and not above: Triton looks for a GPU while it is imported, and nobody needs it without one.
    from gpuload_kernels import convert
    from gpuload_kernels import depth as depth_kernel

    if slot.depth is not None:
        try:
            depth_kernel.launch(
                table[:, 0:7:3].contiguous(),
                depth.of(slot),
                pixel_format=form.pixel_format,
                width=form.width,
                height=form.height,
                rotation=form.rotation,
            )
        except ValueError as error:
            raise DecodeError(f"no kernel takes such pictures of depth ({error}); use device='cpu'") from error
        return
    if form.matrix not in MATRICES:
        raise DecodeError(f"FFmpeg does not convert colour matrix {form.matrix} to RGB, and so the kernels do not")
    try:
        source = convert.Source(
            pixel_format=form.pixel_format,
            width=form.width,
            height=form.height,
            # RGB that is subsampled is none: swscale takes it for BT.601.
            matrix=form.matrix or (0 if "444" in form.pixel_format else 2),
            full_range=form.full_range,
            chroma_location=form.chroma_location,
            rotation=form.rotation,
        )
    except ValueError as error:
        raise DecodeError(f"no kernel takes such pictures ({error}); use device='cpu'") from error
    crop_height, crop_width = slot.crop or slot.shown
    target = convert.Target(
        height=slot.height,
        width=slot.width,
        dtype=getattr(torch, slot.dtype),
        layout=slot.layout,
        crop_height=crop_height,
        crop_width=crop_width,
        mean=slot.mean or None,
        std=slot.std or None,
    )
    try:
        convert.launch(table, source=source, target=target)
    except ValueError as error:
        raise DeviceError(f"no launch takes these pictures at once ({error}); lower the batch size") from error
