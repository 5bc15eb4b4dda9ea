"""What launches refuse before they start."""

import pytest
import torch
from gpuload_kernels import convert, depth, reference
from gpuload_kernels.forms import Source, Target

SOURCE, TARGET = Source("nv12", 8, 8), Target(8, 8)


def table(rows: int = 1, columns: int = 10, *, device: torch.device) -> torch.Tensor:
    return torch.zeros((rows, columns), dtype=torch.int64, device=device)


def test_tables_of_another_type_or_shape_are_refused(device: torch.device) -> None:
    with pytest.raises(TypeError, match="int64"):
        convert.launch(table(device=device).float(), source=SOURCE, target=TARGET)
    with pytest.raises(TypeError, match="list"):
        convert.launch([[0] * 10], source=SOURCE, target=TARGET)  # type: ignore[arg-type]
    for wrong in (table(1, 9, device=device), table(device=device)[0]):
        with pytest.raises(ValueError, match=r"\[N, 10\]"):
            convert.launch(wrong, source=SOURCE, target=TARGET)
    with pytest.raises(ValueError, match="contiguous"):
        convert.launch(table(2, 20, device=device)[:, ::2], source=SOURCE, target=TARGET)


def test_the_table_lies_where_the_kernel_runs(device: torch.device) -> None:
    elsewhere = torch.device("meta" if device.type == "cpu" else "cpu")
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        convert.launch(table(device=elsewhere), source=SOURCE, target=TARGET)


def test_a_crop_larger_than_the_picture_is_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match="crop"):
        convert.launch(table(device=device), source=SOURCE, target=Target(8, 8, crop_height=9))
    planes = [torch.zeros((8, 8), dtype=torch.uint8), torch.zeros((4, 8), dtype=torch.uint8)]
    with pytest.raises(ValueError, match="leaves the picture"):
        reference.convert(planes, SOURCE, Target(4, 4, crop_height=4, crop_width=4), crop_top=5)


def test_planes_beyond_32_bit_offsets_are_refused(device: torch.device) -> None:
    large = Source("rgb48le", 20_000, 20_000)
    with pytest.raises(ValueError, match=r"plane must have fewer than 2\*\*31 bytes"):
        convert.launch(table(0, device=device), source=large, target=Target(8, 8, crop_height=8, crop_width=8))


def test_slots_beyond_32_bit_offsets_are_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"2\*\*31"):
        convert.launch(table(device=device), source=SOURCE, target=Target(30_000, 30_000))
    many = torch.zeros((1 << 16, 10), dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match="too many"):
        convert.launch(many, source=SOURCE, target=Target(20_000, 20_000))


def test_depth_refuses_tables_of_values_and_formats_that_do_not_fit(device: torch.device) -> None:
    lut = torch.zeros(4096, device=device)
    with pytest.raises(TypeError, match="float32"):
        depth.launch(table(1, 3, device=device), lut.double(), pixel_format="gray12le", width=8, height=8)
    with pytest.raises(ValueError, match="dense"):
        depth.launch(table(1, 3, device=device), lut[::2], pixel_format="gray12le", width=8, height=8)
    with pytest.raises(ValueError, match="9 to 16 bits"):
        depth.launch(table(1, 3, device=device), lut, pixel_format="gray", width=8, height=8)
    with pytest.raises(ValueError, match="pixels"):
        depth.launch(table(1, 3, device=device), lut, pixel_format="gray12le", width=0, height=8)
    with pytest.raises(ValueError, match="rotation"):
        depth.launch(table(1, 3, device=device), lut, pixel_format="gray12le", width=8, height=8, rotation=1)
    with pytest.raises(ValueError, match=r"\[N, 3\]"):
        depth.launch(table(device=device), lut, pixel_format="gray12le", width=8, height=8)
