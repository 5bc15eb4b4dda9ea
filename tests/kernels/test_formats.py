"""Layouts against FFmpeg's own descriptors, and forms that make no sense."""

import av
import pytest
import torch
from gpuload_kernels.color import color_map
from gpuload_kernels.formats import layout_of
from gpuload_kernels.forms import Source, Target

from tests.kernels.exact import FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_layouts_agree_with_ffmpegs_descriptors(name: str) -> None:
    layout, descriptor = layout_of(name), av.VideoFormat(name, 33, 11)
    assert len(layout.components) == min(3, len(descriptor.components))
    for component, described in zip(layout.components, descriptor.components, strict=False):
        assert (component.plane, layout.bits) == (described.plane, described.bits)
    assert layout.planes == 1 + max(component.plane for component in descriptor.components)
    frame = av.VideoFrame(33, 11, name)
    # Encoders' chroma_width rounds the way planes do: up.
    if layout.kind == "yuv":
        chroma = layout.plane_shapes(33, 11)[1]
        columns = chroma[1] // layout.sample_bytes // (2 if layout.interleaved else 1)
        assert (chroma[0], columns) == (descriptor.chroma_height(11), descriptor.chroma_width(33))
    for (rows, row_bytes), plane in zip(layout.plane_shapes(33, 11), frame.planes, strict=True):
        assert (rows, row_bytes) == (plane.height, plane.buffer_size // plane.height) or row_bytes <= plane.line_size


@pytest.mark.parametrize(
    "name", ["", "yuv420p11le", "yuv420p10be", "yuvj420p10le", "pal8", "p009le", "gray8", "cuda", "xyz12le"]
)
def test_other_formats_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=repr(name)):
        layout_of(name)


@pytest.mark.parametrize("matrix", [8, 11, 12, 13, 14, -1])
def test_matrices_that_are_no_ycbcr_are_refused(matrix: int) -> None:
    with pytest.raises(ValueError, match=f"matrix {matrix}"):
        color_map(layout_of("nv12"), matrix=matrix, full_range=False)


def test_unspecified_is_bt601() -> None:
    layout = layout_of("nv12")
    assert color_map(layout, matrix=2, full_range=False) == color_map(layout, matrix=6, full_range=False)


def test_sources_and_targets_check_themselves() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        Source("nv12", 0, 8)
    with pytest.raises(ValueError, match="rotation"):
        Source("nv12", 8, 8, rotation=45)
    with pytest.raises(ValueError, match="chroma_location"):
        Source("nv12", 8, 8, chroma_location=7)
    with pytest.raises(ValueError, match="at least one pixel"):
        Target(8, 0)
    with pytest.raises(ValueError, match="at least one pixel"):
        Target(8, 8, crop_height=0)
    with pytest.raises(ValueError, match="layout"):
        Target(8, 8, layout="cwh")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype"):
        Target(8, 8, torch.float64)
    with pytest.raises(ValueError, match="floating"):
        Target(8, 8, mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="std"):
        Target(8, 8, torch.float32, std=(0.2, 0.0, 0.2))
    with pytest.raises(ValueError, match="larger than the rotated picture 8x6"):
        Target(8, 8, crop_width=7).crop_size(Source("nv12", 8, 6, rotation=90))
