"""Before measuring: do all peers return the same pictures? The measure is sequential decoding with PyAV to rgb24."""

import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from benchmarks.environments import Ready
from benchmarks.peers.folder import Folder, read_folder
from benchmarks.peers.protocol import Job
from benchmarks.script import run_script
from benchmarks.variants import Variant

SAMPLES = 16
LEAST_PSNR = 28.0
"""Of a peer that encodes the video anew or converts colours otherwise: below it the pictures are called different."""
Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one peer's frames on one dataset."""

    word: str
    """exact, close, lossy (all measured), or differs, failed (left out)."""
    detail: str
    largest: int = 0
    """Largest difference of a pixel."""
    psnr: float = math.inf
    """Of the worst frame, in dB."""

    @property
    def passed(self) -> bool:
        return self.word in ("exact", "close", "lossy")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed, "psnr": None if math.isinf(self.psnr) else round(self.psnr, 1)}


@dataclass(frozen=True, slots=True)
class Reference:
    """The samples asked for and their pictures, uint8 ``[samples, cameras, offsets, 3, H, W]``."""

    samples: tuple[int, ...]
    pictures: Pictures
    following: Pictures
    """The next picture of each sample's last one, uint8 ``[samples, cameras, 3, H, W]``: what an error by one gives."""


def choose_samples(folder: Folder, *, reach: int, count: int = SAMPLES) -> tuple[int, ...]:
    """Random rows whose window stays in the episode: at its edges peers differ on purpose (padded or left out)."""
    start = folder.start
    rows = np.arange(len(folder.time_s))
    inside = (rows - start[folder.episode] >= reach) & (start[folder.episode + 1] - rows > 1)
    chosen = np.random.default_rng(7).permutation(rows[inside])[:count]
    return tuple(int(row) for row in chosen)


def read_reference(job: Job) -> Reference:
    """Decode every file that is needed from its first picture on."""
    folder = read_folder(Path(job.root))
    samples = choose_samples(folder, reach=max(1, -min(job.offsets)))
    offsets = (*job.offsets, job.offsets[-1] + 1)
    asked: dict[Path, dict[tuple[int, int, int], float]] = defaultdict(dict)
    for i, sample in enumerate(samples):
        for j, camera in enumerate(job.cameras):
            path, times = folder.frames(sample, camera, offsets)
            for k, time_s in enumerate(times):
                asked[path][i, j, k] = time_s
    found: dict[tuple[int, int, int], Pictures] = {}
    for path, times_of in asked.items():
        found |= decode_at(path, times_of, tolerance_s=0.5 / job.fps)
    everything = np.stack(
        [
            np.stack([np.stack([found[i, j, k] for k in range(len(offsets))]) for j in range(len(job.cameras))])
            for i in range(len(samples))
        ]
    )
    return Reference(samples, everything[:, :, :-1], everything[:, :, -1])


def decode_at(
    path: Path, times_of: Mapping[tuple[int, int, int], float], *, tolerance_s: float
) -> dict[tuple[int, int, int], Pictures]:
    """The pictures, uint8 ``[3, H, W]``, nearest to these times; decoding stops after the last of them.

    Raises:
        ValueError: a time has no picture within the tolerance.
    """
    wanted = sorted((time_s, key) for key, time_s in times_of.items())
    found: dict[tuple[int, int, int], Pictures] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        time_base = stream.time_base or Fraction(1)
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            now_s = float(frame.pts * time_base)
            here = [key for time_s, key in wanted[len(found) :] if abs(time_s - now_s) < tolerance_s]
            if here:
                pixels: Pictures = np.ascontiguousarray(frame.to_ndarray(format="rgb24").transpose(2, 0, 1), np.uint8)
                found |= dict.fromkeys(here, pixels)
            if len(found) == len(wanted):
                break
    if len(found) < len(wanted):
        raise ValueError(f"{path}: {len(wanted) - len(found)} of {len(wanted)} times have no picture")
    return found


def check_variant(variant: Variant, ready: Ready, job: Job, reference: Reference, *, timeout_s: float) -> Verdict:
    """Ask one peer for the samples and compare."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "frames.npy"
        asked = replace(job, options=dict(variant.options), samples=reference.samples, out=str(out))
        outcome = run_script(variant, ready, asked, timeout_s=timeout_s)
        if outcome.reason:
            return Verdict("failed", outcome.reason)
        pictures: Pictures = np.load(out)
    verdict = compare(pictures, reference, tolerance=variant.tolerance)
    if verdict.word == "lossy" and variant.must_be_exact:
        return replace(verdict, word="differs")
    return verdict


def compare(pictures: Pictures, reference: Reference, *, tolerance: int) -> Verdict:
    """A peer's pictures against the reference, whose windows hold two pictures at least."""
    if pictures.shape != reference.pictures.shape:
        return Verdict("differs", f"shape {pictures.shape}, wanted {reference.pictures.shape}")
    largest, worst = 0, math.inf
    for mine, right in zip(pictures, reference.pictures, strict=True):
        difference = np.abs(mine.astype(np.int16) - right)
        largest = max(largest, int(difference.max()))
        squares = np.square(difference.astype(np.float32)).mean(axis=(-3, -2, -1))
        worst = min(worst, psnr(float(squares.max())))
    if largest == 0:
        return Verdict("exact", "every pixel equal")
    if largest <= tolerance:
        return Verdict("close", f"pixels differ by at most {largest}", largest, worst)
    shape = (-1, *pictures.shape[-3:])
    mine_last, right_last = pictures[:, :, -1].reshape(shape), reference.pictures[:, :, -1].reshape(shape)
    wrong = sum(
        error(mine, right) >= min(error(mine, after), error(mine, before))
        for mine, right, after, before in zip(
            mine_last,
            right_last,
            reference.following.reshape(shape),
            reference.pictures[:, :, -2].reshape(shape),
            strict=True,
        )
    )
    if wrong == 0 and worst >= LEAST_PSNR:
        return Verdict("lossy", f"the right frames with other pixels, PSNR {worst:.1f} dB", largest, worst)
    return Verdict("differs", f"PSNR {worst:.1f} dB, {wrong} frames look like a neighbour", largest, worst)


def error(mine: Pictures, right: Pictures) -> float:
    """Mean square."""
    return float(np.square(mine.astype(np.float32) - right).mean())


def psnr(square: float) -> float:
    """In dB of a mean square of 8-bit values."""
    return math.inf if square == 0 else 10 * math.log10(255**2 / square)
