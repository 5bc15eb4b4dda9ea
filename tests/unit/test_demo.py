"""The demo dataset: valid, exact, decodable."""

import json
import os
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gpuload.demo import write_dataset
from gpuload.errors import ConfigError, DatasetError
from gpuload.view import contact_sheet

CAMERA = "observation.images.top"


def pictures(path: Path) -> list[tuple[int, bool, float]]:
    """Of every picture in sequence: the number that its bottom row spells, whether it is a keyframe, its time."""
    out = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            grey = frame.to_ndarray(format="gray")
            height, width = grey.shape
            cells = grey[-height // 32, width // 16 // 2 :: width // 16][:16] > 128
            assert frame.time is not None
            out.append((int((cells * (1 << np.arange(16))).sum()), bool(frame.key_frame), frame.time))
    return out


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
def test_every_picture_spells_its_number_and_episodes_begin_with_a_keyframe(tmp_path: Path, codec: str) -> None:
    root = write_dataset(
        tmp_path, episodes=3, frames=21, cameras=[CAMERA], width=128, height=96, codec=codec, gop=8, frames_per_file=40
    )
    files = sorted((root / "videos" / CAMERA).rglob("*.mp4"))
    shown = [pictures(path) for path in files]
    assert [len(part) for part in shown] == [42, 21]
    assert [number for part in shown for number, _, _ in part] == list(range(63))
    assert all(key for part in shown for i, (_, key, _) in enumerate(part) if i % 21 == 0)
    for part in shown:
        assert np.allclose([time for _, _, time in part], np.arange(len(part)) / 30, atol=1e-4)


def test_the_tables_agree_with_each_other(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, episodes=3, frames=10, width=64, height=48, frames_per_file=20)
    info = json.loads((root / "meta" / "info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["codebase_version"]) == (3, 30, "v3.0")
    rows = pq.read_table(root / "data" / "chunk-000" / "file-000.parquet")
    assert rows["index"].to_pylist() == list(range(30))
    assert rows["frame_index"].to_pylist() == list(range(10)) * 3
    assert np.allclose(rows["timestamp"].to_numpy(), np.tile(np.arange(10) / 30, 3))
    episodes = pq.read_table(root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    assert episodes[f"videos/{CAMERA}/file_index"].to_pylist() == [0, 0, 1]
    assert np.allclose(episodes[f"videos/{CAMERA}/from_timestamp"].to_numpy(), [0, 1 / 3, 0])
    stats = json.loads((root / "meta" / "stats.json").read_text())
    assert np.allclose(stats["action"]["mean"], np.array(rows["action"].to_pylist()).mean(0), atol=1e-6)
    assert np.array(stats[CAMERA]["std"]).shape == (3, 1, 1)
    assert min(np.ravel(stats[CAMERA]["std"])) > 0.02, "flat pictures prove nothing"


def test_the_same_seed_writes_the_same_rows(tmp_path: Path) -> None:
    tables = [
        pq.read_table(
            write_dataset(tmp_path / name, seed=seed, episodes=1, frames=5, width=64, height=48)
            / "data/chunk-000/file-000.parquet"
        )
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    seen: list[int] = []
    write_dataset(tmp_path, episodes=2, frames=7, width=64, height=48, on_progress=seen.append)
    assert sum(seen) == 2 * 2 * 7


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="needs Linux's scheduling policies")
def test_encoding_leaves_the_thread_as_it_was(tmp_path: Path) -> None:
    """SVT-AV1 makes the calling thread a real-time one where it may: as root, in containers, say."""
    before = os.sched_getscheduler(0)
    write_dataset(tmp_path / "set", episodes=1, frames=8, width=128, height=96, codec="libsvtav1", gop=2)
    assert os.sched_getscheduler(0) == before


def test_an_existing_dataset_is_not_overwritten(tmp_path: Path) -> None:
    write_dataset(tmp_path, episodes=1, frames=2, width=64, height=48)
    with pytest.raises(DatasetError, match="already holds a dataset"):
        write_dataset(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"frames": 0}, "frames"), ({"width": 65}, "65x240"), ({"codec": "no-such-codec"}, "no-such-codec")],
)
def test_what_cannot_be_encoded_is_refused_by_name(tmp_path: Path, arguments: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        write_dataset(tmp_path, **arguments)  # type: ignore[arg-type]


def test_a_contact_sheet_shows_the_pictures_it_was_given(tmp_path: Path) -> None:
    red = torch.zeros(2, 3, 3, 48, 64, dtype=torch.uint8)
    red[:, :, 0] = 200
    blue = torch.zeros(2, 3, 48, 64)
    blue[:, 2] = 1.0
    path = contact_sheet({"red": red, "blue": blue}, tmp_path / "sheet.png", tile_width=64)
    with Image.open(path) as sheet:
        colours = {colour: count for count, colour in sheet.convert("RGB").getcolors(maxcolors=1 << 20) or []}
    assert colours[(200, 0, 0)] == 2 * 3 * 48 * 64
    assert colours[(0, 0, 255)] == 2 * 48 * 64


def test_a_contact_sheet_of_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="action"):
        contact_sheet({"action": torch.zeros(2, 6)}, tmp_path / "sheet.png")
