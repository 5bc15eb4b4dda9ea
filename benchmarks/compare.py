"""gpuload against every peer and against the machine's limit: one command, one record, the same work for all.

    python -m benchmarks.compare                    # 4 hours; goes on where an interrupted run stopped
    python -m benchmarks.compare --quick            # a few minutes: does the machinery work?
    python -m benchmarks.compare --only 'H.264*' --peers 'gpuload*,LeRobot*,limit*'
    python -m benchmarks.compare --data FOLDER      # your dataset instead of ours
    python -m benchmarks.compare --write-readme RECORD   # of a record: README's table, page, plots; measures nothing

What is measured, and how: benchmarks/README.md.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console

from benchmarks.cases import CASES, QUICK, Case
from benchmarks.comparison import Comparison, open_comparison, read_comparison
from benchmarks.datasets import default_folder
from benchmarks.environments import Ready, ensure_environment, installed
from benchmarks.plots import PLOTS, plot_comparison
from benchmarks.record import RECORDS
from benchmarks.same_frames import check_variant, read_reference
from benchmarks.script import run_script
from benchmarks.tables import write_page, write_readme
from benchmarks.variants import LIMIT, VARIANTS, Variant

TIMEOUT_S = 300.0
"""For one run of one peer, the start of its interpreter included."""
CHECK_TIMEOUT_S = 1800.0
"""For its check, the conversion of the dataset included: Rerun encodes 60,000 frames anew, which takes ten minutes."""
Environments = dict[str, Ready | str]
PAGE = {False: "COMPARISON", True: "trial"}


def plan(cases: Mapping[str, Case], patterns: str) -> list[tuple[Case, list[Variant]]]:
    """Who is measured on what: all variants on base cases, the leading ones on the others."""
    wanted = [one for one in VARIANTS.values() if any(fnmatch(one.name, pattern) for pattern in patterns.split(","))]
    named = patterns != "*"
    return [(case, [one for one in wanted if named or case.base or one.leading]) for case in cases.values()]


def prepare(variants: set[str], comparison: Comparison, console: Console) -> Environments:
    """Install what is missing; what cannot be installed is a reason."""
    found: Environments = {}
    for name in sorted(variants):
        console.print(f"environment {name or 'our own'}")
        try:
            ready = ensure_environment(name)
        except RuntimeError as error:
            found[name] = f"cannot be installed: {str(error)[-300:]}"
            continue
        found[name] = ready
        if name not in comparison.content["environments"]:
            comparison.content["environments"][name] = installed(ready)
    return found


def unusable(variant: Variant, environments: Environments) -> str:
    """Why a variant cannot run here; empty if it can."""
    if variant.needs == "cuda" and not has_cuda():
        return "not run: needs a CUDA device, this machine has none"
    ready = environments[variant.environment]
    return ready if isinstance(ready, str) else ""


def has_cuda() -> bool:
    """Whether the driver's device nodes are there: nothing of CUDA has to be imported for it."""
    return Path("/dev/nvidia0").exists()


def check_frames(
    case: Case, variants: list[Variant], environments: Environments, comparison: Comparison, console: Console
) -> None:
    """Each peer's frames on a case's dataset, with the base window and as uint8; once for a dataset."""
    known = comparison.checked(case.dataset_name)
    missing = {
        one.checked_as: one
        for one in reversed(variants)
        if one.peer != LIMIT and one.checked_as not in known and not unusable(one, environments)
    }
    if not missing:
        return
    job = replace(replace(case, window=2, dtype="uint8", size=None, step_s=0.0).job(seconds=1.0, work=work_of(case)))
    reference = read_reference(job)
    for name, variant in reversed(missing.items()):
        ready = environments[variant.environment]
        assert isinstance(ready, Ready)
        verdict = check_variant(variant, ready, job, reference, timeout_s=CHECK_TIMEOUT_S)
        console.print(f"  {case.dataset_name}: {name}: {verdict.word}: {verdict.detail}", markup=False, highlight=False)
        comparison.add_check(case.dataset_name, name, verdict.as_dict())


def work_of(case: Case) -> Path:
    """Where a peer may keep a converted dataset."""
    root = case.root().resolve()
    return default_folder() / "converted" / f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"


def measure(
    case: Case,
    variants: list[Variant],
    environments: Environments,
    comparison: Comparison,
    *,
    rounds: int,
    seconds: float,
    console: Console,
) -> None:
    """Round by round, the peers in turn: neighbours in time are compared."""
    comparison.content["cases"][case.name] = asdict(case)
    for number in range(rounds):
        # There and back, so that nobody is always the last one after a long row of others.
        for variant in variants[:: -1 if number % 2 else 1]:
            if comparison.find(case.name, variant.name, number) is None:
                outcome = one_run(case, variant, environments, comparison, seconds=seconds, number=number)
                comparison.add(case.name, variant.name, number, outcome)
            run = comparison.find(case.name, variant.name, number) or {}
            said = run.get("reason") or f"{run['result']['frames_per_s']:,.0f} frames/s"
            console.print(f"  {number + 1}/{rounds} {variant.name}: {said}", markup=False, highlight=False)


