"""Batches that are made on a device from planes, as on a GPU: here the device is the CPU and the kernels are
interpreted, so that everything but CUDA itself is at work."""

import gc
import weakref
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from gpuload import Crop, Loader, Transform, loader
from gpuload.device.arena import BatchPool
from gpuload.device.planes import PlaneWriter
from gpuload.errors import DecodeError
from gpuload.pipeline.batch import Batch
from gpuload.pipeline.finish import Finisher
from gpuload.pipeline.handle import WorkerHandle
from gpuload.pipeline.lane import DeviceLane
from tests.source import NumberedSource
from tests.staged import FORMATS, Pictures, assert_near, device_here, make_source
from tests.videos import decode_all

pytestmark = pytest.mark.usefixtures("on_a_device")


@pytest.fixture(scope="module", params=FORMATS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NumberedSource:
    return make_source(tmp_path_factory.mktemp("staged"), request.param)


@pytest.fixture(scope="module")
def pictures(source: NumberedSource) -> Pictures:
    return [decode_all(path) for path in source.paths]


@pytest.mark.parametrize("lanes", [False, True])
def test_every_slot_of_an_epoch_is_the_right_picture(
    source: NumberedSource, pictures: Pictures, lanes: bool, request: pytest.FixtureRequest
) -> None:
    if lanes:
        request.getfixturevalue("in_lanes")
    with Loader(source, 6, shuffle="block", num_threads=2) as loader:
        seen = []
        for batch in loader:
            assert_near(batch, source, pictures)
            seen += batch["index"].tolist()
        stats = loader.stats
    assert sorted(seen) == list(range(len(source)))
    assert stats.amplification == 1.0


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize(
    ("form", "color"),
    [
        ("yuv444p", "colormatrix=bt709"),
        ("yuv444p", "colormatrix=smpte170m:fullrange=on"),
        ("yuv444p", "colormatrix=bt2020nc"),
        ("yuv420p10le", "fullrange=on"),  # no format of its own, as yuvj444p is
    ],
)
def test_matrix_and_range_are_the_streams(
    tmp_path: Path, form: str, color: str, lanes: bool, request: pytest.FixtureRequest
) -> None:
    if lanes:
        request.getfixturevalue("in_lanes")
    tinted = {"tint": form == "yuv444p", "options": {"x264-params": color, "preset": "veryfast"}}
    source = make_source(tmp_path, form, episodes=1, frames=3, offsets=(0,), **tinted)
    pictures = [decode_all(path) for path in source.paths]
    assert form != "yuv444p" or np.ptp(pictures[0][0].astype(int), axis=0).max() > 60
    with Loader(source, 3) as loading:
        for batch in loading:
            assert_near(batch, source, pictures)


def test_a_matrix_that_nothing_converts_is_told_of_packed_pictures_too() -> None:
    frame = av.VideoFrame(64, 48, "uyvy422")
    frame.colorspace = 8
    with pytest.raises(DecodeError, match="colour matrix 8"):
        PlaneWriter().write(frame, np.zeros(64 * 48 * 3, np.uint8), rotation=0, chroma_location=0)


@pytest.mark.parametrize("lanes", [False, True])
def test_a_matrix_that_nothing_converts_is_told(tmp_path: Path, lanes: bool, request: pytest.FixtureRequest) -> None:
    if lanes:
        request.getfixturevalue("in_lanes")
    options = {"x264-params": "colormatrix=YCgCo", "preset": "veryfast"}
    source = make_source(tmp_path, episodes=1, frames=3, offsets=(0,), options=options)
    with Loader(source, 3) as loading, pytest.raises(DecodeError, match="colour matrix 8"):
        next(iter(loading))


@pytest.mark.usefixtures("in_lanes")
def test_the_cpu_takes_its_share_of_what_was_verified(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=6, frames=30, gop=6, offsets=(0,), width=48)
    pictures = [decode_all(path) for path in source.paths]
    kinds = set[type]()
    with Loader(source, 6, shuffle="global", num_threads=2, lookahead=18) as loading:
        for epoch in range(2):
            loading.set_epoch(epoch)
            for step, batch in enumerate(loading):
                assert_near(batch, source, pictures)
                kinds |= {type(worker) for worker in loading._prefetcher._crew if worker.streams}
                if step == 4:
                    break
        assert loading._prefetcher._crew.sharing.allowed() == {("h264", 8)}
    assert kinds == {WorkerHandle, DeviceLane}


@pytest.mark.usefixtures("in_lanes")
def test_who_will_be_done_first_gets_a_run(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=2, frames=12, gop=6, offsets=(0,))
    with Loader(source, 6, num_threads=2) as loading:
        list(loading)
        crew, kind = loading._prefetcher._crew, ("h264", 8)
        crew.settle()
        assert crew.sharing.allowed() == {kind}
        video = source.video(0)
        for on_device, picture_s in ((True, 0.001), (False, 0.010)):
            for _ in range(200):
                crew.sharing.measured(
                    on_device, frames=10, pixels={kind: 10 * video.width * video.height}, busy_s=10 * picture_s
                )

        def picked(packets: int, *, waiting: float) -> type:
            """``waiting``: pictures in front of the device's workers."""
            return type(crew.pick(0, packets, lambda worker: waiting * worker.on_device))

        assert picked(2, waiting=0) == DeviceLane  # 2 ms, on the CPU 20 ms
        assert picked(2, waiting=50) == WorkerHandle  # 52 ms
        assert picked(250, waiting=50) == DeviceLane  # 300 ms, on the CPU 2.5 s
        assert picked(250, waiting=5000) == WorkerHandle


def test_an_idle_loader_does_not_hold_its_last_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, made = Finisher.finish, list[weakref.ref[torch.Tensor]]()

    def noting(self: Finisher, batch: Batch) -> None:
        finish(self, batch)
        assert batch.memory is not None
        made.append(weakref.ref(batch.memory))

    monkeypatch.setattr(Finisher, "finish", noting)
    with Loader(make_source(tmp_path, offsets=(0,)), 4) as loading:
        assert len(list(loading)) == len(made) == 2
        gc.collect()
        assert [memory() for memory in made] == [None, None]


@pytest.mark.usefixtures("in_lanes")
def test_what_was_asked_for_is_not_shared(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=2, frames=12, gop=6, offsets=(0,))
    with Loader(source, 6, backend="pyav", num_threads=2) as loading:
        list(loading)
        assert {type(worker) for worker in loading._prefetcher._crew} == {DeviceLane}
        assert loading.stats.decoded_by == {f"pyav on {device_here()}": loading.stats.frames_decoded}


def test_transforms_are_those_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path, episodes=1, frames=3, offsets=(0,))
    mean_std = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    for transform in (
        Transform(crop=Crop(20, 30, "random"), flip=0.5),
        Transform(resize=(16, 20), crop=(30, 40), normalize=mean_std, dtype="float16", layout="hwc"),
        Transform(resize=(50, 60), flip=True, dtype="bfloat16"),
    ):
        found = []
        for where in (device_here(), None):
            monkeypatch.setattr(loader, "finishing_device", lambda device, where=where: where)
            device = "cpu" if where is None else where
            with Loader(source, 5, transform=transform, seed=4, device=device) as loading:
                found.append(list(loading))
        for ours, theirs in zip(*found, strict=True):
            assert ours["cam0"].dtype == theirs["cam0"].dtype
            scale = 1 if transform.dtype is None else 255 * (0.2 if transform.normalize else 1)
            difference = (ours["cam0"].cpu().double() - theirs["cam0"].double()).abs() * scale
            assert difference.max() <= 3.0
            assert difference.mean() <= 0.7


def test_one_size_of_staging_memory_serves_all_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Windows overlap: how many pictures a batch needs differs. Page-locked memory is dear: no size is to come again.
    source = make_source(tmp_path, episodes=1, frames=24, offsets=(-3, 0))
    taken: list[int] = []
    take = BatchPool.take

    def recorded(self: BatchPool, num_bytes: int) -> Any:
        taken.append(num_bytes)
        return take(self, num_bytes)

    monkeypatch.setattr(BatchPool, "take", recorded)
    monkeypatch.setattr(Finisher, "finish", lambda self, batch: None)
    monkeypatch.setattr(Loader, "_deliver", lambda self, batch: {})
    # pyav: on a GPU nothing else would decode in host memory before it has been verified
    with Loader(source, 4, shuffle="global", num_threads=1, backend="pyav") as loading:
        for _ in range(2):
            for _ in loading:
                pass
    assert len(taken) == 12
    assert taken == sorted(taken)
    assert len(set(taken[6:])) == 1
