"""Which unit of the GPU limits the fused kernel: what Nsight Compute says of a launch of each case with a target."""

import csv
import io
import shutil
import subprocess
import sys

import torch

from benchmarks.gpu.kernels import cases, measure_case, pictures_of
from benchmarks.gpu.setting import Setting, say

PATIENCE_S = 75.0
METRICS = (
    "gpu__time_duration.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "l1tex__throughput.avg.pct_of_peak_sustained_active",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__issue_active.avg.pct_of_peak_sustained_active",
    "sm__inst_executed_pipe_alu.avg.pct_of_peak_sustained_active",
    "sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active",
    "sm__inst_executed_pipe_lsu.avg.pct_of_peak_sustained_active",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "launch__registers_per_thread",
)


def measure(setting: Setting) -> None:
    """Shares of each unit's peak, in percent; the largest one limits."""
    if setting.dry or not (ncu := shutil.which("ncu")):
        say("left out", "dry run" if setting.dry else "ncu is not on the path")
        return
    for number, case in enumerate(cases(dry=False)[:2]):
        command = [
            ncu, "--clock-control", "none", "--csv", "--page", "raw", "--metrics", ",".join(METRICS),
            "--kernel-name", "regex:_convert", "--launch-count", "1", "--launch-skip", "2",
            sys.executable, "-m", "benchmarks.gpu.limiter", str(number),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        except subprocess.TimeoutExpired:
            say(case.name, {"failed": f"ncu took more than {PATIENCE_S:.0f} s"})
            continue
        table = [line for line in done.stdout.splitlines() if line.startswith('"')]
        rows = list(csv.DictReader(io.StringIO("\n".join(table))))
        if done.returncode or len(rows) < 2:
            say(case.name, {"failed": (done.stdout + done.stderr)[-400:]})
            continue
        say(case.name, {name: rows[-1].get(name, "") for name in METRICS})  # the first row has the units


def main() -> None:
    """Some launches of one case, for ncu to look at."""
    case = cases(dry=False)[int(sys.argv[1])]
    measure_case(case, torch.device("cuda"), pictures=pictures_of(case, dry=False))


if __name__ == "__main__":
    main()
