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
