"""The machine's limit as an entry of the comparison: ``benchmarks.machine_limit`` with a case's deliveries."""

import json
import sys
from pathlib import Path

from benchmarks.machine_limit import measure_limit
from benchmarks.peers.protocol import emit


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    limit = measure_limit(
        Path(job["root"]),
        deliveries=len(job["offsets"]),
        seconds=job["seconds"],
        converter=job["options"]["converter"],
        size=tuple(job["size"]) if job["size"] else None,
        dtype=job["dtype"],
        processes=job["options"].get("processes"),
    )
    rate = limit.frames_per_s
    if job["step_s"]:  # no loader can deliver faster than the training step takes batches
        frames = job["batch_size"] * len(job["offsets"]) * len(job["cameras"])
        rate = min(rate, frames / job["step_s"])
    emit(
        "result",
        frames_per_s=rate,
        frames_delivered=round(limit.frames_per_s * limit.seconds),
        seconds=limit.seconds,
        counters={"frames_decoded": limit.decoded_per_s * limit.seconds},
        facts={"processes": limit.processes},
    )


if __name__ == "__main__":
    main()
