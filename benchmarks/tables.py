"""Markdown of a comparison: a page with every figure, and the short tables that README shows."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
    """Two tables: all variants on the codecs, the leading ones on what changes one thing; frames/s."""
    cases = by_case(comparison)
    content = comparison.content["cases"]
    plain = {"scale": "one", "window": 2, "dtype": "uint8", "size": None, "step_s": 0.0, "long": False}
    codecs = [case for case in cases if all(content[case].get(key) == value for key, value in plain.items())]
    others = [case for case in cases if case not in codecs]
    machine = comparison.content["machine"]
    parts = [
        f"Delivered frames/s, median of the rounds, on {machine['cores']} cores of {machine['cpu']}; "
        f"commit {comparison.content['commit']}, {comparison.content['when'][:10]}.",
        grid(cases, codecs, [name for name in VARIANTS if any(name == c.variant for k in codecs for c in cases[k])]),
    ]
    if others:
        leading = [name for name, one in VARIANTS.items() if one.leading and one.needs == "cpu"]
        parts.append(grid(cases, others, leading))
    return "\n\n".join(parts)


def grid(cases: dict[str, list[Cell]], columns: Sequence[str], variants: Iterable[str]) -> str:
    """Variants down, cases across; the fastest loader of a column in bold."""
    best = {
        case: max((cell.rate["median"] for cell in cases[case] if cell.results and not is_limit(cell)), default=0.0)
        for case in columns
    }
    rows = []
    for variant in variants:
        row = [variant]
        for case in columns:
            cell = next((cell for cell in cases[case] if cell.variant == variant), None)
            row.append("" if cell is None else short(cell, best[case]))
        rows.append(row)
    return markdown(("", *columns), rows)


def short(cell: Cell, best: float) -> str:
    """One number, or in a word why there is none."""
    if not cell.results:
        words = ("not run", "not available", "differs", "cannot be installed")
        return next((word for word in words if word in cell.reason), "fails")
    rate = cell.rate["median"]
    return f"**{rate:,.0f}**" if rate == best and not is_limit(cell) else f"{rate:,.0f}"


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
        f"{rate['median']:,.0f} ({rate['min']:,.0f}–{rate['max']:,.0f})",
        number(share, "{:.2f}"),
        number(seconds, "{:,.0f}"),
        number(cell.ratio("frames_decoded", "frames_delivered"), "{:.2f}"),
        number(cell.ratio("frames_decoded", "frames_distinct"), "{:.2f}"),
        number(cell.median("first_batch_s"), "{:.2f}"),
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
    return sorted(pairs)[len(pairs) // 2] if pairs and cell.variant != LIMIT else None


def read_per_frame(cell: Cell) -> float | None:
    """Bytes asked for by read calls, or what the loader says itself where it maps its files."""
    known = cell.ratio("bytes_read", "frames_delivered")
    if known is not None:
        return known
    values = [one["usage"]["read_bytes"] / one["frames_delivered"] for one in cell.results if one.get("usage")]
    return sorted(values)[len(values) // 2] if values else None


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
    """Cells by case, in the order in which they were run."""
    found: dict[str, list[Cell]] = {}
    for cell in comparison.cells():
        found.setdefault(cell.case, []).append(cell)
    return found


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
