"""Frames a second that gpuload's Loader delivers; JSON out. A process of its own, so that its memory can be measured.

    python -m benchmarks.gpuload_epoch DATASET [--shuffle block] [--float32] [--max-batches 0]

Epoch 0 warms up (index, page cache, workers, recycled batches); whole epochs are timed from then on, each
from asking for its iterator to its last batch, so that nothing that was decoded ahead is for free.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import psutil

import gpuload


def measure_epoch(
    root: Path, *, shuffle: str, float32: bool, batch_size: int, max_batches: int, seconds: float
) -> dict[str, Any]:
    """Whole epochs for at least ``seconds``; or ``max_batches`` of one, after a tenth as many to warm up."""
    import_rss_bytes = psutil.Process().memory_info().rss
    info = json.loads((root / "meta" / "info.json").read_text())
    cameras = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    offsets = [-1 / info["fps"], 0.0]
    dataset = gpuload.LeRobotDataset(
        str(root), delta_timestamps=dict.fromkeys(cameras, offsets), return_uint8=not float32
    )
    with gpuload.Loader(dataset, batch_size=batch_size, shuffle=shuffle, seed=0, device="cpu") as loader:
        begin = time.perf_counter()
        first_batch_s = 0.0
        for number, _ in enumerate(itertools.islice(loader, max_batches // 10 if max_batches else None)):
            if number == 0:
                first_batch_s = time.perf_counter() - begin
        before = loader.stats
        begin = time.perf_counter()
        delivered = epochs = 0
        while not epochs or (not max_batches and time.perf_counter() - begin < seconds):
            epochs += 1
            loader.set_epoch(epochs)
            for batch in itertools.islice(loader, max_batches or None):
                delivered += sum(batch[key].shape[0] * batch[key].shape[1] for key in cameras)
        elapsed_s = time.perf_counter() - begin
        stats = loader.stats
    decoded = stats.frames_decoded - before.frames_decoded
    return {
        "frames_per_s": delivered / elapsed_s,
        "frames_delivered": delivered,
        "seconds": elapsed_s,
        "epochs": epochs,
        "first_batch_s": first_batch_s,
        "frames_decoded": decoded,
        "amplification": decoded / max(stats.frames_distinct - before.frames_distinct, 1),
        "mixing": stats.mixing,
        "wait_s": stats.wait_s - before.wait_s,
        "import_rss_bytes": import_rss_bytes,
        "backends": {stream: list(choice) for stream, choice in stats.backends.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--shuffle", default="block")
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-batches", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    result = measure_epoch(
        args.dataset,
        shuffle=args.shuffle,
        float32=args.float32,
        batch_size=args.batch_size,
        max_batches=args.max_batches,
        seconds=args.seconds,
    )
    print(json.dumps(result, default=str))


if __name__ == "__main__":
    main()
