"""Which share of an epoch this process takes: what the caller, torch.distributed or the launcher says."""

import logging
import os

import torch.distributed

from gpuload.errors import ConfigError

logger = logging.getLogger(__name__)


def find_share(rank: int | None, world_size: int | None, *, is_dealt: bool = False) -> tuple[int, int]:
    """``(rank, world_size)``: those given; else of the process group, if there is one; else of ``RANK`` and
    ``WORLD_SIZE``, which torchrun and accelerate set; else one rank.

    ``is_dealt``: a sampler such as torch's ``DistributedSampler`` gives this rank's samples only, all of them its own.

    Raises:
        ConfigError: only one is given, or they cannot be.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank and world_size go together, got rank={rank}, world_size={world_size}")
    if is_dealt and world_size not in (None, 1):
        raise ConfigError(
            f"the sampler gives one rank's samples already, and rank={rank}, world_size={world_size} would take a part "
            "of those: leave rank and world_size out, or give a sampler of all samples"
        )
    if rank is None or world_size is None:
        rank, world_size = (0, 1) if is_dealt else _running()
        if world_size > 1:
            logger.debug("rank %d of %d, as the launcher says: every epoch is shared among them", rank, world_size)
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must be in [0, world_size), got rank={rank}, world_size={world_size}")
    return rank, world_size


def ranks_here() -> int:
    """Ranks that share this machine's cores, as the launcher says; 1 where none does."""
    try:
        return max(int(os.environ["LOCAL_WORLD_SIZE"]), 1)
    except (KeyError, ValueError):
        return 1


def _running() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
