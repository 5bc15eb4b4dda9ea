"""Laws of LeRobot's depth codes, from the formula in float64."""

import io
import json
import math
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from gpuload import loader as loader_module
from gpuload.datasets import LeRobotDataset
from gpuload.demo import write_dataset
from gpuload.device.swscale import SwscaleConverter
from gpuload.errors import DecodeError
from gpuload.loader import Loader
from gpuload.sources.lerobot_depth import depth_lut
from gpuload.transform import SlotForm
from tests.lerobot_sets import EPISODES, FRAMES, add_feature, edit_json

KEY = "observation.images.top"


def test_depth_codes_mean_millimetres() -> None:
    lut = depth_lut({}, "test")
    assert lut.dtype == np.float32
    assert lut.shape == (4096,)
    assert [float(lut[0]), float(lut[-1])] == [10.0, 10_000.0]
    low, high = math.log(3.51), math.log(13.5)
    for code in (1, 700, 2048, 4000):
        assert abs(float(lut[code]) - 1000 * (math.exp(low + code / 4095 * (high - low)) - 3.5)) <= 0.51
        assert float(depth_lut({}, "test", unit="m")[code]) == pytest.approx(
            math.exp(low + code / 4095 * (high - low)) - 3.5, abs=2e-6
        )
    linear = depth_lut({"video.use_log": False, "video.depth_min": 0.0, "video.depth_max": 4.095}, "test")
    np.testing.assert_array_equal(linear, np.arange(4096, dtype=np.float32))


@pytest.mark.parametrize("form", ["gray12le", "yuv420p12le", "yuv444p12le"])
def test_depth_videos_come_back_in_millimetres(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """12-bit codes in luma, coded without loss, through ``dataset[i]`` and the loader, its kernel too."""
    root = write_dataset(tmp_path / "set", episodes=2, frames=12, width=64, height=48, gop=4)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][KEY] |= {"shape": [48, 64, 1], "info": {"video.is_depth_map": True}}
    (root / "meta/info.json").write_text(json.dumps(info))
    codes = np.random.default_rng(0).integers(0, 4096, (24, 48, 64), np.uint16)
    for path in root.glob(f"videos/{KEY}/*/*.mp4"):
        with av.open(str(path), "w") as file:
            options = {"x265-params": "lossless=1:keyint=4:log-level=error"}
            stream = file.add_stream("libx265", rate=30, options=options)
            stream.width, stream.height, stream.pix_fmt = 64, 48, form
            for picture in codes:
                frame = av.VideoFrame(64, 48, form)
                for number, plane in enumerate(frame.planes):
                    rows = np.full((plane.height, plane.line_size // 2), 2048, np.uint16)
                    if number == 0:
                        rows[:, :64] = picture
                    plane.update(rows.tobytes())
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    low, high = math.log(3.51), math.log(13.5)
    expected = np.rint(1000 * (np.exp(low + codes / 4095 * (high - low)) - 3.5))
    dataset = LeRobotDataset(root, delta_timestamps={KEY: [-1 / 30, 0.0]})
    sample = dataset[5][KEY]
    assert isinstance(sample, torch.Tensor)
    assert sample.shape == (2, 1, 48, 64)
    assert np.abs(sample.numpy()[:, 0] - expected[4:6]).max() <= 1
    in_metres = LeRobotDataset(root, delta_timestamps={KEY: [-1 / 30, 0.0]}, depth_output_unit="m")
    assert np.abs(in_metres[5][KEY].numpy()[:, 0] - expected[4:6] / 1000).max() <= 0.00051
    with Loader(in_metres, 5) as loader:
        torch.testing.assert_close(next(iter(loader))[KEY][3], in_metres[3][KEY])
    for device in (None, torch.device("cpu")):  # slots written by decode processes, and by the kernel
        if form == "yuv444p12le" and device is not None:
            continue  # no camera's format: the kernel refuses it
        monkeypatch.setattr(loader_module, "finishing_device", lambda asked, device=device: device)
        with Loader(dataset, 5, shuffle="global", num_threads=2, device="cpu") as loader:
            for batch in loader:
                assert batch[KEY].dtype == torch.float32
                for row, index in zip(batch[KEY].numpy(), batch["index"].tolist(), strict=True):
                    before = index if index % 12 == 0 else index - 1
                    assert np.abs(row[:, 0] - expected[[before, index]]).max() <= 1


def test_a_picture_of_depth_without_12_bits_is_an_error_of_it() -> None:
    form = SlotForm("depth", 1, 48, 64, "float32", shown=(48, 64), depth=depth_lut({}, "test"))
    slot = np.empty((1, 48, 64), np.float32)
    with pytest.raises(DecodeError, match="yuv420p10le, the codes have 12 bits"):
        SwscaleConverter().convert(av.VideoFrame(64, 48, "yuv420p10le"), slot, 0, form)


@pytest.mark.parametrize("wanted", ["mm", "m"])
@pytest.mark.parametrize(("unit", "scale"), [("m", 1000), ("mm", 1), (None, 1)])
def test_images_of_depth_come_in_the_unit_that_was_asked_for_by_the_one_that_was_noted(
    copy: Path, unit: str | None, scale: float, wanted: Literal["mm", "m"]
) -> None:
    scale = scale / 1000 if wanted == "m" else scale
    depth = np.linspace(0.5, 2.5, 6 * 8, dtype=np.float32).reshape(6, 8)
    buffer = io.BytesIO()
    Image.fromarray(depth).save(buffer, "tiff")
    add_feature(copy, "depth", "image", [6, 8, 1], pa.array([buffer.getvalue()] * EPISODES * FRAMES))
    noted = {"is_depth_map": True, **({"depth_unit": unit} if unit else {})}
    edit_json(copy / "meta/info.json", lambda v: v["features"]["depth"].update(info=noted))
    listed = {"min": [[[0.5]]], "max": [[[2.5]]], "mean": [[[1.5]]], "std": [[[0.1]]], "count": [60]}
    edit_json(copy / "meta/stats.json", lambda v: v.update(depth=listed))
    dataset = LeRobotDataset(copy, video_keys=[], depth_output_unit=wanted)
    np.testing.assert_allclose(dataset[3]["depth"].numpy(), depth[None] * scale, rtol=1e-6)
    with Loader(dataset, 4, device="cpu") as loader:
        np.testing.assert_allclose(next(iter(loader))["depth"][0].numpy(), depth[None] * scale, rtol=1e-6)
    stats = dataset.meta.stats["depth"]
    assert float(stats["max"].squeeze()) == pytest.approx(2.5 * scale)
    assert int(stats["count"][0]) == 60
