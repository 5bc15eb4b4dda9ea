"""Batch memory that cannot be had, or comes back in a finalizer."""

import mmap
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpuload.device.arena import MAX_IDLE, BatchPool, Place, _give_back, _Shelf


class Interrupted:
    """Memory that Ctrl-C meets while it is given back."""

    def madvise(self, *_: int) -> None:
        raise KeyboardInterrupt


def give_back_and_wait(shelf: _Shelf) -> None:
    _give_back(shelf, Place(0, 4096), Interrupted(), 4096, False, os.getpid())  # type: ignore[arg-type]
    time.sleep(5)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Also where a shell has started the tests in the background, where Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_within_a_finalizer_is_not_lost() -> None:
    shelf = _Shelf(deque(Place(0, i) for i in range(MAX_IDLE)), deque())
    begin = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        give_back_and_wait(shelf)
    assert time.perf_counter() - begin < 4  # it wakes who waits
    assert list(shelf.empty) == [Place(0, 4096)]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def cannot_lock(memory: mmap.mmap) -> Callable[[], None]:
    raise RuntimeError(f"{len(memory)} bytes are more than may be locked")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists the files that are open")
def test_memory_that_cannot_be_locked_leaves_no_file_open() -> None:
    pool, before = BatchPool(pin=cannot_lock), open_files()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="may be locked"):
            pool.take(1 << 20)
    assert open_files() == before


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists the files that are open")
def test_memory_that_cannot_be_had_leaves_no_file_open() -> None:
    pool, before, (soft, hard) = BatchPool(), open_files(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        for _ in range(3):
            with pytest.raises(OSError, match="too large"):
                pool.take(1 << 21)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert open_files() == before
    assert pool.take(1 << 21)[1].nbytes == 1 << 21
