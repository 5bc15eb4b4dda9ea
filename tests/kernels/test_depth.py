"""Depth codes through a table of values: bit for bit what a look-up with numpy gives."""

import numpy as np
import pytest
import torch
from gpuload_kernels import depth, reference

from gpuload.sources.lerobot_depth import depth_lut


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize(
    ("name", "bits", "shift"), [("gray10le", 10, 0), ("gray12le", 12, 0), ("gray16le", 16, 0), ("p012le", 12, 4)]
)
def test_depth_is_the_value_of_the_code(name: str, bits: int, shift: int, rotation: int, device: torch.device) -> None:
    lut = depth_lut({}, "depth")
    width, height, pad = 37, 19, 5
    draw = np.random.default_rng(bits)
    codes = draw.integers(0, 2**bits, (2, height, width + pad)).astype(np.uint16)
    planes = torch.from_numpy((codes << shift).view(np.int16)).to(device)
    size = width * height
    out = torch.full((4, size), -1.0, device=device)
    row_bytes = 2 * (width + pad)
    rows = [[planes[n].data_ptr(), row_bytes, out[2 * n].data_ptr()] for n in range(2)]
    table = torch.tensor(rows, device=device)
    depth.launch(
        table, torch.from_numpy(lut).to(device), pixel_format=name, width=width, height=height, rotation=rotation
    )
    for n in range(2):
        visible = np.rot90(codes[n, :, :width], rotation // 90)
        assert np.array_equal(out[2 * n].cpu().numpy().reshape(visible.shape), np.take(lut, visible, mode="clip"))
        assert (out[2 * n + 1] == -1).all()
        twin = reference.depth(planes[n, :, :width].cpu(), torch.from_numpy(lut), pixel_format=name, rotation=rotation)
        assert np.array_equal(twin.numpy(), np.take(lut, visible, mode="clip"))
