"""Batches on a GPU: the right pictures, whichever way they took there."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpuload import Crop, Loader, Transform
from gpuload.device.nvdec import NvdecTable
from gpuload.errors import DecodeError, GpuloadError
from tests.gpu.pictures import HEIGHT, WIDTH, make_source, on_threads
from tests.source import NumberedSource
from tests.videos import decode_all

LEVELS = 3
"""Largest difference to swscale, as in tests/staged.py: the videos are grey."""
Pictures = list[list[Any]]


def pictures_of(source: NumberedSource) -> Pictures:
    return [decode_all(path) for path in source.paths]


def assert_near(batch: dict[str, Any], source: NumberedSource, pictures: Pictures) -> None:
    for row, sample in enumerate(batch["index"].tolist()):
        refs = source.frames(np.array([sample]))
        for slot, (camera, t) in enumerate(itertools.product(range(source.cameras), range(len(source.offsets)))):
            expected = pictures[refs.file[0, slot]][refs.frame[0, slot]].astype(int)
            part = batch[f"cam{camera}"].view(len(batch["index"]), -1, 3, HEIGHT, WIDTH)[row, t]
            assert np.abs(part.cpu().numpy().astype(int) - expected).max() <= LEVELS, (sample, camera, t)


@pytest.mark.parametrize("shuffle", [False, "block", "global"])
@pytest.mark.parametrize(
    ("codec", "pixel_format"), [("libx264", "yuv420p"), ("libx265", "yuv420p"), ("libx265", "yuv420p10le")]
)
def test_every_slot_of_an_epoch_is_the_right_picture(
    codec: str, pixel_format: str, shuffle: bool | str, tmp_path: Path
) -> None:
    source = make_source(tmp_path, codec=codec, pix_fmt=pixel_format, cameras=2)
    pictures = pictures_of(source)
    with Loader(source, 6, shuffle=shuffle, device="cuda") as loader:
        seen = []
        for batch in loader:
            assert all(value.is_cuda for value in batch.values() if isinstance(value, torch.Tensor))
            assert_near(batch, source, pictures)
            seen += batch["index"].tolist()
        stats = loader.stats
    assert sorted(seen) == list(range(len(source)))
    assert {backend for backend, _ in stats.backends.values()} == {"torchcodec"}, stats.backends
    assert stats.amplification < 1.5


@pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
def test_transforms_are_those_of_the_cpu(backend: str, tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=1, frames=20, offsets=(0,))
    mean_std = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    for transform in (
        Transform(crop=Crop(100, 120, "random"), flip=0.5),
        Transform(resize=(64, 80), crop=(150, 200), normalize=mean_std, dtype="float16", layout="hwc"),
        Transform(resize=(224, 300), flip=True, dtype="bfloat16"),
    ):
        found = []
        ways: tuple[dict[str, Any], ...] = ({"device": "cuda", "backend": backend}, {"device": "cpu"})
        for arguments in ways:
            with Loader(source, 5, transform=transform, seed=4, shuffle=True, **arguments) as loading:
                found.append([{"index": b["index"].cpu(), "cam0": b["cam0"].cpu()} for b in loading])
        for ours, theirs in zip(*found, strict=True):
            assert torch.equal(ours["index"], theirs["index"])
            assert ours["cam0"].dtype == theirs["cam0"].dtype
            scale = 1 if transform.dtype is None else 255 * (0.2 if transform.normalize else 1)
            difference = (ours["cam0"].double() - theirs["cam0"].double()).abs() * scale
            assert difference.max() <= 3.0
            assert difference.mean() <= 0.7


def test_what_nvdec_does_not_decode_comes_from_the_cpu_with_the_reason(tmp_path: Path, nvdec: NvdecTable) -> None:
    has_av1 = nvdec.of("av1", "420", 8).supported
    for name, arguments, on_gpu in (
        ("av1", {"codec": "libsvtav1"}, has_av1),
        ("444", {"codec": "libx264", "pix_fmt": "yuv444p"}, nvdec.of("h264", "444", 8).supported),
    ):
        (tmp_path / name).mkdir()
        source = make_source(tmp_path / name, episodes=1, **arguments)
        pictures = pictures_of(source)
        with Loader(source, 8, device="cuda", num_threads=4) as loader:
            for batch in loader:
                assert_near(batch, source, pictures)
            ((backend, reason),) = loader.stats.backends.values()
        assert backend == ("torchcodec" if on_gpu else "pyav"), reason
        assert on_gpu or nvdec.device in reason


def test_damage_is_an_error_of_its_batch_and_others_come(tmp_path: Path) -> None:
    source = make_source(tmp_path, frames=40, offsets=(0,), gop=5, codec="libx264")
    pictures = pictures_of(source)
    video = source.video(0)
    with open(source.paths[0], "r+b") as file:
        file.seek(int(video.pos[5]))
        file.write(bytes(int(video.size[5])))
    outcomes: list[str | GpuloadError] = []
    with Loader(source, 5, device="cuda") as loader:
        iterator = iter(loader)
        while True:
            try:
                assert_near(next(iterator), source, pictures)
                outcomes.append("good")
            except StopIteration:
                break
            except GpuloadError as error:
                outcomes.append(error)
    assert [type(outcome) for outcome in outcomes] == [str, DecodeError, *[str] * 14]
    assert "e0c0.mp4" in str(outcomes[1])


def test_leaving_and_closing_end_every_thread(tmp_path: Path) -> None:
    source = make_source(tmp_path, episodes=1, offsets=(0,))
    with Loader(source, 2, device="cuda") as loader:
        for _ in range(2):
            next(iter(loader))
        kept = next(iter(loader))["cam0"]
    assert not on_threads()
    assert kept.float().mean() > 0  # a delivered batch outlives its loader


def test_resuming_gives_the_same_batches(tmp_path: Path) -> None:
    source = make_source(tmp_path, offsets=(0,))
    with Loader(source, 5, device="cuda", shuffle="block", seed=3) as loader:
        whole = [batch["cam0"].cpu() for batch in loader]
        iterator = iter(loader)
        for _ in range(4):
            next(iterator)
        state = loader.state_dict()
    with Loader(source, 5, device="cuda", shuffle="block", seed=3) as loader:
        loader.load_state_dict(state)
        rest = [batch["cam0"].cpu() for batch in loader]
    assert len(rest) == len(whole) - 4
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(rest, whole[4:], strict=True))
