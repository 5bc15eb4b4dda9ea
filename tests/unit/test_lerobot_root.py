"""Where a dataset is looked for."""

from pathlib import Path

import pytest

from gpuload.datasets import LeRobotDataset
from gpuload.errors import DatasetError
from gpuload.sources.lerobot_root import find_root


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


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "{home}/.cache/huggingface/lerobot"),
        ({"XDG_CACHE_HOME": "{home}/caches"}, "{home}/caches/huggingface/lerobot"),
        ({"XDG_CACHE_HOME": "{home}/caches", "HF_HOME": "{home}/hub"}, "{home}/hub/lerobot"),
        ({"HF_HOME": "$HOME/hub"}, "{home}/hub/lerobot"),
        ({"HF_HOME": "{home}/hub", "HF_LEROBOT_HOME": "~/robots"}, "{home}/robots"),
    ],
)
def test_datasets_are_looked_for_where_lerobot_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_LEROBOT_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "{home}", **variables}.items():
        monkeypatch.setenv(name, value.format(home=tmp_path))
    expected = Path(folder.format(home=tmp_path)) / "someone/set"
    expected.mkdir(parents=True)
    assert find_root("someone/set") == expected
