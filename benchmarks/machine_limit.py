"""What the machine can do at best: independent GOPs on every core, one conversion per delivered frame.

    python -m benchmarks.machine_limit DATASET [--seconds 5] [--deliveries 2] [--converter pyav]

One process per core takes GOPs in random order and feeds them to a codec session that it keeps; each picture is
converted as often as the workload delivers it, into the slots of a batch that is used again and again. Nothing is
planned, cached, put in order or handed over. The converter is PyAV's planar one and a copy, as any loader on PyAV has
it; with ``--converter gpuload`` it is the one that gpuload uses, with its antialiased resize in RGB, once a picture as
there. Pictures are converted while they are warm, so a loader that keeps them for a later batch stays below it.
"""

import argparse
import json
import mmap
import multiprocessing
import queue
import time
from dataclasses import asdict, dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from gpuload.cores import usable_cores
from gpuload.device.swscale import SwscaleConverter
from gpuload.index.packet import padded_packet
from gpuload.transform import Transform, slot_form

DECODERS = {"av1": "libdav1d"}  # FFmpeg's own `av1` decodes on hardware only
CHANNEL_OF_PLANE = (1, 2, 0)  # planes of gbrp
BATCH_SLOTS = 128  # 32 samples x two cameras x two frames


@dataclass(frozen=True, slots=True)
class Gop:
    """The packets of one keyframe window: ``(position, size)`` each, in decode order."""

    uri: str
    packets: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class LimitResult:
    """What all processes did together."""

    frames_per_s: float
    """Delivered frames a second."""
    decoded_per_s: float
    deliveries: int
    processes: int
    seconds: float


def read_gops(root: Path) -> list[Gop]:
    """The GOPs of every mp4 below ``root``, found by demuxing."""
    gops: list[Gop] = []
    for path in sorted(root.rglob("*.mp4")):
        runs: list[list[tuple[int, int]]] = []
        with av.open(str(path)) as container:
            for packet in container.demux(container.streams.video[0]):
                if not packet.size or packet.pos is None:
                    continue
                if packet.is_keyframe:
                    runs.append([])
                if runs:
                    runs[-1].append((packet.pos, packet.size))
        gops += [Gop(str(path), tuple(run)) for run in runs]
    return gops


class GopDecoder:
    """One session per stream configuration and one recycled batch. Not thread-safe."""

    def __init__(
        self, uris: set[str], converter: str, size: tuple[int, int] | None = None, dtype: str = "uint8"
    ) -> None:
        self._direct = SwscaleConverter() if converter == "gpuload" else None
        self._files: dict[str, memoryview] = {}
        self._session_of: dict[str, av.VideoCodecContext] = {}
        sessions: dict[tuple[str, bytes], av.VideoCodecContext] = {}
        for uri in sorted(uris):
            with open(uri, "rb") as file:
                self._files[uri] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            with av.open(uri) as container:
                theirs = container.streams.video[0].codec_context
                key = (theirs.name, theirs.extradata or b"")
                self._size = (theirs.height, theirs.width)
                codec = DECODERS.get(theirs.codec.canonical_name, theirs.codec.canonical_name)
            if key not in sessions:
                session = av.CodecContext.create(codec, "r")
                assert isinstance(session, av.VideoCodecContext)
                session.extradata = key[1] or None
                session.thread_count = 1
                sessions[key] = session
            self._session_of[uri] = sessions[key]
        self._reformatter = VideoReformatter()
        transform = None if size is None else Transform(resize=size)
        self._form = slot_form(transform, key="", channels=3, height=self._size[0], width=self._size[1], dtype=dtype)
        # Written once here, so that no page of it is new while the clock runs.
        self._size = size or self._size
        self._batch: npt.NDArray[np.generic] = np.full((BATCH_SLOTS, 3, *self._size), 1, dtype)
        self._slot = 0

    def run(self, gop: Gop, *, deliveries: int) -> tuple[int, int]:
        """Decode and deliver one GOP; ``(decoded, delivered)``."""
        session, data = self._session_of[gop.uri], self._files[gop.uri]
        decoded = 0
        for number, (position, size) in enumerate(gop.packets):
            packet = padded_packet(data[position : position + size], number)
            decoded += self._deliver(session.decode(packet), deliveries)
        decoded += self._deliver(session.decode(None), deliveries)
        session.flush_buffers()
        return decoded, decoded * deliveries

    def _deliver(self, frames: list[av.VideoFrame], deliveries: int) -> int:
        for frame in frames:
            shown = None
            if self._direct is not None and self._form.is_resized and deliveries:
                shown = self._direct.shape(frame, 0, self._form, 0)
            for _ in range(deliveries):
                self._convert(frame, shown, self._batch[self._slot])
                self._slot = (self._slot + 1) % BATCH_SLOTS
        return len(frames)

    def _convert(
        self, frame: av.VideoFrame, shown: npt.NDArray[np.uint8] | None, slot: npt.NDArray[np.generic]
    ) -> None:
        # A function of its own, so that the converted frame dies before the next one is made.
        if self._direct is not None:
            if shown is not None:
                self._direct.store(shown, slot, self._form)
            else:
                self._direct.convert(frame, slot, 0, self._form)
            return
        height, width = self._size
        planar = self._reformatter.reformat(frame, width=width, height=height, format="gbrp", threads=1)
        for number, channel in enumerate(CHANNEL_OF_PLANE):
            plane = planar.planes[number]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            slot[channel] = rows[:height, :width]
        if slot.dtype != np.uint8:
            np.divide(slot, np.float32(255), out=slot)


