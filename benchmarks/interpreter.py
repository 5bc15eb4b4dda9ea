"""CPU time a delivered frame where the codec hardly counts: H.264 at 128x128, one worker.

    python -m benchmarks.interpreter

``training_process_us`` is all of its threads. ``worker_us`` contains the codec: ``perf report --sort dso`` on it
tells the interpreter's part.
"""

import argparse
import json
import tempfile
from pathlib import Path

import psutil

import gpuload
from gpuload.demo import write_dataset


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = write_dataset(Path(folder) / "set", episodes=20, frames=300, width=128, height=128, gop=30)
        meta = gpuload.LeRobotDataset(str(root)).meta
        offsets = {key: [-1 / meta.fps, 0.0] for key in meta.video_keys}
        dataset = gpuload.LeRobotDataset(str(root), delta_timestamps=offsets, return_uint8=True)
        with gpuload.Loader(dataset, batch_size=32, shuffle="block", num_threads=1, device="cpu") as loader:
            for _ in loader:  # warm up
                pass
            us = psutil.Process()
            (worker,) = us.children()
            before, frames = (cpu_s(us), cpu_s(worker)), loader.stats.frames_delivered
            for epoch in (1, 2, 3):
                loader.set_epoch(epoch)
                for _ in loader:
                    pass
            frames = loader.stats.frames_delivered - frames
            spent = cpu_s(us) - before[0], cpu_s(worker) - before[1]
    print(json.dumps({"training_process_us": spent[0] / frames * 1e6, "worker_us": spent[1] / frames * 1e6}))


if __name__ == "__main__":
    main()
