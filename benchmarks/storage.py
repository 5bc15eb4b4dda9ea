"""Frames per second from storage that is slow to answer, with what comes next announced to it and without.

    python -m benchmarks.storage [--delay-ms 2] [--batches 60] [--rounds 3] [--workloads "200 episodes*"]

Each dataset is seen through a file system (``slow_storage.c``) in which every open and read waits that long, many at a
time; it is mounted anew for each measurement, so that nothing is in the page cache. Linux with FUSE 3, gcc and the
right to mount (root, or fusermount3).
"""

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import gpuload
from benchmarks.cases import CASES
from gpuload.store.local import LocalFiles

SOURCE = Path(__file__).with_name("slow_storage.c")


def build(folder: Path) -> Path:
    """The program that mounts.

    Raises:
        SystemExit: gcc or FUSE's headers are missing.
    """
    program = folder / "slow_storage"
    flags = subprocess.run(["pkg-config", "fuse3", "--cflags", "--libs"], capture_output=True, text=True)
    if flags.returncode or shutil.which("gcc") is None:
        raise SystemExit("benchmarks.storage needs gcc, pkg-config and FUSE 3: apt-get install gcc libfuse3-dev fuse3")
    subprocess.run(["gcc", "-O2", "-o", program, SOURCE, *flags.stdout.split()], check=True)
    return program


@contextmanager
def slowed(program: Path, folder: Path, delay_ms: float) -> Iterator[Path]:
    """``folder``, slowly."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([program, str(round(delay_ms * 1000)), folder, place, "-o", "max_threads=64"], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["fusermount3", "-u", place], check=True)


def measure(root: Path, shuffle: str, batches: int, *, announced: bool) -> dict[str, float]:
    """An epoch's first batches, in this process."""
    if not announced:
        LocalFiles.expect = lambda files, key: None  # type: ignore[assignment,method-assign]  # as it was
    keys = gpuload.LeRobotDatasetMetadata(root).video_keys
    dataset = gpuload.LeRobotDataset(
        root, delta_timestamps={key: [-1 / 30, 0.0] for key in keys}, return_uint8=True, video_keys=keys
    )
    with gpuload.Loader(dataset, 32, shuffle=shuffle, device="cpu") as loader:
        begin_s = time.perf_counter()
        iterator = iter(loader)
        next(iterator)
        first_s = time.perf_counter() - begin_s
        begin_s = time.perf_counter()
        taken = sum(1 for _ in itertools.islice(iterator, batches))
        rate = taken * 32 * 2 * len(keys) / (time.perf_counter() - begin_s)
    return {"frames_per_s": rate, "first_s": first_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay-ms", type=float, default=2.0)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workloads", default="200 episodes*", help="names of benchmarks.compare's, with wildcards")
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "SHUFFLE", "ANNOUNCED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        folder, shuffle, announced = args.one
        print(json.dumps(measure(Path(folder), shuffle, args.batches, announced=announced == "yes")))
        return
    with tempfile.TemporaryDirectory() as place:
        program = build(Path(place))
        for name, case in CASES.items():
            if not fnmatch(name, args.workloads):
                continue
            root = case.root()
            for shuffle in ("global", "block"):
                found: dict[str, list[dict[str, float]]] = {"no": [], "yes": []}
                for _, announced in itertools.product(range(args.rounds), found):
                    with slowed(program, root, args.delay_ms) as slow:
                        options = ["--batches", str(args.batches), "--one", str(slow), shuffle, announced]
                        run = [sys.executable, "-m", "benchmarks.storage", *options]
                        done = subprocess.run(run, capture_output=True, text=True, check=True)
                    found[announced].append(json.loads(done.stdout))
                rates = {key: [run["frames_per_s"] for run in runs] for key, runs in found.items()}
                ratios = [yes / no for yes, no in zip(rates["yes"], rates["no"], strict=True)]
                medians = {key: statistics.median(values) for key, values in rates.items()}
                print(
                    f"{name}, {shuffle}, {args.delay_ms:g} ms: {medians['no']:,.0f} frames/s, announced "
                    f"{medians['yes']:,.0f} ({min(ratios):.2f} to {max(ratios):.2f} times, "
                    f"median {statistics.median(ratios):.2f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
