"""A clip as the decoders see it: its runs, and its pictures from a sequential decode on the CPU."""

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from gpuload_kernels.formats import layout_of

from gpuload.decode.base import Run, Stream
from gpuload.decode.runs import entries, stream_of
from gpuload.device.planes import lines_of
from gpuload.index.load import load_index
from gpuload.index.video import VideoIndex
from gpuload.picture import DevicePicture
from gpuload.pipeline.direct import read_packets

Picture = av.VideoFrame | DevicePicture


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """An indexed video and every run in it that can be decoded alone."""

    video: VideoIndex
    stream: Stream
    runs: tuple[Run, ...]

    @property
    def frame_of_packet(self) -> dict[int, int]:
        return {int(packet): frame for frame, packet in enumerate(self.video.frame_packet)}


def load_coded(path: Path, *, own_only: bool = False) -> Coded:
    """The whole file in memory. ``own_only``: leading pictures of open GOPs, which need the GOP before, are left out,
    so that no packet is fed twice."""
    video = load_index(path, cache_dir=path.parent / "index")
    stops = dict(video.gops.tolist())
    runs = []
    for first in np.unique(video.frame_start).tolist():
        packets = np.sort(video.frame_packet[video.frame_start == first])
        if own_only:
            packets = packets[packets < stops[first]]
        last = int(packets.max())
        run = Run(
            first,
            [bytes(packet) for packet in read_packets(video, first, last)],
            entries(video, first, last),
            frozenset(packets.tolist()),
            video.pts[first : last + 1].tolist(),
        )
        runs.append(run)
    return Coded(video, stream_of(video), tuple(runs))


def reference_frames(path: Path) -> list[av.VideoFrame]:
    """Every shown picture in order, decoded in sequence by FFmpeg on the CPU."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def planes_of(picture: Picture) -> tuple[str, tuple[torch.Tensor, ...]]:
    """FFmpeg's name of the format, and the planes in host memory as the kernels' reference takes them."""
    if isinstance(picture, DevicePicture):
        return picture.form.pixel_format, tuple(plane.cpu() for plane in picture.planes)
    name = picture.format.name
    planes = [torch.from_numpy(np.ascontiguousarray(lines)) for lines in lines_of(picture)]
    wide = layout_of(name).bits > 8
    return name, tuple(plane.view(torch.int16) if wide else plane for plane in planes)


def components_of(picture: Picture, *, bits: int) -> list[torch.Tensor]:
    """Y, U and V (or R, G and B), int32 ``[rows, columns]`` in host memory, as codes of ``bits`` bits: what lies below
    them is kept, so that codes which are not what a decoder put out stay different."""
    name, planes = planes_of(picture)
    layout = layout_of(name)
    found = []
    for part in layout.components:
        codes = planes[part.plane].flatten(1)[:, part.offset :: part.step].to(torch.int32)
        if layout.bits > 8:
            codes &= 0xFFFF
        below = layout.shift + layout.bits - bits
        found.append(codes if below <= 0 or bool((codes & ((1 << below) - 1)).any()) else codes >> below)
    return found


def same_planes(ours: Picture, theirs: av.VideoFrame) -> bool:
    """Whether every sample is the same, however planes are laid out."""
    bits = layout_of(theirs.format.name).bits
    found, expected = components_of(ours, bits=bits), components_of(theirs, bits=bits)
    for mine, other in zip(found, expected, strict=True):
        rows, columns = other.shape  # a hardware surface may be larger than the picture
        if mine.shape[0] < rows or mine.shape[1] < columns or not torch.equal(mine[:rows, :columns], other):
            return False
    return True


def is_rgb(picture: Picture) -> bool:
    """Whether a library converted colours itself."""
    name = picture.form.pixel_format if isinstance(picture, DevicePicture) else picture.format.name
    return name == "rgb24"


def rgb_difference(ours: Picture, theirs: av.VideoFrame) -> torch.Tensor:
    """float32 ``[H, W, 3]``: levels by which a library's RGB differs from swscale's."""
    (mine,) = planes_of(ours)[1]
    expected = torch.from_numpy(theirs.to_ndarray(format="rgb24")).to(torch.float32)
    return (mine.reshape(expected.shape).to(torch.float32) - expected).abs()
