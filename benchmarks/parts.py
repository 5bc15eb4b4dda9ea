"""The parts on their own, against a stored baseline: has something become slower, whatever this machine is?

    python -m benchmarks.parts                # fails if a part takes more than 1.5 times its share
    python -m benchmarks.parts --update       # store what was measured now as the baseline

Each part's fastest round is divided by the fastest round of a calibration loop (pure Python and numpy) of the same run,
a kernel's by that of copying in device memory. The ratio, not the time, is compared with ``baseline.json``: a slow
machine slows both. The fastest round, because neighbours can only make a round slower. A part that seems slower is
measured again before it is called so.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.record import current_commit, describe_machine

BASELINE = Path(__file__).resolve().with_name("baseline.json")
CALIBRATION = "test_calibration"
DEVICE_CALIBRATION = "test_copying_on_the_device"
ON_A_DEVICE = ("test_nv12_to_slots",)
"""Suites that are divided by copying in device memory: how fast a CPU is says nothing about a GPU."""
FACTOR = 1.5
ALL_CORES = ("test_a_small_epoch",)
"""Suites that every neighbour slows down, while the calibration loop finds a free core: twice the factor."""
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Part:
    """One suite's share of the calibration loop, now and in the baseline."""

    name: str
    ratio: float
    baseline: float | None

    @property
    def change(self) -> float | None:
        return None if self.baseline is None else self.ratio / self.baseline


def run_suites(pattern: str) -> dict[str, float]:
    """Fastest round of each suite over that of the calibration loop.

    Raises:
        RuntimeError: pytest failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(BASELINE.parent)]
        command += ["-k", f"{CALIBRATION} or {DEVICE_CALIBRATION} or ({pattern})"] if pattern else []
        done = subprocess.run(
            [*command, "--benchmark-columns=min,median,rounds", f"--benchmark-json={path}"],
            cwd=BASELINE.parent.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the suites failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        measured = json.loads(path.read_text())["benchmarks"]
    fastest = {one["name"]: float(one["stats"]["min"]) for one in measured}
    unit = fastest.pop(CALIBRATION)
    device_unit = fastest.pop(DEVICE_CALIBRATION, unit)
    ratios = {}
    for name, seconds in fastest.items():
        on_device = name.partition("[")[0] in ON_A_DEVICE
        ratios[name] = seconds / (device_unit if on_device else unit)
    return ratios


def compare(ratios: Mapping[str, float], baseline: Mapping[str, float]) -> list[Part]:
    """Every part that was measured."""
    return [Part(name, ratio, baseline.get(name)) for name, ratio in ratios.items()]


def unmatched(ratios: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """Parts that only one of the two has, which nobody would notice to be slower; but those on a device."""
    return sorted(name for name in ratios.keys() ^ baseline.keys() if name.partition("[")[0] not in ON_A_DEVICE)


def slower(parts: list[Part], factor: float) -> list[str]:
    """Names of those beyond the factor."""
    return [part.name for part in parts if part.change is not None and part.change > allowed(part.name, factor)]


def allowed(name: str, factor: float) -> float:
    """The factor of one part."""
    return 2 * factor if name.partition("[")[0] in ALL_CORES else factor


def show(parts: list[Part], factor: float, console: Console) -> None:
    table = Table("part", "x calibration", "baseline", "change")
    for part in parts:
        change = "new" if part.change is None else f"{part.change:.2f}"
        colour = "red" if slower([part], factor) else ""
        before = "–" if part.baseline is None else f"{part.baseline:.4f}"
        table.add_row(escape(part.name), f"{part.ratio:.4f}", before, change, style=colour)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="store the ratios as the new baseline")
    parser.add_argument("--factor", type=float, default=FACTOR, help="what is still the same speed")
    args = parser.parse_args()
    console = Console()
    ratios = run_suites("")
    if args.update:
        machine = describe_machine()
        content = {"when": datetime.now(UTC).isoformat(), "commit": current_commit(), "cpu": machine["cpu"]}
        before = json.loads(BASELINE.read_text())["ratios"] if BASELINE.exists() else {}
        kept = {name: ratio for name, ratio in before.items() if name.partition("[")[0] in ON_A_DEVICE}
        # Those that this machine cannot measure (kernels without a GPU) stay.
        BASELINE.write_text(json.dumps({**content, "ratios": {**kept, **ratios}}, indent=2) + "\n")
        console.print(f"baseline of {len(ratios)} parts written to {BASELINE}", soft_wrap=True)
        return
    baseline = json.loads(BASELINE.read_text())["ratios"]
    for _ in range(ATTEMPTS - 1):
        suspects = slower(compare(ratios, baseline), args.factor)
        if not suspects:
            break
        names = sorted({name.partition("[")[0] for name in suspects})
        console.print(f"once more: {', '.join(suspects)}", markup=False)
        again = run_suites(" or ".join(names))
        ratios = {name: min(ratio, again.get(name, ratio)) for name, ratio in ratios.items()}
    parts = compare(ratios, baseline)
    show(parts, args.factor, console)
    if names := unmatched(ratios, baseline):
        console.print(f"not in both, the suites and {BASELINE.name}: {', '.join(names)} (--update)", markup=False)
        sys.exit(1)
    if suspects := slower(parts, args.factor):
        console.print(f"slower than {args.factor} times the baseline: {', '.join(suspects)}", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
