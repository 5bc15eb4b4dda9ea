"""What a GPU machine shows: correctness first, then every backend, the whole loader, its rivals, the kernels.

    python -m benchmarks.gpu                        everything, some 18 minutes on an H200, estimated
    python -m benchmarks.gpu --sections first       half of it, within nine minutes; then: --sections second
    python -m benchmarks.gpu --sections kernels,tensors
    python -m benchmarks.gpu --quick                less of everything
    python -m benchmarks.gpu --dry-run              the same code with tiny inputs on the CPU
    python -m benchmarks.gpu --tables A.json B.json joins records and prints their tables; needs no GPU

Each section runs in a process of its own with a time limit; what it finds is printed and written to
``OUT/<commit>-gpu.json`` at once, so that a crash or an early end loses nothing but what was not measured yet.
Exit status 2: there is no GPU. 1: a section failed.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.running import FAILED, run_sections, serve
from benchmarks.gpu.sections import SECTIONS, choose
from benchmarks.gpu.setting import Setting, from_text
from benchmarks.gpu.tables import report, short
from benchmarks.gpu.targets import judge
from benchmarks.record import RECORDS, current_commit, describe_machine, describe_versions

BUDGET_S = 540.0
LEAST_S = 10.0
"""Under which no further section is begun."""
DRY_GROUPS = 2
"""Processes of a dry run."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", default="all", help="all, first, second, or names separated by commas")
    parser.add_argument("--budget-s", type=float, default=0.0, help="all sections together; default 540 with a half")
    parser.add_argument("--quick", action="store_true", help="fewer cells, shorter")
    parser.add_argument("--dry-run", action="store_true", help="tiny inputs on the CPU, kernels interpreted")
    parser.add_argument("--out", type=Path, help="folder of the record; default benchmarks/records")
    parser.add_argument("--work", type=Path, help="folder of clips and datasets, kept between runs")
    parser.add_argument("--merge", type=Path, action="append", default=[], help="an earlier record to go on with")
    parser.add_argument("--tables", type=Path, nargs="+", help="only print the tables of records, joined")
    parser.add_argument("--commit", default="", help="where git cannot say: on a machine with a copy of the tree")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        args.names = choose(args.sections)
    except ValueError as error:
        parser.error(str(error))
    return args


def joined(paths: list[Path]) -> dict[str, Any]:
    """Records in one; of a section that several have, the last one's."""
    record: dict[str, Any] = {"sections": {}}
    for path in paths:
        other = json.loads(path.read_text())
        sections = {**record["sections"], **other["sections"]}
        record = {**record, **other, "sections": {name: sections[name] for name in SECTIONS if name in sections}}
    return record


def write(record: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    record["targets"] = [
        {"name": one.name, "wanted": one.wanted, "found": one.found, "met": one.met}
        for one in judge(record["sections"])
    ]
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def run(args: argparse.Namespace, work: Path, out: Path) -> int:
    """Every section in turn; the exit status."""
    out.mkdir(parents=True, exist_ok=True)
    record = joined(args.merge)
    record |= {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": args.commit or current_commit(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "settings": {"sections": args.names, "quick": args.quick, "dry": args.dry_run},
    }
    path = out / f"{'dry-' if args.dry_run else 'quick-' if args.quick else ''}{record['commit']}-gpu.json"
    for name in args.names:
        record["sections"][name] = {}
    end = time.monotonic() + (args.budget_s or (BUDGET_S if args.sections in ("first", "second") else 3600.0))
    # What is measured runs alone; a dry run measures nothing, and saves the time in which libraries are loaded.
    together = DRY_GROUPS if args.dry_run else 1
    lock = threading.Lock()

    def keep(section: str, key: str, value: Any) -> None:
        with lock:
            record["sections"][section][key] = value
            print(
                f"   {key}: {short(value)}" if len(groups[0]) == 1 else f"{section}: {key}: {short(value)}", flush=True
            )
            write(record, path)

    def run_group(names: Sequence[str]) -> None:
        limit_s = min(sum(SECTIONS[name].limit_s for name in names), end - time.monotonic())
        if limit_s < LEAST_S:
            for name in names:
                keep(name, "left out", "no time was left")
            return
        print(f"== {', '.join(names)} (at most {limit_s:.0f} s)", flush=True)
        run_sections(names, setting, limit_s=limit_s, keep=keep)

    device = "cpu" if args.dry_run else "cuda:0"
    setting = Setting(device, str(work), 0.0, args.quick, args.dry_run, str(path), tuple(args.names))
    groups = [args.names[n::together] for n in range(together)] if args.dry_run else [[name] for name in args.names]
    with ThreadPoolExecutor(together) as pool:
        list(pool.map(run_group, [group for group in groups if group]))
    failed = any(FAILED in record["sections"][name] for name in args.names)
    print("\n" + report(record) + f"\n\nrecord: {path}", flush=True)
    wrong = [one.name for one in judge(record["sections"]) if one.is_of_pixels and one.met is False]
    if wrong:
        print(f"wrong pictures: {'; '.join(wrong)}", flush=True)
    return int(failed or bool(wrong))


def main() -> int:
    args = parse()
    if args.section:
        serve(args.section.split(","), from_text(args.setting))
        return 0
    if args.tables:
        record = joined(args.tables)
        if args.out is not None:
            write(record, args.out / f"{record['commit']}-gpu.json")
        print(report(record))
        return 0
    if args.dry_run:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a dry run shows the same everywhere
        with tempfile.TemporaryDirectory(prefix="gpuload-dry-") as folder:
            return run(args, args.work or Path(folder), args.out or Path(folder))
    if not has_gpu():
        print(
            "benchmarks.gpu needs a CUDA device, and torch finds none; --dry-run runs its code on the CPU",
            file=sys.stderr,
        )
        return 2
    work = args.work or Path(tempfile.gettempdir()) / "gpuload-gpu"
    return run(args, work, args.out or RECORDS)


if __name__ == "__main__":
    sys.exit(main())
