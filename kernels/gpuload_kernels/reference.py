"""The readable twins of the kernels, in plain torch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gpuload_kernels.color import WHITE, color_map
from gpuload_kernels.formats import Component, layout_of
from gpuload_kernels.forms import Source, Target


def convert(
    planes: Sequence[Tensor],
    source: Source,
    target: Target,
    *,
    crop_top: int = 0,
    crop_left: int = 0,
    flip: bool = False,
    precision: torch.dtype = torch.float64,
) -> Tensor:
    """One picture's planes -> a slot, ``target.shape`` of ``target.dtype``; computed in ``precision``.

    ``planes``: uint8, or int16 that holds uint16 samples; ``[rows, columns]``, or ``[rows, columns, n]`` where n
    components are interleaved. Rotate, crop, resize, flip, normalise, cast, as ``convert.launch``.

    Raises:
        ValueError: a crop outside of the rotated picture, planes smaller than the picture, a matrix not known.
    """
    window_height, window_width = target.crop_size(source)
    height, width = source.rotated_size
    if not (0 <= crop_top <= height - window_height and 0 <= crop_left <= width - window_width):
        raise ValueError(
            f"crop {window_height}x{window_width} at ({crop_top}, {crop_left}) leaves the picture {height}x{width}"
        )
    picture = torch.rot90(rgb(planes, source, precision=precision), source.rotation // 90, dims=(1, 2))
    picture = picture[:, crop_top : crop_top + window_height, crop_left : crop_left + window_width]
    size = (target.height, target.width)
    if size != (window_height, window_width):
        picture = interpolate(picture[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
    if flip:
        picture = picture.flip(2)
    if target.dtype == torch.uint8:
        picture = (picture + 0.5).clamp(0, WHITE)
    else:
        mean = torch.tensor(target.mean or (0.0, 0.0, 0.0), dtype=precision, device=picture.device)
        std = torch.tensor(target.std or (1.0, 1.0, 1.0), dtype=precision, device=picture.device)
        picture = (picture / WHITE - mean[:, None, None]) / std[:, None, None]
    if target.layout == "hwc":
        picture = picture.permute(1, 2, 0)
    return picture.to(target.dtype).contiguous()


def rgb(planes: Sequence[Tensor], source: Source, *, precision: torch.dtype = torch.float64) -> Tensor:
    """R'G'B' of every stored pixel, ``[3, height, width]`` in 0..255, clamped and not rounded."""
    layout = source.layout
    colors = color_map(layout, matrix=source.matrix, full_range=source.full_range)
    components = [_samples(planes, component, precision) for component in layout.components]
    if layout.kind == "yuv":
        components[1:] = [_upsampled(chroma, source) for chroma in components[1:]]
    components = [component[: source.height, : source.width] for component in components]
    if any(component.shape != (source.height, source.width) for component in components):
        raise ValueError(f"planes {[list(plane.shape) for plane in planes]} are smaller than {source}")
    if layout.kind == "gray":
        components = components * 3
    elif colors.is_identity:
        components = [components[2], components[0], components[1]]
    elif layout.kind == "yuv":
        y, u, v = components
        light = colors.gain * y
        components = [
            light + colors.red_v * v + colors.offsets[0],
            light + colors.green_u * u + colors.green_v * v + colors.offsets[1],
            light + colors.blue_u * u + colors.offsets[2],
        ]
        return torch.stack(components).clamp(0, WHITE)
    offsets = torch.tensor(colors.offsets, dtype=precision, device=components[0].device)
    return (colors.gain * torch.stack(components) + offsets[:, None, None]).clamp(0, WHITE)


def depth(codes: Tensor, lut: Tensor, *, pixel_format: str, rotation: int = 0) -> Tensor:
    """A luma plane, int16 that holds uint16, ``[H, W]`` -> ``lut[code]`` float32, rotated; as ``depth.launch``."""
    index = (codes.to(torch.int64) & 0xFFFF) >> layout_of(pixel_format).shift
    return torch.rot90(lut[index.clamp(max=len(lut) - 1)], rotation // 90).contiguous()


def _samples(planes: Sequence[Tensor], component: Component, precision: torch.dtype) -> Tensor:
    plane = planes[component.plane].flatten(1)[:, component.offset :: component.step]
    if plane.dtype == torch.int16:
        plane = plane.to(torch.int32) & 0xFFFF
    return plane.to(precision)


def _upsampled(chroma: Tensor, source: Source) -> Tensor:
    """Chroma ``[h, w]`` interpolated at luma positions, ``[height, width]``, edges clamped."""
    layout = source.layout
    offset_x, offset_y = source.chroma_offset
    for axis, (size, shift, offset) in enumerate(
        (
            (source.height, layout.chroma_height_shift, offset_y),
            (source.width, layout.chroma_width_shift, offset_x),
        )
    ):
        if not shift:
            continue
        last = (size - 1) // 2
        position = (torch.arange(size, dtype=chroma.dtype, device=chroma.device) - offset / 2) / 2
        before = position.floor()
        share = (position - before)[:, None] if axis == 0 else position - before
        low = chroma.index_select(axis, before.long().clamp(0, last))
        high = chroma.index_select(axis, (before.long() + 1).clamp(0, last))
        chroma = low + share * (high - low)
    return chroma
