"""Runs for block shuffle: how long, how many at a time, from the index and a nominal budget alone."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BYTES_PER_PIXEL = 1.5
"""Nominal: 4:2:0 at 8 bits. Never the real format, so that a seed means the same order everywhere."""
RESIDENT = 0.85
"""Most of the active runs' pictures that is in memory at once (simulated: 0.81 at GOP 30, 0.88 at GOP 250); they come
as they are needed and go as they are used."""
MANY, FEW = 64, 33
"""Active runs wanted for mixing; accepted where more would mean decoding much twice. More than a usual batch."""
COSTLY = 1.3
"""Amplification above which fewer, longer runs are preferred."""
SLACK = 1.015
"""Decoding that much more is taken for shorter runs: they need less memory, fill it sooner and mix over more episodes.
AV1 with GOP 2: with windows of two frames runs of 75 samples instead of 150, 1.2 GB instead of 1.9 and 1 % decoded
again; with single frames runs of 9, 81 MB and nothing again."""
SHORTEST = 8
"""Samples: runs are not halved further."""


Samples = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Consecutive samples of one episode that are active together."""

    starts: Samples
    """First sample of each run, ascending."""
    active: int
    """Runs that samples are drawn from at a time."""

    @property
    def count(self) -> int:
        return len(self.starts)

    def digest(self) -> str:
        """Of what decides an order: the same runs, the same digest."""
        return hashlib.sha256(self.starts.tobytes() + self.active.to_bytes(8, "little")).hexdigest()


def plan_runs(
    episode_starts: Samples,
    gop_starts: Samples,
    num_samples: int,
    *,
    reach: tuple[int, int],
    sample_pixels: int,
    buffer_bytes: int,
) -> Runs:
    """The shortest runs whose decoding is within ``SLACK`` of the least that still lets enough runs be active within
    ``buffer_bytes``.

    Long runs decode less; short ones need less memory, and few active runs mix less. A run best begins as many
    samples after a keyframe as windows look back: it then decodes from that keyframe, and the run before only the few
    pictures that follow it. A GOP too long for the buffer is cut, and its beginning decoded again.

    Args:
        reach: samples by which windows look back and ahead at most.
        sample_pixels: stored pixels of one sample's row over all cameras.
    """
    back, ahead = reach
    per_sample = max(sample_pixels * BYTES_PER_PIXEL, 1.0)
    cuts = np.union1d(episode_starts, gop_starts)
    if per_sample * num_samples <= buffer_bytes:
        return Runs(cuts, len(cuts))
    lengths = np.diff(np.append(episode_starts, num_samples))
    length = int(lengths.max())
    found: list[tuple[float, int, Samples]] = []
    while length >= SHORTEST or not found:
        starts = _cut_episodes(episode_starts, lengths, gop_starts + back, length)
        inner = np.setdiff1d(starts, episode_starts)
        keyframe = gop_starts[np.maximum(np.searchsorted(gop_starts, inner - back, side="right") - 1, 0)]
        again = 1 + float((inner - keyframe).sum() + ahead * len(inner)) / num_samples
        sizes = np.diff(np.append(starts, num_samples)).astype(np.float64)
        typical = (sizes**2).sum() / num_samples  # what an active slot holds: long runs stay longer
        found.append((again, int(buffer_bytes / (RESIDENT * per_sample * typical)), starts))
        length //= 2
    many = [f for f in found if f[1] >= MANY]
    few = [f for f in found if f[1] >= FEW]
    least = min((f[0] for f in many), default=COSTLY)
    best = _frugal(many) if many else max(found, key=lambda f: f[1])
    if few and (not many or least > COSTLY):
        best = _frugal(few)
    _, active, starts = best
    return Runs(starts, max(1, min(max(active, FEW), MANY, len(starts))))


def _frugal(found: list[tuple[float, int, Samples]]) -> tuple[float, int, Samples]:
    least = min(again for again, _, _ in found)
    return max((f for f in found if f[0] <= SLACK * least), key=lambda f: f[1])


def _cut_episodes(episode_starts: Samples, lengths: Samples, good: Samples, length: int) -> Samples:
    """Starts of pieces of at most about ``length`` samples, moved to a ``good`` start within a quarter of it."""
    pieces = -(-lengths // length)
    episode = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(episode)) - (np.cumsum(pieces) - pieces)[episode]
    even = episode_starts[episode] + number * lengths[episode] // pieces[episode]
    at = np.searchsorted(good, even)
    before, after = good[np.maximum(at - 1, 0)], good[np.minimum(at, len(good) - 1)]
    near = np.where(np.abs(before - even) <= np.abs(after - even), before, after)
    inside = (near > episode_starts[episode]) & (near < (episode_starts + lengths)[episode])
    movable = (number > 0) & inside & (np.abs(near - even) * 4 <= length)
    return np.unique(np.where(movable, near, even))
