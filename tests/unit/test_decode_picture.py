"""What torchcodec gives on a GPU: planes, here on plain CPU tensors laid out as NVDEC's surfaces are, and errors."""

import pytest
import torch

from gpuload.decode.picture import device_trouble, looks_of, plane_layout

PITCH, ROWS = 64, 24


def component(
    storage: torch.Tensor, kind: torch.dtype, size: tuple[int, int], step: int, start_bytes: int
) -> torch.Tensor:
    samples = storage.view(kind)
    return samples.as_strided(size, (PITCH // samples.element_size(), step), start_bytes // samples.element_size())


@pytest.mark.parametrize(("kind", "width"), [(torch.uint8, 50), (torch.uint16, 26)])
@pytest.mark.parametrize("crop_bytes", [0, 2 * PITCH + 4])
def test_interleaved_chroma_becomes_one_plane(kind: torch.dtype, width: int, crop_bytes: int) -> None:
    storage = torch.randint(0, 256, (PITCH * ROWS * 3 // 2,), dtype=torch.uint8)
    height, item = 17, kind.itemsize
    half = ((height + 1) // 2, (width + 1) // 2)
    chroma = PITCH * ROWS + crop_bytes // 2 // 4 * 4
    y = component(storage, kind, (height, width), 1, crop_bytes)
    u, v = (component(storage, kind, half, 2, chroma + offset) for offset in (0, item))
    luma, pairs = plane_layout(storage, (y, u, v)).planes(storage)
    assert luma.shape == (height, width)
    assert pairs.shape == (*half, 2)
    signed = torch.int16 if item == 2 else torch.uint8
    assert luma.dtype == pairs.dtype == signed
    assert torch.equal(luma, y.view(signed))
    assert torch.equal(pairs, torch.stack([u.view(signed), v.view(signed)], dim=2))
    assert luma.untyped_storage().data_ptr() == pairs.untyped_storage().data_ptr() == storage.data_ptr()


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16])
def test_separate_planes_stay_three(kind: torch.dtype) -> None:
    storage = torch.randint(0, 256, (PITCH * ROWS * 3,), dtype=torch.uint8)
    components = [component(storage, kind, (20, 30), 1, PITCH * ROWS * plane) for plane in range(3)]
    signed = torch.int16 if kind == torch.uint16 else torch.uint8
    planes = plane_layout(storage, components).planes(storage)
    assert all(torch.equal(plane, one.view(signed)) for plane, one in zip(planes, components, strict=True))
    assert len(planes) == 3


def test_surfaces_that_differ_look_different() -> None:
    storage = torch.zeros(PITCH * ROWS * 4, dtype=torch.uint8)

    def surface(kind: torch.dtype, size: tuple[int, int], half: tuple[int, int], step: int) -> list[torch.Tensor]:
        chroma = [component(storage, kind, half, step, PITCH * ROWS + 2 * i) for i in range(2)]
        return [component(storage, kind, size, 1, 0), *chroma]

    nv12 = surface(torch.uint8, (16, 24), (8, 12), 2)
    others = [
        surface(torch.uint16, (16, 24), (8, 12), 2),  # deeper
        surface(torch.uint8, (16, 24), (8, 12), 1),  # planar
        surface(torch.uint8, (16, 24), (16, 24), 1),  # 4:4:4
        surface(torch.uint8, (15, 24), (8, 12), 2),  # one row less
        surface(torch.uint8, (16, 23), (8, 12), 2),  # one column less
        nv12[:1],  # gray
    ]
    looks = {looks_of(one) for one in (nv12, *others)}
    assert len(looks) == 1 + len(others)
    assert looks_of(surface(torch.uint8, (16, 24), (8, 12), 2)) == looks_of(nv12)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("Failed to create NVDEC decoder: 2\nException raised from create_decoder"),
        RuntimeError("cudaEventRecord failed: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError('torch_call_dispatcher( "aten::empty", "memory_format", stack) API call failed at ops.h, line 7'),
    ],
)
def test_a_full_or_lost_gpu_is_not_a_damaged_file(error: RuntimeError) -> None:
    trouble = device_trouble("cuda:1", error)
    assert "cuda:1" in str(trouble)
    assert "device_cache_bytes" in str(trouble)


def test_a_refused_packet_is_no_trouble_of_the_gpu() -> None:
    error = RuntimeError("Failed to send packet to decoder (status -1094995529)")
    assert device_trouble("cuda", error) is None
    assert device_trouble("cpu", RuntimeError("CUDA error: none of the CPU's")) is None
