"""gpuload against the machine's limit and against LeRobot's DataLoader, in turn, in one run.

    python -m benchmarks.limit [--workloads av1_g2,h264_g30] [--rounds 3] [--scale small] [--long]
                               [--shuffle block,global] [--float32] [--no-peer]

Every round measures each contestant once, each in a process of its own, so that a machine that slows down slows all of
them down. The record goes to ``benchmarks/records``.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.datasets import SCALES, WORKLOADS, ensure_dataset
from benchmarks.lerobot_peer import Peer, ensure_peer, environment, peer_command
from benchmarks.record import (
    Measured,
    current_commit,
    describe_machine,
    describe_versions,
    run_measured,
    spread,
    write_record,
)

LIMIT, DIRECT_LIMIT, PEER = "limit", "limit, gpuload's converter", "LeRobot 0.4.4"
Runs = dict[str, list[Measured]]


def contestants(
    root: Path, *, shuffles: list[str], float32: bool, max_batches: int, seconds: float, peer: Peer | None
) -> dict[str, list[str]]:
    """The commands of one round by name, the limit first."""
    module = [sys.executable, "-m"]
    limit = [*module, "benchmarks.machine_limit", str(root), "--seconds", str(min(seconds, 8.0))]
    commands = {LIMIT: limit, DIRECT_LIMIT: [*limit, "--converter", "gpuload"]}
    for shuffle in shuffles:
        ours = [*module, "benchmarks.gpuload_epoch", str(root), "--shuffle", shuffle, "--max-batches", str(max_batches)]
        commands[f"gpuload {shuffle}"] = ours
        if float32:
            commands[f"gpuload {shuffle} float32"] = [*ours, "--float32"]
    if peer is not None:
        commands[PEER] = peer_command(peer, root, seconds=seconds, min_batches=8 if seconds > 10 else 4)
    return commands


def run_rounds(
    commands: dict[str, list[str]], *, rounds: int, peer: Peer | None, console: Console
) -> tuple[Runs, dict[str, str]]:
    """Every contestant once a round; one that fails is left out, and the second value says why."""
    runs: Runs = defaultdict(list)
    failed: dict[str, str] = {}
    for number in range(rounds):
        for name, arguments in commands.items():
            if name in failed:
                continue
            console.print(f"  round {number + 1}: {name} …", end=" ")
            around = environment(peer.ffmpeg) if peer is not None and name == PEER else None
            try:
                measured = run_measured(arguments, environment=around)
            except RuntimeError as error:
                failed[name] = str(error)
                console.print(f"failed, left out: {error}", style="red", markup=False)
                continue
            runs[name].append(measured)
            console.print(f"{measured.result['frames_per_s']:,.0f} frames/s")
    return dict(runs), failed


def summarize(runs: Runs) -> dict[str, dict[str, Any]]:
    """Figures by contestant. Ratios are medians of the rounds' ratios: each compares neighbours in time."""
    rates = {name: [one.result["frames_per_s"] for one in measured] for name, measured in runs.items()}
    summary: dict[str, dict[str, Any]] = {}
    for name, measured in runs.items():
        figures: dict[str, Any] = {
            "frames_per_s": spread(rates[name]),
            "peak_bytes": max(one.peak_bytes for one in measured),
            "rounds": [one.result for one in measured],
        }
        for key, other in (("over_limit", LIMIT), ("over_lerobot", PEER)):
            if name != other and other in rates:
                pairs = zip(rates[name], rates[other], strict=False)
                figures[key] = spread([mine / theirs for mine, theirs in pairs])
        if "amplification" in measured[-1].result:
            figures["amplification"] = spread([one.result["amplification"] for one in measured])
        summary[name] = figures
    return summary


def add_rows(table: Table, workload: str, summary: dict[str, dict[str, Any]]) -> None:
    """One row a contestant."""

    def text(figures: dict[str, Any], key: str, form: str) -> str:
        return form.format(figures[key]["median"]) if key in figures else "–"

    for name, figures in summary.items():
        rate = figures["frames_per_s"]
        table.add_row(
            workload,
            name,
            f"{rate['median']:,.0f} ({rate['min']:,.0f}–{rate['max']:,.0f})",
            text(figures, "over_limit", "{:.2f}"),
            text(figures, "amplification", "{:.2f}"),
            text(figures, "over_lerobot", "{:.1f}x"),
            f"{figures['peak_bytes'] / 2**20:,.0f}",
        )
    table.add_section()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="names, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", choices=tuple(SCALES), default="full")
    parser.add_argument("--long", action="store_true", help="datasets 20 times as long")
    parser.add_argument("--max-batches", type=int, default=0, help="0: whole epochs; 300 with --long")
    parser.add_argument("--shuffle", default="block", help="block, global, or both separated by a comma")
    parser.add_argument("--float32", action="store_true", help="float32 batches besides uint8")
    parser.add_argument("--no-peer", action="store_true", help="do not install or run LeRobot")
    args = parser.parse_args()
    if unknown := set(args.workloads.split(",")) - set(WORKLOADS):
        parser.error(f"unknown workloads {sorted(unknown)}; there are {', '.join(WORKLOADS)}")
    return args


def main() -> None:
    args = parse()
    console = Console(width=None if sys.stdout.isatty() else 130)
    machine = describe_machine()
    peer = None if args.no_peer else ensure_peer()
    if peer is not None:
        console.print(f"LeRobot decodes with {peer.backend}: {peer.reason}")
    table = Table("workload", "who", "frames/s", "of limit", "amplification", "over LeRobot", "peak MiB")
    summaries: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for workload in args.workloads.split(","):
        console.print(workload)
        root = ensure_dataset(workload, scale=args.scale, long=args.long)
        commands = contestants(
            root,
            shuffles=args.shuffle.split(","),
            float32=args.float32,
            max_batches=args.max_batches or (300 if args.long else 0),
            seconds=20.0 if args.scale == "full" else 3.0,
            peer=peer,
        )
        runs, failed = run_rounds(commands, rounds=args.rounds, peer=peer, console=console)
        failures |= {f"{workload}: {name}": message for name, message in failed.items()}
        summaries[workload] = summarize(runs)
        add_rows(table, workload, summaries[workload])
    console.print(table)
    record = {"commit": current_commit(), "machine": machine, "versions": describe_versions(), "settings": vars(args)}
    backend = {"backend": peer.backend, "reason": peer.reason} if peer is not None else None
    content = {**record, "peer": backend, "failed": failures, "workloads": summaries}
    console.print(f"record: {write_record(content, trial=args.scale == 'small')}")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
