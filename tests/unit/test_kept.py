"""Pictures that stay in device memory: found as they were put, for as long as they are needed, in bounded memory."""

import ctypes

import pytest
import torch

from gpuload.device import kept
from gpuload.device.kept import KeptPlanes, Staying
from gpuload.errors import DecodeError, DeviceError
from gpuload.picture import PictureForm

FORM = PictureForm("gray", 8, 8, 1, False, 0)


@pytest.fixture
def planes() -> KeptPlanes:
    return KeptPlanes(torch.device("cpu"), slab_bytes=4 * 64)


def put(planes: KeptPlanes, batch: int, pictures: dict[int, int], *, size: int = 64, gap: int = 0) -> None:
    """Pictures ``name -> batches`` whose every byte is their name, ``gap`` others of their size in between."""
    count = (gap + 1) * len(pictures)
    names = torch.tensor([name for name in pictures for _ in range(gap + 1)], dtype=torch.uint8)
    data = torch.cat([torch.full((128,), 255, dtype=torch.uint8), names.repeat_interleave(size)])
    offsets = range(128, 128 + count * size, (gap + 1) * size)
    staying = [
        (Staying(name, offset, size, batches), FORM)
        for offset, (name, batches) in zip(offsets, pictures.items(), strict=True)
    ]
    planes.put(batch, data, staying)


def found(planes: KeptPlanes, name: int, size: int = 64) -> bytes | None:
    if name not in planes:
        return None
    form, address = planes.find(name)
    assert form == FORM
    return ctypes.string_at(address, size)


def test_pictures_stay_until_the_last_batch_that_shows_them(planes: KeptPlanes) -> None:
    put(planes, 5, {1: 1, 2: 3})
    planes.end(5)
    assert found(planes, 1) == b"\1" * 64
    planes.end(6)
    assert found(planes, 1) is None
    assert found(planes, 2) == b"\2" * 64
    planes.end(9)  # batches that failed before they got here are left out
    assert found(planes, 2) is None
    assert planes.num_bytes == 0


def test_places_are_used_again_and_empty_slabs_go(planes: KeptPlanes) -> None:
    for batch in range(50):
        put(planes, batch, {3 * batch + k: 2 for k in range(3)})
        planes.end(batch)
        for name in range(max(0, 3 * batch - 3), 3 * batch + 3):
            assert found(planes, name) == bytes([name]) * 64
        assert planes.num_bytes <= 9 * 64
        assert sum(map(len, planes._slabs.values())) <= 3
    planes.end(60)
    assert not any(planes._slabs.values())


def test_sizes_lie_apart(planes: KeptPlanes) -> None:
    put(planes, 0, {1: 1, 2: 1}, gap=2)
    data = torch.cat([torch.full((1024,), name, dtype=torch.uint8) for name in (3, 4)] + [torch.full((64,), 5)]).byte()
    mixed = [Staying(3, 0, 1024, 1), Staying(4, 1024, 1024, 1), Staying(5, 2048, 64, 1)]
    planes.put(0, data, [(one, FORM) for one in mixed])
    assert found(planes, 5) == b"\5" * 64
    assert [found(planes, name) for name in (1, 2)] == [b"\1" * 64, b"\2" * 64]
    assert [found(planes, name, 1024) for name in (3, 4)] == [b"\3" * 1024, b"\4" * 1024]
    assert planes.num_bytes == 3 * 64 + 2 * 1024


def test_one_that_crosses_again_replaces_the_first(planes: KeptPlanes) -> None:
    put(planes, 0, {7: 4})
    data = torch.full((64,), 9, dtype=torch.uint8)
    planes.put(2, data, [(Staying(7, 0, 64, 2), FORM)])
    assert found(planes, 7) == b"\x09" * 64
    assert planes.num_bytes == 64
    planes.end(3)
    assert found(planes, 7) == b"\x09" * 64
    planes.end(4)
    assert found(planes, 7) is None


def test_leaving_an_epoch_drops_all(planes: KeptPlanes) -> None:
    put(planes, 0, {1: 1, 2: 1})
    planes.clear()
    assert found(planes, 1) is None
    assert planes.num_bytes == 0
    put(planes, 0, {1: 1})
    planes.end(1)
    assert found(planes, 1) is None


def test_what_is_lost_says_why_for_as_long_as_it_is_wanted(planes: KeptPlanes) -> None:
    put(planes, 0, {1: 2})
    planes.lose(1, Staying(1, 0, 64, 1), DeviceError("the device is gone"))
    planes.lose(1, Staying(2, 64, 64, 2), DeviceError("the device is gone"))
    assert planes.num_bytes == 0
    for name in (1, 2):
        with pytest.raises(DeviceError, match="gone"):
            planes.find(name)
    planes.end(2)
    assert 1 not in planes
    put(planes, 3, {2: 1})  # decoded anew
    assert found(planes, 2) == b"\2" * 64
    with pytest.raises(DecodeError, match="lost"):
        planes.find(77)


def test_without_memory_to_copy_with_nothing_is_known(planes: KeptPlanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the place's last picture would be shown for it."""
    put(planes, 0, {1: 1})

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(kept, "copy_rows", full)
        with pytest.raises(torch.OutOfMemoryError):
            put(planes, 0, {2: 1, 3: 1})
    assert found(planes, 1) == b"\1" * 64
    assert 2 not in planes
    assert 3 not in planes
    assert planes.num_bytes == 64
    put(planes, 0, {2: 1, 3: 1, 4: 1})
    assert [found(planes, name) for name in (1, 2, 3, 4)] == [bytes([name]) * 64 for name in (1, 2, 3, 4)]
