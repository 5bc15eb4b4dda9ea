"""Run a peer's script once, in its environment, and take down what came of it."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.environments import Ready
from benchmarks.peers.protocol import Job
from benchmarks.record import run_measured
from benchmarks.variants import Variant

REASON_CHARS = 400


@dataclass(frozen=True, slots=True)
class Outcome:
    """Either a result, or the reason why there is none."""

    result: dict[str, Any]
    peak_bytes: int = 0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"reason": self.reason} if self.reason else {"result": self.result, "peak_bytes": self.peak_bytes}


def run_script(variant: Variant, ready: Ready, job: Job, *, timeout_s: float) -> Outcome:
    """Start ``benchmarks.peers.<script>`` and wait for its last line. Never raises for what the peer does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(asdict(job)))
        command = [str(ready.python), "-W", "ignore", "-m", f"benchmarks.peers.{variant.script}", str(path)]
        try:
            measured = run_measured(command, environment=ready.variables, timeout_s=timeout_s)
        except RuntimeError as error:
            return Outcome({}, reason=cause_of(str(error)))
    if measured.result.get("event") == "unavailable":
        return Outcome({}, reason=str(measured.result["reason"]))
    return Outcome(measured.result, measured.peak_bytes)


def cause_of(said: str) -> str:
    """The line of a traceback that names the exception; the end of the text where there is none."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [
        line
        for line in lines
        if (head := line.partition(":")[0])
        and head.replace(".", "").replace("_", "").isalnum()
        and head.endswith(("Error", "Exception", "Interrupt", "Killed"))
    ]
    return (named[-1] if named else " ".join(lines[-3:]))[:REASON_CHARS]
