"""Runs inside LeRobot's own environment: frames a second that its dataset and torch's DataLoader deliver; JSON out.

Started by ``lerobot_peer``; nothing of gpuload can be imported here.
"""

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--backend", choices=("torchcodec", "pyav"), required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--min-batches", type=int, default=8)
    args = parser.parse_args()
    torch: Any = importlib.import_module("torch")
    lerobot: Any = importlib.import_module("lerobot.datasets.lerobot_dataset")
    info = json.loads((args.root / "meta" / "info.json").read_text())
    cameras = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    offsets = [-1 / info["fps"], 0.0]
    dataset = lerobot.LeRobotDataset(
        "local/bench", root=args.root, delta_timestamps=dict.fromkeys(cameras, offsets), video_backend=args.backend
    )
    torch.manual_seed(0)
    # shuffle=True for epoch after epoch without an end: at an epoch's end the workers would start anew, which on the
    # small dataset (120 samples) cost LeRobot half of its rate: 49 against 94 frames/s.
    sampler = torch.utils.data.RandomSampler(dataset, num_samples=10**6)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=args.batch_size, sampler=sampler, num_workers=args.num_workers
    )
    # What the workers had ready before the clock starts is not subtracted: they replace each batch that is taken.
    batches = iter(loader)
    for _ in range(args.num_workers * 2):
        next(batches)
    delivered = count = 0
    begin = time.perf_counter()
    while count < args.min_batches or time.perf_counter() - begin < args.seconds or count % args.num_workers:
        batch = next(batches)
        delivered += sum(batch[key].shape[0] * batch[key].shape[1] for key in cameras)
        count += 1
    elapsed_s = time.perf_counter() - begin
    versions = {name: importlib.import_module(name).__version__ for name in ("torch", "av", "lerobot")}
    print(
        json.dumps(
            {
                "frames_per_s": delivered / elapsed_s,
                "frames_delivered": delivered,
                "seconds": elapsed_s,
                "backend": args.backend,
                "versions": versions,
            }
        )
    )


if __name__ == "__main__":
    main()
