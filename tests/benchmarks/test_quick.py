"""The comparison runs from one command to its record, its page and, with matplotlib, its plots."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_quick_comparison_runs_and_is_not_repeated(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.compare", "--quick", "--only", "H.264*", "--out", str(tmp_path)]
    command += ["--peers", "gpuload block,limit,SPDL*", "--seconds", "0.3"]
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("quick-*.json")
    record = json.loads(path.read_text())
    assert [run["variant"] for run in record["runs"]] == ["limit", "gpuload block", "SPDL 0.8"]
    (verdicts,) = record["checks"].values()
    assert verdicts["gpuload block"]["word"] == "exact"
    ours = record["runs"][1]["result"]
    assert ours["frames_per_s"] > 0
    assert ours["counters"]["frames_decoded"] == ours["counters"]["frames_distinct"]
    assert "gpuload block" in (tmp_path / "trial.md").read_text()
    if find_spec("matplotlib"):
        assert (tmp_path / "quick-compare-workloads.svg").stat().st_size > 0
