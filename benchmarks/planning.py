"""What an index of many frames costs before anything is decoded: order, runs, one lookahead; synthetic arrays.

python -m benchmarks.planning FRAMES        # JSON out
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gpuload.plan.grouping import group_frames
from gpuload.plan.order import epoch_order
from gpuload.plan.shuffle import plan_runs

EPISODE, GOP, LOOKAHEAD = 300, 30, 1 << 16
PIXELS = 640 * 480
BUDGET = 4 << 30
FILE_FRAMES = 3000


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the second call: the first one touches new memory."""
    call()
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def measure_planning(frames: int) -> dict[str, float]:
    """Microseconds a frame of each step; memory of the process at its peak."""
    episodes = np.arange(0, frames, EPISODE, dtype=np.int64)
    gops = np.arange(0, frames, GOP, dtype=np.int64)
    took: dict[str, float] = {}
    seconds, runs = timed(
        partial(plan_runs, episodes, gops, frames, reach=(1, 0), sample_pixels=PIXELS, buffer_bytes=BUDGET)
    )
    took["runs_us"] = seconds / frames * 1e6
    for kind in ("block", "global"):
        seconds, order = timed(partial(epoch_order, kind, frames, seed=0, epoch=1, runs=runs))
        took[f"{kind}_order_us"] = seconds / frames * 1e6
        samples = order.samples[:LOOKAHEAD]
        file = np.repeat(samples[:, None] // FILE_FRAMES, 2, 1)
        packet = np.maximum(samples[:, None] + np.array([-1, 0]), 0) % FILE_FRAMES
        size = np.full(frames // FILE_FRAMES + 1, PIXELS * 3 // 2, np.int64)
        plan = partial(group_frames, file, packet, packet // GOP * GOP)
        seconds, _ = timed(partial(plan, batch_size=32, picture_bytes=size, budget_bytes=BUDGET))
        took[f"{kind}_grouping_us"] = seconds / file.size * 1e6
    took["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=int)
    print(json.dumps(measure_planning(parser.parse_args().frames)))


if __name__ == "__main__":
    main()
