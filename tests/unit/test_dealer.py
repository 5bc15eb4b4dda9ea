"""Who does what of a batch that a device makes: which way pictures go, and what crosses."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gpuload.pipeline import crew, route
from gpuload.pipeline.crossing import Crossing
from gpuload.pipeline.dealer import FILL_COST, Dealer
from gpuload.pipeline.lookahead import Lookahead, SeenFrames
from gpuload.pipeline.route import Way
from gpuload.pipeline.work import STAGED
from gpuload.store.cache import BlobCache
from gpuload.store.local import LocalFiles
from tests.source import NumberedSource


class Anybody:
    """Has what a worker is asked for when work is dealt."""

    needs_pts = False

    def __init__(self, *, on_device: bool) -> None:
        self.on_device, self.alive, self.streams = on_device, True, set[int]()


def lookahead_of(source: NumberedSource, batches: list[npt.NDArray[np.int64]]) -> Lookahead:
    return Lookahead(
        source,
        batches,
        budget_bytes=1 << 30,
        picture_bytes=lambda file, field: 1,
        slot_fields=np.full(len(source.offsets), STAGED),
        first_picture=7,
        seen=SeenFrames(source),
    )


def make_source(folder: Path, *, frames: int = 4, offsets: tuple[int, ...] = (-1, 0)) -> NumberedSource:
    return NumberedSource(folder, episodes=1, frames=frames, cameras=1, width=48, height=34, gop=20, offsets=offsets)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here; its driver may decode")
def test_a_loader_says_that_the_gpu_decodes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make_source(tmp_path)
    for backend, told in (("auto", 1), ("pyav", 0)):
        caplog.clear()
        router = route.Router(source, device=torch.device("cuda"), backend=backend)
        assert router.backends()["cam0"][0] == "pyav"
        assert sum("NVDEC decodes none" in record.message for record in caplog.records) == told


@pytest.mark.parametrize("way", [Way("pyav", "cpu"), Way("pyav", "cuda")])
def test_a_picture_crosses_once_however_many_slots_it_fills_and_not_at_all_from_a_device(
    tmp_path: Path, way: Way
) -> None:
    source = make_source(tmp_path, frames=12, offsets=(-2, -1, 0))
    ahead = lookahead_of(source, [np.arange(8)])
    router = route.Router(source, device=torch.device("cpu"), backend="auto")
    workers = crew.Crew(
        router,
        (),
        device=torch.device("cpu"),
        num_processes=1,
        kept_bytes=0,
        device_room=lambda: 0,
        on_done=lambda *_: None,
        on_death=lambda *_: None,
    )
    (worker, *_) = workers.of(way)
    crossing, views = Crossing(ahead), np.zeros((8, 3), np.int64)
    dealer = Dealer(ahead, BlobCache(1 << 20, LocalFiles().read), lambda *_: worker, crossing=crossing)
    staged = crossing.staged(0, views, lambda file: True)
    shares, lost = dealer.shares(0, views, views, lambda shares: False, staged)
    assert lost is None
    workers.close()
    for lease in shares[worker].leases:
        lease.release()
    picture_bytes = -(-48 * 34 * 3 // 2 // 64) * 64
    assert staged.room == 8 * picture_bytes
    assert np.array_equal(staged.picture[2:, 1], staged.picture[1:-1, 2])
    if way.device == "cpu":
        assert staged.num_bytes == 8 * picture_bytes
        assert sorted(staged.offset) == np.unique(staged.picture).tolist()
        assert sorted(staged.offset.values()) == (np.arange(8) * picture_bytes).tolist()
        assert [(name, STAGED, offset, 0) for name, offset in staged.offset.items()] == shares[worker].fills
    else:
        assert [name for name, *_ in shares[worker].fills] == np.unique(staged.picture).tolist()
        assert staged.num_bytes == 0


@pytest.mark.parametrize("on_device", [False, True])
def test_later_batches_ask_for_what_has_not_crossed(tmp_path: Path, on_device: bool) -> None:
    source = make_source(tmp_path, frames=12, offsets=(-4, 0))
    ahead = lookahead_of(source, [np.arange(4), np.arange(4, 8), np.arange(8, 12)])
    first: Any = Anybody(on_device=on_device)
    second: Any = Anybody(on_device=on_device)
    workers, crossing = [first], Crossing(ahead)
    frame_of = np.argsort(source.video(0).frame_packet).tolist()  # of each picture: one group of all packets
    cache = BlobCache(1 << 20, LocalFiles().read)
    dealer = Dealer(ahead, cache, lambda *_: workers[-1], crossing=crossing)

    def dealt(index: int, worker: Any) -> tuple[list[int], dict[int, int], dict[int, int]]:
        """Frames that fills ask for, how often each task's are asked for, and for how long what crosses stays."""
        views = np.zeros((4, 2), np.int64)
        staged = crossing.staged(index, views, lambda file: True)
        shares, lost = dealer.shares(index, views, views, lambda shares: False, staged)
        assert lost is None
        share = shares[worker]
        for lease in share.leases:
            lease.release()
        crossing_bytes = len(share.fills) * staged.room // len(np.unique(staged.picture))
        assert staged.num_bytes == (0 if on_device else crossing_bytes)
        packets = sum(len(task.sizes) for task in share.tasks)
        # what is asked for again, because somebody died, counts as what crossed
        assert index == 2 or share.cost == pytest.approx(packets + FILL_COST * len(share.fills))
        uses = {frame_of[name - 7]: n for task in share.tasks for name, n in zip(task.pictures, task.uses, strict=True)}
        stays = {frame_of[one.name - 7]: one.batches for one in staged.staying}
        return sorted(frame_of[name - 7] for name, *_ in share.fills), uses, stays

    shown = {**dict.fromkeys(range(8), 2), **dict.fromkeys(range(8, 12), 1)}
    if on_device:
        assert dealt(0, first) == ([0, 1, 2, 3], shown, {})
        assert dealt(1, first) == ([0, 1, 2, 3, 4, 5, 6, 7], {}, {})
        first.alive = False
        workers.append(second)
        assert dealt(2, second) == ([4, 5, 6, 7, 8, 9, 10, 11], dict.fromkeys(range(4, 12), 1), {})
    else:
        assert dealt(0, first) == ([0, 1, 2, 3], dict.fromkeys(range(12), 1), dict.fromkeys(range(4), 1))
        assert dealt(1, first) == ([4, 5, 6, 7], {}, dict.fromkeys(range(4, 8), 1))
        first.alive = False  # what was to cross with the second batch may never have done so
        workers.append(second)
        assert dealt(2, second) == ([4, 5, 6, 7, 8, 9, 10, 11], dict.fromkeys(range(4, 12), 1), {})
