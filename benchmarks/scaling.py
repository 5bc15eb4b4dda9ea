"""How gpuload's rate goes with threads, GOP length, lookahead and cache, and its start with the dataset's size.

    python -m benchmarks.scaling             # about an hour on two cores; goes on where it was interrupted
    python -m benchmarks.scaling --quick     # a few minutes: does the machinery work?
    python -m benchmarks.scaling --only threads,gop

The machine's limit is measured beside each point that it depends on. Record, plot: as benchmarks.compare.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.cases import Case
from benchmarks.comparison import Comparison, open_comparison
from benchmarks.environments import ensure_environment
from benchmarks.record import run_measured
from benchmarks.scaling_plots import plot_scaling
from benchmarks.script import Outcome, run_script
from benchmarks.variants import Variant
from gpuload.cores import usable_cores

AXES = ("threads", "gop", "lookahead", "cache", "planning", "opening")
TIMEOUT_S = 300.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Point:
    """One place on one curve."""

    axis: str
    series: str
    x: int
    case: Case | None = None
    """None: nothing is decoded."""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.series} @ {self.x}"


def powers(start: int, stop: int, factor: int) -> list[int]:
    """``start``, times ``factor``, …, and ``stop``."""
    found = [start]
    while found[-1] * factor < stop:
        found.append(found[-1] * factor)
    return found if found[-1] == stop else [*found, stop]


def points(*, quick: bool) -> Iterator[Point]:
    """Every point, the limit first where there is one."""
    scale = "tiny" if quick else "one"
    base = Case("H.264 g30", "h264_g30", scale)
    orders = ("block", "global")
    for count in powers(1, usable_cores(), 2):
        yield Point("threads", "limit", count, base, {"processes": count})
        for order in orders:
            yield Point("threads", order, count, base, {"shuffle": order, "loader": {"num_threads": count}})
    for gop in (1, 30) if quick else (1, 2, 4, 8, 15, 30, 60, 120, 300):
        case = replace(base, dataset=f"h264_g{gop}")
        yield Point("gop", "limit", gop, case)
        for order in orders:
            yield Point("gop", order, gop, case, {"shuffle": order})
    # On the long dataset: in a short one every lookahead sees the whole epoch.
    long = replace(base, long=not quick)
    lookaheads = (64, 4096) if quick else (64, 256, 1024, 4096, 16384, 65536)
    caches = (16, 1024) if quick else (16, 64, 256, 1024, 4096)
    for axis, places in (("lookahead", lookaheads), ("cache", caches)):
        # It depends on neither: two points make the line.
        yield Point(axis, "limit", places[0], long)
        yield Point(axis, "limit", places[-1], long)
    for samples in lookaheads:
        for order in orders:
            yield Point("lookahead", order, samples, long, {"shuffle": order, "loader": {"lookahead": samples}})
    for mib in caches:
        for order in orders:
            yield Point("cache", order, mib, long, {"shuffle": order, "loader": {"frame_cache_bytes": mib * MIB}})
    for frames in (1000, 100_000) if quick else (1000, 10_000, 100_000, 1_000_000, 10_000_000):
        yield Point("planning", "planning", frames)
    for times in (1, 5) if quick else (1, 10, 100, 1000):
        yield Point("opening", "opening", times, None, {"scale": scale})


def run_point(point: Point, *, seconds: float) -> dict[str, Any]:
    """A result, or the reason why there is none."""
    if point.case is None:
        extra = ["--scale", point.options["scale"]] if point.options else []
        command = [sys.executable, "-m", f"benchmarks.{point.axis}", str(point.x), *extra]
        try:
            measured = run_measured(command, timeout_s=2 * TIMEOUT_S)
        except RuntimeError as error:
            return Outcome({}, reason=str(error)[-300:]).as_dict()
        return Outcome(measured.result, measured.peak_bytes).as_dict()
    ready = ensure_environment("")
    script = "peer_limit" if point.series == "limit" else "peer_gpuload"
    options = {"converter": "pyav", **point.options} if point.series == "limit" else point.options
    variant = Variant(point.name, point.series, script, "")
    job = replace(point.case.job(seconds=seconds, work=Path()), options=options)
    return run_script(variant, ready, job, timeout_s=TIMEOUT_S).as_dict()


def run_points(wanted: list[Point], comparison: Comparison, *, rounds: int, seconds: float, console: Console) -> None:
    """Axis by axis, round by round."""
    for axis in dict.fromkeys(point.axis for point in wanted):
        console.rule(axis)
        for number in range(rounds):
            for point in (one for one in wanted if one.axis == axis):
                if comparison.find(axis, point.name, number) is None:
                    comparison.add(axis, point.name, number, run_point(point, seconds=seconds))
                run = comparison.find(axis, point.name, number) or {}
                result = run.get("result", {})
                said = run.get("reason") or (
                    f"{result['frames_per_s']:,.0f} frames/s" if "frames_per_s" in result else str(result)
                )
                console.print(f"  {number + 1}/{rounds} {point.name}: {said}", markup=False, highlight=False)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny datasets, few points, one round")
    parser.add_argument("--only", default=",".join(AXES), help="axes, separated by commas")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured of this code")
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - set(AXES):
        parser.error(f"unknown axes {sorted(unknown)}; there are {', '.join(AXES)}")
    return args


def main() -> None:
    args = parse()
    console = Console(width=None if sys.stdout.isatty() else 130)
    rounds, seconds = args.rounds or (1 if args.quick else 3), args.seconds or (1.0 if args.quick else 4.0)
    wanted = [point for point in points(quick=args.quick) if point.axis in args.only.split(",")]
    name = "quick-scaling" if args.quick else "scaling"
    comparison = open_comparison(name, {"seconds": seconds}, fresh=args.fresh)
    for case in {point.case for point in wanted if point.case is not None}:
        console.print(f"dataset {case.dataset_name}: {case.root()}", highlight=False)
    run_points(wanted, comparison, rounds=rounds, seconds=seconds, console=console)
    console.print(f"record: {comparison.path}", highlight=False, soft_wrap=True)
    for path in plot_scaling(comparison, trial=args.quick):
        console.print(f"plot:   {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
