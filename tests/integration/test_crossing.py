"""Pictures that the CPU decodes cross to the device once a lookahead, and later batches show them where they are."""

import itertools
import os
import signal
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from gpuload import Loader
from gpuload.device.planes import staged_bytes
from gpuload.errors import DecodeError, GpuloadError, WorkerDied
from gpuload.pipeline.batch import Batch
from gpuload.pipeline.finish import Finisher
from gpuload.pipeline.handle import WorkerHandle
from tests.source import NumberedSource
from tests.staged import assert_near, make_source, outcomes_of
from tests.videos import decode_all

pytestmark = pytest.mark.usefixtures("on_a_device")
PICTURE_BYTES = -(-staged_bytes("yuv420p", 48, 34) // 64) * 64


@pytest.fixture
def crossed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each copy to the device."""
    copied, copies = Finisher._copied, list[int]()

    def noting(self: Finisher, host: torch.Tensor) -> torch.Tensor:
        copies.append(host.nbytes)
        return copied(self, host)

    monkeypatch.setattr(Finisher, "_copied", noting)
    return copies


def frames_of(source: NumberedSource, samples: list[int]) -> set[tuple[int, int]]:
    refs = source.frames(np.array(samples))
    return set(zip(refs.file.ravel().tolist(), refs.frame.ravel().tolist(), strict=True))


@pytest.mark.parametrize("lookahead", [1000, 8])
def test_a_picture_crosses_once_a_lookahead(tmp_path: Path, crossed: list[int], lookahead: int) -> None:
    source = make_source(tmp_path, frames=8, gop=4, offsets=(-3, 0), cameras=2)
    pictures = [decode_all(path) for path in source.paths]
    order: list[list[int]] = []
    # pyav: what a GPU could decode is decoded here too
    with Loader(source, 2, shuffle="global", num_threads=2, lookahead=lookahead, backend="pyav") as loading:
        for batch in loading:
            assert_near(batch, source, pictures)
            order.append(batch["index"].tolist())
        finishing = loading._prefetcher._finishing
        assert finishing is not None
        assert finishing.kept_bytes == 0, "what nobody shows any more is still there"
    per_lookahead = [list(chain(*order[i : i + lookahead // 2])) for i in range(0, len(order), lookahead // 2)]
    distinct = sum(len(frames_of(source, samples)) for samples in per_lookahead)
    assert sum(crossed) == distinct * PICTURE_BYTES
    assert sum(len(frames_of(source, samples)) for samples in order) > distinct, "no picture was in two batches"


def test_what_is_kept_is_counted(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=1, frames=16, gop=1, offsets=(-8, 0))
    with Loader(source, 4, num_threads=1, backend="pyav") as loading:
        for _ in loading:
            pass
        prefetcher = loading._prefetcher
        assert prefetcher._finishing in prefetcher.tally.kept
        assert loading.stats.kept_bytes >= 8 * PICTURE_BYTES  # frames 0 to 7 are shown again two batches later
        assert loading.stats.frames_decoded == 16


def test_damage_costs_only_the_batches_that_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path, frames=15, offsets=(-3, 0), gop=5)
    pictures = [decode_all(path) for path in source.paths]
    for number, path in enumerate(source.paths):
        video = source.video(number)
        with open(path, "r+b") as file:
            file.seek(int(video.pos[5]))
            file.write(bytes(int(video.size[5])))
    finish, shown = Finisher.finish, list[set[tuple[int, int]]]()

    def noting(self: Finisher, batch: Batch) -> None:
        shown.append(frames_of(source, batch.samples.tolist()))
        finish(self, batch)

    monkeypatch.setattr(Finisher, "finish", noting)
    with Loader(source, 2, shuffle="global", num_threads=2, backend="pyav") as loading:
        outcomes = outcomes_of(loading, source, pictures)
    damaged = [{f"e{file}c0.mp4" for file, frame in frames if 5 <= frame < 10} for frames in shown]
    assert [isinstance(outcome, DecodeError) for outcome in outcomes] == list(map(bool, damaged))
    for outcome, names in zip(outcomes, damaged, strict=True):
        assert outcome == "good" or any(name in str(outcome) for name in names), "not what is wrong with its own frames"
    assert {1, 2} <= set(map(len, damaged)), "no batch shows damage of one file, or none of both"
    pairs = itertools.combinations(range(len(shown)), 2)
    assert any(damaged[a] and not damaged[b] and shown[a] & shown[b] for a, b in pairs), "none crossed in vain"


def test_a_worker_that_dies_costs_batches_and_no_wrong_picture(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=4, frames=8, gop=4, offsets=(-3, 0))
    pictures = [decode_all(path) for path in source.paths]
    with Loader(source, 4, shuffle="global", num_threads=2, backend="pyav") as loading:
        iterator, outcomes = iter(loading), list[str | GpuloadError]()
        for step in range(8):
            if step == 2:
                worker = next(w for w in loading._prefetcher._crew if isinstance(w, WorkerHandle))
                os.kill(worker.pid, signal.SIGKILL)
                while worker.alive:
                    time.sleep(0.01)
            try:
                assert_near(next(iterator), source, pictures)
                outcomes.append("good")
            except GpuloadError as error:
                outcomes.append(error)
        assert outcomes[:2] == ["good"] * 2
        assert all(isinstance(outcome, str | WorkerDied) for outcome in outcomes)
        assert outcomes_of(loading, source, pictures) == ["good"] * 8


def test_batches_are_made_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a later one has its pictures first."""
    source = make_source(tmp_path, episodes=2, frames=8, gop=8, offsets=(0,))
    pictures, made = [decode_all(path) for path in source.paths], list[int]()
    finish = Finisher.finish

    def noting(self: Finisher, batch: Batch) -> None:
        made.append(batch.number)
        finish(self, batch)

    monkeypatch.setattr(Finisher, "finish", noting)
    with Loader(source, 8, num_threads=2, backend="pyav") as loading:
        loading._prefetcher.warm_up()
        slow, quick = (w for w in loading._prefetcher._crew if isinstance(w, WorkerHandle))
        os.kill(slow.pid, signal.SIGSTOP)  # before there is anything to do
        iterator = iter(loading)
        deadline = time.monotonic() + 20.0
        while not (slow.pending and quick.streams and not quick.pending):  # the other one is done with the second batch
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert slow.pending[0].batch == 0
        time.sleep(0.1)
        assert made == []
        os.kill(slow.pid, signal.SIGCONT)
        assert_near(next(iterator), source, pictures)
        assert_near(next(iterator), source, pictures)
    assert made == [0, 1]


def test_leaving_an_epoch_leaves_no_pictures(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=1, frames=16, gop=16, offsets=(-10, 0))
    pictures = [decode_all(path) for path in source.paths]
    with Loader(source, 2, num_threads=1, backend="pyav") as loading:
        finishing = loading._prefetcher._finishing
        assert finishing is not None
        iterator = iter(loading)
        next(iterator)
        next(iterator)
        assert finishing.kept_bytes > 0
        loading._prefetcher.stop()
        assert finishing.kept_bytes == 0
        assert outcomes_of(loading, source, pictures) == ["good"] * 8
