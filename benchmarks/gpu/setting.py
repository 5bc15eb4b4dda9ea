"""What a section is told, and how it says what it found: a line of JSON at a time, so that nothing is lost."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MARK = "PARTIAL "
"""Begins a line that holds a result; every other line is for whoever reads along."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How one section is to run."""

    device: str
    """``cuda:0``; ``cpu`` in a dry run."""
    work: str
    """Folder for clips and datasets, kept between sections."""
    deadline_s: float
    """Unix time after which nothing new is begun."""
    quick: bool = False
    """Fewer cells, shorter."""
    dry: bool = False
    """Tiny inputs on the CPU: to see that everything runs, not how fast."""
    record: str = ""
    """File with what earlier sections found; empty: none."""
    sections: tuple[str, ...] = ()
    """What is to run in this call."""

    @property
    def seconds(self) -> float:
        """Of one measurement."""
        return 0.05 if self.dry else 0.5 if self.quick else 0.6

    @property
    def long_seconds(self) -> float:
        """Of one measurement of a whole loader."""
        return 0.1 if self.dry else 2.0 if self.quick else 4.0

    @property
    def left_s(self) -> float:
        """Until the deadline."""
        return self.deadline_s - time.time()

    @property
    def folder(self) -> Path:
        return Path(self.work)

    def earlier(self) -> dict[str, Any]:
        """Results of earlier sections by name."""
        if not self.record or not Path(self.record).exists():
            return {}
        sections: dict[str, Any] = json.loads(Path(self.record).read_text())["sections"]
        return sections


def to_text(setting: Setting) -> str:
    """For a command line."""
    return json.dumps(asdict(setting))


def from_text(text: str) -> Setting:
    """What ``to_text`` wrote."""
    values = json.loads(text)
    return Setting(**{**values, "sections": tuple(values["sections"])})


def say(key: str, value: Any) -> None:
    """One result of this section, at once."""
    print(MARK + json.dumps({key: value}), flush=True)


def first_line(error: BaseException) -> str:
    """Kind and first line of an error: libraries append their source lines and stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def attempt(setting: Setting, label: str, run: Callable[[], dict[str, Any]], *, needs_s: float) -> None:
    """Says what ``run`` found, or why it failed, or that there was no time for it."""
    if setting.left_s < needs_s:
        say(label, {"left out": "no time was left"})
        return
    try:
        say(label, run())
    except Exception as error:  # noqa: BLE001 - any library's any failure: the next one may do well
        say(label, {"failed": first_line(error)})
