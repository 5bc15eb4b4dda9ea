"""What several files here need: pictures back on the CPU, sources that NVDEC decodes, who is still running."""

import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from gpuload_kernels.formats import layout_of

from gpuload.picture import DevicePicture
from tests.source import NumberedSource

WIDTH, HEIGHT = 256, 192
"""Large enough for every codec of NVDEC: HEVC begins at 144x144."""


def components(picture: DevicePicture) -> list[npt.NDArray[np.uint16]]:
    """Y, U and V as codes of the surface's own depth, ``[rows, columns]``."""
    layout = layout_of(picture.form.pixel_format)
    found = []
    for part in layout.components:
        plane = picture.planes[part.plane].cpu().flatten(1)
        raw: npt.NDArray[np.generic] = plane.numpy().view(np.uint16 if layout.bits > 8 else np.uint8)
        codes = raw[:, part.offset :: part.step].astype(np.uint16)
        found.append((codes >> layout.shift).astype(np.uint16))
    return found


def software_picture(picture: DevicePicture) -> av.VideoFrame:
    """The same picture as the CPU's decoder gives it: planar, so that swscale takes the same way with both."""
    form = picture.form
    deep = layout_of(form.pixel_format).bits > 8
    frame = av.VideoFrame(form.width, form.height, "yuv420p10le" if deep else "yuv420p")
    for plane, codes in zip(frame.planes, components(picture), strict=True):
        kind: type[np.generic] = np.uint16 if deep else np.uint8
        rows = np.frombuffer(memoryview(plane), np.uint8).view(kind).reshape(plane.height, -1)
        rows[:, : plane.width] = codes[: plane.height, : plane.width].astype(kind)
    frame.colorspace, frame.color_range = form.matrix, 2 if form.full_range else 1
    return frame


def rgb_of(picture: Any) -> npt.NDArray[np.uint8]:
    """uint8 ``[3, H, W]`` of whatever a decoder on the GPU gives."""
    if isinstance(picture, DevicePicture):
        torch.cuda.synchronize()
        if picture.form.pixel_format == "rgb24":
            pixels: npt.NDArray[np.uint8] = picture.planes[0].cpu().numpy()
            return pixels.transpose(2, 0, 1)
        picture = software_picture(picture)
    packed: npt.NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
    return packed.transpose(2, 0, 1)


def make_source(folder: Path, **arguments: Any) -> NumberedSource:
    """A dataset of one camera whose videos NVDEC decodes, unless ``arguments`` say otherwise."""
    size = {"episodes": 2, "frames": 40, "cameras": 1, "width": WIDTH, "height": HEIGHT, **arguments}
    return NumberedSource(folder, **size)


def on_threads() -> list[str]:
    """Names of gpuload's threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("gpuload")]
