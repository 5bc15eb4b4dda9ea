"""The examples run as written."""

import subprocess
import sys
from pathlib import Path

import torch

from gpuload.demo import write_dataset

ROOT = Path(__file__).parents[2]


def run(data: Path, checkpoint: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples/train.py"), str(data), "--checkpoint", str(checkpoint), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)


def test_training_runs_and_resumes(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", episodes=2, frames=30, width=64, height=48, gop=10)
    checkpoint = tmp_path / "checkpoint.pt"
    # Three batches of 16 in an epoch: the second run ends the first and begins another.
    for position, updates in ((32, 2), (16, 4)):
        done = run(data, checkpoint, "--steps", "2")
        assert done.returncode == 0, done.stderr
        assert "step 2" in done.stdout
        saved = torch.load(checkpoint)
        assert saved["loader"]["position"] == position
        assert saved["optimizer"]["state"][0]["step"] == updates
    assert saved["loader"]["epoch"] == 1


def test_training_runs_on_two_ranks_and_resumes_on_one(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", episodes=2, frames=30, width=64, height=48, gop=10)
    checkpoint = tmp_path / "checkpoint.pt"
    script = [str(ROOT / "examples/train.py"), str(data), "--checkpoint", str(checkpoint), "--batch-size", "8"]
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*ranks, *script, "--steps", "2"], capture_output=True, text=True, cwd=ROOT, check=False, timeout=170
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 2") == 1
    assert torch.load(checkpoint)["loader"]["position"] == 32
    done = run(data, checkpoint, "--steps", "1", "--batch-size", "8")
    assert done.returncode == 0, done.stderr
    assert torch.load(checkpoint)["loader"]["position"] == 40


def test_a_set_that_is_too_small_is_told(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", episodes=1, frames=3, width=64, height=48)
    done = run(data, tmp_path / "checkpoint.pt")
    assert done.returncode == 2
    assert "no batch of 16" in done.stderr


def test_what_the_readme_shows_first_runs_as_it_stands(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    snippet = text.partition("## Use\n\n```python\n")[2].partition("```")[0]
    shapes = 'print(batch["observation.images.top"].shape, batch["action"].shape)\n'
    script = tmp_path / "first.py"
    script.write_text(snippet.replace("print(loader.stats)", f"{shapes}print(loader.stats)"))
    for _ in range(2):  # the second time its dataset is there
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert "torch.Size([16, 2, 3, 240, 320]) torch.Size([16, 16, 6])" in done.stdout  # the last of 240 samples
        assert "amplification=1.0" in done.stdout
