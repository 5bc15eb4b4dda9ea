"""Markdown of a comparison: a page with every figure, and the short tables that README shows."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.comparison import Cell, Comparison
from benchmarks.variants import LIMIT, VARIANTS

BEGIN, END = "<!-- benchmarks.compare: begin -->", "<!-- benchmarks.compare: end -->"
HEADER = (
    "peer",
    "order",
    "frames/s (min–max)",
    "of limit",
    "decoded/s",
    "decoded per delivered",
    "amplification",
    "first batch s",
    "frames/s at first",
    "wait p50 / p95 ms",
    "CPU ms per frame",
    "peak MiB",
    "KiB read per frame",
    "same frames",
)


def write_page(comparison: Comparison, path: Path) -> Path:
    """Every figure, case by case, into ``path``."""
    parts = ["# Comparison", describe(comparison)]
    for case, cells in by_case(comparison).items():
        rows = [figures(cell, cells, comparison) for cell in ordered(cells) if cell.results]
        parts += [f"## {case}", about(comparison.content["cases"].get(case, {})), markdown(HEADER, rows)]
        if silent := [cell for cell in cells if not cell.results]:
            parts.append("\n".join(f"- {cell.variant}: {cell.reason}" for cell in silent))
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n")
    return path


def write_readme(comparison: Comparison, readme: Path) -> None:
    """Replace what stands between the markers in ``readme``.

    Raises:
        ValueError: the markers are not there.
    """
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme} has no lines {BEGIN!r} and {END!r} to write between")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n{summary(comparison)}\n{END}{after}")


def summary(comparison: Comparison) -> str:
    """One table: cases down, every peer and order across with its best configuration; frames/s."""
    cases = by_case(comparison)
    machine = comparison.content["machine"]
    measured = {cell.variant for cells in cases.values() for cell in cells if cell.results}
    columns: dict[str, list[str]] = {}
    for order in ("–", "block", "global"):
        for name, one in VARIANTS.items():
            if one.order == order and name in measured and (one.peer != LIMIT or name == LIMIT):
                columns.setdefault(one.peer if one.peer == LIMIT else f"{one.peer}, {order}", []).append(name)
    rows = [[case, *row_of(cells, columns, comparison)] for case, cells in cases.items()]
    return "\n\n".join(
        [
            markdown(("", *columns), rows),
            "Bold: the fastest of its order (block or global shuffle). Of each peer the best configuration measured: "
            "of all on the first two rows, elsewhere with a worker for each core; "
            "\\* other pixels, because it encodes or converts anew; † float32, whatever is asked for. "
            f"{machine['cores']} cores of {machine['cpu']}, medians of the rounds, "
            f"commit {comparison.content['commit']}, {comparison.content['when'][:10]}.",
        ]
    )


def row_of(cells: list[Cell], columns: dict[str, list[str]], comparison: Comparison) -> list[str]:
    """The best of each column's variants, or in a word why there is none."""
    found: dict[str, Cell | None] = {}
    for label, variants in columns.items():
        here = [cell for cell in cells if cell.variant in variants]
        done = [cell for cell in here if cell.results]
        found[label] = max(done, key=lambda cell: cell.rate["median"]) if done else next(iter(here), None)
    best: dict[str, float] = {}
    for cell in found.values():
        if cell is not None and cell.results and not is_limit(cell):
            order = VARIANTS[cell.variant].order
            best[order] = max(best.get(order, 0.0), cell.rate["median"])
    return ["" if cell is None else short(cell, best, comparison) for cell in found.values()]


def short(cell: Cell, best: dict[str, float], comparison: Comparison) -> str:
    """One number with its marks, or in a word why there is none."""
    if not cell.results:
        words = ("not run", "not available", "differs", "cannot be installed")
        return next((word for word in words if word in cell.reason), "fails")
    variant, rate = VARIANTS[cell.variant], cell.rate["median"]
    case: dict[str, Any] = comparison.content["cases"].get(cell.case, {})
    marks = "\\*" if verdict_of(cell, comparison).startswith("lossy") else ""
    if variant.reported != "uint8" and case.get("dtype") == "uint8":
        marks += "†"
    text = f"{rate:,.0f}{marks}"
    return f"**{text}**" if rate == best.get(variant.order) and not is_limit(cell) else text


