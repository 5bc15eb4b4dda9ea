"""What is kept of a run: its machine, its versions, its commit, its figures."""

import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from gpuload.cores import usable_cores

RECORDS = Path(__file__).resolve().with_name("records")
PACKAGES = ("torch", "av", "numpy", "pyarrow", "torchcodec")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a command printed, and the memory that it and its children held."""

    result: dict[str, Any]
    peak_bytes: int
    """Most proportional memory (PSS) of the process tree, looked at every second or more seldom."""


def run_measured(
    arguments: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> Measured:
    """Run a command whose last line of output is JSON.

    Raises:
        RuntimeError: it failed or took longer than ``timeout_s``, or its last line was not JSON; the message holds the
            end of what it printed.
    """
    peak, begin, late = 0, time.monotonic(), False
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            arguments,
            cwd=RECORDS.parent.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        while True:
            begin_look = time.monotonic()
            peak = max(peak, tree_bytes(process.pid))
            # A look takes time from what is measured, and the more memory there is the more: 2 % of one core at most.
            pause_s = max(1.0, 50.0 * (time.monotonic() - begin_look))
            try:
                # What is printed fits into the pipe, so that nothing has to be read meanwhile.
                process.wait(timeout=pause_s)
                break
            except subprocess.TimeoutExpired:
                if timeout_s is not None and time.monotonic() - begin > timeout_s:
                    late = True
                    kill_tree(process.pid)
        output = process.stdout.read() if process.stdout else ""
        errors.seek(0)
        said = errors.read()
    lines = output.strip().splitlines()
    if late:
        raise RuntimeError(f"stopped after {timeout_s:.0f} s; its last lines: {(output + said)[-600:]}")
    if process.returncode or not lines:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}: {(output + said)[-2000:]}")
    try:
        return Measured(json.loads(lines[-1]), peak)
    except json.JSONDecodeError as error:
        raise RuntimeError(f"{' '.join(arguments)} printed no JSON: {lines[-1][:200]}") from error


def kill_tree(pid: int) -> None:
    """End a process and its descendants."""
    try:
        family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


def tree_bytes(pid: int) -> int:
    """Proportional memory of a process and its descendants now; those that end meanwhile count nothing."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def describe_machine() -> dict[str, Any]:
    """Cores we may use, the processor, the memory, how busy it was at the start."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:  # not Linux
        model = platform.processor()
    return {
        "cores": usable_cores(),
        "cpu": model,
        "memory_bytes": psutil.virtual_memory().total,
        "load_before": os.getloadavg()[0],
        "platform": platform.platform(),
    }


def describe_versions() -> dict[str, str]:
    """Python and the packages that decide the speed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def current_commit() -> str:
    """Short hash, with ``-dirty`` if the tree was changed."""
    arguments = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    done = subprocess.run(arguments, cwd=RECORDS.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write_record(content: dict[str, Any], *, trial: bool) -> Path:
    """Write ``records/<date>-<commit>.json`` (``trial-`` in front); an older one of the same name is kept."""
    RECORDS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    kind, commit = "trial-" if trial else "", current_commit()
    path = RECORDS / f"{kind}{now:%Y-%m-%d}-{commit}.json"
    if path.exists():
        path = path.with_name(f"{kind}{now:%Y-%m-%dT%H%M%S}-{commit}.json")
    path.write_text(json.dumps({"when": now.isoformat(), **content}, indent=2) + "\n")
    return path
