"""Which samples come when, and how far that has got: what a loader's state is."""

import hashlib
import logging
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuload.errors import ConfigError, StateMismatch
from gpuload.plan.order import EpochOrder, epoch_order, num_steps, rank_batch
from gpuload.plan.shuffle import Runs, plan_runs
from gpuload.sources.base import SampleSource

logger = logging.getLogger(__name__)

STATE_VERSION = 1
BLOCK_ORDER = 2
"""Version of block shuffle's order, raised when a seed means another order: 2, shorter runs."""


@dataclass(frozen=True, slots=True, eq=False)
class Iteration:
    """One playing of an epoch, or of what is left of it."""

    epoch: int
    steps: int
    """Batches on this rank."""
    samples_of: Callable[[int], npt.NDArray[np.int64]]
    """Samples of this rank's batch ``0 <= step < steps``."""
    num_samples: int
    """Of the whole epoch's order, over all ranks."""
    stride: int
    """Samples of one batch of all ranks."""


class Schedule:
    """The order of every epoch, and the position in the one that is played. Used by one thread."""

    def __init__(
        self,
        source: SampleSource,
        kind: str,
        *,
        seed: int,
        sampler: Iterable[int] | None,
        batch_size: int,
        rank: int,
        world_size: int,
        drop_last: bool,
        buffer_bytes: int,
        draws: bool = False,
        chosen: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """``kind``: ``sequential``, ``global``, ``block`` or ``sampler``; ``buffer_bytes``: of block shuffle;
        ``draws``: the epoch decides more than the order; ``chosen``: the samples to play, in this order where they are
        not shuffled, those that the sampler counts; None: all."""
        self._source, self._kind, self._seed, self._sampler = source, kind, seed, sampler
        self._chosen = np.sort(chosen) if chosen is not None and kind in ("global", "block") else chosen
        self._chosen_digest = None if self._chosen is None else hashlib.sha256(self._chosen.tobytes()).hexdigest()
        self._size = len(source) if chosen is None else len(chosen)
        self._batch_size, self._rank, self._world_size, self._drop_last = batch_size, rank, world_size, drop_last
        self._buffer_bytes = buffer_bytes
        self._of_epoch = ["order"] if kind in ("global", "block") else []
        """What differs between epochs, as the warning names it."""
        self._of_epoch += ["random crops and flips"] if draws else []
        self._epoch = 0
        self._resume_at, self._position = 0, 0
        """Positions of the epoch's order: where an iteration begins, and what has been delivered."""
        self._current: Iteration | None = None
        """The iteration whose progress is the state."""
        self._played: int | None = None
        """The epoch that was played to its end last."""
        self._has_warned = False
        self._sampler_digest: str | None = None
        self._order: tuple[int, EpochOrder] | None = None
        self._runs: Runs | None = None

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank.

        Raises:
            TypeError: the sampler has no length.
        """
        return self._steps(self._size if self._sampler is None else len(self._sampler))  # type: ignore[arg-type]

    def share(self, rank: int, world_size: int) -> None:
        """Which part of what begins next is this rank's."""
        self._rank, self._world_size = rank, world_size

    def begin(self) -> Iteration:
        """The epoch from its beginning, or from where a loaded state says.

        Raises:
            StateMismatch: the sampler gives another order than when the state was taken.
            ConfigError: it gives samples that there are not.
        """
        order, start = self._epoch_order(), self._resume_at
        if self._sampler is not None:
            self._check_sampler(order, start)
        if self._of_epoch and start == 0 and self._epoch == self._played:
            self._played, self._has_warned = None, True
            logger.warning(
                "epoch %d is played a second time, with the same %s: call loader.set_epoch(epoch) before each epoch",
                self._epoch,
                " and ".join(self._of_epoch),
            )
        batch_size, rank, world_size = self._batch_size, self._rank, self._world_size
        stride = batch_size * world_size

        def samples_of(step: int) -> npt.NDArray[np.int64]:
            begin = start + step * stride
            return rank_batch(order, begin, batch_size=batch_size, rank=rank, world_size=world_size)

        total = len(order.samples)
        self._position = start
        self._current = Iteration(self._epoch, self._steps(total - start), samples_of, total, stride)
        return self._current

    def advance(self, iteration: Iteration) -> None:
        """One of its batches has been delivered."""
        if iteration is self._current:
            self._position = min(self._position + iteration.stride, iteration.num_samples)

    def finish(self, iteration: Iteration) -> None:
        """It has come to its end: the next one of this epoch begins at its beginning."""
        if iteration is self._current:
            if not self._has_warned:
                self._played = self._epoch
            self._resume_at = 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch ``begin`` means next; in that of a loaded state it goes on to begin where that says."""
        if int(epoch) != self._epoch:
            self._epoch, self._resume_at = int(epoch), 0
        self._position, self._current = self._resume_at, None
        tell: Callable[[int], object] | None = getattr(self._sampler, "set_epoch", None)
        if tell is not None:
            tell(self._epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where it is, after the last batch that was delivered: small, JSON-able, the same on every rank."""
        state = {
            "version": STATE_VERSION,
            "fingerprint": self._source.fingerprint,
            "order": self._order_settings(),
            "epoch": self._epoch,
            "position": self._position,
        }
        return state if self._sampler is None else {**state, "sampler": self._sampler_digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on with the very next sample.

        Raises:
            StateMismatch: it belongs to another dataset or order; names the difference.
        """
        mine = self.state_dict()
        for name in ("version", "fingerprint", "order"):
            theirs = state.get(name)
            if theirs != mine[name]:
                if isinstance(theirs, Mapping):
                    changed = sorted(k for k in {*theirs, *mine[name]} if theirs.get(k) != mine[name].get(k))
                    detail = ", ".join(f"{k}: {theirs.get(k)!r} there, {mine[name].get(k)!r} here" for k in changed)
                else:
                    detail = f"{theirs!r} there, {mine[name]!r} here"
                what = {
                    "fingerprint": "another dataset (or other episodes or delta_timestamps)",
                    "order": "another order",
                }
                raise StateMismatch(f"the state is of {what.get(name, 'another ' + name)}: {detail}")
        try:
            epoch, position = (operator.index(state[name]) for name in ("epoch", "position"))
        except (KeyError, TypeError) as error:
            lacking = "the state is not what a loader's state_dict() gave: its epoch or position is no number"
            raise StateMismatch(f"{lacking} ({type(error).__name__}: {error})") from error
        if position < 0 or (position > self._size and self._sampler is None):
            raise StateMismatch(f"the state's position {position} is outside the epoch of {self._size} samples")
        self.set_epoch(epoch)
        self._position = self._resume_at = position
        self._sampler_digest = state.get("sampler")

    def _steps(self, remaining: int) -> int:
        return num_steps(remaining, batch_size=self._batch_size, world_size=self._world_size, drop_last=self._drop_last)

    def _order_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"shuffle": self._kind, "seed": self._seed, "num_samples": self._size}
        if self._chosen is not None:
            settings["samples"] = self._chosen_digest
        if self._kind == "block":
            settings |= {"shuffle_buffer_bytes": self._buffer_bytes, "block_order": BLOCK_ORDER}
            settings["runs"] = self._runs_digest  # other GOPs (encoded anew) mean another order
        return settings

    @cached_property
    def _runs_digest(self) -> str:
        return self._planned_runs().digest()

    def _planned_runs(self) -> Runs:
        """Those of block shuffle. Indexes every file of the camera with the longest GOPs, once."""
        if self._runs is None:
            self._runs = plan_runs(
                self._places(self._source.episode_starts()),
                self._places(self._source.gop_starts()),
                self._size,
                reach=self._source.reach,
                sample_pixels=sum(f.height * f.width for f in self._source.video_fields) + self._source.image_pixels,
                buffer_bytes=self._buffer_bytes,
            )
        return self._runs

    def _places(self, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where episodes or GOPs begin among the chosen samples, counted by these."""
        if self._chosen is None:
            return starts
        places = np.unique(np.searchsorted(self._chosen, starts))
        return places[places < self._size]

    def _epoch_order(self) -> EpochOrder:
        if self._sampler is not None:
            samples = np.fromiter(self._sampler, np.int64)
            if len(samples) and not (samples.min() >= 0 and samples.max() < self._size):
                raise ConfigError(
                    f"the sampler gave {samples.min()} to {samples.max()}, samples are 0 to {self._size - 1}; of "
                    "chosen episodes dataset.absolute_to_relative_idx turns rows of the whole dataset into samples"
                )
            return EpochOrder(samples if self._chosen is None else self._chosen[samples], None)
        if self._order is None or self._order[0] != self._epoch:
            runs = self._planned_runs() if self._kind == "block" else None
            order = epoch_order(self._kind, self._size, seed=self._seed, epoch=self._epoch, runs=runs)
            if self._chosen is not None:
                order = EpochOrder(self._chosen[order.samples], order.active_run)
            self._order = self._epoch, order
        return self._order[1]

    def _sampler_identity(self, order: EpochOrder) -> bytes:
        """What the order was: itself, or, where the sampler gives each rank samples of its own, what is the same on all
        of them."""
        told = {name: getattr(self._sampler, name, None) for name in ("num_replicas", "seed", "shuffle", "epoch")}
        if (told["num_replicas"] or 1) > 1:
            return repr((told, len(order.samples))).encode()
        return order.samples.tobytes()

    def _check_sampler(self, order: EpochOrder, start: int) -> None:
        digest = hashlib.sha256(self._sampler_identity(order)).hexdigest()
        if start and self._sampler_digest not in (None, digest):
            raise StateMismatch(
                "the sampler gives another order than when the state was taken; make its order a function of the epoch "
                "(a seed, and set_epoch), or begin the epoch anew"
            )
        if start > len(order.samples):
            raise StateMismatch(f"the state's position {start} is beyond the sampler's {len(order.samples)} samples")
        self._sampler_digest = digest
