"""How far ahead of the caller batches are made, and how long the caller is made to wait for that."""

from collections.abc import Mapping, Sized
from typing import Any

import torch

from gpuload.store.cache import BlobCache

AHEAD = 2
"""Batches beyond the caller's that have a buffer: filled, or being filled."""
PREPARED = 4
"""Batches beyond the caller's that are planned, read and sent to the workers, at least. Where a training loop holds the
GIL, each step of that waits for it 5 ms; so far ahead, no worker waits for those steps."""
FARTHEST = 64
"""At most. Batches of long GOPs bring a new one only now and then, and it takes as long as many batches to decode."""
RUNS_PER_WORKER = 4
"""Runs that are sent and not yet delivered, from which on no more than ``PREPARED`` batches are planned ahead. With
fewer, chance leaves one worker without any while the others have two."""
COLUMN_BYTES = 256 << 20
"""What batches beyond ``PREPARED`` may hold beside their video: images are in no other budget."""
MOMENT_S = 0.002
"""How long after a batch was taken the next one is planned, if nothing is urgent. Otherwise the thread that plans,
woken by the same ``next()``, takes the GIL at the caller's first operation of torch and keeps it: the caller waited
4 ms for its batch each time."""
LEAVING_PATIENCE_S = 0.3
"""Time that workers get to end what they do when an epoch is left; starting a new one takes as long."""


class Sight:
    """How many batches beyond the caller's are planned: enough for every worker to have a run to go on with."""

    def __init__(self, cache: BlobCache) -> None:
        self.runs = 0
        """Sent to workers, and not yet delivered."""
        self._cache, self._farthest = cache, FARTHEST

    def note(self, columns: Mapping[str, Any]) -> None:
        """What a batch holds beside its video: the next ones are taken to be like it."""
        held = sum(value.nbytes for value in columns.values() if isinstance(value, torch.Tensor))
        self._farthest = PREPARED + min(COLUMN_BYTES // max(held, 1), FARTHEST - PREPARED)

    def depth(self, workers: Sized, *, has_more: bool) -> int:
        """Batches that are to be planned by now; ``has_more``: there is a run behind them to be found."""
        has_few = has_more and self.runs < RUNS_PER_WORKER * len(workers)
        return self._farthest if has_few and self._cache.is_half_empty else PREPARED
