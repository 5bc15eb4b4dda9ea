"""The record of a comparison: written after every run, so that an interrupted one goes on where it was."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.record import RECORDS, current_commit, describe_machine, describe_versions, spread

CODE = ("gpuload", "kernels", "benchmarks")


def code_identity() -> str:
    """A hash of the code that is measured and that measures: other code is another record, whatever its commit."""
    root = RECORDS.parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for folder in CODE for path in (root / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0{path.read_text()}\0".encode())
    return digest.hexdigest()[:10]


@dataclass
class Comparison:
    """Runs by (case, variant, round), kept in one JSON file. Used by one thread."""

    path: Path
    content: dict[str, Any]
    _done: dict[tuple[str, str, int], dict[str, Any]] = field(default_factory=dict)
    _failed: set[tuple[str, str, int]] = field(default_factory=set)
    """Runs of an earlier go that are to be made again; they stand in the record until then."""
    _unchecked: set[tuple[str, str]] = field(default_factory=set)
    """The same of verdicts, by dataset and name."""

    def __post_init__(self) -> None:
        self._done = {(run["case"], run["variant"], run["round"]): run for run in self.content["runs"]}

    def try_again(self) -> None:
        """What failed counts as not made."""
        self._failed = {key for key, run in self._done.items() if "result" not in run}
        self._unchecked = {
            (dataset, name)
            for dataset, verdicts in self.checks.items()
            for name, verdict in verdicts.items()
            if verdict["word"] == "failed"
        }

    @property
    def checks(self) -> dict[str, dict[str, Any]]:
        """Verdicts by dataset and ``Variant.checked_as``."""
        found: dict[str, dict[str, Any]] = self.content["checks"]
        return found

    def checked(self, dataset: str) -> dict[str, Any]:
        """Verdicts on a dataset that need not be made again."""
        known = self.checks.get(dataset, {})
        return {name: verdict for name, verdict in known.items() if (dataset, name) not in self._unchecked}

    def find(self, case: str, variant: str, number: int) -> dict[str, Any] | None:
        """The run, if it was made."""
        key = case, variant, number
        return None if key in self._failed else self._done.get(key)

    def add(self, case: str, variant: str, number: int, outcome: dict[str, Any]) -> None:
        """Keep a run, on disk too."""
        key = case, variant, number
        run = {"case": case, "variant": variant, "round": number, "when": datetime.now(UTC).isoformat(), **outcome}
        if key in self._done:
            self.content["runs"].remove(self._done[key])
        self.content["runs"].append(run)
        self._done[key] = run
        self._failed.discard(key)
        self.save()

    def add_check(self, dataset: str, name: str, verdict: dict[str, Any]) -> None:
        """Keep a verdict, on disk too."""
        self.checks.setdefault(dataset, {})[name] = verdict
        self._unchecked.discard((dataset, name))
        self.save()

    def save(self) -> None:
        """Write the file so that it is whole at every moment."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n")
        part.replace(self.path)

    def cells(self) -> Iterator["Cell"]:
        """What is known of each case and variant, in the order of the runs."""
        grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for run in self.content["runs"]:
            grouped.setdefault((run["case"], run["variant"]), []).append(run)
        for (case, variant), runs in grouped.items():
            yield Cell(case, variant, runs)


@dataclass(frozen=True, slots=True)
class Cell:
    """All rounds of one variant on one case."""

    case: str
    variant: str
    runs: list[dict[str, Any]]

    @property
    def reason(self) -> str:
        """Why there is no figure; empty if there is one."""
        return "" if self.results else str(self.runs[-1]["reason"])

    @property
    def results(self) -> list[dict[str, Any]]:
        return [run["result"] for run in self.runs if "result" in run]

    @property
    def rate(self) -> dict[str, float]:
        """Delivered frames a second: median, min, max."""
        return spread([result["frames_per_s"] for result in self.results])

    def median(self, key: str) -> float | None:
        """Of a figure that not every peer has."""
        values = [result[key] for result in self.results if result.get(key) is not None]
        return spread(values)["median"] if values else None

    def ratio(self, upper: str, lower: str, *, whole: bool = False) -> float | None:
        """Of two running totals, or of one and ``frames_delivered``; ``whole``: over whole epochs only."""
        chosen = [result for result in self.results if result.get("whole_epochs") or not whole]
        totals = [{**result, **result.get("counters", {})} for result in chosen]
        values = [total[upper] / total[lower] for total in totals if upper in total and total.get(lower)]
        return spread(values)["median"] if values else None

    @property
    def peak_bytes(self) -> int:
        return max(int(run["peak_bytes"]) for run in self.runs if "peak_bytes" in run)


def open_comparison(name: str, settings: dict[str, Any], *, fresh: bool, folder: Path = RECORDS) -> Comparison:
    """The record of this code, these settings, versions and this machine, gone on with unless ``fresh``.

    What failed is tried again, and stands in the record until then.
    """
    machine, versions = describe_machine(), describe_versions()
    about = {**settings, **versions, "cpu": machine["cpu"], "cores": machine["cores"]}
    path = folder / f"{name}-{code_identity()}-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:6]}.json"
    if path.exists() and not fresh:
        comparison = Comparison(path, json.loads(path.read_text()))
        comparison.try_again()
        return comparison
    content = {
        "when": datetime.now(UTC).isoformat(),
        "commit": current_commit(),
        "machine": machine,
        "versions": versions,
        "settings": settings,
        "environments": {},
        "checks": {},
        "cases": {},
        "runs": [],
    }
    return Comparison(path, content)


def read_comparison(path: Path) -> Comparison:
    """A record as it stands, to be shown.

    Raises:
        OSError, ValueError: it is not there, or no such record.
    """
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or "runs" not in content:
        raise ValueError(f"{path} is no record of a comparison")
    return Comparison(path, content)
