"""Page-locking: what CUDA's runtime is asked for, seen through one that takes notes. tests/gpu has the real one."""

import contextlib
import logging
import mmap
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from gpuload.device.arena import CHUNK_BYTES, BatchPool
from gpuload.device.stream import pinning


class Runtime:
    """In place of ``torch.cuda.cudart()``: notes calls and the device that is current."""

    def __init__(self, *, fails: bool = False) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self.device = "none"
        self._fails = fails

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> int:  # noqa: N802 - its name
        self.calls.append(("lock", self.device, address))
        return int(self._fails)

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802 - its name
        self.calls.append(("unlock", self.device, address))
        return 0

    @contextlib.contextmanager
    def current(self, device: torch.device) -> Iterator[None]:
        before, self.device = self.device, str(device)
        yield
        self.device = before


def check(code: int) -> None:
    if code:
        raise RuntimeError("not here")


def installed(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "check_error", check)
    monkeypatch.setattr(torch.cuda, "device", runtime.current)
    return runtime


def test_a_mapping_is_locked_once_and_unlocked_on_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = installed(Runtime(), monkeypatch)
    pool = BatchPool(pin=pinning(torch.device("cuda:1")))
    buffers = [pool.take(1000)[1] for _ in range(3)]
    ((what, device, address),) = runtime.calls
    assert (what, device) == ("lock", "cuda:1")
    assert all(0 <= buffer.ctypes.data - address < CHUNK_BYTES for buffer in buffers)
    buffers.clear()
    pool.close()
    assert runtime.calls == [("lock", "cuda:1", address), ("unlock", "cuda:1", address)]


def test_where_memory_cannot_be_locked_it_is_told_once_and_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = installed(Runtime(fails=True), monkeypatch)
    pin = pinning(torch.device("cuda"))
    assert pin is not None
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            memory = mmap.mmap(-1, mmap.PAGESIZE)
            pin(memory)()
            assert np.frombuffer(memory, np.uint8).sum() == 0
    assert [call[0] for call in runtime.calls] == ["lock"]
    assert caplog.text.count("cannot be page-locked") == 1


def test_nothing_is_locked_where_no_device_copies() -> None:
    assert pinning(None) is None
    assert pinning(torch.device("cpu")) is None
