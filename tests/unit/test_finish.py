"""Batches that a device makes: what goes wrong with one, and what that costs others."""

import queue
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gpuload.device import kept
from gpuload.device.arena import BatchPool
from gpuload.device.kept import Staying
from gpuload.errors import DecodeError, DeviceError, GpuloadError
from gpuload.picture import PictureForm
from gpuload.pipeline import finish
from gpuload.pipeline.batch import Batch, Layout, Staged
from gpuload.pipeline.finish import Finisher, FinishingThread

FORM = PictureForm("gray", 8, 8, 1, False, 0)
CPU = torch.device("cpu")


@pytest.fixture
def finisher() -> Finisher:
    """Of batches without slots: what crosses is all that there is to do."""
    return Finisher(CPU, (), Layout((), (), 1), kept_bytes=1 << 20)


def make_batch(
    number: int, shows: list[int], crossing: dict[int, int], buffer: npt.NDArray[np.uint8] | None = None
) -> Batch:
    """``crossing``: pictures that cross with it, and how many batches later they are shown last."""
    picture = np.array([shows], np.int64)
    buffer = np.zeros(64 * len(crossing), np.uint8) if buffer is None else buffer
    for place, name in enumerate(crossing):
        buffer[place * 64 : place * 64 + 64] = name
    staged = Staged(picture, np.zeros_like(picture), room=buffer.nbytes, num_bytes=64 * len(crossing))
    staged.offset = {name: place * 64 for place, name in enumerate(crossing)}
    staged.staying = [Staying(name, staged.offset[name], 64, left) for name, left in crossing.items() if left]
    staged.found.update(dict.fromkeys(crossing, FORM))
    return Batch(number, np.arange(1), buffer=buffer, staged=staged)


@pytest.mark.usefixtures("no_collection")
def test_memory_that_is_being_copied_is_not_given_back(finisher: Finisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a batch that fails: what crosses with it is shown by others."""
    done: list[bool] = []

    class Event:
        def query(self) -> bool:
            return bool(done)

    monkeypatch.setattr(finisher._stream, "record", Event)
    monkeypatch.setattr(finisher, "_copied", torch.Tensor.clone)
    pool = BatchPool(pin=lambda memory: lambda: None)
    for number, shows in enumerate(([1], [2, 77])):
        place, buffer = pool.take(64)
        batch = make_batch(number, shows, {number + 1: 3}, buffer)
        if number:
            with pytest.raises(DecodeError, match="lost"):
                finisher.finish(batch)
        else:
            finisher.finish(batch)
        batch.buffer = None
        del buffer
        assert pool.take(64)[0] != place, "the next batch is made where this one is still being copied from"
    assert 2 in finisher.kept
    done.append(True)
    finisher.finish(make_batch(2, [], {}))
    assert not finisher._copying


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("where", ["copied", "kept", "found", "made"])
def test_a_batch_that_fails_is_not_held_by_its_error(
    finisher: Finisher, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    batch = make_batch(0, [1, 2] if where == "found" else [1], {1: 1})
    if where == "copied":
        monkeypatch.setattr(finisher, "_copied", fail)
    elif where == "kept":
        monkeypatch.setattr(kept, "copy_rows", fail)
    elif where == "made":
        monkeypatch.setattr(finish, "launches_of", fail)
    held, errors = weakref.ref(batch.samples), queue.SimpleQueue[GpuloadError | None]()
    thread = FinishingThread(finisher, lambda made, _: errors.put(made.error))
    thread.start()
    thread.put(batch)
    del batch
    assert isinstance(errors.get(timeout=20.0), DecodeError if where == "found" else DeviceError)
    thread.end()
    assert held() is None


@pytest.mark.parametrize("where", ["copied", "kept"])
def test_a_device_that_fails_is_what_later_batches_hear_of(
    finisher: Finisher, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Else they would be taken for damaged, and left out where damage is."""

    def fail(*_: object) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patched:
        patched.setattr(*((finisher, "_copied", fail) if where == "copied" else (kept, "copy_rows", fail)))
        with pytest.raises(DeviceError, match="batch 0 is made: CUDA error: an illegal"):
            finisher.finish(make_batch(0, [1], {1: 1, 2: 0}))
    with pytest.raises(DeviceError, match="batch 0 is made"):
        finisher.finish(make_batch(1, [1], {}))
    finisher.finish(make_batch(2, [3], {3: 0}))


def test_ctrl_c_while_an_epoch_is_left_does_not_end_the_next_one(
    finisher: Finisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    thread = FinishingThread(finisher, lambda batch, _: made.append(batch.number))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    thread.start()
    with monkeypatch.context() as patched:
        patched.setattr(finish, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            thread.end()
    thread.end()
    thread.start()
    thread.put(make_batch(0, [], {}))
    thread._queue.put(None)
    assert thread._thread is not None
    thread._thread.join(10.0)
    assert made == [0]
    assert thread.close()
