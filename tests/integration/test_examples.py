"""The examples run as written."""

import json
import subprocess
import sys
from pathlib import Path

from gpuload.demo import write_dataset

ROOT = Path(__file__).parents[2]


def test_training_runs_and_resumes(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", episodes=2, frames=30, width=64, height=48, gop=10)
    state = tmp_path / "state.json"
    command = [sys.executable, str(ROOT / "examples/train.py"), str(data), "--steps", "2", "--checkpoint", str(state)]
    for position in (32, 16):  # three batches of 16 in an epoch: the second run ends the first and begins another
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=120)
        assert "step 2" in done.stdout
        assert json.loads(state.read_text())["position"] == position
    assert json.loads(state.read_text())["epoch"] == 1
