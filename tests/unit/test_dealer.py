"""Who does what of a batch that a device makes: which way pictures go, and what crosses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gpuload.pipeline import crew, route
from gpuload.pipeline.dealer import Dealer
from gpuload.pipeline.lookahead import Lookahead, SeenFrames
from gpuload.pipeline.route import Way
from gpuload.pipeline.work import STAGED
from gpuload.store.cache import BlobCache
from gpuload.store.local import LocalFiles
from tests.source import NumberedSource


def make_source(folder: Path, *, frames: int = 4, offsets: tuple[int, ...] = (-1, 0)) -> NumberedSource:
    return NumberedSource(folder, episodes=1, frames=frames, cameras=1, width=48, height=34, offsets=offsets)


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
    seen = SeenFrames(source)
    ahead = Lookahead(
        source,
        [np.arange(8)],
        budget_bytes=1 << 30,
        picture_bytes=lambda file, field: 1,
        slot_fields=np.full(3, STAGED),
        first_picture=7,
        seen=seen,
    )
    router = route.Router(source, device=torch.device("cpu"), backend="auto")
    workers = crew.Crew(
        router,
        (),
        device=torch.device("cpu"),
        num_processes=1,
        kept_bytes=0,
        device_kept_bytes=0,
        on_done=lambda *_: None,
        on_death=lambda *_: None,
    )
    (worker, *_) = workers.of(way)
    dealer, views = Dealer(ahead, BlobCache(1 << 20, LocalFiles().read), lambda *_: worker), np.zeros((8, 3), np.int64)
    staged = dealer.staged(0, views, lambda file: True)
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
        assert np.array_equal(np.unique(staged.offset), np.arange(8) * picture_bytes)
        assert np.array_equal(staged.offset[2:, 1], staged.offset[1:-1, 2])
        assert [offset for _, _, offset, _ in shares[worker].fills] == staged.offset.ravel().tolist()
    else:
        assert staged.num_bytes == 0
