"""Which sample comes when: a pure function of (order settings, seed, epoch), the same on every rank and machine."""

from dataclasses import dataclass
from heapq import heapreplace

import numpy as np
import numpy.typing as npt

from gpuload.plan.shuffle import Runs

Samples = npt.NDArray[np.int64]
_64_BITS = (1 << 64) - 1
JITTER = 0.1
"""Part of a round by which a run's place in it varies; a batch of 0.9 times the active runs hardly ever repeats one."""


@dataclass(frozen=True, slots=True, eq=False)
class EpochOrder:
    """One epoch's order over all ranks."""

    samples: Samples
    """int64 ``[N]``: sample at each position, every sample once."""
    active_run: npt.NDArray[np.int32] | None
    """int32 ``[N]``: which active run a position was drawn from; ranks share a window by it, so that each decodes its
    own runs. None: the order has no runs."""


def epoch_order(kind: str, num_samples: int, *, seed: int, epoch: int, runs: Runs | None = None) -> EpochOrder:
    """The order of one epoch: ``sequential``, ``global`` (uniform permutation) or ``block`` (see ``Runs``)."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed & _64_BITS, epoch & _64_BITS], np.uint64)))
    if kind == "sequential":
        return EpochOrder(np.arange(num_samples, dtype=np.int64), None)
    if kind == "global":
        return EpochOrder(rng.permutation(num_samples), None)
    assert runs is not None
    if runs.active >= runs.count:  # everything fits: a uniform permutation mixes best and is decoded once all the same
        samples = rng.permutation(num_samples)
        return EpochOrder(samples, (np.searchsorted(runs.starts, samples, side="right") - 1).astype(np.int32))
    return _block_order(runs, num_samples, rng)


def _block_order(runs: Runs, num_samples: int, rng: np.random.Generator) -> EpochOrder:
    """Rounds over the active runs: each round draws one sample of every active run, in random turn.

    A run that is used up is followed by the next of a random list. The first runs are cut at staggered lengths, their
    rest going back into the list, so that runs end (and are decoded) at different times.
    """
    begins, lengths = _staggered(runs, num_samples, rng)
    first_round, slot_of_run = _fill_slots(lengths, runs.active)
    total = int(lengths.sum())
    ends = np.cumsum(lengths)
    run = np.repeat(np.arange(len(lengths)), lengths)
    turn = np.arange(total) - (ends - lengths)[run]
    within = np.lexsort((rng.random(total), run))  # a random order inside each run; stays grouped by run
    samples = (begins[run] + turn)[within]
    # A run keeps about its place in every round, so that it comes at most once in as many samples as there are runs.
    place = rng.random(len(lengths))[run] + JITTER * rng.random(total)
    order = np.argsort(first_round[run] + turn + place, kind="stable")
    return EpochOrder(samples[order].astype(np.int64), slot_of_run[run][order].astype(np.int32))


def _staggered(runs: Runs, num_samples: int, rng: np.random.Generator) -> tuple[Samples, Samples]:
    begins = runs.starts
    lengths = np.diff(np.append(begins, num_samples))
    turn = rng.permutation(len(begins))
    begins, lengths = begins[turn], lengths[turn]
    if len(begins) < 2 * runs.active:
        return begins, lengths
    cut = np.maximum(lengths[: runs.active] * (np.arange(runs.active) + 1) // runs.active, 1)
    rest = np.flatnonzero(cut < lengths[: runs.active])
    tail_begins, tail_lengths = begins[rest] + cut[rest], lengths[rest] - cut[rest]
    later = rng.permutation(len(begins) - runs.active + len(rest))
    begins_later = np.concatenate([begins[runs.active :], tail_begins])[later]
    lengths_later = np.concatenate([lengths[runs.active :], tail_lengths])[later]
    return np.concatenate([begins[: runs.active], begins_later]), np.concatenate([cut, lengths_later])


def _fill_slots(lengths: Samples, active: int) -> tuple[Samples, Samples]:
    """``(first round, slot)`` of each run, in list order: the slot that is free first takes the next run."""
    first = np.zeros(len(lengths), np.int64)
    slots = np.arange(len(lengths), dtype=np.int64)
    free = [(int(n), slot) for slot, n in enumerate(lengths[:active])]
    free.sort()
    for run in range(active, len(lengths)):
        begin, slot = free[0]
        first[run], slots[run] = begin, slot
        heapreplace(free, (begin + int(lengths[run]), slot))
    return first, slots


def num_steps(num_samples: int, *, batch_size: int, world_size: int, drop_last: bool) -> int:
    """Batches that every rank gets out of ``num_samples`` remaining samples."""
    window = batch_size * world_size
    return num_samples // window if drop_last else -(-num_samples // window)


def rank_batch(order: EpochOrder, start: int, *, batch_size: int, rank: int, world_size: int) -> Samples:
    """Samples of ``rank`` in the window of ``batch_size * world_size`` positions at ``start``.

    Ranks get equally many. A last window that does not divide is padded by repeating its first samples (fewer than
    ``world_size`` of them), as ``torch.utils.data.DistributedSampler`` does.
    """
    stop = min(start + batch_size * world_size, len(order.samples))
    if world_size == 1:
        return order.samples[start:stop]
    positions = np.arange(start, stop)
    share = -(-len(positions) // world_size)
    positions = np.resize(positions, share * world_size)
    if order.active_run is not None:
        positions = positions[np.argsort(order.active_run[positions], kind="stable")]
    return order.samples[np.sort(positions[rank * share : (rank + 1) * share])]
