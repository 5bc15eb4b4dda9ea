"""Datasets for batches that are made on a device from planes, and how their slots are compared."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gpuload import Loader
from gpuload.errors import GpuloadError
from tests.source import NumberedSource

FORMATS = {"yuv420p": "libx264", "yuv444p": "libx264", "yuv420p10le": "libx264"}
LEVELS = 3
"""Largest difference to swscale, which rounds its coefficients, and 10-bit samples down; the videos are grey: where
chroma lies is no part of it."""

Pictures = list[list[npt.NDArray[np.uint8]]]


def device_here() -> torch.device:
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def make_source(folder: Path, form: str = "yuv420p", **arguments: Any) -> NumberedSource:
    size = {"episodes": 2, "frames": 4, "cameras": 1, "width": 48, "height": 34, **arguments}
    return NumberedSource(folder, codec=FORMATS[form], pix_fmt=form, **size)


def assert_near(batch: dict[str, Any], source: NumberedSource, pictures: Pictures) -> None:
    for row, sample in enumerate(batch["index"].tolist()):
        refs = source.frames(np.array([sample]))
        slots = itertools.product(range(source.cameras), range(len(source.offsets)))
        for slot, (camera, t) in enumerate(slots):
            expected = pictures[refs.file[0, slot]][refs.frame[0, slot]].astype(int)
            found = batch[f"cam{camera}"].view(len(batch["index"]), -1, 3, 34, 48)[row, t].cpu().numpy().astype(int)
            assert np.abs(found - expected).max() <= LEVELS, (sample, camera, t)


def outcomes_of(loading: Loader, source: NumberedSource, pictures: Pictures) -> list[str | GpuloadError]:
    """Of each batch: "good", with every slot looked at, or its error."""
    iterator, outcomes = iter(loading), list[str | GpuloadError]()
    while True:
        try:
            assert_near(next(iterator), source, pictures)
            outcomes.append("good")
        except StopIteration:
            return outcomes
        except GpuloadError as error:
            outcomes.append(error)
