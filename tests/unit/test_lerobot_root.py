"""Where a dataset is looked for."""

from pathlib import Path

import pytest

from gpuload.datasets import LeRobotDataset, find_root
from gpuload.errors import DatasetError


def test_a_missing_dataset_names_the_download_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    with pytest.raises(DatasetError, match="huggingface-cli download someone/set"):
        find_root("someone/set")
    (tmp_path / "someone/set").mkdir(parents=True)
    assert find_root("someone/set") == tmp_path / "someone/set"
    with pytest.raises(DatasetError, match=r"no meta/info\.json"):
        LeRobotDataset("someone/set")
