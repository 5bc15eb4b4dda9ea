"""Batches are safe on the consumer's stream, and nobody waits for the whole device."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gpuload import Loader
from tests.gpu.pictures import make_source

CYCLES = 20_000_000
"""Some 10 ms of a GPU that does nothing."""


@pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
def test_a_batch_that_is_read_late_on_another_stream_is_still_the_same(backend: str, tmp_path: Path) -> None:
    source = make_source(tmp_path, offsets=(0,))
    arguments: dict[str, Any] = {"device": "cuda", "backend": backend, "shuffle": "block", "seed": 1}
    with Loader(source, 4, **arguments) as loader:
        at_once = [batch["cam0"].cpu() for batch in loader]
    side, late = torch.cuda.Stream(), []  # type: ignore[no-untyped-call]
    with Loader(source, 4, **arguments) as loader, torch.cuda.stream(side):
        for batch in loader:
            torch.cuda._sleep(CYCLES)  # type: ignore[no-untyped-call]  # everything that follows on this stream waits
            late.append(batch["cam0"].clone())
            del batch  # its memory must not be given to the next batch before the copy has run
        side.synchronize()
    assert all(torch.equal(ours.cpu(), theirs) for ours, theirs in zip(late, at_once, strict=True))


def test_a_picture_that_many_batches_need_is_not_overwritten_while_they_are_made(tmp_path: Path) -> None:
    source = make_source(tmp_path, offsets=(-3, -2, -1, 0), gop=20)
    with Loader(source, 3, device="cuda", shuffle="global", seed=5) as loader:
        once = [batch["cam0"].cpu() for batch in loader]
        loader.set_epoch(0)
        again = [batch["cam0"].cpu() for batch in loader]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(once, again, strict=True))


@pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
def test_nothing_synchronises_in_steady_state(backend: str, tmp_path: Path) -> None:
    source = make_source(tmp_path, frames=120, offsets=(-1, 0))
    with Loader(source, 4, device="cuda", backend=backend, shuffle="block") as loader:
        iterator = iter(loader)
        for _ in range(10):  # kernels are compiled, sessions made, memory taken
            next(iterator)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")  # of this process: its threads are watched too
        try:
            for _ in range(20):
                next(iterator)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_next_does_not_wait_for_what_the_consumer_has_queued(tmp_path: Path) -> None:
    source = make_source(tmp_path, frames=120, offsets=(0,))
    with Loader(source, 4, device="cuda") as loader:
        iterator = iter(loader)
        for _ in range(10):
            next(iterator)
        torch.cuda.synchronize()
        torch.cuda._sleep(100 * CYCLES)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event()  # type: ignore[no-untyped-call]
        end.record()
        for _ in range(2):
            next(iterator)
        ended: bool = end.query()  # type: ignore[no-untyped-call]
        assert not ended, "next waited until the consumer's own work had ended"
        torch.cuda.synchronize()