def work(
    gops: list[Gop],
    deliveries: int,
    seconds: float,
    converter: str,
    size: tuple[int, int] | None,
    dtype: str,
    seed: int,
    start: Barrier,
    done: "Queue[tuple[int, int, float]]",
) -> None:
    """One process: random GOPs until the time is up; the GOP that is open then is finished and its time counted."""
    decoder = GopDecoder({gop.uri for gop in gops}, converter, size, dtype)
    rng = np.random.default_rng(seed)
    decoder.run(gops[0], deliveries=deliveries)
    start.wait(timeout=120)
    begin = time.perf_counter()
    decoded = delivered = 0
    while (took := time.perf_counter() - begin) < seconds:
        counts = decoder.run(gops[int(rng.integers(len(gops)))], deliveries=deliveries)
        decoded, delivered = decoded + counts[0], delivered + counts[1]
    done.put((decoded, delivered, took))


def measure_limit(
    root: Path,
    *,
    deliveries: int = 2,
    seconds: float = 5.0,
    converter: str = "pyav",
    size: tuple[int, int] | None = None,
    dtype: str = "uint8",
    processes: int | None = None,
) -> LimitResult:
    """Delivered frames a second of all cores together; ``size`` is height and width to scale to.

    Raises:
        RuntimeError: a process failed.
    """
    count = processes or usable_cores()
    gops = read_gops(root)
    context = multiprocessing.get_context("spawn")
    start, done = context.Barrier(count), context.Queue()
    workers = [
        context.Process(target=work, args=(gops, deliveries, seconds, converter, size, dtype, seed, start, done))
        for seed in range(count)
    ]
    for worker in workers:
        worker.start()
    results: list[tuple[int, int, float]] = []
    try:
        while len(results) < count:
            try:
                results.append(done.get(timeout=1.0))
            except queue.Empty as error:
                if any(worker.exitcode for worker in workers):
                    codes = [worker.exitcode for worker in workers]
                    raise RuntimeError(f"a process of the limit failed: exit codes {codes}") from error
    finally:
        for worker in workers:
            if len(results) < count:
                worker.terminate()
            worker.join()
    rates = [(decoded / took, delivered / took) for decoded, delivered, took in results]
    return LimitResult(sum(rate[1] for rate in rates), sum(rate[0] for rate in rates), deliveries, count, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--deliveries", type=int, default=2)
    parser.add_argument("--converter", choices=("pyav", "gpuload"), default="pyav")
    args = parser.parse_args()
    limit = measure_limit(args.dataset, deliveries=args.deliveries, seconds=args.seconds, converter=args.converter)
    print(json.dumps(asdict(limit)))


if __name__ == "__main__":
    main()
