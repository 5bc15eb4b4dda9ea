"""The loader beside a thread that runs pure Python without pause, against that load in another process.

    python -m benchmarks.gil DATASET [--rounds 3] [--seconds 5]

A training loop that never leaves the interpreter holds the GIL; what the loader does in the same process has to wait
for it. Both ways the load takes one core, so the ratio shows the interpreter's part alone.
"""

import argparse
import json
import multiprocessing
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gpuload


def spin(stop: object = None) -> None:
    """Pure Python until ``stop`` is set; without it, until the process is killed."""
    number = 0
    while not (isinstance(stop, threading.Event) and number % 4096 == 0 and stop.is_set()):
        number += 1


@contextmanager
def busy(where: str) -> Iterator[None]:
    """One core's worth of pure Python, in a ``thread`` or in a ``process``."""
    if where == "thread":
        stop = threading.Event()
        thread = threading.Thread(target=spin, args=(stop,))
        thread.start()
        try:
            yield
        finally:  # else whatever is measured after an error is measured beside it
            stop.set()
            thread.join()
    else:
        process = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
        process.start()
        try:
            yield
        finally:
            process.kill()
            process.join()


def rate(loader: gpuload.Loader, *, epoch: int, seconds: float) -> float:
    """Delivered frames a second over whole epochs."""
    before, begin = loader.stats.frames_delivered, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        loader.set_epoch(epoch)
        for _ in loader:
            pass
    return (loader.stats.frames_delivered - before) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    info = json.loads((args.dataset / "meta" / "info.json").read_text())
    cameras = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    offsets = {key: [-1 / info["fps"], 0.0] for key in cameras}
    dataset = gpuload.LeRobotDataset(str(args.dataset), delta_timestamps=offsets, return_uint8=True)
    rates: dict[str, list[float]] = {"thread": [], "process": []}
    with gpuload.Loader(dataset, batch_size=32, shuffle="block", device="cpu") as loader:
        rate(loader, epoch=0, seconds=0.1)
        for number in range(args.rounds):
            for where, found in rates.items():
                with busy(where):
                    time.sleep(1.0)  # the process needs a moment to begin
                    found.append(rate(loader, epoch=number, seconds=args.seconds))
    ratios = [mine / theirs for mine, theirs in zip(rates["thread"], rates["process"], strict=True)]
    print(json.dumps({"frames_per_s": rates, "ratios": ratios, "ratio": statistics.median(ratios)}))


if __name__ == "__main__":
    main()
