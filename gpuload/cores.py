"""How many cores this process may use."""

import os
from pathlib import Path

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""cgroup v2: ``quota period`` in microseconds, or ``max period``; how containers are given part of a machine."""


def usable_cores(cgroup_limit: Path = CGROUP_LIMIT) -> int:
    """Cores by affinity and by the container's quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup_limit.read_text().split()
        if quota != "max":
            cores = min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # no cgroup v2: nothing more is known
    return max(cores, 1)


def cores_of_rank(ranks_here: int) -> int:
    """This process's part of them where several ranks share a machine, at least 1.

    Where the launcher has pinned each rank to cores of its own, they are all its own.
    """
    cores = usable_cores()
    return cores if ranks_here == 1 or _is_pinned() else max(cores // ranks_here, 1)


def _is_pinned() -> bool:
    """Whether this process may use fewer cores than the one that started it."""
    try:
        return len(os.sched_getaffinity(0)) < len(os.sched_getaffinity(os.getppid()))
    except (OSError, AttributeError):  # it has ended, or this is no Linux
        return False
