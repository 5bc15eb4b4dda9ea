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


def forget_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_LEROBOT_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


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
    forget_variables(monkeypatch)
    for name, value in {"HOME": "{home}", **variables}.items():
        monkeypatch.setenv(name, value.format(home=tmp_path))
    expected = Path(folder.format(home=tmp_path)) / "someone/set"
    expected.mkdir(parents=True)
    assert find_root("someone/set") == expected


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "{home}/.cache/huggingface/lerobot/hub"),  # where LeRobot 0.5 and later download to
        ({"HF_LEROBOT_HOME": "{home}/robots"}, "{home}/robots/hub"),
        ({}, "{home}/.cache/huggingface/hub"),  # where `hf download` does
        ({"HF_HOME": "{home}/hf"}, "{home}/hf/hub"),
        ({"HF_HUB_CACHE": "{home}/cache"}, "{home}/cache"),
        ({"HUGGINGFACE_HUB_CACHE": "{home}/cache"}, "{home}/cache"),
    ],
)
def test_snapshots_of_the_hub_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    """Laid out as huggingface_hub's documentation says: refs name commits, snapshots hold their files."""
    forget_variables(monkeypatch)
    for name, value in {"HOME": "{home}", **variables}.items():
        monkeypatch.setenv(name, value.format(home=tmp_path))
    repo = Path(folder.format(home=tmp_path)) / "datasets--someone--set"
    for commit, names in {"aaa": ["main"], "bbb": ["v3.0", "pr/1"], "ccc": []}.items():
        (repo / "snapshots" / commit).mkdir(parents=True)
        for name in names:
            (repo / "refs" / name).parent.mkdir(parents=True, exist_ok=True)
            (repo / "refs" / name).write_text(commit)
    assert find_root("someone/set") == repo / "snapshots/bbb"
    for revision, commit in {"main": "aaa", "v3.0": "bbb", "pr/1": "bbb", "ccc": "ccc"}.items():
        assert find_root("someone/set", revision=revision) == repo / "snapshots" / commit
    with pytest.raises(DatasetError, match=r"of revision v9.*--revision v9"):
        find_root("someone/set", revision="v9")
    with pytest.raises(DatasetError, match=r"someone/other is neither.*hf download someone/other"):
        find_root("someone/other")


def test_a_single_snapshot_needs_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_variables(monkeypatch)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshots = tmp_path / "datasets--set/snapshots"
    (snapshots / "abc").mkdir(parents=True)
    assert find_root("set") == snapshots / "abc"
    (snapshots / "def").mkdir()
    with pytest.raises(DatasetError, match="neither"):
        find_root("set")


def test_the_command_that_is_named_can_be_pasted(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"--revision v3\.0 --local-dir '.*/my sets/it'"):
        find_root("someone/set", tmp_path / "my sets/it", "v3.0")
