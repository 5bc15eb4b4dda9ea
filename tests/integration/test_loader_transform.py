"""A loader's transforms against torch on sequentially decoded pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from gpuload import ConfigError, Crop, GpuloadError, LeRobotDataset, Loader, Transform
from gpuload.demo import write_dataset
from gpuload.index.video import VideoIndex
from tests.lerobot_sets import add_feature
from tests.source import NumberedSource
from tests.unit.test_lerobot import png
from tests.videos import decode_all, make_video

Pictures = list[list[npt.NDArray[np.uint8]]]
CROP = Crop(40, 60, "random")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> NumberedSource:
    return NumberedSource(tmp_path_factory.mktemp("transform"))


@pytest.fixture(scope="module")
def pictures(source: NumberedSource) -> Pictures:
    return [decode_all(path) for path in source.paths]


def batches(source: NumberedSource, transform: Any, **arguments: Any) -> list[dict[str, Any]]:
    with Loader(source, 8, transform=transform, seed=3, num_threads=2, **arguments) as loader:
        return list(loader)


def by_sample(loaded: list[dict[str, Any]], key: str) -> dict[int, torch.Tensor]:
    return {int(i): picture for batch in loaded for i, picture in zip(batch["index"], batch[key], strict=True)}


def windows(shown: npt.NDArray[np.uint8], picture: npt.NDArray[np.uint8]) -> list[tuple[int, int, bool]]:
    """(top, left, flip) of every window of ``picture`` that is exactly ``shown``."""
    _, height, width = shown.shape
    return [
        (top, left, flip)
        for flip in (False, True)
        for top in range(picture.shape[1] - height + 1)
        for left in range(picture.shape[2] - width + 1)
        if np.array_equal(
            shown[:, ::4, ::4] if not flip else shown[:, ::4, ::-1][:, :, ::4],
            picture[:, top : top + height : 4, left : left + width : 4],
        )
    ]


def test_resized_normalized_and_cast(source: NumberedSource, pictures: Pictures) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    transform = Transform(resize=(32, 24), normalize=(mean, std), dtype=torch.float16, layout="hwc")
    loaded = by_sample(batches(source, transform, shuffle="block"), "cam1")
    assert len(loaded) == len(source)
    for sample, window in loaded.items():
        assert window.dtype == torch.float16
        assert window.shape == (2, 32, 24, 3)
        refs = source.frames(np.array([sample]))
        for t in range(2):
            picture = torch.from_numpy(pictures[refs.file[0, 2 + t]][refs.frame[0, 2 + t]].copy())[None].double()
            small = torch.nn.functional.interpolate(picture, (32, 24), mode="bilinear", antialias=True)[0]
            expected = (small.permute(1, 2, 0) / 255 - torch.tensor(mean)) / torch.tensor(std)
            assert (window[t].double() - expected).abs().max() < 1 / 255 / 0.2 + 3e-3


def test_a_window_shares_its_draw_and_cameras_do_not(source: NumberedSource, pictures: Pictures) -> None:
    loaded = batches(source, Transform(crop=CROP, flip=0.5))
    seen: dict[str, list[tuple[int, int, bool]]] = {}
    for camera, key in enumerate(("cam0", "cam1")):
        for sample, window in list(by_sample(loaded, key).items())[:24]:
            refs = source.frames(np.array([sample]))
            found = [
                set(windows(window[t].numpy(), pictures[refs.file[0, 2 * camera + t]][refs.frame[0, 2 * camera + t]]))
                for t in range(2)
            ]
            (view,) = found[0] & found[1]
            seen.setdefault(key, []).append(view)
    assert len(set(seen["cam0"])) > 15
    assert seen["cam0"] != seen["cam1"]


def test_draws_depend_on_neither_order_nor_batch_nor_ranks(source: NumberedSource) -> None:
    transform = Transform(crop=CROP, flip=0.5)
    plain = by_sample(batches(source, transform), "cam0")
    mixed = by_sample(batches(source, transform, shuffle="global", lookahead=16), "cam0")
    rank = by_sample(batches(source, transform, shuffle="block", rank=1, world_size=2), "cam0")
    for other in (mixed, rank):
        assert all(torch.equal(plain[sample], picture) for sample, picture in other.items())


def test_epochs_differ_and_resuming_repeats(source: NumberedSource) -> None:
    arguments: dict[str, Any] = {"transform": Transform(crop=CROP, flip=0.5), "shuffle": "global", "seed": 3}
    with Loader(source, 8, **arguments) as loader:
        first = by_sample(list(loader), "cam0")
        loader.set_epoch(1)
        iterator = iter(loader)
        for _ in range(4):
            next(iterator)
        state = loader.state_dict()
        rest = list(iterator)
        second = by_sample(rest, "cam0")
    assert sum(torch.equal(first[sample], picture) for sample, picture in second.items()) < 5
    with Loader(source, 8, **arguments) as loader:
        loader.load_state_dict(state)
        again = list(loader)
    assert len(again) == len(rest)
    assert all(torch.equal(a["cam0"], b["cam0"]) for a, b in zip(rest, again, strict=True))


def test_cameras_may_share_a_draw_and_have_their_own_transform(source: NumberedSource) -> None:
    shared = Transform(crop=CROP, share_cameras=True)
    with Loader(source, 8, transform={"cam0": shared, "cam1": shared}) as loader:
        views = loader._shaping.views(np.arange(50), 0)
    assert np.array_equal(views[:, 0], views[:, 1])
    (batch, *_) = batches(source, {"cam1": Transform(resize=(10, 12))})
    assert batch["cam0"].shape == (8, 2, 3, 64, 96)
    assert batch["cam1"].shape == (8, 2, 3, 10, 12)


def test_unknown_cameras_are_refused(source: NumberedSource) -> None:
    with pytest.raises(ConfigError, match=r"front.*cam0, cam1"):
        Loader(source, 8, transform={"front": Transform()})
    with pytest.raises(ConfigError, match="Transform"):
        Loader(source, 8, transform=lambda picture: picture)  # type: ignore[arg-type]


def test_image_transforms_of_the_dataset_are_applied_and_exclude_transform(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "demo", episodes=1, frames=20, width=96, height=64)

    def darker(pictures: torch.Tensor) -> torch.Tensor:
        return pictures[..., ::2, ::2] * 0.5

    dataset = LeRobotDataset(root, image_transforms=darker)
    (key, *_) = dataset.meta.camera_keys
    with Loader(dataset, 4) as loader:
        batch = next(iter(loader))
    assert all(torch.equal(batch[key][i], torch.as_tensor(dataset[i][key])) for i in range(4))
    with pytest.raises(ConfigError, match="image_transforms"):
        Loader(dataset, 4, transform=Transform())


def test_image_features_are_transformed_too(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", episodes=1, frames=20, width=96, height=64)
    stored = np.random.default_rng(0).integers(0, 256, (20, 30, 40, 3), np.uint8)
    rows = [{"bytes": png(picture), "path": None} for picture in stored]
    add_feature(
        root, "map", "image", [30, 40, 3], pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    )
    with pytest.raises(ConfigError, match="map: a crop of 40x40 leaves the picture of 30x40"):
        Loader(LeRobotDataset(root), 4, transform={"map": Transform(crop=(40, 40))})
    transform = Transform(crop=(20, 30), resize=(10, 12), flip=True, dtype="uint8", layout="hwc")
    with Loader(LeRobotDataset(root, delta_timestamps={"map": [-1 / 30, 0.0]}), 4, transform=transform) as loader:
        batch = next(iter(loader))
    for row in range(4):
        for t, frame in enumerate((max(row - 1, 0), row)):
            window = torch.from_numpy(stored[frame, 5:25, 5:35]).permute(2, 0, 1)[None].double()
            small = torch.nn.functional.interpolate(window, (10, 12), mode="bilinear", antialias=True)[0]
            assert (batch["map"][row, t].permute(2, 0, 1).double() - small.flip(-1)).abs().max() <= 0.51


def kept_bytes(source: NumberedSource, transform: Transform | None) -> int:
    with Loader(source, 8, shuffle="global", transform=transform, num_threads=1) as loader:
        for _ in loader:
            pass
        return loader.stats.kept_bytes


def test_of_small_pictures_only_what_is_shown_waits_for_later_batches(source: NumberedSource) -> None:
    frames = 2 * len(source)
    whole = kept_bytes(source, None)
    assert whole > 0.5 * frames * 96 * 64 * 1.5  # most frames wait at once in so short an epoch
    assert kept_bytes(source, Transform(resize=(20, 24))) <= frames * 3 * 20 * 24
    assert kept_bytes(source, Transform(crop=(20, 24), flip=0.5, dtype="float32")) <= frames * 3 * 20 * 24
    assert kept_bytes(source, Transform(crop=Crop(20, 24, "random"))) > 0.5 * frames * 96 * 64 * 1.5


def test_a_budget_counts_what_is_kept(tmp_path: Path) -> None:
    source = NumberedSource(tmp_path, episodes=2, frames=60, gop=30, cameras=1)
    frame = 3 * 16 * 24

    def amplification(transform: Transform | None) -> float:
        with Loader(
            source, 4, shuffle="global", transform=transform, frame_cache_bytes=120 * frame, num_threads=1
        ) as loader:
            for _ in loader:
                pass
            assert loader.stats.kept_bytes <= 120 * max(frame, 96 * 64 * 1.5 + 4096)
            return loader.stats.amplification

    assert amplification(Transform(resize=(16, 24))) == 1.0
    assert amplification(None) > 2.0


class OneFileForBoth(NumberedSource):
    """Both cameras are views of the same video."""

    def frames(self, samples: npt.NDArray[np.int64]) -> Any:
        refs = super().frames(samples)
        refs.file[:, 2:] = refs.file[:, :2]
        return refs


def test_a_file_that_two_keys_show_differently(tmp_path: Path) -> None:
    source = OneFileForBoth(tmp_path, episodes=2)
    pictures = [decode_all(path) for path in source.paths]
    transform = {"cam0": Transform(crop=Crop(20, 24, (3, 5))), "cam1": Transform(crop=Crop(30, 20, (6, 7)))}
    loaded = batches(source, transform, shuffle="global")
    first, second = by_sample(loaded, "cam0"), by_sample(loaded, "cam1")
    assert len(first) == len(source)
    for sample in first:
        refs = source.frames(np.array([sample]))
        for t in range(2):
            shown = pictures[refs.file[0, t]][refs.frame[0, t]]
            assert np.array_equal(first[sample][t].numpy(), shown[:, 3:23, 5:29])
            assert np.array_equal(second[sample][t].numpy(), shown[:, 6:36, 7:27])


@pytest.mark.parametrize(
    ("form", "width", "height", "rotation"),
    [("yuv420p", 96, 64, 0), ("yuv444p", 96, 64, 90), ("yuv420p10le", 96, 64, 270), ("yuv420p", 94, 62, 180)],
)
def test_a_picture_that_is_kept_small_is_flipped_for_some_samples_and_not_for_others(
    tmp_path: Path, form: str, width: int, height: int, rotation: int
) -> None:
    source = Turned(tmp_path, rotation, episodes=1, cameras=1, width=width, height=height, pix_fmt=form)
    pictures = [np.rot90(p, rotation // 90, axes=(1, 2)) for p in decode_all(source.paths[0])]
    _, rows, columns = pictures[0].shape
    top, left = (rows - 21) // 2, (columns - 30) // 2
    loaded = by_sample(batches(source, Transform(crop=(21, 30), flip=0.5), shuffle="global"), "cam0")
    flips = set()
    for sample, window in loaded.items():
        refs = source.frames(np.array([sample]))
        shown = np.stack([pictures[f][:, top : top + 21, left : left + 30] for f in refs.frame[0]])
        flip = np.array_equal(window.numpy(), shown[..., ::-1])
        assert flip or np.array_equal(window.numpy(), shown)
        flips.add(flip)
    assert len(loaded) == len(source)
    assert flips == {False, True}


class Turned(NumberedSource):
    """Its files say that they are to be shown rotated."""

    def __init__(self, folder: Path, rotation: int, **arguments: Any) -> None:
        super().__init__(folder, **arguments)
        self._rotation = rotation
        if rotation % 180:
            self._fields = tuple(replace(f, height=f.width, width=f.height) for f in self._fields)

    def video(self, file: int) -> VideoIndex:
        return replace(super().video(file), rotation=self._rotation)


@pytest.mark.parametrize("transform", [Transform(resize=(20, 24)), Transform(crop=Crop(20, 24, "random")), None])
def test_a_file_of_another_size_fails_its_batches_and_no_others(tmp_path: Path, transform: Transform | None) -> None:
    source = NumberedSource(tmp_path, episodes=3, cameras=1)
    make_video(source.paths[1], width=80, height=64, frames=40, gop=10)
    with Loader(source, 8, transform=transform, num_threads=2) as loader:
        iterator, outcomes = iter(loader), list[str]()
        while True:
            try:
                next(iterator)
                outcomes.append("good")
            except StopIteration:
                break
            except GpuloadError as error:
                outcomes.append(str(error))
    assert outcomes[:5] == outcomes[10:] == ["good"] * 5
    assert all("80x64" in text and "96x64" in text for text in outcomes[5:10])


@pytest.mark.parametrize("kind", [int, np.int32, np.int64])
def test_numpy_integers_name_the_same_window(source: NumberedSource, pictures: Pictures, kind: Any) -> None:
    transform = Transform(crop=Crop(kind(20), kind(24), (kind(3), kind(5))))
    for sample, window in by_sample(batches(source, transform), "cam0").items():
        refs = source.frames(np.array([sample]))
        assert np.array_equal(window[1].numpy(), pictures[refs.file[0, 1]][refs.frame[0, 1]][:, 3:23, 5:29])