def one_run(
    case: Case, variant: Variant, environments: Environments, comparison: Comparison, *, seconds: float, number: int
) -> dict[str, object]:
    """A result, or the reason why there is none."""
    if reason := unusable(variant, environments):
        return {"reason": reason}
    verdict = comparison.checked(case.dataset_name).get(variant.checked_as)
    if verdict is not None and not verdict["passed"]:
        return {"reason": f"{verdict['word']} in the check: {verdict['detail']}"}
    if number and "reason" in (earlier := comparison.find(case.name, variant.name, number - 1) or {}):
        return {"reason": earlier["reason"]}
    ready = environments[variant.environment]
    assert isinstance(ready, Ready)
    job = replace(case.job(seconds=seconds, work=work_of(case)), options=dict(variant.options))
    return run_script(variant, ready, job, timeout_s=TIMEOUT_S).as_dict()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny datasets, one round, one second")
    parser.add_argument("--only", default="*", metavar="PATTERNS", help=f"cases: {', '.join(CASES)}")
    parser.add_argument("--peers", default="*", metavar="PATTERNS", help="variants; named ones run on every case")
    parser.add_argument("--data", type=Path, help="a LeRobot v3 folder to measure instead of our datasets")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one measurement")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured of this code")
    parser.add_argument("--out", type=Path, help="folder for record, page and plots instead of benchmarks/")
    parser.add_argument("--list", action="store_true", help="print cases and variants, and stop")
    parser.add_argument(
        "--write-readme", type=Path, metavar="RECORD", help="a record's table into README.md, its page and plots; stop"
    )
    return parser.parse_args()


def choose(args: argparse.Namespace) -> Mapping[str, Case]:
    """The cases that the command line asks for."""
    if args.data is not None:
        root = args.data.resolve()
        return {root.name: Case(root.name, dataset=str(root), base=True)}
    cases = QUICK if args.quick else CASES
    return {name: case for name, case in cases.items() if any(fnmatch(name, p) for p in args.only.split(","))}


def write(comparison: Comparison, console: Console, *, page: Path, plots: Path, prefix: str = "") -> None:
    """What there is to look at."""
    console.print(f"table:  {write_page(comparison, page)}", highlight=False, soft_wrap=True)
    for path in plot_comparison(comparison, plots, prefix=prefix):
        console.print(f"plot:   {path}", highlight=False, soft_wrap=True)


def main() -> None:
    args = parse()
    console = Console(width=None if sys.stdout.isatty() else 130)
    matrix = [(case, variants) for case, variants in plan(choose(args), args.peers) if variants]
    if not matrix:
        sys.exit(f"nothing is called --only {args.only!r} --peers {args.peers!r}; --list says what there is")
    if args.list:
        for case, variants in matrix:
            console.print(f"{case.name}: {', '.join(one.name for one in variants)}", markup=False, highlight=False)
        return
    if args.write_readme is not None:
        try:
            read = read_comparison(args.write_readme)
            write_readme(read, RECORDS.parent.parent / "README.md")
        except (OSError, ValueError) as error:
            sys.exit(str(error))
        write(read, console, page=RECORDS.parent / f"{PAGE[False]}.md", plots=PLOTS)
        return
    name = "quick" if args.quick else f"data-{args.data.resolve().name}" if args.data else "compare"
    rounds, seconds = args.rounds or (1 if args.quick else 3), args.seconds or (1.0 if args.quick else 4.0)
    settings = {"seconds": seconds, "data": str(args.data or "")}
    comparison = open_comparison(name, settings, fresh=args.fresh, folder=args.out or RECORDS)
    used = {one.environment for _, variants in matrix for one in variants if one.needs == "cpu" or has_cuda()}
    environments = prepare(used, comparison, console)
    try:
        for case, _ in matrix:
            console.print(f"dataset {case.dataset_name}: {case.root()}", highlight=False)
            case.job(seconds=seconds, work=work_of(case))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{case.name}: {error}")
    for case, variants in matrix:
        console.rule(case.name)
        check_frames(case, variants, environments, comparison, console)
        measure(case, variants, environments, comparison, rounds=rounds, seconds=seconds, console=console)
    comparison.save()
    console.print(f"record: {comparison.path}", highlight=False, soft_wrap=True)
    if args.out is None and not args.data and (args.only, args.peers) != ("*", "*"):
        # The page and the plots that README shows are those of a whole comparison.
        console.print(f"page, plots: python -m benchmarks.compare --write-readme {comparison.path}", soft_wrap=True)
        return
    trial = name != "compare"
    page = (args.out or (RECORDS if trial else RECORDS.parent)) / f"{PAGE[trial]}.md"
    write(comparison, console, page=page, plots=args.out or PLOTS, prefix=f"{name}-" if trial else "")


if __name__ == "__main__":
    main()
