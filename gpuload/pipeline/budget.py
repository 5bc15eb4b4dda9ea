"""How much memory a kept picture takes, for the plan to stay within its budgets; a warning where they are too small."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np

from gpuload.decode.registry import RGB
from gpuload.device.planes import plane_shapes, staged_bytes, staged_format
from gpuload.index.video import VideoIndex
from gpuload.plan.grouping import DecodePlan
from gpuload.transform import SlotForm, is_reduced

logger = logging.getLogger(__name__)

COSTLY = 2.0
"""Frames decoded for each distinct one from which on the user is told why."""
ALIGNMENT = {"av1": (128, 128)}
"""Columns and rows that pictures are allocated in, where not in FFmpeg's (64, 16); dav1d has its own allocator."""
DEVICE_ALIGNMENT = 512
"""Bytes that lines are taken to be multiples of: the driver chooses NVDEC's pitch, and tells only afterwards."""


def host_bytes(video: VideoIndex, form: SlotForm | None = None) -> int:
    """Of a picture in host memory, alignment included, or of what the slots of ``form`` show of it."""
    columns, rows = ALIGNMENT.get(video.codec, (64, 16))
    width, height = -(-video.width // columns) * columns, -(-video.height // rows) * rows
    components = av.VideoFormat(video.pixel_format, width, height).components
    planes = sum(part.width * part.height * -(-part.bits // 8) for part in components)
    if form is not None and form.reduced_bytes is not None and is_reduced(form, planes):
        return form.reduced_bytes
    return planes


def device_bytes(video: VideoIndex, *, is_rgb: bool) -> int:
    """Of a picture in device memory: planes with aligned lines; or packed RGB, where a decoder gives nothing else."""
    if is_rgb:
        return 3 * video.width * video.height
    name = staged_format(video.pixel_format)
    if "420" in name:  # NVDEC interleaves the chroma
        name = "nv12" if av.VideoFormat(name).components[0].bits == 8 else "p010le"
    shapes = plane_shapes(name, video.width, video.height)
    # torchcodec copies whole surfaces, whose rows are coded ones: macroblocks, or coding blocks of as many.
    return sum(
        -(-rows // 16) * 16 * -(-line_bytes // DEVICE_ALIGNMENT) * DEVICE_ALIGNMENT for rows, line_bytes in shapes
    )


@dataclass(frozen=True, slots=True)
class Budgets:
    """What decoded pictures that wait may take.

    A plan has one budget, the host's. A picture on the GPU is charged its size times host budget / device budget, and
    never less than its size in host memory, because the CPU may decode it instead, or did.
    """

    frame_cache_bytes: int
    device_cache_bytes: int
    is_staged: bool = False
    """Pictures that the CPU decodes go to a device, and wait there from their first batch on."""

    def picture_bytes(self, video: VideoIndex, way: tuple[str, str], form: SlotForm | None) -> int:
        """What a kept picture counts of ``frame_cache_bytes``; ``way``: backend and device, ``form``: the only slots
        that it goes to, as ``host_bytes``."""
        backend, device = way
        if device != "cpu":
            there = device_bytes(video, is_rgb=backend in RGB)
        elif self.is_staged:
            there = staged_bytes(video.pixel_format, video.width, video.height)
        else:
            return host_bytes(video, form)
        scale = max(self.frame_cache_bytes, 1) / self.device_cache_bytes
        return max(host_bytes(video), int(there * scale))

    def narrowest(self, *, on_device: bool) -> tuple[str, int]:
        """The one that decides: its argument's name and what it allows."""
        if (on_device or self.is_staged) and self.device_cache_bytes < self.frame_cache_bytes:
            return "device_cache_bytes", self.device_cache_bytes
        return "frame_cache_bytes", self.frame_cache_bytes


def warn_if_costly(plan: DecodePlan, budgets: Budgets, is_on_device: Callable[[int], bool]) -> None:
    """Tells the user why much is decoded more than once, if a budget is why; ``is_on_device(file)``: where its
    pictures are kept."""
    distinct = len(np.unique(plan.group_file[plan.picture_group] << 32 | plan.picture_packet))
    again = plan.frames_decoded / max(distinct, 1)
    if again > COSTLY and plan.limited:
        on_device = any(map(is_on_device, np.unique(plan.group_file).tolist()))
        logger.warning(
            "%s=%d holds too little for this order: about %.1f frames are decoded for each distinct one; "
            "raise it, or use shuffle='block' with a shuffle_buffer_bytes that is no larger",
            *budgets.narrowest(on_device=on_device),
            again,
        )
