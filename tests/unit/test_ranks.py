"""Which share of an epoch a process takes where nobody says."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DistributedSampler

from gpuload import ConfigError, Loader
from gpuload.cores import usable_cores
from gpuload.ranks import find_share
from tests.source import NumberedSource


@pytest.fixture
def source(tmp_path: Path) -> NumberedSource:
    return NumberedSource(tmp_path, episodes=1, cameras=1, frames=24, gop=12)


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_rank() -> None:
    assert find_share(None, None) == (0, 1)


def test_the_launchers_variables_count(source: NumberedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert find_share(None, None) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert find_share(None, None) == (1, 2)
    assert find_share(0, 1) == (0, 1)
    with Loader(source, 4, device="cpu") as loader:
        assert (loader.rank, loader.world_size, len(loader)) == (1, 2, 3)
        assert loader.num_threads == max(usable_cores() // 2, 1)
        second = np.concatenate([batch["index"].numpy() for batch in loader])
    with Loader(source, 4, device="cpu", rank=0, world_size=2) as loader:
        first = np.concatenate([batch["index"].numpy() for batch in loader])
    assert sorted([*first, *second]) == list(range(24))
    with pytest.raises(ConfigError, match="one rank only"):
        Loader(source, 4, device="cpu", on_error="skip")


def test_a_group_that_is_made_after_the_loader_counts() -> None:
    """As Lightning's launcher does it, whose processes have no RANK."""
    code = (
        "import sys, torch.distributed as dist; from pathlib import Path\n"
        "from gpuload import Loader; from tests.source import NumberedSource\n"
        "source = NumberedSource(Path(sys.argv[1]), episodes=1, cameras=1, frames=24, gop=12)\n"
        "with Loader(source, 4, device='cpu') as loader:\n"
        "    assert len(loader) == 6\n"
        "    store = dist.HashStore(); dist.init_process_group('fake', store=store, rank=1, world_size=2)\n"
        "    assert len(loader) == 3\n"
        "    print([n for batch in loader for n in batch['index'].tolist()], loader.rank, loader.world_size)\n"
    )
    fake = "from torch.testing._internal.distributed import fake_pg\n"  # a group of processes that are not there
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", fake + code, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0].endswith("1 2")
    assert done.stdout.count(",") == 11


def test_a_process_group_counts_more() -> None:
    code = (
        "import os, torch.distributed as dist; from gpuload.ranks import find_share\n"
        "os.environ.update(RANK='3', WORLD_SIZE='4')\n"
        "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)\n"
        "print(find_share(None, None)); dist.destroy_process_group(); print(find_share(None, None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = [line for line in done.stdout.split("\n") if line.startswith("(")]  # gloo may talk, too
    assert said == ["(0, 1)", "(3, 4)"]


def test_a_sampler_that_deals_samples_out_is_shared_no_further(
    source: NumberedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    sampler: DistributedSampler[int] = DistributedSampler(range(24), num_replicas=2, rank=1, shuffle=False)  # type: ignore[arg-type]  # anything with a length
    with Loader(source, 4, device="cpu", sampler=sampler) as loader:
        assert np.concatenate([batch["index"].numpy() for batch in loader]).tolist() == list(range(1, 24, 2))
        state = _state_after(loader, 2)
    other: DistributedSampler[int] = DistributedSampler(range(24), num_replicas=2, rank=0, shuffle=False)  # type: ignore[arg-type]
    with Loader(source, 4, device="cpu", sampler=other) as loader:
        loader.load_state_dict(state)  # of another rank
        assert [batch["index"].tolist() for batch in loader] == [[16, 18, 20, 22]]
    with pytest.raises(ConfigError, match="one rank only"):  # the others would wait for a batch that never comes
        Loader(source, 4, device="cpu", sampler=sampler, on_error="skip")
    with pytest.raises(ConfigError, match="one rank's samples already"):
        Loader(source, 4, device="cpu", sampler=sampler, rank=1, world_size=2)


def _state_after(loader: Loader, batches: int) -> dict[str, Any]:
    iterator = iter(loader)
    for _ in range(batches):
        next(iterator)
    return loader.state_dict()


def test_a_sampler_that_is_not_set_up_yet_is_no_dealer(source: NumberedSource) -> None:
    class Later(list[int]):
        num_replicas = None

    with Loader(source, 4, device="cpu", sampler=Later(range(8))) as loader:
        assert len(list(loader)) == 2


@pytest.mark.parametrize(("rank", "world_size"), [(0, None), (None, 2), (2, 2), (-1, 2), (0, 0)])
def test_shares_that_cannot_be_are_refused(rank: int | None, world_size: int | None) -> None:
    with pytest.raises(ConfigError, match="rank"):
        find_share(rank, world_size)
