"""Opening a dataset of many frames: hard links of one encoded dataset, each mp4 with an index of its own.

    python -m benchmarks.opening TIMES [--scale one]      # JSON out; TIMES x 3,000 frames

Cold: gpuload's index cache has never seen the folder (the page cache has). Warm: the second time.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.datasets import default_folder, ensure_dataset, repeat_dataset


def measure_opening(times: int, *, scale: str) -> dict[str, Any]:
    """Seconds to open, and to the first batch of a shuffled epoch."""
    source = ensure_dataset("h264_g30", scale=scale)
    with tempfile.TemporaryDirectory(dir=default_folder()) as folder:  # hard links need the same file system
        root = Path(folder) / "set"
        root.mkdir()
        repeat_dataset(source, root, times=times)
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        import gpuload  # after the variable: where its index cache is may be looked up once

        took: dict[str, Any] = {}
        frames = 0
        for state in ("cold", "warm"):
            begin = time.perf_counter()
            dataset = gpuload.LeRobotDataset(str(root), return_uint8=True)
            with gpuload.Loader(dataset, batch_size=32, shuffle="global", device="cpu") as loader:
                opened = time.perf_counter()
                next(iter(loader))
                done = time.perf_counter()
            frames = len(dataset)
            took |= {f"{state}_open_s": opened - begin, f"{state}_first_batch_s": done - opened}
    return {"frames": frames, **took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("times", type=int)
    parser.add_argument("--scale", default="one")
    args = parser.parse_args()
    print(json.dumps(measure_opening(args.times, scale=args.scale)))


if __name__ == "__main__":
    main()
