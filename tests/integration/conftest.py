"""Loaders whose batches are made on a device from planes, where there may be no GPU."""

import pytest

from gpuload import loader
from gpuload.pipeline import route
from gpuload.pipeline.route import Way
from tests.staged import device_here


@pytest.fixture
def on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the GPU, or on the CPU as if it were one: then kernels are interpreted."""
    monkeypatch.setattr(loader, "finishing_device", lambda device: device_here())


@pytest.fixture
def in_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders in threads that hand pictures over where they are, as those of a GPU do."""
    monkeypatch.setattr(route.Router, "way", lambda self, file: Way("pyav", "cuda"))
    monkeypatch.setattr(route.Router, "num_engines", lambda self: 1)  # whatever the machine has: two lanes
