"""Plots of a comparison, PNG and SVG: bars by peer with the machine's limit as a line."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison import Cell, Comparison
from benchmarks.record import RECORDS
from benchmarks.tables import by_case, is_limit
from benchmarks.variants import LIMIT, VARIANTS

PLOTS = RECORDS.parent / "plots"
COLOURS = {
    "gpuload": "#1b7f5c",
    "LeRobot 0.4.4": "#d98032",
    "Rerun 0.41": "#5b6ee1",
    "torchcodec 0.17": "#8d5aa8",
    "decord 0.6": "#a0803c",
    "PyAV naive": "#8a8f98",
}
COLUMNS = 2
LEAST_RATE = 10.0
"""Where the axis of every panel begins: on a logarithmic axis the length of a bar says nothing by itself."""


def plot_comparison(comparison: Comparison, folder: Path, *, prefix: str) -> list[Path]:
    """Write the plots of all cases; without matplotlib none, and a line says so."""
    try:
        import matplotlib
    except ImportError:
        print("no plots: matplotlib is not installed (pip install -e '.[bench]')")
        return []
    matplotlib.use("Agg")
    cases = by_case(comparison)
    base = {name: cells for name, cells in cases.items() if comparison.content["cases"].get(name, {}).get("base")}
    rest = {name: cells for name, cells in cases.items() if name not in base}
    note = source(comparison)
    written: list[Path] = []
    for name, chosen in (("compare-base", base), ("compare-workloads", rest)):
        if any(cell.results for cells in chosen.values() for cell in cells):
            written += draw(chosen, folder / f"{prefix}{name}", note)
    return written


def source(comparison: Comparison) -> str:
    """What stands below a plot."""
    content = comparison.content
    counts = Counter((run["case"], run["variant"]) for run in content["runs"]).values()
    rounds = f"{min(counts)} to {max(counts)}" if len(set(counts)) > 1 else max(counts, default=0)
    return (
        f"median of {rounds} round(s), whiskers: least and most; {content['machine']['cores']} cores of "
        f"{content['machine']['cpu']}; commit {content['commit']}, {content['when'][:10]}"
    )


def draw(cases: dict[str, list[Cell]], stem: Path, note: str) -> list[Path]:
    """One panel a case: horizontal bars on a logarithmic axis."""
    import matplotlib.pyplot as plt

    columns = min(COLUMNS, len(cases))
    rows = math.ceil(len(cases) / columns)
    tallest = max(len([c for c in cells if not is_limit(c)]) for cells in cases.values())
    figure, axes = plt.subplots(
        rows, columns, figsize=(6.4 * columns, rows * (1.1 + 0.27 * tallest)), squeeze=False, layout="constrained"
    )
    panels = list(axes.flat)
    most = max(cell.rate["median"] for cells in cases.values() for cell in cells if cell.results)
    for panel, (case, cells) in zip(panels, cases.items(), strict=False):
        draw_case(panel, case, cells, most=most)
    for panel in panels[len(cases) :]:
        panel.axis("off")
    figure.supxlabel(f"delivered frames/s, logarithmic, all panels alike\n{note}", fontsize=8)
    return save(figure, stem)


def draw_case(panel: Any, case: str, cells: Sequence[Cell], *, most: float) -> None:
    """One panel up to ``most`` frames/s; who has no figure has a line of text with the reason's first words."""
    loaders = sorted(
        (cell for cell in cells if not is_limit(cell)), key=lambda cell: cell.rate["median"] if cell.results else 0.0
    )
    rates = [cell.rate["median"] for cell in loaders if cell.results]
    for place, cell in enumerate(loaders):
        if not cell.results:
            panel.text(LEAST_RATE * 1.1, place, cell.reason[:58], va="center", fontsize=6.5, color="#888888")
            continue
        rate = cell.rate
        peer = VARIANTS[cell.variant].peer if cell.variant in VARIANTS else ""
        whiskers = [[rate["median"] - rate["min"]], [rate["max"] - rate["median"]]]
        panel.barh(
            place, rate["median"], color=COLOURS.get(peer, "#bbbbbb"), xerr=whiskers, error_kw={"lw": 0.8}, height=0.7
        )
        panel.text(
            rate["max"] * 1.06,
            place,
            f"{rate['median']:,.0f}",
            va="center",
            fontsize=7,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
        )
    for cell in cells:
        if is_limit(cell) and cell.results:
            style = "-" if cell.variant == LIMIT else ":"
            label = f"{cell.variant}: {cell.rate['median']:,.0f}"
            panel.axvline(cell.rate["median"], color="#b03030", ls=style, lw=1.2, label=label)
            rates.append(cell.rate["median"])
    panel.set_xscale("log")
    panel.set_xlim(LEAST_RATE, max([most, *rates]) * 2.5)
    panel.set_ylim(-0.6, len(loaders) - 0.4)
    panel.set_yticks(range(len(loaders)), [cell.variant for cell in loaders], fontsize=7)
    panel.tick_params(axis="x", labelsize=7)
    panel.set_title(case, fontsize=9, loc="left")
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=6.5, loc="lower right", framealpha=0.9)


def save(figure: Any, stem: Path) -> list[Path]:
    """Both formats, beside each other."""
    import matplotlib.pyplot as plt

    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150)
    plt.close(figure)
    return paths
