"""Peak memory of an epoch against what the budgets allow.

    python -m benchmarks.memory DATASET [--shuffle block] [--frame-cache-mib 4096] [--blob-cache-mib 1024] [--batches 0]

Proportional memory (PSS) of the process and its decode workers, looked at five times a second, less that after
``import gpuload``. Allowed are the two budgets, the caller's batch, two prefetched ones and 300 MB.
"""

import argparse
import itertools
import json
import os
import threading
from pathlib import Path

import gpuload
from benchmarks.record import tree_bytes

MIB = 1 << 20


def main() -> None:
    imported = tree_bytes(os.getpid())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--shuffle", default="block")
    parser.add_argument("--frame-cache-mib", type=int, default=4096)
    parser.add_argument("--blob-cache-mib", type=int, default=1024)
    parser.add_argument("--batches", type=int, default=0, help="0: the whole epoch")
    args = parser.parse_args()
    meta = gpuload.LeRobotDataset(str(args.dataset)).meta
    offsets = {key: [-1 / meta.fps, 0.0] for key in meta.video_keys}
    dataset = gpuload.LeRobotDataset(str(args.dataset), delta_timestamps=offsets, return_uint8=True)
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            peak[0] = max(peak[0], tree_bytes(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    budgets = (args.frame_cache_mib + args.blob_cache_mib) * MIB
    batch_bytes = 0
    with gpuload.Loader(
        dataset,
        batch_size=32,
        shuffle=args.shuffle,
        device="cpu",
        frame_cache_bytes=args.frame_cache_mib * MIB,
        blob_cache_bytes=args.blob_cache_mib * MIB,
    ) as loader:
        for batch in itertools.islice(loader, args.batches or None):
            batch_bytes = sum(batch[key].nbytes for key in meta.video_keys)
        stats = loader.stats
    over.set()
    watcher.join()
    result = {
        "peak_mib": (peak[0] - imported) / MIB,
        "allowed_mib": (budgets + 3 * batch_bytes) / MIB + 300,
        "kept_mib": stats.kept_bytes / MIB,
        "amplification": stats.amplification,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
