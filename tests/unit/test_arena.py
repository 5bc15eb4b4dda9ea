"""Batch memory that comes back in a finalizer."""

import os
import time
from collections import deque

import pytest

from gpuload.device.arena import MAX_IDLE, Place, _give_back, _Shelf


class Interrupted:
    """Memory that Ctrl-C meets while it is given back."""

    def madvise(self, *_: int) -> None:
        raise KeyboardInterrupt


def give_back_and_wait(shelf: _Shelf) -> None:
    _give_back(shelf, Place(0, 4096), Interrupted(), 4096, False, os.getpid())  # type: ignore[arg-type]
    time.sleep(5)


def test_an_interrupt_within_a_finalizer_is_not_lost() -> None:
    shelf = _Shelf(deque(Place(0, i) for i in range(MAX_IDLE)), deque())
    begin = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        give_back_and_wait(shelf)
    assert time.perf_counter() - begin < 4  # it wakes who waits
    assert list(shelf.empty) == [Place(0, 4096)]
