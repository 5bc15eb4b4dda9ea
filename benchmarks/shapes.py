"""Where to decode: threads packet by packet, threads with one call a GOP, or processes; alone and beside busy Python.

    python -m benchmarks.shapes DATASET [--seconds 4]

Two decoders take random GOPs of the first mp4 and make RGB of every frame. PyAV feeds packets and converts with
gpuload's converter; torchcodec decodes a GOP in one call, with the FFmpeg of PyAV's wheel. Busy: pure
Python in a thread of the same process (``thread``), against the same load in another one (``process``).
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.gil import busy
from benchmarks.lerobot_peer import environment, link_ffmpeg
from gpuload.decode.base import Run
from gpuload.decode.pyav import PyavDecoder
from gpuload.decode.runs import entries, stream_of
from gpuload.device.swscale import SwscaleConverter
from gpuload.index.load import load_index
from gpuload.pipeline.direct import read_packets

DECODERS = 2
LINKED = "GPULOAD_FFMPEG_LINKED"


def pyav_decoder(path: str) -> Callable[[int], int]:
    """Decodes and converts GOP ``n``; gives its number of frames."""
    video, decoder, converter = load_index(path), PyavDecoder(), SwscaleConverter()
    slot = np.zeros((3, video.height, video.width), np.uint8)

    def decode(number: int) -> int:
        first, stop = video.gops[number % len(video.gops)].tolist()
        packets = read_packets(video, first, stop - 1)
        wanted = frozenset(video.frame_packet[video.frame_start == first].tolist())
        run = Run(first, packets, entries(video, first, stop - 1), wanted & set(range(first, stop)))
        for _, picture in decoder.decode(stream_of(video), run):
            write = converter.direct(picture, 0)
            assert write is not None, picture.format.name
            write(slot.ctypes.data)
        return len(run.wanted)

    return decode


def torchcodec_decoder(path: str) -> Callable[[int], int]:
    """The same by one call of torchcodec."""
    import torchcodec.decoders

    module: Any = torchcodec.decoders  # its names are not marked as exported
    decoder = module.VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=1)
    gops = load_index(path).gops

    def decode(number: int) -> int:
        first, stop = gops[number % len(gops)].tolist()
        decoder.get_frames_in_range(first, stop)
        return int(stop - first)

    return decode


def work(make: Callable[[str], Callable[[int], int]], path: str, seed: int, seconds: float, counts: Any) -> None:
    """One decoder until the time is up; ``counts[seed]`` becomes frames a second."""
    decode, rng, frames = make(path), np.random.default_rng(seed), 0
    decode(0)
    begin = time.perf_counter()
    while (took := time.perf_counter() - begin) < seconds:
        frames += decode(int(rng.integers(1 << 30)))
    counts[seed] = frames / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    if LINKED not in os.environ:  # the loader of libraries reads its path once, when a process starts
        with tempfile.TemporaryDirectory() as folder:
            link_ffmpeg(Path(av.__file__).parent.parent / "av.libs", Path(folder))
            command = [sys.executable, "-m", "benchmarks.shapes", *sys.argv[1:]]
            sys.exit(subprocess.run(command, env={**environment(Path(folder)), LINKED: "1"}, check=False).returncode)
    path = str(sorted(args.dataset.rglob("*.mp4"))[0])
    context = multiprocessing.get_context("spawn")
    shapes: dict[str, tuple[Callable[..., Any], Callable[[str], Callable[[int], int]]]] = {
        "PyAV, threads": (threading.Thread, pyav_decoder),
        "PyAV, processes": (context.Process, pyav_decoder),
        "torchcodec, one call a GOP, threads": (threading.Thread, torchcodec_decoder),
    }
    for name, (start, make) in shapes.items():
        rates = {}
        for where in ("process", "thread"):
            counts = context.Array("d", DECODERS)
            with busy(where):
                time.sleep(1.0)
                workers = [
                    start(target=work, args=(make, path, seed, args.seconds, counts)) for seed in range(DECODERS)
                ]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
            rates[where] = sum(counts[:])
        print(json.dumps({"shape": name, "frames_per_s": rates, "ratio": rates["thread"] / rates["process"]}))


if __name__ == "__main__":
    main()
