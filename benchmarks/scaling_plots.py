"""Plots of ``benchmarks.scaling``: one panel an axis, the limit drawn in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.comparison import Cell, Comparison
from benchmarks.plots import PLOTS, save, source
from benchmarks.record import spread

COLOURS = {"limit": "#b03030", "block": "#1b7f5c", "global": "#5b6ee1"}
TITLES = {
    "threads": ("decode workers", "delivered frames/s"),
    "gop": ("GOP length, frames", "delivered frames/s"),
    "lookahead": ("lookahead, samples", "delivered frames/s"),
    "cache": ("frame cache, MiB", "delivered frames/s"),
    "planning": ("frames in the index", "µs a frame"),
    "opening": ("frames in the dataset", "seconds"),
}
PARTS = {
    "planning": ("runs_us", "block_order_us", "global_order_us", "block_grouping_us", "global_grouping_us"),
    "opening": ("cold_open_s", "warm_open_s", "cold_first_batch_s", "warm_first_batch_s"),
}
Series = dict[str, dict[int, dict[str, float]]]


def series_of(cells: list[Cell], figure: Callable[[dict[str, Any]], float | None]) -> Series:
    """By series and x: median, min and max of a figure."""
    found: Series = {}
    for cell in cells:
        name, _, x = cell.variant.partition(" @ ")
        values = [value for result in cell.results if (value := figure(result)) is not None]
        if values:
            found.setdefault(name, {})[int(x)] = spread(values)
    return found


def parts_of(cells: list[Cell], axis: str) -> Series:
    """Where one run tells several figures: a series each, x as the run says it."""
    found: Series = {}
    for cell in cells:
        for key in PARTS[axis]:
            values = [result[key] for result in cell.results]
            if values:
                x = cell.results[0].get("frames", int(cell.variant.partition(" @ ")[2]))
                found.setdefault(key.rpartition("_")[0].replace("_", " "), {})[int(x)] = spread(values)
    return found


def amplification(result: dict[str, Any]) -> float | None:
    """Frames decoded over distinct ones."""
    counters = result.get("counters", {})
    distinct = counters.get("frames_distinct")
    return counters["frames_decoded"] / distinct if distinct else None


def plot_scaling(comparison: Comparison, *, trial: bool) -> list[Path]:
    """Write ``scaling.png`` and ``.svg``; without matplotlib none, and a line says so."""
    try:
        import matplotlib
    except ImportError:
        print("no plots: matplotlib is not installed (pip install -e '.[bench]')")
        return []
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells: dict[str, list[Cell]] = {}
    for cell in comparison.cells():
        cells.setdefault(cell.case, []).append(cell)
    axes = [axis for axis in TITLES if axis in cells]
    if not axes:
        return []
    rows = -(-len(axes) // 2)
    figure, panels = plt.subplots(rows, 2, figsize=(11, 3.4 * rows), squeeze=False, layout="constrained")
    for panel, axis in zip(panels.flat, axes, strict=False):
        draw(panel, axis, cells[axis])
    for panel in list(panels.flat)[len(axes) :]:
        panel.axis("off")
    figure.supxlabel(source(comparison), fontsize=8)
    return save(figure, PLOTS / ("trial-scaling" if trial else "scaling"))


def draw(panel: Any, axis: str, cells: list[Cell]) -> None:
    """One axis; where caches or lookahead decide, how often frames are decoded stands at the points."""
    x_label, y_label = TITLES[axis]
    parts = axis in PARTS
    found = parts_of(cells, axis) if parts else series_of(cells, lambda result: result["frames_per_s"])
    again = series_of(cells, amplification) if axis in ("gop", "lookahead", "cache") else {}
    for name, places in found.items():
        xs = sorted(places)
        colour = COLOURS.get(name)
        line = panel.plot(xs, [places[x]["median"] for x in xs], "o-", ms=3.5, lw=1.4, label=name, color=colour)[0]
        panel.fill_between(
            xs, [places[x]["min"] for x in xs], [places[x]["max"] for x in xs], color=line.get_color(), alpha=0.15, lw=0
        )
        for x, value in again.get(name, {}).items():
            panel.annotate(
                f"{value['median']:.2f}",
                (x, places[x]["median"]),
                textcoords="offset points",
                xytext=(0, 5),
                fontsize=6,
                ha="center",
                color=line.get_color(),
            )
    panel.set_xscale("log", base=2 if axis in ("threads", "lookahead", "cache") else 10)
    if parts:
        panel.set_yscale("log")
    else:
        panel.set_ylim(bottom=0)
    title = f"{axis}: numbers are frames decoded per distinct frame" if again else axis
    panel.set_title(title, fontsize=9, loc="left")
    panel.set_xlabel(x_label, fontsize=8)
    panel.set_ylabel(y_label, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.25, lw=0.5)
    panel.legend(fontsize=7)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