def figures(cell: Cell, cells: list[Cell], comparison: Comparison) -> list[str]:
    """One row of the page."""
    rate = cell.rate
    seconds = cell.ratio("frames_decoded", "seconds")
    read = read_per_frame(cell)
    share = of_limit(cell, cells)
    waits = [cell.median(key) for key in ("wait_p50_s", "wait_p95_s")]
    return [
        cell.variant,
        VARIANTS[cell.variant].order if cell.variant in VARIANTS else "",
        f"{rate['median']:,.0f} ({rate['min']:,.0f}–{rate['max']:,.0f}){rounds_of(cell)}",
        number(share, "{:.2f}"),
        number(seconds, "{:,.0f}"),
        number(cell.ratio("frames_decoded", "frames_delivered"), "{:.2f}"),
        number(cell.ratio("frames_decoded", "frames_distinct", whole=True), "{:.2f}"),
        number(cell.median("first_batch_s"), "{:.2f}"),
        number(starting(cell), "{:,.0f}"),
        " / ".join(number(wait, "{:.1f}", scale=1e3) for wait in waits),
        number(cell.median("cpu_s_per_frame"), "{:.2f}", scale=1e3),
        "–" if is_limit(cell) else f"{cell.peak_bytes / 2**20:,.0f}",
        number(read, "{:.1f}", scale=1 / 1024),
        verdict_of(cell, comparison),
    ]


def of_limit(cell: Cell, cells: list[Cell]) -> float | None:
    """Median of the rounds' ratios: each compares neighbours in time."""
    limits = {
        run["round"]: run["result"]
        for other in cells
        if other.variant == LIMIT
        for run in other.runs
        if "result" in run
    }
    pairs = [
        run["result"]["frames_per_s"] / limits[run["round"]]["frames_per_s"]
        for run in cell.runs
        if "result" in run and run["round"] in limits
    ]
    on_device = cell.variant in VARIANTS and VARIANTS[cell.variant].needs == "cuda"  # this limit is of the CPU
    return statistics.median(pairs) if pairs and cell.variant != LIMIT and not on_device else None


def rounds_of(cell: Cell) -> str:
    """How many of its rounds have a figure, if not all."""
    done, tried = len(cell.results), len(cell.runs)
    return "" if done == tried else f", {done} of {tried} rounds"


def starting(cell: Cell) -> float | None:
    """Frames/s from the second batch until the clock started, where a part of an epoch was measured."""
    rates = [r["warm"]["frames_per_s"] for r in cell.results if r.get("warm") and not r.get("whole_epochs")]
    return statistics.median(rates) if rates else None


def read_per_frame(cell: Cell) -> float | None:
    """Bytes asked for by read calls, or what the loader says itself where it maps its files."""
    known = cell.ratio("bytes_read", "frames_delivered")
    if known is not None:
        return known
    values = [one["usage"]["read_bytes"] / one["frames_delivered"] for one in cell.results if one.get("usage")]
    return statistics.median(values) if values else None


def verdict_of(cell: Cell, comparison: Comparison) -> str:
    """The check's word on this cell's dataset."""
    variant = VARIANTS.get(cell.variant)
    case: dict[str, Any] = comparison.content["cases"].get(cell.case, {})
    if variant is None or is_limit(cell):
        return "–"
    dataset = f"{case['dataset']} {case['scale']}{' x20' if case['long'] else ''}"
    checks = comparison.checks.get(dataset) or comparison.checks.get(case["dataset"], {})
    verdict = checks.get(variant.checked_as)
    if verdict is None:
        return "not checked"
    return verdict["word"] if verdict["word"] == "exact" else f"{verdict['word']} ({verdict['detail']})"


def is_limit(cell: Cell) -> bool:
    """The limit is no loader and wins nothing."""
    return cell.variant in VARIANTS and VARIANTS[cell.variant].peer == LIMIT


def by_case(comparison: Comparison) -> dict[str, list[Cell]]:
    """Cells by case, in the order in which ``CASES`` has them; others, a folder's, behind."""
    found: dict[str, list[Cell]] = {}
    for cell in comparison.cells():
        found.setdefault(cell.case, []).append(cell)
    places = {name: place for place, name in enumerate(CASES)}
    return dict(sorted(found.items(), key=lambda item: places.get(item[0], len(places))))


def ordered(cells: Iterable[Cell]) -> list[Cell]:
    """The limits first, then the fastest."""
    return sorted(cells, key=lambda cell: (not is_limit(cell), -cell.rate["median"] if cell.results else 0.0))


def describe(comparison: Comparison) -> str:
    """Where and when."""
    content = comparison.content
    machine, versions = content["machine"], content["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{content['when'][:16]}, commit {content['commit']}, record `records/{comparison.path.name}`. "
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_bytes'] / 2**30:.0f} GiB, load before "
        f"{machine['load_before']:.2f}. {packages}. What the columns mean: [README.md](README.md)."
    )


def about(case: dict[str, Any]) -> str:
    """The workload in a line."""
    if not case:
        return ""
    size = "x".join(str(side) for side in case["size"]) if case["size"] else "native size"
    step = f", a training step of {case['step_s'] * 1e3:.0f} ms" if case["step_s"] else ""
    many = ", 20 times as many episodes" if case["long"] else ""
    return (
        f"Dataset `{case['dataset']}` ({case['scale']}{many}), windows of {case['window']}, {case['dtype']}, {size}, "
        f"batches of 32{step}."
    )


def number(value: float | None, form: str, *, scale: float = 1.0) -> str:
    """A figure, or a dash."""
    return "–" if value is None else form.format(value * scale)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
