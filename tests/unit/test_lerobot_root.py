"""Where a dataset is looked for."""

from pathlib import Path

import pytest

from gpuload.datasets import LeRobotDataset, find_root
from gpuload.errors import DatasetError


def test_a_missing_dataset_names_the_download_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    with pytest.raises(DatasetError, match="hf download someone/set"):
        find_root("someone/set")
    (tmp_path / "someone/set").mkdir(parents=True)
    assert find_root("someone/set") == tmp_path / "someone/set"
    with pytest.raises(DatasetError, match=r"no meta/info\.json"):
        LeRobotDataset("someone/set")


@pytest.mark.parametrize("path", ["/no/such/set", "./set", "~/set", "a/b/c"])
def test_a_path_that_is_wrong_is_no_name_to_download(path: str) -> None:
    with pytest.raises(DatasetError, match="there is no such folder") as caught:
        LeRobotDataset(path)
    assert "huggingface" not in str(caught.value)
