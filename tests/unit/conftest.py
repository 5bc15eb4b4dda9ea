"""A LeRobot set that tests read, and copies of it that they change."""

import shutil
from pathlib import Path

import pytest

from gpuload.demo import write_dataset
from tests.lerobot_sets import EPISODES, FRAMES


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lerobot") / "set"
    return write_dataset(
        root, episodes=EPISODES, frames=FRAMES, width=128, height=96, gop=8, frames_per_file=2 * FRAMES
    )


@pytest.fixture
def copy(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "set"))


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("demo") / "sound", episodes=3, frames=20, width=128, height=96, gop=8)


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "dataset"))
